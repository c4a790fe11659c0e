"""A click counts once, also where the page runs again before it reaches the button."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from circuit.ui.frame import address, click

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "app.py", *sorted((ROOT / "pages").glob("*.py")), *sorted((ROOT / "circuit" / "ui").rglob("*.py"))]


def page() -> None:
    import streamlit as st

    from circuit.ui.frame import click

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
    return AppTest.from_function(page, default_timeout=300).run()


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
    monkeypatch.setattr(click, "_SECONDS", 0.0)
    at.session_state["away"] = True
    at.button(key="go").click().run()
    at.session_state["away"] = False
    at.run()
    assert went(at) == 0


def page_with_a_form() -> None:
    import streamlit as st

    from circuit.ui.frame import click

    if st.session_state.pop("again", False):
        st.rerun()
    with st.form("label"):
        name = st.text_input("Name")
        if click.submit("Save", key="save"):
            st.session_state["saved"] = name


def test_a_form_is_sent_where_the_page_runs_again_before_it() -> None:
    at = AppTest.from_function(page_with_a_form, default_timeout=300).run()
    at.session_state["again"] = True
    at.text_input[0].set_value("mine")
    at.button(key="save").click().run()
    assert at.session_state["saved"] == "mine"


def acted_on(source: str) -> list[str]:
    """The calls of Streamlit's buttons whose answer is used, and that have no callback."""
    tree = ast.parse(source)
    unused = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        ast.unparse(call)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in ("button", "form_submit_button")
        and ast.unparse(call.func.value) != "click"
        and id(call) not in unused
        and not any(keyword.arg == "on_click" for keyword in call.keywords)
    ]


def test_such_buttons_are_found() -> None:
    assert acted_on("if st.button('Go'): go()") == ["st.button('Go')"]
    assert acted_on("sent = left.form_submit_button('Go')") == ["left.form_submit_button('Go')"]
    assert not acted_on("if click.button('Go', key='go'): go()\nst.button('Go', on_click=go)\ntour.button('here')")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_pages_act_on_no_button_that_may_forget_its_click(path: Path) -> None:
    assert not acted_on(path.read_text())


def page_with_an_address() -> None:
    import streamlit as st

    from circuit.ui.frame import address

    if st.session_state.pop("clicked", False):
        address.put("look", "edge:1")
    if st.session_state.pop("ticked", False):
        address.keep_puts()
    st.text(st.query_params.get("look", "nothing"))


@pytest.mark.parametrize(("on_the_way", "shown"), [(60.0, "edge:1"), (0.0, "node:A1.2")])
def test_a_tick_that_was_sent_before_a_click_does_not_take_it_back(
    monkeypatch: pytest.MonkeyPatch, on_the_way: float, shown: str
) -> None:
    monkeypatch.setattr(address, "_ON_THE_WAY", on_the_way)
    at = AppTest.from_function(page_with_an_address, default_timeout=300)
    at.query_params["look"] = "node:A1.2"
    at.session_state["clicked"] = True
    at.run()
    assert at.text[0].value == "edge:1"
    at.query_params["look"] = "node:A1.2"  # of a message that was sent before the click's answer came
    at.session_state["ticked"] = True
    at.run()
    assert at.text[0].value == shown
