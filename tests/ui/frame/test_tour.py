"""The guided tour: it leads from page to page over the example's run, can be left and resumed, and gives back what was
there before."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from circuit.edges.graph import EdgeGraph
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.runs.config import RunConfig
from circuit.runs.run import Baseline, Run
from circuit.ui.frame import navigation, tour
from circuit.ui.frame.server import job_server
from circuit.ui.glossary import TERMS

pytestmark = pytest.mark.usefixtures("pages_worker")

APP = str(Path(__file__).resolve().parents[3] / "app.py")
MINE = PromptSet("mine", (PromptPair("one two", "two one", (" a",), (" b",)),))


def visit(**query: str) -> AppTest:
    at = AppTest.from_file(APP, default_timeout=300)
    at.query_params.update(query)
    return run(at)


def run(at: AppTest) -> AppTest:
    at.run()
    assert not at.exception, at.exception
    return at


def press(at: AppTest, name: str) -> AppTest:
    at.button(f"tour-{name}").click()
    return run(at)


def has(at: AppTest, name: str) -> bool:
    return any(button.key == f"tour-{name}" for button in at.button)


def words(at: AppTest) -> str:
    return "\n".join(element.value for element in (*at.header, *at.markdown, *at.caption))


def scored(at: AppTest) -> AppTest:
    """Wait for the example's run."""
    until = time.monotonic() + 300
    while "run" not in at.session_state:
        assert time.monotonic() < until
        time.sleep(0.2)
        run(at)
    return at


def test_six_steps_lead_over_all_pages_and_end() -> None:
    at = press(visit(), "start")
    for number, step in enumerate(tour.STEPS, start=1):
        title = next(label for target, label, _ in navigation.PAGES if target == step.page)
        assert at.header[0].value == title
        assert f"Tour {number} of {len(tour.STEPS)} · {step.title}" in words(at)
        assert at.query_params["tour"] in (str(number), [str(number)])
        scored(at)
        if not isinstance(step.words, str):
            assert step.words(at.session_state["run"]) in words(at)
        press(at, "next" if number < len(tour.STEPS) else "finish")
    assert "Tour" not in words(at)
    assert "tour" not in at.query_params
    assert at.button("tour-sidebar").label == "Take the tour"
    assert at.session_state["run"].config == tour.EXAMPLE.config


def test_the_words_fit_the_example() -> None:
    pair = tour.EXAMPLE.config.prompts.pairs[0]
    about = tour.STEPS[0].words
    assert isinstance(about, str)
    assert pair.clean.split(", ")[1] in about
    assert {answer.strip() for answer in (*pair.answers, *pair.wrong_answers)} <= set(about.replace("*", "").split())
    assert {key for keys in tour._TERMS for key in keys} <= set(TERMS)
    assert len(tour._TERMS) == len(tour.STEPS)
    assert {step.page for step in tour.STEPS} <= {target for target, *_ in navigation.PAGES}


def test_a_circuit_of_another_size_does_not_end_the_tour() -> None:
    at = press(visit(), "start")
    for _ in range(4):
        scored(at)
        press(at, "next")
    assert "Tour 5 of 6" in words(at)
    at.select_slider(key="edges").set_value(29)
    run(at)
    press(at, "next")
    assert "Tour 6 of 6" in words(at)
    assert at.query_params["tour"] in ("6", ["6"])
    press(at, "back")
    assert "Tour 5 of 6" in words(at)


def test_a_click_counts_where_the_example_is_scored_at_that_moment() -> None:
    at = press(visit(), "start")
    job = job_server().get(at.session_state["job-tour"])
    assert job is not None
    job.wait(300)
    assert job.over
    assert "run" not in at.session_state  # the page that the click runs takes it, and runs again
    press(at, "next")
    assert "run" in at.session_state
    assert at.header[0].value == "2 · Attribute"


def test_back_leads_back() -> None:
    at = press(press(press(visit(), "start"), "next"), "back")
    assert at.header[0].value == "1 · Prompts"
    assert not has(at, "back")


def test_it_is_skipped_and_resumed_where_it_was_left() -> None:
    at = press(press(visit(), "start"), "next")
    press(at, "leave")
    assert not has(at, "next")
    assert at.header[0].value == "2 · Attribute"
    assert at.button("tour-sidebar").label == "Resume the tour, 2 of 6"
    press(at, "sidebar")
    assert "Tour 2 of 6" in words(at)


def test_other_pages_lead_back_to_it() -> None:
    at = press(visit(), "start")
    at.switch_page(navigation.GLOSSARY)
    run(at)
    assert "at step 1 of 6" in words(at)
    press(at, "on")
    assert at.header[0].value == "1 · Prompts"


def test_a_reload_goes_on_with_it() -> None:
    at = AppTest.from_file(APP, default_timeout=300)
    at.query_params["tour"] = "4"
    at.switch_page(navigation.SCORES)
    run(at)
    assert "Tour 4 of 6" in words(at)
    assert at.session_state["prompts"].pairs == tour.EXAMPLE.config.prompts.pairs
    scored(at)
    assert "Every score" not in words(at)


