"""The computations behind the lessons of the Learn page, each exact and small enough for a class.

    LESSON           what all lessons work on: indirect objects on the teaching model, half of the pairs held out
    lesson_graph     the teaching model's edges, without loading it
    edge_counts      how many edges lead where, to be checked against the formula
    ablate           what the model answers with some edges ablated -> Ablated
    survey           for every edge the slope of the loss at several masks; for the strongest, what ablating really does
    loss_curve       the loss as a function of one edge's mask -> LossCurve
    rivals           the circuits that two algorithms would pick, measured
    measure_edges    the circuit of edges that somebody picked, measured

Requests are plain and hashable, so that an answer is computed once for everybody. Like `circuit.jobs.attribute`, this
file is imported by the web process, and what needs torch is imported inside the functions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32

from circuit.common.progress import Cancelled, Progress, Report, never, silent
from circuit.edges.graph import RESID_END, EdgeGraph
from circuit.edges.method import DEFAULT_METHOD, Method
from circuit.edges.ranking import top_edges
from circuit.jobs.measure import MeasureRequest, measure, measure_all
from circuit.jobs.prepare import prepared, words_of
from circuit.models import teaching
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.faithfulness import Curve

LESSON = RunConfig("teaching", PRESETS["teaching-ioi"].prompts, Method(), held_out=0.5)
"""Scores come from one half of the pairs; circuits are measured on the other."""

EAP = Method()
INTEGRATED = DEFAULT_METHOD
RIVALS = {"attribution patching": EAP, "integrated gradients": INTEGRATED}
"""The algorithms that the game is played against."""

MEASURED = 26
"""Of how many edges, the strongest by either score, a survey measures the real effect: a tenth of the model's."""


# --- the model's edges ---------------------------------------------------------------------------------------------


@cache
def lesson_graph() -> EdgeGraph:
    """The teaching model's edges, from its config.json."""
    config = json.loads((teaching.FOLDER / "config.json").read_text("utf-8"))
    return EdgeGraph(config["n_layer"], config["n_head"], config["n_head"])


def scored_rows(config: RunConfig) -> tuple[int, ...]:
    """The rows that scores come from."""
    return tuple(config.split(range(len(config.prompts)))[0])


def measured_rows(config: RunConfig) -> tuple[int, ...]:
    """The rows that circuits are measured on: those held out from the scores."""
    return tuple(config.split(range(len(config.prompts)))[1])


@dataclass(frozen=True)
class EdgeCount:
    """Destinations of one kind in one layer, and how many sources each of them reads."""

    layer: int
    what: str
    destinations: int
    sources: int

    @property
    def edges(self) -> int:
        return self.destinations * self.sources


def edge_counts(graph: EdgeGraph) -> list[EdgeCount]:
    """The graph's edges by layer: into the heads' queries, keys and values, the MLP, and the final residual."""
    counts: list[EdgeCount] = []
    for layer in range(graph.n_layers):
        blocks = [block for block in graph.blocks if block.layer == layer]
        heads, mlp = [block for block in blocks if block.has_heads], blocks[-1]
        counts += [
            EdgeCount(layer, "Q, K, V", sum(block.n_rows for block in heads), heads[0].n_sources),
            EdgeCount(layer, "MLP", mlp.n_rows, mlp.n_sources),
        ]
    return [*counts, EdgeCount(graph.n_layers, RESID_END, 1, graph.n_sources)]


# --- ablating by hand ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AblateRequest:
    """Edges to ablate together, on some rows of the prompt set."""

    config: RunConfig
    rows: tuple[int, ...]
    edges: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """What the model says after a prompt: means over prompts."""

    probability: float
    """Of the right answers."""
    wrong: float
    """Of the wrong answers."""
    difference: float
    """The method's answer value: for `logit` and `avg_diff`, right minus wrong in logits."""


@dataclass(frozen=True)
class Ablated:
    """The whole model on the clean and on the corrupt prompts, and the model on the clean ones with edges ablated."""

    clean: Answer
    corrupt: Answer
    present: Answer
    top: tuple[tuple[str, float], ...]
    """The likeliest next tokens after the first prompt, with the edges ablated, and their probabilities."""


