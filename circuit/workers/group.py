"""Several jobs of the queue that look like one.

    Cut         what each of them runs, and how their results become one
    JobGroup    the jobs as one `Job`: progress, result, cancelling

A worker that is killed costs only the jobs it held: each is tried anew. Any other failure ends the group, with that
job's sentence.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from circuit.common.errors import CircuitError, JobCancelled, WorkerLostError
from circuit.workers.job import Ahead, Job, unexpected
from circuit.workers.server import JobServer
from circuit.workers.worker import JobFunction

TRIES = 3
"""How often a shard is begun whose worker is killed."""
_log = logging.getLogger(__name__)
_LOOK = 0.1  # seconds between two looks at the shards
Combine = Callable[[list[Any], float], Any]
"""The shards' results, in order, and the seconds since the first began -> the result."""


@dataclass(frozen=True)
class Cut:
    """A job in shards: what each runs, and how the results become one."""

    function: JobFunction
    requests: Sequence[Any]
    combine: Combine


class JobGroup(Job):
    """Several jobs of the queue as one job. A thread of the web process sees them through.

    Args:
        server: Where the jobs run.
        cut: The jobs.
        title: For all of them.
        at_once: Says how many may be in the queue at a time, whenever one more could be; None: all.
        failed: Called as `failed(number, sentence)` when one fails; its result is then None. Without it, the first
            failure ends the group.
        done: Called as `done(number, result, told)` when one has finished, on a thread of the group's own; `told` holds
            its deviations from what was asked.
        ended: Called with the reason when the group ends without a result, before it is over.
        owner: Whose they are, for the queue.
        note: Kept with the group.
        keep: Called with the result of them all before the group is over.
        job_id: Its id, where it had to be known before.

    Raises:
        CircuitError: The server does not accept it, see `JobServer.adopt`. Once accepted, no part of it is refused.
    """

    def __init__(
        self,
        server: JobServer,
        cut: Cut,
        title: str = "",
        *,
        at_once: Callable[[], int] | None = None,
        done: Callable[[int, Any, list[str]], None] | None = None,
        failed: Callable[[int, str], None] | None = None,
        ended: Callable[[CircuitError], None] | None = None,
        owner: str = "",
        note: Any = None,
        keep: Callable[[Any], object] | None = None,
        job_id: str | None = None,
    ) -> None:
        super().__init__(server, b"", title, owner, None, note, keep)
        self._server: JobServer = server
        self.id = job_id or self.id
        self._cut = cut
        self._at_once = at_once or self.__len__
        self._done, self._failed, self._ended_by = done, failed, ended
        self._shards: dict[int, Job] = {}  # by number, those in the queue or running
        self._tries = [0] * len(cut.requests)
        self._results: dict[int, Any] = {}
        self._totals: dict[int, int] = {}
        server.adopt(self, cut.requests)
        threading.Thread(target=self._see_through, name=f"group-{self.id[:8]}", daemon=True).start()

    def __len__(self) -> int:
        return len(self._cut.requests)

    @property
    def ahead(self) -> Ahead | None:
        """What the first shard waits for, as long as none has begun."""
        if self.state != "queued":
            return None
        found = [ahead for job in list(self._shards.values()) if (ahead := job.ahead) is not None]
        return min(found, key=lambda ahead: ahead.waiting, default=None)

    def _see_through(self) -> None:
        try:
            self._carry()
        except CircuitError as error:
            self._end(error)
        except Exception:
            self._end(unexpected("The parts of this job could not be put together", traceback.format_exc()))
        finally:
            for job in self._shards.values():
                job.cancel()
                self._server.forget(job)

    def _end(self, error: CircuitError) -> None:
        """Stop all shards, then be over: a group that is over has nothing running."""
        for job in self._shards.values():
            job.cancel()
        for job in self._shards.values():
            while not (job.over or self.over):
                job.wait(_LOOK)
        if self._ended_by is not None:
            try:
                self._ended_by(error)
            except Exception:  # the group ends all the same
                _log.warning("What ended a group of jobs could not be written down.", exc_info=True)
        self._server.finish(self, error)

    def _carry(self) -> None:
        waiting = list(range(len(self)))
        while waiting or self._shards:
            if self.over:  # the server was shut down
                return
            if self._stop is not None:
                raise self._stop
            while waiting and len(self._shards) < self._at_once():
                self._begin(waiting.pop(0))
            for number, job in list(self._shards.items()):
                self._look(number, job)
            self._count()
            self._wake.wait(_LOOK)
            self._wake.clear()
        results = [self._results[number] for number in range(len(self))]
        self._server.succeed(self, self._cut.combine(results, self.elapsed))

    def _begin(self, number: int) -> None:
        self._tries[number] += 1
        request = self._cut.requests[number]
        title = f"{self.title} ({number + 1} of {len(self)})"
        shard = self._server.submit(self._cut.function, request, title=title, owner=self.owner, group=self.id)
        shard._asked = min(shard._asked, self._asked)  # it is watched if the group is
        self._shards[number] = shard

    def _look(self, number: int, job: Job) -> None:
        """Adopt what has become of a shard."""
        if self.watched:
            job.ask()
        state = job.unasked_state
        if job._started is not None and self._started is None:
            self._started = job._started
        if state in ("starting", "running") and self._state in ("queued", "starting"):
            self._state = state
        if not job.over:
            return
        del self._shards[number]
        self._server.forget(job)
        try:
            result = job.result()
            self.result_bytes += job.result_bytes
        except WorkerLostError as error:
            if self._tries[number] < TRIES:
                self._begin(number)
                return
            self._fail(number, error)
        except JobCancelled:
            raise
        except CircuitError as error:
            self._fail(number, error)
        else:
            self._results[number] = result
            self.told += [note for note in job.told if note not in self.told]
            if self._done is not None:
                self._done(number, result, job.told)

    def _fail(self, number: int, error: CircuitError) -> None:
        if self._failed is None:
            raise error
        self._results[number] = None
        self._failed(number, str(error))

    def _count(self) -> None:
        """Steps of all shards together; those that have not said how many they take are taken for average."""
        steps: dict[int, int] = dict.fromkeys(self._results, 0)
        message = ""
        for number, job in self._shards.items():
            step, total, said = job._progress
            if total:
                self._totals[number] = total
            steps[number] = step
            message = said or message
        if not self._totals:
            if message:
                self._report(0, 0, message)
            return
        mean = round(sum(self._totals.values()) / len(self._totals))
        of_shard = {number: self._totals.get(number, mean) for number in range(len(self))}
        done = sum(of_shard[number] if number in self._results else step for number, step in steps.items())
        total = sum(of_shard.values())
        if (done, total) != self._progress[:2]:
            self._report(done, total, message)
