"""What a computation did otherwise than asked, as sentences for whoever reads its result.

    note        say so, from wherever it happens
    collected   the sentences said within a `with` block

    with collected() as notes:
        scores = score_edges(model, loader, method)
    notes                                 # ["The batch was halved to 8 prompts, because ..."]

A script that does not collect them sees Python warnings.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_notes: ContextVar[list[str] | None] = ContextVar("notes", default=None)


@contextmanager
def collected() -> Iterator[list[str]]:
    """The sentences said in this thread within the block, each once."""
    notes: list[str] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def note(sentence: str) -> None:
    """Tell whoever collects, or warn."""
    notes = _notes.get()
    if notes is None:
        warnings.warn(sentence, stacklevel=2)
    elif sentence not in notes:
        notes.append(sentence)
