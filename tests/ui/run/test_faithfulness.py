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


def of_values(n_edges: int, value: float, right: float) -> Measured:
    spread = np.linspace(-0.1, 0.1, 8, dtype=np.float32)
    return Measured(n_edges, value + spread, np.full(8, right, np.float32), spread + 1, spread + 1)


def said_of(whole: float, ablated: float, circuit: float, right: float) -> str:
    curve = Curve((of_values(10, circuit, right),), of_values(100, whole, right), of_values(0, ablated, right))
    setting = Setting(False, "absolute", True, AblationType.RESAMPLE)
    return verdict(curve.points[0], curve, float(curve.faithfulness[0]), setting, integrated=True)


@pytest.mark.parametrize(("whole", "ablated", "circuit"), [(-2.0, 0.0, -1.7), (1.0, 3.0, 1.2)])
def test_a_share_of_a_model_that_is_worse_than_the_ablated_one_is_no_share_of_a_task(
    whole: float, ablated: float, circuit: float
) -> None:
    words = said_of(whole, ablated, circuit, right=1.0)
    assert words.startswith("**No task**")
    assert f"the whole model ({whole:+.3g}) does worse on these prompts than the fully ablated one" in words
    assert said_of(3.0, -1.0, 2.5, right=1.0).startswith("**Largely yes**")


def test_a_circuit_of_a_model_that_is_never_right_does_no_task() -> None:
    words = said_of(-1.0, -5.0, -1.2, right=0.0)
    assert words.startswith("**No task**")
    assert "a wrong answer is ahead of a right one on 100% of the prompts" in words


def test_a_circuit_that_outdoes_the_model_is_not_said_to_recover_it() -> None:
    assert "outdoes the model rather than recovering it" in said(1.2, 1.0, 1.0)
    assert "outdoes" not in said(1.05, 1.0, 1.0)
