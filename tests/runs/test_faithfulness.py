"""Faithfulness, CPR and CMD against numbers worked out by hand; the bootstrap against what resampling must give."""

from __future__ import annotations

import json

import numpy as np
import pytest

from circuit.common.errors import NumericalError
from circuit.runs.faithfulness import CURVE_SHARES, Curve, Measured, cmd, cpr, curve_sizes


def measured(n_edges: int, *values: float) -> Measured:
    column = np.array(values, dtype=np.float32)
    return Measured(n_edges, column, (column > 0).astype(np.float32), column / 10, column * 0)


def curve(*points: tuple[int, float]) -> Curve:
    """A model of 1000 edges whose answer difference is 4 whole and -1 ablated, on one prompt."""
    return Curve(tuple(measured(*point) for point in points), measured(1000, 4.0), measured(0, -1.0))


def test_faithfulness_is_the_share_of_the_difference_that_is_kept() -> None:
    found = curve((0, -1.0), (10, 0.25), (20, 1.5), (500, 6.5), (1000, 4.0)).faithfulness
    np.testing.assert_allclose(found, [0, 0.25, 0.5, 1.5, 1])


def test_faithfulness_is_a_ratio_of_means_not_a_mean_of_ratios() -> None:
    two = Curve((measured(5, 1.0, 3.0),), measured(10, 2.0, 4.0), measured(0, 0.0, 1.0))
    np.testing.assert_allclose(two.faithfulness, [(2 - 0.5) / (3 - 0.5)])


def test_cpr_and_cmd_are_areas_by_the_trapezoid_rule_over_the_share_of_edges() -> None:
    """f = 0.2, 0.6, 1.4, 1 at 10, 20, 50 and 100 % of the edges:
    CPR = 0.1 (0.2 + 0.6) / 2 + 0.3 (0.6 + 1.4) / 2 + 0.5 (1.4 + 1) / 2 = 0.04 + 0.3 + 0.6
    CMD = 0.1 (0.8 + 0.4) / 2 + 0.3 (0.4 + 0.4) / 2 + 0.5 (0.4 + 0) / 2 = 0.06 + 0.12 + 0.1
    """
    found = curve((100, 0.0), (200, 2.0), (500, 6.0), (1000, 4.0))
    assert found.cpr == pytest.approx(0.94)
    assert found.cmd == pytest.approx(0.28)


def test_a_circuit_as_good_as_the_model_at_every_size_has_no_distance() -> None:
    found = curve(*((size, 4.0) for size in curve_sizes(1000)))
    assert found.cpr == pytest.approx(0.999)  # the benchmark's area starts at 0.1 % of the edges
    assert found.cmd == pytest.approx(0)


