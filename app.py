"""The landing page: what Edgescope is, one click to a finished example, and this session's runs."""

from __future__ import annotations

import streamlit as st

from circuit.catalogue import title_of
from circuit.runs import RunConfig
from circuit.tasks import attribute
from circuit.ui import job_panel, page, session

page.begin(
    "Edgescope",
    "Find the circuit behind a behaviour of a language model. Every connection between two parts of the model is an "
    "*edge*; Edgescope scores all of them, and shows what is left of the behaviour when only the strongest are kept.",
)


def run_example(example: RunConfig) -> None:
    st.session_state["model"] = example.model
    session.set_prompts(example.prompts)
    title = f"{example.prompts.name} on {title_of(example.model)}"
    job_panel.start("attribute", attribute, example, title=title)
    st.rerun()


with st.container(border=True):
    st.subheader("Ready example: who gets the drink?", anchor=False)
    st.markdown(
        "*When Mary and John went to the store, **John** gave a drink to* → **Mary**.  \n"
        "Swap the giver, and the right answer swaps too. Which of SmolLM2-135M's 70,651 edges carry that difference?"
    )
    busy = job_panel.running("attribute") is not None
    real, small, _ = st.columns([1, 1.2, 2])
    if real.button("Run the example", type="primary", icon=":material/play_arrow:", disabled=busy, width="stretch"):
        run_example(session.EXAMPLE)
    if small.button("Same task, tiny teaching model", icon=":material/school:", disabled=busy, width="stretch"):
        run_example(session.TEACHING_EXAMPLE)
    st.caption(
        "The example takes about ten seconds on a laptop, and half a minute more the first time, when the model "
        "(93 MB) is downloaded and converted. The teaching model ships with the app, has 262 edges, and takes one."
    )
    run = job_panel.follow("attribute", in_address=True)
    if run is not None:
        session.show_run(run)
        st.switch_page(page.SCORES)

st.subheader("Or your own", anchor=False)
steps = (
    (
        page.PROMPTS,
        "1. Prompts",
        "Choose a model, and pairs of prompts that differ in one thing only.",
    ),
    (page.ATTRIBUTE, "2. Attribute", "Choose how importance is measured, and score every edge."),
    (page.SCORES, "3. Scores", "See where in the model the strong edges are."),
    (page.CIRCUIT, "4. Circuit", "Keep the strongest edges only, and measure whether the model still does the task."),
)
for column, (target, label, words) in zip(st.columns(4), steps, strict=True):
    with column, st.container(border=True, height=150):
        st.page_link(target, label=f"**{label}**")
        st.caption(words)

if recent := st.session_state.get("recent"):
    st.subheader("Runs of this session", anchor=False)
    for run_id, title in reversed(recent.items()):
        if st.button(title, key=f"open-{run_id}", type="tertiary", icon=":material/history:"):
            session.open_run(run_id)
            st.switch_page(page.SCORES)
