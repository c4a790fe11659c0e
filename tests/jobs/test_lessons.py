"""The lessons' numbers against computations of another kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuit.common.errors import OptionError
from circuit.edges.graph import EdgeGraph
from circuit.edges.method import Method
from circuit.edges.ranking import top_edges
from circuit.engine.model import PatchableModel
from circuit.jobs.attribute import attribute
from circuit.jobs.inspect import EffectsRequest, measure_effects
from circuit.jobs.lessons import (
    LESSON,
    RIVALS,
    AblateRequest,
    CurveRequest,
    LossCurve,
    PickRequest,
    RivalsRequest,
    Survey,
    SurveyRequest,
    ablate,
    edge_counts,
    lesson_graph,
    loss_curve,
    measure_edges,
    measured_rows,
    points,
    rivals,
    scored_rows,
    survey,
)
from circuit.prompts.encode import encode

FEW = replace(LESSON, prompts=replace(LESSON.prompts, pairs=LESSON.prompts.pairs[:6]))


@pytest.fixture(scope="module")
def surveyed() -> Survey:
    return survey(SurveyRequest(FEW))


@pytest.fixture(scope="module")
def curve(surveyed: Survey) -> LossCurve:
    return loss_curve(CurveRequest(FEW, surveyed.misleading))


def test_the_lessons_graph_is_the_models(model: PatchableModel) -> None:
    assert lesson_graph() == model.graph


@pytest.mark.parametrize(("n", "h"), [(3, 4), (12, 12), (1, 1), (5, 2)])
def test_counts_are_those_of_the_formula_and_of_the_edges_themselves(n: int, h: int) -> None:
    graph = EdgeGraph(n, h, h)
    counts = edge_counts(graph)
    formula = sum(3 * h * (1 + layer * (h + 1)) + 1 + layer * (h + 1) + h for layer in range(n)) + 1 + n * (h + 1)
    assert sum(count.edges for count in counts) == formula == graph.n_edges
    for layer in range(n + 1):
        of_layer = sum(graph.destinations[d].layer == layer for d in graph.edge_destination)
        assert sum(count.edges for count in counts if count.layer == layer) == of_layer


def test_nothing_ablated_is_the_clean_model_and_everything_the_corrupt_one() -> None:
    nothing = ablate(AblateRequest(FEW, (0, 1), ()))
    assert nothing.present.difference == pytest.approx(nothing.clean.difference, rel=1e-4)
    assert nothing.clean.probability > 0.9 > 0.1 > nothing.corrupt.probability
    everything = ablate(AblateRequest(FEW, (0, 1), tuple(range(262))))
    assert everything.present.difference == pytest.approx(everything.corrupt.difference, rel=1e-4)
    assert everything.present.probability == pytest.approx(everything.corrupt.probability, abs=1e-4)


def test_what_one_edge_changes_is_its_measured_effect(surveyed: Survey) -> None:
    edge, row = surveyed.misleading, scored_rows(FEW)[0]
    one = replace(FEW, prompts=replace(FEW.prompts, pairs=(FEW.prompts.pairs[row],)), held_out=0.0)
    found = ablate(AblateRequest(FEW, (row,), (edge,)))
    change = found.clean.difference - found.present.difference
    assert change == pytest.approx(measure_effects(EffectsRequest(one, (edge,)))[edge], rel=1e-3)
    assert abs(change) > 1


def test_probabilities_are_those_of_the_plain_model(model: PatchableModel) -> None:
    found = ablate(AblateRequest(FEW, (0,), ()))
    encoded = encode(FEW.prompts, model.tokenizer, model.prepend_bos)
    with torch.no_grad():
        logits = model.bridge.original_model(torch.tensor([encoded.clean[0]])).logits[0, -1]
    shares = logits.softmax(-1)
    assert found.clean.probability == pytest.approx(float(shares[encoded.answers[0][0]]), rel=1e-4)
    assert found.clean.wrong == pytest.approx(float(shares[encoded.wrong_answers[0][0]]), rel=1e-3)
    assert found.top[0][1] == pytest.approx(float(shares.max()), rel=1e-4)


def test_an_edge_that_is_not_there_is_refused() -> None:
    with pytest.raises(OptionError, match="There is no edge 262"):
        ablate(AblateRequest(FEW, (0,), (262,)))
    with pytest.raises(OptionError, match="There is no edge -1"):
        loss_curve(CurveRequest(FEW, -1, 2))


def test_slopes_at_zero_are_the_scores_of_attribution_patching(surveyed: Survey) -> None:
    np.testing.assert_allclose(surveyed.at_zero, attribute(FEW).scores, rtol=1e-4, atol=1e-5)


def test_mean_slopes_are_the_scores_of_integrated_gradients(surveyed: Survey) -> None:
    method = Method(mask_val=None, integrated_grad_samples=10, integration_rule="trapezoid")
    run = attribute(replace(FEW, method=method))
    np.testing.assert_allclose(surveyed.integrated, run.scores, rtol=1e-3, atol=1e-4)


def test_the_curve_starts_with_the_slope_of_its_score_and_ends_at_its_effect(surveyed: Survey) -> None:
    edge = surveyed.honest
    # a step of 1/1000 is small enough for the tangent, and large enough for float32
    start = loss_curve(CurveRequest(FEW, edge, 1000)).loss[:6]
    slope = np.polyfit(np.arange(6) / 1000, start, 1)[0]
    assert slope == pytest.approx(surveyed.at_zero[edge], rel=0.03)
    whole = loss_curve(CurveRequest(FEW, edge))
    assert whole.effect == pytest.approx(surveyed.effects[edge], rel=1e-3)


def test_the_mean_slope_of_the_own_path_is_the_effect(curve: LossCurve, surveyed: Survey) -> None:
    assert curve.slopes.mean() == pytest.approx(curve.effect)
    assert curve.effect == pytest.approx(surveyed.effects[surveyed.misleading], rel=1e-3)


def test_the_default_edges_are_what_they_are_called(surveyed: Survey) -> None:
    def gap(edge: int) -> float:
        return abs(surveyed.effects[edge] - float(surveyed.at_zero[edge]))

    assert gap(surveyed.misleading) == max(map(gap, surveyed.effects))
    assert abs(surveyed.effects[surveyed.misleading]) > 3 * abs(surveyed.at_zero[surveyed.misleading])
    assert gap(surveyed.honest) < 0.2 * abs(surveyed.effects[surveyed.honest])
    strongest = top_edges(np.maximum(abs(surveyed.at_zero), abs(surveyed.integrated)), 26)
    assert set(surveyed.effects) == set(strongest.tolist())


def test_integrated_gradients_of_all_edges_add_up_to_the_whole_difference() -> None:
    """Sundararajan et al. 2017, proposition 1: along the path on which all masks move, nothing is lost."""
    fine = survey(SurveyRequest(FEW, 40))
    everything = ablate(AblateRequest(FEW, scored_rows(FEW), tuple(range(262))))
    difference = everything.clean.difference - everything.present.difference
    assert float(fine.integrated.sum()) == pytest.approx(difference, rel=0.03)


@pytest.mark.parametrize(
    ("shape", "slope", "loss"),
    [
        ("straight", 4.0, [0, 1, 2, 3.1, 4]),
        ("bent", 4.0, [0, 0.4, 1, 2.6, 4]),  # ends where the tangent does
        ("flat", 0.5, [0, 0.2, 1, 3, 4]),
        ("steeper", 3.0, [0, 0.8, 1.8, 3, 4.4]),
        ("flattens", 8.0, [0, 1.5, 2.5, 3, 3.2]),
        ("turns", 8.0, [0, 1.8, 3, 2.5, 1.5]),
        ("turns", 1.0, [0, 1, 1, 0.5, 0]),
        ("wrong sign", 1.0, [0, 0.2, 0, -1, -3]),
        ("straight", 0.0, [0, 0, 0, 0, 0]),
    ],
)
def test_the_shape_of_a_curve_is_called_by_its_name(shape: str, slope: float, loss: list[float]) -> None:
    curve = LossCurve(np.linspace(0, 1, 5), np.array(loss, dtype=float))
    assert curve.shape(slope) == shape


def test_an_algorithms_edges_picked_by_hand_do_what_its_curve_says() -> None:
    found = rivals(RivalsRequest(FEW, 8))
    assert set(found) == set(RIVALS)
    for name, rival in found.items():
        np.testing.assert_allclose(rival.scores, attribute(replace(FEW, method=RIVALS[name])).scores, atol=1e-4)
        for n in (1, 4, 8):
            picked = measure_edges(PickRequest(FEW, tuple(top_edges(rival.scores, n).tolist())))
            at = rival.curve.at(n)
            assert at is not None
            assert picked.points[0].mean == pytest.approx(at.mean, rel=1e-4)


def test_circuits_are_measured_on_pairs_that_were_not_scored() -> None:
    assert sorted([*scored_rows(LESSON), *measured_rows(LESSON)]) == list(range(48))
    whole = measure_edges(PickRequest(FEW, tuple(range(262))))
    assert whole.n_prompts == len(measured_rows(FEW)) == 3
    assert float(whole.faithfulness[0]) == pytest.approx(1)


def test_points_reward_the_models_behaviour_and_few_edges() -> None:
    assert points(1.0, 10) == 90
    assert points(0.8, 10) == points(1.2, 10) == 70
    assert points(0.0, 3) == points(-1.0, 3) == 0
