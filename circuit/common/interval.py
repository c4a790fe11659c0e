"""95 % intervals of means and of ratios of means over a few prompt pairs, by resampling the pairs; bounds of shares.

    FEWEST           pairs that an interval needs
    mean_interval    of a mean
    ratio_interval   of a mean divided by another mean over the same pairs
    resamples        weights of the pairs in each of the bootstrap's draws
    share_bounds     of a share, from how many of some independent draws were hits

    low, high = mean_interval(np.array([2.1, 3.0, 0.4, 5.2, 2.2]))

Both intervals are studentised bootstraps (Efron & Tibshirani 1993, chapter 12): every draw says how many of its own
standard errors its estimate lies from that of all pairs, and the quantiles of these take the place of Student's. An end
is never nearer than Student's, which is what heavy tails need. The standard error of a ratio is that of the delta
method. The percentile bootstrap, of which an interval over five pairs covers the truth in 75 to 85 % of cases, is
narrower for no good reason; `benchmarks/coverage.py` holds how often these do.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int

FEWEST = 5
"""With fewer pairs than this, no interval should be shown: draws of a handful are mostly of one and the same pair."""

_NO_SPREAD = 1e-9
"""Of the standard error of all pairs: a draw with less is one value over and over, and says nothing of the spread."""


def resamples(n: int, n_resamples: int = 1000, seed: int = 0) -> Float[np.ndarray, "n_resamples n"]:
    """Weights of `n` prompts in each of the bootstrap's draws; each row adds up to 1."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples) / n


def mean_interval(
    values: Float[np.ndarray, " n"], share: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The ends of the interval of the mean; both are the mean itself where all values are equal, or there is one.

    Of fewer than `FEWEST` values, Student's interval.
    """
    values = np.asarray(values, dtype=np.float64)
    n, mean = len(values), values.mean()
    if n < 2 or np.ptp(values) == 0:
        return float(mean), float(mean)
    error = values.std(ddof=1) / math.sqrt(n)
    means = errors = np.empty(0)
    if n >= FEWEST:
        drawn = values[np.random.default_rng(seed).integers(0, n, (n_resamples, n), dtype=np.int32)]
        means, errors = drawn.mean(axis=1), drawn.std(axis=1, ddof=1) / math.sqrt(n)
    low, high = _ends(mean, error, means, errors, n, share)
    return low, high


def ratio_interval(
    tops: Float[np.ndarray, "k n"],
    bottom: Float[np.ndarray, " n"],
    share: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """The ends of the intervals of `tops.mean(1) / bottom.mean()`, pairs being drawn for both together.

    Of fewer than `FEWEST` pairs, Student's interval with the delta method's standard error.
    """
    tops, bottom = np.asarray(tops, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    n, mean = len(bottom), bottom.mean()
    ratios = tops.mean(axis=1) / mean
    if n < 2:
        return ratios, ratios.copy()
    rest = (tops - ratios[:, None] * bottom).T  # [n, k], of mean 0
    around = bottom - mean
    weights = resamples(n, n_resamples, seed) if n >= FEWEST else np.empty((0, n))
    drawn_mean, drawn_rest = mean + weights @ around, weights @ rest
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = drawn_rest / drawn_mean[:, None]  # how far the draw's ratio lies from that of all pairs
        spread = (
            weights @ rest**2
            - drawn_rest**2
            - 2 * moved * (weights @ (rest * around[:, None]) - drawn_rest * (weights @ around)[:, None])
            + moved**2 * (weights @ around**2 - (weights @ around) ** 2)[:, None]
        )
        errors = np.sqrt(np.maximum(spread, 0) / (n - 1)) / np.abs(drawn_mean)[:, None]
    error = rest.std(axis=0, ddof=1) / math.sqrt(n) / abs(mean)
    ends = [
        _ends(ratio, error[i], ratio + moved[:, i], errors[:, i], n, share) for i, ratio in enumerate(ratios.tolist())
    ]
    low, high = np.array(ends).reshape(-1, 2).T
    return low, high


def share_bounds(
    hits: Int[np.ndarray, " k"], n: int, confidence: float = 0.95
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """The exact one-sided bounds of a share of which `hits` of `n` independent draws were seen (Clopper & Pearson
    1934, https://doi.org/10.1093/biomet/26.4.404).

    Each bound by itself is on the right side of the true share with at least this confidence: the lower one is the
    share at which as many hits or more have the probability `1 - confidence`; the upper one is that of as many or
    fewer. Both at once hold with at least `2 * confidence - 1`.
    """
    hits = np.asarray(hits)
    seen, place = np.unique(np.concatenate([hits, n - hits]), return_inverse=True)
    low = _least_share(seen, n, 1 - confidence)[place]
    return low[: len(hits)], 1 - low[len(hits) :]


def _least_share(hits: np.ndarray, n: int, chance: float) -> np.ndarray:
    """The share at which `hits` or more of `n` have this chance, from below; 0 for no hits."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])  # of factorials
    k = np.arange(n + 1)
    ways = logs[n] - logs[k] - logs[n - k]
    low, high = np.zeros(len(hits)), np.ones(len(hits))
    for _ in range(50):
        middle = (low + high) / 2
        terms = np.exp(ways + k * np.log(middle)[:, None] + (n - k) * np.log1p(-middle)[:, None])
        rare = np.where(k >= hits[:, None], terms, 0).sum(axis=1) <= chance
        low, high = np.where(rare, middle, low), np.where(rare, high, middle)
    return low


def _ends(
    estimate: float, error: float, drawn: np.ndarray, errors: np.ndarray, n: int, share: float
) -> tuple[float, float]:
    """Estimate, less and plus as many standard errors as the draws say, and no fewer than Student's."""
    least = _student((1 + share) / 2, n - 1)
    below, above = -least, least
    told = np.isfinite(drawn) & (errors > _NO_SPREAD * error)
    if told.any():
        steps = (drawn[told] - estimate) / errors[told]
        low, high = np.quantile(steps, [(1 - share) / 2, (1 + share) / 2])
        below, above = min(below, float(low)), max(above, float(high))
    return float(estimate - above * error), float(estimate - below * error)


def _student(p: float, freedom: int) -> float:
    """The quantile of Student's t: exact for one and two degrees of freedom, from three on by Abramowitz & Stegun
    26.7.5, within 1 % at 3 and 0.3 % at 4."""
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    z = NormalDist().inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
