"""The overview and its blocks: what a cell says, and what a click on it means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from circuit.common.errors import OptionError
from circuit.edges.filter import EdgeFilter
from circuit.edges.graph import EdgeGraph
from circuit.edges.ranking import node_scores
from circuit.plots.heatmap import (
    block_heatmap,
    block_of,
    layer_heatmap,
    node_heatmap,
    picked_block,
    picked_edge,
)
from circuit.plots.matrix import score_matrix
from circuit.plots.numbers import Reduce, dense_scores, destination_groups, layer_scores, source_groups
from tests.graphs import SHAPES, SMOL, random_scores
from tests.plots.by_loops import CAPTION, REDUCTIONS, group_of, reduced


def test_hovering_a_block_says_what_the_number_is_and_of_how_many_edges() -> None:
    graph = EdgeGraph(2, 3, 1)
    figure = layer_heatmap(graph, np.ones(graph.n_edges, dtype=np.float32), caption=CAPTION, split_inputs=False)
    said = {(x, y): text for x, y, text in zip(*(figure.data[2][key] for key in ("x", "y", "text")), strict=True)}
    assert said["A0", "A1"] == "sum of |score|, 15 edges: 15"
    assert said["MLP 0", "MLP 1"] == "sum of |score|, 1 edge: 1"
    assert said["A1", "A0"].startswith("no edge")


@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_a_cell_of_a_node_is_the_sum_of_the_scores_of_its_edges(graph: EdgeGraph) -> None:
    scores = random_scores(graph)
    nodes = node_scores(graph, scores).reshape(-1, graph.n_sources).sum(0)
    figure = node_heatmap(graph, nodes, caption=CAPTION)
    said = {(x, y): text for x, y, text in zip(*(figure.data[2][key] for key in ("x", "y", "text")), strict=True)}
    for source, node in enumerate(graph.sources):
        total = float(scores[graph.edge_source == source].sum())
        column = "MLP" if node.kind == "mlp" else str(node.head or 0)
        row = "Resid Start" if node.kind == "embedding" else f"layer {node.layer}"
        name, _, number = said[column, row].partition(", sum of its edges' scores: ")
        assert name == node.name
        assert float(number) == pytest.approx(total, rel=1e-3, abs=1e-5)
    assert [text for text in said.values() if text == "no node"] == ["no node"] * graph.n_heads


def test_nodes_of_another_model_are_refused() -> None:
    with pytest.raises(OptionError, match=r"has 9 sources, and there are scores of shape \(3,\)"):
        node_heatmap(EdgeGraph(2, 3, 1), np.zeros(3), caption=CAPTION)


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
            assert graph.edge_label(edge) == f"{column} → {row}{at}"
            assert heat.z[i][j] == scores[edge]


def test_a_sum_over_positions_is_no_single_edge() -> None:
    graph = SHAPES[3]
    figure = block_heatmap(graph, random_scores(graph), "MLP 1", "A0", caption=CAPTION)
    assert picked_edge([point(figure, "A0.0", "MLP 1")]) is None
    assert picked_edge([]) is None


def test_a_group_that_the_model_lacks_is_named() -> None:
    with pytest.raises(OptionError, match="destinations named 'A9'"):
        block_heatmap(SHAPES[0], random_scores(SHAPES[0]), "A9", "A0", caption=CAPTION)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_what_the_filter_holds_back_counts_for_nothing_and_leaves_a_blank(graph: EdgeGraph, reduce: Reduce) -> None:
    scores = random_scores(graph)
    kept = EdgeFilter(sign="positive", min_score=0.8).mask(graph, scores)
    blocks: dict[tuple[str, str], list[float]] = {}
    for edge in np.flatnonzero(kept):
        row = group_of(graph.destinations[graph.edge_destination[edge]].name, False)
        column = group_of(graph.sources[graph.edge_source[edge]].name, False)
        blocks.setdefault((row, column), []).append(float(scores[edge]))
    values, counts = layer_scores(graph, scores, reduce=reduce, kept=kept)
    for i, row in enumerate(group.name for group in destination_groups(graph)):
        for j, column in enumerate(group.name for group in source_groups(graph)):
            of_block = blocks.get((row, column), [])
            assert counts[i, j] == len(of_block)
            assert values[i, j] == pytest.approx(reduced(of_block, reduce), rel=1e-4, nan_ok=True)
    matrix = dense_scores(graph, scores, reduce=reduce, kept=kept)
    pairs = {(int(graph.edge_destination[edge]), int(graph.edge_source[edge])) for edge in np.flatnonzero(kept)}
    assert {(int(i), int(j)) for i, j in zip(*np.nonzero(np.isfinite(matrix)), strict=True)} == pairs


def test_a_filter_changes_no_colour_and_still_takes_clicks() -> None:
    graph = SHAPES[1]
    scores = random_scores(graph)
    kept = np.abs(scores) < 0.5
    for draw in (layer_heatmap, score_matrix):
        assert (
            draw(graph, scores, caption=CAPTION, kept=kept).data[0].zmax
            == draw(graph, scores, caption=CAPTION).data[0].zmax
        )
    nothing = np.zeros(graph.n_edges, dtype=bool)
    figure = layer_heatmap(graph, scores, caption=CAPTION, kept=nothing)
    assert not np.isfinite(np.asarray(figure.data[0].z)).any()
    assert "no edge fits the filter" in figure.data[2].text
    assert block_heatmap(graph, scores, "A1", "A0", caption=CAPTION, kept=nothing).data[0].zmax > 0


def test_all_blocks_of_a_run_share_one_scale() -> None:
    graph = SHAPES[0]
    scores = random_scores(graph)
    ends = {
        block_heatmap(graph, scores, to, source, caption=CAPTION).data[0].zmax
        for to, source in (("A1", "A0"), ("MLP 2", "A1"), ("Resid End", "Resid Start"))
    }
    assert ends == {float(np.abs(scores).max())}


@pytest.mark.parametrize("graph", [SHAPES[1], SMOL], ids=str)
def test_an_edge_belongs_to_the_block_that_shows_it(graph: EdgeGraph) -> None:
    scores = random_scores(graph)
    for edge in (0, graph.n_edges // 2, graph.n_edges - 1):
        figure = block_heatmap(graph, scores, *block_of(graph, edge), caption=CAPTION, chosen=edge)
        assert [edge] in [list(data) for data in figure.data[2].customdata]
        marks = [shape for shape in figure.layout.shapes if shape.type == "rect"]
        (mark,) = marks
        column, row = (figure.data[0][axis][int(at + 0.5)] for axis, at in (("x", mark.x0), ("y", mark.y0)))
        assert graph.edge_name(edge) == f"{column}->{row}"
