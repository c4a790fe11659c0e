"""Scores learned so that the circuit of the k strongest edges does what the model does, for any k.

learn_scores   stochastic gradient descent over masks of single edges -> PruneScores

method = Method(path="learned", mask_val=None, learning_steps=300)
scores = learn_scores(model, loader, method, start=score_edges(model, loader, DEFAULT_METHOD))

An edge's strength is a number u; at first it is minus the logarithm of the edge's rank by absolute score to start from.
Each step takes some prompts and draws a size k, log-uniformly, and noise. The k edges of which u and noise together are
largest are kept, and all others ablated. The loss is how far the answer value of that circuit is from the whole
model's, prompt by prompt, in units of the distance between the whole and the fully ablated model; large errors count
linearly (Huber), and a circuit that outdoes the model is as wrong as one that falls short. The gradient with respect to
every mask comes from one pass (`circuit.engine.edge_mask_pass`), and goes on to u through the slope of a logistic
function, although the mask itself is 0 or 1 (straight-through); u follows it by Adam, in steps that get smaller.

Relatives: edge pruning (Bhaskar et al. 2024, https://arxiv.org/abs/2406.16778), uniform gradient sampling (Li and
Janson 2024, https://arxiv.org/abs/2409.09951).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor
from torch.nn import functional as F

from circuit.common.errors import NumericalError, OptionError
from circuit.common.progress import Cancelled, Plot, Progress, Report, never, note
from circuit.edges.method import PROMPTS_A_STEP, Method, PatchType
from circuit.engine.ablation import Ablation
from circuit.engine.batches import by_batch, ready
from circuit.engine.dataset import PromptDataLoader, PromptPairBatch
from circuit.engine.edge_mask_pass import EdgeMaskPass
from circuit.engine.loss import check_answers, prompt_values
from circuit.engine.model import PatchableModel, PruneScores, precision_advice
from circuit.engine.patching import circuit_outputs

SMALLEST = 10
"""Circuits of so many edges to half of all edges are drawn."""
TEMPERATURE = 0.3
"""Of the noise and of the logistic function, in units of u: of an edge's share of the logarithm of sizes."""
RATE = 0.1
"""The first steps change u by about this much at most."""
_MOMENTS = (0.8, 0.98)
_QUIET = 1e-3
"""Edges whose gradients are smaller than this share of the largest move less than others."""
_BEND = 0.5
"""Errors count linearly from here on, as a share of the distance between whole and ablated model."""
_LEAST = 1e-6
"""Distances that are a smaller share of the values are none."""
_AVERAGED = 20
"""Steps over which the figures that are plotted are averaged."""


