"""Answers for the lessons: computed once for everybody, and quick ones without a panel.

    ask    a job's result, known or new; None, with the job's panel on the page, while it is not there

    if (found := ask(survey, SurveyRequest(LESSON), "Measuring all edges")) is None:
        return

A class opens the same lesson at the same moment: whoever asks for what is being computed already waits for that job,
which nobody can cancel for the others. An answer that takes a fraction of a second, as one to a click, is waited for in
place, so the page does not flicker.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import streamlit as st

from circuit.common.errors import CircuitError
from circuit.ui.frame import job_panel
from circuit.ui.frame.server import job_server, visitor

_MOST = 2000
"""Answers kept for all sessions; the least recently used go first. One takes a few kilobytes."""
_PATIENCE = 1.5
"""Seconds that an answer is waited for in place."""

T = TypeVar("T")


class _Shelf:
    """The answers known to this server, and the jobs that are about to give some."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.answers: OrderedDict[Hashable, Any] = OrderedDict()
        self.jobs: dict[Hashable, str] = {}

    def find(self, question: Hashable) -> Any:
        with self.lock:
            if question in self.answers:
                self.answers.move_to_end(question)
            return self.answers.get(question)

    def put(self, question: Hashable, answer: Any) -> None:
        with self.lock:
            self.jobs.pop(question, None)
            self.answers[question] = answer
            while len(self.answers) > _MOST:
                self.answers.popitem(last=False)

    def job(self, question: Hashable, function: Callable[..., Any], request: Any, title: str) -> str:
        """The id of the job that will answer: one that goes on already, or a new one."""
        with self.lock:
            known = job_server().get(self.jobs.get(question, ""))
            if known is None or known.error is not None:
                known = job_server().submit(function, request, title=title, owner=visitor())
                self.jobs[question] = known.id
            return known.id


@st.cache_resource(show_spinner=False)
def _shelf() -> _Shelf:
    return _Shelf()


def ask(function: Callable[..., T], request: Hashable, title: str) -> T | None:
    """The result of the job function for this request, as soon as it is there.

    An error stays as a sentence, with a button to try again.
    """
    shelf, name = _shelf(), getattr(function, "__name__", "")
    question, slot = (name, request), f"lesson-{name}"
    if (answer := shelf.find(question)) is not None:
        return answer
    if st.session_state.get(f"asked-{slot}") != request:
        job_panel.forget_error(slot)
        try:
            job_panel.hold(slot, shelf.job(question, function, request, title))
            st.session_state[f"asked-{slot}"] = request
        except CircuitError as error:
            job_panel.fail(slot, str(error))
    if (job := job_panel.running(slot)) is not None:
        job.wait(_PATIENCE)
    answer = job_panel.follow(slot, shared=True)
    if answer is not None:
        shelf.put(question, answer)
        st.session_state.pop(f"asked-{slot}", None)
    elif job_panel.failed(slot):
        st.button(
            "Try again",
            key=f"again-{slot}",
            help="Computes it once more.",
            on_click=lambda: st.session_state.pop(f"asked-{slot}", None),
        )
    return answer
