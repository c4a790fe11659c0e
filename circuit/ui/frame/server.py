"""The one job server of this web process. Its workers start in the background while the first page is drawn."""

from __future__ import annotations

import os
import uuid
from collections import Counter

import streamlit as st

from circuit.common.settings import settings
from circuit.common.words import counted
from circuit.jobs.limits import check_request
from circuit.ui.frame import keys
from circuit.workers.cluster import default_devices
from circuit.workers.server import JobServer


@st.cache_resource(show_spinner=False, on_release=JobServer.close)
def job_server() -> JobServer:
    """The server, as its owner has settled it.

    Raises:
        SettingsError: A setting that cannot be used.
    """
    owners = settings()
    return JobServer(
        owners.scheduler or None,
        devices=owners.devices or default_devices(),
        cpu_workers=owners.cpu_workers,
        memory_limit=owners.memory_limit or None,
        jobs_per_owner=owners.jobs_per_session,
        jobs_in_queue=owners.jobs_in_queue,
        check=check_request,
        abandon_after=60 * owners.unwatched_minutes,
        longest=60 * owners.longest_job_minutes or None,
    )


def computing_on() -> str:
    """What jobs run on, in words."""
    if settings().scheduler:
        return f"a cluster with {counted(len(job_server().devices), 'worker')}"
    kinds = Counter(name.partition(":")[0] for name in settings().devices or default_devices())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    words = {
        "cuda": counted(kinds["cuda"], "GPU"),
        "mps": "Apple's GPU",
        "cpu": counted(cores, "CPU core"),
    }
    return " and ".join(words[kind] for kind in kinds)


def visitor() -> str:
    """Whose jobs this session's are: the signed-in visitor's, or the session's own."""
    signed_in = st.user.get("sub") if st.user.get("is_logged_in") else None
    return str(signed_in or st.session_state.setdefault(keys.VISITOR, uuid.uuid4().hex))
