"""The numbers of the figures, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from circuit.common.errors import OptionError
from circuit.edges.graph import EdgeGraph
from circuit.plots.numbers import Reduce, dense_scores, destination_groups, layer_scores, position_scores, source_groups
from tests.graphs import SHAPES, random_scores
from tests.plots.by_loops import REDUCTIONS, group_of, reduced


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


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("graph", [SHAPES[3], SHAPES[4]], ids=str)
def test_positions_show_what_each_layer_reads_there(graph: EdgeGraph, reduce: Reduce) -> None:
    scores = random_scores(graph)
    kept = scores > 0.3
    cells: dict[tuple[str, int], list[float]] = {}
    for edge in np.flatnonzero(kept):
        row = group_of(graph.destinations[graph.edge_destination[edge]].name, False)
        cells.setdefault((row, int(graph.edge_position[edge])), []).append(float(scores[edge]))
    values = position_scores(graph, scores, reduce=reduce, kept=kept)
    for i, group in enumerate(destination_groups(graph)):
        for position in range(graph.seq_len or 0):
            expected = reduced(cells.get((group.name, position), []), reduce)
            assert values[i, position] == pytest.approx(expected, rel=1e-5, nan_ok=True)
    with pytest.raises(OptionError, match="sums over token positions"):
        position_scores(SHAPES[0], random_scores(SHAPES[0]))
