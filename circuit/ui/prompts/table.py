"""The prompt table: a prompt set as a pandas table that a person edits, and back.

Several answers stand in one cell as in CSV files (`circuit.prompts.cells.answers_of`). The first column numbers the
rows, since messages name them; rows that were just added are called new until the table is numbered again, which starts
the widget over and so waits until nobody can be in the middle of a row.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from circuit.prompts.cells import answers_of, cell_of
from circuit.prompts.pairs import PromptPair, PromptSet

NUMBER = "row"
COLUMNS = ["clean", "corrupt", "answers", "wrong answers"]
NEW = "new"


def to_table(prompts: PromptSet) -> pd.DataFrame:
    """One row a pair, numbered from 1; an empty row where there is none, since rows are pasted into a cell."""
    rows = [
        (str(number), pair.clean, pair.corrupt, cell_of(pair.answers), cell_of(pair.wrong_answers))
        for number, pair in enumerate(prompts.pairs or (PromptPair("", "", ()),), start=1)
    ]
    return pd.DataFrame(rows, columns=[NUMBER, *COLUMNS], dtype="object")


def from_table(table: pd.DataFrame, before: PromptSet) -> PromptSet:
    """The set `before` with the pairs of a table, one row each; only empty rows at the end are left out."""
    rows = [[_text(value) for value in row] for row in table[COLUMNS].itertuples(index=False)]
    while rows and not any(rows[-1]):
        rows.pop()
    pairs = (PromptPair(row[0], row[1], answers_of(row[2]), answers_of(row[3])) for row in rows)
    return replace(before, pairs=tuple(pairs))


def wants_numbers(table: pd.DataFrame) -> bool:
    """Whether a row was deleted above another one, or there are new rows and none of them is still being filled in.

    (A paste that ends with a line end brings an empty row, too.)
    """
    rows = [[_text(value) for value in row] for row in table[[NUMBER, *COLUMNS]].itertuples(index=False)]
    new = [cells for number, *cells in rows if number in ("", NEW) and any(cells)]
    moved = any(number not in ("", NEW, str(place)) for place, (number, *_) in enumerate(rows, start=1))
    return moved or (bool(new) and all(all(cells) for cells in new))


def _text(value: object) -> str:
    # A cell can be empty in several ways, and a browser can send halves of characters.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""
