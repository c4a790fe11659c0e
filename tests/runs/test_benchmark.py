"""What stands beside CPR and CMD."""

from __future__ import annotations

import numpy as np
import pytest

from circuit.edges.graph import EdgeGraph
from circuit.runs.benchmark import KEEPS_ALL, KEEPS_NOTHING, beside, outdoing
from circuit.runs.faithfulness import Curve, Measured, curve_sizes

SMOLLM2 = EdgeGraph(30, 9, 3)


def curve(n_edges: int, *faithfulness: float) -> Curve:
    """A curve over the benchmark's sizes, of a model that does 1 whole and 0 ablated, on one prompt."""

    def measured(size: int, value: float) -> Measured:
        column = np.array([value], dtype=np.float32)
        return Measured(size, column, column, column, column)

    points = [measured(size, value) for size, value in zip(curve_sizes(n_edges), faithfulness, strict=True)]
    return Curve(points, measured(n_edges, 1.0), measured(0, 0.0))


def test_keeping_nothing_and_keeping_everything_are_the_benchmarks_ends() -> None:
    assert pytest.approx((0.25, 0.749)) == KEEPS_NOTHING
    assert pytest.approx((0.999, 0.0)) == KEEPS_ALL
    nothing, everything = curve(70651, *[0.0] * 9, 1.0), curve(70651, *[1.0] * 10)
    assert (nothing.cpr, nothing.cmd) == pytest.approx(KEEPS_NOTHING)
    assert (everything.cpr, everything.cmd) == pytest.approx(KEEPS_ALL)
    (ends, _) = beside(nothing, SMOLLM2)
    assert "keep nothing until all edges are there have CPR 0.25 and CMD 0.749" in ends
    assert "have CPR 0.999 and CMD 0." in ends


def test_edges_of_shared_key_value_heads_are_counted_as_here_and_as_by_the_benchmark() -> None:
    _, counting = beside(curve(70651, *[1.0] * 10), SMOLLM2)
    assert "70,651 edges" in counting
    assert "123,211" in counting
    assert (SMOLLM2.n_edges, SMOLLM2.n_edges_by_query_head) == (70651, 123211)
    plain = EdgeGraph(3, 4, 4)
    assert plain.n_edges_by_query_head == plain.n_edges
    assert len(beside(curve(70651, *[1.0] * 10), plain)) == 1


def test_circuits_that_outdo_their_model_are_said_to() -> None:
    assert not outdoing(curve(70651, *[1.1] * 10))
    one = outdoing(curve(70651, 0, 0, 0, 0, 0, 0, 0, 0, 1.3, 1))
    assert one.startswith("At 35,325 edges faithfulness is above 110%, up to 130%: there the circuit outdoes the model")
    some = outdoing(curve(70651, 0, 0, 0, 0, 0, 0, 0, 1.2, 1.3, 1))
    assert some.startswith("At 2 sizes from 14,130 edges on")
    assert some in beside(curve(70651, 0, 0, 0, 0, 0, 0, 0, 1.2, 1.3, 1), SMOLLM2)
