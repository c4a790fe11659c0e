"""The job that asks which edges other draws of the same prompts would have chosen.

edge_stability    the circuits of other draws of the prompts, and how often scores keep their sign -> Stability
too_many          why the scores of so many prompts cannot be kept apart
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64

from circuit.common.errors import OptionError, PromptError
from circuit.common.interval import FEWEST, resamples
from circuit.common.progress import Cancelled, Progress, Report, never, silent
from circuit.common.words import counted
from circuit.edges.choose import SelectionRule
from circuit.edges.ranking import Importance
from circuit.edges.stable import Circuits, circuits_of, halves, sign_shares
from circuit.jobs.prepare import prepared
from circuit.runs.config import RunConfig

if TYPE_CHECKING:
    from circuit.engine.dataset import PromptDataset
    from circuit.engine.model import PatchableModel

MOST_SCORES = 250_000_000
"""Scores of edges on single prompts that are held at once: a gigabyte."""

_AT_ONCE = 25_000_000
"""Scores that one pass over some of the prompts brings: on the way they take five times the place."""


@dataclass(frozen=True)
class StabilityRequest:
    """A run whose prompts are drawn anew, for circuits of up to `most` edges that are chosen by this rank and rule:
    `n_draws` times as many with replacement (the bootstrap), and as often half of them without."""

    config: RunConfig
    most: int
    importance: Importance = "absolute"
    rule: SelectionRule = "top"
    n_draws: int = 200
    seed: int = 0


@dataclass(frozen=True)
class Stability:
    """What other draws of the prompts give.

    Attributes:
        drawn: The circuits of the bootstrap's draws, of every size.
        halved: The circuits of random halves of the prompts, of every size.
        signs: For every edge, the share of the bootstrap's draws in which its mean score has the sign that all prompts
            give it.
    """

    drawn: Circuits
    halved: Circuits
    signs: Float64[np.ndarray, " n_edges"]

    def among(self, n: int) -> dict[int, float]:
        """In which share of the bootstrap's draws an edge is in the circuit of at most `n` edges; edges that never are,
        are left out."""
        return {edge: count / len(self.drawn.edges) for edge, count in self.drawn.counts(n).items()}


def too_many(n_prompts: int, n_edges: int) -> str | None:
    """Why the scores of every prompt cannot be kept apart, in a sentence; None where they can."""
    if n_prompts * n_edges <= MOST_SCORES:
        return None
    return (
        f"{n_prompts:,} prompt pairs and {n_edges:,} edges: scores are kept apart for up to "
        f"{MOST_SCORES // n_edges:,} pairs of this model."
    )


def edge_stability(request: StabilityRequest, *, progress: Report = silent, cancelled: Cancelled = never) -> Stability:
    """The circuits of other draws of the prompts, and how often scores keep their sign.

    Scores of single prompts cost one attribution; each draw is then a weighted mean of them.

    Raises:
        PromptError: Fewer prompts than `FEWEST`.
        OptionError: More prompts times edges than `MOST_SCORES`, and as `circuit.prompt_scores`.
    """
    with prepared(request.config, progress, cancelled) as (model, _, dataset):
        graph = model.graph
        if len(dataset) < FEWEST:
            raise PromptError(f"{counted(len(dataset), 'prompt pair')}: too few to draw from.")
        if (words := too_many(len(dataset), graph.n_edges)) is not None:
            raise OptionError(words)
        per_prompt = _per_prompt(model, dataset, request.config, progress, cancelled)
    n, most, seed = len(per_prompt), min(request.most, graph.n_edges), request.seed
    steps = Progress(2 * request.n_draws, progress, cancelled)
    drawn, halved = (
        circuits_of(graph, per_prompt, weights, most, request.importance, request.rule, steps)
        for weights in (resamples(n, request.n_draws, seed).astype(np.float32), halves(n, request.n_draws, seed))
    )
    return Stability(drawn, halved, sign_shares(per_prompt, request.n_draws, seed))


def _per_prompt(
    model: PatchableModel, dataset: PromptDataset, config: RunConfig, progress: Report, cancelled: Cancelled
) -> Float32[np.ndarray, "n_prompts n_edges"]:
    """The scores of every prompt, some prompts after the others where all at once would need much memory."""
    from circuit.engine.dataset import PromptDataLoader
    from circuit.engine.mask_gradient import prompt_scores

    found = np.empty((len(dataset), model.graph.n_edges), dtype=np.float32)
    step = max(1, _AT_ONCE // model.graph.n_edges)
    for start in range(0, len(dataset), step):
        rows = range(start, min(start + step, len(dataset)))
        scores = prompt_scores(
            model, PromptDataLoader(dataset, config.batch_size, rows), config.method, progress, cancelled
        )
        found[rows.start : rows.stop] = model.graph.flatten(scores, per_prompt=True)
    return found
