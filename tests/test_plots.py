"""Figures: the numbers they show against plain loops, what a click means, and a layout in which nothing moves."""

from __future__ import annotations

import json
from typing import Any

import networkx as nx
import numpy as np
import pytest

from circuit.errors import OptionError
from circuit.graph import EdgeGraph
from circuit.plots.circuit_graph import graph_height, graph_options, layered_layout, picked_item
from circuit.plots.colors import PALETTES, bar_scale, log_place, score_scale, score_ticks
from circuit.plots.heatmap import (
    Reduce,
    block_heatmap,
    dense_scores,
    destination_groups,
    layer_heatmap,
    layer_scores,
    picked_block,
    picked_edge,
    score_matrix,
    source_groups,
)
from circuit.pruning import circuit_graph, top_edges

SHAPES = [
    EdgeGraph(3, 4, 4),
    EdgeGraph(4, 6, 2),
    EdgeGraph(3, 3, 1, parallel=True),
    EdgeGraph(2, 4, 4, seq_len=3),
    EdgeGraph(3, 4, 2, seq_len=4),
]
SMOL = EdgeGraph(n_layers=30, n_heads=9, n_kv_heads=3)
REDUCTIONS: list[Reduce] = ["abs_sum", "signed_sum", "abs_max"]
CAPTION = "Teaching model, 8 prompt pairs · edge attribution patching · positive: ablating the edge hurts the task"


def random_scores(graph: EdgeGraph, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(2, graph.n_edges).astype(np.float32)


def reduced(values: list[float], reduce: Reduce) -> float:
    if not values:
        return float("nan")
    if reduce == "abs_max":
        return max(abs(value) for value in values)
    return sum(abs(value) if reduce == "abs_sum" else value for value in values)


# --- the numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize(
    ("graph", "position"), [*((graph, None) for graph in SHAPES), (SHAPES[3], 1), (SHAPES[4], 3)], ids=str
)
def test_the_matrix_holds_each_edge_at_its_destination_and_source(
    graph: EdgeGraph, position: int | None, reduce: Reduce
) -> None:
    scores = random_scores(graph)
    cells: dict[tuple[int, int], list[float]] = {}
    for edge in range(graph.n_edges):
        if position in (None, graph.edge_position[edge]):
            at = int(graph.edge_destination[edge]), int(graph.edge_source[edge])
            cells.setdefault(at, []).append(float(scores[edge]))
    expected = [
        [reduced(cells.get((row, column), []), reduce) for column in range(graph.n_sources)]
        for row in range(len(graph.destinations))
    ]
    matrix = dense_scores(graph, scores, reduce=reduce, position=position)
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(matrix, expected, rtol=1e-5, atol=1e-6)


def group_of(name: str, split: bool) -> str:
    """A3.7.Q -> A3 or A3.Q; A3.7 -> A3; others are their own group."""
    if not name.startswith("A"):
        return name
    parts = name.split(".")
    return f"{parts[0]}.{parts[2]}" if split and len(parts) == 3 else parts[0]


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_the_overview_adds_up_the_edges_of_each_block(graph: EdgeGraph, split: bool, reduce: Reduce) -> None:
    scores = random_scores(graph)
    blocks: dict[tuple[str, str], list[float]] = {}
    for edge in range(graph.n_edges):
        row = group_of(graph.destinations[graph.edge_destination[edge]].name, split)
        column = group_of(graph.sources[graph.edge_source[edge]].name, split)
        blocks.setdefault((row, column), []).append(float(scores[edge]))
    values, counts = layer_scores(graph, scores, reduce=reduce, split_inputs=split)
    for i, row in enumerate(group.name for group in destination_groups(graph, split_inputs=split)):
        for j, column in enumerate(group.name for group in source_groups(graph)):
            of_block = blocks.pop((row, column), [])
            assert counts[i, j] == len(of_block)
            assert values[i, j] == pytest.approx(reduced(of_block, reduce), rel=1e-4, abs=1e-5, nan_ok=True)
    assert not blocks


