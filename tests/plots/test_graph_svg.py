"""The picture of a circuit: everything is drawn once, and its key says what it means."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from circuit.edges.graph import EdgeGraph
from circuit.edges.ranking import top_edges
from circuit.edges.subgraph import circuit_graph, live_edges
from circuit.plots.colors import PALETTES
from circuit.plots.graph_svg import Line, Mark, graph_svg
from circuit.plots.layout import circuit_layout
from tests.graphs import SHAPES, SMOL, circuit, laid_out, random_scores

CAPTION = 'Teaching model; 8 prompt pairs; "EAP" <logit> & more; score > 0: ablating the edge hurts the task'
SVG = "{http://www.w3.org/2000/svg}"


def picture(graph: EdgeGraph, n: int, dark: bool = False) -> ElementTree.Element:
    drawn, layout = laid_out(graph, n)
    return ElementTree.fromstring(graph_svg(drawn, layout, caption=CAPTION, dark=dark))


def test_a_score_of_zero_is_neither_drawn_nor_said_to_be_positive() -> None:
    scores = np.zeros(SMOL.n_edges, dtype=np.float32)
    drawn = circuit_graph(SMOL, top_edges(scores, 3), scores)
    picture = graph_svg(drawn, circuit_layout(drawn), caption="", dark=False)
    assert "score 0" in picture
    assert "score > 0" not in picture
    assert "hurts the task" not in picture


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("n", [0, 10, 200, 1000])
@pytest.mark.parametrize("graph", [*SHAPES, SMOL], ids=str)
def test_every_node_and_edge_is_drawn_once_and_the_caption_is_in_the_picture(
    graph: EdgeGraph, n: int, dark: bool
) -> None:
    n = min(n, graph.n_edges)
    drawn, root = circuit(graph, n), picture(graph, n, dark=dark)
    items = [group.attrib["data-item"] for group in root.iter(f"{SVG}g") if "data-item" in group.attrib]
    edges = [data["edge"] for *_, data in drawn.edges(data=True) if data["kind"] == "edge"]
    assert sorted(items) == sorted([*(f"node:{name}" for name in drawn), *(f"edge:{edge}" for edge in edges)])
    (caption,) = (group for group in root.iter(f"{SVG}g") if group.get("class") == "caption")
    assert " ".join(line.text or "" for line in caption) == CAPTION


def edge_groups(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [group for group in root.iter(f"{SVG}g") if group.get("class") == "edge"]


def line_of(edge: ElementTree.Element) -> ElementTree.Element:
    (line,) = (path for path in edge if path.get("class") == "line")
    return line


def test_width_follows_strength_and_colour_follows_sign() -> None:
    graph = SHAPES[0]
    scores = random_scores(graph)
    for dark in (False, True):
        palette = PALETTES[dark]
        widths = []
        for group in edge_groups(picture(graph, 40, dark=dark)):
            score = scores[int((group.get("data-item") or "").removeprefix("edge:"))]
            line = line_of(group)
            assert line.get("stroke") == (palette.helps if score > 0 else palette.hurts)
            widths.append((abs(score), float(line.get("stroke-width") or 0)))
        assert [width for _, width in sorted(widths)] == sorted(width for _, width in widths)


def test_kinds_of_node_differ_by_shape_and_inputs_by_dashes() -> None:
    graph = SHAPES[1]
    drawn, root = circuit(graph, graph.n_edges), picture(graph, graph.n_edges)
    shapes: dict[str, set[str]] = {}
    for group in root.iter(f"{SVG}g"):
        if name := group.get("data-node"):
            path = next(iter(group.findall(f"{SVG}path"))).get("d") or ""
            shapes.setdefault(drawn.nodes[name]["kind"], set()).add(path)
    assert all(len(paths) == 1 for paths in shapes.values())
    assert len(set.union(*shapes.values())) == len(shapes) == 5
    inputs = {data["edge"]: data["input"] for *_, data in drawn.edges(data=True) if data["kind"] == "edge"}
    numbers: dict[str, set[int]] = {}
    for group in edge_groups(root):
        to = inputs[int((group.get("data-item") or "").removeprefix("edge:"))]
        numbers.setdefault(to, set()).add(len((line_of(group).get("stroke-dasharray") or "").split()))
        first = (line_of(group).get("stroke-dasharray") or "0").split()[0]
        assert (float(first) < 2.5) == (to in ("V", "MLP", "Final"))
    assert numbers == {"Q": {4}, "K": {2}, "V": {2}, "MLP": {0}, "Final": {0}}


def key_words(root: ElementTree.Element) -> set[str]:
    (key,) = (group for group in root.iter(f"{SVG}g") if group.get("class") == "key")
    return {text.text or "" for text in key.iter(f"{SVG}text")}


def test_the_key_explains_what_occurs_and_nothing_else() -> None:
    everything = key_words(picture(SHAPES[1], SHAPES[1].n_edges))
    assert {
        "query",
        "key",
        "value",
        "used by",
        "into MLP or Resid End",
        "keys and values of a group",
    } <= everything
    graph = EdgeGraph(2, 2, 2)
    scores = np.zeros(graph.n_edges, dtype=np.float32)
    names = [graph.edge_name(edge) for edge in range(graph.n_edges)]
    scores[names.index("Resid Start->A1.0.Q")] = -0.5
    drawn = circuit_graph(graph, top_edges(scores, 1), scores)
    root = ElementTree.fromstring(graph_svg(drawn, circuit_layout(drawn), caption=CAPTION))
    assert key_words(root) == {"head", "Resid Start", "query", "score < 0: estimated that ablating it helps"}
    (title,) = (group.findtext(f"{SVG}title") for group in edge_groups(root))
    assert title is not None
    assert title.startswith("Resid Start → query input of A1.0: score -0.5, number 1 of 46 by |score|. Ablating this")
    assert "Ablating this edge is estimated to help the task." in title


def test_positions_are_labelled_with_their_tokens() -> None:
    drawn, layout = laid_out(SHAPES[3], 20)
    tokens = ["·When", "<b>&", "·and"]
    layout = circuit_layout(drawn, tokens=tokens)
    root = ElementTree.fromstring(graph_svg(drawn, layout, caption=CAPTION, tokens=tokens))
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert [words.count(token) for token in tokens] == [1, 1, 1]
    assert any("at position 1 (" in (title.text or "") for title in root.iter(f"{SVG}title"))


def test_lines_stay_inside_the_picture() -> None:
    for graph in (SMOL, SHAPES[4]):
        root = picture(graph, 200)
        width = float(root.get("width") or 0)
        for group in edge_groups(root):
            x0, _, x1, _, x2, _, x3, _ = (float(v) for v in re.findall(r"-?[\d.]+", line_of(group).get("d") or ""))
            middle = (x0 + 3 * x1 + 3 * x2 + x3) / 8
            assert all(0 <= x <= width for x in (x0, middle, x3))


def test_an_edge_whose_measured_effect_contradicts_its_score_is_marked_by_a_sign_and_in_words() -> None:
    graph = SHAPES[0]
    scores = random_scores(graph)
    edges = live_edges(graph, top_edges(scores, 40))
    first, second = edges[:2].tolist()
    effects = {first: -float(scores[first]), second: float(scores[second])}
    drawn = circuit_graph(graph, edges, scores)
    layout = circuit_layout(drawn)
    svg = graph_svg(drawn, layout, caption=CAPTION, effects=effects)
    assert svg.count('class="opposite"') == 2  # on the edge, and in the key
    assert "measured: the opposite of its score" in svg
    titles = [title for title in re.findall(r"<title>(.*?)</title>", svg) if "Measured by ablating it" in title]
    assert len(titles) == 2
    assert sum("the opposite of its score" in title for title in titles) == 1
    assert 'class="opposite"' not in graph_svg(drawn, layout, caption=CAPTION, effects=effects, noise=1e9)
    assert 'class="opposite"' not in graph_svg(drawn, layout, caption=CAPTION)


def test_what_else_is_told_of_an_edge_is_a_sign_on_it_words_on_hovering_and_a_line_of_the_key() -> None:
    graph = SHAPES[0]
    scores = random_scores(graph)
    edges = live_edges(graph, top_edges(scores, 40))
    open_, out, plain, untold = edges[:4].tolist()
    marks = {
        open_: Mark("These draws do not tell.", 0.5, "?", "abstention"),
        out: Mark("It is out.", 0.25, "×", "rejected"),
        plain: Mark("It is in."),
    }
    drawn = circuit_graph(graph, edges, scores)
    layout = circuit_layout(drawn)
    root = ElementTree.fromstring(graph_svg(drawn, layout, caption=CAPTION, marks=marks))
    before = ElementTree.fromstring(graph_svg(drawn, layout, caption=CAPTION))
    assert key_words(root) == key_words(before) | {"?", "abstention", "×", "rejected"}

    def found(root: ElementTree.Element, edge: int) -> tuple[str, float, list[str | None]]:
        (group,) = (group for group in edge_groups(root) if group.get("data-item") == f"edge:{edge}")
        signs = [
            text.text
            for each in root.iter()
            if each.get("data-of") == f"edge:{edge}"
            for text in each.iter(f"{SVG}text")
        ]
        return group.findtext(f"{SVG}title") or "", float(group.get("opacity") or 0), signs

    for edge, mark in marks.items():
        title, opacity, signs = found(root, edge)
        assert title.endswith(mark.words)
        assert opacity == pytest.approx(mark.opacity * found(before, edge)[1], abs=0.01)
        assert signs == [mark.sign] * bool(mark.sign)
    assert found(root, untold) == found(before, untold)


def test_edges_are_drawn_as_asked() -> None:
    graph = EdgeGraph(3, 4, 4)
    drawn = circuit_graph(graph, np.arange(5), np.zeros(graph.n_edges, dtype=np.float32))
    lines = {**dict.fromkeys(range(5), Line("left alone", "#123456", 1.0)), 2: Line("ablated", "#654321", 4.0)}
    svg = graph_svg(drawn, circuit_layout(drawn), caption="a board", lines=lines, node_hint="Click me.")
    assert svg.count("left alone") == 4 + 1  # a title each, and the key
    assert svg.count("ablated") == 1 + 1
    assert "score" not in svg
    assert "Click me." in svg
