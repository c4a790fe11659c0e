"""Large jobs in shards that run on all workers and add up to the same result.

    submit      a job by its function and request: cut where that pays, as it is where not
    JobGroup    several jobs of the queue that look like one `Job`: progress, result, cancelling
    shards      the cut: the requests of the shards, and how their results become one

    job = submit(server, attribute, config, title="IOI")     # a Job or a JobGroup: the page need not know
    job.result()                                             # the Run

Scores are means over prompts and averages over sample points. A shard goes through a part of either and returns that
part's share of the whole, so shares add up; what belongs to single prompts is put together in their order. A mean over
the data set, which some ablations take, every shard takes over all prompts.

A worker that is killed costs only the shards it held: each is tried anew. Any other failure ends the group, with that
shard's sentence.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np

from circuit.errors import CircuitError, JobCancelled, WorkerLostError
from circuit.faithfulness import Curve, Measured
from circuit.jobs import Job, JobServer, unexpected
from circuit.measuring import MeasureRequest, measure, measure_all
from circuit.method import AblationType
from circuit.runs import Run, RunConfig
from circuit.tasks import EffectsRequest, Part, RunPart, attribute, attribute_part, measure_effects
from circuit.worker import JobFunction

LEAST = 64
"""Prompts, times sample points or circuits, of the smallest shard: what is smaller takes longer to hand over."""
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


# --- jobs as groups ------------------------------------------------------------------------------------------------


def submit(
    server: JobServer,
    function: JobFunction,
    request: Any,
    *,
    title: str = "",
    owner: str = "",
    note: Any = None,
    keep: Callable[[Any], object] | None = None,
) -> Job:
    """As `JobServer.submit`, in shards where the job is large and there are several workers."""
    cut = shards(function, request, server.workers)
    if cut is None:
        return server.submit(function, request, title=title, owner=owner, note=note, keep=keep)
    return JobGroup(server, cut, title, owner=owner, note=note, keep=keep)


class JobGroup(Job):
    """Several jobs of the queue as one job. A thread of the web process sees them through.

    Args:
        server: Where the jobs run.
        cut: The jobs.
        title: For all of them.
        at_once: Says how many may be in the queue at a time, whenever one more could be; None: all.
        failed: Called as `failed(number, sentence)` when one fails; its result is then None. Without it, the first
            failure ends the group.
        done: Called as `done(number, result, told)` when one has finished, on a thread of the group's own; `told` is
            what it did otherwise than asked.
        ended: Called with the reason when the group ends without a result, before it is over.
        owner: Whose they are, for the queue.
        note: Kept with the group.
        keep: Called with the result of them all before the group is over.
        job_id: Its id, where somebody had to know it before.

    Raises:
        CircuitError: The server does not take it, see `JobServer.adopt`. Once taken, nothing of it is refused.
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
    def position(self) -> int | None:
        """Place in the queue of the first shard, as long as none has begun."""
        if self.state != "queued":
            return None
        places = [place for job in list(self._shards.values()) if (place := job.position) is not None]
        return min(places, default=None)

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
        self._server._finish(self, error)

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
        self._server._succeed(self, self._cut.combine(results, self.elapsed))

    def _begin(self, number: int) -> None:
        self._tries[number] += 1
        request = self._cut.requests[number]
        title = f"{self.title} ({number + 1} of {len(self)})"
        self._shards[number] = self._server.submit(
            self._cut.function, request, title=title, owner=self.owner, group=self.id
        )

    def _look(self, number: int, job: Job) -> None:
        """Take over what has become of a shard."""
        state = job.state  # asking also says that somebody waits for it
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


# --- where to cut --------------------------------------------------------------------------------------------------


def shards(function: JobFunction, request: Any, workers: int) -> Cut | None:
    """The job in shards, about two a worker, so that they end together; None where it should stay whole."""
    if workers < 2:
        return None
    if function is attribute:
        return _of_attribution(request, workers)
    if function is measure_effects:
        return _of_effects(request, workers)
    if function is measure or function is measure_all:
        return _of_curves([request] if function is measure else list(request), workers, function is measure)
    return None


