"""The jobs that measure circuits of a run: functions of plain settings, like those of `circuit.tasks`.

measure           circuits of given sizes, with the whole and the fully ablated model -> Curve
find_smallest     the smallest circuit that keeps a share of the behaviour, by bisection
edge_stability    how often every edge is among the strongest when prompts are drawn anew

request = MeasureRequest(run.config, run.scores, curve_sizes(run.graph.n_edges), rows=tuple(run.held_out_rows))
curve = measure(request)
curve.cpr
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float32

from circuit.faithfulness import Curve, Measured, resamples
from circuit.method import AblationType, PatchType
from circuit.progress import Cancelled, Progress, Report
from circuit.pruning import Importance, edge_mask, live_edges, top_edges
from circuit.runs import RunConfig
from circuit.tasks import WHOLE, Part, never, part_of, prepared, silent

if TYPE_CHECKING:
    from torch import Tensor

    from circuit.dataset import PromptDataset, PromptPairBatch
    from circuit.graph import EdgeGraph
    from circuit.patchable import PatchableModel

Direction = Literal["keep", "remove"]
"""Whether everything but the circuit is ablated (is it enough?), or the circuit alone (is it needed?)."""


@dataclass(frozen=True)
class MeasureRequest:
    """Circuits of a run to measure, and on which of its prompts.

    Corrupt activations replace what is ablated, where the ablation reads the batch.

    Attributes:
        config: The run's.
        scores: The run's scores.
        sizes: Numbers of edges.
        importance: What the strongest edges are chosen by. By positive score only, a size beyond the number of positive
            scores is the circuit of all of them; all edges are always the whole model.
        drop_dead_ends: Whether edges on no path from the embedding to the final residual are ablated too.
        direction: Whether the circuit is kept, or removed.
        ablation_type: What replaces an ablated activation.
        rows: Rows of the run's prompt set to measure on, counted from 0; None: those that were scored.
        shuffled: A seed: edges are taken in random order instead, as a baseline.
        prompts: The part of the prompts that is measured on, where others measure on the rest.
    """

    config: RunConfig
    scores: Float32[np.ndarray, " n_edges"]
    sizes: tuple[int, ...]
    importance: Importance = "absolute"
    drop_dead_ends: bool = False
    direction: Direction = "keep"
    ablation_type: AblationType = AblationType.RESAMPLE
    rows: tuple[int, ...] | None = None
    shuffled: int | None = None
    prompts: Part = WHOLE

    def kept(self, graph: EdgeGraph, n: int) -> Bool[np.ndarray, " n_edges"]:
        """The edges that stay when the circuit of `n` edges is kept, or removed."""
        if n == graph.n_edges:
            edges = np.arange(n)
        elif self.shuffled is not None:
            edges = np.random.default_rng(self.shuffled).permutation(graph.n_edges)[:n]
        else:
            edges = top_edges(self.scores, n, self.importance)
        if self.drop_dead_ends:
            edges = live_edges(graph, edges)
        mask = edge_mask(graph, edges)
        return mask if self.direction == "keep" else ~mask


def measure(request: MeasureRequest, *, progress: Report = silent, cancelled: Cancelled = never) -> Curve:
    """Run circuits of all sizes, the whole model and the fully ablated one over the prompts.

    Raises:
        CircuitError: One of its kinds, with a sentence, when the model, the prompts or the sizes cannot be used.
    """
    return measure_all([request], progress=progress, cancelled=cancelled)[0]


def measure_all(
    requests: Sequence[MeasureRequest], *, progress: Report = silent, cancelled: Cancelled = never
) -> list[Curve]:
    """Several curves on the same prompts of the same run, as one job: they share whole and ablated model."""
    first = requests[0]
    with prepared(first.config, progress, cancelled, first.rows) as (model, _, dataset):
        return _curve(model, dataset, requests, progress, cancelled)


def _curve(
    model: PatchableModel,
    dataset: PromptDataset,
    requests: Sequence[MeasureRequest],
    progress: Report,
    cancelled: Cancelled,
) -> list[Curve]:
    import torch

    from circuit.ablation import Ablation
    from circuit.memory import ready
    from circuit.objective import is_right, probability, prompt_values
    from circuit.patching import circuit_outputs

    config, ablation_type = requests[0].config, requests[0].ablation_type
    graph, method = model.graph, config.method
    n_edges = graph.n_edges
    circuits = [np.ones(n_edges, dtype=bool), np.zeros(n_edges, dtype=bool)]
    numbers: list[dict[int, int]] = []  # for every request, which circuit is that of a size
    for request in requests:
        ends = {n_edges: 0, 0: 1} if request.direction == "keep" else {0: 0, n_edges: 1}
        inner = [size for size in request.sizes if size not in ends]
        numbers.append({**ends, **{size: len(circuits) + i for i, size in enumerate(inner)}})
        circuits += [request.kept(graph, size) for size in inner]
    loader = ready(model, part_of(dataset, config, ablation_type, requests[0].prompts), ablation_type)
    steps = Progress(len(loader) * len(circuits) + Ablation.n_passes(loader, ablation_type), progress, cancelled)
    whole = torch.empty(0)

    def read(batch: PromptPairBatch, number: int, logits: Tensor) -> Tensor:
        nonlocal whole
        log_probabilities = logits.float().log_softmax(-1)
        if number == 0:  # the whole model comes first in every batch
            whole = log_probabilities
        values = prompt_values(logits, batch, method.grad_function, method.answer_function)
        divergence = (whole.exp() * (whole - log_probabilities)).sum(-1)
        columns = values, is_right(logits, batch), probability(logits, batch), divergence
        return torch.stack(columns).float().cpu()

    batches = list(circuit_outputs(model, loader, circuits, PatchType.TREE_PATCH, ablation_type, False, steps, read))

    def measured(number: int, size: int) -> Measured:
        columns = [torch.empty(4, 0), *(found[number] for found in batches)]
        return Measured(size, *torch.cat(columns, dim=1).numpy())

    whole_model, ablated = measured(0, n_edges), measured(1, 0)
    return [
        Curve(tuple(measured(of_size[size], size) for size in sorted(set(request.sizes))), whole_model, ablated)
        for request, of_size in zip(requests, numbers, strict=True)
    ]


def find_smallest(
    request: MeasureRequest,
    target: float = 0.9,
    *,
    progress: Report = silent,
    cancelled: Cancelled = never,
) -> Curve:
    """The sizes that a search for the smallest circuit keeping `target` of the behaviour comes by, as a curve.

    It is a bisection that tries a few sizes a round, since circuits are cheaper together. It starts between the sizes
    of the request, and ends at neighbouring numbers of edges, the larger of which keeps enough (`Curve.smallest`).
    Faithfulness need not rise with every edge, so a smaller circuit may also do.

    Raises:
        NumericalError: Where whole and ablated model are too close to compare.
    """
    n_edges = len(request.scores)
    with prepared(request.config, progress, cancelled, request.rows) as (model, _, dataset):
        curve = _curve(model, dataset, [replace(request, sizes=(0, *request.sizes, n_edges))], silent, cancelled)[0]
        steps = Progress(math.ceil(math.log(n_edges, _A_ROUND + 1)), progress, cancelled)
        while True:
            kept = curve.faithfulness >= target
            if not kept.any():  # not even the whole model, which target > 1 asks for
                return curve
            high = curve.sizes[int(np.argmax(kept))]
            below = [size for size in curve.sizes if size < high]
            low = below[-1] if below else 0
            if high - low <= 1:
                return curve
            steps.total = max(steps.total, steps.step + 1)
            between = np.geomspace(max(low, 1), high, _A_ROUND + 2)[1:-1].round().clip(low + 1, high - 1)
            sizes = tuple(sorted(set(between.astype(int).tolist())))
            curve = curve.with_points(
                _curve(model, dataset, [replace(request, sizes=sizes)], silent, cancelled)[0].points
            )
            steps.advance(f"between {low:,} and {high:,} edges")


_A_ROUND = 4
"""Sizes that the search for the smallest circuit tries at a time."""


@dataclass(frozen=True)
class StabilityRequest:
    """A run whose prompts are drawn anew `n_resamples` times."""

    config: RunConfig
    sizes: tuple[int, ...]
    importance: Importance = "absolute"
    n_resamples: int = 200
    seed: int = 0


def edge_stability(
    request: StabilityRequest, *, progress: Report = silent, cancelled: Cancelled = never
) -> dict[int, dict[int, float]]:
    """For every size, in which share of the bootstrap's draws of prompts an edge is among that many strongest; edges
    that never are, are left out.

    Scores per prompt cost one attribution; each draw is then a weighted mean of them.
    """
    from circuit.dataset import PromptDataLoader
    from circuit.mask_gradient import prompt_scores

    with prepared(request.config, progress, cancelled) as (model, _, dataset):
        loader = PromptDataLoader(dataset, request.config.batch_size)
        by_prompt = prompt_scores(model, loader, request.config.method, progress, cancelled)
        flat = np.concatenate([part.flatten(1).numpy() for part in by_prompt.values()], axis=1)
    weights = resamples(len(flat), request.n_resamples, request.seed).astype(np.float32)
    counts = {size: np.zeros(flat.shape[1], dtype=np.int64) for size in request.sizes}
    steps = Progress(len(weights), progress, cancelled)
    for number, weight in enumerate(weights, start=1):
        steps.check()
        order = top_edges(weight @ flat, max(request.sizes), request.importance)
        for size, count in counts.items():
            count[order[:size]] += 1
        steps.advance(f"draw {number} of {len(weights)}")
    return {
        size: {edge: float(count[edge]) / len(weights) for edge in np.flatnonzero(count).tolist()}
        for size, count in counts.items()
    }