@pytest.mark.parametrize("step", ["0", "7", "x", "-1"])
def test_an_address_with_no_step_is_no_tour(step: str) -> None:
    assert not has(visit(tour=step), "on")


def test_what_was_there_before_comes_back() -> None:
    at = visit()
    at.session_state["model"] = "teaching"
    at.session_state["prompts"] = MINE
    press(run(at), "start")
    assert at.session_state["prompts"].pairs == tour.EXAMPLE.config.prompts.pairs
    press(at, "leave")
    assert at.session_state["prompts"].pairs == MINE.pairs
    assert at.session_state["model"] == "teaching"


def edit(at: AppTest, words: str = "edited") -> PromptSet:
    """Type into the first cell of the table."""
    version = at.session_state["prompt_table"]
    at.session_state[f"table-{version}"] = {
        "edited_rows": {0: {"clean": words}}, "added_rows": [], "deleted_rows": [],
    }  # fmt: skip
    run(at)
    assert at.session_state["prompts"].pairs[0].clean == words
    return at.session_state["prompts"]


def reloaded(at: AppTest, target: str) -> AppTest:
    """Another session at the address of this one."""
    fresh = AppTest.from_file(APP, default_timeout=300)
    for key, value in at.query_params.items():
        fresh.query_params[key] = value if isinstance(value, str) else value[0]
    fresh.switch_page(target)
    return run(fresh)


def test_another_model_comes_back_though_the_prompts_are_the_ready_ones() -> None:
    at = visit()
    before = at.session_state["prompts"]
    at.session_state["model"] = "gpt2"
    press(run(at), "start")
    assert at.session_state["model"] == "teaching"
    press(at, "leave")
    assert (at.session_state["model"], at.session_state["prompts"].pairs) == ("gpt2", before.pairs)


def test_what_is_made_of_the_example_comes_back_at_the_end() -> None:
    at = press(visit(), "start")
    mine = edit(at)
    press(at, "next")
    assert at.session_state["prompts"].pairs == tour.EXAMPLE.config.prompts.pairs
    press(at, "leave")
    assert at.session_state["prompts"].pairs == mine.pairs


def test_who_had_prompts_before_can_bring_back_what_was_made_of_the_example() -> None:
    at = visit()
    at.session_state["prompts"] = MINE
    press(run(at), "start")
    made = edit(at)
    press(press(at, "next"), "leave")
    assert at.session_state["prompts"].pairs == MINE.pairs
    assert at.session_state["former_prompts"].pairs == made.pairs


def test_a_reload_in_the_tour_keeps_what_was_there_before() -> None:
    at = visit()
    at.session_state["model"] = "gpt2"
    at.session_state["prompts"] = MINE
    at = reloaded(run(press(run(at), "start")), navigation.PROMPTS)
    assert at.session_state["prompts"].pairs == tour.EXAMPLE.config.prompts.pairs
    press(at, "leave")
    assert (at.session_state["model"], at.session_state["prompts"].pairs) == ("gpt2", MINE.pairs)


def test_an_edit_survives_a_reload_in_the_tour() -> None:
    at = press(visit(), "start")
    mine = edit(at)
    at = press(reloaded(run(at), navigation.PROMPTS), "leave")
    assert at.session_state["prompts"].pairs == mine.pairs


def test_a_tour_that_was_left_is_resumed_after_a_reload() -> None:
    at = run(press(press(press(visit(), "start"), "next"), "leave"))
    assert reloaded(at, navigation.GLOSSARY).button("tour-sidebar").label == "Resume the tour, 2 of 6"


def test_without_its_model_there_is_no_tour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESCOPE_ALLOWED_MODELS", "gpt2")
    at = visit(tour="1")
    assert not any((button.key or "").startswith("tour-") for button in at.button)
    assert "see how it was found." in words(at)


def test_of_integrated_gradients_it_does_not_say_by_how_much_the_loss_would_change() -> None:
    graph = EdgeGraph(1, 1, 1)
    scores = np.linspace(-1, 2, graph.n_edges, dtype=np.float32)
    said = tour._score(Run(tour.EXAMPLE.config, graph, scores, Baseline(0, 0, 0), [0], {}))
    assert "would raise the loss: the number is the mean slope of the loss while all edges are ablated together" in said
    assert "by about" not in said


def test_of_a_negative_score_it_says_that_ablating_lowers_the_loss() -> None:
    graph = EdgeGraph(1, 1, 1)
    scores = np.linspace(-2, 1, graph.n_edges, dtype=np.float32)
    said = tour._score(Run(RunConfig("teaching", MINE), graph, scores, Baseline(0, 0, 0), [0], {}))
    assert "**-2.00**" in said
    assert "would lower the loss by about 2.00" in said
    assert "would raise" in tour._score(Run(RunConfig("teaching", MINE), graph, -scores, Baseline(0, 0, 0), [0], {}))