def test_a_block_of_zeros_is_not_blank() -> None:
    graph = SHAPES[0]
    values, counts = layer_scores(graph, np.zeros(graph.n_edges, dtype=np.float32))
    assert (values[counts > 0] == 0).all()
    assert np.isnan(values[counts == 0]).all()
    assert (counts == 0).any()


def test_scores_and_positions_of_another_model_are_refused() -> None:
    graph, apart = SHAPES[0], SHAPES[3]
    with pytest.raises(OptionError, match="another model"):
        layer_heatmap(graph, np.zeros(3, dtype=np.float32), caption=CAPTION)
    with pytest.raises(OptionError, match="sums over token positions"):
        score_matrix(graph, random_scores(graph), caption=CAPTION, position=0)
    with pytest.raises(OptionError, match="positions 0 to 2"):
        score_matrix(apart, random_scores(apart), caption=CAPTION, position=3)
    with pytest.raises(OptionError, match="'abs_sum'"):
        layer_heatmap(graph, random_scores(graph), "mean", caption=CAPTION)  # type: ignore[arg-type]


# --- figures -------------------------------------------------------------------------------------------------------


def figures(graph: EdgeGraph) -> list[Any]:
    scores = random_scores(graph)
    return [
        *(layer_heatmap(graph, scores, reduce, caption=CAPTION) for reduce in REDUCTIONS),
        layer_heatmap(graph, scores, caption=CAPTION, split_inputs=True),
        block_heatmap(graph, scores, "A1", "A0", caption=CAPTION),
        block_heatmap(graph, scores, "Resid End", "MLP 0", caption=CAPTION, dark=True),
        score_matrix(graph, scores, caption=CAPTION),
    ]


@pytest.mark.parametrize("graph", [*SHAPES, SMOL], ids=str)
def test_every_figure_becomes_json_and_carries_its_caption(graph: EdgeGraph) -> None:
    for figure in figures(graph):
        text = figure.to_json()
        assert json.loads(text)["data"]
        written = figure.layout.annotations[0].text.replace("<br>", " ")
        assert written == CAPTION


def test_figures_take_text_and_background_colours_from_the_page() -> None:
    for figure in figures(SHAPES[0]):
        assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
        assert figure.layout.font.color is None


def test_figures_of_zeros_can_be_drawn() -> None:
    graph = SHAPES[0]
    zeros = np.zeros(graph.n_edges, dtype=np.float32)
    for figure in (
        layer_heatmap(graph, zeros, caption=CAPTION),
        block_heatmap(graph, zeros, "A1.Q", "A0", caption=CAPTION),
        score_matrix(graph, zeros, caption=CAPTION),
    ):
        assert figure.data[0].zmax > 0


def test_the_whole_matrix_is_float32_blank_where_acausal_and_has_its_lines_in_one_shape() -> None:
    figure = score_matrix(SMOL, random_scores(SMOL), caption=CAPTION)
    z = np.asarray(figure.data[0].z)
    assert z.dtype == np.float32
    assert np.isfinite(z).sum() == SMOL.n_edges == 70_651
    assert len(figure.layout.shapes) == 1
    assert len(figure.to_json()) < 1_500_000


def test_hovering_a_block_says_what_the_number_is_and_of_how_many_edges() -> None:
    graph = EdgeGraph(2, 3, 1)
    figure = layer_heatmap(graph, np.ones(graph.n_edges, dtype=np.float32), caption=CAPTION, split_inputs=False)
    said = {(x, y): text for x, y, text in zip(*(figure.data[2][key] for key in ("x", "y", "text")), strict=True)}
    assert said["A0", "A1"] == "sum of |score|, 15 edges: 15"
    assert said["MLP 0", "MLP 1"] == "sum of |score|, 1 edge: 1"
    assert said["A1", "A0"].startswith("no edge")


