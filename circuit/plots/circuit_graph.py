"""The pruned circuit as a picture: layers bottom to top, drawn by ECharts in the browser.

    graph_options    options for `st.echarts_chart` from the networkx graph of `circuit.pruning.circuit_graph`
    picked_item      the node or edge that a click means
    layered_layout   where each node is drawn
    graph_height     a height in pixels that suits the model's number of layers

    drawn = circuit_graph(graph, edges, flat)
    height = graph_height(drawn)
    options = graph_options(drawn, caption=caption, dark=dark, height=height)
    event = st.echarts_chart(options, height=height, on_select="rerun", key=f"circuit-{len(edges)}")
    if item := picked_item(drawn, event.selection.selected):
        st.write(item.text)

A node's place follows from the model's shape alone: a head keeps its column and a layer its row, whatever else is in
the circuit, so adding an edge moves nothing. Heads stand in columns by number; MLPs in a column of their own on the
right, a little higher because they read their layer's heads; the embedding is below and the final residual above.
With token positions kept apart there is one column a position, and the heads of a layer form a small grid in it.

Kind of node: shape and colour. Sign of an edge: colour. Absolute score: width (by its square root) and strength of
colour. Query, key and value: solid, dashed and dotted. Dotted grey lines without an arrow join a key-value head to the
heads that use it. Nothing here imports Streamlit.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx

from circuit.plots.colors import PALETTES, Palette
from circuit.pruning import INPUT_WORDS

_SYMBOLS = {"embedding": "triangle", "head": "circle", "kv": "diamond", "mlp": "rect", "final": "triangle"}
_BENDS = {"Q": 0.06, "K": 0.11, "V": 0.16, "MLP": 0.08, "Final": 0.05}
_TOP, _LEFT, _RIGHT = 52, 66, 72
_CAPTION_CHARACTERS = 150


# --- layout --------------------------------------------------------------------------------------------------------


def layered_layout(drawn: nx.MultiDiGraph) -> dict[str, tuple[float, float]]:
    """Where each node is drawn, x to the right and y upwards, in units of one column and one layer.

    A place depends on the node and the model's shape only (`drawn.graph`), never on the other nodes or the edges.
    """
    place = _place_apart if "seq_len" in drawn.graph else _place
    return {name: place(node, drawn.graph) for name, node in drawn.nodes(data=True)}


def _place(node: Mapping[str, Any], shape: Mapping[str, Any]) -> tuple[float, float]:
    n_heads, layer, kind = shape["n_heads"], node["layer"], node["kind"]
    middle = (n_heads - 1) / 2
    # Layers are shifted a little to either side in turn, so that a line along a column passes beside its heads.
    shift = 0.16 if layer % 2 else -0.16
    if kind == "head":
        return node["head"] + shift, float(layer)
    if kind == "kv":
        # Below the gap in the middle of its group of heads, where no head hides it.
        group = n_heads // shape["n_kv_heads"]
        return node["head"] * group + group // 2 - 0.5 + (group % 2) + shift, layer - 0.42
    if kind == "mlp":
        return n_heads + 0.35, layer + 0.34
    return (middle, -1.0) if kind == "embedding" else (middle, shape["n_layers"] + 0.3)


def _place_apart(node: Mapping[str, Any], shape: Mapping[str, Any]) -> tuple[float, float]:
    n_heads, layer, kind, position = shape["n_heads"], node["layer"], node["kind"], node["position"]
    columns, rows = _grid(n_heads)
    if kind == "head":
        row, column = divmod(node["head"], columns)
        return position + _spread(column, columns, 0.7), layer + _spread(row, rows, 0.5)
    if kind == "kv":
        return position + _spread(node["head"], shape["n_kv_heads"], 0.8), layer - 0.42
    if kind == "mlp":
        return position + 0.0, layer + 0.42
    return (position + 0.0, -1.0) if kind == "embedding" else (position + 0.0, shape["n_layers"] + 0.1)


def _grid(n_heads: int) -> tuple[int, int]:
    """How many columns and rows of heads one layer has at one token position."""
    columns = max(1, round(math.sqrt(n_heads / 3)))
    return columns, math.ceil(n_heads / columns)


def _spread(index: int, n: int, width: float) -> float:
    return ((index + 0.5) / n - 0.5) * width


def graph_height(drawn: nx.MultiDiGraph) -> int:
    """A height in pixels at which the layers of this model can be told apart."""
    per_layer = 24 if "seq_len" not in drawn.graph else 60
    return min(900, max(560, per_layer * (drawn.graph["n_layers"] + 2) + 60))


# --- the picture ---------------------------------------------------------------------------------------------------


def graph_options(
    drawn: nx.MultiDiGraph,
    *,
    caption: str,
    dark: bool = False,
    width: int = 900,
    height: int = 600,
    position_labels: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Options for `st.echarts_chart`, plain values only.

    Args:
        drawn: From `circuit.pruning.circuit_graph`.
        caption: One line that says what the scores are scores of; drawn inside the picture.
        dark: Whether the page is dark.
        width: The narrowest width in pixels that the chart may have. It is laid out for that, and centred in more.
        height: The height in pixels that the chart is given.
        position_labels: Where token positions are kept apart, what to write below each, such as its tokens.
    """
    palette = PALETTES[dark]
    lines = textwrap.wrap(caption, _CAPTION_CHARACTERS)
    bottom = 36 + 15 * len(lines)
    frame = _Frame.of(drawn, width - _LEFT - _RIGHT, height - _TOP - bottom)
    places = layered_layout(drawn)
    strongest = max((data["strength"] for *_, data in _scored(drawn)), default=0.0) or 1.0

    nodes = [_node_item(drawn, name, places[name], frame, palette) for name in drawn]
    links = [_edge_item(drawn, edge, places, strongest, frame, palette) for edge in _drawn_edges(drawn)]
    nodes += _labels(drawn, frame, palette, position_labels)
    text = {"color": palette.faint, "fontSize": 11, "fontWeight": "normal", "lineHeight": 15}
    return {
        "animation": False,
        "title": [
            {**_key(drawn, palette), "left": 8, "top": 4, "padding": 0},
            {"text": "\n".join(lines), "left": 8, "bottom": 4, "padding": 0, "textStyle": text},
        ],
        "tooltip": {
            "confine": True,
            "backgroundColor": palette.surface,
            "borderColor": palette.faint,
            "textStyle": {"color": palette.text, "fontSize": 12},
        },
        "series": [
            {
                "id": "circuit",
                "name": "circuit",
                "type": "graph",
                "layout": "none",
                "left": _LEFT,
                "right": _RIGHT,
                "top": _TOP,
                "bottom": bottom,
                "preserveAspect": "contain",  # or nodes are stretched
                "data": nodes,
                "links": links,
                "roam": True,
                "scaleLimit": {"min": 0.5, "max": 12},
                "nodeScaleRatio": 0.6,
                "selectedMode": "single",
                "edgeSymbol": ["none", "arrow"],
                "emphasis": {
                    "focus": "adjacency",
                    "lineStyle": {"opacity": 1},
                },
                "blur": {"itemStyle": {"opacity": 0.25}, "lineStyle": {"opacity": 0.06}, "label": {"opacity": 0.35}},
                "select": {
                    "itemStyle": {"borderWidth": 3, "borderColor": palette.text},
                    "lineStyle": {"color": palette.text, "opacity": 1},
                },
            }
        ],
    }


