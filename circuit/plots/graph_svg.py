"""A circuit as an SVG picture: what the page shows and what is exported.

    graph_svg       the picture: key, circuit and caption, all in one
    circuit_marks   its edges and nodes alone, for other pictures
    Line            how an edge is drawn where its score does not decide that
    Mark            what is shown of an edge besides its score

    svg = graph_svg(drawn, circuit_layout(drawn, reference), caption=caption, dark=False)

Kind of node: shape and colour. Sign of an edge: colour. Absolute score: width (by its square root) and strength of
colour. Queries dash-dotted, keys dashed, values dotted, and solid what an MLP or the final residual reads; queries,
keys and values also end at the left, middle and right of a head. A disc on the middle of an edge says that what was
measured of it contradicts its score; a smaller one nearer to its source, whatever a `Mark` says. Thin grey lines
without an arrow join a key-value head to the heads that use it. Every node and edge is a group with a `data-item`
(`node:A3.7`, `edge:1234`), which the page reports when it is clicked, and a title, which browsers show on hovering.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import networkx as nx

from circuit.edges.agreement import OPPOSITE, contradicts
from circuit.edges.graph import INPUT_LABELS, INPUT_WORDS, RESID_END, RESID_START, EdgeGraph
from circuit.edges.sentences import node_words
from circuit.plots.colors import PALETTES, Palette
from circuit.plots.layout import Layout

_FONT = 'font-family="system-ui, -apple-system, Segoe UI, Roboto, sans-serif"'
_CHARACTER = 6.2
"""The width in pixels of a character of 11 pixels, at most about: fonts differ."""
_LINE = 15
_DASHES = {"Q": (7, 3, 1.5, 3), "K": (5, 3.5), "V": (1.2, 3.2)}
_PORTS = {"Q": -0.28, "K": 0.0, "V": 0.28}
_SIGNS = {"Q": 0.3, "K": 0.5, "V": 0.7}
"""Where along a line its sign stands: lines from one node to the three inputs of another lie side by side."""


@dataclass(frozen=True)
class Line:
    """How an edge is drawn where its score does not decide that."""

    words: str
    """What the line means: in the key, and after the edge's name on hovering."""
    color: str
    width: float
    opacity: float = 1.0
    sign: str = ""
    """A character in a disc on the edge, so that its meaning does not hang on colour; none where it is empty."""


@dataclass(frozen=True)
class Mark:
    """What is shown of an edge besides its score."""

    words: str
    """A sentence, after the others on hovering."""
    opacity: float = 1.0
    """By how much the edge is faded: 1 for not at all."""
    sign: str = ""
    """A character in a disc on the edge; none where it is empty."""
    meaning: str = ""
    """What the sign means, in the key."""


