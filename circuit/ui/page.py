"""The frame of every page: title, sidebar, notices, the way to the next page."""

from __future__ import annotations

import streamlit as st

from circuit.catalogue import title_of
from circuit.ui import session
from circuit.ui.server import job_server

LANDING, PROMPTS, ATTRIBUTE = "app.py", "pages/1_Prompts.py", "pages/2_Attribute.py"
SCORES, CIRCUIT = "pages/3_Scores.py", "pages/4_Circuit.py"
PAGES = (
    (LANDING, "Start", "home"),
    (PROMPTS, "1 · Prompts", "edit_note"),
    (ATTRIBUTE, "2 · Attribute", "function"),
    (SCORES, "3 · Scores", "grid_on"),
    (CIRCUIT, "4 · Circuit", "account_tree"),
)


ALL_ZERO = (
    "Every score is zero: what is patched in equals what was there. Patch from the corrupt prompts, and run again."
)


def begin(title: str, lead: str) -> None:
    """Call first on every page. `lead` says in one or two sentences what the page is for."""
    st.set_page_config(page_title=f"{title} · Edgescope", page_icon="🔬", layout="wide")
    st.html("<style>.stMainBlockContainer {padding: 2.5rem 3rem 2rem}</style>")
    job_server()  # so that the worker warms up while the first page is read
    st.header(title, anchor=False)
    st.markdown(lead)
    if notice := st.session_state.pop("notice", None):
        st.warning(notice)
    _sidebar()


def is_dark() -> bool:
    """Whether the browser shows the dark theme."""
    return st.context.theme.type == "dark"


def next_step(page: str, label: str) -> None:
    """The one obvious way on."""
    if st.button(label, type="primary", icon=":material/arrow_forward:", key=f"next-{page}"):
        st.switch_page(page)


def need_run() -> None:
    """An empty state that says what to do, and ends the page."""
    st.info("There is nothing to show yet: run attribution first, or open the ready example.")
    left, right, _ = st.columns([1, 1, 3])
    if left.button("Set up a run", type="primary", width="stretch"):
        st.switch_page(PROMPTS)
    if right.button("Ready example", width="stretch"):
        st.switch_page(LANDING)
    st.stop()


def _sidebar() -> None:
    with st.sidebar:
        for target, label, icon in PAGES:
            st.page_link(target, label=label, icon=f":material/{icon}:")
        st.divider()
        st.caption(f"**Model**  \n{title_of(session.model_key())}")
        prompts = session.prompts()
        st.caption(f"**Prompts**  \n{prompts.name}, {len(prompts)} pairs")
        run = st.session_state.get("run")
        if run is not None:
            st.caption(f"**Run shown**  \n{run.caption}")
