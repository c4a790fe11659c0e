"""Prompt sets keep every character, and what is wrong with them is said in words, by row."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from circuit.common.errors import PromptError
from circuit.common.text import one_line
from circuit.jobs import load
from circuit.jobs.check import CheckRequest, check_prompts
from circuit.models.tokenizer import visible
from circuit.prompts.encode import Encoded, encode
from circuit.prompts.pairs import LONGEST_NAME, PromptPair, PromptSet
from circuit.prompts.presets import PRESETS, presets_for
from circuit.ui.prompts.table import COLUMNS, NUMBER, from_table, to_table, wants_numbers

if TYPE_CHECKING:
    from circuit.engine.model import PatchableModel

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PAIRS = st.builds(PromptPair, TEXT, TEXT, st.lists(TEXT).map(tuple), st.lists(TEXT).map(tuple))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
KEYS = st.sampled_from(["clean", "corrupt", "answers", "wrong_answers"])
ENTRIES = st.dictionaries(KEYS, st.text() | st.lists(st.text()) | JSON)


# --- JSON ----------------------------------------------------------------------------------------------------------


@given(TEXT, st.lists(PAIRS).map(tuple))
@example("数 · é", (PromptPair(" Ünïcode 🔬 ", "\tline\nend ", (" a", " b", "|", ""), ()),))
def test_json_keeps_every_character(name: str, pairs: tuple[PromptPair, ...]) -> None:
    prompts = PromptSet(one_line(name, LONGEST_NAME), pairs)  # names are a line of text
    assert PromptSet.from_json(prompts.to_json()) == prompts
    assert PromptSet.from_json(json.dumps(json.loads(prompts.to_json()))) == prompts  # any writer's JSON


def test_json_is_in_autocircuits_format() -> None:
    prompts = PromptSet("one", (PromptPair("a", "b", (" c", " d"), (" e",)),))
    assert json.loads(prompts.to_json()) == {
        "name": "one",
        "prompts": [{"clean": "a", "corrupt": "b", "answers": [" c", " d"], "wrong_answers": [" e"]}],
    }


def test_json_of_another_program_needs_neither_name_nor_wrong_answers() -> None:
    text = '{"word_idxs": {}, "prompts": [{"clean": "a", "corrupt": "b", "answers": [" c"]}]}'
    assert PromptSet.from_json(text, name="file.json") == PromptSet("file.json", (PromptPair("a", "b", (" c",)),))


@given(st.text())
@example("[" * 100_000)
@example("1" * 10_000)
@example("")
@example("\ufeff{}")
def test_any_text_is_read_or_refused_with_a_sentence(text: str) -> None:
    read_or_refused(text)


@given(JSON | st.fixed_dictionaries({"prompts": JSON | st.lists(ENTRIES)}, optional={"name": JSON}))
@example({"prompts": [{"clean": "\ud800", "corrupt": "b", "answers": []}]})
@example({"prompts": [{"clean": "a", "corrupt": "b", "answers": ["\udfff"]}]})
def test_any_json_is_read_or_refused_with_a_sentence(value: Any) -> None:
    read_or_refused(json.dumps(value))


def read_or_refused(text: str) -> None:
    try:
        prompts = PromptSet.from_json(text)
    except PromptError:
        return
    for pair in prompts.pairs:
        parts = [prompts.name, pair.clean, pair.corrupt, *pair.answers, *pair.wrong_answers]
        "".join(parts).encode()  # what a browser and a tokenizer are given


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        (7, "object"),
        ({"corrupt": "b"}, "'clean'"),
        ({"clean": "a", "corrupt": None}, "'corrupt'"),
        ({"clean": "a", "corrupt": "b", "answers": " c"}, "'answers'"),
        ({"clean": "a", "corrupt": "b", "answers": [" c"], "wrong_answers": [7]}, "'wrong_answers'"),
    ],
)
def test_a_bad_entry_is_named_by_its_row(entry: Any, word: str) -> None:
    good = {"clean": "a", "corrupt": "b", "answers": [" c"]}
    with pytest.raises(PromptError, match=f"Prompt 2: .*{word}"):
        PromptSet.from_json(json.dumps({"prompts": [good, entry]}))


# --- tokens --------------------------------------------------------------------------------------------------------


def problems_of(tokenizer: Any, *pair: Any, bos: bool = False, n_ctx: int | None = None) -> list[str]:
    encoded = encode(PromptSet("test", (PromptPair(*pair),)), tokenizer, bos, n_ctx)
    assert encoded.usable == ([] if encoded.problems else [0])
    return encoded.problems.get(0, [])


def test_good_pairs_have_no_problems_and_become_tokens(spaced_tokenizer: Any) -> None:
    prompts = PromptSet("good", (PromptPair(" the cat", " the dog", (" sat", " is"), (" are",)),))
    encoded = encode(prompts, spaced_tokenizer, prepend_bos=False, n_ctx=2)
    assert encoded.problems == {}
    assert [spaced_tokenizer.decode([token]) for token in encoded.clean[0]] == [" the", " cat"]
    dataset = encoded.dataset()
    assert dataset.clean[0].tolist() == encoded.clean[0]
    assert dataset.corrupt[0].tolist() == spaced_tokenizer(" the dog").input_ids
    assert dataset.answers[0].tolist() == spaced_tokenizer(" sat is").input_ids
    assert dataset.wrong_answers[0].tolist() == spaced_tokenizer(" are").input_ids


def test_a_bos_token_is_put_before_both_prompts_and_no_answer(spaced_tokenizer: Any) -> None:
    prompts = PromptSet("bos", (PromptPair(" cat", " dog", (" sat",)),))
    without, with_bos = (encode(prompts, spaced_tokenizer, prepend_bos=bos) for bos in (False, True))
    bos = spaced_tokenizer.bos_token_id
    assert with_bos.clean == [[bos, *without.clean[0]]]
    assert with_bos.corrupt == [[bos, *without.corrupt[0]]]
    assert with_bos.answers == without.answers


def test_different_lengths_are_counted_and_placed(spaced_tokenizer: Any) -> None:
    (problem,) = problems_of(spaced_tokenizer, " the cat sat", " the dog is on", (" mat",))
    assert "clean prompt has 3 tokens and the corrupt one 4" in problem
    assert "part at position 1 ('·cat·sat' against '·dog·is·on')" in problem


def test_a_prompt_that_continues_the_other_parts_from_it_at_its_end(spaced_tokenizer: Any) -> None:
    (problem,) = problems_of(spaced_tokenizer, " the cat", " the cat sat", (" on",))
    assert "part at position 2 ('' against '·sat')" in problem


def test_an_answer_of_several_tokens_is_shown_split_with_a_hint_at_the_leading_space(spaced_tokenizer: Any) -> None:
    (problem,) = problems_of(spaced_tokenizer, " the cat", " the dog", ("Mary",), (" John",))
    assert "right answer 'Mary' is 4 tokens" in problem
    assert "(M | a | r | y)" in problem
    assert problem.endswith("With a leading space it is one token: enter '·Mary'.")


def test_no_hint_where_a_leading_space_does_not_help(spaced_tokenizer: Any) -> None:
    (problem,) = problems_of(spaced_tokenizer, " the cat", " the dog", (" Mary",), (" Mary John",))
    assert "wrong answer '·Mary·John' is 2 tokens" in problem
    assert "(·Mary | ·John)" in problem
    assert "leading space" not in problem


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(
    ("clean", "corrupt", "which"), [("", " dog", "clean"), (" cat", "", "corrupt"), ("", "", "clean")]
)
def test_an_empty_prompt_is_said_to_be_empty(
    spaced_tokenizer: Any, bos: bool, clean: str, corrupt: str, which: str
) -> None:
    assert problems_of(spaced_tokenizer, clean, corrupt, (" sat",), bos=bos) == [f"The {which} prompt is empty."]


def test_empty_and_missing_answers_are_said(spaced_tokenizer: Any) -> None:
    assert problems_of(spaced_tokenizer, " cat", " dog", ()) == ["There is no right answer."]
    assert problems_of(spaced_tokenizer, " cat", " dog", ("",)) == ["A right answer is empty."]
    assert problems_of(spaced_tokenizer, " cat", " dog", (" is",), ("",)) == ["A wrong answer is empty."]


def test_wrong_answers_may_be_missing(spaced_tokenizer: Any) -> None:
    assert problems_of(spaced_tokenizer, " cat", " dog", (" is",)) == []


def test_equal_prompts_are_refused(spaced_tokenizer: Any) -> None:
    (problem,) = problems_of(spaced_tokenizer, " the cat", " the cat", (" sat",))
    assert "the same" in problem


def test_an_answer_that_is_both_right_and_wrong_is_named(spaced_tokenizer: Any) -> None:
    (problem,) = problems_of(spaced_tokenizer, " cat", " dog", (" is", " sat"), (" sat",))
    assert problem == "'·sat' is both a right and a wrong answer."


def test_two_texts_that_are_one_token_are_one_answer(small: str) -> None:
    from tests.small_models import tokenizer

    (problem,) = problems_of(tokenizer(), "1 2", "1 3", ("4",), (" 4",))
    assert "both a right and a wrong answer" in problem


@pytest.mark.parametrize(("bos", "n"), [(False, 3), (True, 4)])
def test_a_prompt_longer_than_the_context_is_refused(spaced_tokenizer: Any, bos: bool, n: int) -> None:
    pair = (" the cat sat", " the dog sat", (" on",))
    assert problems_of(spaced_tokenizer, *pair, bos=bos, n_ctx=n) == []
    (problem,) = problems_of(spaced_tokenizer, *pair, bos=bos, n_ctx=n - 1)
    assert problem == f"The prompt has {n} tokens, and the model's context is {n - 1}."


def test_all_problems_of_a_row_are_listed(spaced_tokenizer: Any) -> None:
    problems = problems_of(spaced_tokenizer, " cat", " cat", ("Mary", " is"), (" is",))
    assert len(problems) == 3


def test_only_rows_without_problems_are_used(spaced_tokenizer: Any) -> None:
    good, also_good = PromptPair(" cat", " dog", (" sat",)), PromptPair(" dog", " mat", (" is",), (" are",))
    encoded = encode(PromptSet("mixed", (good, PromptPair(" cat", " cat", ()), also_good)), spaced_tokenizer, False)
    assert encoded.usable == [0, 2]
    assert list(encoded.problems) == [1]
    dataset = encoded.dataset()
    assert [tokens.tolist() for tokens in dataset.clean] == [encoded.clean[0], encoded.clean[2]]
    assert [tokens.tolist() for tokens in dataset.wrong_answers] == [[], encoded.wrong_answers[2]]


def test_no_usable_row_is_an_error_with_the_first_reason(spaced_tokenizer: Any) -> None:
    encoded = encode(PromptSet("bad", (PromptPair("", "", (" sat",)),)), spaced_tokenizer, False)
    with pytest.raises(PromptError, match=r"None of the 1 .* Row 1: The clean prompt is empty"):
        encoded.dataset()
    with pytest.raises(PromptError, match="None of the 0"):
        Encoded().dataset()


def test_no_usable_row_among_those_asked_for_is_an_error_with_the_reason_of_one_of_them(spaced_tokenizer: Any) -> None:
    good, empty = PromptPair(" cat", " dog", (" sat",)), PromptPair("", "", (" sat",))
    encoded = encode(PromptSet("mixed", (good, empty)), spaced_tokenizer, False)
    with pytest.raises(PromptError, match=r"None of the 1 .* Row 2: The clean prompt is empty"):
        encoded.dataset([1])
    with pytest.raises(PromptError, match="can be used"):
        encoded.dataset([7])


def test_an_answer_given_twice_counts_once(spaced_tokenizer: Any) -> None:
    pair = PromptPair(" cat", " dog", (" sat", " is", " sat"), (" are", " are"))
    encoded = encode(PromptSet("twice", (pair,)), spaced_tokenizer, False)
    assert [len(ids) for ids in (encoded.answers[0], encoded.wrong_answers[0])] == [2, 1]
    assert [finding.words for finding in encoded.findings[0]] == [
        "The right answer '·sat' is given 2 times, and counts once.",
        "The wrong answer '·are' is given 2 times, and counts once.",
    ]
    assert encoded.usable == [0]


@given(PAIRS, st.booleans())
def test_any_text_is_encoded_or_has_a_problem(spaced_tokenizer: Any, pair: PromptPair, bos: bool) -> None:
    encoded = encode(PromptSet("any", (pair,)), spaced_tokenizer, bos)
    if encoded.usable:
        dataset = encoded.dataset()
        assert len(dataset.clean[0]) == len(dataset.corrupt[0]) > 0
        ids = dataset.answers[0].tolist()
        assert len(pair.answers) >= len(ids) == len(set(ids)) > 0
    else:
        assert all(problem.endswith(".") for problem in encoded.problems[0])


def test_an_answer_that_is_one_token_only_without_its_space_is_read_so() -> None:
    from tokenizers.pre_tokenizers import Split

    from tests.small_models import tokenizer

    prompts = PromptSet("n", (PromptPair("1 2", "1 3", (" 4",), (" 5",)),))
    words = tokenizer()
    words.backend_tokenizer.pre_tokenizer = Split(" ", "isolated")  # spaces are words of their own, and unknown
    encoded = encode(prompts, words, prepend_bos=False)
    assert encoded.answers == [[4]]
    assert encoded.adapted == {" 4": "4", " 5": "5"}


def test_words_that_a_tokenizer_does_not_know_are_named() -> None:
    prompts = PromptSet("n", (PromptPair("1 2", "1 cat", ("4",), ("dog",)), PromptPair("1 2", "1 3", ("4",), ("5",))))
    from tests.small_models import tokenizer

    words = tokenizer()
    words.unk_token = "0"
    encoded = encode(prompts, words, prepend_bos=False)
    assert list(encoded.problems) == [0]
    assert [words for words in encoded.problems[0] if "does not know" in words] == [
        "This model's tokenizer does not know 'cat'.",
        "This model's tokenizer does not know 'dog'.",
    ]


def test_presets_that_suit_a_model_come_first() -> None:
    assert set(presets_for("nothing")) == set(PRESETS)
    for model in {model for preset in PRESETS.values() for model in preset.suits}:
        suits = [model in preset.suits for preset in presets_for(model).values()]
        assert suits == sorted(suits, reverse=True)


def test_spaces_and_line_ends_can_be_seen() -> None:
    assert visible(" Mary\n\tsat") == "·Mary↵⇥sat"


# --- presets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", PRESETS)
def test_a_preset_has_many_different_pairs(key: str) -> None:
    pairs = PRESETS[key].prompts.pairs
    assert len(set(pairs)) == len(pairs) >= 24
    assert len({pair.clean for pair in pairs}) == len(pairs)
    assert all(pair.wrong_answers for pair in pairs)


@pytest.mark.parametrize("key", [key for key, preset in PRESETS.items() if "smollm2-135m" in preset.suits])
def test_smollm2_does_every_pair_of_a_preset_and_corrupting_turns_it(
    key: str, smollm2: PatchableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    load.models.cache_clear()
    monkeypatch.setattr("circuit.models.store.load_model", lambda *args, **options: smollm2)
    report = check_prompts(CheckRequest("smollm2-135m", PRESETS[key].prompts))
    assert report.problems == {}
    assert (report.difference_clean > 0).all()
    assert (report.difference_corrupt < report.difference_clean).all()
    assert (report.difference_corrupt < 0).all()


# --- the table -----------------------------------------------------------------------------------------------------

CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="|"))
ANSWER = CELL.filter(bool)
TABLE_PAIRS = st.builds(PromptPair, ANSWER, CELL, st.lists(ANSWER).map(tuple), st.lists(ANSWER).map(tuple))


@given(st.lists(TABLE_PAIRS).map(tuple))
def test_the_table_keeps_every_character(pairs: tuple[PromptPair, ...]) -> None:
    prompts = PromptSet("any", pairs)
    table = to_table(prompts)
    assert list(table[NUMBER]) == [str(row) for row in range(1, max(1, len(pairs)) + 1)]
    assert from_table(table, PromptSet("any", ())) == prompts


def test_cells_that_nobody_filled_are_empty_text() -> None:
    table = pd.DataFrame([["a", None, np.nan, " c| d"], [None, "b", pd.NA, float("nan")]], columns=COLUMNS)
    assert from_table(table, PromptSet("n", ())).pairs == (
        PromptPair("a", "", (), (" c", " d")),
        PromptPair("", "b", (), ()),
    )


def test_row_numbers_stay_those_of_the_table() -> None:
    empty: list[object] = [None] * 4
    table = pd.DataFrame([empty, ["a", "b", " c", None], empty, ["d", "e", " f", None], empty, empty], columns=COLUMNS)
    assert [pair.clean for pair in from_table(table, PromptSet("n", ())).pairs] == ["", "a", "", "d"]


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([["1", "a", "b", " c", None]], False),
        ([["1", "a", "b", " c", None], ["3", "d", "e", " f", None]], True),  # one was deleted between them
        ([["1", "a", "b", " c", None], ["new", "d", "e", " f", None]], False),  # still being typed
        ([["1", "a", "b", " c", None], ["new", "d", "e", " f", " g"], ["new", None, None, None, None]], True),
        ([["1", "a", "b", " c", None], ["new", None, None, None, None]], False),
    ],
)
def test_rows_are_numbered_again_when_nobody_is_in_the_middle_of_one(rows: list[Any], wanted: bool) -> None:
    assert wants_numbers(pd.DataFrame(rows, columns=[NUMBER, *COLUMNS])) == wanted


def test_separators_without_an_answer_between_them_add_none() -> None:
    table = pd.DataFrame([["a", "b", "| c||", "|"]], columns=COLUMNS)
    assert from_table(table, PromptSet("n", ())).pairs[0] == PromptPair("a", "b", (" c",), ())


def test_an_empty_table_is_an_empty_set() -> None:
    assert from_table(to_table(PromptSet("none", ())), PromptSet("none", ())) == PromptSet("none", ())


def test_encoding_imports_no_torch_but_datasets_do(spaced_tokenizer: Any) -> None:
    encoded = encode(PromptSet("x", (PromptPair(" cat", " dog", (" sat",)),)), spaced_tokenizer, False)
    assert isinstance(encoded.clean[0], list)
    assert isinstance(encoded.dataset().clean[0], torch.Tensor)