def learn_scores(
    model: PatchableModel,
    loader: PromptDataLoader,
    method: Method,
    start: PruneScores,
    report: Report | None = None,
    cancelled: Cancelled | None = None,
    *,
    sizes: tuple[int, int] | None = None,
    plot: Plot | None = None,
    enough: Cancelled = never,
) -> PruneScores:
    """Learn which edges the circuits of every size need.

    Args:
        model: The model, with token positions added up.
        loader: The prompts; each step takes as many as its batch size says, by default 8.
        method: One of the path `"learned"`: loss, ablation, steps and seed. On one machine, the same seed gives the
            same scores.
        start: Scores to begin with, of any method: edges by absolute score, the largest first.
        report: Called as `report(step, total, message)` after each step.
        cancelled: Asked before each step; where it answers True, `JobCancelled` is raised.
        sizes: The smallest and the largest circuit that is drawn, in edges; None: from 10 to half of all edges.
        plot: Called as `plot(step, error)` after each step: the mean distance of the last circuits' answer values from
            the whole model's, as a share of that between the whole and the ablated model.
        enough: Asked before each step; where it answers True, the scores are those learned by then.

    Returns:
        Scores by destination module: see `PruneScores`. An edge's absolute score is about one over the size of the
        circuits from which on it belongs to them; its sign is that of `start`, which learning says nothing about.

    Raises:
        OptionError: A method of another path, token positions kept apart, or sizes that are none.
        PromptError, BatchMemoryError, JobCancelled: As `score_edges`.
        NumericalError: Whole and ablated model give the same answers, or a gradient is not finite.
    """
    if method.learning_steps is None:
        raise OptionError(f"Masks are learned by the path 'learned', and the method's is {method.path!r}.")
    method.check_positions(apart=model.seq_len is not None)
    graph = model.graph
    smallest, largest = sizes or (SMALLEST, max(graph.n_edges // 2, SMALLEST))
    if not 1 <= smallest <= largest:
        raise OptionError(f"Sizes are a smallest and a largest number of edges, and are {sizes}.")
    smallest, largest = min(smallest, graph.n_edges), min(largest, graph.n_edges)
    check_answers(loader.dataset, method)
    loader = ready(model, loader.with_batch_size(loader.batch_size or PROMPTS_A_STEP), method.ablation_type)
    before = 2 * (len(loader) + Ablation.n_passes(loader, method.ablation_type))
    steps = Progress(before + method.learning_steps, report, cancelled)
    ends = _Ends.measured(model, loader, method, steps)
    ablation = Ablation(model, loader, method.ablation_type, steps, streams=False)
    learner = _Learner(graph.flatten(start), method.learning_seed, method.learning_steps)
    errors: deque[float] = deque(maxlen=_AVERAGED)

    def step(batch: PromptPairBatch) -> tuple[Float32[Tensor, " n_edges"], float]:
        """The gradient at the drawn circuit, and how far it is from the model."""
        steps.check()
        kept = learner.drawn.kept.to(model.device)
        ablated = ablation.of(batch, method.clean_corrupt)
        aim, scale = ends.whole[learner.rows_of(batch)].to(model.device), ends.distance
        error = 0.0

        def distance(logits: Tensor) -> Tensor:
            nonlocal error
            values = prompt_values(logits, batch, method)
            error = float((values - aim).detach().mean().abs() / scale)
            return F.huber_loss(values / scale, aim / scale, delta=_BEND)

        gradient = EdgeMaskPass(model, batch, ablated, 1 - kept.float()).run(distance).cpu()
        if not gradient.isfinite().all():
            raise NumericalError(
                f"A gradient that is not finite appeared in step {learner.step + 1}. {precision_advice(model)}"
            )
        return -gradient, error

    while learner.step < method.learning_steps and not enough():
        shuffled = loader.dataset.of_rows(learner.shuffle(len(loader.dataset)))
        learner.draw(smallest, largest)
        for _, (gradient, error) in by_batch(model, PromptDataLoader(shuffled, loader.batch_size), step, steps):
            learner.follow(gradient)
            errors.append(error)
            if plot is not None:
                plot(learner.step, sum(errors) / len(errors))
            steps.advance(f"step {learner.step} of {method.learning_steps}: circuit of {learner.drawn.size:,} edges")
            if learner.step >= method.learning_steps or enough():
                break
            learner.draw(smallest, largest)
    if learner.step < method.learning_steps:
        note(f"Learning was ended after {learner.step:,} of {method.learning_steps:,} steps.")
    return graph.unflatten(learner.scores())


@dataclass(frozen=True)
class _Ends:
    """The answer value of the whole model on every prompt, and the mean distance to it of the fully ablated one."""

    whole: Float32[Tensor, " n_prompts"]
    distance: float

    @classmethod
    def measured(cls, model: PatchableModel, loader: PromptDataLoader, method: Method, steps: Progress) -> _Ends:
        n = model.graph.n_edges

        def read(batch: PromptPairBatch, number: int, logits: Tensor) -> Tensor:
            return prompt_values(logits, batch, method).float().cpu()

        found = circuit_outputs(
            model,
            loader,
            [np.ones(n, dtype=bool), np.zeros(n, dtype=bool)],
            PatchType.TREE_PATCH,
            method.ablation_type,
            False,
            steps,
            read,
            patched_in=method.clean_corrupt,
        )
        whole, ablated = (torch.cat(parts) for parts in zip(*found, strict=True))
        distance = float((whole - ablated).mean().abs())
        if distance < _LEAST * float(whole.abs().mean()) or distance == 0:
            raise NumericalError(
                "The whole and the fully ablated model give the same answers on average, so there is nothing to learn: "
                "check that clean and corrupt prompts have different answers."
            )
        return cls(whole, distance)


@dataclass(frozen=True)
class _Drawn:
    """A circuit drawn at random.

    Attributes:
        size: Its number of edges.
        kept: Which edges it has.
        slope: How much likelier an edge becomes to be in it as its strength grows.
    """

    size: int
    kept: Bool[Tensor, " n_edges"]
    slope: Float32[Tensor, " n_edges"]


class _Learner:
    """The strength of every edge, and how it changes.

    Args:
        start: Scores to begin with.
        seed: Of all that is drawn.
        steps: How many there will be.
    """

    drawn: _Drawn

    def __init__(self, start: Float32[np.ndarray, " n_edges"], seed: int, steps: int) -> None:
        order = torch.from_numpy(np.argsort(-np.abs(start), kind="stable"))
        self._strength = torch.empty(len(start))
        self._strength[order] = -torch.arange(1, len(start) + 1).float().log()
        self._signs = torch.from_numpy(np.where(start < 0, -1, 1).astype(np.float32))
        self._generator = torch.Generator().manual_seed(seed)
        self._mean, self._square = torch.zeros(len(start)), torch.zeros(len(start))
        self._steps = steps
        self._rows: list[int] = []
        self.step = 0

    def shuffle(self, n: int) -> list[int]:
        """The prompts in another order."""
        self._rows = torch.randperm(n, generator=self._generator).tolist()
        return self._rows

    def rows_of(self, batch: PromptPairBatch) -> list[int]:
        """The places in the dataset of a batch of the shuffled prompts."""
        return self._rows[batch.rows.start : batch.rows.stop]

    def draw(self, smallest: int, largest: int) -> None:
        """Draw the next circuit, of between so many edges."""
        share = float(torch.rand((), generator=self._generator))
        size = round(math.exp(math.log(smallest) + share * math.log(largest / smallest)))
        uniform = torch.rand(len(self._strength), generator=self._generator).clamp(1e-6, 1 - 1e-6)
        noisy = self._strength + TEMPERATURE * uniform.logit()
        threshold = noisy.topk(size).values[-1]
        likely = torch.sigmoid((noisy - threshold) / TEMPERATURE)
        self.drawn = _Drawn(size, noisy >= threshold, likely * (1 - likely) / TEMPERATURE)

    def follow(self, gradient: Float32[Tensor, " n_edges"]) -> None:
        """Move strengths against the gradient of the distance with respect to what is kept (Adam)."""
        self.step += 1
        gradient = gradient * self.drawn.slope
        self._mean.lerp_(gradient, 1 - _MOMENTS[0])
        self._square.lerp_(gradient**2, 1 - _MOMENTS[1])
        mean = self._mean / (1 - _MOMENTS[0] ** self.step)
        size = (self._square / (1 - _MOMENTS[1] ** self.step)).sqrt()
        rate = RATE * (1 + math.cos(math.pi * self.step / self._steps)) / 2
        self._strength -= rate * mean / (size + _QUIET * size.max() + 1e-12)

    def scores(self) -> Float32[Tensor, " n_edges"]:
        """Strengths as scores."""
        return self._signs * self._strength.exp()
