"""Where the nodes of a circuit stand: layers from the bottom to the top, heads in columns by number.

    Layout          places in pixels, sizes, and the names of rows and columns
    circuit_layout  the layout of a circuit of `circuit.edges.subgraph.circuit_graph`
    stretched       the same layout at another height, for a model of few layers
    next_step       the size of circuit whose layout all smaller ones share

    reference = circuit_graph(graph, top_edges(flat, next_step(42)), flat)
    layout = circuit_layout(circuit_graph(graph, top_edges(flat, 42), flat), reference, width=700)

A node's place follows from the model's shape, and from which layers the *reference* circuit uses: these get a row of
full height, the others a thin one, so that a circuit of few layers of a deep model fills the picture. The reference is
the circuit of the next of `STEPS` edges, so between two steps nothing moves when an edge is added, and from one step
to the next rows slide apart while every node keeps its column and its order.

MLPs have a column of their own on the right, a little higher than their layer's heads, which they read; key-value heads
stand left of the heads that use them, a little lower. With token positions kept apart there is one column per position,
and one row for every head or MLP that the reference uses; columns of tokens that it does not use are narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx

from circuit.edges.graph import EdgeGraph

STEPS = (12, 60, 250, 1000)
"""Sizes of circuits at which the layout changes."""
_STEPS_APART = (12, 30, 60, 120, 250, 500, 1000)
"""The same with token positions kept apart, where every head takes a row."""

_THIN = 0.22
"""The height of a row that the reference circuit does not use, in rows; likewise columns of models with many heads."""
_MANY_HEADS = 12
_NARROW = 0.4
"""The width of a position's column that the reference circuit does not use, in columns."""
_LEFT, _RIGHT, _ABOVE, _BELOW = 58, 56, 26, 26


@dataclass(frozen=True)
class Layout:
    """Pixels, counted from the upper left corner of the area that the circuit is drawn in."""

    width: int
    height: int
    places: dict[str, tuple[float, float]]
    node_width: float
    node_height: float
    rows: list[tuple[str, float]]
    columns: list[tuple[str, float]]
    middle: float
    """x of the middle: edges bend away from it."""


def next_step(n_edges: int, *, apart: bool = False) -> int | None:
    """The size of the reference circuit for a circuit of `n_edges`, with token positions kept apart or not.

    None stands for the whole model.
    """
    return next((step for step in (_STEPS_APART if apart else STEPS) if n_edges <= step), None)


def circuit_layout(
    drawn: nx.MultiDiGraph,
    reference: nx.MultiDiGraph | None = None,
    *,
    width: int = 700,
    height: int = 400,
    tokens: Sequence[str] = (),
) -> Layout:
    """Places for all nodes of `drawn`.

    Args:
        drawn: From `circuit.edges.subgraph.circuit_graph`.
        reference: A larger circuit of the same run, which decides what gets room; by default every layer does.
        width: In pixels; a model of very many heads takes more.
        height: In pixels, about: rows are never lower than can be read, nor higher than looks well.
        tokens: Where token positions are kept apart, what to write below each.
    """
    if "seq_len" in drawn.graph:
        return _apart(drawn, reference, width, height, tokens)
    shape = drawn.graph
    n_layers, n_heads = shape["n_layers"], shape["n_heads"]
    used = set(range(n_layers)) if reference is None else {node["layer"] for node in reference.nodes.values()}
    levels = _levels([-1, *range(n_layers), n_layers], {-1, n_layers, *used})
    row = min(44.0, max(17.0, (height - _ABOVE - _BELOW) / levels[n_layers]))

    heads_used = None if reference is None or n_heads <= _MANY_HEADS else _heads(reference)
    slots = _slots(EdgeGraph.of(shape), heads_used)
    width = max(width, int(14 * slots["end"]) + _LEFT + _RIGHT)
    column = (width - _LEFT - _RIGHT) / slots["end"]
    total = int(_ABOVE + _BELOW + row * levels[n_layers])
    middle = _LEFT + column * slots["middle"]

    def place(node: Mapping[str, Any]) -> tuple[float, float]:
        kind, layer = node["kind"], node["layer"]
        y = total - _BELOW - row * levels[layer]
        # Layers are shifted a little to either side in turn, so that a line along a column passes beside its heads.
        shift = 0.12 if layer % 2 else -0.12
        if kind == "head":
            return _LEFT + column * (slots["head", node["head"]] + shift), y
        if kind == "kv":
            return _LEFT + column * (slots["kv", node["head"]] + shift), y + 0.3 * row
        if kind == "mlp":
            return _LEFT + column * slots["mlp"], y - 0.36 * row
        return middle, y

    return Layout(
        width,
        total,
        {name: place(node) for name, node in drawn.nodes.items()},
        min(42.0, max(24.0, 0.86 * column)),
        min(24.0, 0.76 * row),
        [(f"layer {i}", total - _BELOW - row * levels[i]) for i in range(n_layers) if i in used],
        [],
        middle,
    )


