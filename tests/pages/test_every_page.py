"""What holds of several pages, driven without a browser: addresses, jobs, sessions."""

from __future__ import annotations

import os
import re
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from circuit.edges.ranking import top_edges
from circuit.edges.subgraph import live_edges
from circuit.jobs.attribute import attribute
from circuit.runs.config import RunConfig
from circuit.runs.library import RunLibrary
from circuit.runs.run import Run
from circuit.ui.frame.server import job_server
from circuit.workers.job import Job
from tests.visitor import ATTRIBUTE, CIRCUIT, NUMBERS, PAGES, PROMPTS, SCORES, Visitor


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_what_it_is_for_before_anything_is_done(page: str) -> None:
    visitor = Visitor(page)
    assert visitor.at.header[0].value
    assert len(visitor.at.markdown[0].value) > 60
    assert visitor.at.button  # a way on


@pytest.mark.parametrize("page", [SCORES, CIRCUIT])
def test_a_page_without_a_run_says_how_to_get_one(page: str) -> None:
    visitor = Visitor(page)
    assert "run attribution first, or open a ready example" in visitor.words()
    visitor.click("Set up a run")
    assert visitor.at.header[0].value == "1 · Prompts"
    visitor = Visitor(page)
    visitor.click("Ready examples")
    assert visitor.at.header[0].value == "Edgescope"


def test_prompts_and_model_are_the_same_on_every_page(small: str) -> None:
    visitor = Visitor()
    visitor.work_on(small, NUMBERS)
    for page in (PROMPTS, ATTRIBUTE, PROMPTS, SCORES, PROMPTS):
        visitor.go(page)
        assert visitor.at.session_state["prompts"] == NUMBERS
        assert visitor.at.session_state["model"] == small
        assert "numbers, 3 pairs" in visitor.words()
    assert list(visitor.at.dataframe[0].value["corrupt"]) == [pair.corrupt for pair in NUMBERS.pairs]


def reloaded(visitor: Visitor, page: str, name: str) -> None:
    """A reload of the page finds the job that waits; it can be cancelled there."""
    assert re.fullmatch("[0-9a-f]{32}", visitor.query()[name])
    again = Visitor(page, **visitor.query())
    assert re.search(r"number \d in the queue, waiting for the job of another tab or visitor", again.words())
    assert again.query()[name] == visitor.query()[name]
    again.at.button(f"cancel-{slot_of(visitor, name)}").click()
    again.run()
    again.wait(lambda: "The job was cancelled." in again.words())
    assert name not in again.query()


def slot_of(visitor: Visitor, name: str) -> str:
    job = job_server().get(visitor.query()[name])
    assert job is not None
    return str(job.note)


def test_a_reload_finds_the_jobs_of_the_prompts_page(small: str, busy: Job) -> None:
    visitor = Visitor()
    visitor.work_on(small, NUMBERS)
    visitor.go(PROMPTS)
    visitor.at.button("load-model").click()
    visitor.run()
    reloaded(visitor, PROMPTS, "load")
    visitor.click("Check prompts")
    reloaded(visitor, PROMPTS, "check")


def test_a_reload_finds_the_jobs_of_the_pages_that_show_a_run(stored: Run, busy: Job) -> None:
    visitor = Visitor(SCORES, run=stored.id)
    visitor.choose(view="Score and effect")
    visitor.click("Measure 30 edges")
    reloaded(visitor, SCORES, "effects")
    visitor = Visitor(CIRCUIT, run=stored.id)
    visitor.click("Measure all sizes")
    reloaded(visitor, CIRCUIT, "curve")


def test_a_job_in_the_address_is_not_taken_for_another_runs(stored: Run, small: str, busy: Job) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id)
    visitor.click("Measure all sizes")
    other = attribute(RunConfig(small, NUMBERS))
    other.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{other.id}.safetensors")
    elsewhere = Visitor(CIRCUIT, run=other.id, curve=visitor.query()["curve"])
    assert "curve" not in elsewhere.query()
    assert not elsewhere.button("Measure all sizes").disabled


def test_settings_that_cannot_be_used_show_no_page_and_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    job_server.clear()
    monkeypatch.setenv("EDGESCOPE_CPU_WORKERS", "none")
    for page in (None, *PAGES):
        visitor = Visitor(page)
        assert "This server's settings cannot be used." in visitor.errors()
        assert not visitor.at.header


def test_who_has_not_signed_in_sees_nothing_where_the_owner_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESCOPE_REQUIRE_LOGIN", "true")
    for page in (None, *PAGES):
        visitor = Visitor(page)
        assert "its owner has not named a provider" in visitor.errors()
        assert not visitor.at.header
        assert not visitor.at.button
    monkeypatch.setattr("circuit.ui.frame.page.st.user", {"is_logged_in": False})
    for page in (None, *PAGES):
        visitor = Visitor(page)
        assert [button.label for button in visitor.at.button] == ["Sign in"]
    monkeypatch.setattr("circuit.ui.frame.page.st.user", {"is_logged_in": True, "sub": "7", "email": "ann@example.org"})
    visitor = Visitor(ATTRIBUTE)
    assert visitor.at.header[0].value == "2 · Attribute"
    assert visitor.button("Sign out")