def ablate(request: AblateRequest, *, progress: Report = silent, cancelled: Cancelled = never) -> Ablated:
    """Three forward passes: clean, corrupt, and clean with the edges' masks at 1.

    Raises:
        OptionError: An edge that the model does not have.
        PromptError: No row that can be used.
    """
    import torch

    from circuit.engine.ablation import Ablation
    from circuit.engine.dataset import AnswerTokens, PromptDataLoader
    from circuit.engine.loss import prompt_values
    from circuit.engine.patching import masked_logits

    method = request.config.method
    with prepared(request.config, progress, cancelled, request.rows) as (model, _, dataset), torch.no_grad():
        loader = PromptDataLoader(dataset, len(dataset))
        (batch,) = (batch.to(model.device) for batch in loader)
        ablated = Ablation(model, loader, method.ablation_type).of(batch, method.clean_corrupt)
        mask = _mask(model.graph, dict.fromkeys(request.edges, 1.0))
        outputs = {
            "clean": model.logits(batch.clean, batch.last),
            "corrupt": model.logits(batch.corrupt, batch.last),
            "present": masked_logits(model, batch.clean, batch.last, ablated, mask),
        }
        assert isinstance(batch.answers, AnswerTokens)
        answers: dict[str, Answer] = {}
        for name, logits in outputs.items():
            shares = logits.float().softmax(-1)
            values = prompt_values(logits, batch, method)
            means = (batch.answers.mean(shares), batch.wrong_answers.mean(shares), values)
            answers[name] = Answer(*(float(part.mean()) for part in means))
        words = words_of(model)
        shares, tokens = outputs["present"][0].float().softmax(-1).topk(5)
        top = tuple((words.piece(i), share) for i, share in zip(tokens.tolist(), shares.tolist(), strict=True))
        return Ablated(**answers, top=top)


def _mask(graph: EdgeGraph, values: Mapping[int, float]) -> Float32[np.ndarray, " n_edges"]:
    """A mask value on some edges, 0 on all others."""
    graph.check_edges(values)
    mask = np.zeros(graph.n_edges, dtype=np.float32)
    mask[list(values)] = list(values.values())
    return mask


# --- slopes, and what they promise ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class SurveyRequest:
    """`n_samples` + 1 evenly spaced mask values, from 0 to 1."""

    config: RunConfig
    n_samples: int = 10


@dataclass(frozen=True)
class Survey:
    """Slopes of the loss with respect to every edge's mask, with all masks at m; and some edges' real effects."""

    m: Float[np.ndarray, " points"]
    slopes: Float32[np.ndarray, "points n_edges"]
    effects: Mapping[int, float]
    """For the strongest edges: L(1) - L(0) when that edge alone is ablated."""

    @property
    def at_zero(self) -> Float32[np.ndarray, " n_edges"]:
        """Edge attribution patching: the slope at the untouched model."""
        return self.slopes[0]

    @cached_property
    def integrated(self) -> Float32[np.ndarray, " n_edges"]:
        """Integrated gradients: the mean slope, by the trapezoid rule."""
        return np.trapezoid(self.slopes, self.m, axis=0).astype(np.float32)

    @property
    def misleading(self) -> int:
        """Of the edges measured, the one whose effect is farthest from the slope at 0."""
        return max(self.effects, key=lambda edge: abs(self.effects[edge] - self.at_zero[edge]))

    @property
    def honest(self) -> int:
        """Of the edges measured that do something, the one whose effect is closest to the slope at 0, in proportion."""
        least = 0.01 * max(map(abs, self.effects.values()))
        enough = [edge for edge, effect in self.effects.items() if abs(effect) >= least]
        return min(enough, key=lambda edge: abs(self.effects[edge] - self.at_zero[edge]) / abs(self.effects[edge]))


def survey(request: SurveyRequest, *, progress: Report = silent, cancelled: Cancelled = never) -> Survey:
    """A forward and a backward pass a mask value, for all edges at once, and a forward pass for each real effect."""
    from circuit.engine.dataset import PromptDataLoader
    from circuit.engine.effects import edge_effects
    from circuit.engine.mask_gradient import score_edges

    method = request.config.method
    m = np.linspace(0, 1, request.n_samples + 1)
    with prepared(request.config, progress, cancelled) as (model, _, dataset):
        loader = PromptDataLoader(dataset, request.config.batch_size)
        steps = Progress(len(m) + 1, progress, cancelled)
        slopes = []
        for value in m.tolist():
            steps.check()
            at = replace(method, mask_val=value, integrated_grad_samples=None)
            slopes.append(model.graph.flatten(score_edges(model, loader, at, cancelled=cancelled)))
            steps.advance(f"slopes of all edges at m = {value:.2g}")
        found = Survey(m, np.stack(slopes), {})
        strongest = top_edges(np.maximum(np.abs(found.at_zero), np.abs(found.integrated)), MEASURED).tolist()
        effects = edge_effects(model, loader, strongest, method, cancelled=cancelled)
        steps.advance(f"real effects of {len(effects)} edges")
        return Survey(m, found.slopes, effects)


@dataclass(frozen=True)
class CurveRequest:
    """One edge, and how many steps its mask takes from 0 to 1."""

    config: RunConfig
    edge: int
    steps: int = 20


Shape = Literal["straight", "bent", "flat", "steeper", "flattens", "turns", "wrong sign"]
"""`bent` ends where the tangent does and is elsewhere on the way; a curve that `turns` rises and falls."""