def stretched(layout: Layout, height: int, node_width: float) -> Layout:
    """The layout with its rows spread over `height` pixels, and wider nodes: rows are else no higher than a deep model
    needs, and edges between few rows hard to tell apart."""

    def lower(y: float) -> float:
        return _ABOVE + (y - _ABOVE) * (height - _ABOVE - _BELOW) / (layout.height - _ABOVE - _BELOW)

    return replace(
        layout,
        height=height,
        places={name: (x, lower(y)) for name, (x, y) in layout.places.items()},
        rows=[(word, lower(y)) for word, y in layout.rows],
        node_width=node_width,
    )


def _apart(
    drawn: nx.MultiDiGraph, reference: nx.MultiDiGraph | None, width: int, height: int, tokens: Sequence[str]
) -> Layout:
    """One row a head, MLP, or key-value head; one column per position."""
    seq_len = drawn.graph["seq_len"]
    nodes = [*drawn.nodes.values(), *(() if reference is None else reference.nodes.values())]
    order = sorted({_row_order(node) for node in nodes})
    if reference is None:
        used = set(order)
    else:
        ends = {key for key in order if key[0] in (-1, drawn.graph["n_layers"])}
        used = {_row_order(node) for node in reference.nodes.values()} | ends
    levels = _levels(order, used)
    label_width = 40
    row = min(34.0, max(13.0, (height - _ABOVE - _BELOW - label_width) / (levels[order[-1]] or 1)))
    left = _LEFT + 16
    busy = {node["position"] for node in (drawn if reference is None else reference).nodes.values()}
    steps = [1.0 if i in busy else _NARROW for i in range(seq_len)]
    width = max(width, int(26 * sum(steps)) + left + _RIGHT)
    column = (width - left - _RIGHT) / sum(steps)
    across = [left + column * (sum(steps[:i]) + steps[i] / 2) for i in range(seq_len)]
    bottom = _BELOW + label_width
    total = int(_ABOVE + bottom + row * levels[order[-1]])
    labels = {_row_order(node): node["label"] for node in nodes}
    words = [tokens[i] if i < len(tokens) else str(i) for i in range(seq_len)]
    return Layout(
        width,
        total,
        {
            name: (across[node["position"]], total - bottom - row * levels[_row_order(node)])
            for name, node in drawn.nodes.items()
        },
        min(42.0, max(18.0, 0.7 * column)),
        min(22.0, 0.8 * row),
        [(labels[key], total - bottom - row * levels[key]) for key in order if key in used],
        list(zip(words, across, strict=True)),
        (left + width - _RIGHT) / 2,
    )


def _row_order(node: Mapping[str, Any]) -> tuple[int, int, int]:
    """Rows from the bottom: in a layer first its key-value heads, then its heads, then its MLP."""
    return node["layer"], {"kv": 0, "head": 1}.get(node["kind"], 2), node.get("head", 0)


def _levels(keys: Sequence[Any], used: set[Any]) -> dict[Any, float]:
    """The height of each row in rows, counted from the first: full ones for those used."""
    levels, height = {}, 0.0
    for i, key in enumerate(keys):
        if i:
            height += 1.0 if key in used else _THIN
        levels[key] = height
    return levels


def _heads(reference: nx.MultiDiGraph) -> set[int]:
    return {node["head"] for node in reference.nodes.values() if node["kind"] == "head"}


def _slots(graph: EdgeGraph, used: set[int] | None) -> dict[Any, float]:
    """Columns: the middle of each head's, key-value head's and the MLPs', in columns from the left."""
    slots: dict[Any, float] = {}
    x = 0.0
    for head in range(graph.n_heads):
        kv_head = graph.kv_head(head)
        if graph.group == 1:
            slots["kv", kv_head] = x + 0.5  # only where positions are kept apart is it drawn
        elif head == graph.heads_of(kv_head)[0]:
            slots["kv", kv_head] = x + 0.4
            x += 0.9
        step = 1.0 if used is None or head in used else _THIN
        slots["head", head] = x + step / 2
        x += step
    slots["middle"] = x / 2
    slots["mlp"] = x + 0.85
    slots["end"] = x + 1.4
    return slots
