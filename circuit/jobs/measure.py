"""The jobs that measure circuits of a run.

measure         circuits of given sizes, with the whole and the fully ablated model -> Curve
measure_all     several of them at once, which share the whole and the ablated model
find_smallest   the smallest circuit that keeps a share of the behaviour, by bisection

request = MeasureRequest(run.config, run.scores, curve_sizes(run.graph.n_edges), rows=tuple(run.held_out_rows))
curve = measure(request)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float32

from circuit.common.errors import OptionError
from circuit.common.progress import Cancelled, Progress, Report, never, silent
from circuit.edges.choose import Ranked, SelectionRule, rank_edges
from circuit.edges.method import AblationType, PatchType
from circuit.edges.ranking import Importance, edge_mask
from circuit.edges.subgraph import live_edges
from circuit.jobs.prepare import WHOLE, Part, part_of, prepared
from circuit.runs.config import RunConfig
from circuit.runs.faithfulness import Curve, Measured

if TYPE_CHECKING:
    from torch import Tensor

    from circuit.edges.graph import EdgeGraph
    from circuit.engine.dataset import PromptDataLoader, PromptDataset, PromptPairBatch
    from circuit.engine.model import PatchableModel
    from circuit.prompts.encode import Encoded


Direction = Literal["keep", "remove"]
"""Whether everything but the circuit is ablated (is it enough?), or the circuit alone (is it needed?).

Both are `PatchType.TREE_PATCH`, clean prompts in: of the circuit, and of all edges but the circuit. Under resample
ablation the latter is `EDGE_PATCH` of the circuit with clean and corrupt swapped (`reverse_clean_corrupt`), since both
put corrupt activations on the circuit's edges of a clean pass. It is not plain `EDGE_PATCH`, which puts clean
activations on them in a corrupt pass, and so asks what the circuit restores: `circuit.run_circuits` runs that.
"""


@dataclass(frozen=True)
class MeasureRequest:
    """Circuits of a run to measure, and on which of its prompts.

    Corrupt activations replace what is ablated, where the ablation reads the batch. Means over the dataset are those
    over the prompts that were scored, whichever are measured on, so that scores and circuits have the same ablation.

    Attributes:
        config: The run's.
        scores: The run's scores.
        sizes: Numbers of edges.
        importance: What the strongest edges are chosen by. By positive score only, a size beyond the number of positive
            scores is the circuit of all of them, and measured as that; all edges are always the whole model.
        rule: Whether edges are chosen one by one, or so that they hang together: see `circuit.edges.choose`. A size
            that no circuit of the rule has is that of the next smaller one, and measured as that.
        drop_dead_ends: Whether kept edges on no path from `Resid Start` to `Resid End` are ablated too. That changes
            nothing under resample ablation, and something under others, which give the first edge of a path something
            to carry that is not what it carries when everything before it is ablated. Of removed edges none is left
            in place: what is a dead end among them may be the middle of a path through the rest of the model.
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
    rule: SelectionRule = "top"

    def ranked(self, graph: EdgeGraph) -> Ranked:
        """The edges in the order in which circuits take them, and the sizes that these have.

        Raises:
            OptionError: When the scores are those of a model of another shape.
        """
        if len(self.scores) != graph.n_edges:
            raise OptionError(
                f"The model {self.config.model!r} has {graph.n_edges:,} edges, and the scores are of "
                f"{len(self.scores):,}: they are those of another model, or of one that has changed since."
            )
        if self.shuffled is not None:
            order = np.random.default_rng(self.shuffled).permutation(graph.n_edges)
            return Ranked(order, np.arange(len(order) + 1))
        return rank_edges(graph, self.scores, self.importance, self.rule)

    def most(self, graph: EdgeGraph) -> int:
        """The largest number of edges that the ranking has."""
        return int(self.ranked(graph).sizes[-1])

    def measured_sizes(self, graph: EdgeGraph) -> tuple[int, ...]:
        """`sizes` in order, with the next smaller one that there is for each that no circuit has."""
        ranked = self.ranked(graph)
        return tuple(sorted({size if size == graph.n_edges else ranked.size_within(size) for size in self.sizes}))

    def kept(self, graph: EdgeGraph, n: int, ranked: Ranked | None = None) -> Bool[np.ndarray, " n_edges"]:
        """The edges that stay when the circuit of `n` of the `ranked` edges is kept, or removed."""
        edges = np.arange(n) if n == graph.n_edges else (ranked or self.ranked(graph)).first(n)
        if self.drop_dead_ends and self.direction == "keep":
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
    with prepared(first.config, progress, cancelled, first.rows) as (model, encoded, dataset):
        return _curve(model, encoded, dataset, requests, progress, cancelled)


