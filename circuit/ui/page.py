"""The frame of every page: title, sidebar, notices, the way to the next page."""

from __future__ import annotations

import logging
import re

import streamlit as st

from circuit.catalogue import title_of
from circuit.errors import SettingsError
from circuit.settings import settings
from circuit.ui import address, click, draft, explain, job_panel, my_runs, session, shared_settings, tour
from circuit.ui.server import job_server
from circuit.wording import counted

_log = logging.getLogger(__name__)

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


ALL_ZERO = (
    "Every score is zero: what is patched in equals what was there. Patch from the corrupt prompts, and run again. "
    f"{explain.more('ablation')}"
)


_CSS = """
.stMainBlockContainer {padding: 2.5rem 3rem 2rem}
[data-testid="stCaptionContainer"], [data-testid="stCaptionContainer"] :is(p, a, li) {opacity: 1}
[data-testid="stCaptionContainer"] {color: color-mix(in srgb, currentColor 75%, transparent)}
.js-plotly-plot :is(.infolayer text, .xtick text, .ytick text)
    {fill: color-mix(in srgb, currentColor 80%, transparent) !important}
.katex-display {overflow: visible !important}
"""
"""Streamlit's captions, and the words of its charts, are too faint to be read by everybody: their contrast is below
4.5."""
_CSS_DARK = """
[data-testid="stBaseButton-primary"]:not(:disabled), .stMultiSelect :is(span[title], span[title] ~ *)
    {color: #10202f}
"""
"""So are white words on a button, or a chosen option, whose blue is light enough to be read as text on a dark page."""


def begin(title: str, lead: str) -> None:
    """Call first on every page. `lead` says in one or two sentences what the page is for."""
    st.set_page_config(page_title=f"{title} · Edgescope", page_icon="🔬", layout="wide")
    st.html(f"<style>{_CSS}{_CSS_DARK if is_dark() else ''}</style>")
    _server()
    _sign_in()
    job_panel.watch()
    draft.sync()
    my_runs.sync()
    shared_settings.take()
    session.find_run()  # the page says so where it cannot be shown
    st.header(title, anchor=False)
    st.markdown(lead)
    if notice := st.session_state.pop("notice", None):
        st.warning(f"{notice} {explain.more('run')}")
    shared_settings.show_said()
    _sidebar()
    here = st.session_state["here"] = next((target for target, label, _ in PAGES if label == title), LANDING)
    tour.card(here)


def _server() -> None:
    """Have a job server, so that its workers warm up while the first page is read."""
    try:
        job_server()
    except SettingsError as error:
        _log.error("%s", error)  # where files lie is for the owner's eyes only
        st.error("This server's settings cannot be used. Its log says why; so does `python -m circuit.settings`.")
        st.stop()


def _sign_in() -> None:
    """Where the owner wants it, show nothing to a visitor who has not signed in."""
    if not settings().require_login or st.user.get("is_logged_in"):
        return
    if "is_logged_in" not in st.user:
        st.error(
            "This server asks its visitors to sign in, and its owner has not named a provider: see docs/server.md."
        )
        st.stop()
    st.header("Edgescope", anchor=False)
    st.markdown("Please sign in to use this server.")
    st.button("Sign in", type="primary", icon=":material/login:", on_click=st.login)
    st.stop()


def is_dark() -> bool:
    """Whether the browser shows the dark theme."""
    return st.context.theme.type == "dark"


def plain(text: str) -> str:
    """Text as it is, where markdown is read: prompts may hold any of its marks."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text).replace("\n", " ")


def next_step(page: str, label: str) -> None:
    """The one obvious way on."""
    title = next(title for target, title, _ in PAGES if target == page)
    icon = ":material/arrow_forward:"
    if click.button(label, key=f"next-{page}", type="primary", icon=icon, help=f"Leads to {title}."):
        go(page)


def go(page: str) -> None:
    """Switch to a page, with all that its address says, or show this one anew."""
    if page != st.session_state.get("here"):
        st.switch_page(page, query_params=parameters(page))
    # This page's widgets hold their part of the address, and Streamlit lets nobody else write it.
    for name, value in tour.parameters().items():
        st.query_params[name] = value
    if "run" not in st.session_state:
        st.query_params.pop("run", None)
    st.rerun()


def parameters(page: str) -> dict[str, str]:
    """What a link to the page carries: the run it shows, what was chosen there, and the step of the tour."""
    run = st.session_state.get("run")
    of_run = address.recall(page, run.id) if run is not None and page in (SCORES, CIRCUIT) else {}
    return {name: value for name, value in of_run.items() if name != "tour"} | tour.parameters()


def need_run() -> None:
    """An empty state that says what to do, and ends the page."""
    st.info("There is nothing to show yet: run attribution first, or open a ready example.")
    left, right, _ = st.columns([1, 1, 3])
    words = "Leads to 1 · Prompts, where a model and prompts are chosen."
    if click.button("Set up a run", key="need-run-prompts", at=left, type="primary", width="stretch", help=words):
        go(PROMPTS)
    if click.button(
        "Ready examples", key="need-run-examples", at=right, width="stretch",
        help="Leads to the start page, with finished circuits a click away.",
    ):  # fmt: skip
        go(LANDING)
    st.stop()


def _sidebar() -> None:
    with st.sidebar:
        for target, label, icon in PAGES:
            st.page_link(target, label=label, icon=f":material/{icon}:", query_params=parameters(target))
        tour.button("sidebar")
        st.divider()
        st.caption(f"**Model**  \n{plain(title_of(session.model_key()))}")
        prompts = session.prompts()
        st.caption(f"**Prompts**  \n{plain(prompts.name)}, {counted(len(prompts), 'pair')}")
        run = st.session_state.get("run")
        if run is not None:
            st.caption(f"**Run shown**  \n{plain(run.caption)}")
        if st.user.get("is_logged_in"):
            who = plain(str(st.user.get("email") or st.user.get("name") or ""))
            st.button("Sign out", key="sign-out", icon=":material/logout:", on_click=st.logout, help=who or None)
