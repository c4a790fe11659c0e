"""The options that most widgets share.

    st.slider("Samples N", 1, 30, 5, **kept(keys.SAMPLES))                # is the same after a visit to another page
    st.selectbox("Choose by", RULES, **in_address(keys.SIZE_RULE, RULES))       # and stands in the page's address

Streamlit forgets a widget that a page does not draw, unless it is told to keep its state for the session.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from circuit.ui.frame import address


def kept(key: str) -> dict[str, Any]:
    """Options of a widget whose value outlives a visit to another page."""
    return {"key": key, "persist_state": "session"}


def in_address(key: str, choices: Collection[str] | None = None) -> dict[str, Any]:
    """The same for a widget whose value also stands in the address, under its key.

    Where the address names none of the `choices`, which Streamlit would silently drop, a warning says so.
    """
    if choices is not None:
        address.chosen(key, choices)
    return kept(key) | {"bind": "query-params"}
