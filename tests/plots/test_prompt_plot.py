"""The plot of prompt pairs: every pair is a point that knows its row."""

from __future__ import annotations

import math
from typing import Any

from circuit.plots.prompt_plot import prompt_plot
from circuit.prompts.verdicts import PairResult


def result(clean: float, corrupt: float) -> PairResult:
    return PairResult(0.5, 1, clean, corrupt, 1.0, ())


def figure(results: dict[int, PairResult], chosen: int | None = None) -> Any:
    names = {row: f"<b>pair</b> {row}" for row in results}
    return prompt_plot(results, names, function="logit", chosen=chosen, dark=False)


def test_a_bad_pair_has_another_shape_and_colour_and_every_point_knows_its_row() -> None:
    drawn = figure({0: result(3, -3), 4: result(-1, -2), 7: result(1, 2), 9: result(2, 0)})
    good, bad = drawn.data
    assert [point[0] for point in good.customdata] == [0, 9]
    assert [point[0] for point in bad.customdata] == [4, 7]
    assert (list(bad.x), list(bad.y)) == ([-2, 2], [-1, 1])
    assert good.marker.symbol != bad.marker.symbol
    assert good.marker.color != bad.marker.color
    assert "the model prefers a wrong answer" in bad.text[0]
    assert "<b>row 5</b> &lt;b>pair" in bad.text[0]


def test_the_chosen_row_is_ringed_and_pairs_without_a_difference_have_no_point() -> None:
    drawn = figure({0: result(3, -3), 1: result(math.nan, math.nan)}, chosen=0)
    assert len(drawn.data[0].x) == 1
    assert (list(drawn.data[2].x), list(drawn.data[2].y)) == ([-3], [3])
    assert len(figure({0: result(3, -3), 1: result(math.nan, math.nan)}, chosen=1).data) == 2


def test_both_axes_have_one_scale_that_holds_every_point_and_zero() -> None:
    drawn = figure({0: result(3, -4), 1: result(5, 1)})
    low, high = drawn.layout.xaxis.range
    assert drawn.layout.yaxis.range == drawn.layout.xaxis.range
    assert low < -4 < 5 < high
    assert figure({}).layout.xaxis.range[0] < 0
