"""Some edges as a circuit: which of them lie on a path, and the result as a networkx graph.

    live_edges       those edges on some path from the embedding to the final residual ("drop dead ends")
    connecting_size  how many edges, strongest first, it takes until there is a path
    node_edges       the edges of the model that lead into a node, and out of it
    circuit_graph    a networkx graph of edges, to draw or export

    edges = live_edges(graph, top_edges(flat, 200))
    nx.write_graphml(circuit_graph(graph, edges, flat), "circuit.graphml")

Everything works on edge numbers (see `circuit.edges.graph`); only `circuit_graph` makes objects, for the few edges that
a person looks at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx
import numpy as np
from jaxtyping import Float, Int

from circuit.edges.graph import EdgeGraph, Node
from circuit.edges.ranking import checked_edges, edge_ranks


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
    edges = checked_edges(graph, edges)
    order = np.argsort(edges, kind="stable")  # edges are numbered block by block, in the model's order
    ordered = edges[order]
    source, position = graph.edge_source[ordered], graph.edge_position[ordered]
    destination = graph.edge_destination[ordered]
    starts = np.searchsorted(ordered, [block.first_edge for block in graph.blocks])
    spans = [slice(a, b) for a, b in zip(starts, [*starts[1:], len(ordered)], strict=True)]

    positions = graph.seq_len or 1
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
            written[heads] |= np.logical_or.accumulate(read[rows], axis=1).repeat(graph.group, axis=0)
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
            of_group = used[heads].reshape(graph.n_kv_heads, graph.group, positions).any(axis=1)
            needed[rows] = np.flip(np.logical_or.accumulate(np.flip(of_group, axis=1), axis=1), axis=1)
        leads = needed[destination[span], position[span]]
        used[source[span][leads], position[span][leads]] = True

    live = np.empty(len(edges), dtype=bool)
    live[order] = written[source, position] & needed[destination, position]
    return edges[live]


def connecting_size(graph: EdgeGraph, order: Int[np.ndarray, " n"]) -> int | None:
    """How many of the edges in this order it takes until one of them lies on a path from `Resid Start` to `Resid End`;
    None where all of them do not suffice. A larger circuit holds the paths of a smaller one, so a bisection finds it.
    """
    if not len(live_edges(graph, order)):
        return None
    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if len(live_edges(graph, order[:middle])) else (middle, high)
    return high


def node_edges(graph: EdgeGraph, node: Mapping[str, Any]) -> tuple[Int[np.ndarray, " n_in"], Int[np.ndarray, " n_out"]]:
    """The numbers of all edges of the model that lead into a node of `circuit_graph`, and out of it.

    `node` is its data there: `kind`, `layer`, and where it applies `head` and `position`. A head reads its query and
    the keys and values of its key-value head; a key-value head reads only these, and nothing leads out of it.
    """
    kind, layer, head = node["kind"], node["layer"], node.get("head")
    kv_head = head if kind == "kv" or head is None else graph.kv_head(head)

    def is_read(to: Node) -> bool:
        if to.layer != layer or to.kind != ("head" if kind == "kv" else kind):
            return False
        if to.kind != "head":
            return True
        return kind == "head" and to.head == head if to.input == "Q" else to.head == kv_head

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

    Nodes are named as in `circuit.edges.graph` (`A3.7`, `MLP 3`), with ` @4` added where token positions are kept
    apart. A node has `kind`, `layer`, `label`, and where it applies `head` and `position`. An edge has its number in
    the model as key, and `edge` (the same), `name`, `input`, `score`, `strength` (the absolute score), `rank` among all
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
    edges = checked_edges(graph, edges)
    ranks = edge_ranks(scores) if ranks is None else ranks
    apart = graph.seq_len is not None
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
        to = destination.input
        if to in ("K", "V") and graph.has_kv_nodes:
            name = graph.kv_label(destination.layer, int(destination.head or 0))
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
    heads: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for name, node in drawn.nodes(data=True):
        if node["kind"] == "head":
            heads.setdefault((node["layer"], graph.kv_head(node["head"])), []).append((name, node.get("position", 0)))
    for name, node in list(drawn.nodes(data=True)):
        if node["kind"] == "kv":
            for head, position in heads.get((node["layer"], node["head"]), []):
                if position >= node.get("position", 0):
                    drawn.add_edge(name, head, key="group", kind="group")