@dataclass(frozen=True)
class LossCurve:
    """L(m): the loss, mean over prompts, with mask m on one edge and 0 on all others."""

    m: Float[np.ndarray, " points"]
    loss: Float[np.ndarray, " points"]

    @property
    def effect(self) -> float:
        """L(1) - L(0): the rise of the loss when the edge is ablated, which is also the mean slope of the curve."""
        return float(self.loss[-1] - self.loss[0])

    @property
    def slopes(self) -> Float[np.ndarray, " steps"]:
        """The slope between neighbouring points. As the steps are equal, their mean is `effect`."""
        return np.diff(self.loss) / np.diff(self.m)

    def off(self, slope: float) -> float:
        """How far the curve gets from the tangent with this slope at 0, as a share of the curve's largest change."""
        change = self.loss - self.loss[0]
        largest = float(np.abs(change).max())
        return float(np.abs(change - slope * self.m).max()) / largest if largest else 0.0

    def shape(self, slope: float) -> Shape:
        """How the curve goes on from its slope at 0."""
        steps = np.diff(self.loss)
        rises, falls = float(steps[steps > 0].sum()), -float(steps[steps < 0].sum())
        if slope * self.effect < 0:
            return "wrong sign"
        if min(rises, falls) > 0.1 * (rises + falls):
            return "turns"
        if self.off(slope) <= 0.15:
            return "straight"
        if abs(slope) <= abs(self.effect) / 3:
            return "flat"
        times = self.effect / slope
        return "bent" if 0.8 <= times <= 1.25 else "steeper" if times > 1 else "flattens"


def loss_curve(request: CurveRequest, *, progress: Report = silent, cancelled: Cancelled = never) -> LossCurve:
    """One forward pass a mask value and batch.

    Raises:
        OptionError: An edge that the model does not have.
    """
    from circuit.engine.ablation import Ablation
    from circuit.engine.batches import ready
    from circuit.engine.dataset import PromptDataLoader
    from circuit.engine.loss import loss
    from circuit.engine.patching import masked_logits

    method = request.config.method
    m = np.linspace(0, 1, request.steps + 1)
    total = np.zeros(len(m))
    with prepared(request.config, progress, cancelled) as (model, _, dataset):
        loader = ready(model, PromptDataLoader(dataset, request.config.batch_size), method.ablation_type)
        ablation = Ablation(model, loader, method.ablation_type)
        steps = Progress(len(loader) * len(m), progress, cancelled)
        for batch in loader:
            batch = batch.to(model.device)
            ablated = ablation.of(batch, method.clean_corrupt)
            for i, value in enumerate(m.tolist()):
                steps.check()
                mask = _mask(model.graph, {request.edge: value})
                logits = masked_logits(model, batch.clean, batch.last, ablated, mask)
                total[i] += float(loss(logits, batch, method))
                steps.advance(f"m = {value:.2g}")
        return LossCurve(m, total / len(dataset))


# --- a circuit picked by hand --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RivalsRequest:
    """Circuits of 1 to `most` edges."""

    config: RunConfig
    most: int = MEASURED


@dataclass(frozen=True)
class Rival:
    """One algorithm's scores, and its circuits measured on the pairs held out."""

    scores: Float32[np.ndarray, " n_edges"]
    curve: Curve


def rivals(request: RivalsRequest, *, progress: Report = silent, cancelled: Cancelled = never) -> dict[str, Rival]:
    """Scores by each of `RIVALS`, and the circuits of their strongest edges."""
    from circuit.engine.dataset import PromptDataLoader
    from circuit.engine.mask_gradient import score_edges

    config = request.config
    with prepared(config, progress, cancelled) as (model, _, dataset):
        loader = PromptDataLoader(dataset, config.batch_size)
        scores = [model.graph.flatten(score_edges(model, loader, method)) for method in RIVALS.values()]
    sizes, rows = tuple(range(1, request.most + 1)), measured_rows(config)
    requests = [MeasureRequest(config, each, sizes, rows=rows) for each in scores]
    curves = measure_all(requests, progress=progress, cancelled=cancelled)
    return {name: Rival(of, curve) for name, of, curve in zip(RIVALS, scores, curves, strict=True)}


@dataclass(frozen=True)
class PickRequest:
    """The edges of a circuit."""

    config: RunConfig
    edges: tuple[int, ...]


def measure_edges(request: PickRequest, *, progress: Report = silent, cancelled: Cancelled = never) -> Curve:
    """The circuit of these edges on the pairs held out, as a curve of one point."""
    graph = lesson_graph()
    picked = np.zeros(graph.n_edges, dtype=np.float32)
    picked[list(request.edges)] = 1
    rows = measured_rows(request.config)
    asked = MeasureRequest(request.config, picked, (len(request.edges),), rows=rows)
    return measure(asked, progress=progress, cancelled=cancelled)


def points(faithfulness: float, n_edges: int) -> int:
    """The game's score: 100 for the whole model's behaviour, less in proportion for less or for more of it, and one
    less for every edge used."""
    return max(0, round(100 * (1 - abs(1 - faithfulness))) - n_edges)
