"""How much of the model's behaviour a circuit keeps: the numbers, from what was measured on every prompt.

    Measured         one circuit: answer value, whether right, P(answers) and KL divergence, one of each per prompt
    Curve            circuits of several sizes with the whole and the fully ablated model, on the same prompts
    curve_sizes      the sizes at which the Mechanistic Interpretability Benchmark measures
    cpr, cmd         its summary numbers, of shares of edges and the faithfulness at each

    curve = measure(request)
    curve.faithfulness                       # one number per size: 1 is as good as the model, 0 as bad as ablated
    curve.cpr, curve.cmd                     # area under it, and area between it and 1, over the benchmark's sizes
    curve.interval()                         # what resampling the prompts makes of it

With m(.) the mean answer value over prompts, the faithfulness of a circuit C of the model M, M_0 being the model with
every edge ablated, is (Wang et al. 2023, https://arxiv.org/abs/2211.00593; Hanna et al. 2024, https://arxiv.org/abs/2403.17806)

    f(C) = (m(C) - m(M_0)) / (m(M) - m(M_0))

CPR and CMD are those of the Mechanistic Interpretability Benchmark (Mueller et al. 2025,
https://arxiv.org/abs/2504.13151): the area under f, and that under |1 - f|, by the trapezoid rule on a linear axis over
`CURVE_SHARES`. Each of these has the circuit of as many of the N edges, rounded down; the axis keeps the share itself,
so in a small model neighbouring shares may have one circuit. The benchmark takes CPR of circuits by signed score, and
CMD of circuits by absolute score (`circuit.edges.ranking.Importance`). Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from circuit.common.errors import NumericalError
from circuit.common.interval import mean_interval, ratio_interval

CURVE_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The shares of a model's edges at which the Mechanistic Interpretability Benchmark measures circuits."""

_SMALLEST_SPAN = 0.01
"""The mean difference that is divided by, as a share of the mean size of its prompts' differences."""

_SMALLEST_VALUE = 1e-4
"""The same as a share of the largest value: float32 leaves errors of some 1e-6 of it after a pass through a model."""


def curve_sizes(n_edges: int) -> tuple[int, ...]:
    """`CURVE_SHARES` of `n_edges`, rounded down as the benchmark does, without doubles (which small models have)."""
    return tuple(sorted({_size(share, n_edges) for share in CURVE_SHARES}))


def _size(share: float, n_edges: int) -> int:
    return int(share * n_edges)


def cpr(shares: Sequence[float], faithfulness: Sequence[float]) -> float:
    """The benchmark's circuit performance ratio: the area under f. Larger is better."""
    return float(np.trapezoid(faithfulness, shares))


def cmd(shares: Sequence[float], faithfulness: Sequence[float]) -> float:
    """The benchmark's circuit-model distance: the area between f and 1. 0 is best."""
    return float(np.trapezoid(np.abs(1 - np.asarray(faithfulness)), shares))


@dataclass(frozen=True)
class Measured:
    """One circuit on some prompts, one number per prompt.

    `values`: the answer function of the grad function, larger being better. `right`: 1 where every right answer's logit
    is above every wrong one's, else 0; NaN without wrong answers. `probability`: of all right answers together.
    `divergence`: KL divergence of the circuit's next-token distribution from the whole model's, in nats.
    """

    n_edges: int
    values: Float32[np.ndarray, " n"]
    right: Float32[np.ndarray, " n"]
    probability: Float32[np.ndarray, " n"]
    divergence: Float32[np.ndarray, " n"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"n_edges": self.n_edges} | {name: getattr(self, name).tolist() for name in _COLUMNS}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Measured:
        return cls(int(values["n_edges"]), *(np.array(values[name], dtype=np.float32) for name in _COLUMNS))

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def accuracy(self) -> float:
        """The share of prompts answered right, of those that have wrong answers; NaN where none has."""
        return float(np.nanmean(self.right)) if self.n_judged else float("nan")

    @property
    def n_judged(self) -> int:
        """How many prompts have wrong answers, so that one can tell right from wrong."""
        return int((~np.isnan(self.right)).sum())


_COLUMNS = ("values", "right", "probability", "divergence")


