"""How often 95 % intervals hold the truth, of 3 to 64 prompt pairs.

    python -m benchmarks.coverage
    python -m benchmarks.coverage --draws 4000 >> benchmarks/RESULTS.md

Means and faithfulness (a ratio of means over the same pairs) of values whose true mean or ratio is known, drawn again
and again: the share of intervals that hold it, beside that of the percentile bootstrap, and the width of the one as a
multiple of the other's. `circuit.common.interval` says how the intervals are made.

    normal       answer differences that vary from pair to pair as most do
    skewed       exponential: a few pairs have much larger differences than the others
    very skewed  lognormal with sigma = 1
    heavy        Student's t with three degrees of freedom: single pairs far off, to either side
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator

import numpy as np

from circuit.common.interval import mean_interval, ratio_interval, resamples

Draw = Callable[[np.random.Generator, int], np.ndarray]
Pairs = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
SIZES = (3, 4, 5, 6, 8, 12, 16, 32, 64)
KEPT = 0.6
"""The true faithfulness."""

MEANS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda random, n: random.normal(1, 1, n), 1.0),
    "skewed": (lambda random, n: random.exponential(1, n), 1.0),
    "very skewed": (lambda random, n: random.lognormal(0, 1, n), math.exp(0.5)),
    "heavy": (lambda random, n: random.standard_t(3, n), 0.0),
}


def _of(spans: Draw, noise: Draw) -> Pairs:
    """What a circuit keeps of each pair's span, on average `KEPT` of it."""

    def draw(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        span = spans(random, n)
        return KEPT * span + noise(random, n), span

    return draw


RATIOS: dict[str, Pairs] = {
    "normal": _of(lambda random, n: random.normal(4, 2, n), lambda random, n: random.normal(0, 1.5, n)),
    "skewed": _of(lambda random, n: random.exponential(4, n), lambda random, n: random.exponential(1, n) - 1),
    "very skewed": _of(
        lambda random, n: random.lognormal(1, 0.8, n),
        lambda random, n: random.lognormal(0, 1, n) - math.exp(0.5),
    ),
    "heavy": _of(lambda random, n: 4 + 1.5 * random.standard_t(3, n), lambda random, n: random.standard_t(3, n)),
}


def of_mean(draw: Draw, truth: float, n: int, draws: int) -> tuple[float, float, float]:
    """Coverage of the interval and of the percentile bootstrap, and the ratio of median widths."""
    random, weights = np.random.default_rng(n), resamples(n)
    ends = []
    for _ in range(draws):
        values = draw(random, n)
        ends.append((*mean_interval(values), *np.quantile(weights @ values, [0.025, 0.975])))
    return _summary(np.array(ends), truth)


def of_ratio(draw: Pairs, n: int, draws: int) -> tuple[float, float, float]:
    """The same of faithfulness."""
    random, weights = np.random.default_rng(n), resamples(n)
    ends = []
    for _ in range(draws):
        kept, span = draw(random, n)
        low, high = ratio_interval(kept[None], span)
        ends.append((low[0], high[0], *np.quantile((weights @ kept) / (weights @ span), [0.025, 0.975])))
    return _summary(np.array(ends), KEPT)


def _summary(ends: np.ndarray, truth: float) -> tuple[float, float, float]:
    low, high, low_of_percentile, high_of_percentile = ends.T
    covered = ((low <= truth) & (truth <= high)).mean()
    by_percentile = ((low_of_percentile <= truth) & (truth <= high_of_percentile)).mean()
    wider = np.median(high - low) / np.median(high_of_percentile - low_of_percentile)
    return float(covered), float(by_percentile), float(wider)


def rows(draws: int) -> Iterator[str]:
    """One line per distribution and number."""
    yield "| of | values | what | " + " | ".join(f"n = {n}" for n in SIZES) + " |"
    yield "| --- | --- | --- |" + " ---: |" * len(SIZES)
    for what in ("mean", "faithfulness"):
        for name in MEANS:
            found = [
                of_mean(*MEANS[name], n, draws) if what == "mean" else of_ratio(RATIOS[name], n, draws) for n in SIZES
            ]
            covered, by_percentile, wider = zip(*found, strict=True)
            for label, numbers, form in (
                ("covers, %", [100 * share for share in covered], ".1f"),
                ("percentile bootstrap covers, %", [100 * share for share in by_percentile], ".1f"),
                ("times as wide", wider, ".2f"),
            ):
                yield f"| {what} | {name} | {label} | " + " | ".join(f"{number:{form}}" for number in numbers) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000, help="of pairs, for each number")
    options = parser.parse_args()
    for row in rows(options.draws):
        print(row, flush=True)


if __name__ == "__main__":
    main()