@dataclass(frozen=True)
class _Frame:
    """The rectangle that every circuit of one shape of model is drawn in: layout units to pixels, and node sizes."""

    left: float
    right: float
    low: float
    high: float
    column: float
    row: float
    node_width: float
    node_height: float
    apart: bool

    @classmethod
    def of(cls, drawn: nx.MultiDiGraph, width: int, height: int) -> _Frame:
        shape = drawn.graph
        apart = "seq_len" in shape
        left, right = (-0.6, shape["seq_len"] - 0.5) if apart else (-0.75, shape["n_heads"] + 0.35)
        low, high = -1.0, shape["n_layers"] + (0.1 if apart else 0.3)
        column, row = max(width, 200) / (right - left), max(height, 200) / (high - low)
        slot_width, slot_height = column, row
        if apart:
            columns, rows = _grid(shape["n_heads"])
            slot_width, slot_height = 0.8 * column / columns, 0.6 * row / rows
        node_width = min(42.0, max(24.0, 0.8 * slot_width))
        return cls(left, right, low, high, column, row, node_width, min(24.0, max(13.0, 0.7 * slot_height)), apart)

    @property
    def font(self) -> int:
        return 11 if self.node_height >= 16 and self.node_width >= 30 else 9

    def pixels(self, x: float, y: float) -> dict[str, float]:
        """Coordinates for ECharts, which counts downwards."""
        return {"x": round(x * self.column, 1), "y": round(-y * self.row, 1)}


