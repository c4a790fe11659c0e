"""Edge scores as heatmaps: layer by layer, one block of it, and the whole matrix.

    layer_heatmap   destination groups by source groups: the overview; a click picks a block
    block_heatmap   the destinations of one group by the sources of another; a click picks an edge
    score_matrix    every destination by every source: to be looked at
    picked_block    the block that a click on the overview means
    picked_edge     the edge that a click on a block means

    event = st.plotly_chart(layer_heatmap(graph, flat, caption=caption), on_select="rerun", key="overview")
    if block := picked_block(graph, event.selection.points):
        st.plotly_chart(block_heatmap(graph, flat, *block, caption=caption), on_select="rerun", key="block")

Groups are the embedding (`Resid Start`), the heads of a layer (`A3`; as destinations all their inputs, or with
`split_inputs` `A3.Q`, `A3.K` and `A3.V`), its MLP (`MLP 3`) and the final residual (`Resid End`). Later layers are
higher up, as in the circuit graph. A cell where no edge exists is blank; a score of zero is a hint of grey.

Figures set no colour of background or text (but for the numbers in a block's cells), so that they take those of the
page. Where token positions are kept apart, scores are reduced over them, or one position is chosen.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Float32

from circuit.errors import OptionError
from circuit.graph import EdgeGraph
from circuit.plots.colors import NEUTRAL, PALETTES, bar_scale, log_place, rgba, score_scale, score_ticks

Reduce = Literal["abs_sum", "signed_sum", "abs_max"]
"""How scores become one number: the sum of absolute scores, the sum of scores, or the largest absolute score."""

_WORDS: dict[Reduce, str] = {
    "abs_sum": "sum of |score|",
    "signed_sum": "sum of scores",
    "abs_max": "largest |score|",
}
_CAPTION_CHARACTERS = 130
_MANY_CELLS = 170
_TOOLBAR = 36


@dataclass(frozen=True)
class Group:
    """Neighbouring sources, or neighbouring destinations, that the overview shows as one column or row."""

    name: str
    start: int
    stop: int
    layer: int


def source_groups(graph: EdgeGraph) -> list[Group]:
    """The columns of the overview: the embedding, and each layer's heads and MLP."""
    groups = [Group("Resid Start", 0, 1, -1)]
    for layer in range(graph.n_layers):
        first, mlp = graph.first_head(layer), graph.first_head(layer) + graph.n_heads
        groups += [Group(f"A{layer}", first, mlp, layer), Group(f"MLP {layer}", mlp, mlp + 1, layer)]
    return groups


def destination_groups(graph: EdgeGraph, *, split_inputs: bool = False) -> list[Group]:
    """The rows of the overview: each layer's attention inputs (or its Q, K and V) and MLP, and the final residual."""
    groups: list[Group] = []
    for block in graph.blocks:
        start, stop = block.first_destination, block.first_destination + block.n_rows
        if block.kind == "Final":
            groups.append(Group("Resid End", start, stop, block.layer))
        elif block.kind == "MLP":
            groups.append(Group(f"MLP {block.layer}", start, stop, block.layer))
        elif split_inputs:
            groups.append(Group(f"A{block.layer}.{block.kind}", start, stop, block.layer))
        elif block.kind == "Q":
            groups.append(Group(f"A{block.layer}", start, stop + 2 * graph.n_kv_heads, block.layer))
    return groups


def dense_scores(
    graph: EdgeGraph,
    scores: Float[np.ndarray, " n_edges"],
    *,
    reduce: Reduce = "signed_sum",
    position: int | None = None,
) -> Float32[np.ndarray, "n_destinations n_sources"]:
    """All scores as one matrix; NaN where no edge exists.

    With token positions kept apart, each cell is the score at `position`, or is reduced over all positions.

    Raises:
        OptionError: When scores or position do not belong to this model.
    """
    _check(graph, scores, reduce, position)
    matrix = np.full((len(graph.destinations), graph.n_sources), np.nan, dtype=np.float32)
    for block in graph.blocks:
        n = (graph.seq_len or 1) * block.n_rows * block.n_sources
        part = np.asarray(scores)[block.first_edge : block.first_edge + n].reshape(-1, block.n_rows, block.n_sources)
        if position is not None:
            part = part[position : position + 1]
        rows = slice(block.first_destination, block.first_destination + block.n_rows)
        if reduce == "signed_sum":
            matrix[rows, : block.n_sources] = part.sum(axis=0)
        elif reduce == "abs_sum":
            matrix[rows, : block.n_sources] = np.abs(part).sum(axis=0)
        else:
            matrix[rows, : block.n_sources] = np.abs(part).max(axis=0)
    return matrix