def _parts(config: RunConfig, ablation_type: AblationType, n_prompts: int, each: int, workers: int) -> int:
    """Into how many parts prompts are cut that take `each` passes: 1 where that does not pay.

    Where results depend on the batches, these stay whole. A mean over the data set is taken anew by every shard, so
    then there is only one a worker.
    """
    units = -(-n_prompts // (config.batch_size or 1)) if ablation_type.needs_batch_size else n_prompts
    most = workers if ablation_type.averages_dataset else 2 * workers
    return max(min(most, units, n_prompts * each // LEAST), 1)


def _scored(config: RunConfig) -> int:
    """About how many prompts are scored: which ones are usable, the worker knows."""
    return len(config.split(range(len(config.prompts)))[0])


def _of_attribution(config: RunConfig, workers: int) -> Cut | None:
    ablation_type, n_points, n_prompts = config.method.ablation_type, len(config.method.points), _scored(config)
    by_prompts = _parts(config, ablation_type, n_prompts, n_points, workers)
    by_points = min(2 * workers, n_points, n_prompts * n_points // LEAST)
    if max(by_prompts, by_points) < 2:
        return None
    if by_prompts >= by_points:
        requests = [RunPart(config, prompts=Part(number, by_prompts)) for number in range(by_prompts)]
    else:  # few prompts, or few batches that must not be cut, and many points
        requests = [RunPart(config, points=Part(number, by_points)) for number in range(by_points)]
    return Cut(attribute_part, requests, _one_run)


def _one_run(parts: list[Run], seconds: float) -> Run:
    first = parts[0]
    notes = list(dict.fromkeys(note for part in parts for note in part.notes))
    provenance = {
        **first.provenance,
        "seconds": round(max(seconds - max(part.provenance["seconds_loading"] for part in parts), 0.0), 3),
        "parts": len(parts),
    }
    return replace(
        first,
        scores=sum((part.scores.astype(np.float64) for part in parts), np.zeros(1)).astype(np.float32),
        baseline=reduce(lambda a, b: a + b, (part.baseline for part in parts)),
        provenance=provenance | ({"notes": notes} if notes else {}),
    )


def _of_effects(request: EffectsRequest, workers: int) -> Cut | None:
    config = request.config
    n = _parts(config, config.method.ablation_type, _scored(config), len(request.edges), workers)
    if n < 2:
        return None

    def add(parts: list[dict[int, float]], seconds: float) -> dict[int, float]:
        return {edge: sum(part[edge] for part in parts) for edge in parts[0]}

    return Cut(measure_effects, [replace(request, prompts=Part(number, n)) for number in range(n)], add)


def _of_curves(requests: list[MeasureRequest], workers: int, alone: bool) -> Cut | None:
    first = requests[0]
    n_prompts = _scored(first.config) if first.rows is None else len(first.rows)
    n_circuits = 2 + sum(len(request.sizes) for request in requests)
    n = _parts(first.config, first.ablation_type, n_prompts, n_circuits, workers)
    if n < 2:
        return None

    def join(parts: list[list[Curve]], seconds: float) -> Curve | list[Curve]:
        curves = [_one_curve(of_parts) for of_parts in zip(*parts, strict=True)]
        return curves[0] if alone else curves

    cut = [[replace(request, prompts=Part(number, n)) for request in requests] for number in range(n)]
    return Cut(measure_all, cut, join)


def _one_curve(parts: Sequence[Curve]) -> Curve:
    points = tuple(_one_circuit(same) for same in zip(*(part.points for part in parts), strict=True))
    return Curve(points, _one_circuit([part.whole for part in parts]), _one_circuit([part.ablated for part in parts]))


def _one_circuit(parts: Sequence[Measured]) -> Measured:
    columns = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("values", "right", "probability", "divergence")
    )
    return Measured(parts[0].n_edges, *columns)