def graph_svg(
    drawn: nx.MultiDiGraph,
    layout: Layout,
    *,
    caption: str,
    dark: bool = False,
    tokens: Sequence[str] = (),
    marks: Mapping[int, Mark] | None = None,
    lines: Mapping[int, Line] | None = None,
    node_hint: str = "Click for its strongest edges.",
    effects: Mapping[int, float] | None = None,
    noise: float = 0.0,
) -> str:
    """The circuit as a complete SVG document.

    Args:
        drawn: From `circuit.edges.subgraph.circuit_graph`.
        layout: Places of its nodes.
        caption: What the scores are scores of; written below the circuit.
        dark: Whether the page is dark.
        tokens: Names of the token positions, where these are kept apart.
        marks: For edges by number, what is shown of them besides their scores.
        lines: For every edge by number, how it is drawn, instead of by its score.
        node_hint: What a click on a node does.
        effects: For edges by number, what ablating them was measured to do: named, and marked where it contradicts the
            score.
        noise: The size of an effect that is none.
    """
    palette = PALETTES[dark]
    key, key_height = _key(drawn, layout.width, palette, marks or {}, lines, effects, noise)
    caption_lines = textwrap.wrap(caption, int((layout.width - 16) / _CHARACTER))
    height = key_height + layout.height + _LINE * len(caption_lines) + 8
    text = "".join(
        f'<text x="8" y="{key_height + layout.height + _LINE * (i + 1) - 3}">{escape(line)}</text>'
        for i, line in enumerate(caption_lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {layout.width} {height}" width="{layout.width}" '
        f'height="{height}" {_FONT} font-size="11" role="group" aria-label={quoteattr("Circuit: " + caption)}>'
        f'<rect width="100%" height="100%" fill="{palette.surface}"/>'
        f'<g class="key" fill="{palette.faint}">{key}</g>'
        f'<svg class="stage" y="{key_height}" width="{layout.width}" height="{layout.height}">'
        f'<g class="world">{_rules(layout, palette)}'
        f"{circuit_marks(drawn, layout, palette, tokens, marks, lines, node_hint, effects, noise)}</g></svg>"
        f'<g class="caption" fill="{palette.faint}" font-size="10.5">{text}</g></svg>'
    )


def circuit_marks(
    drawn: nx.MultiDiGraph,
    layout: Layout,
    palette: Palette,
    tokens: Sequence[str] = (),
    marks: Mapping[int, Mark] | None = None,
    lines: Mapping[int, Line] | None = None,
    node_hint: str = "",
    effects: Mapping[int, float] | None = None,
    noise: float = 0.0,
) -> str:
    """The edges, the signs on them and the nodes alone, as groups of SVG: see `graph_svg`."""
    strongest = max((data["strength"] for *_, data in drawn.edges(data=True) if data["kind"] == "edge"), default=0) or 1
    ordered = _weak_first(drawn)
    if lines is not None:
        ordered.sort(key=lambda edge: lines[edge[2]].width if edge[2] in lines else -1.0)
    marks, effects = marks or {}, effects or {}
    edges = [_edge(drawn, edge, layout, strongest, palette, marks, lines, effects, noise) for edge in ordered]
    signs = "".join(_signs(drawn, edge, layout, palette, marks, effects, noise, lines or {}) for edge in ordered)
    nodes = [_node(drawn, name, layout, palette, tokens, node_hint) for name in drawn]
    above = f'<g class="signs" pointer-events="none">{signs}</g>' if signs else ""  # neither faded nor covered
    return f'<g class="edges">{"".join(edges)}</g>{above}<g class="nodes">{"".join(nodes)}</g>'


def _weak_first(drawn: nx.MultiDiGraph) -> list[tuple[str, str, Any]]:
    """Links, then edges from weak to strong: what comes later is drawn on top."""
    return sorted(drawn.edges(keys=True), key=lambda edge: drawn.edges[edge].get("strength", -1.0))


def _rules(layout: Layout, palette: Palette) -> str:
    """Names of rows and columns, and a faint line along each."""
    parts = []
    for word, y in layout.rows:
        parts.append(
            f'<path d="M54 {y:.1f}H{layout.width - 8}" stroke="{palette.faint}" stroke-opacity=".16"/>'
            f'<text x="4" y="{y + 3.5:.1f}" font-size="10" fill="{palette.faint}">{escape(word)}</text>'
        )
    step = min((b[1] - a[1] for a, b in zip(layout.columns, layout.columns[1:], strict=False)), default=99.0)
    y = layout.height - 44
    for word, x in layout.columns:
        short = word if len(word) <= 12 else word[:11] + "…"
        slant = f' transform="rotate(-35 {x:.1f} {y})" text-anchor="end"' if step < 52 else ' text-anchor="middle"'
        parts.append(
            f'<path d="M{x:.1f} 8V{y - 10}" stroke="{palette.faint}" stroke-opacity=".13"/>'
            f'<text x="{x:.1f}" y="{y + 6}" font-size="10.5" fill="{palette.text}"{slant}>{escape(short)}</text>'
        )
    return f'<g class="rules">{"".join(parts)}</g>'


# --- nodes ---------------------------------------------------------------------------------------------------------


def _node(drawn: nx.MultiDiGraph, name: str, layout: Layout, palette: Palette, tokens: Sequence[str], hint: str) -> str:
    node = drawn.nodes[name]
    kind = node["kind"]
    x, y = layout.places[name]
    width, height = _size(kind, layout)
    label = {"head": node["label"][1:], "kv": f"kv{node.get('head')}", "mlp": f"M{node['layer']}"}.get(kind)
    if kind == "mlp" and width >= 38:
        label = node["label"]
    colors = palette.nodes[kind]
    if label is not None:
        size = min(11.0, 0.78 * height, 1.75 * width / len(label))
        color = palette.surface if kind == "kv" else palette.text
        words = f'<text y="{0.35 * size:.1f}" font-size="{size:.1f}" fill="{color}" text-anchor="middle">{label}</text>'
    elif layout.columns:
        words = ""  # its row is named
    else:
        below = height / 2 + 11 if kind == "embedding" else -height / 2 - 4
        words = f'<text y="{below:.1f}" fill="{palette.text}" text-anchor="middle">{escape(node["label"])}</text>'
    title = f"{name}: {node_words(node, EdgeGraph.of(drawn.graph), tokens)}. {hint}"
    return (
        f'<g class="node" data-item={quoteattr("node:" + name)} data-node={quoteattr(name)} tabindex="0" role="button" '
        f'transform="translate({x:.1f} {y:.1f})"><title>{escape(title)}</title>'
        f'<path d="{_outline(kind, width, height)}" fill="{colors.fill}" stroke="{colors.border}" stroke-width="1.3"/>'
        f"{words}</g>"
    )


def _size(kind: str, layout: Layout) -> tuple[float, float]:
    width, height = layout.node_width, layout.node_height
    if kind == "kv":
        return 0.72 * width, 0.82 * height
    return (18.0, 14.0) if kind in ("embedding", "final") else (width, height)


def _outline(kind: str, width: float, height: float) -> str:
    """Heads are ellipses, key-value heads hexagons, MLPs boxes, the ends triangles."""
    w, h = width / 2, height / 2
    if kind == "head":
        return f"M{-w:.1f} 0A{w:.1f} {h:.1f} 0 1 1 {w:.1f} 0A{w:.1f} {h:.1f} 0 1 1 {-w:.1f} 0Z"
    if kind == "kv":
        cut = 0.3 * height
        return f"M{-w:.1f} 0L{cut - w:.1f} {-h:.1f}H{w - cut:.1f}L{w:.1f} 0L{w - cut:.1f} {h:.1f}H{cut - w:.1f}Z"
    if kind == "mlp":
        return f"M{-w:.1f} {-h:.1f}H{w:.1f}V{h:.1f}H{-w:.1f}Z"
    return f"M0 {-h:.1f}L{w:.1f} {h:.1f}H{-w:.1f}Z" if kind == "embedding" else f"M0 {h:.1f}L{w:.1f} {-h:.1f}H{-w:.1f}Z"


# --- edges ---------------------------------------------------------------------------------------------------------


def _edge(
    drawn: nx.MultiDiGraph,
    edge: tuple[str, str, Any],
    layout: Layout,
    strongest: float,
    palette: Palette,
    marks: Mapping[int, Mark],
    lines: Mapping[int, Line] | None,
    effects: Mapping[int, float],
    noise: float,
) -> str:
    tail, tip, _ = edge
    data = drawn.edges[edge]
    points = _curve(drawn, edge, layout)
    path = "M{:.1f} {:.1f}C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}".format(*points)
    ends = f"data-from={quoteattr(tail)} data-to={quoteattr(tip)}"
    if data["kind"] == "group":
        title = f"{tip} attends with the keys and values of {tail}."
        return (
            f'<g class="link" {ends}><title>{escape(title)}</title><path d="{path}" fill="none" '
            f'stroke="{palette.faint}" stroke-width="1" stroke-opacity=".75"/></g>'
        )
    strength = math.sqrt(data["strength"] / strongest)
    width = 0.8 + 3.8 * strength
    color = palette.by_sign(data["score"])
    dash = "" if data["input"] not in _DASHES else f' stroke-dasharray="{_dashes(data["input"], width)}"'
    effect = "hurt" if data["score"] > 0 else "help" if data["score"] < 0 else "not change"
    title = (
        f"{tail} → {INPUT_WORDS[data['input']]} of {tip}: score {data['score']:+.4g}, number {data['rank']:,} of "
        f"{drawn.graph['n_edges']:,} by |score|. Ablating this edge is estimated to {effect} the task. Click for more."
    )
    if (measured := effects.get(data["edge"])) is not None:
        title += f" Measured by ablating it: the loss changes by {measured:+.4g}"
        if contradicts(data["score"], measured, noise):
            title += ", the opposite of its score"
        title += "."
    opacity = 0.5 + 0.5 * strength
    if (told := marks.get(data["edge"])) is not None:
        title += f" {told.words}"
        opacity *= told.opacity
    if lines is not None:
        line = lines[data["edge"]]
        title = f"{tail} → {INPUT_WORDS[data['input']]} of {tip}: {line.words}."
        width, color, opacity = line.width, line.color, line.opacity
    return (
        f'<g class="edge" data-item="edge:{data["edge"]}" {ends} opacity="{opacity:.2f}">'
        f'<title>{escape(title)}</title><path class="hit" d="{path}" fill="none" stroke="none" '
        f'stroke-width="{width + 8:.1f}" pointer-events="stroke"/>'
        f'<path class="line" d="{path}" fill="none" stroke="{color}" stroke-width="{width:.2f}"{dash}/>'
        f'<path class="tip" d="{_arrow(points, width)}" fill="{color}"/></g>'
    )


def _signs(
    drawn: nx.MultiDiGraph,
    edge: tuple[str, str, Any],
    layout: Layout,
    palette: Palette,
    marks: Mapping[int, Mark],
    effects: Mapping[int, float],
    noise: float,
    lines: Mapping[int, Line],
) -> str:
    """The signs on an edge, each at its own place, and none at the ends, where edges meet."""
    data = drawn.edges[edge]
    if data["kind"] == "group":
        return ""
    points, found = _curve(drawn, edge, layout), ""
    if (measured := effects.get(data["edge"])) is not None and contradicts(data["score"], measured, noise):
        found = _opposite_mark(*_along(points, 0.5), palette)
    if (told := marks.get(data["edge"])) is not None and told.sign:
        found += _small_mark(*_along(points, 0.3), told.sign, palette)
    if (line := lines.get(data["edge"])) is not None and line.sign:
        found += _small_mark(*_along(points, _SIGNS.get(data["input"], 0.5)), line.sign, palette)
    return f'<g data-of="edge:{data["edge"]}">{found}</g>' if found else ""


def _along(points: Sequence[float], t: float) -> tuple[float, float]:
    """The point of the curve at `t`, from 0 at its source to 1 at its tip."""
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    x, y = (sum(weight * points[i + 2 * k] for k, weight in enumerate(weights)) for i in (0, 1))
    return x, y


def _opposite_mark(x: float, y: float, palette: Palette) -> str:
    """A disc with the sign of an edge whose measured effect contradicts its score."""
    return (
        f'<g class="opposite" transform="translate({x:.1f} {y:.1f})"><circle r="6.5" fill="{palette.surface}" '
        f'stroke="{palette.text}" stroke-width="1.2"/><text y="3.6" font-size="11" font-weight="700" '
        f'text-anchor="middle" fill="{palette.text}">{OPPOSITE}</text></g>'
    )


def _small_mark(x: float, y: float, sign: str, palette: Palette) -> str:
    return (
        f'<g class="mark" transform="translate({x:.1f} {y:.1f})"><circle r="5" fill="{palette.surface}" '
        f'stroke="{palette.faint}"/><text y="3.1" font-size="9" font-weight="700" text-anchor="middle" '
        f'fill="{palette.text}">{escape(sign)}</text></g>'
    )


def _dashes(to: str, width: float) -> str:
    """Wider lines need wider gaps."""
    return " ".join(f"{length * (0.7 + 0.25 * width):.1f}" for length in _DASHES[to])


def _curve(drawn: nx.MultiDiGraph, edge: tuple[str, str, Any], layout: Layout) -> tuple[float, ...]:
    """Start, two control points and end: from the top of the source into the bottom of the destination.

    Lines along a column bend away from the middle, as far as it takes to pass beside what stands between. Between two
    nodes at about one height, as a head and its layer's MLP, the line leaves and enters at the sides.
    """
    tail, tip, _ = edge
    data = drawn.edges[edge]
    (x0, y0), (x1, y1) = layout.places[tail], layout.places[tip]
    (w0, h0), (w1, h1) = (_size(drawn.nodes[name]["kind"], layout) for name in (tail, tip))
    up = (y0 - h0 / 2) - (y1 + h1 / 2)
    if up < 5 and abs(x1 - x0) > w0 / 2:
        side = 1 if x1 > x0 else -1
        x0, x1 = x0 + side * w0 / 2, x1 - side * w1 / 2
        pull = 0.4 * (x1 - x0)
        return x0, y0, x0 + pull, y0, x1 - pull, y1, x1, y1
    y0, y1 = y0 - h0 / 2, y1 + h1 / 2
    if drawn.nodes[tip]["kind"] in ("head", "kv"):
        x1 += _PORTS.get(data.get("input", ""), 0.0) * w1
    pull = max(8.0, 0.42 * up)
    bend = 0.0
    if abs(x1 - x0) < w0 and up > 2.4 * layout.node_height:
        outwards = 1 if (x0 + x1) / 2 >= layout.middle else -1
        room = layout.width - 6 - max(x0, x1) if outwards > 0 else min(x0, x1) - 54
        # A cubic curve goes three quarters of the way to its control points.
        bend = outwards * min(110.0, 1.1 * w0 + 0.14 * up, room / 0.75)
    return x0, y0, x0 + bend, y0 - pull, x1 + bend, y1 + pull, x1, y1


def _arrow(points: Sequence[float], width: float) -> str:
    """A triangle at the end of the curve, along its last stretch."""
    x, y = points[6:]
    across, along = x - points[4], y - points[5]
    length = math.hypot(across, along) or 1.0
    across, along = across / length, along / length
    size, half = 4.0 + 1.3 * width, 1.8 + 0.75 * width
    back = x - size * across, y - size * along
    return (
        f"M{x:.1f} {y:.1f}L{back[0] - half * along:.1f} {back[1] + half * across:.1f}"
        f"L{back[0] + half * along:.1f} {back[1] - half * across:.1f}Z"
    )


# --- the key -------------------------------------------------------------------------------------------------------


def _key(
    drawn: nx.MultiDiGraph,
    width: int,
    palette: Palette,
    marks: Mapping[int, Mark],
    lines: Mapping[int, Line] | None = None,
    effects: Mapping[int, float] | None = None,
    noise: float = 0.0,
) -> tuple[str, int]:
    """What shapes, lines and colours mean, of those that occur; and the height that takes."""
    kinds = {node["kind"] for node in drawn.nodes.values()}
    edges = [data for *_, data in drawn.edges(data=True)]
    scored = [data for data in edges if data["kind"] == "edge"]
    inputs = {data["input"] for data in scored}
    words = {
        "head": "head", "kv": "keys and values of a group", "mlp": "MLP", "embedding": RESID_START,
        "final": RESID_END,
    }  # fmt: skip
    samples: list[tuple[str, str]] = []
    for kind, word in words.items():
        if kind in kinds:
            colors = palette.nodes[kind]
            shape = _outline(kind, 16, 10)
            samples.append((f'<path d="{shape}" fill="{colors.fill}" stroke="{colors.border}"/>', word))
    line = '<path d="M-11 0H11" fill="none" stroke="{}" stroke-width="{}"{}/>'
    for to in ("Q", "K", "V"):
        if to in inputs:
            dash = f' stroke-dasharray="{_dashes(to, 1.6)}"'
            samples.append((line.format(palette.text, 1.6, dash), {"Q": "query", "K": "key", "V": "value"}[to]))
    if inputs & {"MLP", "Final"}:
        read = [word for to, word in INPUT_LABELS.items() if to in inputs and to in ("MLP", "Final")]
        samples.append((line.format(palette.text, 1.6, ""), f"into {' or '.join(read)}"))
    if len(scored) < len(edges):
        samples.append((line.format(palette.faint, 1, ""), "used by"))
    if lines is not None:
        meanings = {each.words: each for each in (lines[data["edge"]] for data in scored)}
        for each in sorted(meanings.values(), key=lambda each: -each.width):
            sample = line.format(each.color, each.width, f' opacity="{each.opacity}"')
            samples.append((sample + (_small_mark(0, 0, each.sign, palette) if each.sign else ""), each.words))
    if lines is None and any(data["score"] > 0 for data in scored):
        samples.append((line.format(palette.helps, 4, ""), "score > 0: estimated that ablating it hurts"))
    if lines is None and any(data["score"] < 0 for data in scored):
        samples.append((line.format(palette.hurts, 4, ""), "score < 0: estimated that ablating it helps"))
    if lines is None and any(data["score"] == 0 for data in scored):
        samples.append((line.format(palette.faint, 2, ""), "score 0"))
    measured = effects or {}
    if any(contradicts(data["score"], measured[data["edge"]], noise) for data in scored if data["edge"] in measured):
        samples.append((_opposite_mark(0, 0, palette), "measured: the opposite of its score"))
    told = [marks[data["edge"]] for data in scored if data["edge"] in marks]
    for sign, meaning in sorted({(mark.sign, mark.meaning) for mark in told if mark.sign}):
        samples.append((_small_mark(0, 0, sign, palette), meaning))
    parts, x, y = [], 8.0, 13
    for sample, word in samples:
        need = 30 + _CHARACTER * len(word) + 10
        if x + need > width and x > 8:
            x, y = 8.0, y + _LINE + 2
        parts.append(f'<g transform="translate({x + 12:.0f} {y})">{sample}<text x="15" y="4">{escape(word)}</text></g>')
        x += need
    return ("".join(parts), y + 10) if samples else ('<text x="8" y="16">No edges to draw.</text>', 24)
