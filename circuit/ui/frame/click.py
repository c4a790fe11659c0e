"""Buttons and links whose click is not lost.

    if click.button("Run", key="run"):
        ...
        click.run_again()               # st.rerun for all pages

A page that runs again by itself before it reaches a button forgets the click that it ran for: Streamlit ends a click
with the run that it began. So the button's callback, which runs first of all, remembers the click
(`circuit.ui.frame.memory`), and it is recalled where the button stands. Every button that a page acts on is one of
these, unless it acts in a callback of its own.

A page that asks to be run again takes the place of whatever the visitor has asked for since Streamlit last looked: a
click on a link then leads nowhere. So pages run again by `run_again`, which lets Streamlit look first.
"""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from circuit.ui.frame import memory

_SECONDS = 10.0
"""How long a click waits for its page: a visitor who has left for another page by then no longer wants it."""


def button(label: str, *, key: str, at: DeltaGenerator | None = None, **options: Any) -> bool:
    """Draw the button, in `at` if given; says, once a click, whether it was clicked. `options` are Streamlit's."""
    draw = st.button if at is None else at.button
    draw(label, key=key, on_click=_remember, args=(key,), **options)
    return _was_clicked(key)


def submit(label: str, *, key: str, **options: Any) -> bool:
    """The same of the button that sends a form."""
    st.form_submit_button(label, key=key, on_click=_remember, args=(key,), **options)
    return _was_clicked(key)


def run_again(scope: Literal["app", "fragment"] = "app") -> NoReturn:
    """`st.rerun`, after what the visitor has asked for meanwhile, if anything."""
    st.empty()  # any element will do: Streamlit looks for requests wherever one is drawn
    st.rerun(scope=scope)


def _was_clicked(key: str) -> bool:
    clicked = memory.recall(f"clicked-{key}") is not None
    memory.forget(f"clicked-{key}")
    return clicked


def _remember(key: str) -> None:
    memory.remember(f"clicked-{key}", True, _SECONDS)
