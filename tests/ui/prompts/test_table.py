"""The table of prompts: what is typed is kept, and rows stay numbered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.ui.prompts.table import COLUMNS, NUMBER, from_table, to_table, wants_numbers

if TYPE_CHECKING:
    pass


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
