"""Plots of many edges at once: where importance falls off, and how far a score may be trusted.

falloff_curve    absolute scores by rank, and the share of the total that the edges up to there hold
effect_scatter   score against what ablating the edge really does; a click picks the edge
learning_curve   how far circuits are from the model while masks are learned
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from circuit.edges.agreement import contradictions
from circuit.edges.graph import EdgeGraph
from circuit.plots.colors import PALETTES
from circuit.plots.frame import with_caption
from circuit.plots.numbers import Kept

_POINTS = 500


def falloff_curve(
    scores: Float[np.ndarray, " n_edges"], *, caption: str, kept: Kept = None, dark: bool = False, width: int = 900
) -> go.Figure:
    """Absolute scores from the strongest on, both axes logarithmic, and beside them the cumulative share.

    Shares are of the total absolute score of all edges, whatever the filter lets through. Of many edges some hundred
    are drawn, evenly spaced in the picture.
    """
    strength = np.sort(np.abs(scores if kept is None else scores[kept]).astype(np.float64))[::-1]
    total = float(np.abs(scores).sum(dtype=np.float64)) or 1.0
    running = np.cumsum(strength) / total
    n = len(strength)
    ranks = np.unique(np.geomspace(1, n, _POINTS).round().astype(int)) if n else np.array([], dtype=int)
    at = ranks - 1
    palette = PALETTES[dark]
    hover = "edge number %{x:,}<br>|score| %{y:.4g}<extra></extra>"
    figure = go.Figure(
        [
            go.Scatter(
                x=ranks, y=np.where(strength[at] > 0, strength[at], np.nan), name="|score|", mode="lines",
                line={"color": palette.helps, "width": 2}, hovertemplate=hover,
            ),
            go.Scatter(
                x=ranks, y=running[at], name="cumulative share", yaxis="y2", mode="lines",
                line={"color": palette.hurts, "width": 2, "dash": "dash"},
                hovertemplate="the first %{x:,} edges hold %{y:.1%}<extra></extra>",
            ),
        ]
    )  # fmt: skip
    figure.update_layout(
        xaxis={"type": "log", "title": {"text": "edges, from the strongest on"}, "dtick": 1, "exponentformat": "power"},
        yaxis={"type": "log", "title": {"text": "|score|"}, "exponentformat": "power", "dtick": 1},
        yaxis2={
            "title": {"text": "share of the total |score|"}, "overlaying": "y", "side": "right",
            "tickformat": ".0%", "range": [0, 1.03], "showgrid": False,
            "tickmode": "array", "tickvals": [0, 0.25, 0.5, 0.75, 1],
        },
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    with_caption(figure, caption, 340, width)
    figure.update_layout(margin={"r": 64})
    return figure


def effect_scatter(
    graph: EdgeGraph,
    scores: Float[np.ndarray, " n_edges"],
    effects: Mapping[int, float],
    *,
    caption: str,
    score_is: str = "linear estimate",
    noise: float = 0.0,
    dark: bool = False,
    width: int = 900,
) -> go.Figure:
    """One point an edge: its score, and the measured rise of the loss when it alone is ablated.

    On the line both are equal. Edges whose effect contradicts their score, beyond `noise`, are crosses.
    `score_is` says what a score is (`circuit.edges.method.Method.score`).
    `customdata` is the edge's number, for `circuit.plots.heatmap.picked_edge`.
    """
    edges = list(effects)
    x, y = scores[edges].astype(np.float64), np.array([effects[edge] for edge in edges])
    opposite = contradictions(scores, effects, noise)
    ends = [float(min(x.min(), 0.0)), float(max(x.max(), 0.0))]
    palette = PALETTES[dark]
    figure = go.Figure(
        [
            go.Scatter(
                x=ends, y=ends, mode="lines", hoverinfo="skip", name="score = effect",
                line={"color": palette.faint, "width": 1, "dash": "dot"},
            ),
            go.Scatter(
                x=x, y=y, mode="markers", name="edge", customdata=[[edge] for edge in edges],
                text=[graph.edge_label(edge) for edge in edges],
                marker={
                    "size": [12 if edge in opposite else 9 for edge in edges],
                    "symbol": ["x" if edge in opposite else "circle" for edge in edges],
                    "color": [palette.by_sign(value) for value in x],
                },
                hovertemplate="<b>%{text}</b><br>score %{x:.4g}<br>measured %{y:.4g}<extra></extra>",
            ),
        ]
    )  # fmt: skip
    figure.update_layout(
        xaxis={"title": {"text": f"score: the {score_is}"}, "zeroline": True},
        yaxis={"title": {"text": "measured rise of the loss"}, "zeroline": True},
        hovermode="closest",
        showlegend=False,
    )
    return with_caption(figure, caption, 360, width, left=72)


def learning_curve(figures: Sequence[tuple[int, float]], *, dark: bool = False, width: int = 900) -> go.Figure:
    """The distance from the model after every step: a share of that of the fully ablated model.

    Of many steps some hundred are drawn, the last among them.
    """
    chosen = list(figures)[:: max(len(figures) // _POINTS, 1)]
    if figures and chosen[-1] != figures[-1]:
        chosen.append(figures[-1])
    palette = PALETTES[dark]
    figure = go.Figure(
        go.Scatter(
            x=[step for step, _ in chosen], y=[figure for _, figure in chosen], mode="lines",
            line={"color": palette.helps, "width": 2},
            hovertemplate="step %{x:,}<br>%{y:.1%} from the model<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(
        xaxis={"title": {"text": "step"}, "rangemode": "tozero"},
        yaxis={"title": {"text": "distance from the model"}, "tickformat": ".0%", "rangemode": "tozero"},
        showlegend=False,
    )
    caption = "Circuits of random sizes while masks are learned, mean of the last twenty: 0 % does what the model does."
    return with_caption(figure, caption, 200, width, left=72)


def trust(scores: Float[np.ndarray, " n_edges"], effects: Mapping[int, float]) -> str:
    """How far scores and effects agree, in a sentence."""
    edges = list(effects)
    x, y = scores[edges].astype(np.float64), np.array([effects[edge] for edge in edges])
    same = int((np.sign(x) == np.sign(y)).sum())
    sentence = f"{same} of {len(edges)} have the sign of their score"
    if len(edges) > 2 and x.std() > 0 and y.std() > 0:
        ratio = float(np.median(y[x != 0] / x[x != 0]))
        sentence += (
            f"; correlation {np.corrcoef(x, y)[0, 1]:.2f}; the measured effect is typically {ratio:.2f} times the score"
        )
    return sentence + "."
