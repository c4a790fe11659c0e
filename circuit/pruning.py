"""From scores to a circuit: which edges are kept, which of them matter, and the result as a networkx graph.

    Importance       what makes an edge important: its absolute score, or the score itself, with its sign or if positive
    top_edges        the n most important edges
    edges_above      the edges whose importance reaches a threshold
    edges_for_share  the fewest edges that hold a share of the total importance
    edge_mask        a list of edges as one bool per edge of the model
    live_edges       those edges on some path from the embedding to the final residual ("drop dead ends")
    edge_ranks       each edge's place among all edges of the model
    edge_table       a pandas table of edges, one row each
    node_edges       the edges of the model that lead into a node, and out of it
    circuit_graph    a networkx graph of edges, to draw or export

    flat = graph.flatten(scores)
    edges = live_edges(graph, top_edges(flat, 200))
    edge_table(graph, flat, edges).head()
    nx.write_graphml(circuit_graph(graph, edges, flat), "circuit.graphml")

Importance is the absolute score, as in Syed et al. 2023 (https://arxiv.org/abs/2310.10348), unless another is asked
for. By `"positive"` edges whose ablation helps the task are never chosen; by `"signed"` they come last, those that
hinder most at the very end. Everything works on edge indices (see `circuit.graph`); only `circuit_graph` makes objects,
for the few edges that a person looks at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import networkx as nx
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from circuit.errors import NumericalError, OptionError
from circuit.graph import EdgeGraph, Node

Importance = Literal["absolute", "positive", "signed"]
"""By which number edges are chosen: `|score|`; `score` where it is positive (ablating the edge hurts the task); or
`score`, the largest first and the negative ones after all others."""

IMPORTANCE_WORDS: dict[Importance, str] = {
    "absolute": "absolute score",
    "positive": "positive score only",
    "signed": "signed score",
}

INPUT_WORDS = {"Q": "query input", "K": "key input", "V": "value input", "MLP": "input", "Final": "input"}
"""What an edge's `input` is called in a sentence."""


# --- choosing edges ------------------------------------------------------------------------------------------------


def top_edges(
    scores: Float[np.ndarray, " n_edges"], n: int, importance: Importance = "absolute"
) -> Int[np.ndarray, " n_chosen"]:
    """The `n` most important edges, strongest first; of equal ones, the lower index first.

    There are always `n` of them, except by positive score only: then no more than have one.

    Raises:
        OptionError: When `n` is negative, or more than there are edges.
        NumericalError: When a score is not finite.
    """
    strength = _strength(scores, importance)
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
    """How many edges a circuit can have: all, or by positive score only those that have one."""
    return int((np.asarray(scores) > 0).sum()) if importance == "positive" else len(scores)


def edges_above(
    scores: Float[np.ndarray, " n_edges"], threshold: float, importance: Importance = "absolute"
) -> Int[np.ndarray, " n"]:
    """The edges whose importance is `threshold` or more, strongest first.

    Raises:
        OptionError: When the threshold is negative or not a number.
        NumericalError: When a score is not finite.
    """
    strength = _strength(scores, importance)
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
    strength = _strength(scores, "positive" if importance == "signed" else importance)
    if not 0 <= share <= 1:
        raise OptionError(f"The share of the total score must lie between 0 and 1; it is {share}.")
    order = _strongest_first(strength, np.flatnonzero(strength))
    running = np.cumsum(strength[order], dtype=np.float64)
    if share == 0 or not len(order):
        return order[:0]
    # The last sum is the total itself, so that a share of 1 is always reached.
    return order[: int(np.searchsorted(running, share * running[-1])) + 1]


