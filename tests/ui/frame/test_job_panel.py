"""What is computed without a click: begun once, kept once, tried again on request; its keys are the panel's own."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from circuit.ui.frame.server import job_server
from circuit.workers.job import Job

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.usefixtures("pages_worker")
FILES = [ROOT / "app.py", *sorted((ROOT / "pages").glob("*.py")), *sorted((ROOT / "circuit" / "ui").rglob("*.py"))]


def page() -> None:
    import streamlit as st

    from circuit.ui.frame import job_panel
    from tests.job_functions import awkward_error, count

    asked = {"steps": st.session_state.get("steps", 2), "seconds": 0.01}
    known = st.session_state.setdefault("known", {})
    found = job_panel.computed(
        "mine",
        awkward_error if st.session_state.get("fails") else count,
        asked,
        "Counting",
        known=lambda: known.get(asked["steps"]),
        keep=lambda request, result: known.update({request["steps"]: (len(known), result)}),
        again="Try again",
        quiet="Counting quietly" if st.session_state.get("quiet") else None,
    )
    if found is not None:
        st.text(f"answer {found[0]}")


def until(at: AppTest, there: Callable[[AppTest], object]) -> AppTest:
    end = time.monotonic() + 300
    while not there(at):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.05)
        at.run()
        assert not at.exception
    return at


def test_it_is_begun_by_itself_and_its_result_is_kept_once() -> None:
    at = AppTest.from_function(page, default_timeout=300).run()
    until(at, lambda at: at.text)
    assert at.text[0].value == "answer 0"
    at.run()
    assert at.text[0].value == "answer 0"
    assert len(at.session_state["known"]) == 1


def test_a_result_is_kept_for_the_request_it_answers_though_another_is_wanted_by_then() -> None:
    at = AppTest.from_function(page, default_timeout=300).run()
    at.session_state["steps"] = 3
    at.run()
    until(at, lambda at: at.text)
    assert list(at.session_state["known"]) == [2, 3]


def test_an_error_stays_until_it_is_tried_again() -> None:
    at = AppTest.from_function(page, default_timeout=300)
    at.session_state["fails"] = True
    until(at.run(), lambda at: at.error)
    at.run()
    assert len(at.error) == 1
    assert not at.text
    at.session_state["fails"] = False
    at.button(key="again-mine").click().run()
    until(at, lambda at: at.text)
    assert not at.error


def test_what_is_computed_quietly_shows_a_line_and_no_error() -> None:
    at = AppTest.from_function(page, default_timeout=300)
    at.session_state["fails"] = at.session_state["quiet"] = True
    at.run()
    assert [line.value for line in at.caption] == ["Counting quietly"]
    assert not [button for button in at.button if button.key == "cancel-mine"]
    until(at, lambda at: not at.caption)
    assert not at.error


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("looks", range(8))
def test_a_job_that_ends_between_two_looks_at_it_is_shown_as_going_on_or_kept(
    looks: int, quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = AppTest.from_function(page, default_timeout=300)
    at.session_state["quiet"] = quiet
    at.run()
    job = job_server().get(at.session_state["job-mine"])
    assert job is not None
    assert job.wait(300)
    looked = itertools.count()
    monkeypatch.setattr(Job, "over", property(lambda job: job._over.is_set() and next(looked) >= looks))
    at.run()
    assert not at.exception
    going_on = at.caption if quiet else [button for button in at.button if button.key == "cancel-mine"]
    assert len(at.text) + len(going_on) == 1
    until(at, lambda at: at.text)
    assert len(at.session_state["known"]) == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_job_panel_touches_its_keys(path: Path) -> None:
    if path.name != "job_panel.py":
        text = path.read_text()
        for start in ("error-", "job-", "told-", "request-"):
            assert f'"{start}' not in text, f"{path.name} names a key of the job panel: {start}"