def test_sizes_are_the_benchmarks() -> None:
    assert CURVE_SHARES == (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
    assert curve_sizes(70651) == (70, 141, 353, 706, 1413, 3532, 7065, 14130, 35325, 70651)
    assert curve_sizes(262) == (0, 1, 2, 5, 13, 26, 52, 131, 262)


def test_in_a_small_model_several_shares_have_one_circuit_and_the_axis_keeps_the_shares() -> None:
    """A model of 262 edges, f = sqrt(edges / 262): 0.1 and 0.2 % of them are the empty circuit, 0.5 % are 1 edge."""
    kept = [0, 1, 2, 5, 13, 26, 52, 131, 262]
    points = tuple(measured(n, 5 * (n / 262) ** 0.5 - 1) for n in kept)
    found = Curve((*points, measured(100, 9.0)), measured(262, 4.0), measured(0, -1.0))  # 100 is none of the sizes
    assert found.is_benchmark
    shares = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
    f = [(n / 262) ** 0.5 for n in (0, 0, 1, 2, 5, 13, 26, 52, 131, 262)]
    area = sum((b - a) * (x + y) / 2 for a, b, x, y in zip(shares, shares[1:], f, f[1:], strict=False))
    assert found.cpr == pytest.approx(area, rel=1e-5)
    assert found.cpr == pytest.approx(0.65815, abs=1e-5)
    assert found.cmd == pytest.approx(0.999 - area, rel=1e-5)  # f is nowhere above 1
    assert not curve((10, 1.0), (1000, 4.0)).is_benchmark


def test_the_summary_numbers_of_shares_and_faithfulness() -> None:
    assert cpr([0, 0.5, 1], [0, 0.5, 1.5]) == pytest.approx(0.125 + 0.5)
    assert cmd([0, 0.5, 1], [0, 0.5, 1.5]) == pytest.approx(0.375 + 0.25)


def test_the_smallest_size_that_keeps_enough() -> None:
    found = curve((10, 0.0), (20, 3.5), (50, 3.4), (1000, 4.0))
    assert found.smallest(0.9) == 20
    assert found.smallest(0.95) == 1000
    assert found.smallest(1.1) is None
    assert found.smallest(0.9, most=20) == 20
    assert found.smallest(0.95, most=50) is None


@pytest.mark.parametrize("ablated", [(4.0, -4.0), (4.0, -4.0001), (-4.0, 4.0)])
def test_no_share_is_given_where_whole_and_ablated_model_do_equally_well(ablated: tuple[float, float]) -> None:
    whole = measured(1000, -4.0, 4.0)
    found = Curve((measured(10, 1.0, 1.0),), whole, measured(0, *ablated))
    assert found.too_close is not None
    assert "do equally well on average" in found.too_close
    with pytest.raises(NumericalError, match="nothing that a circuit could keep"):
        _ = found.faithfulness


def test_no_share_is_given_of_a_difference_that_may_be_rounding() -> None:
    """Three equal pairs: their mean is each of them except for the last bit, and all differences agree."""
    whole, ablated = measured(262, *[3.4157] * 3), measured(0, *[3.4157 - 9.5e-7] * 3)
    found = Curve((measured(10, *[3.4157] * 3),), whole, ablated)
    assert found.too_close is not None
    assert "may be rounding" in found.too_close
    small = Curve((measured(10, 2e-6),), measured(262, 4e-6), measured(0, 1e-6))  # small numbers are none for that
    assert small.too_close is None


def test_it_is_said_where_other_draws_would_turn_the_difference_round() -> None:
    generator = np.random.default_rng(0)
    ablated = measured(0, *np.zeros(20))
    noisy = Curve((), measured(9, *generator.normal(0.2, 2, 20)), ablated)
    assert noisy.too_close is None
    assert "0 in this 95 % interval" in (noisy.uncertain or "")
    assert Curve((), measured(9, *generator.normal(4, 1, 20)), ablated).uncertain is None


def test_accuracy_is_over_the_prompts_that_have_wrong_answers() -> None:
    found = measured(5, 1.0, 2.0, -1.0)
    found.right[0] = np.nan
    assert found.accuracy == 0.5
    assert found.n_judged == 2
    found.right[:] = np.nan
    assert np.isnan(found.accuracy)


def test_the_interval_is_that_of_prompts_drawn_again() -> None:
    generator = np.random.default_rng(0)
    whole, ablated = measured(100, *generator.normal(4, 1, 30)), measured(0, *generator.normal(-1, 1, 30))
    points = (measured(10, *generator.normal(1, 1, 30)), measured(100, *whole.values))
    found = Curve(points, whole, ablated)
    low, high = found.interval(n_resamples=500)
    kept, span = points[0].values - ablated.values, whole.values - ablated.values

    def ratio_and_error(draw: np.ndarray) -> tuple[float, float]:
        ratio = kept[draw].mean() / span[draw].mean()
        return ratio, (kept[draw] - ratio * span[draw]).std(ddof=1) / 30**0.5 / span[draw].mean()

    f, error = ratio_and_error(np.arange(30))
    drawn = [ratio_and_error(draw) for draw in np.random.default_rng(1).integers(0, 30, (3000, 30))]
    below, above = np.quantile([(ratio - f) / its_error for ratio, its_error in drawn], [0.025, 0.975])
    by_hand = [f - max(above, 2.045) * error, f - min(below, -2.045) * error]  # Student's t, 29 degrees of freedom
    np.testing.assert_allclose([low[0], high[0]], by_hand, atol=0.03)
    np.testing.assert_allclose([low[1], high[1]], [1, 1])  # the whole model keeps itself in every draw
    assert low[0] < found.faithfulness[0] < high[0]


def test_further_sizes_join_the_curve_in_order() -> None:
    found = curve((10, 0.0), (50, 1.0)).with_points(curve((20, 2.0), (50, 3.0)).points)
    assert found.sizes == [10, 20, 50]
    point = found.at(50)
    assert point is not None
    assert point.mean == 3
    assert found.at(30) is None


def test_a_curve_survives_json_to_the_last_bit() -> None:
    generator = np.random.default_rng(0)
    found = Curve((measured(3, *generator.normal(size=5)),), measured(9, 1, 2, 3, 4, 5), measured(0, *[np.nan] * 5))
    again = Curve.from_dict(json.loads(json.dumps(found.to_dict())))
    for one, other in zip(
        (*found.points, found.whole, found.ablated), (*again.points, again.whole, again.ablated), strict=True
    ):
        assert one.n_edges == other.n_edges
        for name in ("values", "right", "probability", "divergence"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
