"""The pages, and the ways between them, which carry along what the address says."""

from __future__ import annotations

from typing import NoReturn

import streamlit as st

from circuit.ui.frame import address, click, keys, session

LANDING, PROMPTS, ATTRIBUTE = "app.py", "pages/1_Prompts.py", "pages/2_Attribute.py"
SCORES, CIRCUIT = "pages/3_Scores.py", "pages/4_Circuit.py"
RUNS, COMPARE, SWEEP = "pages/5_Runs.py", "pages/6_Compare.py", "pages/7_Sweep.py"
LEARN, GLOSSARY = "pages/8_Learn.py", "pages/9_Glossary.py"
PAGES = (
    (LANDING, "Start", "home"),
    (PROMPTS, "1 · Prompts", "edit_note"),
    (ATTRIBUTE, "2 · Attribute", "function"),
    (SCORES, "3 · Scores", "grid_on"),
    (CIRCUIT, "4 · Circuit", "account_tree"),
    (RUNS, "5 · Runs", "history"),
    (COMPARE, "6 · Compare", "compare_arrows"),
    (SWEEP, "Sweep", "grid_view"),
    (LEARN, "Learn", "school"),
    (GLOSSARY, "Glossary", "menu_book"),
)


def next_step(page: str, label: str) -> None:
    """The one obvious way on."""
    title = next(title for target, title, _ in PAGES if target == page)
    icon = ":material/arrow_forward:"
    if click.button(label, key=f"next-{page}", type="primary", icon=icon, help=f"Leads to {title}."):
        go(page)


def go(page: str) -> None:
    """Switch to a page, with all that its address says, or show this one anew."""
    if page != st.session_state.get(keys.HERE):
        st.switch_page(page, query_params=parameters(page))
    # This page's widgets hold their part of the address, and Streamlit lets nobody else write it.
    for name, value in tour_step().items():
        st.query_params[name] = value
    if keys.RUN not in st.session_state:
        st.query_params.pop("run", None)
    click.run_again()


def parameters(page: str) -> dict[str, str]:
    """What a link to the page carries: the run it shows, what was chosen there, and the step of the tour."""
    run = session.run_shown()
    of_run = address.kept(page, run.id) if run is not None and page in (SCORES, CIRCUIT) else {}
    return {name: value for name, value in of_run.items() if name != "tour"} | tour_step()


def tour_step() -> dict[str, str]:
    """What links between pages carry of the tour."""
    return {"tour": str(st.session_state[keys.TOUR_STEP] + 1)} if keys.TOUR_STEP in st.session_state else {}


def need_run() -> NoReturn:
    """An empty state that says what to do, and ends the page."""
    st.info("There is nothing to show yet: run attribution first, or open a ready example.")
    left, right, _ = st.columns([1, 1, 3])
    words = "Leads to 1 · Prompts, where a model and prompts are chosen."
    if click.button("Set up a run", key="need-run-prompts", at=left, type="primary", width="stretch", help=words):
        go(PROMPTS)
    if click.button(
        "Ready examples",
        key="need-run-examples",
        at=right,
        width="stretch",
        help="Leads to the start page, with finished circuits a click away.",
    ):
        go(LANDING)
    st.stop()
