"""What a session remembers for a few seconds.

    remember("clicked-run", True, 10)
    recall("clicked-run")                # True for ten seconds, then None
    forget("clicked-run")

A page may run again by itself at any moment: a cell of a table is left, a job ends, a fragment ticks. The run that it
breaks off may have learned something that the next one must still know, such as which button was clicked, or have said
something that nobody has read yet. That is written down here, for as long as it is likely to be news.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

import streamlit as st

from circuit.ui.frame import keys


def remember(key: str, value: Any, seconds: float) -> None:
    """Remember a value for some seconds, in place of what the key stood for."""
    _kept()[key] = (value, monotonic() + seconds)


def recall(key: str) -> Any:
    """What is remembered under the key; None if nothing is, any longer."""
    value, until = _kept().get(key, (None, 0.0))
    return value if monotonic() < until else None


def recall_all(prefix: str) -> list[Any]:
    """What is remembered under the keys that begin like this, in the order in which they were first used."""
    return [value for key in _kept() if key.startswith(prefix) and (value := recall(key)) is not None]


def forget(key: str) -> None:
    """Remember it no longer."""
    _kept().pop(key, None)


def _kept() -> dict[str, tuple[Any, float]]:
    return st.session_state.setdefault(keys.MEMORY, {})
