"""The picture of a circuit: places that stay, marks that tell things apart, and a key that says what they mean."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import networkx as nx
import numpy as np
import pytest

from circuit.edges.graph import EdgeGraph
from circuit.edges.ranking import top_edges
from circuit.edges.subgraph import circuit_graph, live_edges
from circuit.plots.colors import PALETTES
from circuit.plots.graph_svg import graph_svg
from circuit.plots.layout import STEPS, Layout, circuit_layout, next_step
from tests.graphs import SHAPES, SMOL, random_scores

LARGE = EdgeGraph(n_layers=32, n_heads=32, n_kv_heads=8)
CAPTION = 'Teaching model; 8 prompt pairs; "EAP" <logit> & more; score > 0: ablating the edge hurts the task'
SVG = "{http://www.w3.org/2000/svg}"


def circuit(graph: EdgeGraph, n: int) -> nx.MultiDiGraph:
    scores = random_scores(graph)
    return circuit_graph(graph, top_edges(scores, min(n, graph.n_edges)), scores)


def laid_out(graph: EdgeGraph, n: int) -> tuple[nx.MultiDiGraph, Layout]:
    drawn = circuit(graph, n)
    step = next_step(n, apart=graph.seq_len is not None)
    return drawn, circuit_layout(drawn, None if step is None else circuit(graph, step))


def picture(graph: EdgeGraph, n: int, dark: bool = False) -> ElementTree.Element:
    drawn, layout = laid_out(graph, n)
    return ElementTree.fromstring(graph_svg(drawn, layout, caption=CAPTION, dark=dark))


# --- places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [*SHAPES, SMOL, LARGE], ids=str)
def test_between_two_steps_one_more_edge_moves_nothing(graph: EdgeGraph) -> None:
    apart = graph.seq_len is not None
    _, before = laid_out(graph, 1)
    for n in range(2, 70):
        _, after = laid_out(graph, n)
        if next_step(n, apart=apart) == next_step(n - 1, apart=apart):
            assert before.places.items() <= after.places.items()
            assert (before.width, before.height, before.rows) == (after.width, after.height, after.rows)
        before = after


@pytest.mark.parametrize("graph", [*SHAPES, SMOL], ids=str)
@pytest.mark.parametrize("step", STEPS[:2])
def test_from_step_to_step_no_two_nodes_change_their_order(graph: EdgeGraph, step: int) -> None:
    few, many = (laid_out(graph, n)[1].places for n in (step, step + 1))
    for axis in (0, 1):
        names = sorted(few.keys() & many.keys(), key=lambda name: few[name][axis])
        for a, b in pairwise(names):
            if few[a][axis] < few[b][axis] - 1e-6:
                assert many[a][axis] <= many[b][axis] + 1e-6


@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_every_node_has_a_place_of_its_own_inside_the_picture_and_edges_lead_upwards(graph: EdgeGraph) -> None:
    drawn, layout = laid_out(graph, graph.n_edges)
    assert len(set(layout.places.values())) == len(drawn)
    for tail, tip in drawn.edges():
        assert layout.places[tail][1] > layout.places[tip][1]
    for x, y in layout.places.values():
        assert 0 < x < layout.width
        assert 0 < y < layout.height


@pytest.mark.parametrize("n", [10, 50, 200])
def test_a_deep_model_fits_on_a_screen_with_room_for_its_names(n: int) -> None:
    scores = random_scores(SMOL)
    edges = live_edges(SMOL, top_edges(scores, n))
    reference = circuit_graph(SMOL, live_edges(SMOL, top_edges(scores, next_step(n) or 0)), scores)
    layout = circuit_layout(circuit_graph(SMOL, edges, scores), reference, width=690)
    assert layout.height < 768 - 120
    assert layout.node_height >= 12
    heads = [place for name, place in layout.places.items() if re.fullmatch(r"A\d+\.\d+", name)]
    for i, (x, y) in enumerate(heads):
        for other in heads[:i]:
            assert abs(x - other[0]) >= layout.node_width or abs(y - other[1]) >= layout.node_height


def test_layers_that_a_circuit_does_not_use_take_little_room() -> None:
    scores = np.zeros(SMOL.n_edges, dtype=np.float32)
    names = {SMOL.edge_name(edge): edge for edge in range(SMOL.n_edges)}
    for name in ("Resid Start->MLP 2", "MLP 2->MLP 28", "MLP 28->Resid End"):
        scores[names[name]] = 1
    drawn = circuit_graph(SMOL, top_edges(scores, 3), scores)
    thin, full = circuit_layout(drawn, drawn), circuit_layout(drawn)
    assert [name for name, _ in thin.rows] == ["layer 2", "layer 28"]
    assert len(full.rows) == 30
    assert thin.node_height > full.node_height


def test_a_score_of_zero_is_neither_drawn_nor_said_to_be_positive() -> None:
    scores = np.zeros(SMOL.n_edges, dtype=np.float32)
    drawn = circuit_graph(SMOL, top_edges(scores, 3), scores)
    picture = graph_svg(drawn, circuit_layout(drawn), caption="", dark=False)
    assert "score 0" in picture
    assert "score > 0" not in picture
    assert "hurts the task" not in picture


# --- the picture ---------------------------------------------------------------------------------------------------


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
        "into MLP or final residual",
        "keys and values of a group",
    } <= everything
    graph = EdgeGraph(2, 2, 2)
    scores = np.zeros(graph.n_edges, dtype=np.float32)
    names = [graph.edge_name(edge) for edge in range(graph.n_edges)]
    scores[names.index("Resid Start->A1.0.Q")] = -0.5
    drawn = circuit_graph(graph, top_edges(scores, 1), scores)
    root = ElementTree.fromstring(graph_svg(drawn, circuit_layout(drawn), caption=CAPTION))
    assert key_words(root) == {"head", "embedding", "query", "score < 0: estimated that ablating it helps"}
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
