"""A session's jobs: one per slot, with a panel that shows progress, time left, and a cancel button.

    start("attribute", attribute, config, title="IOI on SmolLM2")    # on a click
    if value := follow("attribute", now=config):     # draws the panel while the job runs
        session.show_run(value)                      # its result, once

    value = computed(                                # without a click: starts the job when there is no answer yet
        "attention", read_attention, request, "Reading the attention pattern", known=find, keep=put, again="Try again"
    )

Everything that the session remembers of a job is written and read here alone.

The panel polls in a fragment, so the rest of the page is drawn once and stays usable. The job lives in the server: it
goes on when the page is left, and a reload finds it again by the id in the address. Any open page of the session counts
as looking at all its jobs (`watch`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import streamlit as st

from circuit.common.errors import CircuitError
from circuit.common.settings import settings
from circuit.common.words import seconds
from circuit.jobs.attribute import attribute
from circuit.jobs.shards import submit
from circuit.plots.curves import learning_curve
from circuit.ui.frame import address, click, explain, markdown, my_runs
from circuit.ui.frame.server import job_server, visitor
from circuit.workers.job import Job
from circuit.workers.worker import JobFunction

T = TypeVar("T")


@dataclass(frozen=True)
class _Ending:
    """How a slot's last job ended, where it has no result."""

    words: str
    cancelled: bool = False


def start(slot: str, function: JobFunction, request: Any, title: str) -> None:
    """Queue a job in this slot; a job of the same slot that is still going is cancelled."""
    if (old := running(slot)) is not None:
        old.cancel()
    forget_error(slot)
    st.session_state[f"request-{slot}"] = request
    try:
        keep = my_runs.keeper() if function is attribute else None
        job = submit(job_server(), function, request, title=title, owner=visitor(), note=slot, keep=keep)
        st.session_state[f"job-{slot}"] = job.id
    except CircuitError as error:
        fail(slot, str(error))


def hold(slot: str, job_id: str) -> None:
    """Follow a job in this slot that was submitted elsewhere."""
    forget_error(slot)
    st.session_state[f"job-{slot}"] = job_id


def fail(slot: str, words: str) -> None:
    """Say why there is no job in this slot."""
    st.session_state[f"error-{slot}"] = _Ending(words)


def failed(slot: str) -> bool:
    """Whether this slot's last job ended without a result."""
    return f"error-{slot}" in st.session_state


def forget_error(slot: str) -> None:
    """Take back what went wrong in this slot, or was done differently, so that it may be tried again."""
    st.session_state.pop(f"error-{slot}", None)
    st.session_state.pop(f"told-{slot}", None)


def watch() -> None:
    """Call on every page: its jobs go on as long as the session has a page open, whichever it is."""
    if any(_job(slot) is not None for slot in _slots()):
        st.fragment(_look_at_all, run_every=min(60.0, 15 * settings().unwatched_minutes))()


def _look_at_all() -> None:
    for slot in _slots():
        _job(slot)


def _slots() -> list[str]:
    return [key.removeprefix("job-") for key in map(str, st.session_state) if key.startswith("job-")]


def running(slot: str) -> Job | None:
    """The job of this slot, if it is not over."""
    job = _job(slot)
    return None if job is None or job.over else job


def computed(
    slot: str,
    function: JobFunction,
    request: Any,
    title: str,
    *,
    known: Callable[[], T | None],
    keep: Callable[[Any, Any], None],
    again: str | None = None,
    quiet: str | None = None,
) -> T | None:
    """The answer to a request, which is computed without being asked for; None, with the panel, until it is there.

    Args:
        slot: The slot, for all requests of one kind: a job that is going on is not stopped for the next one.
        function: What computes it.
        request: What is asked.
        title: What to call the job.
        known: The answer, where there is one already.
        keep: Takes a request and its result, which may be an earlier one than is asked for now.
        again: The label of a button that tries once more after an error; no button without it.
        quiet: A line to draw instead of the panel; an error is not shown then, either.
    """
    if f"job-{slot}" not in st.session_state and not failed(slot) and known() is None:
        start(slot, function, request, title)  # before the panel is drawn, which then stays where it is
    _keep_result(slot, keep, quiet)
    if (answer := known()) is not None:
        return answer
    if failed(slot):
        if again is not None and click.button(again, key=f"again-{slot}", help="Computes it once more."):
            forget_error(slot)
            click.run_again()
    elif f"job-{slot}" not in st.session_state:  # was drawn as going on, even if it has ended since
        start(slot, function, request, title)
        _keep_result(slot, keep, quiet)
        return known()
    return None


def _keep_result(slot: str, keep: Callable[[Any, Any], None], quiet: str | None) -> None:
    """Draw what there is to draw of the slot's job; hand on its result, if it has just come."""
    if (found := follow(slot, quiet=quiet)) is not None:
        keep(st.session_state[f"request-{slot}"], found)


