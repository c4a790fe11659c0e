"""The job that asks which edges another draw of the same prompts would have chosen.

edge_stability    how often every edge is among the strongest when prompts are drawn anew -> Stability
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from circuit.common.interval import resamples
from circuit.common.progress import Cancelled, Progress, Report, never, silent
from circuit.edges.ranking import Importance, top_edges
from circuit.jobs.prepare import prepared
from circuit.runs.config import RunConfig


@dataclass(frozen=True)
class StabilityRequest:
    """A run whose prompts are drawn anew `n_resamples` times, for circuits of up to `most` edges."""

    config: RunConfig
    most: int
    importance: Importance = "absolute"
    n_resamples: int = 200
    seed: int = 0


NO_EDGE = -1


@dataclass(frozen=True)
class Stability:
    """The strongest edges of every draw of the prompts, in order; `NO_EDGE` where fewer have a positive score."""

    strongest: Int32[np.ndarray, "draws most"]

    def among(self, n: int) -> dict[int, float]:
        """In which share of the draws an edge is among the `n` strongest; edges that never are, are left out."""
        edges, counts = np.unique(self.strongest[:, :n], return_counts=True)
        shares = counts / len(self.strongest)
        return {edge: share for edge, share in zip(edges.tolist(), shares.tolist(), strict=True) if edge != NO_EDGE}


def edge_stability(request: StabilityRequest, *, progress: Report = silent, cancelled: Cancelled = never) -> Stability:
    """The strongest edges of each of the bootstrap's draws of prompts.

    Scores per prompt cost one attribution; each draw is then a weighted mean of them.
    """
    from circuit.engine.dataset import PromptDataLoader
    from circuit.engine.mask_gradient import prompt_scores

    with prepared(request.config, progress, cancelled) as (model, _, dataset):
        loader = PromptDataLoader(dataset, request.config.batch_size)
        by_prompt = prompt_scores(model, loader, request.config.method, progress, cancelled)
        flat = np.concatenate([part.flatten(1).numpy() for part in by_prompt.values()], axis=1)
    weights = resamples(len(flat), request.n_resamples, request.seed).astype(np.float32)
    steps = Progress(len(weights), progress, cancelled)
    strongest = np.full((len(weights), min(request.most, flat.shape[1])), NO_EDGE, dtype=np.int32)
    for number, weight in enumerate(weights):
        steps.check()
        order = top_edges(weight @ flat, strongest.shape[1], request.importance)
        strongest[number, : len(order)] = order
        steps.advance(f"draw {number + 1} of {len(weights)}")
    return Stability(strongest)
