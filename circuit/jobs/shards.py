"""Large jobs in shards that run on all workers and add up to the same result.

    submit    a job by its function and request: in shards where that pays, whole where it does not
    shards    the cut: the requests of the shards, and how their results become one

    job = submit(server, attribute, config, title="IOI")     # a Job or a JobGroup: the page need not know
    job.result()                                             # the Run

Scores are means over prompts and averages over sample points. A shard goes through a part of either and returns that
part's share of the whole, so shares add up; what belongs to single prompts is put together in their order. A mean over
the data set, which some ablations take, every shard takes over all prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np

from circuit.edges.method import AblationType
from circuit.jobs.attribute import RunPart, attribute, attribute_part
from circuit.jobs.inspect import EffectsRequest, measure_effects
from circuit.jobs.measure import MeasureRequest, measure, measure_all
from circuit.jobs.prepare import Part
from circuit.runs.config import RunConfig
from circuit.runs.faithfulness import Curve, Measured
from circuit.runs.run import Run
from circuit.workers.group import Cut, JobGroup
from circuit.workers.job import Job
from circuit.workers.server import JobServer
from circuit.workers.worker import JobFunction

LEAST = 64
"""Prompts, times sample points or circuits, of the smallest shard: what is smaller takes longer to hand over."""


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
    if config.method.path == "learned":  # each step begins where the last one ended
        return None
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