def layer_scores(
    graph: EdgeGraph,
    scores: Float[np.ndarray, " n_edges"],
    *,
    reduce: Reduce = "abs_sum",
    split_inputs: bool = False,
    position: int | None = None,
) -> tuple[Float[np.ndarray, "n_rows n_columns"], np.ndarray]:
    """What the overview shows: one number a block, NaN where it has no edge; and how many edges each block has."""
    matrix = dense_scores(graph, scores, reduce=reduce, position=position).astype(np.float64)
    rows = [group.start for group in destination_groups(graph, split_inputs=split_inputs)]
    columns = [group.start for group in source_groups(graph)]
    exists = np.isfinite(matrix)
    per_cell = (graph.seq_len or 1) if position is None else 1
    counts = np.add.reduceat(np.add.reduceat(exists.astype(np.int64), rows, axis=0), columns, axis=1) * per_cell
    pool = np.maximum if reduce == "abs_max" else np.add
    values = pool.reduceat(pool.reduceat(np.where(exists, matrix, 0.0), rows, axis=0), columns, axis=1)
    values[counts == 0] = np.nan
    return values, counts


# --- figures -------------------------------------------------------------------------------------------------------


def layer_heatmap(
    graph: EdgeGraph,
    scores: Float[np.ndarray, " n_edges"],
    reduce: Reduce = "abs_sum",
    *,
    caption: str,
    split_inputs: bool | None = None,
    position: int | None = None,
) -> go.Figure:
    """The overview: rows read what columns write. A click on a cell arrives as a selected point (`picked_block`).

    Args:
        reduce: What a cell shows of its block's edges.
        caption: One line that says what the scores are scores of; drawn inside the figure.
        split_inputs: Whether a layer's queries, keys and values have rows of their own; by default where the model is
            small enough for that to stay readable.
        position: One token position, where these are kept apart; by default all of them.

    Raises:
        OptionError: When scores or options do not belong to this model.
    """
    split = graph.n_layers <= 8 if split_inputs is None else split_inputs
    values, counts = layer_scores(graph, scores, reduce=reduce, split_inputs=split, position=position)
    rows = destination_groups(graph, split_inputs=split)
    columns = source_groups(graph)
    row_height = min(34, max(9, 460 // len(rows)))
    figure = _figure(
        values,
        columns,
        rows,
        signed=reduce == "signed_sum",
        bar_title=_WORDS[reduce],
        caption=caption,
        height=row_height * len(rows),
    )
    blank = "no edge: it writes after this one reads"
    what = _WORDS[reduce] + _position_words(graph, position)
    hover = [
        blank if count == 0 else f"{what}, {count:,} edge{'s' if count > 1 else ''}: {value:.4g}"
        for value, count in zip(values.ravel(), counts.ravel(), strict=True)
    ]
    _add_targets(figure, [group.name for group in columns], [group.name for group in rows], hover, row_height)
    _thin_labels(figure, columns, rows, row_height)
    _separate(figure, columns, rows, np.isfinite(values))
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
    dark: bool = False,
) -> go.Figure:
    """The edges of one block of the overview, by name. A click on a cell arrives as a selected point (`picked_edge`).

    Args:
        destination: Name of a destination group, such as `A3`, `A3.Q`, `MLP 3` or `Resid End`.
        source: Name of a source group, such as `Resid Start`, `A2` or `MLP 2`.
        caption: One line that says what the scores are scores of; drawn inside the figure.
        reduce: How scores become one number over token positions, where these are kept apart; also whether the sign
            is shown.
        position: One token position, where these are kept apart; by default all of them.
        dark: Whether the page is dark: for the numbers in the cells.

    Raises:
        OptionError: When a group is unknown, the block has no edges, or scores do not belong to this model.
    """
    row = _group(graph, destination, "destination")
    column = _group(graph, source, "source")
    values = dense_scores(graph, scores, reduce=reduce, position=position)[
        row.start : row.stop, column.start : column.stop
    ]
    if not np.isfinite(values).any():
        raise OptionError(f"No edge leads from {source} to {destination}: {source} writes after {destination} reads.")
    edges = _edge_numbers(graph, position)[row.start : row.stop, column.start : column.stop]
    names_x = [node.name for node in graph.sources[column.start : column.stop]]
    names_y = [node.name for node in graph.destinations[row.start : row.stop]]
    rows = [Group(name, i, i + 1, row.layer) for i, name in enumerate(names_y)]
    columns = [Group(name, i, i + 1, column.layer) for i, name in enumerate(names_x)]
    row_height = min(34, max(16, 460 // len(rows)))
    summed = graph.seq_len is not None and position is None
    word = _WORDS[reduce] if summed else ("score" if reduce == "signed_sum" else "|score|")
    figure = _figure(
        values,
        columns,
        rows,
        signed=reduce == "signed_sum",
        bar_title=word,
        caption=caption,
        height=max(row_height * len(rows), 150),
    )
    what = word + _position_words(graph, position)
    hover = [f"{what}: {value:.4g}" for value in values.ravel()]
    _add_targets(figure, names_x, names_y, hover, row_height, edges)
    if values.size <= _MANY_CELLS and len(names_x) <= 16:
        heat: Any = figure.data[0]
        heat.texttemplate = "%{z:.2g}"
        heat.textfont = {"size": 11, "color": PALETTES[dark].text}
    inputs = [name.rpartition(".")[2] if name[0] == "A" else "" for name in names_y]
    breaks = [i for i in range(1, len(inputs)) if inputs[i] != inputs[i - 1]]
    _draw(figure, [f"M-0.5,{i - 0.5}H{len(names_x) - 0.5}" for i in breaks])
    return figure


def score_matrix(
    graph: EdgeGraph,
    scores: Float[np.ndarray, " n_edges"],
    *,
    caption: str,
    reduce: Reduce = "signed_sum",
    position: int | None = None,
    height: int = 540,
) -> go.Figure:
    """Every destination by every source, with a line between layers; hovering names the edge.

    Cells get smaller than a pixel, so this is a picture and takes no clicks.

    Args:
        caption: One line that says what the scores are scores of; drawn inside the figure.
        reduce: How scores become one number over token positions, where these are kept apart; also whether the sign
            is shown.
        position: One token position, where these are kept apart; by default all of them.
        height: Of the matrix, in pixels.

    Raises:
        OptionError: When scores or options do not belong to this model.
    """
    values = dense_scores(graph, scores, reduce=reduce, position=position)
    summed = graph.seq_len is not None and position is None
    word = _WORDS[reduce] if summed else ("score" if reduce == "signed_sum" else "|score|")
    rows = [Group(node.name, i, i + 1, node.layer) for i, node in enumerate(graph.destinations)]
    columns = [Group(node.name, i, i + 1, node.layer) for i, node in enumerate(graph.sources)]
    figure = _figure(
        values, columns, rows, signed=reduce == "signed_sum", bar_title=word, caption=caption, height=height, gap=0
    )
    heat: Any = figure.data[0]
    heat.hoverinfo = None
    heat.hoverongaps = False
    what = word + _position_words(graph, position)
    heat.hovertemplate = f"<b>%{{x}} → %{{y}}</b><br>{what}: %{{z:.4g}}<extra></extra>"
    _label_layers(figure, columns, rows)
    _separate(figure, columns, rows, np.isfinite(values))
    return figure


# --- clicks --------------------------------------------------------------------------------------------------------


def picked_block(graph: EdgeGraph, points: Iterable[Mapping[str, Any]]) -> tuple[str, str] | None:
    """The destination group and source group that was clicked in `layer_heatmap`; None where there is no edge.

    `points` is the `selection.points` that `st.plotly_chart` returns.
    """
    for point in points:
        names = point.get("y"), point.get("x")
        row = _groups(graph, "destination").get(str(names[0]))
        column = _groups(graph, "source").get(str(names[1]))
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


# --- parts of figures ----------------------------------------------------------------------------------------------


def _figure(
    values: np.ndarray,
    columns: list[Group],
    rows: list[Group],
    *,
    signed: bool,
    bar_title: str,
    caption: str,
    height: int,
    gap: int = 1,
) -> go.Figure:
    largest = float(np.nanmax(np.abs(values)))
    top = largest if largest > 0 else 1.0
    heat = go.Heatmap(
        z=values.astype(np.float32),
        x=[group.name for group in columns],
        y=[group.name for group in rows],
        zmin=-top if signed else 0.0,
        zmax=top,
        colorscale=score_scale(signed=signed),
        showscale=False,
        hoverinfo="skip",
        xgap=gap,
        ygap=gap,
    )
    ticks = score_ticks(top, signed=signed)
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
                "ticktext": [f"{tick:.3g}".replace("-", "−") for tick in ticks],
                "thickness": 14,
                "outlinewidth": 0,
                "len": 1.0,
            },
        },
    )
    lines = textwrap.wrap(caption, _CAPTION_CHARACTERS)
    upright = len(columns) > 12
    bottom = (88 if upright else 54) + 15 * len(lines)
    axis = {"type": "category", "showgrid": False, "zeroline": False, "ticks": "", "automargin": False}
    figure = go.Figure([heat, bar])
    figure.update_layout(
        height=height + bottom + _TOOLBAR,
        margin={"l": 112, "r": 20, "t": _TOOLBAR, "b": bottom},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="closest",
        hoverdistance=-1,
        xaxis={**axis, "title": {"text": "source (writes)", "standoff": 4}, "range": [-0.5, len(columns) - 0.5]},
        yaxis={**axis, "title": {"text": "destination (reads)", "standoff": 4}, "range": [-0.5, len(rows) - 0.5]},
        annotations=[
            {
                "text": "<br>".join(lines),
                "x": 0,
                "y": 0,
                "xref": "paper",
                "yref": "paper",
                "xanchor": "left",
                "yanchor": "bottom",
                "xshift": -104,
                "yshift": -bottom + 2,
                "align": "left",
                "showarrow": False,
                "font": {"size": 12},
                "opacity": 0.85,
            }
        ],
    )
    figure.update_xaxes(tickangle=-90 if upright else 0, tickfont={"size": 10 if len(columns) > 30 else 12})
    return figure