def _curve(
    model: PatchableModel,
    encoded: Encoded,
    dataset: PromptDataset,
    requests: Sequence[MeasureRequest],
    progress: Report,
    cancelled: Cancelled,
) -> list[Curve]:
    import torch

    from circuit.engine.ablation import Ablation
    from circuit.engine.batches import ready
    from circuit.engine.loss import is_right, probability, prompt_values
    from circuit.engine.patching import circuit_outputs

    config, ablation_type = requests[0].config, requests[0].ablation_type
    graph, method = model.graph, config.method
    n_edges = graph.n_edges
    circuits = [np.ones(n_edges, dtype=bool), np.zeros(n_edges, dtype=bool)]
    numbers: list[dict[int, int]] = []  # for every request, which circuit is that of a size
    for request in requests:
        ends = {n_edges: 0, 0: 1} if request.direction == "keep" else {0: 0, n_edges: 1}
        ranked, sizes = request.ranked(graph), request.measured_sizes(graph)
        inner = [size for size in sizes if size not in ends]
        numbers.append({size: ends[size] for size in sizes if size in ends})
        numbers[-1] |= {size: len(circuits) + i for i, size in enumerate(inner)}
        circuits += [request.kept(graph, size, ranked) for size in inner]
    loader = ready(model, part_of(dataset, config, ablation_type, requests[0].prompts), ablation_type)
    means_of = _scored(model, encoded, dataset, config, ablation_type) if ablation_type.averages_dataset else loader
    steps = Progress(len(loader) * len(circuits) + Ablation.n_passes(means_of, ablation_type), progress, cancelled)
    whole = torch.empty(0)

    def read(batch: PromptPairBatch, number: int, logits: Tensor) -> Tensor:
        nonlocal whole
        log_probabilities = logits.float().log_softmax(-1)
        if number == 0:  # the whole model comes first in every batch
            whole = log_probabilities
        values = prompt_values(logits, batch, method)
        divergence = (whole.exp() * (whole - log_probabilities)).sum(-1)
        columns = values, is_right(logits, batch), probability(logits, batch), divergence
        return torch.stack(columns).float().cpu()

    batches = list(
        circuit_outputs(
            model, loader, circuits, PatchType.TREE_PATCH, ablation_type, False, steps, read, means_of=means_of
        )
    )

    def measured(number: int, size: int) -> Measured:
        columns = [torch.empty(4, 0), *(found[number] for found in batches)]
        return Measured(size, *torch.cat(columns, dim=1).numpy())

    whole_model, ablated = measured(0, n_edges), measured(1, 0)
    return [
        Curve(tuple(measured(of_size[size], size) for size in sorted(of_size)), whole_model, ablated)
        for of_size in numbers
    ]


def _scored(
    model: PatchableModel, encoded: Encoded, measured: PromptDataset, config: RunConfig, ablation_type: AblationType
) -> PromptDataLoader:
    """The prompts that were scored, to take means from for those measured, which must be as long."""
    from circuit.engine.batches import ready
    from circuit.engine.dataset import PromptDataLoader, check_one_length

    scored = encoded.dataset(config.split(encoded.usable)[0])
    check_one_length(
        (scored, measured),
        f"'{ablation_type}' averages each token position over the prompts that were scored, so those measured must "
        "have the same number of tokens. Use one length, or another ablation.",
    )
    return ready(model, PromptDataLoader(scored, config.batch_size), ablation_type)


def find_smallest(
    request: MeasureRequest,
    target: float = 0.9,
    *,
    progress: Report = silent,
    cancelled: Cancelled = never,
) -> Curve:
    """The sizes that a search for the smallest circuit keeping `target` of the behaviour comes by, as a curve.

    It is a bisection that tries a few sizes per round, since circuits are cheaper together. It starts between the sizes
    of the request, and ends at neighbouring sizes, the larger of which keeps enough (`Curve.smallest`). Faithfulness
    need not rise with every edge, so a smaller circuit may also do. There may be none: the search does not go beyond
    the edges that the ranking has.

    Raises:
        NumericalError: Where whole and ablated model are too close to compare.
    """
    with prepared(request.config, progress, cancelled, request.rows) as (model, encoded, dataset):
        possible = request.ranked(model.graph).sizes
        most = int(possible[-1])

        def curve_of(sizes: Sequence[int]) -> Curve:
            return _curve(model, encoded, dataset, [replace(request, sizes=tuple(sizes))], silent, cancelled)[0]

        curve = curve_of([min(size, most) for size in (0, *request.sizes, most)])
        steps = Progress(math.ceil(math.log(max(len(possible), 2), _A_ROUND + 1)), progress, cancelled)
        while True:
            kept = curve.faithfulness >= target
            if not kept.any():  # too few edges with a positive score, or not even the whole model
                return curve
            high = curve.sizes[int(np.argmax(kept))]
            below = [size for size in curve.sizes if size < high]
            low = below[-1] if below else 0
            between = possible[(possible > low) & (possible < high)]
            if not len(between):
                return curve
            steps.total = max(steps.total, steps.step + 1)
            wanted = np.geomspace(max(low, 1), high, _A_ROUND + 2)[1:-1]
            nearest = np.searchsorted(between, wanted).clip(0, len(between) - 1)
            curve = curve.with_points(curve_of(between[np.unique(nearest)].tolist()).points)
            steps.advance(f"between {low:,} and {high:,} edges")


_A_ROUND = 4
"""Sizes that the search for the smallest circuit tries at a time."""
