"""The job that scores every edge.

attribute         a run's settings -> Run
attribute_part    the same of a part of the prompts or sample points: parts add up (`circuit.jobs.shards`)

run = attribute(RunConfig("smollm2-135m", PRESETS["ioi"].prompts), progress=print)
"""

from __future__ import annotations

import math
import platform
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from circuit.common.progress import Cancelled, Report, collected, enough, never, plot, silent
from circuit.common.settings import most_scores
from circuit.edges.method import DEFAULT_METHOD
from circuit.edges.shape import BASELINE_BATCH
from circuit.jobs.limits import check_scores
from circuit.jobs.prepare import WHOLE, Part, bos_of, part_of, pieces_of, prepared
from circuit.models.identity import model_identity
from circuit.models.load import model_card
from circuit.runs.config import RunConfig
from circuit.runs.run import Baseline, Run

if TYPE_CHECKING:
    from torch import Tensor

    from circuit.engine.dataset import PromptDataLoader, PromptPairBatch
    from circuit.engine.model import PatchableModel, PruneScores


@dataclass(frozen=True)
class RunPart:
    """A part of a run: of its scored prompts, or of its sample points."""

    config: RunConfig
    prompts: Part = WHOLE
    points: Part = WHOLE


def attribute(config: RunConfig, *, progress: Report = silent, cancelled: Cancelled = never) -> Run:
    """Score every edge.

    Raises:
        CircuitError: One of its kinds, with a sentence, when the model, the prompts or the options cannot be used.
    """
    return attribute_part(RunPart(config), progress=progress, cancelled=cancelled)


def attribute_part(request: RunPart, *, progress: Report = silent, cancelled: Cancelled = never) -> Run:
    """The part's share of a run: scores and baselines of all parts add up to the whole run's; all else is the same.

    A mean that an ablation takes over the prompts is over those of the whole run.
    """
    config = request.config
    config.method.check_positions(config.keep_positions)
    began = time.perf_counter()
    with collected() as notes, prepared(config, progress, cancelled) as (model, encoded, dataset):
        loaded = time.perf_counter()
        positions = model.graph.seq_len
        check_scores(model.graph.n_edges // (positions or 1), positions, most_scores())
        loader = part_of(dataset, config, config.method.ablation_type, request.prompts)
        baseline = _baseline(model, config, loader).share(1 / request.points.of)
        scores = _scores(model, loader, request, progress, cancelled)
        card = model_card(config.model, model)
        tokens = pieces_of(model, [encoded.clean[encoded.usable[0]]])[0] if config.keep_positions else None
        scored, held_out = config.split(encoded.usable)
    finished = time.perf_counter()
    return Run(
        config,
        model.graph,
        model.graph.flatten(scores),
        baseline,
        scored,
        {
            "model": card.title,
            "weights": model_identity(config.model),
            "parameters": card.parameters,
            "d_model": model.d_model,
            "dtype": card.dtype,
            "device": card.device,
            "device_name": _device_name(card.device),
            "prepend_bos": bos_of(model, config.prepend_bos),
            **({} if tokens is None else {"tokens": tokens}),
            **({} if not notes else {"notes": notes}),
            "seconds_loading": round(loaded - began, 3),
            "seconds": round(finished - loaded, 3),
            "date": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in _VERSIONS},
            },
        },
        held_out_rows=held_out,
    )


def _scores(
    model: PatchableModel, loader: PromptDataLoader, request: RunPart, progress: Report, cancelled: Cancelled
) -> PruneScores:
    """The part's share of the scores; masks are learned from what the default method finds with the same loss."""
    from circuit.engine.learned_masks import learn_scores
    from circuit.engine.mask_gradient import score_edges

    method = request.config.method
    if method.path != "learned":
        points = request.points.among(method.points)
        return score_edges(model, loader, method, progress, cancelled, points=points)
    start = score_edges(model, loader, DEFAULT_METHOD.with_loss_of(method), progress, cancelled)
    return learn_scores(model, loader, method, start, progress, cancelled, plot=plot, enough=enough)


_VERSIONS = ("torch", "transformers", "transformer-lens", "tokenizers", "numpy", "safetensors")
"""Packages that scores can depend on."""


def _device_name(device: str) -> str:
    """The kind of GPU, or of processor."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()


def _baseline(model: PatchableModel, config: RunConfig, loader: PromptDataLoader) -> Baseline:
    """Two plain forward passes over the loader's prompts: their share of the means over all prompts, and the accuracy
    on those of them that have wrong answers."""
    import torch

    from circuit.engine.batches import by_batch
    from circuit.engine.loss import is_right

    @torch.no_grad()
    def values(batch: PromptPairBatch) -> np.ndarray:
        clean = model.logits(batch.clean, batch.last)
        corrupt = model.logits(batch.corrupt, batch.last)
        right = is_right(clean, batch).cpu().numpy()
        return np.stack([_answer_values(clean, batch, config), _answer_values(corrupt, batch, config), right])

    parts = [found for _, found in by_batch(model, loader.with_batch_size(BASELINE_BATCH), values)]
    clean, corrupt, right = np.concatenate([np.zeros((3, 0)), *parts], axis=1)
    judged = right[~np.isnan(right)]
    accuracy = float(judged.mean()) if len(judged) else math.nan
    n = len(loader.dataset)
    return Baseline(float(clean.sum() / n), float(corrupt.sum() / n), accuracy, len(judged))


def _answer_values(logits: Tensor, batch: PromptPairBatch, config: RunConfig) -> np.ndarray:
    from circuit.engine.loss import prompt_values

    return prompt_values(logits, batch, config.method).cpu().numpy()