def test_an_address_with_a_run_shows_it_to_a_new_session(stored: Run) -> None:
    for page in (SCORES, CIRCUIT):
        visitor = Visitor(page, run=stored.id)
        shown = visitor.result()
        assert shown is not None
        np.testing.assert_array_equal(shown.scores, stored.scores)


@pytest.mark.parametrize("page", [SCORES, CIRCUIT])
@pytest.mark.parametrize("run_id", ["0" * 32, "../../etc/passwd", "", "x" * 5000, "0" * 31 + "\n"])
def test_an_address_with_an_unknown_run_is_met_with_a_word(page: str, run_id: str) -> None:
    visitor = Visitor(page, run=run_id)
    assert "run attribution first" in visitor.words()
    if run_id:
        assert "cannot be shown" in visitor.words()
    assert os.environ["EDGESCOPE_RUNS"] not in visitor.words()


def test_a_damaged_run_is_met_with_a_word(stored: Run) -> None:
    folder = Path(os.environ["EDGESCOPE_RUNS"])
    whole = (folder / f"{stored.id}.safetensors").read_bytes()
    (folder / f"{'a' * 32}.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "damaged" in Visitor(SCORES, run="a" * 32).words()


def test_an_edge_that_does_the_opposite_of_its_score_is_marked_and_found_again_after_a_reload(stored: Run) -> None:
    library = RunLibrary(Path(os.environ["EDGESCOPE_RUNS"]))
    again = replace(stored, id=uuid.uuid4().hex)
    library.save(again)
    edges = live_edges(again.graph, top_edges(again.scores, 40))
    edge = int(edges[0])
    library.keep_effects(again.id, {edge: -3 * float(again.scores[edge])})
    visitor = Visitor(CIRCUIT, run=again.id, edges="40", look=f"edge:{edge}")
    assert visitor.picture().count('class="opposite"') == 2
    assert "≠ Measured, it does the opposite" in visitor.words()
    assert "the score has the wrong sign" in visitor.words()
    visitor = Visitor(SCORES, run=again.id)
    table = next(frame.value for frame in visitor.at.dataframe if "agrees" in frame.value)
    assert table.loc[edge, "agrees"] == "≠ opposite"
    visitor.choose(view="Score and effect")
    said = visitor.words()
    assert said.index("Furthest from their scores: ") < said.index("have the sign of their score")
    assert "≠ the opposite" in said


BAD_QUERIES = {
    SCORES: [
        {"edge": "-1"}, {"edge": "9" * 30}, {"edge": "x"}, {"block": "A9,A0"}, {"block": ""}, {"block": "A0,A2"},
        {"view": "nothing"}, {"cell": "?"}, {"sign": "loud"}, {"inputs": "Z"}, {"min": "abc"}, {"to_layers": "7"},
        {"position": "12"},
    ],
    CIRCUIT: [
        {"edges": "abc"}, {"edges": "0"}, {"edges": "99999999999"}, {"rule": "?"}, {"by": "?"}, {"look": "node:"},
        {"look": "edge:999999"}, {"look": "<b>"}, {"threshold": "x"}, {"share": "-5"}, {"dead_ends": "maybe"},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("page", "query"), [(page, query) for page, queries in BAD_QUERIES.items() for query in queries], ids=str
)
def test_what_an_address_asks_for_in_vain_is_left_out(stored: Run, page: str, query: dict[str, str]) -> None:
    visitor = Visitor(page, run=stored.id, **query)
    shown = visitor.result()
    assert shown is not None
    assert shown.id == stored.id
    if set(query) & {"edge", "edges", "block", "view", "cell", "sign", "rule", "by"}:
        assert "left out" in visitor.words()


def test_a_run_whose_model_is_gone_can_still_be_looked_at(stored: Run) -> None:
    gone = Run(RunConfig("local/gone", NUMBERS), stored.graph, stored.scores, stored.baseline, stored.used_rows)
    gone.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{gone.id}.safetensors")
    visitor = Visitor(CIRCUIT, run=gone.id)
    visitor.wait(visitor.errors)
    assert "There is no model gone in this server's models folder any more" in visitor.errors()
    assert visitor.picture()
    visitor.at.query_params["run"] = stored.id  # and its error is not that of another run
    visitor.run()
    visitor.wait(visitor.metrics)
    assert visitor.errors() == ""


def test_sessions_do_not_see_each_others_prompts_or_runs(visitor: Visitor, small: str) -> None:
    run = visitor.finish()
    other = Visitor(ATTRIBUTE)
    assert other.result() is None
    assert other.at.session_state["prompts"] != NUMBERS
    assert other.at.session_state["model"] != small
    other.go(SCORES)
    assert "run attribution first" in other.words()
    assert run.caption not in other.words()
