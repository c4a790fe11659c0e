"""Two or more runs in one picture.

score_scatter       every edge's score in one run against that in another
overlap_curves      the share of the n strongest edges that pairs of runs have in common, over n
faithfulness_lines  what circuits of several runs keep, over their size

Lines and points differ by dash and shape, not by colour alone, and the legend names them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from circuit.plots.colors import NEUTRAL, PALETTES, log_place, rgba, score_ticks
from circuit.plots.frame import with_caption
from circuit.runs.comparison import expected_overlap
from circuit.runs.faithfulness import Curve
from circuit.runs.run import Run

DRAWN = 3000
"""Points of a scatter plot: more would only make the page slow, and lie on top of each other."""
_POINTS = 300
_SQUARES = 80
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")


def line_colors(dark: bool) -> list[str]:
    """Colours of lines: safe for colour-blind readers, and repeated after six (dashes are not the only difference)."""
    palette = PALETTES[dark]
    return [
        palette.helps,
        palette.hurts,
        *(palette.nodes[kind].border for kind in ("mlp", "head", "embedding")),
        palette.text,
    ]


def score_scatter(
    first: Run, second: Run, names: tuple[str, str], n: int, *, caption: str, dark: bool = False, width: int = 620
) -> go.Figure:
    """One point an edge: its scores in both runs, on logarithmic scales of both signs (`circuit.plots.colors`).

    Of many edges those are drawn that are strongest in either run, and the others as a shade that is darker where there
    are more; the caption says so. Shapes and colours say in which run's `n` strongest an edge is. `customdata` begins
    with the edge's number.
    """
    ranks = np.minimum(first.ranks, second.ranks)
    order = np.argsort(ranks, kind="stable")
    edges, others = order[:DRAWN], order[DRAWN:]
    if len(others):
        caption = (
            f"Points: the {len(edges):,} edges that are strongest in either run; the shade, darker where there are "
            f"more, stands for the other {len(others):,}. {caption}"
        )
    tops = [float(np.abs(run.scores).max()) or 1.0 for run in (first, second)]
    places = [
        log_place(run.scores[edges].astype(np.float64), top) for run, top in zip((first, second), tops, strict=True)
    ]
    palette = PALETTES[dark]
    inside = [(run.ranks[edges] <= n) & (run.scores[edges] != 0) for run in (first, second)]
    kinds = (
        ("neither", ~inside[0] & ~inside[1], "circle-open", rgba(NEUTRAL, 0.7), 5),
        (f"{names[1]} only", ~inside[0] & inside[1], "triangle-up", palette.hurts, 9),
        (f"{names[0]} only", inside[0] & ~inside[1], "triangle-right", palette.helps, 9),
        ("both", inside[0] & inside[1], "diamond", palette.text, 8),
    )
    figure = go.Figure(
        go.Scatter(
            x=[-1, 1], y=[-1, 1], mode="lines", hoverinfo="skip", showlegend=False,
            line={"color": palette.faint, "width": 1, "dash": "dot"},
        )
    )  # fmt: skip
    if len(others):
        rest = [
            log_place(run.scores[others].astype(np.float64), top)
            for run, top in zip((first, second), tops, strict=True)
        ]
        figure.add_trace(_shade(*rest))
    for label, which, symbol, color, size in kinds:
        chosen = edges[which]
        figure.add_scatter(
            x=places[0][which].astype(np.float32), y=places[1][which].astype(np.float32), mode="markers",
            name=f"{label} ({len(chosen):,})", marker={"symbol": symbol, "size": size, "color": color},
            customdata=[
                [int(edge), first.graph.edge_label(edge), float(first.scores[edge]), float(second.scores[edge])]
                for edge in chosen
            ],
            hovertemplate=f"<b>%{{customdata[1]}}</b><br>{names[0]} %{{customdata[2]:+.4g}}<br>"
            f"{names[1]} %{{customdata[3]:+.4g}}<extra></extra>",
        )  # fmt: skip
    axes = [_axis(top) for top in tops]
    figure.update_layout(
        xaxis={**axes[0], "title": {"text": f"score in {names[0]}"}},
        yaxis={**axes[1], "title": {"text": f"score in {names[1]}"}},
        hovermode="closest",
        legend={
            "orientation": "h",
            "y": 1.02,
            "yanchor": "bottom",
            "x": 0,
            "title": {"text": f"in the {n:,} strongest of"},
        },
    )
    return with_caption(figure, caption, 400, width, left=80, below=72)


def _shade(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> go.Heatmap:
    """How many points lie in each of some thousand squares, on a logarithmic scale; nothing where there are none."""
    ends = np.linspace(-1, 1, _SQUARES + 1)
    counts, _, _ = np.histogram2d(y, x, bins=[ends, ends])
    middles = (ends[1:] + ends[:-1]) / 2
    with np.errstate(divide="ignore"):
        shade = np.where(counts > 0, np.log10(counts) + 0.3, np.nan)
    return go.Heatmap(
        x=middles, y=middles, z=shade.astype(np.float32), customdata=counts.astype(int), showscale=False,
        colorscale=[(0, rgba(NEUTRAL, 0.15)), (1, rgba(NEUTRAL, 0.9))], zmin=0,
        hovertemplate="%{customdata:,} weaker edges<extra></extra>",
    )  # fmt: skip


def _axis(top: float) -> dict[str, object]:
    ticks = score_ticks(top, signed=True, labels=14)
    return {
        "tickvals": log_place(np.array(ticks), top).tolist(),
        "ticktext": [f"{tick:.2g}".replace("-", "−") for tick in ticks],
        "range": [-1.06, 1.06],
        "zeroline": True,
    }


def overlap_curves(
    shared: Mapping[str, Float[np.ndarray, " n_edges"]],
    chosen: int,
    *,
    caption: str,
    dark: bool = False,
    width: int = 620,
) -> go.Figure:
    """One line a pair of runs (`circuit.runs.comparison.overlap`), and a dashed one for edges drawn at random.

    Of many sizes some hundred are drawn, evenly spaced on the logarithmic axis; `chosen` is marked.
    """
    n_edges = len(next(iter(shared.values())))
    sizes = np.unique(np.geomspace(1, n_edges, _POINTS).round().astype(int))
    figure = go.Figure()
    for number, (name, values) in enumerate(shared.items()):
        figure.add_scatter(
            x=sizes, y=values[sizes - 1].astype(np.float32), name=name, mode="lines", line=_line(number, dark),
            hovertemplate=f"{name}: of the %{{x:,}} strongest, %{{y:.1%}}<extra></extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=sizes, y=expected_overlap(n_edges)[sizes - 1], name="drawn at random", mode="lines",
        line={"color": rgba(NEUTRAL, 1), "width": 1.5, "dash": "5px,4px"},
        hovertemplate="%{x:,} edges at random: %{y:.1%}<extra></extra>",
    )  # fmt: skip
    figure.update_layout(
        xaxis={"type": "log", "title": {"text": "n strongest edges"}, "dtick": 1},
        yaxis={"tickformat": ".0%", "range": [-0.03, 1.03], "title": {"text": "in both"}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    return _marked(with_caption(figure, caption, 400, width), chosen, dark)


def faithfulness_lines(
    curves: Mapping[str, Curve], chosen: int, *, caption: str, dark: bool = False, width: int = 900
) -> go.Figure:
    """One line a run; 100 % is as good as the whole model, 0 % as bad as with every edge ablated.

    Raises:
        NumericalError: Where a run's whole and ablated model are too close to compare.
    """
    figure = go.Figure()
    for number, (name, curve) in enumerate(curves.items()):
        points = [(n, value) for n, value in zip(curve.sizes, curve.faithfulness.tolist(), strict=True) if n > 0]
        figure.add_scatter(
            x=[n for n, _ in points], y=[value for _, value in points], name=name, mode="lines+markers",
            line=_line(number, dark), marker={"size": 8, "symbol": _SYMBOLS[number % len(_SYMBOLS)]},
            hovertemplate=f"{name}: %{{x:,}} edges keep %{{y:.1%}}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        xaxis={"type": "log", "title": {"text": "edges kept"}, "dtick": 1},
        yaxis={"tickformat": ".0%", "title": {"text": "faithfulness"}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    for level, words in ((1, "whole model"), (0, "every edge ablated")):
        figure.add_hline(y=level, line={"width": 1, "dash": "dash", "color": rgba(NEUTRAL, 1)})
        figure.add_annotation(
            x=0.005, xref="paper", y=level, text=words, showarrow=False, yanchor="bottom", font={"size": 11}
        )
    return _marked(with_caption(figure, caption, 340, width), chosen, dark)


def _line(number: int, dark: bool) -> dict[str, object]:
    colors = line_colors(dark)
    return {"color": colors[number % len(colors)], "width": 2, "dash": _DASHES[number % len(_DASHES)]}


def _marked(figure: go.Figure, chosen: int, dark: bool) -> go.Figure:
    """The same with a line at the chosen number of edges."""
    figure.add_vline(x=chosen, line={"width": 2, "color": PALETTES[dark].faint})
    figure.add_annotation(
        x=np.log10(chosen), y=0, yref="paper", text=f"n = {chosen:,}", showarrow=False, yanchor="bottom", xanchor="left"
    )
    return figure
