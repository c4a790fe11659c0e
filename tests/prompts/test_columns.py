"""Prompt files as people have them are read as they are meant, or refused with a sentence that says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from circuit.common.errors import PromptError
from circuit.models.tokenizer import PromptTokenizer
from circuit.prompts.cells import answers_of, cell_of
from circuit.prompts.encode import encode
from circuit.prompts.files import Reading, file_reading, read_file, text_reading, write
from circuit.prompts.pairs import PromptPair, PromptSet

FILES = Path(__file__).parents[1] / "data" / "prompt_files"
IDS = {" Amy": 14235, " Laura": 16753, " she": 673, " he": 339, " Afghanistan": 8037, " United": 1578}


@pytest.fixture(scope="module")
def gpt2() -> PromptTokenizer:
    """The ids of a few words as GPT-2 has them."""
    return PromptTokenizer(Tokenizer(models.WordLevel(IDS, unk_token=" he")), None, None)


def reading(name: str, tokenizer: PromptTokenizer | None = None) -> Reading:
    return file_reading((FILES / name).read_bytes(), name, tokenizer)


# --- published files -----------------------------------------------------------------------------------------------


def test_eap_igs_names_are_read_by_their_token_ids(gpt2: PromptTokenizer) -> None:
    found = reading("eap_ig_ioi.csv", gpt2)
    assert found.prompts.pairs[0] == PromptPair(
        "When Amy and Laura went home, Laura gave a ring to",
        "When Amy and Laura went home, Nicholas gave a ring to",
        (" Amy",),
        (" Laura",),
    )
    assert [pair.answers for pair in found.prompts.pairs] == [(" Amy",), (" Laura",)]
    assert "14235 is '·Amy', 16753 is '·Laura'" in found.notes[0]
    assert found.notes[1] == "2 columns were not read: one without a name, corrupted_hard."


def test_token_ids_of_either_prompts_answer_are_right_and_wrong(gpt2: PromptTokenizer) -> None:
    found = reading("eap_ig_gender_bias.csv", gpt2)
    assert [(pair.answers, pair.wrong_answers) for pair in found.prompts.pairs] == [
        ((" she",), (" he",)),
        ((" he",), (" she",)),
    ]
    assert found.notes[1] == "1 column was not read: label."
    (pair,) = reading("eap_ig_fact_retrieval.csv", gpt2).prompts.pairs
    assert (pair.answers, pair.wrong_answers) == ((" Afghanistan",), (" United",))


@pytest.mark.parametrize("name", ["eap_ig_ioi.csv", "eap_ig_gender_bias.csv", "eap_ig_fact_retrieval.csv"])
def test_token_ids_without_their_model_are_refused(name: str) -> None:
    with pytest.raises(PromptError, match=r"Line 2: '\w+_idx' holds token ids, .* Choose that model on 1 · Prompts"):
        reading(name)


def test_token_ids_of_another_model_are_refused_where_their_texts_tell() -> None:
    def other(**words: int) -> PromptTokenizer:
        return PromptTokenizer(Tokenizer(models.WordLevel({**words, "x": 0}, unk_token="x")), None, None)

    with pytest.raises(PromptError, match="parts of words such as 'lies', 'edience': the file was made for another"):
        reading("eap_ig_ioi.csv", other(lies=14235, edience=16753))
    with pytest.raises(PromptError, match=r"Line 2: .* 'foo' where 'country' says 'Afghanistan'"):
        reading("eap_ig_fact_retrieval.csv", other(foo=8037, bar=1578))
    with pytest.raises(PromptError, match="Line 2: 'correct_idx' holds the token id 14235, which is no text"):
        reading("eap_ig_ioi.csv", other())


@pytest.mark.parametrize("name", ["eap_ig_greater_than.csv", "eap_ig_tutorial.csv"])
def test_the_years_of_a_greater_than_task_are_no_token_ids(name: str, gpt2: PromptTokenizer) -> None:
    for tokenizer in (None, gpt2):
        found = reading(name, tokenizer)
        pair = found.prompts.pairs[0]
        assert (pair.answers[0], pair.answers[-1], len(pair.answers)) == ("53", "99", 47)
        assert (pair.wrong_answers[0], pair.wrong_answers[-1], len(pair.wrong_answers)) == ("00", "52", 53)
        assert "is the end of a year here, not a token" in found.notes[0]
    assert reading("eap_ig_greater_than.csv").prompts.pairs[1].answers == ("98", "99")


def test_lists_as_pandas_writes_them_are_answers() -> None:
    found = reading("eap_ig_hypernymy.csv")
    (pair,) = found.prompts.pairs
    assert (pair.answers, pair.wrong_answers) == (("gem", "gems"), ("relatives", "family"))
    assert "answers_idx" in found.notes[0]
    assert "prob_diff" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("eap_ig_sva.csv", "Line 1: none of the columns clean, corrupted, group, plural is known to hold the right"),
        ("circuitkit_align.csv", "Line 1: there is no column 'clean' among system_safe, benign_req"),
        ("autocircuit_tracr.json", r"Prompt 1: 'answers' must be a list of texts, and is \[\[0\], \[0\]\]"),
        ("autocircuit_micro.json", r"Prompt 1: 'clean' must be text, and is \[\[3.0, 3.0\]"),
    ],
)
def test_files_without_answers_or_without_text_are_refused_by_what_they_hold(
    name: str, words: str, gpt2: PromptTokenizer
) -> None:
    for tokenizer in (None, gpt2):
        with pytest.raises(PromptError, match=words):
            reading(name, tokenizer)


def test_circuitkits_and_autocircuits_columns_are_known() -> None:
    assert reading("circuitkit_task.csv").prompts.pairs == (
        PromptPair("What color is the sky?", "What color is grass?", ("blue",), ("green",)),
        PromptPair("What is 2 plus 2?", "What is 3 plus 4?", ("4",), ("7",)),
    )
    (pair,) = reading("circuitkit_safety.csv").prompts.pairs
    assert (pair.answers, pair.wrong_answers) == ((" comply",), (" decline",))
    (pair,) = reading("circuitkit.jsonl").prompts.pairs
    assert pair == PromptPair("The capital of France is", "The capital of Italy is", (" Paris",), (" Rome",))
    found = reading("autocircuit_ioi.json")
    assert found.prompts.word_idxs == (("IO", 5), ("S1", 3), ("end", 15))
    assert found.prompts.pairs[0].answers == (" Amy",)
    assert found.notes == ()


# --- tables --------------------------------------------------------------------------------------------------------

PAIRS = (PromptPair("a, b", "c, d", (" e",), (" f",)), PromptPair("g", "h", (" i", " j"), ()))


@pytest.mark.parametrize(
    "text",
    [
        "clean;corrupt;answers;wrong_answers\na, b;c, d; e; f\ng;h; i| j;\n",
        'sep=;\r\nclean;corrupt;answers;wrong_answers\r\n"a, b";"c, d"; e; f\r\ng;h; i| j;\r\n',
        "SEP=;\na, b;c, d; e; f\ng;h; i| j;nan\n",
        "a, b;c, d; e; f\ng;h; i| j;\n",
        'clean,corrupt,answers,wrong_answers\n"a, b","c, d", e, f\ng,h,"[\' i\', \' j\']",nan\n',
        'sep=|\nclean|corrupt|answers|wrong_answers\na, b|c, d| e| f\ng|h|"["" i"", "" j""]"|\n',
        "Prompt\tCounterfactual\tLabel\tincorrect answer\na, b\tc, d\t e\t f\ng\th\t i| j\t\n",
    ],
)
@pytest.mark.parametrize("name", ["mine.csv", "mine.txt"])
def test_separators_and_names_are_recognized(text: str, name: str) -> None:
    assert file_reading(text.encode(), name).prompts.pairs == PAIRS


def test_lines_are_counted_under_a_separator_line() -> None:
    with pytest.raises(PromptError, match="Line 4 has 1 cell,"):
        text_reading("sep=;\nclean;corrupt\na;b\nc\n")


def test_every_column_that_is_not_read_is_named() -> None:
    found = text_reading(",clean,corrupt,answers,note,group\n1,a,b, c,x,y\n")
    assert found.notes == ("3 columns were not read: one without a name, note, group.",)
    found = text_reading('[{"clean": "a", "corrupt": "b", "answers": [" c"], "idx": 1}, '
                         '{"clean": "a", "corrupt": "b", "answers": [" c"], "kind": 2}]')  # fmt: skip
    assert found.notes == ("2 columns were not read: idx, kind.",)


@pytest.mark.parametrize("labels", ["0\n1", "3\n3"])
def test_labels_that_are_numbers_of_something_are_no_answers(labels: str) -> None:
    first, second = labels.split()
    with pytest.raises(PromptError, match="is known to hold the right answers"):
        text_reading(f"clean,corrupt,label\na,b,{first}\nc,d,{second}\n")


@pytest.mark.parametrize("name", ["correct", "right", "label"])
@pytest.mark.parametrize("marks", ["True\nFalse", "0\n1", "TRUE\nTRUE"])
def test_marks_of_what_is_correct_are_no_answers(name: str, marks: str) -> None:
    first, second = marks.split()
    with pytest.raises(PromptError, match="is known to hold the right answers"):
        text_reading(f"clean,corrupt,{name}\na,b,{first}\nc,d,{second}\n")
    assert text_reading("clean,corrupt,correct\na,b,True\nc,d, sat\n").prompts.pairs[1].answers == (" sat",)


def test_prompts_whose_answers_are_still_to_be_typed_are_read() -> None:
    assert text_reading("clean,corrupt\na,b\n").prompts.pairs == (PromptPair("a", "b", ()),)


# --- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "answers"),
    [
        ("['gem', 'gems']", ("gem", "gems")),
        ("['gem' 'gems']", ("gem", "gems")),
        ("['it\\'s', \"a|b\"]", ("it's", "a|b")),
        ("(' a',)", (" a",)),
        ("[]", ()),
        ("nan", ()),
        ("['a', b]", ("['a', b]",)),
        ("[__import__('os')]", ("[__import__('os')]",)),
        ("['a'" * 10_000, ("['a'" * 10_000,)),
        ("[" + "'a' " * 10_000 + "x", ("[" + "'a' " * 10_000 + "x",)),
    ],
)
def test_a_list_in_a_cell_is_read_as_data(cell: str, answers: tuple[str, ...]) -> None:
    assert answers_of(cell) == answers
    assert answers_of(cell_of(answers)) == answers


# --- JSON ----------------------------------------------------------------------------------------------------------

ENTRY = {"clean": "a", "corrupt": "b", "answers": [" c"], "wrong_answers": [" d", " e"]}
PAIR = PromptPair("a", "b", (" c",), (" d", " e"))


@pytest.mark.parametrize(
    "content",
    [
        f"{json.dumps(ENTRY)}\n{json.dumps(ENTRY)}\n",
        json.dumps([ENTRY, {**ENTRY, "answers": " c"}]),
        json.dumps([ENTRY, {**ENTRY, "wrong_answers": " d| e"}]),
        json.dumps([{**ENTRY, "wrong_answers": "[' d', ' e']"}, ENTRY]),
        json.dumps({"data": [ENTRY, ENTRY]}),
        json.dumps({name: [value, value] for name, value in ENTRY.items()}),
        json.dumps({name: {"0": value, "1": value} for name, value in ENTRY.items()}),
        json.dumps([{"prompt": "a", "counterfactual": "b", "answer": " c", "wrong": [" d", " e"]}] * 2),
    ],
)
def test_json_of_any_shape_called_json_is_read(content: str) -> None:
    assert read_file(content.encode(), "mine.json").pairs == (PAIR, PAIR)


@pytest.mark.parametrize("missing", [None, float("nan"), "nan", ""])
def test_nothing_is_no_answer(missing: Any) -> None:
    (pair,) = read_file(json.dumps([{**ENTRY, "wrong_answers": missing}]).encode(), "mine.json").pairs
    assert pair.wrong_answers == ()


def test_prompts_as_token_ids_are_read_where_the_tokenizer_makes_them(spaced_tokenizer: Any) -> None:
    words = PromptTokenizer.of(spaced_tokenizer)
    clean, corrupt = words.encode(" the cat"), words.encode(" the dog")
    (answer,) = words.encode(" sat")
    entry = {"clean": clean, "corrupt": [words.bos, *corrupt], "answers": [answer]}
    content = json.dumps([entry]).encode()
    assert read_file(content, "ids.json", spaced_tokenizer).pairs == (PromptPair(" the cat", " the dog", (" sat",)),)
    spelled = json.dumps([{**entry, "clean": [token for letter in " cat" for token in words.encode(letter)]}]).encode()
    with pytest.raises(PromptError, match=r"Prompt 1: 'clean' holds token ids .* the file was made for another model"):
        read_file(spelled, "ids.json", spaced_tokenizer)
    with pytest.raises(PromptError, match="Prompt 1: 'answers' holds the token id 999999"):
        read_file(json.dumps([{**entry, "answers": [999_999]}]).encode(), "ids.json", spaced_tokenizer)


# --- formulas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_cells_that_a_spreadsheet_would_compute_are_text_and_come_back(kind: str) -> None:
    starts = ("=", "+", "-", "@", "\t", "\r", "'=", "''+")
    pairs = tuple(PromptPair(f"{start}1", f"{start}HYPERLINK(1)", (f"{start}a",), ("'b",)) for start in starts)
    text = write(PromptSet("mine", pairs), kind)
    assert read_file(text.encode(), f"mine.{kind}").pairs == pairs
    cells = text.replace('"', "").replace("\t", ",").split(",")
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)


# --- what would be read wrongly ------------------------------------------------------------------------------------


def test_columns_of_rows_by_name_are_read_row_by_row() -> None:
    """As pandas writes them; not every writer keeps the rows of all columns in one order."""
    columns = {"clean": {"0": "a", "1": "c"}, "corrupt": {"0": "b", "1": "d"}, "answers": {"1": " y", "0": " x"}}
    pairs = read_file(json.dumps(columns).encode(), "mine.json").pairs
    assert pairs == (PromptPair("a", "b", (" x",)), PromptPair("c", "d", (" y",)))
    columns["answers"].pop("1")
    with pytest.raises(PromptError, match="different rows"):
        read_file(json.dumps(columns).encode(), "mine.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clean,corrupt,answers,answers\na,b, c, d\n", "Line 1: two columns are called 'answers'"),
        ("clean,corrupt,answers\na,b, c\nclean,corrupt,wrong_answers\nd,e, f\n", "Line 3 holds names of columns again"),
        ("'clean','corrupt','answers'\n'a','b',' c'\n", "Line 1: cells stand in quotes"),
        ('[{"clean": "a", "clean": "b", "corrupt": "c"}]', "two values called 'clean'"),
        ('{"clean": "a", "corrupt": "b", "answers": " c", "answers": " d"}', "two values called 'answers'"),
    ],
)
def test_what_is_said_twice_is_refused(text: str, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        text_reading(text)


def test_columns_without_a_name_are_counted() -> None:
    found = text_reading("clean;corrupt;answers;;\na;b; c;;\n")
    assert found.notes == ("2 columns were not read: one without a name, one without a name.",)


def test_a_space_after_a_separator_is_said_where_it_makes_the_prompts_differ(gpt2: PromptTokenizer) -> None:
    prompts = text_reading("clean, corrupt, answers\nThe cat, The dog, sat\n").prompts
    assert "start" in {finding.kind for finding in encode(prompts, gpt2, prepend_bos=False).findings[0]}
