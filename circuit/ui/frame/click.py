"""Buttons whose click is not lost.

    if click.button("Run", key="run"):
        ...

A page that runs itself again (`st.rerun`) before it reaches a button forgets the click that it ran for: Streamlit
ends a click with the run that it began. That happens where a cell of a table is left by clicking the button, or a job
ends at that moment. So the click is written down by the button's callback, which runs first of all, and read where the
button stands. Every button that a page acts on is one of these, unless it acts in a callback of its own.
"""

from __future__ import annotations

import time
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

_SECONDS = 10.0
"""How long a click waits for its page: whoever has left for another page by then does not want it any more."""


def button(label: str, *, key: str, at: DeltaGenerator | None = None, **options: Any) -> bool:
    """Draw the button, in `at` if given; says, once a click, whether it was clicked. `options` are Streamlit's."""
    draw = st.button if at is None else at.button
    draw(label, key=key, on_click=_remember, args=(key,), **options)
    return _was_clicked(key)


def submit(label: str, *, key: str, **options: Any) -> bool:
    """The same of the button that sends a form."""
    st.form_submit_button(label, key=key, on_click=_remember, args=(key,), **options)
    return _was_clicked(key)


def _was_clicked(key: str) -> bool:
    since = st.session_state.pop(f"clicked-{key}", None)
    return since is not None and time.monotonic() - since < _SECONDS


def _remember(key: str) -> None:
    st.session_state[f"clicked-{key}"] = time.monotonic()