def point(figure: Any, x: str, y: str) -> dict[str, Any]:
    """What Streamlit reports when the cell is clicked."""
    targets = figure.data[2]
    (index,) = [i for i, at in enumerate(zip(targets.x, targets.y, strict=True)) if at == (x, y)]
    data = {} if targets.customdata is None else {"customdata": list(targets.customdata[index])}
    return {"curve_number": 2, "point_index": index, "x": x, "y": y, **data}


@pytest.mark.parametrize("graph", SHAPES, ids=str)
@pytest.mark.parametrize("split", [False, True])
def test_a_click_on_the_overview_means_a_block_that_can_be_opened(graph: EdgeGraph, split: bool) -> None:
    scores = random_scores(graph)
    figure = layer_heatmap(graph, scores, caption=CAPTION, split_inputs=split)
    _, counts = layer_scores(graph, scores, split_inputs=split)
    for i, row in enumerate(destination_groups(graph, split_inputs=split)):
        for j, column in enumerate(source_groups(graph)):
            picked = picked_block(graph, [point(figure, column.name, row.name)])
            if counts[i, j]:
                assert picked == (row.name, column.name)
                block = block_heatmap(graph, scores, row.name, column.name, caption=CAPTION)
                assert block.data[0].z.size * (graph.seq_len or 1) == counts[i, j]
            else:
                assert picked is None
                with pytest.raises(OptionError, match="No edge leads"):
                    block_heatmap(graph, scores, row.name, column.name, caption=CAPTION)
    assert picked_block(graph, []) is None


@pytest.mark.parametrize(("graph", "position"), [(SHAPES[0], None), (SHAPES[1], None), (SHAPES[4], 2)])
def test_a_click_on_a_block_means_the_edge_whose_score_is_shown(graph: EdgeGraph, position: int | None) -> None:
    scores = random_scores(graph)
    figure = block_heatmap(graph, scores, "A1", "A0", caption=CAPTION, position=position)
    heat = figure.data[0]
    for i, row in enumerate(heat.y):
        for j, column in enumerate(heat.x):
            edge = picked_edge([point(figure, column, row)])
            assert edge is not None
            at = "" if position is None else f" @{position}"
            assert graph.edge_name(edge) == f"{column}->{row}{at}"
            assert heat.z[i][j] == scores[edge]


def test_a_sum_over_positions_is_no_single_edge() -> None:
    graph = SHAPES[3]
    figure = block_heatmap(graph, random_scores(graph), "MLP 1", "A0", caption=CAPTION)
    assert picked_edge([point(figure, "A0.0", "MLP 1")]) is None
    assert picked_edge([]) is None


def test_a_group_that_the_model_lacks_is_named() -> None:
    with pytest.raises(OptionError, match="destinations named 'A9'"):
        block_heatmap(SHAPES[0], random_scores(SHAPES[0]), "A9", "A0", caption=CAPTION)


# --- colours -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("top", [3e-6, 1.0, 740.0])
def test_a_colour_scale_is_in_order_and_agrees_with_its_bar(top: float, signed: bool) -> None:
    scale, bar = score_scale(signed=signed), bar_scale(signed=signed)
    stops = [stop for stop, _ in scale]
    assert stops == sorted(stops)
    assert (stops[0], stops[-1]) == (0.0, 1.0)
    assert [color for _, color in scale] == [color for _, color in bar]
    low = -top if signed else 0.0
    places = log_place(np.array([low + stop * (top - low) for stop in stops]), top)
    expected = [stop * 2 - 1 if signed else stop for stop, _ in bar]
    np.testing.assert_allclose(places, expected, atol=1e-6)