def _node_item(
    drawn: nx.MultiDiGraph, name: str, place: tuple[float, float], frame: _Frame, palette: Palette
) -> dict[str, Any]:
    node = drawn.nodes[name]
    kind = node["kind"]
    colors = palette.nodes[kind]
    width, height = frame.node_width, frame.node_height
    size = {"kv": [0.6 * height, 0.6 * height], "head": [width, height], "mlp": [width, height]}.get(kind, [20, 16])
    label = {"head": node["label"][1:], "kv": f"kv{node.get('head')}"}.get(kind, node["label"])
    if kind == "mlp" and width < 40:
        label = f"M{node['layer']}"
    return {
        "name": name,
        **frame.pixels(*place),
        "symbol": _SYMBOLS[kind],
        "symbolSize": size,
        "symbolRotate": 180 if kind == "final" else 0,
        "itemStyle": {"color": colors.fill, "borderColor": colors.border, "borderWidth": 1.4},
        "label": {
            "show": kind not in ("embedding", "final") or "seq_len" not in drawn.graph,
            "formatter": label,
            "position": {"kv": "right", "embedding": "bottom", "final": "top"}.get(kind, "inside"),
            "distance": 2,
            "color": palette.faint if kind == "kv" else palette.text,
            "fontSize": 9 if kind == "kv" else frame.font,
        },
        "tooltip": {"formatter": _node_text(drawn, name)},
    }


def _edge_item(
    drawn: nx.MultiDiGraph,
    edge: tuple[str, str, Any],
    places: Mapping[str, tuple[float, float]],
    strongest: float,
    frame: _Frame,
    palette: Palette,
) -> dict[str, Any]:
    tail, tip, _ = edge
    data = drawn.edges[edge]
    item: dict[str, Any] = {"source": tail, "target": tip, "tooltip": {"formatter": _edge_text(drawn, edge)}}
    if data["kind"] == "group":
        style: dict[str, Any] = {"color": palette.faint, "width": 1, "type": "dotted", "opacity": 0.7, "curveness": 0}
        return {**item, "lineStyle": style, "symbol": ["none", "none"]}
    strength = math.sqrt(data["strength"] / strongest)
    width = 0.7 + 4.8 * strength
    return {
        **item,
        "value": data["score"],
        "symbolSize": [0, round(4 + 1.6 * width, 1)],
        "lineStyle": {
            "color": palette.helps if data["score"] >= 0 else palette.hurts,
            "width": round(width, 2),
            **_dash(data["input"], width),
            "opacity": round(0.45 + 0.5 * strength, 2),
            "curveness": _bend(data["input"], places[tail], places[tip], frame),
        },
    }


