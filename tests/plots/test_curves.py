"""Fall-off, and scores beside measured effects."""

from __future__ import annotations

import numpy as np
import pytest

from circuit.plots.curves import effect_scatter, falloff_curve, trust
from circuit.plots.heatmap import picked_edge
from tests.graphs import SHAPES, random_scores
from tests.plots.by_loops import CAPTION


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


def test_the_axis_of_the_scatter_says_what_a_score_is() -> None:
    of = effect_scatter(SHAPES[0], random_scores(SHAPES[0]), {7: 0.25}, caption=CAPTION, score_is="mean slope")
    assert of.layout.xaxis.title.text == "score: the mean slope"


def test_how_far_scores_agree_with_effects_is_said_in_numbers() -> None:
    scores = np.array([1, 2, -4, 3], dtype=np.float32)
    assert trust(scores, {0: 0.5, 1: 1.0, 2: -2.0}) == (
        "3 of 3 have the sign of their score; correlation 1.00; the measured effect is typically 0.50 times the score."
    )
    assert trust(scores, {3: -1.0}) == "0 of 1 have the sign of their score."
