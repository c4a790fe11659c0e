"""The one job server of this web process. Its workers start in the background while the first page is drawn."""

from __future__ import annotations

import ipaddress
import os
import uuid
from collections import Counter
from urllib.parse import quote

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from circuit.common.settings import settings
from circuit.common.words import counted
from circuit.jobs.limits import check_request, is_short
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
        jobs_per_place=owners.jobs_per_address,
        jobs_in_queue=owners.jobs_in_queue,
        check=check_request,
        short=is_short,
        watcher=_session,
        present=_is_connected,
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
    """Whose jobs this session's are: the signed-in visitor's, or the session's own, at its network address."""
    if st.user.get("is_logged_in") and (account := st.user.get("sub")):
        return quote(str(account), safe="")
    own = str(st.session_state.setdefault(keys.VISITOR, uuid.uuid4().hex))
    return "/".join([*_network(st.context.ip_address), own])


def _network(address: str | None) -> list[str]:
    """Who shares the visitor's address: with IPv6, every machine has 2^64 of them. Nothing where it is this machine's,
    which is also what a proxy that does not say for whom it asks has."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return []
    if isinstance(found, ipaddress.IPv6Address) and not found.is_loopback:
        found = found.ipv4_mapped or ipaddress.IPv6Address(int(found) >> 64 << 64)
    return [] if found.is_loopback else [str(found)]


def _session() -> str:
    """The browser session whose page asks; "" outside a page."""
    context = get_script_run_ctx(suppress_warning=True)
    return "" if context is None else context.session_id


def _is_connected(session: str) -> bool:
    """Whether a browser shows a page of this session: in front or hidden, but not closed."""
    return runtime.exists() and runtime.get_instance().is_active_session(session) is True
