"""7 · Sweep, driven without a browser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from circuit.edges.method import AblationType
from circuit.jobs.estimate import Line, Pace
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.prompts.presets import PRESETS
from circuit.ui.frame.server import job_server
from circuit.ui.run import estimate
from tests.job_functions import LONG, count
from tests.visitor import Visitor

IOI = replace(PRESETS["teaching-ioi"].prompts, pairs=PRESETS["teaching-ioi"].prompts.pairs[:8])


@pytest.fixture
def visitor() -> Visitor:
    visitor = Visitor("pages/7_Sweep.py")
    visitor.work_on("teaching", IOI)
    visitor.go("pages/7_Sweep.py")
    return visitor


def pick(at: AppTest, key: str, values: list[Any]) -> None:
    (widget,) = [widget for widget in at.multiselect if widget.key == key]
    widget.set_value(values)
    at.run()


def test_the_page_counts_runs_runs_them_and_fills_the_table(visitor: Visitor) -> None:
    pick(visitor.at, "sweep_models", ["teaching"])
    pick(visitor.at, "sweep_ablations", [AblationType.RESAMPLE, AblationType.ZERO])
    assert "1 model × 1 prompt set × 4 methods = 4 runs" in visitor.words()
    visitor.click("Run the sweep")
    visitor.wait(lambda: "4 of 4 runs are done" in visitor.words(), 90)
    frame = visitor.at.dataframe[0].value
    assert list(frame["State"]) == ["done"] * 4
    assert all(link.startswith("Scores?run=") for link in frame["Open"])
    table = visitor.query()["table"]
    again = Visitor("pages/7_Sweep.py", table=table)
    assert "4 of 4 runs are done" in again.words()
    run_id = frame["Open"][0].split("=")[1]
    reader = Visitor("pages/3_Scores.py", run=run_id)
    assert "Teaching model" in reader.words()


def test_the_page_says_how_many_pairs_of_each_set_will_be_used(visitor: Visitor) -> None:
    mixed = PromptSet("mixed *up*", (*IOI.pairs[:2], PromptPair("", "a", (" Mary",))))
    visitor.work_on("teaching", mixed)
    visitor.run()
    pick(visitor.at, "sweep_models", ["teaching"])
    pick(visitor.at, "sweep_prompts", ["current", "teaching-ioi"])
    visitor.wait(lambda: "will be used" in visitor.words())
    assert "2 of 3 pairs of mixed *up* will be used with Teaching model: row 3 has problems." in visitor.words()
    assert "48 of 48 pairs of Indirect object identification will be used with Teaching model." in visitor.words()
    assert "(Glossary?term=prompt-check)" in visitor.at.warning[0].value


def test_the_page_says_why_nothing_can_be_run(visitor: Visitor) -> None:
    pick(visitor.at, "sweep_models", [])
    assert "at least one model" in visitor.errors()
    assert visitor.button("Run the sweep").disabled


def test_the_owners_limit_on_prompts_holds_for_a_sweep(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESCOPE_MOST_PROMPTS", "3")
    visitor.click("Run the sweep")
    assert "There are 8 prompt pairs, and this server allows 3 a run" in visitor.errors()


def test_a_link_to_a_table_gives_no_right_to_cancel_it(visitor: Visitor) -> None:
    jobs = [job_server().submit(count, LONG, owner="somebody") for _ in range(job_server().workers)]
    visitor.click("Run the sweep")
    address = visitor.query()
    assert "cancel-sweep" in [button.key for button in visitor.at.button]
    guest = Visitor("pages/7_Sweep.py", table=address["table"])
    assert "0 of 2 runs are done" in guest.words()
    assert "cancel-sweep" not in [button.key for button in guest.at.button]
    again = Visitor("pages/7_Sweep.py", **address)  # a reload
    again.at.button(key="cancel-sweep").click()
    again.run()
    guest.wait(lambda: "0 of 2 runs are done, 2 cancelled" in guest.words())
    for job in jobs:
        job.cancel()


def test_the_time_of_a_sweep_is_estimated_where_its_models_have_been_measured(visitor: Visitor) -> None:
    estimate.paces.clear()
    visitor.run()
    assert "Time is estimated for models that 2 · Attribute has estimated a run of." in visitor.words()
    visitor.go("pages/2_Attribute.py")
    visitor.wait(lambda: "and at most" in visitor.words(), 90)
    visitor.go("pages/7_Sweep.py")
    pick(visitor.at, "sweep_models", ["teaching"])
    assert "for all 2 runs; measuring their circuits comes on top" in visitor.words()
    pace = Pace(estimate.paces()["teaching", "auto", "auto"].shape, "cpu", 10**9, Line(10.0, 0.0), Line(100.0, 0.0))
    estimate.paces()["teaching", "auto", "auto"] = pace
    visitor.run()
    # Eight prompts are one batch: 1 and 5 steps of 100 s, and for each run three forward passes of 10 s.
    assert "About 11 min for all 2 runs" in visitor.words()
