"""Where nodes stand in the picture of a circuit."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from circuit.edges.graph import EdgeGraph
from circuit.edges.ranking import top_edges
from circuit.edges.subgraph import circuit_graph, live_edges
from circuit.plots.layout import STEPS, circuit_layout, next_step, stretched
from tests.graphs import SHAPES, SMOL, laid_out, random_scores


def test_a_stretched_layout_keeps_its_ends_and_its_order() -> None:
    graph = EdgeGraph(3, 4, 4)
    layout = circuit_layout(circuit_graph(graph, np.arange(graph.n_edges), np.zeros(graph.n_edges, dtype=np.float32)))
    taller = stretched(layout, 2 * layout.height, 60.0)
    assert {name: x for name, (x, _) in layout.places.items()} == {name: x for name, (x, _) in taller.places.items()}
    before, after = (np.array([y for _, y in each.places.values()]) for each in (layout, taller))
    assert after.min() == pytest.approx(before.min())
    assert taller.height - after.max() == pytest.approx(layout.height - before.max())
    assert np.corrcoef(before, after)[0, 1] == pytest.approx(1)


LARGE = EdgeGraph(n_layers=32, n_heads=32, n_kv_heads=8)


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
