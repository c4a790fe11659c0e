"""A click counts once, also where the page runs again before it reaches the button."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from circuit.ui import click


def page() -> None:
    import streamlit as st

    from circuit.ui import click

    if st.session_state.pop("again", False):
        st.rerun()
    if st.session_state.get("away"):
        st.stop()
    if click.button("Go", key="go"):
        st.session_state["went"] = st.session_state.get("went", 0) + 1
    if st.button("Streamlit's own"):
        st.session_state["own"] = True


@pytest.fixture
def at() -> AppTest:
    return AppTest.from_function(page).run()


def went(at: AppTest) -> int:
    return at.session_state["went"] if "went" in at.session_state else 0  # noqa: SIM401


def test_a_click_counts_once(at: AppTest) -> None:
    assert went(at) == 0
    at.button(key="go").click().run()
    at.run()
    assert went(at) == 1


def test_a_click_is_not_lost_where_the_page_runs_again_before_the_button(at: AppTest) -> None:
    at.session_state["again"] = True
    at.button[1].click().run()
    assert "own" not in at.session_state  # what the others are for
    at.session_state["again"] = True
    at.button(key="go").click().run()
    assert went(at) == 1


def test_a_click_is_let_go_where_its_button_is_not_drawn_for_long(at: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    at.session_state["away"] = True
    at.button(key="go").click().run()
    monkeypatch.setattr(click, "_SECONDS", 0.0)
    at.session_state["away"] = False
    at.run()
    assert went(at) == 0
