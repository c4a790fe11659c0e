"""What 4 · Circuit says of a measured circuit, in words."""

from __future__ import annotations

import numpy as np
import pytest

from circuit.edges.method import AblationType
from circuit.edges.ranking import Importance
from circuit.runs.faithfulness import Curve, Measured
from circuit.ui.run.faithfulness import Setting, verdict

NAN = float("nan")


def measured(n_edges: int, right: float) -> Measured:
    column = np.full(10, right, dtype=np.float32)
    if not np.isnan(right):
        column = (np.arange(10) < round(10 * right)).astype(np.float32)
    return Measured(n_edges, column, column, column, column)


def said(
    share: float,
    right: float,
    whole: float,
    *,
    by: Importance = "absolute",
    drop: bool = True,
    integrated: bool = False,
) -> str:
    curve = Curve((), measured(262, whole), measured(0, 0.0))
    setting = Setting(False, by, drop, AblationType.RESAMPLE)
    return verdict(measured(40, right), curve, share, setting, integrated)


def test_a_circuit_as_often_right_as_a_model_that_is_often_wrong_is_none_the_worse() -> None:
    words = said(1.0, 0.4, 0.4)
    assert words.startswith("**Largely yes**")
    assert "the right answer is ahead on 40% of the prompts, with the whole model on 40%." in words
    assert said(1.0, 0.4, 0.9).startswith("**No**")
    assert "on 60% of the prompts, and with the whole model on 10%" in said(1.0, 0.4, 0.9)


def test_far_more_than_the_whole_model_is_off() -> None:
    assert said(2.5, 1.0, 1.0).startswith("**Off**")
    assert said(1.2, 1.0, 1.0).startswith("**Largely yes**")


@pytest.mark.parametrize("integrated", [False, True])
def test_integrated_gradients_are_advised_only_to_who_has_none(integrated: bool) -> None:
    words = said(0.1, 0.9, 1.0, integrated=integrated)
    assert words.startswith("**No**")
    assert ("integrated gradients" in words) is not integrated


def test_without_wrong_answers_nobody_is_ahead() -> None:
    assert "ahead" not in said(0.5, NAN, NAN)
    assert said(0.5, NAN, NAN).startswith("**Partly**")


def test_the_ranking_and_the_dead_ends_are_said() -> None:
    assert "the 40 edges of largest signed score, without dead ends, keep 50%" in said(0.5, 1, 1, by="signed")
    assert "the 40 strongest edges, dead ends included, keep" in said(0.5, 1, 1, drop=False)
