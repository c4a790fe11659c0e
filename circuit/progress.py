"""Progress and cancellation of long work, as two plain functions that the caller may pass in.

def report(step: int, total: int, message: str) -> None: ...
def cancelled() -> bool: ...

progress = Progress(total=12, report=report, cancelled=cancelled)
for batch in loader:
    progress.check()                 # raises JobCancelled where the caller says so
    ...
    progress.advance("batch done")
"""

from __future__ import annotations

from collections.abc import Callable

from circuit.errors import JobCancelled

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
