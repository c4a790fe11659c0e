"""A session's jobs: one a slot, with a panel that shows progress, time left, and a cancel button.

    start("attribute", attribute, config, title="IOI on SmolLM2")
    if value := follow("attribute"):         # draws the panel while the job runs
        session.show_run(value)              # its result, once

The panel polls in a fragment, so the rest of the page is drawn once and stays usable. The job lives in the server: it
goes on when the page is left, and a reload finds it again by the id in the address.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from circuit.errors import CircuitError
from circuit.jobs import Job
from circuit.ui.server import job_server
from circuit.worker import JobFunction


def start(slot: str, function: JobFunction, request: Any, title: str) -> None:
    """Queue a job in this slot; a job of the same slot that is still going is cancelled."""
    if (old := running(slot)) is not None:
        old.cancel()
    st.session_state.pop(f"error-{slot}", None)
    try:
        st.session_state[f"job-{slot}"] = job_server().submit(function, request, title=title).id
    except CircuitError as error:
        st.session_state[f"error-{slot}"] = str(error)


def running(slot: str) -> Job | None:
    """The job of this slot, if it is not over."""
    job = _job(slot)
    return None if job is None or job.over else job


def follow(slot: str, *, in_address: bool = False) -> Any:
    """Draw the panel while the slot's job goes on; hand back its result once, when it is there; else None.

    An error stays on the page, as a sentence, until the next start.

    Args:
        slot: The slot.
        in_address: Keep the job's id in the page's address, so that a reload finds it.
    """
    if in_address and f"job-{slot}" not in st.session_state and (found := st.query_params.get(slot)):
        st.session_state[f"job-{slot}"] = found
    job = _job(slot)
    value = None
    if job is None:
        if st.session_state.pop(f"job-{slot}", None):
            st.session_state[f"error-{slot}"] = "That job is no longer known: the server was started again since."
    elif job.over:
        del st.session_state[f"job-{slot}"]
        if job.error is None:
            value = job.result()
        else:
            st.session_state[f"error-{slot}"] = job.error
    if in_address:
        if f"job-{slot}" in st.session_state:
            st.query_params[slot] = st.session_state[f"job-{slot}"]
        elif slot in st.query_params:
            del st.query_params[slot]
    if job is not None and not job.over:
        _panel(slot)
    if message := st.session_state.get(f"error-{slot}"):
        st.error(message, icon=":material/error:")
    return value


def _job(slot: str) -> Job | None:
    job_id = st.session_state.get(f"job-{slot}")
    return None if job_id is None else job_server().get(job_id)


@st.fragment(run_every=0.4)
def _panel(slot: str) -> None:
    job = _job(slot)
    if job is None or job.over:
        st.rerun(scope="app")
        return
    with st.container(border=True):
        st.markdown(f"**{job.title}** — {_state(job)}")
        st.progress(min(1.0, job.step / job.total) if job.total else 0.0, text=_details(job))
        st.button("Cancel", key=f"cancel-{slot}", disabled=job.cancelling, on_click=job.cancel)


def _state(job: Job) -> str:
    if job.cancelling:
        return "stopping …"
    if job.state == "queued":
        return f"number {job.position} in the queue"
    return "the worker is starting …" if job.state == "starting" else "running"


def _details(job: Job) -> str:
    parts = [job.message or " "]
    if job.total:
        parts.append(f"step {job.step} of {job.total}")
    if job.elapsed:
        parts.append(f"{job.elapsed:.0f} s so far")
    if job.remaining is not None:
        parts.append(f"about {job.remaining:.0f} s left")
    return " · ".join(parts)
