"""What a session remembers is there for the next run of the page, and gone when its time is over."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from circuit.ui.frame import memory


def page() -> None:
    import streamlit as st

    from circuit.ui.frame import memory

    if "begun" not in st.session_state:
        st.session_state["begun"] = True
        memory.remember("put-a", 1, 10)
        memory.remember("put-b", 2, 4)
        memory.remember("said", "words", 10)
        memory.remember("dropped", "words", 10)
        memory.forget("dropped")
        st.rerun()
    st.text([memory.recall("said"), memory.recall("dropped"), memory.recall_all("put-")])


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "['words', None, [1, 2]]"),
        (3.9, "['words', None, [1, 2]]"),
        (5, "['words', None, [1]]"),
        (10, "[None, None, []]"),
    ],
)
def test_what_is_remembered_outlives_a_run_of_the_page_but_not_its_time(
    monkeypatch: pytest.MonkeyPatch, seconds: float, shown: str
) -> None:
    now = 100.0
    monkeypatch.setattr(memory, "monotonic", lambda: now)
    at = AppTest.from_function(page, default_timeout=300).run()
    now += seconds
    at.run()
    assert at.text[0].value == shown
