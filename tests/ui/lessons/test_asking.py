"""What a class waits for together cannot be cancelled by one of it."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

pytestmark = pytest.mark.usefixtures("pages_worker")


def lesson() -> None:
    from circuit.ui.frame import job_panel
    from circuit.ui.lessons import asking
    from tests.job_functions import count

    class Question(dict):  # what the job takes, as something that can be a key
        def __hash__(self) -> int:  # type: ignore[override]
            return 1

    asking._PATIENCE = 0.0
    asking.ask(count, Question(steps=1000, seconds=0.05), "Counting for all")
    job_panel.start("mine", count, {"steps": 1000, "seconds": 0.05}, title="Counting for me")
    job_panel.follow("mine")


def test_only_ones_own_job_can_be_cancelled() -> None:
    one, other = (AppTest.from_function(lesson, default_timeout=300).run() for _ in range(2))
    assert not one.exception
    assert one.session_state["job-lesson-count"] == other.session_state["job-lesson-count"]
    assert any("Counting for all" in words.value for words in other.markdown)
    assert [button.key for button in other.button] == ["cancel-mine"]
