"""Figures of a run beside the circuit that is known: nothing hangs on colour alone."""

from __future__ import annotations

import re

import numpy as np
import pytest

from circuit.edges.subgraph import circuit_graph
from circuit.jobs.known import known_truth
from circuit.plots.graph_svg import graph_svg
from circuit.plots.layout import circuit_layout
from circuit.plots.truth import FALSE_ALARM, HIT, MISS, auroc_bars, precision_recall, truth_lines

TRUTH = known_truth("known-brackets")


@pytest.mark.parametrize("dark", [False, True])
def test_edges_are_told_apart_by_sign_width_and_words(dark: bool) -> None:
    outside = np.flatnonzero(~TRUTH.inside)[:2]
    found = np.concatenate([TRUTH.edges[:4], outside])
    lines = truth_lines(TRUTH, found, dark=dark)
    assert set(lines) == {*TRUTH.edges.tolist(), *outside.tolist()}
    by_sign = {sign: [edge for edge, line in lines.items() if line.sign == sign] for sign in (HIT, MISS, FALSE_ALARM)}
    assert by_sign[HIT] == sorted(TRUTH.edges[:4].tolist())
    assert by_sign[MISS] == TRUTH.edges[4:].tolist()
    assert by_sign[FALSE_ALARM] == outside.tolist()
    assert len({line.width for line in lines.values()}) == len({line.words for line in lines.values()}) == 3

    drawn = circuit_graph(TRUTH.graph, np.array(sorted(lines)), np.zeros(TRUTH.graph.n_edges, dtype=np.float32))
    svg = graph_svg(drawn, circuit_layout(drawn), caption="held", dark=dark, lines=lines)
    key, world = svg.split('class="world"')
    for sign, edges in by_sign.items():
        assert world.count(f">{sign}</text>") == len(edges)
        assert key.count(f">{sign}</text>") == 1
    assert len(re.findall("in the circuit, but missed\\.", world)) == 2


def test_the_curve_shows_the_shares_and_where_scores_end() -> None:
    recall = np.array([0.5, 0.5, 1.0])
    figure = precision_recall(np.array([1.0, 0.5, 2 / 3]), recall, size=2, n_scored=2)
    assert figure.data[1].y.tolist() == recall.tolist()
    assert {trace.line.dash for trace in figure.data} == {"solid", "dash"}
    assert len(figure.layout.shapes) == 2  # the circuit's size, and where scores are rounding
    assert len(precision_recall(recall, recall, size=2, n_scored=3).layout.shapes) == 1


def test_bars_are_in_order_and_the_bet_has_a_star() -> None:
    (bars,) = auroc_bars(["a", "b", "c"], [0.7, 1.0, 0.9], bet="c").data
    assert list(bars.y) == ["a", "★ c", "b"]
    assert list(bars.x) == [0.7, 0.9, 1.0]
