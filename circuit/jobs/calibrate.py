"""How fast this device runs a model: measured in about a second, on random prompts.

calibrate      a job: load the model, measure -> Pace (once per process, model and device)
measure_pace   the measurement itself
"""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

from circuit.common.progress import Cancelled, Report, never, silent
from circuit.edges.method import Method, Precision
from circuit.jobs.estimate import Line, Pace
from circuit.jobs.load import ModelRequest, models
from circuit.jobs.prepare import within_memory

if TYPE_CHECKING:
    from circuit.engine.model import PatchableModel

_SIZES = {"cpu": ((1, 8), (4, 16))}
_DEFAULT_SIZES = ((1, 8), (32, 32))
"""Prompts and tokens of the two batches between which time is taken to be linear."""
_REPEATS, _AT_LEAST, _LONG = 7, 2, 0.5
"""Measurements of each size; fewer where they take this many seconds. The quickest counts: what slows one down is what
else the machine does."""


def calibrate(request: ModelRequest, *, progress: Report = silent, cancelled: Cancelled = never) -> Pace:
    """The pace of a model on its device."""
    with (
        models().use(request.model, request.device, request.dtype, progress, cancelled) as model,
        within_memory(model.device),
    ):
        progress(0, 0, "Measuring how fast this device is")
        return _held(request.model, request.device, request.dtype)


@cache
def _held(name: str, device: str, dtype: Precision) -> Pace:
    with models().use(name, device, dtype) as model:
        return measure_pace(model)


def measure_pace(model: PatchableModel) -> Pace:
    """Run a small and a larger batch of random prompts."""
    from circuit.engine.batches import shape_of
    from circuit.engine.memory import free_memory

    model = model.with_seq_len(None)
    few, many = _SIZES.get(model.device.type, _DEFAULT_SIZES)
    _once(model, *few)  # the first passes also fetch code and memory
    (n_few, forward_few, step_few), (n_many, forward_many, step_many) = _timed(model, *few), _timed(model, *many)
    return Pace(
        shape_of(model),
        str(model.device),
        free_memory(model.device),
        Line.through((n_few, forward_few), (n_many, forward_many)),
        Line.through((n_few, step_few), (n_many, step_many)),
    )


def _timed(model: PatchableModel, n_prompts: int, n_tokens: int) -> tuple[int, float, float]:
    """Tokens of the batch, and the seconds of one forward pass and of one step."""
    n_tokens = min(n_tokens, model.n_ctx)
    found: list[tuple[float, float]] = []
    began = time.perf_counter()
    while len(found) < _REPEATS and (len(found) < _AT_LEAST or time.perf_counter() - began < _LONG):
        found.append(_once(model, n_prompts, n_tokens))
    forward, step = (min(column) for column in zip(*found, strict=True))
    return n_prompts * n_tokens, forward, step


def _once(model: PatchableModel, n_prompts: int, n_tokens: int) -> tuple[float, float]:
    """Seconds of one forward pass, and of one step: from one sample point's report to the next one's, when all
    buffers are there."""
    import torch

    from circuit.engine.batches import by_batch
    from circuit.engine.dataset import PromptDataLoader, PromptDataset
    from circuit.engine.mask_gradient import score_edges

    clean, corrupt = torch.randint(model.d_vocab, (2, n_prompts, n_tokens), generator=torch.Generator().manual_seed(0))
    half = n_tokens // 2
    corrupt[:, :half] = clean[:, :half]  # pairs are alike at their beginning, mostly
    answers = torch.zeros(n_prompts, 1, dtype=torch.long)
    loader = PromptDataLoader(PromptDataset(clean, corrupt, answers, answers + 1), n_prompts)
    times: list[float] = []

    def mark(step: int = 0, total: int = 0, message: str = "") -> None:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        times.append(time.perf_counter())

    mark()
    for _ in by_batch(model, loader, torch.no_grad()(lambda batch: model.logits(batch.clean, batch.last))):
        pass
    mark()
    score_edges(model, loader, Method(mask_val=None, integrated_grad_samples=2, integration_rule="midpoint"), mark)
    return times[1] - times[0], times[3] - times[2]
