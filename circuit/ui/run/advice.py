"""What would help where a circuit keeps little of the task: each remedy at one click.

panel    draws nothing where the circuit does the task
"""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from circuit.edges.method import DEFAULT_METHOD
from circuit.runs.config import RunConfig
from circuit.runs.run import Run
from circuit.runs.verdict import judge
from circuit.ui.frame import click, navigation, session, shared_settings
from circuit.ui.run.choice import AFRESH, Choice, default_choice
from circuit.ui.run.faithfulness import Setting


def panel(run: Run, choice: Choice, setting: Setting) -> None:
    """Other ways to choose edges, another method, more edges: as far as they are not what was done already."""
    curve = session.curves(run).get(setting.key)
    circuit = None if curve is None else curve.at(choice.n)
    if curve is None or circuit is None or judge(circuit, curve).answer not in ("No", "Partly"):
        return
    st.caption("**What would help**: more edges (the buttons above look for as few as do)")
    if (choice.importance, choice.rule) != default_choice():
        st.button(
            "Take connected edges that help",
            key="advice-connected",
            icon=":material/hub:",
            width="stretch",
            on_click=st.session_state.update,
            args=(AFRESH,),
            help="Ranks by signed score, and takes edges that lie on a path: what keeps most with few edges on the "
            "models and tasks that were measured.",
        )
    if by_default := better_method(run):
        if click.button(
            f"Score by {by_default.method.kind.title.lower()}",
            key="advice-method",
            icon=":material/functions:",
            width="stretch",
            help="Opens 2 · Attribute with this run's prompts and options, and this method in place of "
            f"{run.config.method.title}.",
        ):
            shared_settings.use(by_default, "this run, with another method")
            navigation.go(navigation.ATTRIBUTE)
    else:
        st.caption("Or another method: 2 · Attribute tries ten of them on these prompts.")


def better_method(run: Run) -> RunConfig | None:
    """The run's settings with the default method's path, points and backward rule; None where it has these."""
    method = run.config.method
    return None if method.kind.averages else replace(run.config, method=DEFAULT_METHOD.with_loss_of(method))
