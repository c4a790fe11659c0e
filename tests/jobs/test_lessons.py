"""The lessons' numbers against computations of another kind, and the lessons as a student meets them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from circuit import load_model
from circuit.common.errors import OptionError
from circuit.edges.graph import EdgeGraph
from circuit.edges.method import Method
from circuit.edges.ranking import top_edges
from circuit.edges.subgraph import circuit_graph
from circuit.engine.dataset import PromptDataLoader
from circuit.engine.mask_gradient import score_edges
from circuit.engine.model import PatchableModel
from circuit.jobs.attribute import attribute
from circuit.jobs.careless import BROKEN, CarelessRequest, careless_dataset, careless_scores
from circuit.jobs.check import CheckRequest, check_prompts
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
from circuit.models.tokenizer import PromptTokenizer
from circuit.plots.graph_svg import Line, graph_svg
from circuit.plots.layout import circuit_layout, stretched
from circuit.prompts.checks import KINDS
from circuit.prompts.encode import encode
from circuit.prompts.verdicts import verdicts
from circuit.ui.frame.server import job_server
from circuit.ui.lessons import board
from circuit.ui.lessons.mask_slider import verdict
from tests.pages.test_pages import Visitor

pytestmark = pytest.mark.timeout(240)

FEW = replace(LESSON, prompts=replace(LESSON.prompts, pairs=LESSON.prompts.pairs[:6]))


@pytest.fixture(scope="module")
def model() -> PatchableModel:
    return load_model("teaching", device="cpu")


@pytest.fixture(scope="module")
def surveyed() -> Survey:
    return survey(SurveyRequest(FEW))


@pytest.fixture(scope="module")
def curve(surveyed: Survey) -> LossCurve:
    return loss_curve(CurveRequest(FEW, surveyed.misleading))


# --- counting ------------------------------------------------------------------------------------------------------


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


def test_the_board_knows_what_a_node_reads_and_writes() -> None:
    graph = lesson_graph()
    for name in board.names():
        reads, writes = board.node_of(name)
        starts, ends = zip(*(graph.edge_name(edge).split("->") for edge in range(graph.n_edges)), strict=True)
        assert reads == [i for i, end in enumerate(ends) if end == name or end[:-2] == name]
        assert writes == [i for i, start in enumerate(starts) if start == name]
    assert len(board.node_of("A1.2").reads) == 18  # three times the embedding, four heads and an MLP


# --- ablating by hand ----------------------------------------------------------------------------------------------


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


# --- the mask slider -----------------------------------------------------------------------------------------------


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


# --- the game ------------------------------------------------------------------------------------------------------


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


# --- what can go wrong ---------------------------------------------------------------------------------------------

TEACHING = {key: broken for key, broken in BROKEN.items() if broken.model == "teaching"}


@pytest.mark.parametrize("key", TEACHING)
def test_every_broken_set_is_caught_by_its_check_and_the_right_one_by_none(key: str, model: PatchableModel) -> None:
    broken = BROKEN[key]
    words = PromptTokenizer.of(model.tokenizer)
    found = encode(broken.prompts, words, model.prepend_bos, model.n_ctx)
    if broken.caught_by in KINDS:
        assert any(finding.kind == broken.caught_by for row in found.findings for finding in row)
    else:
        results = check_prompts(CheckRequest(broken.model, broken.prompts)).results
        said = verdicts({row: results[pair] for row, pair in enumerate(broken.prompts.pairs)})
        assert any(broken.caught_by in verdict.words for verdict in said)
    assert not any(encode(broken.right, words, model.prepend_bos, model.n_ctx).findings)


def test_every_check_and_the_verdict_on_few_pairs_have_a_broken_set() -> None:
    caught_by = [broken.caught_by for broken in BROKEN.values()]
    of_the_model = {"beyond", "no-bos"}  # what its tokenizer lacks or has too much: no prompt set shows it elsewhere
    assert set(KINDS) - of_the_model <= set(caught_by)
    assert "drive 60 %" in caught_by


@pytest.mark.parametrize("kind", ["space", "trailing"])
def test_spaces_are_caught_with_smollm2s_tokenizer(kind: str, smollm2: PatchableModel) -> None:
    broken = BROKEN[kind]
    found, right = (encode(each, smollm2.tokenizer, smollm2.prepend_bos) for each in (broken.prompts, broken.right))
    assert all(any(finding.kind == kind for finding in row) for row in found.findings)
    assert not any(right.findings)


def test_what_is_missing_is_read_as_padding_and_what_is_too_long_is_cut(model: PatchableModel) -> None:
    words = PromptTokenizer.of(model.tokenizer, model.n_ctx)
    none, blank = (careless_dataset(BROKEN[key].prompts, words, True) for key in ("unanswered", "blank"))
    assert none.answers[0].tolist() == [words.bos]
    assert blank.answers[0].tolist() == [words.bos, *words.encode(BROKEN["blank"].right.pairs[0].answers[0])]
    assert set(careless_dataset(BROKEN["context"].prompts, words, True).lengths) == {model.n_ctx}


def test_few_pairs_that_count_make_all_of_the_scores() -> None:
    found = careless_scores(CarelessRequest("teaching", BROKEN["few"].right, BROKEN["few"].prompts))
    assert np.abs(found.broken).sum() < 0.4 * np.abs(found.right).sum()


def test_without_its_space_an_answer_is_improbable_though_its_logit_moves_along() -> None:
    broken = BROKEN["space"]
    bare, spaced = (
        check_prompts(CheckRequest(broken.model, each)).probability for each in (broken.prompts, broken.right)
    )
    assert bare.max() < 1e-3 < 0.3 < spaced.min()
    found = careless_scores(CarelessRequest(broken.model, broken.right, broken.prompts))
    assert np.corrcoef(found.right, found.broken)[0, 1] > 0.9
    by_prob = careless_scores(CarelessRequest(broken.model, broken.right, broken.prompts, Method(grad_function="prob")))
    assert np.abs(by_prob.right).sum() > 1000 * np.abs(by_prob.broken).sum()


@pytest.mark.parametrize("key", ["split", "both", "same", "unknown", "context"])
def test_sets_whose_scores_are_said_to_be_zero_have_none(key: str) -> None:
    broken = BROKEN[key]
    found = careless_scores(CarelessRequest(broken.model, broken.right, broken.prompts))
    assert found.all_zero
    assert np.abs(found.right).max() > 0.1


def test_scores_of_a_swapped_set_change_sign_and_those_of_a_harmless_edit_are_small() -> None:
    swapped, other = (
        careless_scores(CarelessRequest(BROKEN[key].model, BROKEN[key].right, BROKEN[key].prompts))
        for key in ("swapped", "no-difference")
    )
    assert np.corrcoef(swapped.right, swapped.broken)[0, 1] < -0.8
    assert np.abs(other.broken).sum() < 0.1 * np.abs(other.right).sum()
    assert not other.all_zero


def test_careless_scores_of_a_sound_set_are_the_runs_scores() -> None:
    right = BROKEN["both"].right
    found = careless_scores(CarelessRequest("teaching", right, right))
    run = attribute(replace(LESSON, prompts=right, held_out=0.0))
    np.testing.assert_allclose(found.right, run.scores, rtol=1e-4, atol=1e-5)
    assert found.shared(10) == 10


def test_the_shorter_prompt_is_padded_at_its_front(model: PatchableModel) -> None:
    broken = BROKEN["length"]
    words = PromptTokenizer.of(model.tokenizer)
    dataset = careless_dataset(broken.prompts, words, model.prepend_bos)
    encoded = encode(broken.prompts, words, model.prepend_bos)
    assert dataset.clean[0].tolist() == [words.bos, *encoded.clean[0]]
    assert dataset.corrupt[0].tolist() == encoded.corrupt[0]
    loader = PromptDataLoader(dataset)
    assert all(bool(part.isfinite().all()) for part in score_edges(model, loader, Method()).values())


# --- the picture ---------------------------------------------------------------------------------------------------


def test_a_stretched_layout_keeps_its_ends_and_its_order() -> None:
    graph = EdgeGraph(3, 4, 4)
    layout = circuit_layout(circuit_graph(graph, np.arange(graph.n_edges), np.zeros(graph.n_edges, dtype=np.float32)))
    taller = stretched(layout, 2 * layout.height, 60.0)
    assert {name: x for name, (x, _) in layout.places.items()} == {name: x for name, (x, _) in taller.places.items()}
    before, after = (np.array([y for _, y in each.places.values()]) for each in (layout, taller))
    assert after.min() == pytest.approx(before.min())
    assert taller.height - after.max() == pytest.approx(layout.height - before.max())
    assert np.corrcoef(before, after)[0, 1] == pytest.approx(1)


def test_edges_are_drawn_as_asked() -> None:
    graph = EdgeGraph(3, 4, 4)
    drawn = circuit_graph(graph, np.arange(5), np.zeros(graph.n_edges, dtype=np.float32))
    lines = {**dict.fromkeys(range(5), Line("left alone", "#123456", 1.0)), 2: Line("ablated", "#654321", 4.0)}
    svg = graph_svg(drawn, circuit_layout(drawn), caption="a board", lines=lines, node_hint="Click me.")
    assert svg.count("left alone") == 4 + 1  # a title each, and the key
    assert svg.count("ablated") == 1 + 1
    assert "score" not in svg
    assert "Click me." in svg


# --- the page ------------------------------------------------------------------------------------------------------

LEARN = "pages/8_Learn.py"


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    yield
    job_server.clear()


class Student(Visitor):
    """A session on the Learn page."""

    def __init__(self, lesson: int) -> None:
        super().__init__(LEARN, lesson=str(lesson))

    def button_by_key(self, key: str) -> Any:
        (button,) = [button for button in self.at.button if button.key == key]
        return button

    def press(self, key: str) -> None:
        self.button_by_key(key).click()
        self.run()

    def pick(self, key: str, edges: list[int]) -> None:
        (picks,) = [each for each in self.at.multiselect if each.key == key]
        picks.set_value(edges)
        self.run()

    def shown(self) -> str:
        (drawn,) = self.at.get("bidi_component")
        return json.loads(drawn.proto.json)["svg"]


def test_lesson_1_says_what_a_node_reads_and_writes() -> None:
    student = Student(1)
    assert student.shown().count('data-item="edge:') == 262
    student.choose(lesson1_node="A1.2")
    assert "A1.2** reads 6 sources, each three times (Q, K, V): **18 edges**; it is read by 15 destinations" in (
        student.words()
    )
    assert student.shown().count('data-item="edge:') == 18 + 15
    student.choose(lesson1_layers=12)
    student.choose(lesson1_heads=12)
    assert student.metrics()["Edges"] == "32,491"  # GPT-2 small, as in Conmy et al. 2023


def test_lesson_2_moves_the_answer_with_every_edge_and_back() -> None:
    student = Student(2)
    student.wait(lambda: "Corrupt: P(right)" in student.metrics(), 120)
    chain = [lesson_graph_edge(name) for name in ("Resid Start->A0.0.V", "MLP 1->Resid End")]
    clean = student.metrics()["Clean: P(right)"]
    assert student.metrics()["Now, 0 ablated: P(right)"] == clean
    student.pick("lesson2_ablated", chain)
    student.wait(lambda: "Now, 2 ablated: P(right)" in student.metrics())
    expected = ablate(AblateRequest(LESSON, (0,), tuple(sorted(chain)))).present.probability
    assert student.metrics()["Now, 2 ablated: P(right)"] == f"{expected:.1%}" != clean
    assert student.shown().count(": ablated.") == 2
    student.press("lesson2_reset")
    student.wait(lambda: "Now, 0 ablated: P(right)" in student.metrics())
    assert student.metrics()["Now, 0 ablated: P(right)"] == clean


def lesson_graph_edge(name: str) -> int:
    graph = lesson_graph()
    return [graph.edge_name(edge) for edge in range(graph.n_edges)].index(name)


def test_lesson_3_shows_the_misleading_edge_first_and_the_honest_one_when_asked() -> None:
    student = Student(3)
    student.wait(lambda: student.at.get("plotly_chart"), 120)
    found = survey(SurveyRequest(LESSON))
    edge = found.misleading
    assert f"**{found.effects[edge]:+.2f}**" in student.words()
    assert "saturation" in student.words()
    start = student.figure()["data"][1]["y"]
    assert start[1] - start[0] == pytest.approx(float(found.at_zero[edge]), rel=1e-3)
    student.choose(lesson3_which="is right")
    student.wait(lambda: "the tangent is right" in student.words())
    student.choose(lesson3_m=0.0)
    assert "At m = 0.00" in student.words()


def test_lesson_4_measures_attempts_and_keeps_the_best() -> None:
    student = Student(4)
    student.wait(lambda: "To beat" in student.metrics(), 120)
    assert student.button_by_key("lesson4_measure").disabled
    student.pick("lesson4_picked", [lesson_graph_edge("MLP 1->Resid End")])
    student.press("lesson4_measure")
    student.wait(lambda: student.metrics()["This try"] != "–")
    assert "No path leads" in student.words()
    student.press("lesson4_clear")
    for _ in range(13):
        student.press("lesson4_hint")
    student.press("lesson4_measure")
    student.wait(lambda: int(student.metrics()["This try"]) > 50)
    assert int(student.metrics()["This try"]) == int(student.metrics()["Your best"]) <= 100 - 13
    table = student.at.dataframe[-1].value
    assert list(table[table["who"] == "you"]["revealed"]) == [13, 0]  # the edge of the first try was not revealed


@pytest.mark.parametrize("key", TEACHING)
def test_lesson_5_says_what_is_wrong_and_what_it_would_do(key: str) -> None:
    student = Student(5)
    student.wait(lambda: student.at.get("plotly_chart"), 120)
    student.choose(lesson5_set=key)
    student.wait(lambda: student.at.get("plotly_chart"))
    broken = BROKEN[key]
    caught = KINDS[broken.caught_by].title.lower() if broken.caught_by in KINDS else broken.caught_by
    student.wait(lambda: caught in student.words())
    assert broken.why in student.words()
    student.press("lesson5_open")
    assert student.at.header[0].value == "1 · Prompts"
    assert student.at.session_state["prompts"].pairs == broken.prompts.pairs
    assert student.at.session_state["model"] == broken.model


def test_lessons_stand_in_the_address_and_lead_to_each_other() -> None:
    student = Student(1)
    student.press("lesson_arrow_forward")
    assert student.query()["lesson"] == "2"
    student.press("lesson_arrow_back")
    assert student.query()["lesson"] == "1"
    wrong = Student(9)
    assert "this page has 1 to 5" in wrong.words()
    assert wrong.at.header[0].value == "Learn"