def edge_mask(graph: EdgeGraph, edges: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n_edges"]:
    """One bool per edge of the model, true for `edges`.

    Raises:
        OptionError: When an edge is not one of this model.
    """
    mask = np.zeros(graph.n_edges, dtype=bool)
    mask[_checked(graph, edges)] = True
    return mask


def edge_ranks(scores: Float[np.ndarray, " n_edges"]) -> Int[np.ndarray, " n_edges"]:
    """For every edge, its place by absolute score among all edges: 1 for the strongest."""
    strength = _strength(scores)
    ranks = np.empty(len(strength), dtype=np.int64)
    ranks[np.argsort(-strength, kind="stable")] = np.arange(1, len(strength) + 1)
    return ranks


def _strength(scores: np.ndarray, importance: Importance = "absolute") -> np.ndarray:
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


def _checked(graph: EdgeGraph, edges: Any) -> np.ndarray:
    edges = np.asarray(edges)
    if edges.size == 0:
        return edges.astype(np.int64).reshape(0)
    if not np.issubdtype(edges.dtype, np.integer):
        raise OptionError(f"Edges are given by whole numbers, not by an array of {edges.dtype}.")
    graph.check_edges((int(edges.min()), int(edges.max())))
    return edges


# --- dead ends -----------------------------------------------------------------------------------------------------


def live_edges(graph: EdgeGraph, edges: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n_live"]:
    """Those of `edges` that lie on some path from `Resid Start` to `Resid End`, in the order given.

    A path follows what the model computes. A head's output follows from its query, and from the key and value inputs
    of its key-value head (with grouped queries one of these feeds several heads). With token positions kept apart, an
    edge stays at its position; a query or an MLP input feeds the output at the same position; keys and values at
    position p feed the head's output at p and every later one. The final residual counts at any position.

    The cost is one sort and one pass forward and back over the edges.

    Raises:
        OptionError: When an edge is not one of this model.
    """
    edges = _checked(graph, edges)
    order = np.argsort(edges, kind="stable")  # edges are numbered block by block, in the model's order
    ordered = edges[order]
    source, position = graph.edge_source[ordered], graph.edge_position[ordered]
    destination = graph.edge_destination[ordered]
    starts = np.searchsorted(ordered, [block.first_edge for block in graph.blocks])
    spans = [slice(a, b) for a, b in zip(starts, [*starts[1:], len(ordered)], strict=True)]

    positions = graph.seq_len or 1
    group = graph.n_heads // graph.n_kv_heads
    written = np.zeros((graph.n_sources, positions), dtype=bool)  # sources that some path from the start reaches
    read = np.zeros((len(graph.destinations), positions), dtype=bool)  # destinations likewise
    written[0] = True
    for block, span in zip(graph.blocks, spans, strict=True):
        arrives = written[source[span], position[span]]
        read[destination[span][arrives], position[span][arrives]] = True
        rows = slice(block.first_destination, block.first_destination + block.n_rows)
        heads = slice(graph.first_head(block.layer), graph.first_head(block.layer) + graph.n_heads)
        if block.kind == "Q":
            written[heads] |= read[rows]
        elif block.kind in ("K", "V"):
            written[heads] |= np.logical_or.accumulate(read[rows], axis=1).repeat(group, axis=0)
        elif block.kind == "MLP":
            written[heads.stop] = read[rows][0]

    used = np.zeros_like(written)  # sources from which some path reaches the end
    needed = np.zeros_like(read)  # destinations likewise
    for block, span in reversed(list(zip(graph.blocks, spans, strict=True))):
        rows = slice(block.first_destination, block.first_destination + block.n_rows)
        heads = slice(graph.first_head(block.layer), graph.first_head(block.layer) + graph.n_heads)
        if block.kind == "Final":
            needed[rows] = True
        elif block.kind == "MLP":
            needed[rows] = used[heads.stop][None]
        elif block.kind == "Q":
            needed[rows] = used[heads]
        else:
            of_group = used[heads].reshape(graph.n_kv_heads, group, positions).any(axis=1)
            needed[rows] = np.flip(np.logical_or.accumulate(np.flip(of_group, axis=1), axis=1), axis=1)
        leads = needed[destination[span], position[span]]
        used[source[span][leads], position[span][leads]] = True

    live = np.empty(len(edges), dtype=bool)
    live[order] = written[source, position] & needed[destination, position]
    return edges[live]


# --- for people ----------------------------------------------------------------------------------------------------


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
    """
    strength = _strength(scores)
    ranks = edge_ranks(scores) if ranks is None else ranks
    edges = np.argsort(ranks) if edges is None else _checked(graph, edges)
    total = float(strength.sum(dtype=np.float64))
    share = strength[edges].astype(np.float64) / total if total else np.zeros(len(edges))
    sources = np.array([node.name for node in graph.sources], dtype=object)
    destinations = np.array([node.name for node in graph.destinations], dtype=object)
    inputs = np.array([input_of(node) for node in graph.destinations], dtype=object)
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


def node_edges(graph: EdgeGraph, node: Mapping[str, Any]) -> tuple[Int[np.ndarray, " n_in"], Int[np.ndarray, " n_out"]]:
    """The numbers of all edges of the model that lead into a node of `circuit_graph`, and out of it.

    `node` is its data there: `kind`, `layer`, and where it applies `head` and `position`. A head reads its query and
    the keys and values of its key-value head; a key-value head only these, and nothing leads out of it.
    """
    kind, layer, head = node["kind"], node["layer"], node.get("head")
    kv_head = head if kind == "kv" or head is None else head // (graph.n_heads // graph.n_kv_heads)

    def is_read(to: Node) -> bool:
        if to.layer != layer or to.kind != ("head" if kind == "kv" else kind):
            return False
        if to.kind != "head":
            return True
        return kind == "head" and to.head == head if input_of(to) == "Q" else to.head == kv_head

    reads = [i for i, to in enumerate(graph.destinations) if is_read(to)]
    writes: list[int] = []
    if kind != "kv":
        writes = [i for i, of in enumerate(graph.sources) if (of.kind, of.layer, of.head) == (kind, layer, head)]
    into, out_of = np.isin(graph.edge_destination, reads), np.isin(graph.edge_source, writes)
    if "position" in node:
        here = graph.edge_position == node["position"]
        into, out_of = into & here, out_of & here
    return np.flatnonzero(into), np.flatnonzero(out_of)


def circuit_graph(
    graph: EdgeGraph,
    edges: Int[np.ndarray, " n"],
    scores: Float[np.ndarray, " n_edges"],
    *,
    ranks: Int[np.ndarray, " n_edges"] | None = None,
) -> nx.MultiDiGraph:
    """The edges as a networkx graph: one node per head, MLP, embedding and final residual that they touch.

    Nodes are named as in `circuit.graph` (`A3.7`, `MLP 3`), with ` @4` added where token positions are kept apart.
    A node has `kind`, `layer`, `label`, and where it applies `head` and `position`. An edge has its number in the
    model as key, and `edge` (the same), `name`, `input`, `score`, `strength` (the absolute score), `rank` among all
    edges of the model, `kind="edge"`, and where it applies `position`.

    **Keys and values.** With grouped-query attention a key or value input belongs to several heads, and with positions
    kept apart it feeds its head's output at later positions too. In both cases an arrow into one head would claim too
    much, so such edges lead to a node of kind `"kv"` (`A4.kv1`), and links of `kind="group"`, without a score, lead
    from there to each head in the circuit that uses it. Otherwise keys and values lead to the head itself.

    The graph's own attributes are the model's shape and number of edges. Nothing is None, so every writer of networkx
    takes it. `ranks` are those of `edge_ranks`, where the caller has them.

    Raises:
        OptionError: When an edge is not one of this model.
        NumericalError: When a score is not finite.
    """
    edges = _checked(graph, edges)
    ranks = edge_ranks(scores) if ranks is None else ranks
    apart = graph.seq_len is not None
    shared_kv = apart or graph.n_kv_heads < graph.n_heads
    shape = {name: value for name, value in graph.to_dict().items() if value is not None}
    drawn = nx.MultiDiGraph(**shape, n_edges=graph.n_edges)

    def add(name: str, kind: str, layer: int, head: int | None, position: int) -> str:
        where = f"{name} @{position}" if apart else name
        values: dict[str, Any] = {"kind": kind, "layer": layer, "label": name}
        if head is not None:
            values["head"] = head
        if apart:
            values["position"] = position
        drawn.add_node(where, **values)
        return where

    for edge in edges.tolist():
        position = int(graph.edge_position[edge])
        source = graph.sources[graph.edge_source[edge]]
        destination = graph.destinations[graph.edge_destination[edge]]
        tail = add(source.name, source.kind, source.layer, source.head, position)
        to = input_of(destination)
        if to in ("K", "V") and shared_kv:
            name = f"A{destination.layer}.kv{destination.head}"
            tip = add(name, "kv", destination.layer, destination.head, position)
        else:
            name = destination.name.removesuffix(f".{to}")
            tip = add(name, destination.kind, destination.layer, destination.head, position)
        values: dict[str, Any] = {
            "kind": "edge",
            "edge": edge,
            "name": graph.edge_name(edge),
            "input": to,
            "score": float(scores[edge]),
            "strength": abs(float(scores[edge])),
            "rank": int(ranks[edge]),
        }
        if apart:
            values["position"] = position
        drawn.add_edge(tail, tip, key=edge, **values)
    _link_groups(graph, drawn)
    return drawn


def _link_groups(graph: EdgeGraph, drawn: nx.MultiDiGraph) -> None:
    group = graph.n_heads // graph.n_kv_heads
    heads: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for name, node in drawn.nodes(data=True):
        if node["kind"] == "head":
            heads.setdefault((node["layer"], node["head"] // group), []).append((name, node.get("position", 0)))
    for name, node in list(drawn.nodes(data=True)):
        if node["kind"] == "kv":
            for head, position in heads.get((node["layer"], node["head"]), []):
                if position >= node.get("position", 0):
                    drawn.add_edge(name, head, key="group", kind="group")


def input_of(destination: Node) -> str:
    """Which input of its node a destination is: Q, K, V, MLP or Final."""
    if destination.kind == "head":
        return destination.name.rpartition(".")[2]
    return "MLP" if destination.kind == "mlp" else "Final"