def _add_targets(
    figure: go.Figure,
    names_x: list[str],
    names_y: list[str],
    hover: list[str],
    row_height: int,
    edges: np.ndarray | None = None,
) -> None:
    """One invisible point a cell, blank ones too: heatmap cells take no clicks in Streamlit, the nearest point does."""
    figure.add_scatter(
        x=names_x * len(names_y),
        y=[name for name in names_y for _ in names_x],
        mode="markers",
        showlegend=False,
        text=hover,
        customdata=None if edges is None else [[int(edge)] for edge in edges.ravel()],
        hovertemplate="<b>%{x} → %{y}</b><br>%{text}<extra></extra>",
        marker={
            "symbol": "square-open",
            "size": row_height - 3,
            "opacity": 0,
            "color": rgba(NEUTRAL, 1),
            "line": {"width": 2},
        },
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": 0}},
    )


def _thin_labels(figure: go.Figure, columns: list[Group], rows: list[Group], row_height: int) -> None:
    """Label every row and column, or where they are too many, every layer."""

    def kept(groups: list[Group]) -> list[str]:
        return [
            group.name for group in groups if not group.name.startswith("MLP") and group.name[-2:] not in (".K", ".V")
        ]

    if row_height < 13:
        figure.update_yaxes(tickvals=kept(rows), tickfont={"size": 10})
    else:
        figure.update_yaxes(tickvals=[group.name for group in rows], tickfont={"size": 10 if row_height < 16 else 12})
    figure.update_xaxes(tickvals=[group.name for group in columns] if len(columns) <= 64 else kept(columns))


