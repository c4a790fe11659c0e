"""Clean against corrupt answer differences, one point per pair.

A pair that works lies high and well above the diagonal: the model prefers the right answer after the clean prompt, and
less so after the corrupt one. Pairs that do not are crosses of another colour, so that they stand out either way.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

import plotly.graph_objects as go

from circuit.plots.colors import PALETTES
from circuit.plots.frame import as_text
from circuit.prompts.verdicts import PairResult, trouble


def prompt_plot(
    results: Mapping[int, PairResult], names: Mapping[int, str], *, function: str, chosen: int | None, dark: bool
) -> go.Figure:
    """The figure. Rows are counted from 0; `customdata` of a point is its row.

    Args:
        results: By row; rows without wrong answers have no difference, and no point.
        names: What hovering says of each row.
        function: The grad function, for the axes.
        chosen: The row to ring.
        dark: Whether the page is.
    """
    palette = PALETTES[dark]
    known = {row: result for row, result in results.items() if isfinite(result.drop)}
    figure = go.Figure()
    for bad, name, symbol, color in (
        (False, "works", "circle", palette.helps),
        (True, "does not", "x", palette.hurts),
    ):
        rows = [row for row, result in known.items() if (trouble(result) is not None) == bad]
        figure.add_scatter(
            x=[known[row].corrupt for row in rows],
            y=[known[row].clean for row in rows],
            mode="markers",
            name=f"{name} ({len(rows)})",
            marker={"symbol": symbol, "color": color, "size": 10 if bad else 8, "opacity": 0.85},
            customdata=[[row] for row in rows],
            text=[_hover(row, names[row], known[row]) for row in rows],
            hovertemplate="%{text}<extra></extra>",
        )
    if chosen in known:
        figure.add_scatter(
            x=[known[chosen].corrupt],
            y=[known[chosen].clean],
            mode="markers",
            name=f"row {chosen + 1}",
            marker={"symbol": "circle-open", "size": 18, "color": palette.text, "line": {"width": 2}},
            hoverinfo="skip",
        )
    values = [value for result in known.values() for value in (result.clean, result.corrupt)] or [0.0, 1.0]
    low, high = min(0.0, *values), max(0.0, *values)
    margin = 0.06 * (high - low or 1.0)
    ends = [low - margin, high + margin]
    line = {"color": palette.faint, "width": 1, "dash": "dot"}
    figure.add_shape(type="line", x0=ends[0], y0=ends[0], x1=ends[1], y1=ends[1], line=line, layer="below")
    figure.add_shape(type="line", x0=ends[0], y0=0, x1=ends[1], y1=0, line=line, layer="below")
    axis = {"range": ends, "zeroline": False, "gridcolor": f"{palette.faint}22"}
    figure.update_layout(
        height=340,
        margin={"l": 0, "r": 0, "t": 28, "b": 0},
        xaxis={**axis, "title": {"text": f"corrupt: right minus wrong answers ({function})"}},
        yaxis={**axis, "title": {"text": f"clean: right minus wrong ({function})"}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        annotations=[
            {
                "x": ends[1], "y": ends[1], "text": "no change", "showarrow": False, "xanchor": "right",
                "yanchor": "top", "font": {"color": palette.faint, "size": 11},
            }
        ],
        clickmode="event+select",
        dragmode=False,
    )  # fmt: skip
    return figure


def _hover(row: int, name: str, result: PairResult) -> str:
    said = f"<b>row {row + 1}</b> {as_text(name)}<br>clean {result.clean:+.2f}, corrupt {result.corrupt:+.2f}"
    why = trouble(result)
    return f"{said}<br>{why}" if why else said
