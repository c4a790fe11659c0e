"""Colours of every figure: safe for colour-blind readers, and readable on light and on dark pages.

    HELPS, HURTS       the two signs of a score: blue and orange
    PALETTES           the colours of the circuit graph, for light and for dark pages
    score_scale        a plotly colour scale for scores, signed or absolute, on a logarithmic scale
    bar_scale, score_ticks, log_place    its colour bar: colours, round values, and where these lie

    heat = go.Heatmap(z=values, zmin=-top, zmax=top, colorscale=score_scale(signed=True))

Scales fade towards transparent at zero, where most scores are, so one scale suits both kinds of page. They are blue
and orange because these differ in hue for every common kind of colour blindness, and of middle lightness, so that both
stand out from white and from black. A score x is placed at sign(x) * log(1 + |x| / c), with c a thousandth of the
largest absolute score: linear near zero, logarithmic beyond, so edges that differ a hundredfold can be told apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

HELPS = (38, 120, 214)
"""Positive scores: ablating the edge hurts the task."""
HURTS = (226, 106, 0)
"""Negative scores: ablating the edge helps the task."""
STRONG = (202, 46, 132)
"""Large absolute scores."""
MIDDLE = (92, 110, 220)
"""Middling absolute scores."""
NEUTRAL = (128, 128, 128)
"""Zero, and lines between parts of a figure."""

DECADES = 3
"""How many powers of ten below the largest score the logarithmic scale resolves."""
_STEPS = 24


@dataclass(frozen=True)
class NodeColors:
    """How nodes of one kind are painted."""

    fill: str
    border: str


@dataclass(frozen=True)
class Palette:
    """The colours of the circuit graph on one kind of page."""

    nodes: dict[str, NodeColors]
    text: str
    faint: str
    surface: str
    helps: str
    hurts: str

    def by_sign(self, score: float) -> str:
        """The colour of an edge with this score: that of neither sign for 0."""
        return self.helps if score > 0 else self.hurts if score < 0 else self.faint


LIGHT = Palette(
    nodes={
        "embedding": NodeColors("#f7e9b0", "#8a6a00"),
        "head": NodeColors("#d3efe4", "#00704f"),
        "kv": NodeColors("#00896a", "#00573f"),
        "mlp": NodeColors("#eadcf5", "#74459c"),
        "final": NodeColors("#e2e4e8", "#4a4f57"),
    },
    text="#1f2328",
    faint="#656d76",
    surface="#ffffff",
    helps="#2678d6",
    hurts="#d95f02",
)
DARK = Palette(
    nodes={
        "embedding": NodeColors("#4d4012", "#e3c04a"),
        "head": NodeColors("#0f4034", "#45cfa6"),
        "kv": NodeColors("#45cfa6", "#a6f0da"),
        "mlp": NodeColors("#412c54", "#c39ae3"),
        "final": NodeColors("#3a3e46", "#b4bac4"),
    },
    text="#f0f2f5",
    faint="#9aa3ad",
    surface="#171614",
    helps="#5ea6f5",
    hurts="#f08a3c",
)
PALETTES = {False: LIGHT, True: DARK}
"""By whether the page is dark."""


def log_place(values: np.ndarray, top: float) -> np.ndarray:
    """Where scores lie on the logarithmic scale whose largest absolute score is `top`: between -1 and 1."""
    unit = 10.0**DECADES / top
    return np.sign(values) * np.log1p(np.abs(values) * unit) / math.log1p(top * unit)


def bar_scale(*, signed: bool) -> list[tuple[float, str]]:
    """A plotly colour scale over the places of `log_place`, evenly spaced: for a colour bar."""
    steps = [step / _STEPS for step in range(_STEPS + 1)]
    if not signed:
        return [(t, _absolute(t)) for t in steps]
    below = [((1 - t) / 2, _faded(HURTS, t)) for t in steps[:0:-1]]
    return [*below, *(((1 + t) / 2, _faded(HELPS, t)) for t in steps)]


def score_scale(*, signed: bool) -> list[tuple[float, str]]:
    """A plotly colour scale over scores, from -top to top (signed) or from 0 to top.

    The data stay as they are, so that hovering shows them; it is the scale that is logarithmic.
    """

    def score(place: float) -> float:
        size = math.expm1(abs(place) * math.log1p(10.0**DECADES)) / 10.0**DECADES
        return round(math.copysign(size, place), 12)  # plotly wants the ends to be exact

    if not signed:
        return [(score(t), color) for t, color in bar_scale(signed=False)]
    return [((1 + score(2 * t - 1)) / 2, color) for t, color in bar_scale(signed=True)]


def score_ticks(top: float, *, signed: bool, labels: int = 20) -> list[float]:
    """Round values for a colour bar: zero, and powers of ten up to `top`, with their negatives where signed.

    `labels` is how many of them have room. Zero and the ends come first, then larger powers before smaller ones; what
    would touch a label that is there already is left out.
    """
    highest = math.floor(math.log10(top) + 1e-9)
    wanted = [0.0, top if top > 1.05 * 10.0**highest else 10.0**highest]
    wanted += [10.0**power for power in range(highest, highest - DECADES, -1)]
    apart = (2 if signed else 1) / max(labels - 1, 1)
    ticks: list[float] = []
    for value in wanted:
        place = log_place(np.array([value]), top)
        if value not in ticks and all(abs(log_place(np.array([tick]), top) - place) >= apart for tick in ticks):
            ticks.append(value)
    return sorted({*ticks, *(-tick for tick in ticks if tick)} if signed else ticks)


def rgba(color: tuple[int, int, int], alpha: float) -> str:
    """A CSS colour."""
    red, green, blue = color
    return f"rgba({red},{green},{blue},{alpha:.3g})"


def _faded(color: tuple[int, int, int], t: float) -> str:
    """From a hint of grey at 0 (so that zero differs from nothing) to the colour at 1."""
    return rgba(_mixed(NEUTRAL, color, min(1.0, 4 * t)), 0.10 + 0.90 * t)


def _absolute(t: float) -> str:
    hue = _mixed(NEUTRAL, MIDDLE, 4 * t) if t < 0.25 else _mixed(MIDDLE, STRONG, (t - 0.25) / 0.75)
    return rgba(hue, 0.10 + 0.90 * t)


def _mixed(a: tuple[int, int, int], b: tuple[int, int, int], t: float) -> tuple[int, int, int]:
    red, green, blue = (round(x + (y - x) * t) for x, y in zip(a, b, strict=True))
    return red, green, blue
