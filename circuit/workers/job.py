"""A job as its owner sees it: its state, its progress, its result. No attribute ever waits for the network.

job = server.submit(attribute, request, title="IOI")   # a server's: see `circuit.workers.server`
job.state, job.step, job.total, job.remaining          # from any thread
scores = job.result()                                  # once job.state is "finished"
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from circuit.common.errors import CircuitError, JobCancelled, JobError

_log = logging.getLogger(__name__)

FRESH = 5.0
"""Seconds for which a job is watched that somebody has asked about."""
State = Literal["queued", "starting", "running", "finished", "failed", "cancelled"]


class Keeper(Protocol):
    """Who holds a job and sees it through: what a job asks of its server."""

    @property
    def ready(self) -> bool: ...

    def ahead_of(self, job: Job) -> Ahead | None: ...

    def stop(self, job: Job, why: CircuitError) -> None: ...

    def settle(self, job: Job) -> None: ...


@dataclass(frozen=True)
class Ahead:
    """What a job in the queue waits for."""

    running: tuple[Job, ...]
    waiting: int
    """How many jobs start before it."""

    @property
    def seconds(self) -> float | None:
        """Until the first of those that run is over; None where none of them can tell."""
        return min((left for job in self.running if (left := job.remaining) is not None), default=None)


class Job:
    """One job as its owner sees it. ``id`` is a capability: anyone who knows it can see and cancel the job.

    ``title``, ``owner``, ``group`` and ``note`` are what ``submit`` was given; ``short`` says whether it goes before
    long ones; ``watchers`` are those who have asked for it by its id; ``told`` holds deviations from what was
    asked, in sentences (`circuit.common.progress`); ``figures`` are (step, figure) of a job that improves step by step;
    ``result_bytes`` is what its result takes, roughly.
    """

    def __init__(
        self,
        server: Keeper,
        payload: bytes,
        title: str,
        owner: str,
        group: str | None,
        note: Any,
        keep: Callable[[Any], object] | None = None,
        short: bool = False,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.title = title
        self.owner = owner
        self.group = group
        self.note = note
        self.short = short
        self.watchers: set[str] = set()
        self.told: list[str] = []
        self.figures: list[tuple[int, float]] = []
        self.result_bytes = 0
        self._keep = keep
        self._server = server
        self._payload = payload  # the pickled function and request; emptied once the job is over
        self._state: State = "queued"
        self._asked = time.monotonic()  # when it was last asked about
        self._progress: tuple[int, int, str] = (0, 0, "")
        self._mark: tuple[float, int] | None = None  # time and step of this phase's first report
        self._latest = 0.0  # time of its last
        self._started: float | None = None
        self._ended: float | None = None
        self._worker: str | None = None  # address, once the job has begun
        self._false_starts = 0  # how often it has begun and made room
        self._stop: CircuitError | None = None  # why it should stop, once it has been asked to
        self._value: Any = None
        self._exception: CircuitError | None = None
        self._wake = threading.Event()  # something has happened that the lane should look at
        self._over = threading.Event()

    @property
    def state(self) -> State:
        """From "queued" by way of "starting" (the worker is) and "running" to "finished", "failed" or "cancelled".

        A job that was cancelled, or that nobody waited for, is "cancelled"; one that the server stopped for
        another reason has "failed".
        """
        self._asked = time.monotonic()
        return self.unasked_state

    @property
    def unasked_state(self) -> State:
        """The same, without anybody waiting for the job because of it."""
        return "starting" if self._state == "queued" and not self._server.ready else self._state

    def ask(self) -> None:
        """Say that somebody waits for the job."""
        self._asked = time.monotonic()

    @property
    def watched(self) -> bool:
        """Whether somebody waits for it: has asked for its state lately, or is a watcher who is still there."""
        return time.monotonic() - self._asked < FRESH

    @property
    def over(self) -> bool:
        return self._over.is_set()

    @property
    def cancelling(self) -> bool:
        """Asked to stop, and not stopped yet."""
        return self._stop is not None and not self.over

    @property
    def position(self) -> int | None:
        """Place in the queue as it is now, 1 for the next to run; None for a job that is no longer queued.

        It can grow: an owner who has waited longer for a turn than this job's goes first.
        """
        ahead = self.ahead
        return None if ahead is None else ahead.waiting + 1

    @property
    def ahead(self) -> Ahead | None:
        """What it waits for; None for a job that is no longer queued."""
        return self._server.ahead_of(self)

    @property
    def step(self) -> int:
        return self._progress[0]

    @property
    def total(self) -> int:
        """Steps in all; 0 before the job has said."""
        return self._progress[1]

    @property
    def message(self) -> str:
        return self._progress[2]

    @property
    def elapsed(self) -> float:
        """Seconds that the job has run, or ran; 0 before."""
        if self._started is None:
            return 0.0
        return (self._ended or time.monotonic()) - self._started

    @property
    def remaining(self) -> float | None:
        """Seconds to go, at the pace since the first report (loading a model says nothing about it)."""
        if self._state != "running" or self._mark is None:
            return None
        (marked, first), (step, total, _) = self._mark, self._progress
        if step <= first:
            return None
        pace = (self._latest - marked) / (step - first)
        return max(0.0, (total - step) * pace - (time.monotonic() - self._latest))

    @property
    def error(self) -> str | None:
        """Why there is no result, as a sentence for the owner; None while there is nothing to say."""
        return None if self._exception is None else str(self._exception)

    def result(self) -> Any:
        """What the function returned. Raises what ended the job, or ``JobError`` if it is not over."""
        self._asked = time.monotonic()
        if not self.over:
            raise JobError(f"The job has no result yet: it is {self.state}.")
        if self._exception is not None:
            raise self._exception.with_traceback(None)
        return self._value

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job is over, for scripts and tests; says whether it is. A page polls ``state``."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self.over:
            self._asked = time.monotonic()
            left = 1.0 if until is None else until - self._asked
            if left <= 0:
                break
            self._over.wait(min(1.0, left))
        return self.over

    def cancel(self) -> None:
        """Take the job out of the queue, or ask it to stop and end its worker if it does not. Returns at once."""
        self._server.stop(self, JobCancelled("The job was cancelled."))

    def settle(self) -> None:
        """Ask a job that shows figures to end with what it has, as its result. Returns at once."""
        self._server.settle(self)

    def _wait_again(self) -> None:
        """As it was before it began."""
        self._state, self._stop, self._worker = "queued", None, None
        self._started = self._mark = None
        self._progress, self._false_starts = (0, 0, ""), self._false_starts + 1
        self.figures = []

    def _report(self, step: int, total: int, message: str) -> None:
        now = time.monotonic()
        if self._mark is None or total != self.total or step < self.step:
            self._mark = (now, step)
        self._progress, self._latest = (step, total, message), now


def unexpected(what: str, details: str) -> JobError:
    """A sentence for the owner, and the same reference number beside the details in the log."""
    reference = secrets.token_hex(4)
    _log.error("%s (reference %s)\n%s", what, reference, details)
    return JobError(f"{what}. The server's log has the details under reference {reference}.")
