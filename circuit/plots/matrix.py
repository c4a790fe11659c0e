"""Edge scores as heatmaps that are looked at: the whole matrix, and position by layer.

    score_matrix      every destination by every source; zooming in names every head
    position_heatmap  with token positions kept apart: what each layer reads at each token

Colours and blanks are those of `circuit.plots.heatmap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from circuit.edges.graph import EdgeGraph
from circuit.plots.frame import as_text, heat_figure
from circuit.plots.heatmap import separate
from circuit.plots.numbers import (
    WORDS,
    Group,
    Kept,
    Reduce,
    dense_scores,
    destination_groups,
    position_scores,
    position_words,
)


def score_matrix(
    graph: EdgeGraph,
    scores: Float[np.ndarray, " n_edges"],
    *,
    caption: str,
    reduce: Reduce = "signed_sum",
    position: int | None = None,
    kept: Kept = None,
    height: int = 430,
    width: int = 900,
) -> go.Figure:
    """Every destination by every source, with a line between layers; hovering names the edge and its exact score.

    Cells get smaller than a pixel, so this is a picture and takes no clicks. As many names are written as have room:
    on zooming in, all of them.

    Args:
        caption: One line that says what the scores are scores of; drawn inside the figure.
        reduce: How scores become one number over token positions, where these are kept apart; also whether the sign
            is shown.
        position: One token position, where these are kept apart; by default all of them.
        kept: One bool per edge, true for those that are shown.
        height: Of the matrix, in pixels.
        width: The narrowest width in pixels that the figure may have.

    Raises:
        OptionError: When scores or options do not belong to this model.
    """
    everything = dense_scores(graph, scores, reduce=reduce, position=position)
    values = everything if kept is None else dense_scores(graph, scores, reduce=reduce, position=position, kept=kept)
    summed = graph.seq_len is not None and position is None
    word = WORDS[reduce] if summed else ("score" if reduce == "signed_sum" else "|score|")
    rows = [Group(graph.label(node), i, i + 1, node.layer) for i, node in enumerate(graph.destinations)]
    columns = [Group(graph.label(node), i, i + 1, node.layer) for i, node in enumerate(graph.sources)]
    figure = heat_figure(
        values,
        [column.name for column in columns],
        [row.name for row in rows],
        signed=reduce == "signed_sum",
        bar_title=word,
        caption=caption,
        height=height,
        width=width,
        top=float(np.nanmax(np.abs(everything))),
        gap=0,
    )
    heat: Any = figure.data[0]
    heat.hoverinfo = None
    heat.hoverongaps = False
    what = word + position_words(graph, position)
    heat.hovertemplate = f"<b>%{{x}} → %{{y}}</b><br>{what}: %{{z:.6g}}<extra></extra>"
    figure.update_xaxes(nticks=40, tickangle=-90, tickfont={"size": 10})
    figure.update_yaxes(nticks=36, tickfont={"size": 10})
    separate(figure, columns, rows, np.isfinite(everything))
    return figure


def position_heatmap(
    graph: EdgeGraph,
    scores: Float[np.ndarray, " n_edges"],
    tokens: Sequence[str],
    reduce: Reduce = "abs_sum",
    *,
    caption: str,
    kept: Kept = None,
    width: int = 900,
) -> go.Figure:
    """With token positions kept apart: the edges into each layer's attention and MLP, at each token.

    Args:
        tokens: What to call each position.
        reduce: How the scores of a cell's edges become one number.
        caption: One line that says what the scores are scores of; drawn inside the figure.
        kept: One bool per edge, true for those that are shown.
        width: The narrowest width in pixels that the figure may have.

    Raises:
        OptionError: When scores do not belong to this model, or are sums over positions.
    """
    values = position_scores(graph, scores, reduce=reduce, kept=kept)
    everything = values if kept is None else position_scores(graph, scores, reduce=reduce)
    rows = [group.name for group in destination_groups(graph)]
    columns = [f"{i} {as_text(token)}" for i, token in enumerate(tokens)]  # the same token may come twice
    row_height = min(30, max(6, 380 // len(rows)))
    figure = heat_figure(
        values,
        columns,
        rows,
        signed=reduce == "signed_sum",
        bar_title=f"{WORDS[reduce]} of edges read",
        caption=caption,
        height=row_height * len(rows),
        width=width,
        top=float(np.nanmax(np.abs(everything))),
    )
    heat: Any = figure.data[0]
    heat.hoverinfo = None
    heat.hovertemplate = f"<b>%{{y}}</b> reads at %{{x}}<br>{WORDS[reduce]}: %{{z:.4g}}<extra></extra>"
    figure.update_xaxes(title={"text": "token position, with the first prompt's token"}, tickangle=-60)
    figure.update_yaxes(nticks=32, tickfont={"size": 10})
    return figure
