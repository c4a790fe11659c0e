"""How much of the model's behaviour a circuit keeps: the numbers, from what was measured on every prompt.

    Measured         one circuit on some prompts: answer value, whether right, P(answers), KL divergence, a prompt each
    Curve            circuits of several sizes with the whole and the fully ablated model, on the same prompts
    curve_sizes      the sizes at which the Mechanistic Interpretability Benchmark measures

    curve = measuring.measure(request)
    curve.faithfulness                       # one number a size: 1 is as good as the model, 0 as bad as ablated
    curve.cpr, curve.cmd                     # area under it, and area between it and 1
    curve.interval()                         # what resampling the prompts makes of it

With m(.) the mean answer value over prompts, the faithfulness of a circuit C of the model M, M_0 being the model with
every edge ablated, is (Wang et al. 2023, https://arxiv.org/abs/2211.00593; Hanna et al. 2024, https://arxiv.org/abs/2403.17806)

    f(C) = (m(C) - m(M_0)) / (m(M) - m(M_0))

CPR and CMD are those of the Mechanistic Interpretability Benchmark (Mueller et al. 2025,
https://arxiv.org/abs/2504.13151): over the share of edges k on a linear axis, by the trapezoid rule between the sizes
measured, the area under f, and that under |1 - f|. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from circuit.errors import NumericalError

CURVE_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The shares of a model's edges at which the Mechanistic Interpretability Benchmark measures circuits."""

_SMALLEST_SPAN = 0.01


def curve_sizes(n_edges: int) -> tuple[int, ...]:
    """`CURVE_SHARES` of `n_edges`, rounded down as the benchmark does, without doubles (which small models have)."""
    return tuple(sorted({int(share * n_edges) for share in CURVE_SHARES}))


@dataclass(frozen=True)
class Measured:
    """One circuit on some prompts, one number a prompt.

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
        return float(self.right.mean())


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
        points = tuple(Measured.from_dict(point) for point in values["points"])
        return cls(points, Measured.from_dict(values["whole"]), Measured.from_dict(values["ablated"]))

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
        if abs(differences.mean()) > _SMALLEST_SPAN * np.abs(differences).mean():
            return None
        return (
            f"The whole model ({self.whole.mean:+.4g}) and the fully ablated one ({self.ablated.mean:+.4g}) do equally "
            "well on average, so there is nothing that a circuit could keep a share of. Look at the prompts, or choose "
            "another ablation."
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
    def cpr(self) -> float:
        """The benchmark's area under f over the share of edges (circuit performance ratio; larger is better)."""
        return _area(self._shares, self.faithfulness)

    @property
    def cmd(self) -> float:
        """The benchmark's area under |1 - f| (circuit-model distance; 0 is best)."""
        return _area(self._shares, np.abs(1 - self.faithfulness))

    def smallest(self, target: float = 0.9) -> int | None:
        """The smallest size measured that keeps `target` of the behaviour; None where none does."""
        kept = np.flatnonzero(self.faithfulness >= target)
        return self.sizes[kept[0]] if len(kept) else None

    def interval(
        self, share: float = 0.95, n_resamples: int = 1000, seed: int = 0
    ) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """The bootstrap's percentile interval of every size's f: prompts are drawn with replacement, and circuit, whole
        and ablated model averaged over the same draw."""
        counts = resamples(self.n_prompts, n_resamples, seed)
        points, whole, ablated = (
            counts @ values.T for values in (self.values, self.whole.values[None], self.ablated.values[None])
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = (points - ablated) / (whole - ablated)
        drawn = drawn[np.isfinite(drawn).all(1)]
        low, high = np.quantile(drawn, [(1 - share) / 2, (1 + share) / 2], axis=0)
        return low, high

    @property
    def _shares(self) -> Float[np.ndarray, " points"]:
        return np.array(self.sizes) / self.whole.n_edges


def resamples(n: int, n_resamples: int, seed: int) -> Float[np.ndarray, "n_resamples n"]:
    """Weights of `n` prompts in each of the bootstrap's draws; each row adds up to 1."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples) / n


def _faithfulness(circuit: np.ndarray, whole: float, ablated: float) -> np.ndarray:
    return (circuit - ablated) / (whole - ablated)


def _area(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.trapezoid(y, x))
