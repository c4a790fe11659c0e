"""Edge scores as heatmaps that are clicked: layer by layer, and one block of that.

    layer_heatmap   destination groups by source groups: the overview; a click picks a block
    block_heatmap   the destinations of one group by the sources of another; a click picks an edge
    node_heatmap    what every source is worth through all its edges, by layer and head
    picked_block    the block that a click on the overview means
    picked_edge     the edge that a click on a block means
    block_of        the block that an edge belongs to

    event = st.plotly_chart(layer_heatmap(graph, flat, caption=caption), on_select="rerun", key="overview")
    if block := picked_block(graph, event.selection.points):
        st.plotly_chart(block_heatmap(graph, flat, *block, caption=caption), on_select="rerun", key="block")

Groups are the embedding (`Resid Start`), the heads of a layer (`A3`; as destinations all their inputs, or with
`split_inputs` `A3.Q`, `A3.K` and `A3.V`), its MLP (`MLP 3`) and the final residual (`Resid End`). Later layers are
higher up, as in the circuit graph. A cell where no edge exists, or none that the filter lets through, is blank; a score
of zero is a hint of grey. Where token positions are kept apart, scores are reduced over them, or one is chosen.

Colours do not change with the filter. All blocks of a run share one scale, which ends at the run's largest score, so
that a pale block is a weak one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from circuit.common.errors import OptionError
from circuit.common.words import counted
from circuit.edges.graph import RESID_START, EdgeGraph
from circuit.plots.colors import NEUTRAL, PALETTES, rgba
from circuit.plots.frame import add_targets, draw_lines, heat_figure
from circuit.plots.numbers import (
    WORDS,
    Group,
    Kept,
    Reduce,
    dense_scores,
    destination_groups,
    edge_numbers,
    layer_scores,
    position_words,
    source_groups,
)

_MANY_CELLS = 110
_SPLIT_LAYERS = 8
"""Up to this many layers, the overview gives queries, keys and values rows of their own."""


def layer_heatmap(
    graph: EdgeGraph,
    scores: Float[np.ndarray, " n_edges"],
    reduce: Reduce = "abs_sum",
    *,
    caption: str,
    split_inputs: bool | None = None,
    position: int | None = None,
    kept: Kept = None,
    chosen: tuple[str, str] | None = None,
    width: int = 760,
) -> go.Figure:
    """The overview: rows read what columns write. A click on a cell arrives as a selected point (`picked_block`).

    Args:
        reduce: What a cell shows of its block's edges.
        caption: One line that says what the scores are scores of; drawn inside the figure.
        split_inputs: Whether a layer's queries, keys and values have rows of their own; by default where the model is
            small enough for that to stay readable.
        position: One token position, where these are kept apart; by default all of them.
        kept: One bool per edge, true for those that are shown.
        chosen: A block to mark: names of a destination group and a source group.
        width: The narrowest width in pixels that the figure may have.

    Raises:
        OptionError: When scores or options do not belong to this model.
    """
    split = graph.n_layers <= _SPLIT_LAYERS if split_inputs is None else split_inputs
    values, counts = layer_scores(graph, scores, reduce=reduce, split_inputs=split, position=position, kept=kept)
    everything = values
    if kept is not None:
        everything, _ = layer_scores(graph, scores, reduce=reduce, split_inputs=split, position=position)
    rows, columns = destination_groups(graph, split_inputs=split), source_groups(graph)
    row_height = min(30, max(6, 400 // len(rows)))
    names_x, names_y = [group.name for group in columns], [group.name for group in rows]
    figure = heat_figure(
        values,
        names_x,
        names_y,
        signed=reduce == "signed_sum",
        bar_title=WORDS[reduce],
        caption=caption,
        height=row_height * len(rows),
        width=width,
        top=float(np.nanmax(np.abs(everything))),
    )
    what = WORDS[reduce] + position_words(graph, position)
    n_read = [_n_read(graph, row) for row in rows]
    hover = []
    for i in range(len(rows)):
        for j, column in enumerate(columns):
            if column.start >= n_read[i]:
                hover.append("no edge: it writes after this one reads")
            elif not counts[i, j]:
                hover.append("no edge fits the filter")
            else:
                hover.append(f"{what}, {counted(counts[i, j], 'edge')}: {values[i, j]:.4g}")
    add_targets(figure, names_x, names_y, hover, row_height)
    _thin_labels(figure, columns, rows, row_height)
    exists = np.arange(graph.n_sources)[[column.start for column in columns]][None] < np.array(n_read)[:, None]
    separate(figure, columns, rows, exists)
    if chosen is not None and chosen[0] in names_y and chosen[1] in names_x:
        x, y = names_x.index(chosen[1]), names_y.index(chosen[0])
        line = {"color": rgba(NEUTRAL, 1), "width": 2}
        figure.add_shape(type="rect", x0=x - 0.5, x1=x + 0.5, y0=y - 0.5, y1=y + 0.5, line=line)
    return figure


def node_heatmap(
    graph: EdgeGraph,
    nodes: Float[np.ndarray, " n_sources"],
    *,
    caption: str,
    width: int = 760,
) -> go.Figure:
    """What every source is worth: a row per layer, with its heads and its MLP; the embedding below.

    Args:
        nodes: One score per source, in the order of `graph.sources` (`circuit.edges.ranking.node_scores`).
        caption: One line that says what the scores are scores of; drawn inside the figure.
        width: The narrowest width in pixels that the figure may have.

    Raises:
        OptionError: When there is not one score per source.
    """
    if nodes.shape != (graph.n_sources,):
        raise OptionError(f"This model has {graph.n_sources} sources, and there are scores of shape {nodes.shape}.")
    columns = [*map(str, range(graph.n_heads)), "MLP"]
    rows = [RESID_START, *(f"layer {layer}" for layer in range(graph.n_layers))]
    values = np.full((len(rows), len(columns)), np.nan)
    values[0, 0] = nodes[0]
    values[1:] = nodes[1:].reshape(graph.n_layers, len(columns))
    names = np.full(values.shape, "", dtype=object)
    names[0, 0] = RESID_START
    names[1:] = np.array([node.name for node in graph.sources[1:]], dtype=object).reshape(graph.n_layers, -1)
    row_height = min(30, max(9, 400 // len(rows)))
    figure = heat_figure(
        values, columns, rows, signed=True, bar_title="sum of scores", caption=caption,
        height=row_height * len(rows), width=width,
    )  # fmt: skip
    figure.update_layout(xaxis_title_text="head, and MLP", yaxis_title_text="")
    cells = zip(names.ravel().tolist(), values.ravel().tolist(), strict=True)
    hover = [f"{name}, sum of its edges' scores: {value:+.4g}" if name else "no node" for name, value in cells]
    add_targets(figure, columns, rows, hover, row_height)
    return figure


def block_heatmap(
    graph: EdgeGraph,
    scores: Float[np.ndarray, " n_edges"],
    destination: str,
    source: str,
    *,
    caption: str,
    reduce: Reduce = "signed_sum",
    position: int | None = None,
    kept: Kept = None,
    chosen: int | None = None,
    dark: bool = False,
    width: int = 760,
) -> go.Figure:
    """The edges of one block of the overview, by name. A click on a cell arrives as a selected point (`picked_edge`).

    Args:
        destination: Name of a destination group, such as `A3`, `A3.Q`, `MLP 3` or `Resid End`.
        source: Name of a source group, such as `Resid Start`, `A2` or `MLP 2`.
        caption: One line that says what the scores are scores of; drawn inside the figure.
        reduce: How scores become one number over token positions, where these are kept apart; also whether the sign
            is shown.
        position: One token position, where these are kept apart; by default all of them.
        kept: One bool per edge, true for those that are shown.
        chosen: The number of an edge to mark.
        dark: Whether the page is dark: for the numbers in the cells.
        width: The narrowest width in pixels that the figure may have.

    Raises:
        OptionError: When a group is unknown, the block has no edges, or scores do not belong to this model.
    """
    row = _group(graph, destination, "destination")
    column = _group(graph, source, "source")
    everything = dense_scores(graph, scores, reduce=reduce, position=position)
    if column.start >= _n_read(graph, row):
        raise OptionError(f"No edge leads from {source} to {destination}: {source} writes after {destination} reads.")
    shown = everything if kept is None else dense_scores(graph, scores, reduce=reduce, position=position, kept=kept)
    values = shown[row.start : row.stop, column.start : column.stop]
    edges = edge_numbers(graph, position)[row.start : row.stop, column.start : column.stop]
    names_x = [graph.label(node) for node in graph.sources[column.start : column.stop]]
    names_y = [graph.label(node) for node in graph.destinations[row.start : row.stop]]
    row_height = min(34, max(14, 220 // len(names_y)))
    summed = graph.seq_len is not None and position is None
    word = WORDS[reduce] if summed else ("score" if reduce == "signed_sum" else "|score|")
    figure = heat_figure(
        values,
        names_x,
        names_y,
        signed=reduce == "signed_sum",
        bar_title=f"{word} (scale of the run)",
        caption=caption,
        height=max(row_height * len(names_y), 110),
        width=width,
        top=float(np.nanmax(np.abs(everything))),
    )
    what = word + position_words(graph, position)
    hover = [f"{what}: {value:.4g}" if np.isfinite(value) else "does not fit the filter" for value in values.ravel()]
    add_targets(figure, names_x, names_y, hover, row_height - 3, edges)
    if values.size <= _MANY_CELLS and len(names_x) <= 10:
        heat: Any = figure.data[0]
        heat.texttemplate = "%{z:.2g}"
        heat.textfont = {"size": 10, "color": PALETTES[dark].text}
    inputs = [name.rpartition(".")[2] if name[0] == "A" else "" for name in names_y]
    breaks = [i for i in range(1, len(inputs)) if inputs[i] != inputs[i - 1]]
    draw_lines(figure, [f"M-0.5,{i - 0.5}H{len(names_x) - 0.5}" for i in breaks])
    if chosen is not None and (edges == chosen).any():
        y, x = (int(at[0]) for at in np.nonzero(edges == chosen))
        line = {"color": PALETTES[dark].text, "width": 2}
        figure.add_shape(type="rect", x0=x - 0.5, x1=x + 0.5, y0=y - 0.5, y1=y + 0.5, line=line)
    return figure


def separate(figure: go.Figure, columns: list[Group], rows: list[Group], exists: np.ndarray) -> None:
    """A line wherever the layer changes, as far as there can be edges (`exists`, a bool a cell)."""
    lines = []
    for i in range(1, len(columns)):
        if columns[i].layer != columns[i - 1].layer:
            lines.append(f"M{i - 0.5},{int(exists[:, i - 1].argmax()) - 0.5}V{len(rows) - 0.5}")
    for i in range(1, len(rows)):
        if rows[i].layer != rows[i - 1].layer:
            lines.append(f"M-0.5,{i - 0.5}H{int(exists[i].sum()) - 0.5}")
    draw_lines(figure, lines)


def _thin_labels(figure: go.Figure, columns: list[Group], rows: list[Group], row_height: int) -> None:
    """Label every row and column, or where they are too many, every layer or every few."""

    def kept(groups: list[Group], room: int) -> list[str]:
        some = [g.name for g in groups if not g.name.startswith("MLP") and g.name[-2:] not in (".K", ".V")]
        if some[0] == RESID_START:
            del some[1]  # which stands right beside it
        return some[:: -(-len(some) // room)]

    if row_height < 13:
        figure.update_yaxes(tickvals=kept(rows, 400 // 12), tickfont={"size": 10})
    else:
        figure.update_yaxes(tickvals=[group.name for group in rows], tickfont={"size": 10 if row_height < 16 else 12})
    figure.update_xaxes(tickvals=[group.name for group in columns] if len(columns) <= 30 else kept(columns, 34))


# --- clicks --------------------------------------------------------------------------------------------------------


def picked_block(graph: EdgeGraph, points: Iterable[Mapping[str, Any]]) -> tuple[str, str] | None:
    """The destination group and source group that was clicked in `layer_heatmap`; None where there is no edge.

    `points` is the `selection.points` that `st.plotly_chart` returns.
    """
    for point in points:
        row = _groups(graph, "destination").get(str(point.get("y")))
        column = _groups(graph, "source").get(str(point.get("x")))
        if row and column and column.start < _n_read(graph, row):
            return row.name, column.name
    return None


def picked_edge(points: Iterable[Mapping[str, Any]]) -> int | None:
    """The number of the edge that was clicked in `block_heatmap`; None where cells are reduced over positions.

    `points` is the `selection.points` that `st.plotly_chart` returns.
    """
    for point in points:
        data = point.get("customdata")
        number = data[0] if isinstance(data, list | tuple) and data else data
        if isinstance(number, int | float) and number >= 0:
            return int(number)
    return None


def block_of(graph: EdgeGraph, edge: int) -> tuple[str, str]:
    """The block of the overview, as `layer_heatmap` cuts it by default, that holds this edge."""
    split = graph.n_layers <= _SPLIT_LAYERS
    row, column = int(graph.edge_destination[edge]), int(graph.edge_source[edge])
    destination = next(g for g in destination_groups(graph, split_inputs=split) if g.start <= row < g.stop)
    source = next(g for g in source_groups(graph) if g.start <= column < g.stop)
    return destination.name, source.name


def _groups(graph: EdgeGraph, side: Literal["source", "destination"]) -> dict[str, Group]:
    if side == "source":
        return {group.name: group for group in source_groups(graph)}
    both = destination_groups(graph) + destination_groups(graph, split_inputs=True)
    return {group.name: group for group in both}


def _group(graph: EdgeGraph, name: str, side: Literal["source", "destination"]) -> Group:
    groups = _groups(graph, side)
    if name not in groups:
        some = list(groups)[:4]
        raise OptionError(f"There is no group of {side}s named {name!r}: there are {', '.join(some)} and so on.")
    return groups[name]


def _n_read(graph: EdgeGraph, row: Group) -> int:
    """How many sources the destinations of a group read: the same for all of them."""
    return next(block.n_sources for block in graph.blocks if block.first_destination == row.start)
