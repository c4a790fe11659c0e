"""The draft that a session keeps on disk, so that a reload finds its model and prompts again by the id in the address.

A session writes drafts of its own only: whoever opens another's address gets a copy as soon as they edit. During the
tour, what is kept is not the tour's example but what the visitor had before.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import streamlit as st

from circuit.common.settings import runs_folder
from circuit.runs.drafts import Draft, load_draft, save_draft
from circuit.ui.frame import keys, session, tour


def sync() -> None:
    """Call at the start of every page: take the draft from the address, or write what has changed since."""
    folder = runs_folder() / "drafts"
    if keys.DRAFT not in st.session_state:
        st.session_state[keys.DRAFT] = (st.query_params.get("draft"), _restored(folder))
    draft_id, saved = st.session_state[keys.DRAFT]
    now = Draft(*tour.own(), st.session_state.get(keys.BOS, session.BOS_CHOICES[0]), tour.left_at())
    if now != saved:
        if not st.session_state.get(keys.DRAFT_IS_OWN):
            draft_id, st.session_state[keys.DRAFT_IS_OWN] = uuid.uuid4().hex, True
        save_draft(folder, draft_id, now)
        st.session_state[keys.DRAFT] = (draft_id, now)
    if draft_id and st.query_params.get("draft") != draft_id:
        st.query_params["draft"] = draft_id


def _restored(folder: Path) -> Draft:
    """What a session starts from: the draft that the address names, or the ready example."""
    found = load_draft(folder, st.query_params.get("draft", ""))
    untouched = not {"model", "prompts", "bos"} & set(st.session_state)
    if found is not None and untouched and found.bos in session.BOS_CHOICES:
        st.session_state[keys.MODEL], st.session_state[keys.PROMPTS], st.session_state[keys.BOS] = (
            found.model,
            found.prompts,
            found.bos,
        )
        tour.resume_at(found.tour)
        return found
    return Draft(session.EXAMPLE.model, session.EXAMPLE.prompts, session.BOS_CHOICES[0])
