"""What a run found, beside the circuit that is known.

truth_lines        how edges are drawn: found, missed, found in vain; by sign, width and colour
precision_recall   precision and recall over the number of edges taken
auroc_bars         how well each of several methods tells the circuit from the rest
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from circuit.plots.colors import NEUTRAL, PALETTES, rgba
from circuit.plots.graph_svg import Line
from circuit.runs.truth import Truth

HIT, MISS, FALSE_ALARM = "✓", "?", "✕"
"""The signs of edges that were found and belong to the circuit, that were missed, and that were found in vain."""
_CLEAR = {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}


def truth_lines(truth: Truth, found: Int[np.ndarray, " n"], *, dark: bool = False) -> dict[int, Line]:
    """How to draw the edges that were found, and those of the circuit that were not."""
    palette = PALETTES[dark]
    hit = Line("in the circuit, and found", palette.helps, 3.2, sign=HIT)
    miss = Line("in the circuit, but missed", palette.text, 1.4, 0.8, sign=MISS)
    false = Line("found, but not in the circuit", palette.hurts, 2.2, sign=FALSE_ALARM)
    return {
        **dict.fromkeys(truth.false_alarms(found).tolist(), false),
        **dict.fromkeys(truth.misses(found).tolist(), miss),
        **dict.fromkeys(truth.hits(found).tolist(), hit),
    }


def precision_recall(
    precision: Float[np.ndarray, " n"],
    recall: Float[np.ndarray, " n"],
    *,
    size: int,
    n_scored: int,
    dark: bool = False,
) -> go.Figure:
    """Precision and recall of the 1, 2, ... strongest edges.

    Args:
        precision: The share of the edges taken that belong to the circuit.
        recall: The share of the circuit that was taken.
        size: How many edges the circuit has; a line stands there.
        n_scored: How many scores are more than rounding: beyond them the order of edges says nothing.
        dark: Whether the page is dark.
    """
    palette = PALETTES[dark]
    n = np.arange(1, len(recall) + 1)
    figure = go.Figure()
    for name, values, color, dash in (
        ("precision", precision, palette.helps, "solid"),
        ("recall", recall, palette.hurts, "dash"),
    ):
        figure.add_scatter(
            x=n, y=values, name=name, mode="lines+markers", marker={"size": 4},
            line={"color": color, "width": 2, "dash": dash, "shape": "hv"},
            hovertemplate=f"the %{{x}} strongest edges: {name} %{{y:.0%}}<extra></extra>",
        )  # fmt: skip
    figure.add_vline(
        x=size, line={"width": 1, "dash": "dot", "color": palette.faint},
        annotation={"text": f"the circuit's size, {size}", "font": {"size": 11, "color": palette.faint}},
        annotation_position="bottom right",
    )  # fmt: skip
    if n_scored < len(n):
        figure.add_vrect(x0=n_scored + 0.5, x1=len(n) + 0.5, fillcolor=rgba(NEUTRAL, 0.14), line_width=0)
    figure.update_layout(
        height=240, margin={"l": 52, "r": 8, "t": 8, "b": 40}, **_CLEAR,
        xaxis={"title": {"text": "edges taken, the largest |score| first", "standoff": 4}, "range": [0, len(n) + 0.5]},
        yaxis={"tickformat": ".0%", "range": [0, 1.05]},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    return figure


def auroc_bars(names: Sequence[str], values: Sequence[float], *, bet: str = "", dark: bool = False) -> go.Figure:
    """A bar for each method, the best on top; the one that was bet on has a star before its name."""
    palette = PALETTES[dark]
    order = np.argsort(values, kind="stable")
    labels = [("★ " if names[i] == bet else "") + names[i] for i in order]
    figure = go.Figure()
    figure.add_bar(
        x=[values[i] for i in order], y=labels, orientation="h", marker={"color": palette.helps},
        text=[f"{values[i]:.2f}" for i in order], textposition="auto",
        hovertemplate="%{y}: AUROC %{x:.3f}<extra></extra>",
    )  # fmt: skip
    figure.add_vline(x=0.5, line={"width": 1, "dash": "dot", "color": palette.faint})
    figure.update_layout(
        height=60 + 27 * len(labels), margin={"l": 8, "r": 8, "t": 8, "b": 40}, **_CLEAR,
        xaxis={"range": [0, 1.02], "title": {"text": "AUROC: 1 finds the circuit, 0.5 is chance", "standoff": 4}},
        yaxis={"automargin": True},
    )  # fmt: skip
    return figure
