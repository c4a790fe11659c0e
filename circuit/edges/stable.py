"""Which edges other draws of the same prompts would give too, read off the scores of every prompt alone.

    sign_shares      how often an edge's mean score keeps its sign where the prompts are drawn anew
    certify_edges    which edges of a circuit are in the circuits of most halves of the prompts -> Certificate
    circuits_of      the circuits of several draws of the prompts, of every size -> Circuits
    halves           random halves of the prompts

    per_prompt = graph.flatten(circuit.prompt_scores(model, loader, method), per_prompt=True)
    holds = sign_shares(per_prompt) >= 0.95
    found = certify_edges(graph, per_prompt, 50, rank="signed", rule="connected", share=0.9)
    found.certified, found.rejected, found.abstentions

**What is certified.** Take every half of these prompts, choose a circuit of at most `n` edges from the half's mean
scores by one rank and rule (`choose_edges`), and ask which share of the halves' circuits hold an edge. Some halves are
drawn at random, independently of each other, so the number of those that hold it is binomial, and the one-sided bounds
of Clopper and Pearson on the share are exact. An edge is *certified* where the lower bound reaches the share that was
asked for, *rejected* where the upper bound lies below it, and an *abstention* where these draws do not tell.

**How sure that is.** An edge whose true share is smaller is certified, and an edge whose true share is as large is
rejected, with a probability of at most `1 - confidence`. That holds for each edge by itself: of many edges close to the
line, some will end on the wrong side of it. And it is about halves of these prompts. It says nothing about new prompts,
nor about what an edge does, which only ablating it shows.

The certificates follow Anani et al. 2026 (https://arxiv.org/abs/2602.22968), who go on from such a share to how many
prompts may be added, removed or replaced, which is not done here. Edges whose sign survives a bootstrap are those of
https://arxiv.org/abs/2510.25786. Neither needs another pass of the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32

from circuit.common.errors import OptionError, PromptError
from circuit.common.interval import FEWEST, resamples, share_bounds
from circuit.common.progress import Progress
from circuit.edges.choose import Ranked, SelectionRule, choose_edges, rank_edges
from circuit.edges.graph import EdgeGraph
from circuit.edges.ranking import Importance, top_edges

Verdict = Literal["certified", "rejected", "abstention"]

NO_EDGE = -1

_CHUNK = 1 << 20
"""Numbers of a product of draws and scores that are held at once."""


@dataclass(frozen=True)
class Circuits:
    """The circuits of several draws of the prompts, of every size up to a largest one.

    Attributes:
        edges: Each draw's edges in the order in which circuits take them; `NO_EDGE` where no more can be chosen.
        ends: Whether a circuit ends after the first `k` of them. By `"top"` it does after each.
    """

    edges: Int32[np.ndarray, "draws most"]
    ends: Bool[np.ndarray, "draws sizes"]

    def counts(self, n: int) -> dict[int, int]:
        """In how many draws an edge is in the circuit of at most `n` edges; edges that are in none are left out."""
        places = np.arange(self.ends.shape[1])
        size = np.where(self.ends & (places <= n), places, 0).max(axis=1)
        edges, counts = np.unique(self.edges[places[:-1] < size[:, None]], return_counts=True)
        return dict(zip(edges.tolist(), counts.tolist(), strict=True))


@dataclass(frozen=True)
class Certificate:
    """Which of some edges are in the circuits of a share of all halves of the prompts: see the module's docstring.

    Attributes:
        edges: The edges that are asked about.
        held: For each, how many of the halves drawn have it in their circuit.
        n_subsets: How many halves were drawn.
        share: The share of all halves that is asked for.
        confidence: How sure each verdict is.
    """

    edges: Int[np.ndarray, " n"]
    held: Int[np.ndarray, " n"]
    n_subsets: int
    share: float
    confidence: float

    def __post_init__(self) -> None:
        _check_share(self.share, self.confidence, self.n_subsets)

    @cached_property
    def bounds(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """For each edge, the lower and the upper bound of its share of all halves: exact, each one-sided."""
        return share_bounds(self.held, self.n_subsets, self.confidence)

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """For each edge: certified, rejected, or an abstention."""
        return tuple(
            "certified" if low >= self.share else "rejected" if high < self.share else "abstention"
            for low, high in zip(*self.bounds, strict=True)
        )

    def of(self, verdict: Verdict) -> Int[np.ndarray, " n_such"]:
        """The edges of this verdict, in their order."""
        return self.edges[np.array([each == verdict for each in self.verdicts], dtype=bool)]

    @property
    def certified(self) -> Int[np.ndarray, " n_certified"]:
        return self.of("certified")

    @property
    def rejected(self) -> Int[np.ndarray, " n_rejected"]:
        return self.of("rejected")

    @property
    def abstentions(self) -> Int[np.ndarray, " n_abstentions"]:
        return self.of("abstention")


def sign_shares(
    per_prompt: Float32[np.ndarray, "n_prompts n_edges"], n_draws: int = 1000, seed: int = 0
) -> Float64[np.ndarray, " n_edges"]:
    """For every edge, the share of bootstrap draws of the prompts whose mean score has the sign of the mean over all.

    Args:
        per_prompt: Scores, as `graph.flatten(prompt_scores(...), per_prompt=True)` gives them, in units of the loss.
        n_draws: How often as many prompts are drawn, with replacement.
        seed: Of the draws.

    Raises:
        PromptError: Fewer prompts than `circuit.common.interval.FEWEST`.
    """
    n_prompts, n_edges = _checked(per_prompt).shape
    weights = resamples(n_prompts, n_draws, seed)
    found = np.empty(n_edges)
    for part in _chunks(n_edges, max(n_draws, n_prompts)):
        scores = per_prompt[:, part].astype(np.float64)
        found[part] = (np.sign(weights @ scores) == np.sign(scores.mean(axis=0))).mean(axis=0)
    return found


def certify_edges(
    graph: EdgeGraph,
    per_prompt: Float32[np.ndarray, "n_prompts n_edges"],
    n: int,
    rank: Importance = "absolute",
    rule: SelectionRule = "top",
    share: float = 0.9,
    confidence: float = 0.95,
    n_subsets: int = 200,
    seed: int = 0,
) -> Certificate:
    """Which edges of the circuit are in the circuits of at least this share of all halves of the prompts.

    Args:
        graph: The model's edges, with token positions added up.
        per_prompt: Scores, as `graph.flatten(prompt_scores(...), per_prompt=True)` gives them, in units of the loss.
        n: How many edges to choose, of all prompts and of each half: see `choose_edges`.
        rank: What makes an edge strong.
        rule: How edges are chosen. Every half's circuit follows it.
        share: The share of all halves that an edge must be in.
        confidence: Of each edge's verdict by itself.
        n_subsets: How many halves are drawn: the more, the fewer abstentions.
        seed: Of the draws.

    Returns:
        A verdict on each edge of the circuit that all prompts give, strongest first.

    Raises:
        OptionError: A rank, rule or `n` that `choose_edges` refuses, scores of another model, or a share that so few
            halves can never certify.
        PromptError: Fewer prompts than `circuit.common.interval.FEWEST`.
        NumericalError: A score that is not finite.
    """
    if _checked(per_prompt).shape[1] != graph.n_edges:
        raise OptionError(f"There are scores of {per_prompt.shape[1]:,} edges, and this model has {graph.n_edges:,}.")
    _check_share(share, confidence, n_subsets)
    chosen = choose_edges(graph, per_prompt.mean(axis=0), n, rank, rule)
    circuits = circuits_of(graph, per_prompt, halves(len(per_prompt), n_subsets, seed), n, rank, rule)
    return certificate(chosen, circuits, n, share, confidence)


def certificate(
    edges: Int[np.ndarray, " n"], halved: Circuits, n: int, share: float = 0.9, confidence: float = 0.95
) -> Certificate:
    """Verdicts on `edges` from the circuits of halves of the prompts, of at most `n` edges.

    Raises:
        OptionError: As `certify_edges`.
    """
    counts = halved.counts(n)
    held = np.array([counts.get(edge, 0) for edge in edges.tolist()], dtype=np.int64)
    return Certificate(edges, held, len(halved.edges), share, confidence)


def halves(n_prompts: int, n_subsets: int, seed: int = 0) -> Float32[np.ndarray, "n_subsets n_prompts"]:
    """Weights of the prompts in random halves of them: of `n_prompts // 2` prompts, each half drawn anew and without
    replacement. Each row adds up to 1."""
    random = np.random.default_rng(seed)
    weights = np.zeros((n_subsets, n_prompts), dtype=np.float32)
    for row in weights:
        row[random.choice(n_prompts, n_prompts // 2, replace=False)] = 1 / (n_prompts // 2)
    return weights


def circuits_of(
    graph: EdgeGraph,
    per_prompt: Float32[np.ndarray, "n_prompts n_edges"],
    weights: Float32[np.ndarray, "draws n_prompts"],
    most: int,
    rank: Importance = "absolute",
    rule: SelectionRule = "top",
    progress: Progress | None = None,
) -> Circuits:
    """The circuits of up to `most` edges that each draw of the prompts gives.

    Args:
        graph: The model's edges.
        per_prompt: The scores of every prompt.
        weights: What each prompt counts in each draw, adding up to 1.
        most: The largest circuit.
        rank: What makes an edge strong.
        rule: How edges are chosen.
        progress: Advances by a step for each draw.

    Raises:
        OptionError, NumericalError: As `choose_edges`.
        JobCancelled: Where `progress` is asked to stop.
    """
    steps = progress or Progress(len(weights))
    edges = np.full((len(weights), most), NO_EDGE, dtype=np.int32)
    ends = np.zeros((len(weights), most + 1), dtype=bool)
    for part in _chunks(len(weights), graph.n_edges):
        for number, scores in enumerate(weights[part] @ per_prompt, start=part.start):
            steps.check()
            ranked = _first(graph, scores, most, rank, rule)
            edges[number, : len(ranked.edges)] = ranked.edges
            ends[number, ranked.sizes] = True
            steps.advance(f"draw {number + 1} of {len(weights)}")
    return Circuits(edges, ends)


def _first(graph: EdgeGraph, scores: np.ndarray, most: int, rank: Importance, rule: SelectionRule) -> Ranked:
    """The first `most` edges, and the sizes of circuits among them."""
    if rule == "top":  # without sorting the others
        edges = top_edges(scores, most, rank)
        return Ranked(edges, np.arange(len(edges) + 1))
    ranked = rank_edges(graph, scores, rank, rule)
    return Ranked(ranked.edges[:most], ranked.sizes[ranked.sizes <= most])


def _checked(per_prompt: np.ndarray) -> np.ndarray:
    if per_prompt.ndim != 2:
        raise OptionError(
            f"Scores of every prompt have shape [n_prompts, n_edges], and these {list(per_prompt.shape)}."
        )
    if len(per_prompt) < FEWEST:
        raise PromptError(f"{len(per_prompt)} prompts are too few to draw from: at least {FEWEST} are needed.")
    return per_prompt


def _check_share(share: float, confidence: float, n_subsets: int) -> None:
    if not 0 < share < 1 or not 0.5 <= confidence < 1:
        raise OptionError(
            "The share must lie between 0 and 1, and the confidence be at least 0.5 and less than 1; they are "
            f"{share} and {confidence}."
        )
    least = math.ceil(math.log(1 - confidence) / math.log(share))
    if n_subsets < least:
        raise OptionError(
            f"{n_subsets} subsets can certify nothing: at a share of {share:.0%} and a confidence of {confidence:.0%} "
            f"it takes at least {least}."
        )


def _chunks(n: int, width: int) -> list[slice]:
    """`n` things in parts, so that a part of them times `width` numbers fit into the memory meant for it."""
    step = max(1, _CHUNK // max(width, 1))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]
