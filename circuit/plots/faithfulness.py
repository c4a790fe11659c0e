"""Faithfulness against the number of edges: what circuits of each size keep, beside whole and ablated model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from circuit.plots.colors import HELPS, PALETTES, rgba
from circuit.plots.frame import with_caption
from circuit.runs.faithfulness import Curve

_GRAY = (128, 128, 128)


def faithfulness_curve(
    curve: Curve,
    *,
    caption: str,
    chosen: int,
    random: Sequence[Curve] = (),
    removed: bool = False,
    dark: bool = False,
    width: int = 900,
) -> go.Figure:
    """The curve with its 95 % interval; a click on a point picks its size.

    Args:
        curve: Circuits of the run, without the empty one, which a logarithmic axis has no place for.
        caption: What the numbers are numbers of, inside the picture.
        chosen: The size that the page shows, marked.
        random: Curves of random edges: their range is a band, their mean a line.
        removed: Whether the circuits were removed instead of kept.
        dark: Whether the page is dark.
        width: Pixels that the caption is broken for.

    Raises:
        NumericalError: Where whole and ablated model are too close to compare.
    """
    palette = PALETTES[dark]
    sizes, values = np.array(curve.sizes), curve.faithfulness
    low, high = curve.interval()
    shown = sizes > 0
    sizes, values, low, high = sizes[shown], values[shown], low[shown], high[shown]
    figure = go.Figure()
    if random:
        of_random = np.stack([other.faithfulness for other in random])
        at = np.array(random[0].sizes)
        keep = at > 0
        _band(figure, at[keep], of_random.min(0)[keep], of_random.max(0)[keep], _GRAY, "range of random edges")
        mean = of_random.mean(0)[keep]
        figure.add_scatter(
            x=at[keep].tolist(), y=mean.tolist(), mode="lines", name=f"random edges, {len(random)} draws",
            line={"color": rgba(_GRAY, 1), "width": 2, "dash": "dot"},
            hovertemplate="%{x:,} random edges: %{y:.1%}<extra></extra>",
        )  # fmt: skip
    _band(figure, sizes, low, high, HELPS, "95 % interval over prompts")
    what = "without the %{x:,} strongest edges" if removed else "%{x:,} edges"
    figure.add_scatter(
        x=sizes.tolist(), y=values.tolist(), mode="lines+markers", name="edges by score",
        line={"color": palette.helps, "width": 2}, marker={"size": 9},
        hovertemplate=what + ": %{y:.1%}<extra></extra>",
    )  # fmt: skip
    for level, words in ((1, "whole model"), (0, "every edge ablated")):
        figure.add_hline(y=level, line={"width": 1, "dash": "dash", "color": rgba(_GRAY, 1)})
        figure.add_annotation(
            x=0.005, xref="paper", y=level, text=words, showarrow=False, yanchor="bottom", font={"size": 11}
        )
    top = curve.whole.n_edges
    figure.update_layout(
        xaxis={"type": "log", "title": {"text": "edges removed" if removed else "edges kept"}, "dtick": 1},
        yaxis={"tickformat": ".0%", "title": {"text": "behaviour left" if removed else "faithfulness"}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        clickmode="event+select",
    )
    captioned = with_caption(figure, caption, 340, width)
    if 0 < chosen <= top:
        captioned.add_vline(x=chosen, line={"width": 2, "color": palette.hurts})
        captioned.add_annotation(
            x=np.log10(chosen), y=1, yref="paper", text=f"{chosen:,}", showarrow=False, yanchor="bottom", xanchor="left"
        )
    return captioned


def _band(
    figure: go.Figure, x: np.ndarray, low: np.ndarray, high: np.ndarray, color: tuple[int, int, int], name: str
) -> None:
    figure.add_scatter(
        x=[*x.tolist(), *x[::-1].tolist()], y=[*high.tolist(), *low[::-1].tolist()], fill="toself", mode="lines",
        line={"width": 0}, fillcolor=rgba(color, 0.18), name=name, hoverinfo="skip",
    )  # fmt: skip
