"""The one job server of this web process. Its worker starts in the background while the first page is drawn."""

from __future__ import annotations

import streamlit as st

from circuit.jobs import JobServer


@st.cache_resource(show_spinner=False, on_release=JobServer.close)
def job_server() -> JobServer:
    return JobServer()
