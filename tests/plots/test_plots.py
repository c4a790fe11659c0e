"""Figures: the numbers they show against plain loops, what a click means, and that they say what they show."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from circuit.common.errors import OptionError
from circuit.edges.filter import EdgeFilter
from circuit.edges.graph import EdgeGraph
from circuit.plots.attention import attention_heatmaps
from circuit.plots.colors import PALETTES, bar_scale, log_place, score_scale, score_ticks
from circuit.plots.curves import effect_scatter, falloff_curve, trust
from circuit.plots.heatmap import block_heatmap, block_of, layer_heatmap, picked_block, picked_edge
from circuit.plots.matrix import position_heatmap, score_matrix
from circuit.plots.numbers import Reduce, dense_scores, destination_groups, layer_scores, position_scores, source_groups
from tests.graphs import SHAPES, SMOL, random_scores

REDUCTIONS: list[Reduce] = ["abs_sum", "signed_sum", "abs_max"]
CAPTION = "Teaching model, 8 prompt pairs · edge attribution patching · positive: ablating the edge hurts the task"


def reduced(values: list[float], reduce: Reduce) -> float:
    if not values:
        return float("nan")
    if reduce == "abs_max":
        return max(abs(value) for value in values)
    return sum(abs(value) if reduce == "abs_sum" else value for value in values)


# --- the numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize(
    ("graph", "position"), [*((graph, None) for graph in SHAPES), (SHAPES[3], 1), (SHAPES[4], 3)], ids=str
)
def test_the_matrix_holds_each_edge_at_its_destination_and_source(
    graph: EdgeGraph, position: int | None, reduce: Reduce
) -> None:
    scores = random_scores(graph)
    cells: dict[tuple[int, int], list[float]] = {}
    for edge in range(graph.n_edges):
        if position in (None, graph.edge_position[edge]):
            at = int(graph.edge_destination[edge]), int(graph.edge_source[edge])
            cells.setdefault(at, []).append(float(scores[edge]))
    expected = [
        [reduced(cells.get((row, column), []), reduce) for column in range(graph.n_sources)]
        for row in range(len(graph.destinations))
    ]
    matrix = dense_scores(graph, scores, reduce=reduce, position=position)
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(matrix, expected, rtol=1e-5, atol=1e-6)


def group_of(name: str, split: bool) -> str:
    """A3.7.Q -> A3 or A3.Q; A3.7 -> A3; others are their own group."""
    if not name.startswith("A"):
        return name
    parts = name.split(".")
    return f"{parts[0]}.{parts[2]}" if split and len(parts) == 3 else parts[0]


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_the_overview_adds_up_the_edges_of_each_block(graph: EdgeGraph, split: bool, reduce: Reduce) -> None:
    scores = random_scores(graph)
    blocks: dict[tuple[str, str], list[float]] = {}
    for edge in range(graph.n_edges):
        row = group_of(graph.destinations[graph.edge_destination[edge]].name, split)
        column = group_of(graph.sources[graph.edge_source[edge]].name, split)
        blocks.setdefault((row, column), []).append(float(scores[edge]))
    values, counts = layer_scores(graph, scores, reduce=reduce, split_inputs=split)
    for i, row in enumerate(group.name for group in destination_groups(graph, split_inputs=split)):
        for j, column in enumerate(group.name for group in source_groups(graph)):
            of_block = blocks.pop((row, column), [])
            assert counts[i, j] == len(of_block)
            assert values[i, j] == pytest.approx(reduced(of_block, reduce), rel=1e-4, abs=1e-5, nan_ok=True)
    assert not blocks


def test_a_block_of_zeros_is_not_blank() -> None:
    graph = SHAPES[0]
    values, counts = layer_scores(graph, np.zeros(graph.n_edges, dtype=np.float32))
    assert (values[counts > 0] == 0).all()
    assert np.isnan(values[counts == 0]).all()
    assert (counts == 0).any()


def test_scores_and_positions_of_another_model_are_refused() -> None:
    graph, apart = SHAPES[0], SHAPES[3]
    with pytest.raises(OptionError, match="another model"):
        layer_heatmap(graph, np.zeros(3, dtype=np.float32), caption=CAPTION)
    with pytest.raises(OptionError, match="sums over token positions"):
        score_matrix(graph, random_scores(graph), caption=CAPTION, position=0)
    with pytest.raises(OptionError, match="positions 0 to 2"):
        score_matrix(apart, random_scores(apart), caption=CAPTION, position=3)
    with pytest.raises(OptionError, match="'abs_sum'"):
        layer_heatmap(graph, random_scores(graph), "mean", caption=CAPTION)  # type: ignore[arg-type]


# --- figures -------------------------------------------------------------------------------------------------------


def figures(graph: EdgeGraph) -> list[Any]:
    scores = random_scores(graph)
    return [
        *(layer_heatmap(graph, scores, reduce, caption=CAPTION) for reduce in REDUCTIONS),
        layer_heatmap(graph, scores, caption=CAPTION, split_inputs=True),
        block_heatmap(graph, scores, "A1", "A0", caption=CAPTION),
        block_heatmap(graph, scores, "Resid End", "MLP 0", caption=CAPTION, dark=True),
        score_matrix(graph, scores, caption=CAPTION),
        falloff_curve(scores, caption=CAPTION),
        effect_scatter(graph, scores, {3: 0.1, 5: -0.2}, caption=CAPTION),
        *([] if graph.seq_len is None else [position_heatmap(graph, scores, ["·a"] * graph.seq_len, caption=CAPTION)]),
    ]


@pytest.mark.parametrize("graph", [*SHAPES, SMOL], ids=str)
def test_every_figure_becomes_json_and_carries_its_caption(graph: EdgeGraph) -> None:
    for figure in figures(graph):
        text = figure.to_json()
        assert json.loads(text)["data"]
        written = figure.layout.annotations[-1].text.replace("<br>", " ")
        assert written == CAPTION


def test_figures_take_text_and_background_colours_from_the_page() -> None:
    for figure in figures(SHAPES[0]):
        assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
        assert figure.layout.font.color is None


def test_figures_of_zeros_can_be_drawn() -> None:
    graph = SHAPES[0]
    zeros = np.zeros(graph.n_edges, dtype=np.float32)
    for figure in (
        layer_heatmap(graph, zeros, caption=CAPTION),
        block_heatmap(graph, zeros, "A1.Q", "A0", caption=CAPTION),
        score_matrix(graph, zeros, caption=CAPTION),
    ):
        assert figure.data[0].zmax > 0


def test_the_whole_matrix_is_float32_blank_where_acausal_and_has_its_lines_in_one_shape() -> None:
    figure = score_matrix(SMOL, random_scores(SMOL), caption=CAPTION)
    z = np.asarray(figure.data[0].z)
    assert z.dtype == np.float32
    assert np.isfinite(z).sum() == SMOL.n_edges == 70_651
    assert len(figure.layout.shapes) == 1
    assert len(figure.to_json()) < 1_500_000


def test_hovering_a_block_says_what_the_number_is_and_of_how_many_edges() -> None:
    graph = EdgeGraph(2, 3, 1)
    figure = layer_heatmap(graph, np.ones(graph.n_edges, dtype=np.float32), caption=CAPTION, split_inputs=False)
    said = {(x, y): text for x, y, text in zip(*(figure.data[2][key] for key in ("x", "y", "text")), strict=True)}
    assert said["A0", "A1"] == "sum of |score|, 15 edges: 15"
    assert said["MLP 0", "MLP 1"] == "sum of |score|, 1 edge: 1"
    assert said["A1", "A0"].startswith("no edge")


def point(figure: Any, x: str, y: str) -> dict[str, Any]:
    """What Streamlit reports when the cell is clicked."""
    targets = figure.data[2]
    (index,) = [i for i, at in enumerate(zip(targets.x, targets.y, strict=True)) if at == (x, y)]
    data = {} if targets.customdata is None else {"customdata": list(targets.customdata[index])}
    return {"curve_number": 2, "point_index": index, "x": x, "y": y, **data}


@pytest.mark.parametrize("graph", SHAPES, ids=str)
@pytest.mark.parametrize("split", [False, True])
def test_a_click_on_the_overview_means_a_block_that_can_be_opened(graph: EdgeGraph, split: bool) -> None:
    scores = random_scores(graph)
    figure = layer_heatmap(graph, scores, caption=CAPTION, split_inputs=split)
    _, counts = layer_scores(graph, scores, split_inputs=split)
    for i, row in enumerate(destination_groups(graph, split_inputs=split)):
        for j, column in enumerate(source_groups(graph)):
            picked = picked_block(graph, [point(figure, column.name, row.name)])
            if counts[i, j]:
                assert picked == (row.name, column.name)
                block = block_heatmap(graph, scores, row.name, column.name, caption=CAPTION)
                assert block.data[0].z.size * (graph.seq_len or 1) == counts[i, j]
            else:
                assert picked is None
                with pytest.raises(OptionError, match="No edge leads"):
                    block_heatmap(graph, scores, row.name, column.name, caption=CAPTION)
    assert picked_block(graph, []) is None


@pytest.mark.parametrize(("graph", "position"), [(SHAPES[0], None), (SHAPES[1], None), (SHAPES[4], 2)])
def test_a_click_on_a_block_means_the_edge_whose_score_is_shown(graph: EdgeGraph, position: int | None) -> None:
    scores = random_scores(graph)
    figure = block_heatmap(graph, scores, "A1", "A0", caption=CAPTION, position=position)
    heat = figure.data[0]
    for i, row in enumerate(heat.y):
        for j, column in enumerate(heat.x):
            edge = picked_edge([point(figure, column, row)])
            assert edge is not None
            at = "" if position is None else f" @{position}"
            assert graph.edge_name(edge) == f"{column}->{row}{at}"
            assert heat.z[i][j] == scores[edge]


def test_a_sum_over_positions_is_no_single_edge() -> None:
    graph = SHAPES[3]
    figure = block_heatmap(graph, random_scores(graph), "MLP 1", "A0", caption=CAPTION)
    assert picked_edge([point(figure, "A0.0", "MLP 1")]) is None
    assert picked_edge([]) is None


def test_a_group_that_the_model_lacks_is_named() -> None:
    with pytest.raises(OptionError, match="destinations named 'A9'"):
        block_heatmap(SHAPES[0], random_scores(SHAPES[0]), "A9", "A0", caption=CAPTION)


# --- colours -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("top", [3e-6, 1.0, 740.0])
def test_a_colour_scale_is_in_order_and_agrees_with_its_bar(top: float, signed: bool) -> None:
    scale, bar = score_scale(signed=signed), bar_scale(signed=signed)
    stops = [stop for stop, _ in scale]
    assert stops == sorted(stops)
    assert (stops[0], stops[-1]) == (0.0, 1.0)
    assert [color for _, color in scale] == [color for _, color in bar]
    low = -top if signed else 0.0
    places = log_place(np.array([low + stop * (top - low) for stop in stops]), top)
    expected = [stop * 2 - 1 if signed else stop for stop, _ in bar]
    np.testing.assert_allclose(places, expected, atol=1e-6)


@pytest.mark.parametrize("top", [3e-6, 0.1, 1.0, 740.0, 1000.0])
def test_ticks_are_in_order_and_within_the_scale(top: float) -> None:
    for signed in (False, True):
        ticks = score_ticks(top, signed=signed)
        assert ticks == sorted(ticks)
        assert 0.0 in ticks
        assert max(abs(tick) for tick in ticks) <= top * (1 + 1e-9)


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("dark", "page"), [(False, "#ffffff"), (True, "#0e1117")])
def test_text_and_lines_stand_out_on_the_page(dark: bool, page: str) -> None:
    palette = PALETTES[dark]
    assert contrast(palette.faint, page) >= 4.5  # WCAG AA for text
    for kind in ("head", "mlp"):
        assert contrast(palette.text, palette.nodes[kind].fill) >= 4.5
    for color in (palette.helps, palette.hurts, *(colors.border for colors in palette.nodes.values())):
        assert contrast(color, page) >= 3  # WCAG AA for graphics


# --- filters, positions, and many edges at once --------------------------------------------------------------------


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_what_the_filter_holds_back_counts_for_nothing_and_leaves_a_blank(graph: EdgeGraph, reduce: Reduce) -> None:
    scores = random_scores(graph)
    kept = EdgeFilter(sign="positive", min_score=0.8).mask(graph, scores)
    blocks: dict[tuple[str, str], list[float]] = {}
    for edge in np.flatnonzero(kept):
        row = group_of(graph.destinations[graph.edge_destination[edge]].name, False)
        column = group_of(graph.sources[graph.edge_source[edge]].name, False)
        blocks.setdefault((row, column), []).append(float(scores[edge]))
    values, counts = layer_scores(graph, scores, reduce=reduce, kept=kept)
    for i, row in enumerate(group.name for group in destination_groups(graph)):
        for j, column in enumerate(group.name for group in source_groups(graph)):
            of_block = blocks.get((row, column), [])
            assert counts[i, j] == len(of_block)
            assert values[i, j] == pytest.approx(reduced(of_block, reduce), rel=1e-4, nan_ok=True)
    matrix = dense_scores(graph, scores, reduce=reduce, kept=kept)
    pairs = {(int(graph.edge_destination[edge]), int(graph.edge_source[edge])) for edge in np.flatnonzero(kept)}
    assert {(int(i), int(j)) for i, j in zip(*np.nonzero(np.isfinite(matrix)), strict=True)} == pairs


def test_a_filter_changes_no_colour_and_still_takes_clicks() -> None:
    graph = SHAPES[1]
    scores = random_scores(graph)
    kept = np.abs(scores) < 0.5
    for draw in (layer_heatmap, score_matrix):
        assert (
            draw(graph, scores, caption=CAPTION, kept=kept).data[0].zmax
            == draw(graph, scores, caption=CAPTION).data[0].zmax
        )
    nothing = np.zeros(graph.n_edges, dtype=bool)
    figure = layer_heatmap(graph, scores, caption=CAPTION, kept=nothing)
    assert not np.isfinite(np.asarray(figure.data[0].z)).any()
    assert "no edge fits the filter" in figure.data[2].text
    assert block_heatmap(graph, scores, "A1", "A0", caption=CAPTION, kept=nothing).data[0].zmax > 0


def test_all_blocks_of_a_run_share_one_scale() -> None:
    graph = SHAPES[0]
    scores = random_scores(graph)
    ends = {
        block_heatmap(graph, scores, to, source, caption=CAPTION).data[0].zmax
        for to, source in (("A1", "A0"), ("MLP 2", "A1"), ("Resid End", "Resid Start"))
    }
    assert ends == {float(np.abs(scores).max())}


@pytest.mark.parametrize("graph", [SHAPES[1], SMOL], ids=str)
def test_an_edge_belongs_to_the_block_that_shows_it(graph: EdgeGraph) -> None:
    scores = random_scores(graph)
    for edge in (0, graph.n_edges // 2, graph.n_edges - 1):
        figure = block_heatmap(graph, scores, *block_of(graph, edge), caption=CAPTION, chosen=edge)
        assert [edge] in [list(data) for data in figure.data[2].customdata]
        marks = [shape for shape in figure.layout.shapes if shape.type == "rect"]
        (mark,) = marks
        column, row = (figure.data[0][axis][int(at + 0.5)] for axis, at in (("x", mark.x0), ("y", mark.y0)))
        assert graph.edge_name(edge) == f"{column}->{row}"


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("graph", [SHAPES[3], SHAPES[4]], ids=str)
def test_positions_show_what_each_layer_reads_there(graph: EdgeGraph, reduce: Reduce) -> None:
    scores = random_scores(graph)
    kept = scores > 0.3
    cells: dict[tuple[str, int], list[float]] = {}
    for edge in np.flatnonzero(kept):
        row = group_of(graph.destinations[graph.edge_destination[edge]].name, False)
        cells.setdefault((row, int(graph.edge_position[edge])), []).append(float(scores[edge]))
    values = position_scores(graph, scores, reduce=reduce, kept=kept)
    for i, group in enumerate(destination_groups(graph)):
        for position in range(graph.seq_len or 0):
            expected = reduced(cells.get((group.name, position), []), reduce)
            assert values[i, position] == pytest.approx(expected, rel=1e-5, nan_ok=True)
    with pytest.raises(OptionError, match="sums over token positions"):
        position_scores(SHAPES[0], random_scores(SHAPES[0]))


def test_the_fall_off_ends_at_the_share_of_what_is_shown() -> None:
    scores = np.array([4, -3, 2, 1, 0], dtype=np.float32)
    strength, share = falloff_curve(scores, caption=CAPTION).data
    assert list(strength.x) == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(strength.y, [4, 3, 2, 1, np.nan])
    np.testing.assert_allclose(share.y, [0.4, 0.7, 0.9, 1, 1])
    assert falloff_curve(scores, caption=CAPTION, kept=scores < 0).data[1].y[-1] == pytest.approx(0.3)
    assert len(falloff_curve(scores, caption=CAPTION, kept=scores > 9).data[0].x) == 0


def test_a_point_of_the_scatter_is_an_edge_that_can_be_picked() -> None:
    graph = SHAPES[0]
    scores = random_scores(graph)
    line, points = effect_scatter(graph, scores, {7: 0.25, 100: -1.5}, caption=CAPTION).data
    assert list(points.x) == [pytest.approx(scores[7]), pytest.approx(scores[100])]
    assert list(points.y) == [0.25, -1.5]
    assert picked_edge([{"customdata": points.customdata[1]}]) == 100
    assert list(line.x) == list(line.y)


def test_edges_whose_effect_contradicts_their_score_are_crosses() -> None:
    scores = random_scores(SHAPES[0])
    effects = {7: float(scores[7]), 8: -float(scores[8])}
    assert list(effect_scatter(SHAPES[0], scores, effects, caption=CAPTION).data[1].marker.symbol) == ["circle", "x"]


def test_the_axis_of_the_scatter_says_what_a_score_is() -> None:
    of = effect_scatter(SHAPES[0], random_scores(SHAPES[0]), {7: 0.25}, caption=CAPTION, score_is="mean slope")
    assert of.layout.xaxis.title.text == "score: the mean slope"


@pytest.mark.parametrize("dark", [False, True])
def test_a_score_of_zero_has_the_colour_of_neither_sign(dark: bool) -> None:
    palette = PALETTES[dark]
    assert [palette.by_sign(score) for score in (2, -2, 0)] == [palette.helps, palette.hurts, palette.faint]


def test_how_far_scores_agree_with_effects_is_said_in_numbers() -> None:
    scores = np.array([1, 2, -4, 3], dtype=np.float32)
    assert trust(scores, {0: 0.5, 1: 1.0, 2: -2.0}) == (
        "3 of 3 have the sign of their score; correlation 1.00; the measured effect is typically 0.50 times the score."
    )
    assert trust(scores, {3: -1.0}) == "0 of 1 have the sign of their score."


def test_attention_is_drawn_for_both_prompts_and_nothing_for_what_lies_ahead() -> None:
    pattern = np.full((3, 3), 1 / 3)
    figure = attention_heatmaps(pattern, pattern, ["a", "b", "a"], ["a", "c", "a"], caption=CAPTION)
    clean, corrupt = figure.data
    assert list(clean.x) == ["0 a", "1 b", "2 a"]
    assert list(corrupt.y) == ["0 a", "1 c", "2 a"]
    assert np.isfinite(np.asarray(clean.z)).tolist() == np.tri(3, dtype=bool).tolist()
    assert [title.text for title in figure.layout.annotations[:2]] == ["clean", "corrupt"]


@pytest.mark.parametrize("labels", [3, 6, 12])
@pytest.mark.parametrize("top", [0.0011, 0.1, 1.9, 740.0])
def test_ticks_leave_room_for_their_labels(top: float, labels: int) -> None:
    for signed in (False, True):
        places = log_place(np.array(score_ticks(top, signed=signed, labels=labels)), top)
        assert np.diff(places).min() >= (2 if signed else 1) / (labels - 1) - 1e-9
        assert {0.0}.issubset(places.tolist())
