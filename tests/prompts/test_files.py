"""Prompt files: what is written is read again, what cannot be read is refused by its line, and nothing else happens."""

from __future__ import annotations

import codecs
import contextlib
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from circuit.common.errors import PromptError
from circuit.prompts.cells import answers_of, cell_of
from circuit.prompts.files import FORMATS, read_file, text_reading, write
from circuit.prompts.pairs import MOST_BYTES, MOST_CHARACTERS, MOST_ROWS, PromptPair, PromptSet
from tests.any_json import JSON


def read_text(text: str, name: str = "pasted prompts", kind: str | None = None) -> PromptSet:
    return text_reading(text, name, kind).prompts


# Characters that mean something to a format, beside all others; no halves of characters, which no file can hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text(" \n\r\t,|\"'[]{}\\\x00\x85\ufeff\u2028")
PAIRS = st.builds(PromptPair, TEXT, TEXT, st.lists(TEXT).map(tuple), st.lists(TEXT).map(tuple))
SETS = st.builds(
    PromptSet,
    st.just("mine"),
    st.lists(PAIRS, min_size=1, max_size=4).map(tuple),
    st.lists(TEXT).map(tuple),
    st.dictionaries(TEXT, st.integers()).map(lambda places: tuple(places.items())),
)
KINDS = st.sampled_from(list(FORMATS))
PAIR = PromptPair(' a, "b"\nc', "\td\r", (" e", "|"), ("[", ""))
WHOLE = PromptSet("mine", (PAIR, PAIR), ("one", "two"), (("one", 0),))


# --- round trips ---------------------------------------------------------------------------------------------------


@settings(max_examples=1000)
@given(SETS, KINDS)
def test_what_is_written_is_read_again(prompts: PromptSet, kind: str) -> None:
    assert read_file(write(prompts, kind).encode(), f"mine.{kind}") == prompts


@pytest.mark.parametrize("kind", FORMATS)
def test_a_round_trip_keeps_spaces_commas_quotes_line_ends_answers_and_labels(kind: str) -> None:
    text = write(WHOLE, kind)
    assert read_file(text.encode(), f"folder/mine.{kind}") == WHOLE
    assert read_file(text.encode(), "mine.txt") == WHOLE  # the content says what it is
    assert read_file(codecs.BOM_UTF8 + text.encode(), f"mine.{kind}") == WHOLE
    assert read_file(text.encode("utf-16"), f"mine.{kind}") == WHOLE  # a spreadsheet's "Unicode text"
    assert read_text(text, "mine") == WHOLE


@given(st.lists(TEXT).map(tuple))
@example(("",))
@example(('["a"]',))
@example(("[",))
def test_answers_in_a_cell_are_read_again(answers: tuple[str, ...]) -> None:
    assert answers_of(cell_of(answers)) == answers


def test_answers_are_written_as_people_write_them_where_that_is_clear() -> None:
    assert cell_of((" Mary", " John")) == " Mary| John"
    assert cell_of(()) == ""
    assert cell_of(("|",)) == '["|"]'
    assert answers_of("| a||") == (" a",)
    assert answers_of("[1]") == ("[1]",)


# --- what people have ----------------------------------------------------------------------------------------------


def test_a_table_may_lack_a_header_and_wrong_answers() -> None:
    pairs = (PromptPair("a", "b", (" c", " d")), PromptPair("e", "f", (" g",), (" h",)))
    assert read_text("a\tb\t c| d\ne\tf\t g\t h\n").pairs == pairs
    assert read_text("a,b, c| d\r\n\r\ne,f, g, h").pairs == pairs


def test_columns_may_stand_in_any_order_under_their_usual_names_beside_others() -> None:
    text = "Wrong,note,Corrupt prompt,Right answers,Clean\n e,x,b, c| d,a\n"
    assert read_text(text).pairs == (PromptPair("a", "b", (" c", " d"), (" e",)),)


@pytest.mark.parametrize("text", ["they gave prompts to", "prompts"])
def test_one_line_of_json_lines_may_hold_any_word(text: str) -> None:
    prompts = PromptSet("pasted prompts", (PromptPair(text, "b", (" c",)),))
    assert read_text(write(prompts, "jsonl")) == prompts
    assert read_text(json.dumps(json.loads(prompts.to_json()))) == prompts


def test_a_list_of_pairs_is_json_too() -> None:
    assert read_text('[{"clean": "a", "corrupt": "b", "answers": [" c"]}]').pairs == (PromptPair("a", "b", (" c",)),)


def test_autocircuits_labels_are_kept() -> None:
    text = '{"seq_labels": ["x"], "word_idxs": {"s": 3}, "prompts": [{"clean": "a", "corrupt": "b"}]}'
    prompts = read_file(text.encode(), "ioi.json")
    assert (prompts.name, prompts.seq_labels, prompts.word_idxs) == ("ioi", ("x",), (("s", 3),))


