"""Several answers in one cell of a table.

    answers_of    the answers in a cell
    cell_of       and back

    answers_of(" Mary| John") == (" Mary", " John")

A cell holds answers separated by `|`, or a list of texts as JSON or Python write it, which can hold any answer.
"""

from __future__ import annotations

import ast
import json
import re

from circuit.prompts.pairs import is_text

_STRING = r"""'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+\""""
_LIST = re.compile(rf"""[\[(]\s*+(?:(?:{_STRING})\s*+(?:,\s*+)?)*+[\])]""", re.DOTALL)
"""A list or tuple as Python writes it, or an array as numpy does, without commas."""
_MISSING = ("nan", "NaN", "None", "<NA>")
"""What pandas and Python write where there is nothing."""


def answers_of(cell: str) -> tuple[str, ...]:
    """The answers in a cell. Each of a list is an answer as it stands; empty ones between `|` are none."""
    if cell in _MISSING:
        return ()
    given = _listed(cell) if cell[:1] in ("[", "(") else None
    return tuple(part for part in cell.split("|") if part) if given is None else given


def cell_of(answers: tuple[str, ...]) -> str:
    """The inverse of `answers_of`."""
    cell = "|".join(answers)
    return cell if answers_of(cell) == answers else json.dumps(answers, ensure_ascii=False)


def _listed(cell: str) -> tuple[str, ...] | None:
    """The texts of a list; None where the cell is no list of texts."""
    try:
        given = json.loads(cell)
    except (ValueError, RecursionError):
        if _LIST.fullmatch(cell) is None:
            return None
        try:
            given = [ast.literal_eval(text) for text in re.findall(_STRING, cell, re.DOTALL)]
        except (ValueError, SyntaxError):  # escapes that Python does not know
            return None
    return tuple(given) if isinstance(given, list) and all(is_text(text) for text in given) else None
