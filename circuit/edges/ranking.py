"""The edges by importance: which are the strongest, and in what order.

    Importance       what makes an edge important: its absolute score, or the score itself, with its sign or if positive
    top_edges        the n most important edges
    edges_above      the edges whose importance reaches a threshold
    edges_for_share  the fewest edges that hold a share of the total importance
    node_scores      the scores of each source's edges, added up
    edge_mask        a list of edges as one bool per edge of the model
    edge_ranks       each edge's place among all edges of the model
    edge_table       a pandas table of edges, one row each
    readable         such a table with the names that a person reads

Importance is the absolute score, as in Syed et al. 2023 (https://arxiv.org/abs/2310.10348), unless another is asked
for. By `"positive"` edges whose ablation helps the task are never chosen; by `"signed"` they come last, those that
hinder most at the very end.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int

from circuit.common.errors import NumericalError, OptionError
from circuit.edges.graph import INPUT_LABELS, EdgeGraph

Importance = Literal["absolute", "positive", "signed"]
"""By which number edges are chosen: `|score|`; `score` where it is positive (ablating the edge hurts the task); or
`score`, the largest first and the negative ones after all others."""
IMPORTANCE_WORDS: dict[Importance, str] = {
    "absolute": "absolute score",
    "positive": "positive score only",
    "signed": "signed score",
}


def top_edges(
    scores: Float[np.ndarray, " n_edges"], n: int, importance: Importance = "absolute"
) -> Int[np.ndarray, " n_chosen"]:
    """The `n` most important edges, strongest first; of equal ones, the lower index first.

    There are always `n` of them, except by positive score: then no more than the edges with a positive score.

    Raises:
        OptionError: When `n` is negative, or more than there are edges.
        NumericalError: When a score is not finite.
    """
    strength = strength_of(scores, importance)
    if n < 0 or n > len(strength):
        raise OptionError(
            f"A circuit of this model has between 0 and {len(strength):,} edges, and {n:,} were asked for."
        )
    n = min(n, n_rankable(scores, importance))
    if n == 0:
        return np.empty(0, dtype=np.int64)
    # Everything that ties with the n-th strongest is sorted too, so that ties go by index.
    weakest = np.partition(strength, len(strength) - n)[len(strength) - n]
    return _strongest_first(strength, np.flatnonzero(strength >= weakest))[:n]


def n_rankable(scores: Float[np.ndarray, " n_edges"], importance: Importance = "absolute") -> int:
    """How many edges a circuit can have: all, or by positive score only those with a positive score."""
    return int((np.asarray(scores) > 0).sum()) if importance == "positive" else len(scores)


def edges_above(
    scores: Float[np.ndarray, " n_edges"], threshold: float, importance: Importance = "absolute"
) -> Int[np.ndarray, " n"]:
    """The edges whose importance is `threshold` or more, strongest first.

    Raises:
        OptionError: When the threshold is negative or not a number.
        NumericalError: When a score is not finite.
    """
    strength = strength_of(scores, importance)
    if not threshold >= 0:
        raise OptionError(
            f"The threshold is compared with absolute scores, so it must be 0 or more; it is {threshold}."
        )
    enough = strength >= threshold
    return _strongest_first(strength, np.flatnonzero(enough & (strength > 0) if importance == "positive" else enough))


def edges_for_share(
    scores: Float[np.ndarray, " n_edges"], share: float, importance: Importance = "absolute"
) -> Int[np.ndarray, " n"]:
    """The fewest edges whose importance adds up to `share` of the total, strongest first.

    The total is that of all absolute scores; by positive or signed score, that of the positive ones.

    Raises:
        OptionError: When the share is not between 0 and 1.
        NumericalError: When a score is not finite.
    """
    strength = strength_of(scores, "positive" if importance == "signed" else importance)
    if not 0 <= share <= 1:
        raise OptionError(f"The share of the total score must lie between 0 and 1; it is {share}.")
    order = _strongest_first(strength, np.flatnonzero(strength))
    running = np.cumsum(strength[order], dtype=np.float64)
    if share == 0 or not len(order):
        return order[:0]
    # The last sum is the total itself, so that a share of 1 is always reached.
    return order[: int(np.searchsorted(running, share * running[-1])) + 1]


def node_scores(graph: EdgeGraph, scores: Float[np.ndarray, " n_edges"]) -> Float32[np.ndarray, "*positions n_sources"]:
    """The scores of each source's edges added up, in the order of `graph.sources`; one row per position, where token
    positions are kept apart."""
    place = graph.edge_position.astype(np.int64) * graph.n_sources + graph.edge_source
    total = np.bincount(place, scores, minlength=(graph.seq_len or 1) * graph.n_sources).astype(np.float32)
    return total if graph.seq_len is None else total.reshape(graph.seq_len, graph.n_sources)


def edge_mask(graph: EdgeGraph, edges: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n_edges"]:
    """One bool per edge of the model, true for `edges`.

    Raises:
        OptionError: When an edge is not one of this model.
    """
    mask = np.zeros(graph.n_edges, dtype=bool)
    mask[checked_edges(graph, edges)] = True
    return mask


def edge_ranks(scores: Float[np.ndarray, " n_edges"]) -> Int[np.ndarray, " n_edges"]:
    """For every edge, its place by absolute score among all edges: 1 for the strongest; ties by index.

    Raises:
        NumericalError: When a score is not finite.
    """
    strength = strength_of(scores)
    ranks = np.empty(len(strength), dtype=np.int64)
    ranks[np.argsort(-strength, kind="stable")] = np.arange(1, len(strength) + 1)
    return ranks


def strength_of(scores: np.ndarray, importance: Importance = "absolute") -> np.ndarray:
    if importance not in get_args(Importance):
        raise OptionError(f"importance must be 'absolute' or 'positive' or 'signed', and is {importance!r}.")
    values = np.asarray(scores)
    strength = values
    if importance != "signed":
        strength = np.abs(values) if importance == "absolute" else np.maximum(values, 0)
    if not np.isfinite(strength).all():
        bad = int((~np.isfinite(strength)).sum())
        raise NumericalError(f"{bad:,} of {strength.size:,} scores are not finite, so edges cannot be put in order.")
    return strength


def _strongest_first(strength: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return edges[np.argsort(-strength[edges], kind="stable")]


def checked_edges(graph: EdgeGraph, edges: Any) -> np.ndarray:
    edges = np.asarray(edges)
    if edges.size == 0:
        return edges.astype(np.int64).reshape(0)
    if not np.issubdtype(edges.dtype, np.integer):
        raise OptionError(f"Edges are given by whole numbers, not by an array of {edges.dtype}.")
    graph.check_edges((int(edges.min()), int(edges.max())))
    return edges


def edge_table(
    graph: EdgeGraph,
    scores: Float[np.ndarray, " n_edges"],
    edges: Int[np.ndarray, " n"] | None = None,
    *,
    ranks: Int[np.ndarray, " n_edges"] | None = None,
) -> pd.DataFrame:
    """One row per edge, in the order of `edges` (default: all, strongest first); the index is the edge's number.

    Columns: `rank` among all edges of the model by absolute score, `source`, `destination`, `input` (Q, K, V, MLP or
    Final), `position` (only with token positions kept apart), `score`, `share` of the total absolute score of all
    edges, and `cumulative share` of this row and those above it. Shares lie between 0 and 1. `ranks` are those of
    `edge_ranks`, where the caller has them.

    Raises:
        OptionError: When an edge is not one of this model.
        NumericalError: When a score is not finite.
    """
    strength = strength_of(scores)
    ranks = edge_ranks(scores) if ranks is None else ranks
    edges = np.argsort(ranks) if edges is None else checked_edges(graph, edges)
    total = float(strength.sum(dtype=np.float64))
    share = strength[edges].astype(np.float64) / total if total else np.zeros(len(edges))
    sources = np.array([node.name for node in graph.sources], dtype=object)
    destinations = np.array([node.name for node in graph.destinations], dtype=object)
    inputs = np.array([node.input for node in graph.destinations], dtype=object)
    columns: dict[str, Any] = {
        "rank": ranks[edges],
        "source": sources[graph.edge_source[edges]],
        "destination": destinations[graph.edge_destination[edges]],
        "input": inputs[graph.edge_destination[edges]],
    }
    if graph.seq_len is not None:
        columns["position"] = graph.edge_position[edges]
    columns |= {"score": np.asarray(scores)[edges], "share": share, "cumulative share": np.cumsum(share)}
    return pd.DataFrame(columns, index=pd.Index(edges, name="edge"))


def readable(graph: EdgeGraph, table: pd.DataFrame) -> pd.DataFrame:
    """The table with sources, destinations and inputs called as everywhere on the pages (`EdgeGraph.label`); files keep
    the names of `edge_table`. Its index must be the edges' numbers."""
    destinations = [graph.label(node) for node in graph.destinations]
    found = table.copy()
    found["destination"] = [destinations[graph.edge_destination[edge]] for edge in table.index]
    found["input"] = found["input"].map(INPUT_LABELS)
    return found
