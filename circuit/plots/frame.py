"""What heatmaps share: the figure with its colour bar and caption, cells that take clicks, lines between layers.

    heat_figure   cells, colour bar, axes, and the caption inside the picture
    with_caption  room for the caption of any figure, and the caption
    add_targets   one invisible point a cell, which takes clicks and hovers
    draw_lines    all lines of a figure as one shape
    as_text       what others typed, as it stands

Figures set no colour of background or text, so that they take those of the page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from circuit.plots.colors import NEUTRAL, bar_scale, log_place, rgba, score_scale, score_ticks

TOOLBAR = 30
_LABEL_HEIGHT = 17
_CHARACTER = 5.6
"""Widths in pixels of a caption's character, about."""


def heat_figure(
    values: np.ndarray,
    columns: Sequence[str],
    rows: Sequence[str],
    *,
    signed: bool,
    bar_title: str,
    caption: str,
    height: int,
    width: int = 760,
    top: float | None = None,
    gap: int = 1,
) -> go.Figure:
    """Cells with names on both axes, on the logarithmic colour scale of `circuit.plots.colors`.

    Args:
        values: [n_rows, n_columns], NaN where nothing is shown.
        columns: Names of the columns.
        rows: Names of the rows, from the bottom.
        signed: Whether the scale has two sides.
        bar_title: What a number is.
        caption: Drawn inside the figure.
        height: Of the cells, in pixels.
        width: The narrowest width in pixels that the figure may have: captions are broken for that.
        top: The largest absolute value of the scale; by default that of `values`.
        gap: Pixels between cells.
    """
    largest = float(np.nanmax(np.abs(values))) if top is None and np.isfinite(values).any() else top
    top = largest if largest else 1.0
    heat = go.Heatmap(
        z=values.astype(np.float32),
        x=list(columns),
        y=list(rows),
        zmin=-top if signed else 0.0,
        zmax=top,
        colorscale=score_scale(signed=signed),
        showscale=False,
        hoverinfo="skip",
        xgap=gap,
        ygap=gap,
    )
    ticks = score_ticks(top, signed=signed, labels=height // _LABEL_HEIGHT)
    bar = go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        hoverinfo="skip",
        showlegend=False,
        marker={
            "color": [0],
            "cmin": -1 if signed else 0,
            "cmax": 1,
            "colorscale": bar_scale(signed=signed),
            "colorbar": {
                "title": {"text": bar_title, "side": "right"},
                "tickvals": log_place(np.array(ticks), top).tolist(),
                "ticktext": [f"{tick:.2g}".replace("-", "−") for tick in ticks],
                "thickness": 12,
                "outlinewidth": 0,
                "len": 1.0,
            },
        },
    )
    upright = 7 * max(map(len, columns)) * len(columns) > width - 190
    axis = {"type": "category", "showgrid": False, "zeroline": False, "ticks": "", "automargin": False}
    figure = go.Figure([heat, bar])
    figure.update_layout(
        hovermode="closest",
        hoverdistance=-1,
        xaxis={**axis, "title": {"text": "source (writes)", "standoff": 4}, "range": [-0.5, len(columns) - 0.5]},
        yaxis={**axis, "title": {"text": "destination (reads)", "standoff": 4}, "range": [-0.5, len(rows) - 0.5]},
    )
    figure.update_xaxes(tickangle=-90 if upright else 0, tickfont={"size": 10 if len(columns) > 30 else 12})
    return with_caption(
        figure, caption, height, width, left=92, below=48 + (6 * max(map(len, columns)) if upright else 10)
    )


def with_caption(
    figure: go.Figure, caption: str, height: int, width: int = 760, *, left: int = 64, below: int = 54
) -> go.Figure:
    """Give the plot `height` pixels, and write the caption below its axis."""
    lines = textwrap.wrap(caption, max(40, int((width - 16) / _CHARACTER)))
    bottom = below + 15 * len(lines)
    figure.update_layout(
        height=height + bottom + TOOLBAR,
        margin={"l": left, "r": 16, "t": TOOLBAR, "b": bottom},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    figure.add_annotation(  # beside those that are there: an update would overwrite them
        text="<br>".join(map(as_text, lines)),
        x=0,
        y=0,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        xshift=8 - left,
        yshift=-bottom + 2,
        align="left",
        showarrow=False,
        font={"size": 11},
    )
    return figure


def add_targets(
    figure: go.Figure,
    columns: Sequence[str],
    rows: Sequence[str],
    hover: Sequence[str],
    size: int,
    edges: np.ndarray | None = None,
) -> None:
    """One invisible point a cell, blank ones too: heatmap cells take no clicks in Streamlit, the nearest point does."""
    figure.add_scatter(
        x=list(columns) * len(rows),
        y=[name for name in rows for _ in columns],
        mode="markers",
        showlegend=False,
        text=list(hover),
        customdata=None if edges is None else [[int(edge)] for edge in edges.ravel()],
        hovertemplate="<b>%{x} → %{y}</b><br>%{text}<extra></extra>",
        marker={
            "symbol": "square-open",
            "size": size,
            "opacity": 0,
            "color": rgba(NEUTRAL, 1),
            "line": {"width": 2},
        },
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": 0}},
    )


def as_text(text: str) -> str:
    """Text that Plotly draws as it stands: it reads links, a few other tags of HTML, and fields in templates."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("%{", "%\u2060{")


def draw_lines(figure: go.Figure, lines: Sequence[str]) -> None:
    """All lines, given as SVG paths, as one shape: many shapes are slow to draw."""
    if lines:
        line: dict[str, Any] = {"color": rgba(NEUTRAL, 0.5), "width": 1}
        figure.update_layout(shapes=[{"type": "path", "path": "".join(lines), "line": line, "layer": "above"}])
