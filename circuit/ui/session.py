"""What a session remembers: its model, prompts, method, jobs, and the run it looks at.

Widgets keep their own values over page switches (`persist_state="session"`); what stands here is shared by pages. A
finished run is written to the runs folder (`EDGESCOPE_RUNS`), and its id stands in the address of the pages that show
it, so that a reload or a link finds it again. An id is a random uuid: who has it may look.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from circuit.catalogue import cache_folder
from circuit.errors import RunFileError
from circuit.method import Method
from circuit.prompts import PRESETS, PromptSet
from circuit.runs import Run, RunConfig

if TYPE_CHECKING:
    from circuit.models import ModelCard
    from circuit.tasks import CircuitMeasurement

EXAMPLE = RunConfig(
    "smollm2-135m",
    replace(PRESETS["ioi"].prompts, pairs=PRESETS["ioi"].prompts.pairs[:12]),
    Method(mask_val=None, integrated_grad_samples=5, integration_rule="midpoint"),
)
"""What the landing page runs at one click: a dozen pairs, so that it takes seconds. With plain attribution patching,
the strongest 100 edges of this model leave no path from input to output; averaged over five points they do."""

TEACHING_EXAMPLE = replace(EXAMPLE, model="teaching", prompts=PRESETS["teaching-ioi"].prompts)
"""The same on the model that ships with the app."""


def runs_folder() -> Path:
    return Path(os.environ.get("EDGESCOPE_RUNS") or cache_folder() / "runs")


# --- prompts -------------------------------------------------------------------------------------------------------


def model_key() -> str:
    """The model chosen on the prompts page."""
    return st.session_state.setdefault("model", EXAMPLE.model)


def cards() -> dict[str, ModelCard]:
    """What is known of the models that this session has loaded, by key."""
    return st.session_state.setdefault("cards", {})


def prompts() -> PromptSet:
    """The prompts that this session works on."""
    return st.session_state.setdefault("prompts", EXAMPLE.prompts)


def set_prompts(new: PromptSet) -> None:
    """Work on other prompts: the table starts over from them."""
    st.session_state["prompts"] = new
    st.session_state["prompt_table"] = st.session_state.get("prompt_table", 0) + 1


def prepend_bos() -> bool | None:
    """Whether prompts start with a BOS token; None leaves it to the model's own tokenizer."""
    return {"As the tokenizer does": None, "Yes": True, "No": False}[
        st.session_state.get("bos", "As the tokenizer does")
    ]


# --- runs ----------------------------------------------------------------------------------------------------------


def show_run(run: Run) -> None:
    """Look at a run that has just finished: save it, and remember it among this session's."""
    path = runs_folder() / f"{run.id}.safetensors"
    try:
        run.save(path)
    except RunFileError as error:
        st.session_state["notice"] = f"{error} The run stays here until you close this page."
    st.session_state["run"] = run
    st.query_params["run"] = run.id
    recent: dict[str, str] = st.session_state.setdefault("recent", {})
    recent[run.id] = f"{run.provenance.get('model', run.config.model)} · {run.config.prompts.name} · " + (
        run.config.method.describe()
    )


def current_run() -> Run | None:
    """The run that the session looks at, or that the address names."""
    wanted = st.query_params.get("run")
    run: Run | None = st.session_state.get("run")
    if wanted and (run is None or run.id != wanted):
        try:
            run = _stored(wanted)
            st.session_state["run"] = run
        except RunFileError as error:
            st.warning(f"The run that the address names cannot be shown. {error}")
    if run is not None and wanted != run.id:
        st.query_params["run"] = run.id
    return run


def open_run(run_id: str) -> None:
    """Look at a stored run."""
    try:
        st.session_state["run"] = _stored(run_id)
    except RunFileError as error:
        st.session_state["notice"] = f"That run cannot be shown. {error}"


def _stored(run_id: str) -> Run:
    if not re.fullmatch(r"[0-9a-f]{32}", run_id):
        raise RunFileError("Its id is mistyped: ids are 32 digits and letters from a to f.")
    path = runs_folder() / f"{run_id}.safetensors"
    if not path.exists():
        raise RunFileError("There is no run with that id on this server.")  # the folder's name is the server's business
    return Run.load(path)


def measurements(run: Run) -> dict[int, CircuitMeasurement]:
    """Circuits of this run that have been measured, by number of edges."""
    return st.session_state.setdefault("measurements", {}).setdefault(run.id, {})
