"""Intervals cover what they say, of few values, skewed ones and those with heavy tails."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from circuit.common.interval import _student, mean_interval, ratio_interval, resamples, share_bounds

DRAWN = 400


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (7, 2.365)])
def test_students_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert _student(0.975, freedom) == pytest.approx(quantile, rel=0.01)


@pytest.mark.parametrize("n", [5, 8, 20])
@pytest.mark.parametrize(
    ("draw", "mean"),
    [
        (lambda random, n: random.normal(1, 1, n), 1.0),
        (lambda random, n: random.exponential(1, n), 1.0),
        (lambda random, n: random.standard_t(3, n), 0.0),
    ],
    ids=["normal", "skewed", "heavy tails"],
)
def test_the_interval_of_a_mean_covers_it_of_five_values_on(
    draw: Callable[[np.random.Generator, int], np.ndarray], mean: float, n: int
) -> None:
    """The percentile bootstrap covers it in 78 to 88 % of the cases of five and eight values."""
    random = np.random.default_rng(0)
    found = [mean_interval(draw(random, n), n_resamples=500) for _ in range(DRAWN)]
    assert sum(low <= mean <= high for low, high in found) / DRAWN > 0.91


@pytest.mark.parametrize("n", [5, 8, 20])
def test_the_interval_of_a_ratio_covers_it_of_five_values_on(n: int) -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(DRAWN):
        bottom = random.normal(4, 2, n)
        low, high = ratio_interval((0.6 * bottom + random.normal(0, 1.5, n))[None], bottom, n_resamples=500)
        covered += bool(low[0] <= 0.6 <= high[0])
    assert covered / DRAWN > 0.93


def test_a_ratio_to_ones_is_a_mean() -> None:
    values = np.random.default_rng(0).exponential(1, 12)
    low, high = ratio_interval(values[None], np.ones(12), n_resamples=20_000)
    np.testing.assert_allclose([low[0], high[0]], mean_interval(values, n_resamples=20_000), rtol=0.1)


def test_equal_values_have_an_interval_of_no_width_and_few_have_students() -> None:
    assert mean_interval(np.full(9, 2.5)) == (2.5, 2.5)
    assert mean_interval(np.array([2.5])) == (2.5, 2.5)
    low, high = mean_interval(np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose([low, high], [2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5], atol=1e-3)
    bottom = np.array([1.0, 2.0, 5.0, 4.0, 3.0])
    np.testing.assert_allclose(ratio_interval(np.stack([bottom, 0 * bottom]), bottom), [[1, 0], [1, 0]], atol=1e-12)


def test_ends_are_finite_where_most_draws_are_of_one_value() -> None:
    assert np.isfinite(mean_interval(np.array([0.0, 0, 0, 0, 1]))).all()
    assert np.isfinite(ratio_interval(np.array([[0.0, 0, 0, 0, 1]]), np.ones(5))).all()


def test_weights_of_a_draw_are_counts_that_add_up_to_one() -> None:
    weights = resamples(7, 50, seed=3)
    assert weights.shape == (50, 7)
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights * 7, np.round(weights * 7))
    assert (weights == resamples(7, 50, seed=3)).all()


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 10, 0, 0.2589),
        (1, 10, 0.0051, 0.3942),
        (5, 10, 0.2224, 0.7776),
        (8, 10, 0.4931, 0.9632),
        (10, 10, 0.7411, 1),
    ],
)
def test_bounds_of_shares_are_those_of_the_tables(hits: int, n: int, low: float, high: float) -> None:
    found = share_bounds(np.array([hits]), n)
    assert (found[0][0], found[1][0]) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize(("n", "confidence"), [(7, 0.9), (60, 0.95), (200, 0.95), (300, 0.99)])
def test_bounds_of_shares_are_exact(n: int, confidence: float) -> None:
    """In whole numbers: at the lower bound as many hits have just the chance that is left, and no more than it."""
    hits = np.array([0, 1, n // 2, n - 1, n, n // 2])
    low, high = share_bounds(hits, n, confidence)
    assert low[0] == 0
    assert high[4] == 1
    assert (low[2], high[2]) == (low[5], high[5])

    def chance(k: int, share: float) -> Fraction:
        p = Fraction(share)
        return sum((math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k, n + 1)), Fraction(0))

    for k, bound in [*zip(hits[1:].tolist(), low[1:].tolist(), strict=True)]:
        assert float(chance(k, bound)) == pytest.approx(1 - confidence, rel=1e-6)
    for k, bound in [*zip(hits.tolist(), high.tolist(), strict=True)]:
        if k < n:
            assert float(1 - chance(k + 1, bound)) == pytest.approx(1 - confidence, rel=1e-6)
