"""The landing page: what it says is so, and a click on an example takes nothing away."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from circuit.edges.subgraph import circuit_graph
from circuit.jobs.attribute import attribute
from circuit.jobs.measure import MeasureRequest, measure
from circuit.plots.landing import DESCRIBED, PICTURES
from circuit.runs.examples import EXAMPLES
from circuit.ui.frame.server import job_server
from tests.pages.test_pages import ATTRIBUTE, NUMBERS, PROMPTS, Visitor, server  # noqa: F401 - ends the worker

pytestmark = pytest.mark.timeout(150)


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


def test_the_picture_and_its_words_are_what_the_example_finds() -> None:
    example = EXAMPLES["teaching-ioi"]
    assert example.size is not None
    run = attribute(example.config)
    live = run.ranked("signed", "connected").first(example.size)
    drawn = circuit_graph(run.graph, live, run.scores)
    kinds = Counter(kind for _, kind in drawn.nodes(data="kind"))
    rows = tuple(run.used_rows)
    request = MeasureRequest(run.config, run.scores, (example.size,), importance="signed", rule="connected", rows=rows)
    (kept,) = measure(request).faithfulness
    assert len(live) == example.size  # or the picture would show fewer than it says
    assert DESCRIBED.endswith(
        f"{kinds['head']} heads and the {kinds['mlp']} MLPs, joined by {len(live)} edges, keep {kept:.0%} of the task."
    )
    assert f"joined by {run.graph.n_edges} edges. Right" in DESCRIBED
    for path in PICTURES.values():
        titles = re.findall(r'font-weight="600"[^>]*>([^<]*)', path.read_text())
        assert titles == [f"The model: {run.graph.n_edges} edges", f"Its circuit: {len(live)} edges keep {kept:.0%}"]


def press(visitor: Visitor, key: str) -> None:
    visitor.at.button(key).click()
    visitor.run()


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
    assert job.wait(60)
    visitor.run()
    assert visitor.at.header[0].value == "Edgescope"
    visitor.go(ATTRIBUTE)
    assert visitor.result() is not None
