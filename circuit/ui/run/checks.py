"""Are the drawn edges what their scores estimate? They are ablated behind the picture, one at a time, and counted.

    panel    what was found so far; goes on with the next edges while the page is open

What was measured is kept with the run (`session.effects`), so that nothing is measured twice.
"""

from __future__ import annotations

import networkx as nx
import streamlit as st

from circuit.common.words import counted
from circuit.edges.agreement import OPPOSITE, contradictions, disagreements, is_no_effect
from circuit.jobs.inspect import EffectsRequest, measure_effects
from circuit.runs.run import Run
from circuit.ui.frame import click, explain, job_panel, session
from circuit.ui.frame.widgets import kept

_AT_ONCE = 10
"""Edges of one job: it is short, so that others wait for it as little as this page does."""
_MOST = 100
"""Edges that are checked of one picture."""


def panel(run: Run, drawn: nx.MultiDiGraph, *, wait: bool) -> None:
    """The sum of what was measured of the drawn edges, and the next ones to measure.

    Args:
        run: The run whose circuit is drawn.
        drawn: The graph drawn.
        wait: Whether something more urgent is being measured.
    """
    edges = in_order(run, drawn)
    st.subheader("Do its edges do what is estimated?", anchor=False)
    going_on = st.toggle(
        "Check them",
        True,
        help="Ablates the drawn edges one at a time, those out of Resid Start and the strongest first, and marks "
        f"where the opposite of the estimate happens ({OPPOSITE}). Switch it off to stop.",
        **kept("check_edges"),
    )
    slot = f"check-{run.id}"
    left = [edge for edge in edges if edge not in session.effects(run)]
    if not going_on and (job := job_panel.running(slot)) is not None:
        job.cancel()
    if left and going_on and not wait:
        before = len(session.effects(run))
        job_panel.computed(
            slot,
            measure_effects,
            EffectsRequest(run.config, tuple(left[:_AT_ONCE])),
            f"Checking {counted(len(left[:_AT_ONCE]), 'edge')}",
            known=lambda: None,
            keep=lambda _, found: session.keep_effects(run, found),
            again="Go on checking",
            quiet=f"{len(edges) - len(left)} of {counted(len(edges), 'drawn edge')} checked …",
        )
        if len(session.effects(run)) > before:
            click.run_again()  # the picture was drawn without what was found
        if job_panel.failed(slot):
            st.caption("The other drawn edges could not be checked.")
    _say(run, edges)


def in_order(run: Run, drawn: nx.MultiDiGraph) -> list[int]:
    """The drawn edges in the order in which they are checked: those out of the embedding first, as gradients mislead
    there most, then the strongest."""
    edges = {data["edge"] for *_, data in drawn.edges(data=True) if data["kind"] == "edge"}
    return sorted(edges, key=lambda edge: (run.graph.edge_source[edge] != 0, run.ranks[edge]))[:_MOST]


def _say(run: Run, edges: list[int]) -> None:
    effects = session.effects(run)
    measured = {edge: effects[edge] for edge in edges if edge in effects}
    if not measured:
        return
    scores, noise = run.scores, run.noise
    opposite = contradictions(scores, measured, noise)
    nothing = sum(is_no_effect(float(scores[edge]), effect, noise) for edge, effect in measured.items())
    as_estimated = len(measured) - len(opposite) - nothing
    parts = [f"{as_estimated} help or hinder as estimated"] if as_estimated else []
    parts += [f"**{len(opposite)} do the opposite ({OPPOSITE})**"] if opposite else []
    parts += [f"{nothing} change nothing"] if nothing else []
    st.markdown(
        f"**Measured** on the {counted(len(run.used_rows), 'scored pair')}: of {counted(len(measured), 'edge')}, each "
        f"ablated alone, {', '.join(parts)}. {explain.more('effect')}"
    )
    if opposite:
        st.caption(disagreements(run.graph, scores, {edge: measured[edge] for edge in opposite}, noise))
