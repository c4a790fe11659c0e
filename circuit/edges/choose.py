"""Which edges make a circuit: the strongest by themselves, or the strongest that hang together.

    choose_edges       edges by rank and rule, strongest first
    rank_edges         all of them in that order, with the sizes at which a circuit ends -> Ranked
    strength_through   for every edge, the strength of the strongest path that it lies on

    edges = choose_edges(graph, flat, 50, rank="signed", rule="connected")
    ranked = rank_edges(graph, flat, rank="signed", rule="connected")
    ranked.first(50), ranked.sizes[:4]                              # the same edges; (0, 7, 8, 12)

Ranked by themselves, the strongest edges of a large model often lie on no path from the embedding to the final
residual, so a circuit of them computes nothing. Two rules give circuits without dead ends at every size:

- `"connected"` lowers a threshold and keeps the edges above it that lie on a path of such edges. That is the circuit
  that greedy search grows from the final residual, best edge first (Hanna et al. 2024,
  https://arxiv.org/abs/2403.17806), without what no path from the embedding reaches. An edge's place follows from its
  strongest path, where a path is as strong as its weakest edge.
- `"paths"` adds whole paths, the strongest first, where a path is as strong as the product of its edges' shares: an
  edge's share is its part of what all edges into the same destination are worth.

Either takes one pass forward and one back over the model's blocks, whatever the number of edges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64, Int

from circuit.common.errors import OptionError
from circuit.edges.graph import EdgeGraph, ScoreBlock
from circuit.edges.ranking import Importance, strength_of, top_edges

SelectionRule = Literal["top", "connected", "paths"]
"""How edges are chosen: the strongest one by one, or so that each lies on a path through the circuit."""

_TIE = 1e-9
"""Edges of one path get its strength by sums in another order, and tie within this."""


@dataclass(frozen=True)
class Ranked:
    """Edges in the order in which circuits take them.

    Attributes:
        edges: All that can be chosen, strongest first.
        sizes: The sizes of circuits, smallest first and 0 among them: by `"top"` every number, by the other rules those
            at which no path is cut in two.
    """

    edges: Int[np.ndarray, " n_edges"]
    sizes: Int[np.ndarray, " n_sizes"]

    def first(self, n: int) -> Int[np.ndarray, " n_chosen"]:
        """The largest circuit of at most `n` edges."""
        return self.edges[: self.size_within(n)]

    def size_within(self, n: int) -> int:
        """The largest size of at most `n` edges."""
        return int(self.sizes[np.searchsorted(self.sizes, n, side="right") - 1])


@dataclass(frozen=True)
class _Paths:
    """What the strength of a path is: `join` combines strengths along it, and `whole` is that of no edge at all."""

    join: Callable[[np.ndarray, np.ndarray], np.ndarray]
    whole: float


_WEAKEST = _Paths(np.minimum, np.inf)
_PRODUCT = _Paths(np.add, 0.0)  # of logarithms


def choose_edges(
    graph: EdgeGraph,
    scores: Float64[np.ndarray, " n_edges"],
    n: int,
    rank: Importance = "absolute",
    rule: SelectionRule = "top",
) -> Int[np.ndarray, " n_chosen"]:
    """At most `n` edges, strongest first.

    Args:
        graph: The model's edges.
        scores: One score per edge, as `graph.flatten` returns them, in units of the loss.
        n: How many edges to choose. `"top"` chooses exactly this many, except by positive score only: then no more than
            have one. The other rules never cut a path in two, so they may choose fewer, and none where the shortest
            way through the model is longer.
        rank: What makes an edge strong: see `Importance`.
        rule: See `SelectionRule`. Circuits of a rule are nested: a larger one holds every smaller one.

    Returns:
        Numbers of edges. By `"connected"` and `"paths"`, every one of them lies on a path of chosen edges from
        `Resid Start` to `Resid End`.

    Raises:
        OptionError: A rule or rank that does not exist, or an `n` that no circuit of this model has.
        NumericalError: A score that is not finite.
    """
    if not 0 <= n <= graph.n_edges:
        raise OptionError(
            f"A circuit of this model has between 0 and {graph.n_edges:,} edges, and {n:,} were asked for."
        )
    return rank_edges(graph, scores, rank, rule).first(n)


def rank_edges(
    graph: EdgeGraph,
    scores: Float64[np.ndarray, " n_edges"],
    rank: Importance = "absolute",
    rule: SelectionRule = "top",
) -> Ranked:
    """All edges in the order in which `choose_edges` takes them.

    Args and errors are those of `choose_edges`. The cost is one sort of all edges.
    """
    if rule not in get_args(SelectionRule):
        raise OptionError(f"rule must be 'top', 'connected' or 'paths', and is {rule!r}.")
    if rule == "top":
        edges = top_edges(scores, len(scores), rank)
        return Ranked(edges, np.arange(len(edges) + 1))
    own = _own_strength(scores, rank)
    through = strength_through(graph, own if rule == "connected" else _log_shares(graph, own), rule)
    edges = np.flatnonzero(through > -np.inf)
    edges = edges[np.lexsort((edges, -own[edges], -through[edges]))]
    tie = 0.0 if rule == "connected" else _TIE
    ends = np.flatnonzero(through[edges][:-1] - through[edges][1:] > tie) + 1
    return Ranked(edges, np.unique([0, *ends.tolist(), len(edges)]))


def strength_through(
    graph: EdgeGraph, values: Float64[np.ndarray, " n_edges"], rule: Literal["connected", "paths"]
) -> Float64[np.ndarray, " n_edges"]:
    """For every edge, the strength of the strongest path from `Resid Start` to `Resid End` that it lies on.

    Args:
        graph: The model's edges.
        values: For `"connected"`, each edge's own strength: a path is as strong as its weakest edge. For `"paths"`,
            logarithms of strengths, which a path adds up.
        rule: See the module's docstring.

    Returns:
        Strengths; minus infinity where no path of edges with finite values goes through the edge. What a path follows
        is said at `live_edges`.
    """
    paths = _WEAKEST if rule == "connected" else _PRODUCT
    blocks = [(block, _of_block(graph, values, block)) for block in graph.blocks]
    written = _from_start(graph, blocks, paths)
    needed = _to_end(graph, blocks, paths)
    through = [
        paths.join(paths.join(written[: block.n_sources].T[:, None, :], part), needed[_rows(block)].T[:, :, None])
        for block, part in blocks
    ]
    return np.concatenate([part.ravel() for part in through])


_Blocks = list[tuple[ScoreBlock, np.ndarray]]
"""Each block of the model with its values: [positions, rows, sources]."""


def _of_block(graph: EdgeGraph, values: np.ndarray, block: ScoreBlock) -> np.ndarray:
    shape = (graph.seq_len or 1, block.n_rows, block.n_sources)
    return values[block.first_edge : block.first_edge + int(np.prod(shape))].reshape(shape)


def _rows(block: ScoreBlock) -> slice:
    return slice(block.first_destination, block.first_destination + block.n_rows)


def _from_start(graph: EdgeGraph, blocks: _Blocks, paths: _Paths) -> Float64[np.ndarray, "n_sources positions"]:
    """The strength of the strongest path from the embedding to what each source writes."""
    written = np.full((graph.n_sources, graph.seq_len or 1), -np.inf)
    written[0] = paths.whole
    for block, part in blocks:
        read = paths.join(written[: block.n_sources].T[:, None, :], part).max(axis=-1).T
        first = graph.first_head(block.layer)
        heads = slice(first, first + graph.n_heads)
        if block.kind == "MLP":
            written[heads.stop] = read[0]
        elif block.kind != "Final":
            if block.kind != "Q":  # keys and values feed later positions, and every head of their group
                read = np.maximum.accumulate(read, axis=1).repeat(graph.group, axis=0)
            np.maximum(written[heads], read, out=written[heads])
    return written


def _to_end(graph: EdgeGraph, blocks: _Blocks, paths: _Paths) -> Float64[np.ndarray, "n_destinations positions"]:
    """The strength of the strongest path from what each destination reads to the final residual."""
    used = np.full((graph.n_sources, graph.seq_len or 1), -np.inf)
    needed = np.full((len(graph.destinations), graph.seq_len or 1), -np.inf)
    for block, part in reversed(blocks):
        first = graph.first_head(block.layer)
        heads = slice(first, first + graph.n_heads)
        if block.kind == "Final":
            read = np.full((1, graph.seq_len or 1), paths.whole)
        elif block.kind == "MLP":
            read = used[heads.stop][None]
        elif block.kind == "Q":
            read = used[heads]
        else:
            of_group = used[heads].reshape(graph.n_kv_heads, graph.group, -1).max(axis=1)
            read = np.flip(np.maximum.accumulate(np.flip(of_group, axis=1), axis=1), axis=1)
        needed[_rows(block)] = read
        leads = paths.join(part, read.T[:, :, None]).max(axis=1).T
        np.maximum(used[: block.n_sources], leads, out=used[: block.n_sources])
    return needed


def _own_strength(scores: np.ndarray, rank: Importance) -> Float64[np.ndarray, " n_edges"]:
    """Each edge's own strength by this rank; minus infinity for an edge that must not be chosen."""
    strength = strength_of(scores, rank).astype(np.float64)
    return np.where(strength > 0, strength, -np.inf) if rank == "positive" else strength


def _log_shares(graph: EdgeGraph, own: np.ndarray) -> Float64[np.ndarray, " n_edges"]:
    """Logarithms of each edge's share of what all edges into its destination are worth; what hinders has none."""
    positive = np.maximum(own, 0)
    place = graph.edge_destination * (graph.seq_len or 1) + graph.edge_position
    total = np.bincount(place, positive)[place]
    with np.errstate(divide="ignore"):
        return np.log(np.divide(positive, total, out=np.zeros_like(positive), where=total > 0))
