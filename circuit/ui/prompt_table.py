"""The prompt table: a prompt set as a pandas table that a person edits, and back.

Several answers stand in one cell, separated by `|`, since answers begin with spaces and commas are tokens too.
"""

from __future__ import annotations

import pandas as pd

from circuit.prompts import PromptPair, PromptSet

COLUMNS = ["clean", "corrupt", "answers", "wrong answers"]


def to_table(prompts: PromptSet) -> pd.DataFrame:
    """One row a pair, counted from 1."""
    rows = [(p.clean, p.corrupt, "|".join(p.answers), "|".join(p.wrong_answers)) for p in prompts.pairs]
    return pd.DataFrame(rows, columns=COLUMNS, dtype="object", index=pd.RangeIndex(1, len(rows) + 1))


def from_table(table: pd.DataFrame, name: str) -> PromptSet:
    """The pairs of a table, a row each, so that row numbers agree; only empty rows at the end are left out."""

    def text(value: object) -> str:
        return value if isinstance(value, str) else ""

    def answers(value: object) -> tuple[str, ...]:
        return tuple(part for part in text(value).split("|") if part)

    rows = [[text(value) for value in row] for row in table[COLUMNS].itertuples(index=False)]
    while rows and not any(rows[-1]):
        rows.pop()
    pairs = [PromptPair(row[0], row[1], answers(row[2]), answers(row[3])) for row in rows]
    return PromptSet(name, tuple(pairs))