def follow(
    slot: str, *, in_address: bool = False, now: Any = None, shared: bool = False, quiet: str | None = None
) -> Any:
    """Draw the panel while the slot's job goes on; hand back its result once, when it is there; else None.

    Why there is no result stays on the page, as a sentence, until the next start.

    Args:
        slot: The slot; what stands before its first dash is its name in the address.
        in_address: Keep the job's id in the page's address, so that a reload finds it.
        now: The request that a start would have now: once it is another, the sentence about the last one goes.
        shared: Whether other sessions wait for the same job, so that none of them may cancel it.
        quiet: A line to draw instead of the panel; why there is no result is not said then, either.
    """
    name = slot.partition("-")[0]
    if in_address and f"job-{slot}" not in st.session_state and (found := st.query_params.get(name)):
        job = job_server().get(found)
        if job is None or job.note == slot:  # and not that of another run
            st.session_state[f"job-{slot}"] = found
    job = _job(slot)
    over = job is not None and job.over  # asked once: what is not over now is drawn, though it may end meanwhile
    value = None
    if job is None:
        if st.session_state.pop(f"job-{slot}", None):
            words = "That job is no longer known: it ended long ago, or the server was started again since."
            st.session_state[f"error-{slot}"] = _Ending(words)
    elif over:
        del st.session_state[f"job-{slot}"]
        if job.error is None:
            value = job.result()
            st.session_state[f"told-{slot}"] = job.told
        else:
            st.session_state[f"error-{slot}"] = _Ending(job.error, job.state == "cancelled")
    if in_address:
        if f"job-{slot}" in st.session_state:
            st.query_params[name] = st.session_state[f"job-{slot}"]
        elif name in st.query_params:
            del st.query_params[name]
    with st.container():  # one place, whether or not there is a job: what follows is not drawn anew
        if job is not None and not over:
            if quiet is None:
                _panel(slot, _Ticks(), shared)
            else:
                _line(slot, _Ticks(), quiet)
        if quiet is None:
            _ending(slot, now)
    return value


def _ending(slot: str, now: Any) -> None:
    """What there is to say of the slot's last job, as long as the next one would be the same."""
    if now is not None and st.session_state.get(f"request-{slot}", now) != now:
        forget_error(slot)
    for sentence in st.session_state.get(f"told-{slot}", ()):
        st.warning(f"{markdown.plain(sentence)} {explain.more('batch-size')}")
    ending: _Ending | None = st.session_state.get(f"error-{slot}")
    if ending is None:
        return
    if ending.cancelled:
        st.info(markdown.plain(ending.words), icon=":material/cancel:")
    else:
        st.error(markdown.plain(ending.words), icon=":material/error:")


def _job(slot: str) -> Job | None:
    job_id = st.session_state.get(f"job-{slot}")
    return None if job_id is None else job_server().get(job_id)


class _Ticks:
    """Runs the page again from a fragment's ticks, but not from its first run: that is part of the page's own, which
    would forget the click that it runs for."""

    def __init__(self) -> None:
        self._first = True

    def run_page(self, *, over: bool) -> None:
        """Call at each run of the fragment; where what it waits for is `over`, the next tick does it."""
        first, self._first = self._first, False
        if over and not first:
            address.keep_puts()
            click.run_again()


@st.fragment(run_every=0.4)
def _panel(slot: str, ticks: _Ticks, shared: bool) -> None:
    job = _job(slot)
    ticks.run_page(over=job is None or job.over)
    if job is None:
        return
    with st.container(border=True):
        st.markdown(f"**{markdown.plain(job.title)}** — {_state(job)}")
        st.progress(min(1.0, job.step / job.total) if job.total else 0.0, text=_details(job))
        if job.figures:
            _curve(slot, job)
        if not shared:
            with st.container(horizontal=True):
                st.button("Cancel", key=f"cancel-{slot}", disabled=job.cancelling, on_click=job.cancel)
                if job.figures:
                    st.button(
                        "End here and keep",
                        key=f"settle-{slot}",
                        disabled=job.cancelling,
                        on_click=job.settle,
                        help="Ends the work with what there is by now, as its result.",
                    )


def _curve(slot: str, job: Job) -> None:
    """How far a job that improves step by step has come."""
    st.plotly_chart(
        learning_curve(job.figures, dark=st.context.theme.type == "dark"),
        key=f"figures-{slot}",
        alt=f"Distance from the model by step; after step {job.figures[-1][0]} it is {job.figures[-1][1]:.0%}.",
    )


@st.fragment(run_every=0.5)
def _line(slot: str, ticks: _Ticks, words: str) -> None:
    ticks.run_page(over=running(slot) is None)
    st.caption(words)


def _state(job: Job) -> str:
    if job.over:
        return "done"
    if job.cancelling:
        return "stopping …"
    if (state := job.state) == "running":
        return "running"
    if not job_server().devices:
        return "waiting for a worker"
    return _in_queue(job) if state == "queued" else "the worker is starting …"


def _in_queue(job: Job) -> str:
    """Its place, and what it waits for: who else computes what here is not for everybody to read."""
    if (ahead := job.ahead) is None:
        return "about to start"
    if not ahead.running:
        return f"number {ahead.waiting + 1} in the queue"
    if len(ahead.running) > 1:
        what = f"the first of {len(ahead.running)} running jobs"
    elif (other := ahead.running[0]).owner == job.owner:
        what = f"your own job “{markdown.plain(other.title)}”"
    else:
        what = "the job of another tab or visitor"
    left = "" if ahead.seconds is None else f", about {seconds(ahead.seconds)} to go"
    return f"number {ahead.waiting + 1} in the queue, waiting for {what}{left}"


def _details(job: Job) -> str:
    parts = [markdown.plain(job.message) or (f"step {job.step} of {job.total}" if job.total else " ")]
    if job.total:
        parts.append(f"{min(1.0, job.step / job.total):.0%}")
    if job.elapsed:
        parts.append(f"{seconds(job.elapsed)} so far")
    if job.remaining is not None:
        parts.append(f"about {seconds(job.remaining)} left")
    return " · ".join(parts)
