"""Every figure says what it shows, takes its colours from the page, and can be drawn of anything."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from circuit.common.errors import OptionError
from circuit.edges.graph import EdgeGraph
from circuit.plots.curves import effect_scatter, falloff_curve
from circuit.plots.heatmap import block_heatmap, layer_heatmap
from circuit.plots.matrix import position_heatmap, score_matrix
from tests.graphs import SHAPES, SMOL, random_scores
from tests.plots.by_loops import CAPTION, REDUCTIONS


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


def test_edges_whose_effect_contradicts_their_score_are_crosses() -> None:
    scores = random_scores(SHAPES[0])
    effects = {7: float(scores[7]), 8: -float(scores[8])}
    assert list(effect_scatter(SHAPES[0], scores, effects, caption=CAPTION).data[1].marker.symbol) == ["circle", "x"]
