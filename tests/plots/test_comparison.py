"""Several runs in one figure."""

from __future__ import annotations

import json

import numpy as np
import pytest

from circuit.edges.ranking import top_edges
from circuit.plots import comparison as plots
from circuit.runs.comparison import (
    overlap,
)
from circuit.runs.faithfulness import Curve, Measured
from tests.runs_made import run_with


@pytest.mark.parametrize("dark", [False, True])
def test_the_scatter_shows_every_edge_once_and_where_it_is_strong(dark: bool) -> None:
    first, second = run_with(5), run_with(6)
    figure = plots.score_scatter(first, second, ("A", "B"), 10, caption="what", dark=dark)
    groups = {trace.name.split(" (")[0]: trace for trace in figure.data if trace.name}
    chosen = {name: {int(data[0]) for data in trace.customdata or ()} for name, trace in groups.items()}
    mine, other = (set(top_edges(run.scores, 10).tolist()) for run in (first, second))
    assert chosen["both"] == mine & other
    assert chosen["A only"] == mine - other
    assert chosen["B only"] == other - mine
    assert set.union(*chosen.values()) == set(range(first.graph.n_edges))
    assert len({trace.marker.symbol for trace in groups.values()}) == 4  # not by colour alone
    json.loads(figure.to_json())


def test_a_scatter_of_many_edges_draws_the_strongest_and_a_shade_and_says_so() -> None:
    first, second = run_with(1, n_layers=30), run_with(2, n_layers=30)
    n_edges = first.graph.n_edges
    assert n_edges > plots.DRAWN
    figure = plots.score_scatter(first, second, ("A", "B"), 10, caption="what")
    points = sum(len(trace.customdata or ()) for trace in figure.data if trace.type == "scatter")
    assert points == plots.DRAWN
    (shade,) = (trace for trace in figure.data if trace.type == "heatmap")
    assert int(np.sum(shade.customdata)) == n_edges - plots.DRAWN
    caption = figure.layout.annotations[0].text.replace("<br>", " ")
    assert f"the {plots.DRAWN:,} edges" in caption
    assert f"the other {n_edges - plots.DRAWN:,}" in caption


def test_equal_places_on_both_axes_are_on_the_diagonal() -> None:
    run = run_with(9)
    twice = run_with(9)
    twice.scores = run.scores * 2
    figure = plots.score_scatter(run, twice, ("A", "B"), 10, caption="")
    for trace in figure.data:
        np.testing.assert_allclose(trace.x, trace.y, atol=1e-6)


def test_overlap_curves_have_a_line_a_pair_and_a_dashed_one_for_chance() -> None:
    first, second, third = (run_with(seed) for seed in range(3))
    shared = {"A and B": overlap(first.ranks, second.ranks), "A and C": overlap(first.ranks, third.ranks)}
    figure = plots.overlap_curves(shared, 12, caption="what")
    a, b, chance = figure.data
    assert (a.name, b.name, chance.name) == ("A and B", "A and C", "drawn at random")
    assert len({line.line.dash for line in figure.data}) == 3
    for x, y in zip(a.x, a.y, strict=True):
        assert y == pytest.approx(shared["A and B"][x - 1])
    np.testing.assert_allclose(chance.y, np.array(chance.x) / first.graph.n_edges)


def test_faithfulness_of_several_runs_is_that_of_their_curves() -> None:
    def measured(n: int, value: float) -> Measured:
        column = np.full(4, value, dtype=np.float32)
        return Measured(n, column, column, column, column)

    curves = {
        name: Curve((measured(0, 0), measured(5, 0.5 * top), measured(9, top)), measured(9, top), measured(0, 0))
        for name, top in (("A", 2.0), ("B", 3.0))
    }
    figure = plots.faithfulness_lines(curves, 5, caption="what")
    for line in figure.data:
        assert list(line.x) == [5, 9]  # a logarithmic axis has no place for 0
        assert list(line.y) == [0.5, 1.0]
    assert len({line.marker.symbol for line in figure.data}) == 2
    assert [note.text for note in figure.layout.annotations] == ["whole model", "every edge ablated", "what", "n = 5"]
