"""8 · Learn, as a student meets its lessons."""

from __future__ import annotations

import json
from typing import Any

import pytest

from circuit.edges.ranking import top_edges
from circuit.jobs.careless import BROKEN
from circuit.jobs.known import Judged, JudgeRequest, judge, known_run, known_truth
from circuit.jobs.lessons import (
    LESSON,
    AblateRequest,
    SurveyRequest,
    ablate,
    lesson_graph,
    survey,
)
from circuit.plots.truth import FALSE_ALARM, HIT, MISS
from circuit.prompts.checks import KINDS
from circuit.runs.truth import n_above_rounding
from tests.visitor import Visitor

LEARN = "pages/8_Learn.py"


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


@pytest.mark.parametrize("key", [key for key, broken in BROKEN.items() if broken.model == "teaching"])
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


def judged(key: str) -> dict[str, Judged]:
    return {each.method.title: each for each in judge(JudgeRequest(known_run(key)))}


def test_lesson_6_takes_a_bet_before_it_shows_which_method_finds_the_circuit() -> None:
    student = Student(6)
    assert "Bet first" in student.words()
    assert not student.at.get("plotly_chart")
    student.choose(lesson6_bet="Edge attribution patching")
    student.press("lesson6_see")
    student.wait(lambda: student.at.get("plotly_chart"))
    found = judged("known-induction")
    table = student.at.dataframe[0].value.set_index("Method")
    assert list(table.index) == list(found)
    for title, each in found.items():
        assert table["AUROC"][title] == pytest.approx(each.auroc, abs=1e-6)
        assert table["Found"][title] == f"{each.hits} of 5"
    assert table["Bets"]["Edge attribution patching"] >= 1
    assert "Your bet is not among them" in student.words()  # saturated attention: one gradient sees no queries or keys
    assert "★ Edge attribution patching" in student.figure()["data"][0]["y"]


def test_lesson_6_tells_hits_misses_and_false_alarms_apart_by_signs() -> None:
    student = Student(6)
    student.choose(lesson6_model="known-selection")
    student.press("lesson6_look")
    student.wait(lambda: student.at.get("plotly_chart"))
    student.choose(lesson6_method="Edge attribution patching")
    truth = known_truth("known-selection")
    scores = judged("known-selection")["Edge attribution patching"].scores
    edges = top_edges(scores, min(9, n_above_rounding(scores)))
    hits, misses, false = len(truth.hits(edges)), len(truth.misses(edges)), len(truth.false_alarms(edges))
    assert min(hits, misses, false) > 0
    in_picture = student.shown().split('class="world"')[1]
    assert [in_picture.count(f">{sign}</text>") for sign in (HIT, MISS, FALSE_ALARM)] == [hits, misses, false]
    assert f"finds {hits} of 9 edges" in student.words()
    assert "a decoy: the name that came twice" in student.words()
    assert "its score is rounding" in student.words()
    student.press("lesson6_again")
    assert "Bet first" in student.words()


def test_lessons_stand_in_the_address_and_lead_to_each_other() -> None:
    student = Student(1)
    student.press("lesson_arrow_forward")
    assert student.query()["lesson"] == "2"
    student.press("lesson_arrow_back")
    assert student.query()["lesson"] == "1"
    wrong = Student(9)
    assert "this page has 1 to 6" in wrong.words()
    assert wrong.at.header[0].value == "Learn"
