"""Which edges of the circuit would be there with other prompts of the same kind? Shown by fading the others.

toggle       the switch
of_circuit   for each edge, in which share of the bootstrap's draws it is among as many strongest; None while off
"""

from __future__ import annotations

import streamlit as st

from circuit.common.words import counted
from circuit.jobs.stability import Stability, StabilityRequest, edge_stability
from circuit.runs.run import Run
from circuit.ui.frame import job_panel, keys
from circuit.ui.frame.widgets import in_address
from circuit.ui.run.choice import Choice

_MOST = 1000
"""Larger circuits are not drawn."""


def toggle(run: Run, choice: Choice) -> None:
    refused = why_not(run, choice)
    st.toggle(
        "Fade unstable",
        disabled=refused is not None,
        on_change=job_panel.forget_error,
        args=(_slot(run, choice),),
        help=refused
        or "Draws the prompts anew 200 times, with replacement, and fades each edge by how seldom it is "
        "then among as many strongest. Takes about one more attribution, once for all sizes of circuit.",
        **in_address(keys.FADE),
    )


def _slot(run: Run, choice: Choice) -> str:
    return f"stability-{run.id}-{choice.importance}"


def why_not(run: Run, choice: Choice) -> str | None:
    """Why stability cannot be told; None where it can."""
    if run.config.keep_positions:
        return "Not where token positions are kept apart."
    if not run.config.method.points:
        return "Not where scores do not come from single prompts, as learned masks and means of runs."
    if run.config.method.ablation_type.needs_batch_size:
        return "Not with an ablation that mixes the prompts of a batch."
    if len(run.used_rows) < 5:
        return f"{counted(len(run.used_rows), 'prompt pair')}: too few to draw from."
    return None if 0 < choice.n <= _MOST else f"Only for circuits of up to {_MOST:,} edges."


def of_circuit(run: Run, choice: Choice) -> dict[int, float] | None:
    if not st.session_state.get(keys.FADE) or why_not(run, choice):
        return None
    known: dict[str, Stability] = st.session_state.setdefault(keys.STABILITY, {})
    slot = _slot(run, choice)
    found = job_panel.computed(
        slot,
        edge_stability,
        StabilityRequest(run.config, _MOST, choice.importance),  # all sizes at once: none asks again
        "Drawing the prompts anew",
        known=lambda: known.get(slot),
        keep=lambda _, found: known.__setitem__(slot, found),
    )
    return None if found is None else found.among(choice.n)
