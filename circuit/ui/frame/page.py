"""The frame of every page: title, sidebar, notices, the way to the next page."""

from __future__ import annotations

import logging

import streamlit as st

from circuit.common.errors import SettingsError
from circuit.common.settings import settings
from circuit.common.words import counted
from circuit.models.catalogue import title_of
from circuit.ui.frame import draft, explain, job_panel, keys, my_runs, session, shared_settings, tour
from circuit.ui.frame.markdown import plain
from circuit.ui.frame.navigation import LANDING, PAGES, parameters
from circuit.ui.frame.server import job_server

_log = logging.getLogger(__name__)
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
    with st.container():  # one place, whatever comes and goes in it: what follows stays, with its zoom and its clicks
        _server()
        _sign_in()
        job_panel.watch()
        draft.sync()
        my_runs.sync()
        shared_settings.take()
        session.find_run()  # the page says so where it cannot be shown
        st.header(title, anchor=False)
        st.markdown(lead)
        if notice := st.session_state.pop(keys.NOTICE, None):
            st.warning(f"{plain(notice)} {explain.more('run')}")
        shared_settings.show_said()
        _sidebar()
        here = st.session_state[keys.HERE] = next((target for target, label, _ in PAGES if label == title), LANDING)
        tour.card(here)


def _server() -> None:
    """Have a job server, so that its workers warm up while the first page is read."""
    try:
        job_server()
    except SettingsError as error:
        _log.error("%s", error)  # where files lie is for the owner's eyes only
        st.error(
            "This server's settings cannot be used. Its log says why; so does `python -m circuit.common.settings`."
        )
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


def _sidebar() -> None:
    with st.sidebar:
        for target, label, icon in PAGES:
            st.page_link(target, label=label, icon=f":material/{icon}:", query_params=parameters(target))
        tour.button("sidebar")
        st.divider()
        prompts = session.prompts()
        st.caption(
            f"**For the next run**  \n{plain(prompts.name)}, {counted(len(prompts), 'pair')}, "
            f"on {plain(title_of(session.model_key()))}"
        )
        run = session.run_shown()
        if run is not None:
            st.caption(f"**Run shown**  \n{plain(run.caption)}")
        if st.user.get("is_logged_in"):
            who = plain(str(st.user.get("email") or st.user.get("name") or ""))
            st.button("Sign out", key="sign-out", icon=":material/logout:", on_click=st.logout, help=who or None)
