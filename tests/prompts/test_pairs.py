"""Prompt pairs as JSON: kept to the character, read or refused with a sentence."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from circuit.common.errors import PromptError
from circuit.common.text import one_line
from circuit.prompts.pairs import LONGEST_NAME, PromptPair, PromptSet

if TYPE_CHECKING:
    pass


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PAIRS = st.builds(PromptPair, TEXT, TEXT, st.lists(TEXT).map(tuple), st.lists(TEXT).map(tuple))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
KEYS = st.sampled_from(["clean", "corrupt", "answers", "wrong_answers"])
ENTRIES = st.dictionaries(KEYS, st.text() | st.lists(st.text()) | JSON)


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