@pytest.mark.parametrize("top", [3e-6, 0.1, 1.0, 740.0, 1000.0])
def test_ticks_are_in_order_and_within_the_scale(top: float) -> None:
    for signed in (False, True):
        ticks = score_ticks(top, signed=signed)
        assert ticks == sorted(ticks)
        assert 0.0 in ticks
        assert max(abs(tick) for tick in ticks) <= top * (1 + 1e-9)


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("dark", "page"), [(False, "#ffffff"), (True, "#0e1117")])
def test_text_and_lines_stand_out_on_the_page(dark: bool, page: str) -> None:
    palette = PALETTES[dark]
    assert contrast(palette.faint, page) >= 4.5  # WCAG AA for text
    for kind in ("head", "mlp"):
        assert contrast(palette.text, palette.nodes[kind].fill) >= 4.5
    for color in (palette.helps, palette.hurts, *(colors.border for colors in palette.nodes.values())):
        assert contrast(color, page) >= 3  # WCAG AA for graphics


# --- the circuit ---------------------------------------------------------------------------------------------------


def drawn_circuit(graph: EdgeGraph, n: int, seed: int = 0) -> nx.MultiDiGraph:
    scores = random_scores(graph, seed)
    return circuit_graph(graph, top_edges(scores, n), scores)


@pytest.mark.parametrize("graph", [*SHAPES, SMOL], ids=str)
def test_one_more_edge_moves_no_node(graph: EdgeGraph) -> None:
    before = layered_layout(drawn_circuit(graph, 1))
    for n in range(2, 60):
        after = layered_layout(drawn_circuit(graph, n))
        assert before.items() <= after.items()
        before = after


@pytest.mark.parametrize("graph", [*SHAPES, SMOL], ids=str)
def test_one_more_edge_moves_nothing_on_the_screen_either(graph: EdgeGraph) -> None:
    def on_screen(n: int) -> dict[str, tuple[float, float]]:
        data = graph_options(drawn_circuit(graph, n), caption=CAPTION)["series"][0]["data"]
        return {node["name"]: (node["x"], node["y"]) for node in data}

    few, many = on_screen(10), on_screen(60)
    assert few.items() <= many.items()
    for axis in (0, 1):  # ECharts fits the picture to the outermost nodes
        for outermost in (min, max):
            assert outermost(at[axis] for at in few.values()) == outermost(at[axis] for at in many.values())


@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_every_node_has_a_place_of_its_own_and_edges_lead_upwards(graph: EdgeGraph) -> None:
    drawn = drawn_circuit(graph, graph.n_edges)
    places = layered_layout(drawn)
    assert len(set(places.values())) == len(drawn)
    for tail, tip in drawn.edges():
        assert places[tail][1] < places[tip][1]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("n", [0, 10, 50, 200])
@pytest.mark.parametrize("graph", [*SHAPES, SMOL], ids=str)
def test_the_options_are_plain_json_and_carry_the_caption(graph: EdgeGraph, n: int, dark: bool) -> None:
    drawn = drawn_circuit(graph, min(n, graph.n_edges))
    options = graph_options(drawn, caption=CAPTION, dark=dark, height=graph_height(drawn))
    text = json.dumps(options, allow_nan=False)
    assert len(text) < 250_000
    assert options["title"][1]["text"].replace("\n", " ") == CAPTION
    names = [node["name"] for node in options["series"][0]["data"]]
    assert len(set(names)) == len(names)
    assert {end for link in options["series"][0]["links"] for end in (link["source"], link["target"])} <= set(names)


def links_of(options: dict[str, Any]) -> list[dict[str, Any]]:
    return [link for link in options["series"][0]["links"] if "value" in link]


def test_width_follows_strength_and_colour_follows_sign() -> None:
    for dark in (False, True):
        links = links_of(graph_options(drawn_circuit(SHAPES[0], 40), caption=CAPTION, dark=dark))
        by_strength = sorted(links, key=lambda link: abs(link["value"]))
        widths = [link["lineStyle"]["width"] for link in by_strength]
        assert widths == sorted(widths)
        palette = PALETTES[dark]
        for link in links:
            assert link["lineStyle"]["color"] == (palette.helps if link["value"] >= 0 else palette.hurts)


