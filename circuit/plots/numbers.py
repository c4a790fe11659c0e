"""The numbers that the heatmaps show: edge scores by node, by group of nodes, and by token position.

    Reduce              how several scores become one number
    source_groups       the columns of the overview: the embedding, and each layer's heads and MLP
    destination_groups  its rows: each layer's attention inputs (or its Q, K and V) and MLP, and the final residual
    dense_scores        every destination by every source
    layer_scores        destination groups by source groups
    position_scores     destination groups by token position

A filter is one bool per edge (`circuit.edges.filter.EdgeFilter.mask`); what it does not let through counts for nothing,
and a cell without an edge is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Float32

from circuit.common.errors import OptionError
from circuit.edges.graph import RESID_END, RESID_START, EdgeGraph

Reduce = Literal["abs_sum", "signed_sum", "abs_max"]
"""How scores become one number: the sum of absolute scores, the sum of scores, or the largest absolute score."""

WORDS: dict[Reduce, str] = {
    "abs_sum": "sum of |score|",
    "signed_sum": "sum of scores",
    "abs_max": "largest |score|",
}

Kept = Bool[np.ndarray, " n_edges"] | None


@dataclass(frozen=True)
class Group:
    """Neighbouring sources, or neighbouring destinations, that the overview shows as one column or row."""

    name: str
    start: int
    stop: int
    layer: int


def source_groups(graph: EdgeGraph) -> list[Group]:
    """The columns of the overview: the embedding, and each layer's heads and MLP."""
    groups = [Group(RESID_START, 0, 1, -1)]
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
            groups.append(Group(RESID_END, start, stop, block.layer))
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
    kept: Kept = None,
) -> Float32[np.ndarray, "n_destinations n_sources"]:
    """All scores as one matrix; NaN where no edge exists, or none that the filter lets through.

    With token positions kept apart, each cell is the score at `position`, or is reduced over all positions.

    Raises:
        OptionError: When scores or position do not belong to this model.
    """
    check(graph, scores, reduce, position)
    matrix = np.full((len(graph.destinations), graph.n_sources), np.nan, dtype=np.float32)
    for block in graph.blocks:
        n = (graph.seq_len or 1) * block.n_rows * block.n_sources
        span = slice(block.first_edge, block.first_edge + n)
        at = slice(None) if position is None else slice(position, position + 1)
        part = np.asarray(scores)[span].reshape(-1, block.n_rows, block.n_sources)[at]
        shown = None if kept is None else kept[span].reshape(-1, block.n_rows, block.n_sources)[at]
        if shown is not None:
            part = np.where(shown, part, 0)
        if reduce == "signed_sum":
            cells = part.sum(axis=0)
        else:
            cells = np.abs(part).sum(axis=0) if reduce == "abs_sum" else np.abs(part).max(axis=0)
        if shown is not None:
            cells[~shown.any(axis=0)] = np.nan
        matrix[block.first_destination : block.first_destination + block.n_rows, : block.n_sources] = cells
    return matrix


def layer_scores(
    graph: EdgeGraph,
    scores: Float[np.ndarray, " n_edges"],
    *,
    reduce: Reduce = "abs_sum",
    split_inputs: bool = False,
    position: int | None = None,
    kept: Kept = None,
) -> tuple[Float[np.ndarray, "n_rows n_columns"], np.ndarray]:
    """What the overview shows: one number per block, NaN where it has no edge; and how many edges each block has."""
    matrix = dense_scores(graph, scores, reduce=reduce, position=position, kept=kept).astype(np.float64)
    rows = [group.start for group in destination_groups(graph, split_inputs=split_inputs)]
    columns = [group.start for group in source_groups(graph)]
    exists = np.isfinite(matrix)
    per_cell = exists.astype(np.int64)
    if kept is not None:
        ones = np.ones(graph.n_edges, dtype=np.float32)
        per_cell = np.nan_to_num(dense_scores(graph, ones, position=position, kept=kept)).astype(np.int64)
    elif position is None:
        per_cell *= graph.seq_len or 1
    counts = np.add.reduceat(np.add.reduceat(per_cell, rows, axis=0), columns, axis=1)
    pool = np.maximum if reduce == "abs_max" else np.add
    values = pool.reduceat(pool.reduceat(np.where(exists, matrix, 0.0), rows, axis=0), columns, axis=1)
    values[counts == 0] = np.nan
    return values, counts


def position_scores(
    graph: EdgeGraph, scores: Float[np.ndarray, " n_edges"], *, reduce: Reduce = "abs_sum", kept: Kept = None
) -> Float[np.ndarray, "n_rows seq_len"]:
    """With token positions kept apart: the edges into each destination group at each position, as one number.

    Raises:
        OptionError: When scores do not belong to this model, or are sums over positions.
    """
    check(graph, scores, reduce, None)
    if graph.seq_len is None:
        raise OptionError("This run sums over token positions: keep them apart to see them one by one.")
    shown = np.asarray(scores, dtype=np.float64) if kept is None else np.where(kept, scores, 0).astype(np.float64)
    values = np.empty((len(graph.destinations), graph.seq_len))
    any_kept = np.ones_like(values, dtype=bool)
    for block in graph.blocks:
        span = slice(block.first_edge, block.first_edge + graph.seq_len * block.n_rows * block.n_sources)
        rows = slice(block.first_destination, block.first_destination + block.n_rows)
        part = shown[span].reshape(graph.seq_len, block.n_rows, block.n_sources)
        part = part if reduce == "signed_sum" else np.abs(part)
        values[rows] = (part.max(axis=2) if reduce == "abs_max" else part.sum(axis=2)).T
        if kept is not None:
            any_kept[rows] = kept[span].reshape(part.shape).any(axis=2).T
    starts = [group.start for group in destination_groups(graph)]
    grouped = (np.maximum if reduce == "abs_max" else np.add).reduceat(values, starts, axis=0)
    grouped[~np.logical_or.reduceat(any_kept, starts, axis=0)] = np.nan
    return grouped


def edge_numbers(graph: EdgeGraph, position: int | None) -> np.ndarray:
    """The number of the edge of each cell of `dense_scores`; -1 where there is none, or one a position."""
    numbers = np.full((len(graph.destinations), graph.n_sources), -1, dtype=np.int64)
    if graph.seq_len is not None and position is None:
        return numbers
    for block in graph.blocks:
        first = block.first_edge + (position or 0) * block.n_rows * block.n_sources
        cells = np.arange(first, first + block.n_rows * block.n_sources).reshape(block.n_rows, block.n_sources)
        numbers[block.first_destination : block.first_destination + block.n_rows, : block.n_sources] = cells
    return numbers


def position_words(graph: EdgeGraph, position: int | None) -> str:
    """What is added to the name of a number, to say over which positions it is taken."""
    if graph.seq_len is None:
        return ""
    return f" over {graph.seq_len} positions" if position is None else f" at position {position}"


def check(graph: EdgeGraph, scores: np.ndarray, reduce: str, position: int | None) -> None:
    """Raise an `OptionError` unless these scores and options belong to this model."""
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