def _label_layers(figure: go.Figure, columns: list[Group], rows: list[Group]) -> None:
    def middles(nodes: list[Group]) -> dict[int, str]:
        layers: dict[int, list[str]] = {}
        for node in nodes:
            layers.setdefault(node.layer, []).append(node.name)
        return {layer: names[len(names) // 2] for layer, names in layers.items()}

    last = rows[-1].layer
    for update, nodes in ((figure.update_xaxes, columns), (figure.update_yaxes, rows)):
        ticks = {layer: name for layer, name in middles(nodes).items() if 0 <= layer < last}
        update(
            tickvals=list(ticks.values()), ticktext=[str(layer) for layer in ticks], tickangle=0, tickfont={"size": 10}
        )
    figure.update_xaxes(title={"text": "source (writes), by layer"})
    figure.update_yaxes(title={"text": "destination (reads), by layer"})


def _separate(figure: go.Figure, columns: list[Group], rows: list[Group], exists: np.ndarray) -> None:
    """A line wherever the layer changes, as far as there are cells."""
    lines = []
    for i in range(1, len(columns)):
        if columns[i].layer != columns[i - 1].layer:
            lines.append(f"M{i - 0.5},{int(exists[:, i - 1].argmax()) - 0.5}V{len(rows) - 0.5}")
    for i in range(1, len(rows)):
        if rows[i].layer != rows[i - 1].layer:
            lines.append(f"M-0.5,{i - 0.5}H{int(exists[i].sum()) - 0.5}")
    _draw(figure, lines)


def _draw(figure: go.Figure, lines: list[str]) -> None:
    """All lines as one shape: many shapes are slow to draw."""
    if lines:
        line = {"color": rgba(NEUTRAL, 0.5), "width": 1}
        figure.update_layout(shapes=[{"type": "path", "path": "".join(lines), "line": line, "layer": "above"}])


# --- groups --------------------------------------------------------------------------------------------------------


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


def _edge_numbers(graph: EdgeGraph, position: int | None) -> np.ndarray:
    """The number of the edge of each cell of `dense_scores`; -1 where there is none, or one a position."""
    numbers = np.full((len(graph.destinations), graph.n_sources), -1, dtype=np.int64)
    if graph.seq_len is not None and position is None:
        return numbers
    for block in graph.blocks:
        first = block.first_edge + (position or 0) * block.n_rows * block.n_sources
        cells = np.arange(first, first + block.n_rows * block.n_sources).reshape(block.n_rows, block.n_sources)
        numbers[block.first_destination : block.first_destination + block.n_rows, : block.n_sources] = cells
    return numbers


def _position_words(graph: EdgeGraph, position: int | None) -> str:
    if graph.seq_len is None:
        return ""
    return f" over {graph.seq_len} positions" if position is None else f" at position {position}"


def _check(graph: EdgeGraph, scores: np.ndarray, reduce: str, position: int | None) -> None:
    if np.shape(scores) != (graph.n_edges,):
        raise OptionError(
            f"There are {np.size(scores):,} scores, and this model has {graph.n_edges:,} edges: they belong to another "
            "model, or to another number of positions."
        )
    if reduce not in get_args(Reduce):
        listed = ", ".join(repr(choice) for choice in get_args(Reduce))
        raise OptionError(f"reduce must be one of {listed}, and is {reduce!r}.")
    if position is not None and not 0 <= position < (graph.seq_len or 0):
        positions = "sums over token positions" if graph.seq_len is None else f"has positions 0 to {graph.seq_len - 1}"
        raise OptionError(f"There are no scores at position {position}: this run {positions}.")
