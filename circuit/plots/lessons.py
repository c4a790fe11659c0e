"""The figures of the Learn page.

mask_curve      the loss along one edge's mask, its tangent and its chord, and beside it the slopes
attempts_plot   faithfulness of circuits picked by hand, against those of algorithms
careless_plot   scores of a broken prompt set against those of the set as it should be
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from circuit.plots.colors import NEUTRAL, PALETTES, STRONG, rgba
from circuit.runs.faithfulness import Curve

if TYPE_CHECKING:
    from circuit.jobs.lessons import LossCurve, Survey

_CLEAR = {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}


def mask_curve(curve: LossCurve, survey: Survey, edge: int, m: float, *, dark: bool = False) -> go.Figure:
    """Left: L(m) of one edge, the tangent at 0, the chord from 0 to 1, and the point at `m`. Right: the slope of that
    curve between neighbouring points, and the edge's slope with all masks at m together; a line is dotted at its mean.
    """
    palette = PALETTES[dark]
    slope = float(survey.at_zero[edge])
    together = survey.slopes[:, edge].astype(float)
    violet = rgba(STRONG, 1)
    start, end = float(curve.loss[0]), float(curve.loss[-1])
    titles = ("loss L at mask value m", "slope of the loss at mask value m")
    figure = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.09)
    figure.add_scatter(
        x=curve.m, y=curve.loss, name="this edge's mask alone", mode="lines+markers", legendgroup="own",
        line={"color": palette.helps, "width": 3}, marker={"size": 5},
        hovertemplate="m = %{x:.2f}: loss %{y:.3f}<extra></extra>", row=1, col=1,
    )  # fmt: skip
    figure.add_scatter(
        x=[0, 1], y=[start, start + slope], name="tangent at 0: attribution patching", mode="lines",
        legendgroup="tangent", line={"color": palette.hurts, "width": 3, "dash": "dash"},
        hovertemplate="the tangent at m = %{x}: %{y:.3f}<extra></extra>", row=1, col=1,
    )  # fmt: skip
    figure.add_scatter(
        x=[0, 1], y=[start, end], name="chord from 0 to 1", mode="lines", showlegend=False,
        line={"color": palette.helps, "width": 1.5, "dash": "dot"}, hoverinfo="skip", row=1, col=1,
    )  # fmt: skip
    at = float(np.interp(m, curve.m, curve.loss))
    figure.add_scatter(
        x=[m, m], y=[start + slope * m, at], mode="lines+markers", showlegend=False,
        line={"color": palette.text, "width": 1.5}, marker={"size": [8, 13], "color": [palette.hurts, palette.helps]},
        hoverinfo="skip", row=1, col=1,
    )  # fmt: skip
    steps = np.repeat(curve.m, 2)[1:-1]
    figure.add_scatter(
        x=steps, y=np.repeat(curve.slopes, 2), name="its mean = L(1) − L(0)", mode="lines", fill="tozeroy",
        fillcolor=rgba((38, 120, 214), 0.16), line={"color": palette.helps, "width": 2}, legendgroup="own",
        showlegend=False, hovertemplate="m = %{x:.2f}: slope %{y:.3f}<extra></extra>", row=1, col=2,
    )  # fmt: skip
    figure.add_scatter(
        x=survey.m, y=together, name="all masks together: integrated gradients", mode="lines+markers",
        line={"color": violet, "width": 2}, marker={"size": 5},
        hovertemplate="all masks at %{x:.2f}: slope %{y:.3f}<extra></extra>", row=1, col=2,
    )  # fmt: skip
    figure.add_scatter(
        x=[0], y=[slope], mode="markers", showlegend=False, marker={"size": 12, "color": palette.hurts},
        hovertemplate="slope at 0: %{y:.3f}<extra></extra>", row=1, col=2,
    )  # fmt: skip
    for value, color in ((curve.effect, palette.helps), (float(survey.integrated[edge]), violet)):
        figure.add_scatter(
            x=[0, 1], y=[value, value], mode="lines", showlegend=False, hoverinfo="skip",
            line={"color": color, "width": 1.5, "dash": "dot"}, row=1, col=2,
        )  # fmt: skip
    figure.update_xaxes(range=[-0.03, 1.03])
    figure.update_layout(
        height=265, margin={"l": 48, "r": 12, "t": 50, "b": 24}, **_CLEAR,
        legend={"orientation": "h", "y": 1.13, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    return figure


class Attempt(NamedTuple):
    """A circuit that somebody picked."""

    edges: tuple[int, ...]
    faithfulness: float
    points: int
    revealed: int
    """How many of the edges were revealed by a hint."""


def attempts_plot(rivals: Mapping[str, Curve], attempts: Sequence[Attempt], *, dark: bool = False) -> go.Figure:
    """Faithfulness against the number of edges: one line per algorithm, one star per attempt, the last one largest."""
    palette = PALETTES[dark]
    figure = go.Figure()
    for (name, curve), color, dash in zip(
        rivals.items(), (palette.hurts, rgba(STRONG, 1)), ("dash", "solid"), strict=True
    ):
        figure.add_scatter(
            x=curve.sizes, y=curve.faithfulness.tolist(), name=name, mode="lines",
            line={"color": color, "width": 2, "dash": dash},
            hovertemplate=name + ", %{x} edges: %{y:.0%}<extra></extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=[len(attempt.edges) for attempt in attempts], y=[attempt.faithfulness for attempt in attempts],
        name="you", mode="markers", hovertemplate="you, %{x} edges: %{y:.0%}<extra></extra>",
        marker={
            "symbol": "star", "color": palette.helps, "line": {"color": palette.text, "width": 1},
            "size": [*[11] * (len(attempts) - 1), 18][-len(attempts) or len(attempts) :],
        },
    )  # fmt: skip
    figure.add_hline(y=1, line={"width": 1, "dash": "dot", "color": rgba(NEUTRAL, 1)})
    largest = max([26, *(len(attempt.edges) for attempt in attempts)])
    figure.update_layout(
        height=225, margin={"l": 52, "r": 8, "t": 8, "b": 40}, **_CLEAR,
        xaxis={"title": {"text": "edges kept", "standoff": 4}, "range": [0, largest + 1]},
        yaxis={"tickformat": ".0%", "title": {"text": "faithfulness"}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": -0.14, "font": {"size": 11}},
    )  # fmt: skip
    return figure


def careless_plot(
    names: Sequence[str],
    good: Float[np.ndarray, " n"],
    broken: Float[np.ndarray, " n"],
    *,
    dark: bool = False,
) -> go.Figure:
    """One point an edge: on the line, both prompt sets give it the same score."""
    palette = PALETTES[dark]
    ends = [float(min(good.min(), broken.min(), 0)), float(max(good.max(), broken.max(), 0))]
    figure = go.Figure()
    figure.add_scatter(
        x=ends, y=ends, mode="lines", hoverinfo="skip", line={"color": palette.faint, "width": 1, "dash": "dot"}
    )
    figure.add_scatter(
        x=good, y=broken, mode="markers", text=list(names), marker={"size": 9, "color": palette.helps},
        hovertemplate="<b>%{text}</b><br>right set %{x:.3g}<br>broken set %{y:.3g}<extra></extra>",
    )  # fmt: skip
    figure.update_layout(
        height=260, margin={"l": 56, "r": 8, "t": 8, "b": 40}, **_CLEAR, showlegend=False,
        xaxis={"title": {"text": "score from the set as it should be", "standoff": 4}},
        yaxis={"title": {"text": "score from the broken set"}},
    )  # fmt: skip
    return figure