def _dash(to: str, width: float) -> dict[str, Any]:
    """Keys dashed, values dotted, all else solid; wider lines need wider gaps."""
    if to == "K":
        return {"type": [round(4 + 2 * width, 1), round(2.5 + width, 1)]}
    if to == "V":
        return {"type": [0.1, round(2.5 + 1.4 * width, 1)], "cap": "round"}
    return {"type": "solid"}


def _bend(to: str, tail: tuple[float, float], tip: tuple[float, float], frame: _Frame) -> float:
    """Bend outwards, and along a column as far as it takes to pass beside the nodes between the ends."""
    bend = _BENDS[to]
    across, up = (tip[0] - tail[0]) * frame.column, (tip[1] - tail[1]) * frame.row
    if abs(across) < frame.node_width and tip[1] - tail[1] > 1.2:
        bend += min(0.6 if abs(across) < 1 else 0.2, (frame.node_width + 16) / math.hypot(across, up))
    outwards_right = frame.apart or (tail[0] + tip[0]) / 2 >= (frame.left + frame.right) / 2
    return round(-bend if outwards_right else bend, 3)  # ECharts bends upward lines to the left where positive


def _labels(
    drawn: nx.MultiDiGraph, frame: _Frame, palette: Palette, position_labels: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Points without a symbol: layer numbers and positions, which move along; and corners, which fix the frame."""
    unseen = {"color": "rgba(0,0,0,0)", "borderWidth": 0}
    still = {"symbolSize": 1, "itemStyle": unseen, "tooltip": {"show": False}, "emphasis": {"disabled": True}}
    plain = {"show": True, "color": palette.faint, "fontSize": 10, "silent": True}
    items = [
        {"name": "corner 0", **frame.pixels(frame.left, frame.low), **still, "label": {"show": False}},
        {"name": "corner 1", **frame.pixels(frame.right, frame.high), **still, "label": {"show": False}},
    ]
    every = 1 if drawn.graph["n_layers"] <= 40 else 2
    rows = {f"layer {layer}": float(layer) for layer in range(0, drawn.graph["n_layers"], every)}
    if "seq_len" in drawn.graph:
        rows |= {"Resid Start": frame.low, "Resid End": frame.high}
    for row, y in rows.items():
        label = {**plain, "formatter": row, "position": "left"}
        items.append({"name": f"row {row}", **frame.pixels(frame.left, y), **still, "label": label})
    for position in range(drawn.graph.get("seq_len", 0)):
        word = str(position) if position_labels is None else str(position_labels[position])
        label = {**plain, "formatter": word[:12], "position": "bottom", "distance": 10}
        items.append({"name": f"position {position}", **frame.pixels(position, frame.low), **still, "label": label})
    return items


def _key(drawn: nx.MultiDiGraph, palette: Palette) -> dict[str, Any]:
    """What shapes, colours and dashes mean, in one line of text; only what occurs."""
    kinds = {node["kind"] for _, node in drawn.nodes(data=True)}
    inputs = {data["input"] for *_, data in _scored(drawn)}
    marks = {"head": "●", "kv": "◆", "mlp": "■", "embedding": "▲", "final": "▼"}
    words = {"head": "head", "kv": "key-value head", "mlp": "MLP", "embedding": "embedding", "final": "final residual"}
    parts = [f"{{{kind}|{mark}}} {words[kind]}" for kind, mark in marks.items() if kind in kinds]
    lines = [f"{{line|{mark}}} {to}" for to, mark in (("Q", "──"), ("K", "╌╌"), ("V", "┈┈")) if to in inputs]
    signs = "{helps|━} ablating it hurts   {hurts|━} ablating it helps"
    rich: dict[str, Any] = {kind: {"color": palette.nodes[kind].border, "fontSize": 13} for kind in marks}
    rich |= {
        "helps": {"color": palette.helps, "fontSize": 13},
        "hurts": {"color": palette.hurts, "fontSize": 13},
        "line": {"color": palette.text, "fontSize": 12},
    }
    style = {"color": palette.faint, "fontSize": 12, "fontWeight": "normal", "rich": rich}
    key = "     ".join(part for part in ("   ".join(parts), "   ".join(lines), signs) if part)
    return {"text": key if kinds else "No edges to draw.", "textStyle": style}


# --- clicks and hovers ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PickedItem:
    """What was clicked: a node by name, or an edge by its number in the model; and what it is, in words."""

    kind: str
    node: str | None
    edge: int | None
    text: str


def picked_item(drawn: nx.MultiDiGraph, selected: Iterable[Mapping[str, Any]]) -> PickedItem | None:
    """The node or edge that was clicked; None for none, or for what is no longer in the graph.

    `selected` is the `selection.selected` that `st.echarts_chart` returns. `text` is HTML with line breaks only.
    """
    names, edges = list(drawn), _drawn_edges(drawn)
    for group in selected:
        for index in group.get("data_indices", []):
            if group.get("data_type") == "node" and 0 <= index < len(names):
                name = names[index]
                return PickedItem(drawn.nodes[name]["kind"], name, None, _node_text(drawn, name))
            if group.get("data_type") == "edge" and 0 <= index < len(edges):
                data = drawn.edges[edges[index]]
                return PickedItem(data["kind"], None, data.get("edge"), _edge_text(drawn, edges[index]))
    return None


def _scored(drawn: nx.MultiDiGraph) -> list[tuple[str, str, dict[str, Any]]]:
    return [(tail, tip, data) for tail, tip, data in drawn.edges(data=True) if data["kind"] == "edge"]


def _drawn_edges(drawn: nx.MultiDiGraph) -> list[tuple[str, str, Any]]:
    """Links first, then edges from weak to strong: what comes later is drawn on top."""
    keyed = [
        (data.get("strength", -1.0), (tail, tip, key)) for tail, tip, key, data in drawn.edges(data=True, keys=True)
    ]
    return [edge for _, edge in sorted(keyed, key=lambda pair: pair[0])]


def _node_text(drawn: nx.MultiDiGraph, name: str) -> str:
    node = drawn.nodes[name]
    where = f" at position {node['position']}" if "position" in node else ""
    layer = node["layer"]
    what = {
        "embedding": "the embedding",
        "head": f"head {node.get('head')} of layer {layer}",
        "kv": f"keys and values of key-value head {node.get('head')} of layer {layer}",
        "mlp": f"the MLP of layer {layer}",
        "final": "the final residual, read by the unembedding",
    }[node["kind"]]
    lines = [f"<b>{html.escape(name)}</b>: {what}{where}"]
    for word, edges in (("in", drawn.in_edges(name, data=True)), ("out", drawn.out_edges(name, data=True))):
        strengths = [data["strength"] for *_, data in edges if data["kind"] == "edge"]
        if strengths:
            plural = "edge" if len(strengths) == 1 else "edges"
            lines.append(f"{len(strengths)} {plural} {word}, sum of |score| {sum(strengths):.3g}")
    return "<br>".join(lines)


def _edge_text(drawn: nx.MultiDiGraph, edge: tuple[str, str, Any]) -> str:
    tail, tip, _ = edge
    data = drawn.edges[edge]
    if data["kind"] == "group":
        return f"<b>{html.escape(tip)}</b> attends with the keys and values of <b>{html.escape(tail)}</b>"
    effect = "hurts" if data["score"] >= 0 else "helps"
    return "<br>".join(
        [
            f"<b>{html.escape(tail)}</b> → {INPUT_WORDS[data['input']]} of <b>{html.escape(tip)}</b>",
            f"score {data['score']:+.4g}: ablating this edge {effect} the task",
            f"number {data['rank']:,} of {drawn.graph['n_edges']:,} edges by |score|",
        ]
    )