# --- what cannot be read -------------------------------------------------------------------------------------------

GOOD = '{"clean": "a", "corrupt": "b", "answers": [" c"]}'


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("", None, "nothing in it"),
        (" \n", "csv", "nothing in it"),
        ("{\n\n?", "json", "Line 3 is not JSON"),
        ("{}", "json", '"prompts"'),
        ("[7]", "json", "Prompt 1: expected an object"),
        ('{"prompts": [], "seq_labels": [1]}', "json", "'seq_labels'"),
        ('{"prompts": [], "word_idxs": {"a": 1.5}}', "json", "'word_idxs'"),
        (f"{GOOD}\n\n{{", "jsonl", "Line 3 is not JSON"),
        (f'{GOOD}\n{{"clean": 1}}', "jsonl", "Line 2: 'clean' must be text"),
        (f'{GOOD}\n{{"seq_labels": []}}', "jsonl", "Line 2: 'clean' must be text"),
        ("clean,answers\na, b", "csv", "Line 1: there is no column 'corrupt'"),
        ("clean,corrupt\na", "csv", "Line 2 has 1 cell,"),
        ("a,b, c, d\nWhen Mary, John and Tom,b, c, d", "csv", "Line 2 has 5 cells.*double quotes"),
        ('a\tb\t c\n"open\n', "tsv", "Line 2: the row cannot be read"),
        ('clean,corrupt,seq_labels\na,b,\na,b,["c"]', "csv", "Line 3: 'seq_labels' belongs in the first row"),
        ("clean,corrupt,word_idxs\n,,{", "csv", "Line 2 is not JSON"),
        ("[" * 100_000, "json", "Line 1: this is not JSON that can be read"),
        ("1" * 10_000, "json", "Line 1: this is not JSON that can be read"),
        ("\ud800", "csv", "halves of characters"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(text: str, kind: str | None, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        read_text(text, kind=kind)


def test_bytes_that_are_no_text_are_named_by_their_line() -> None:
    with pytest.raises(PromptError, match="Line 2 holds a byte that is no text in UTF-8"):
        read_file(b"a,b, c\n\xff,b, c", "mine.csv")


def test_sizes_are_limited() -> None:
    with pytest.raises(PromptError, match="5 MB are the most"):
        read_file(b" " * (MOST_BYTES + 1), "mine.csv")
    for kind in FORMATS:
        many = write(PromptSet("many", (PromptPair("a", "b", (" c",)),) * (MOST_ROWS + 1)), kind)
        with pytest.raises(PromptError, match="10,000 are the most"):
            read_file(many.encode(), f"many.{kind}")
        long = write(PromptSet("long", (PromptPair("a", "b" * (MOST_CHARACTERS + 1), ()),)), kind)
        with pytest.raises(PromptError, match="100,000 characters"):
            read_file(long.encode(), f"long.{kind}")


# --- anything at all -----------------------------------------------------------------------------------------------

KEYS = st.sampled_from(["clean", "corrupt", "answers", "wrong_answers", "name", "prompts", "seq_labels", "word_idxs"])
ROW = st.dictionaries(KEYS, st.text() | st.lists(st.text(), max_size=4) | JSON)
ALMOST = st.dictionaries(KEYS, JSON | st.lists(ROW, max_size=4))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good file, some of it cut out and something else put there."""
    data = write(draw(SETS), draw(KINDS)).encode()
    start, end = sorted(draw(st.integers(0, len(data))) for _ in range(2))
    return data[:start] + draw(st.binary(max_size=5)) + data[end:]


@settings(max_examples=2000)
@given(
    st.binary() | TEXT.map(str.encode) | damaged() | (JSON | ALMOST).map(lambda value: json.dumps(value).encode()),
    st.sampled_from(["", ".txt", *(f".{kind}" for kind in FORMATS)]),
)
def test_any_bytes_are_a_prompt_set_or_a_prompt_error(data: bytes, ending: str) -> None:
    try:
        prompts = read_file(data, f"any{ending}")
    except PromptError:
        return
    for pair in prompts.pairs:
        parts = [prompts.name, pair.clean, pair.corrupt, *pair.answers, *pair.wrong_answers, *prompts.seq_labels]
        "".join(parts).encode()  # what a browser and a tokenizer are given


@settings(max_examples=1000)
@given(st.text() | TEXT)
def test_any_pasted_text_is_a_prompt_set_or_a_prompt_error(text: str) -> None:
    with contextlib.suppress(PromptError):
        assert isinstance(read_text(text), PromptSet)
