"""What the mask slider says of an edge is what its curve does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from circuit.jobs.lessons import (
    LESSON,
    CurveRequest,
    Survey,
    SurveyRequest,
    loss_curve,
    survey,
)
from circuit.ui.lessons.mask_slider import verdict

FEW = replace(LESSON, prompts=replace(LESSON.prompts, pairs=LESSON.prompts.pairs[:6]))


@pytest.fixture(scope="module")
def surveyed() -> Survey:
    return survey(SurveyRequest(FEW))


def test_verdicts_on_several_edges_say_what_their_curves_do(surveyed: Survey) -> None:
    largest = sorted(surveyed.effects, key=lambda edge: -abs(surveyed.effects[edge]))
    for edge in {surveyed.misleading, surveyed.honest, largest[2], largest[-1]}:
        slope, curve = float(surveyed.at_zero[edge]), loss_curve(CurveRequest(FEW, edge, 8))
        words = verdict(slope, curve)
        tangent, change = slope * curve.m, curve.loss - curve.loss[0]
        apart, signs = abs(change - tangent).max() / abs(change).max(), np.sign(curve.slopes)
        assert ("nearly straight" in words) <= (apart <= 0.15)
        assert ("is flat" in words) <= (abs(slope) <= abs(curve.effect) / 3)
        assert ("changes its" in words) <= (len(set(signs)) > 1 or signs[0] != np.sign(slope))
        assert ("flattens" in words) <= (abs(curve.effect) < 0.8 * abs(slope))
        assert ("steeper" in words) <= (abs(curve.effect) > 1.25 * abs(slope))
