"""The landing page: what it says is so, and a click on an example takes nothing away."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from circuit.runs.examples import EXAMPLES
from circuit.ui.frame.server import job_server
from tests.job_functions import LONG, count
from tests.visitor import ATTRIBUTE, NUMBERS, PAGES, PROMPTS, Visitor


def test_the_landing_page_offers_the_example_and_every_page() -> None:
    visitor = Visitor()
    examples = [button for button in visitor.at.button if (button.key or "").startswith("example-")]
    assert len(examples) == len(EXAMPLES) == 3
    assert not any(button.disabled for button in examples)
    assert "On this server: Teaching model" in visitor.words()
    assert "Runs of this session" not in visitor.words()
    linked = {link.proto.page for link in visitor.at.get("page_link")}
    assert {Path(page).stem.split("_")[1] for page in PAGES} <= linked


def test_examples_of_models_that_the_owner_does_not_allow_are_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESCOPE_ALLOWED_MODELS", "teaching")
    visitor = Visitor()
    examples = {button.key for button in visitor.at.button if (button.key or "").startswith("example-")}
    assert examples == {f"example-{key}" for key, each in EXAMPLES.items() if each.config.model == "teaching"}


def test_the_landing_page_says_what_the_owner_lets_it_compute_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESCOPE_DEVICES", "cpu")
    assert re.search(r"Computing on \d+ CPU cores?\.", Visitor().words())


def test_the_last_runs_are_listed_on_the_landing_page(visitor: Visitor) -> None:
    first, second = visitor.finish(), visitor.finish()
    visitor.go("app.py")
    keys = [button.key for button in visitor.at.button if str(button.key).startswith("open-")]
    assert keys[:2] == [f"open-{second.id}", f"open-{first.id}"]
    visitor.at.button(f"open-{first.id}").click()
    visitor.run()
    shown = visitor.result()
    assert shown is not None
    assert shown.id == first.id
    assert visitor.at.header[0].value == "3 · Scores"


@pytest.mark.parametrize(
    ("allowed", "words"),
    [
        ("teaching", "On this server: Teaching model. Computing"),
        ("teaching,gpt2", "On this server: Teaching model, and 1 more to fetch. Computing"),
        ("gpt2", "1 model can be used here, fetched at first use. Computing"),
        ("gpt2,pythia-70m", "2 models can be used here, fetched at first use. Computing"),
    ],
)
def test_the_models_of_the_server_are_named_and_counted(
    monkeypatch: pytest.MonkeyPatch, allowed: str, words: str
) -> None:
    monkeypatch.setenv("EDGESCOPE_ALLOWED_MODELS", allowed)
    assert words in Visitor().words()


def press(visitor: Visitor, key: str) -> None:
    visitor.at.button(key).click()
    visitor.run()


def test_progress_and_cancel_stand_above_the_examples() -> None:
    visitor = Visitor()
    job = job_server().submit(count, LONG, note="example")
    try:
        visitor.at.session_state["job-example"] = job.id
        visitor.run()
        keys = [button.key for button in visitor.at.button]
        assert keys.index("cancel-example") < keys.index("example-teaching-ioi")
    finally:
        job.cancel()


def test_an_example_leaves_the_way_back_to_ones_own_prompts(small: str) -> None:
    visitor = Visitor()
    visitor.work_on(small, NUMBERS)
    visitor.run()
    press(visitor, "example-teaching-ioi")
    visitor.wait(lambda: visitor.at.header[0].value == "4 · Circuit", 120)
    assert visitor.query()["edges"] == "15"
    visitor.go(PROMPTS)
    visitor.click("Bring back 3 pairs")
    assert visitor.at.session_state["prompts"].pairs == NUMBERS.pairs


def test_a_run_that_was_started_elsewhere_does_not_lead_away_from_the_landing_page(small: str) -> None:
    visitor = Visitor()
    visitor.work_on(small, NUMBERS)
    visitor.go(ATTRIBUTE)
    visitor.click("Run attribution")
    visitor.go("app.py")
    job = job_server().get(visitor.at.session_state["job-attribute"])
    assert job is not None
    assert job.wait(300)
    visitor.run()
    assert visitor.at.header[0].value == "Edgescope"
    visitor.go(ATTRIBUTE)
    assert visitor.result() is not None
