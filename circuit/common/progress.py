"""Progress and cancelling: how long work reports what it has done, and learns that it should stop.

Progress            steps done of steps in all, reported as they are done; raises `JobCancelled` where asked to stop
terminal_progress   a report for scripts: one line that is written over
silent, never       a report that says nothing, a check that never asks to stop
note                a sentence about what was done differently from what was asked
collected           the notes of a block of work
plot, enough        a figure of how far work that improves step by step has come; whether what there is will do
followed            who sees these figures, and says when there is enough
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from circuit.common.errors import JobCancelled

Report = Callable[[int, int, str], None]
Cancelled = Callable[[], bool]


class Progress:
    """Counts steps of work and tells the caller, who may ask it to stop.

    Args:
        total: Steps in all.
        report: Called as `report(step, total, message)` after each step.
        cancelled: Asked before each step.
    """

    def __init__(self, total: int = 0, report: Report | None = None, cancelled: Cancelled | None = None) -> None:
        self.step = 0
        self.total = total
        self._report = report
        self._cancelled = cancelled

    def check(self) -> None:
        """Raise `JobCancelled` if the caller asked to stop."""
        if self._cancelled is not None and self._cancelled():
            raise JobCancelled("Cancelled.")

    def say(self, words: str, done: int = 0, total: int = 0) -> None:
        """What is being done now, where it is no step of the count (`done` of `total` of something else)."""
        self.check()
        if self._report is not None:
            self._report(done, total, words)

    def advance(self, message: str = "") -> None:
        """One step is done."""
        self.step += 1
        if self._report is not None:
            self._report(self.step, self.total, message)


def terminal_progress(title: str = "") -> Report:
    """A `report` that draws a bar in the terminal, for scripts that a person watches."""
    from tqdm import tqdm

    bar: tqdm | None = None

    def report(step: int, total: int, message: str) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, desc=title)
        bar.update(step - bar.n)
        bar.set_postfix_str(message)
        if step >= total:
            bar.close()

    return report


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


Plot = Callable[[int, float], None]
_follower: ContextVar[tuple[Plot, Cancelled] | None] = ContextVar("follower", default=None)


@contextmanager
def followed(by: Plot, enough: Cancelled) -> Iterator[None]:
    """Let `by` see the figures of the work in this thread within the block, as `by(step, figure)`, and `enough` end it
    sooner."""
    token = _follower.set((by, enough))
    try:
        yield
    finally:
        _follower.reset(token)


def plot(step: int, figure: float) -> None:
    """Tell whoever follows a figure of the work as it is after this step."""
    if (follower := _follower.get()) is not None:
        follower[0](step, figure)


def enough() -> bool:
    """Whether whoever follows asks for what there is by now, as the result."""
    return (follower := _follower.get()) is not None and follower[1]()


def silent(step: int, total: int, message: str = "") -> None: ...


def never() -> bool:
    return False