@dataclass(frozen=True)
class Curve:
    """Circuits of rising size, the whole and the fully ablated model, on the same prompts of one model."""

    points: Sequence[Measured]
    whole: Measured
    ablated: Measured

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        points = [point.to_dict() for point in self.points]
        return {"points": points, "whole": self.whole.to_dict(), "ablated": self.ablated.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Curve:
        """The inverse of `to_dict`.

        Raises:
            ValueError, KeyError, TypeError: When it is not one.
        """
        points = tuple(Measured.from_dict(point) for point in values["points"])
        whole, ablated = (Measured.from_dict(values[name]) for name in ("whole", "ablated"))
        shapes = {getattr(each, name).shape for each in (*points, whole, ablated) for name in _COLUMNS}
        if len(shapes) > 1 or whole.values.ndim != 1 or not whole.values.size:
            raise ValueError("its circuits were measured on different prompts, or on none")
        return cls(points, whole, ablated)

    @property
    def n_prompts(self) -> int:
        return len(self.whole.values)

    @property
    def sizes(self) -> list[int]:
        return [point.n_edges for point in self.points]

    @cached_property
    def values(self) -> Float32[np.ndarray, "points n"]:
        return np.stack([point.values for point in self.points])

    def with_points(self, more: Sequence[Measured]) -> Curve:
        """The same curve with further sizes."""
        by_size = {point.n_edges: point for point in (*self.points, *more)}
        return Curve(tuple(by_size[size] for size in sorted(by_size)), self.whole, self.ablated)

    def at(self, n_edges: int) -> Measured | None:
        """What was measured at this size."""
        return next((point for point in self.points if point.n_edges == n_edges), None)

    @property
    def too_close(self) -> str | None:
        """Why no faithfulness can be given: a sentence, or None where it can."""
        differences = self.whole.values - self.ablated.values
        span = abs(differences.mean())
        if not span > _SMALLEST_SPAN * np.abs(differences).mean():
            why = "do equally well on average"
        elif not span > _SMALLEST_VALUE * max(np.abs(self.whole.values).max(), np.abs(self.ablated.values).max()):
            why = f"differ by {span:.1g}, which for numbers of this size may be rounding"
        else:
            return None
        return (
            f"The whole model ({self.whole.mean:+.4g}) and the fully ablated one ({self.ablated.mean:+.4g}) {why}, so "
            "there is nothing that a circuit could keep a share of. Look at the prompts, or choose another ablation."
        )

    @property
    def uncertain(self) -> str | None:
        """A sentence where the interval of what is divided by, whole less ablated model, holds 0; else None."""
        differences = self.whole.values - self.ablated.values
        low, high = mean_interval(differences)
        if not low <= 0 <= high:
            return None
        return (
            "Faithfulness divides by the difference between the whole and the ablated model, which is "
            f"{differences.mean():+.3g} on average over these {self.n_prompts} prompt pairs, and for others of their "
            f"kind may be {low:+.3g} to {high:+.3g}: with 0 in this 95 % interval, no share of it means much. Use more "
            "prompts, or such that the model does better on."
        )

    @property
    def faithfulness(self) -> Float[np.ndarray, " points"]:
        """f of every size; in a curve of removed circuits, what is left without them.

        Raises:
            NumericalError: Where whole and ablated model are too close to divide by their difference.
        """
        if (why := self.too_close) is not None:
            raise NumericalError(why)
        return _faithfulness(self.values.mean(1), self.whole.mean, self.ablated.mean)

    @property
    def is_benchmark(self) -> bool:
        """Whether all of the benchmark's sizes are among those measured."""
        return set(curve_sizes(self.whole.n_edges)) <= set(self.sizes)

    @property
    def cpr(self) -> float:
        """`cpr` over those of the benchmark's shares whose size was measured."""
        return cpr(*self._benchmark)

    @property
    def cmd(self) -> float:
        """`cmd` over those of the benchmark's shares whose size was measured."""
        return cmd(*self._benchmark)

    @property
    def _benchmark(self) -> tuple[list[float], list[float]]:
        by_size = dict(zip(self.sizes, self.faithfulness.tolist(), strict=True))
        sizes = {share: _size(share, self.whole.n_edges) for share in CURVE_SHARES}
        shares = [share for share, size in sizes.items() if size in by_size]
        return shares, [by_size[sizes[share]] for share in shares]

    def smallest(self, target: float = 0.9, most: int | None = None) -> int | None:
        """The smallest size measured, of up to `most` edges, that keeps `target` of the behaviour; None where none
        does."""
        kept = np.flatnonzero(self.faithfulness >= target)
        size = self.sizes[kept[0]] if len(kept) else None
        return None if size is None or (most is not None and size > most) else size

    def interval(
        self, share: float = 0.95, n_resamples: int = 1000, seed: int = 0
    ) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """The 95 % interval of every size's f (`circuit.common.interval.ratio_interval`): prompts are drawn with
        replacement, and circuit, whole and ablated model averaged over the same draw."""
        ablated = self.ablated.values.astype(np.float64)
        return ratio_interval(self.values - ablated, self.whole.values - ablated, share, n_resamples, seed)


def _faithfulness(circuit: np.ndarray, whole: float, ablated: float) -> np.ndarray:
    return (circuit - ablated) / (whole - ablated)