def test_kinds_of_node_differ_by_shape_and_inputs_by_dashes() -> None:
    drawn = drawn_circuit(SHAPES[1], SHAPES[1].n_edges)
    options = graph_options(drawn, caption=CAPTION)
    looks: dict[str, set[tuple[str, int]]] = {}
    for node in options["series"][0]["data"]:
        if node["name"] in drawn:
            kind = drawn.nodes[node["name"]]["kind"]
            looks.setdefault(kind, set()).add((node["symbol"], node["symbolRotate"]))
    assert all(len(look) == 1 for look in looks.values())
    assert len(set.union(*looks.values())) == len(looks) == 5
    dashes: dict[str, set[str]] = {"Q": set(), "K": set(), "V": set()}
    scored = {data["edge"]: data for *_, data in drawn.edges(data=True) if data["kind"] == "edge"}
    series = options["series"][0]
    for i, link in enumerate(series["links"]):
        item = picked_item(drawn, [{"data_type": "edge", "data_indices": [i]}])
        if item and item.edge is not None and (to := scored[item.edge]["input"]) in dashes:
            style = link["lineStyle"]
            dashes[to].add("solid" if style["type"] == "solid" else "dotted" if "cap" in style else "dashed")
    assert dashes == {"Q": {"solid"}, "K": {"dashed"}, "V": {"dotted"}}


@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_a_click_means_the_node_or_edge_drawn_at_that_index(graph: EdgeGraph) -> None:
    drawn = drawn_circuit(graph, 40)
    series = graph_options(drawn, caption=CAPTION)["series"][0]
    for i, node in enumerate(series["data"]):
        item = picked_item(drawn, [{"data_type": "node", "data_indices": [i]}])
        if node["name"] in drawn:
            assert item is not None
            assert (item.node, item.edge) == (node["name"], None)
            assert item.text == node["tooltip"]["formatter"]
        else:
            assert item is None
    for i, link in enumerate(series["links"]):
        item = picked_item(drawn, [{"data_type": "edge", "data_indices": [i]}])
        assert item is not None
        assert item.text == link["tooltip"]["formatter"]
        if "value" in link:
            assert item.edge is not None
            assert drawn.edges[link["source"], link["target"], item.edge]["score"] == link["value"]
        else:
            assert (item.kind, item.edge) == ("group", None)


def test_a_click_on_nothing_or_on_what_is_gone_means_nothing() -> None:
    drawn = drawn_circuit(SHAPES[0], 5)
    assert picked_item(drawn, []) is None
    assert picked_item(drawn, [{"data_type": "edge", "data_indices": [5]}]) is None
    assert picked_item(drawn, [{"data_type": "node", "data_indices": []}]) is None


def test_an_edge_is_explained_in_words_with_the_meaning_of_its_sign() -> None:
    graph = EdgeGraph(2, 2, 2)
    scores = np.zeros(graph.n_edges, dtype=np.float32)
    names = [graph.edge_name(edge) for edge in range(graph.n_edges)]
    scores[names.index("A0.1->A1.0.Q")] = -0.5
    drawn = circuit_graph(graph, top_edges(scores, 1), scores)
    item = picked_item(drawn, [{"data_type": "edge", "data_indices": [0]}])
    assert item is not None
    assert item.text.split("<br>") == [
        "<b>A0.1</b> → query input of <b>A1.0</b>",
        "score -0.5: ablating this edge helps the task",
        f"number 1 of {graph.n_edges} edges by |score|",
    ]


def test_positions_are_labelled_with_their_tokens() -> None:
    graph = SHAPES[3]
    drawn = drawn_circuit(graph, 20)
    options = graph_options(drawn, caption=CAPTION, position_labels=["·When", "·Mary", "·and"])
    labels = {node["name"]: node["label"].get("formatter") for node in options["series"][0]["data"]}
    assert [labels[f"position {i}"] for i in range(3)] == ["·When", "·Mary", "·and"]
