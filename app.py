"""The landing page: what Edgescope is, one click to a finished circuit, and the last runs.

`streamlit run app.py` imports this file once for the server (`app`), and runs it for every visitor who opens the page.
"""

from __future__ import annotations

import streamlit as st

from circuit.common.words import counted
from circuit.jobs.attribute import attribute
from circuit.models.catalogue import is_here, offered, title_of
from circuit.plots.landing import DESCRIBED, PICTURES
from circuit.runs.examples import EXAMPLES, Example
from circuit.runs.run import Run
from circuit.ui.frame import click, gate, job_panel, keys, markdown, my_runs, navigation, page, session, tour
from circuit.ui.frame.server import computing_on
from circuit.ui.run.choice import AFRESH


def run_example(example: Example) -> None:
    config = example.config
    st.session_state[keys.MODEL] = config.model
    if session.prompts() != config.prompts:
        session.put_prompts(config.prompts)
    job_panel.start("example", attribute, config, title=f"{config.prompts.name} on {title_of(config.model)}")
    click.run_again()


def show_circuit(run: Run) -> None:
    """The page that draws the finished run, at the size that its example is best seen at."""
    sizes = [example.size for example in EXAMPLES.values() if example.config == run.config and example.size is not None]
    size = {keys.SIZE: str(sizes[0]), **AFRESH} if sizes else {}
    st.switch_page(navigation.CIRCUIT, query_params=navigation.parameters(navigation.CIRCUIT) | size)


def card(example: Example) -> None:
    entry = offered()[example.config.model]
    wait = f"about {example.seconds} s" if is_here(example.config.model) else f"{entry.download} MB first"
    st.markdown(f"**{example.title}**")
    st.caption(markdown.plain(entry.title))
    st.markdown(example.about)
    if click.button(
        f"See the circuit ({wait})",
        key=f"example-{example.key}",
        type="primary",
        icon=":material/play_arrow:",
        disabled=job_panel.running("example") is not None,
        help=f"Scores every edge on {len(example.config.prompts)} prompt pairs, then shows the circuit and measures "
        "how much of the behaviour it keeps. Its prompts take the place of those on 1 · Prompts, which can be brought "
        "back there.",
        width="stretch",
    ):
        run_example(example)


def models_here() -> str:
    """Which models can be used at once, and how many are fetched first."""
    here = [entry.title for key, entry in offered().items() if is_here(key)]
    more = len(offered()) - len(here)
    if not here:
        return f"{counted(more, 'model')} can be used here, fetched at first use."
    return f"On this server: {', '.join(here)}{f', and {more} more to fetch' if more else ''}."


def recent_runs(limit: int) -> None:
    """A line for each of the last runs that this visitor sees, which opens it; nothing where there is none."""
    entries = my_runs.listing().entries
    if not entries:
        return
    st.subheader("Recent runs", anchor=False)
    for entry in entries[:limit]:
        label = f"{markdown.plain(entry.name)} · {markdown.plain(entry.method)} · {entry.date:%d %b %Y, %H:%M} UTC"
        if click.button(label, key=f"open-{entry.id}", type="tertiary", icon=":material/history:"):
            navigation.go(navigation.SCORES if session.open_run(entry.id) else navigation.LANDING)
    st.page_link(navigation.RUNS, label=f"All {len(entries):,} runs" if len(entries) > limit else "5 · Runs")


def landing() -> None:
    page.begin(
        "Edgescope",
        "Find the circuit behind a behaviour of a language model. Every connection between two parts of the model is "
        "an *edge*; Edgescope scores all of them, and shows what is left of the behaviour when only the strongest are "
        "kept.",
    )

    about, picture = st.columns([1, 1.35], gap="medium", vertical_alignment="center")
    with about:
        st.markdown(
            "Left: all edges of a small model that was taught to tell who gets the bag. Right: the fifteen that do "
            f"nearly all of it. **Pick an example** and see how it was found{', or' if tour.offered() else '.'}"
        )
        tour.button("start")
        st.caption(f"{markdown.plain(models_here())} Computing on {computing_on()}.")
    picture.image(
        PICTURES[page.is_dark()].read_text(encoding="utf-8"),
        width="stretch",
        alt=DESCRIBED,
    )

    progress_at = st.container()  # above the examples: below them, the way to cancel is off a laptop's screen
    if examples := [example for example in EXAMPLES.values() if example.config.model in offered()]:
        for column, example in zip(st.columns(len(examples), border=True), examples, strict=True):
            with column:
                card(example)
    with progress_at:
        run = job_panel.follow("example", in_address=True)
    if run is not None:
        session.show_run(run)
        show_circuit(run)

    st.subheader("Or your own", anchor=False)
    steps = (
        (
            navigation.PROMPTS,
            "1. Prompts",
            "Choose a model, and pairs of prompts that differ in one thing only.",
        ),
        (navigation.ATTRIBUTE, "2. Attribute", "Choose how importance is measured, and score every edge."),
        (navigation.SCORES, "3. Scores", "See where in the model the strong edges are."),
        (
            navigation.CIRCUIT,
            "4. Circuit",
            "Keep the strongest edges only, and measure whether the model still does the task.",
        ),
    )
    for column, (target, label, words) in zip(st.columns(4), steps, strict=True):
        with column, st.container(border=True, height=150):
            st.page_link(target, label=f"**{label}**")
            st.caption(words)

    recent_runs(5)


if __name__ == "__main__":
    landing()
else:
    gate.never_ask_outside()
    app = st.App(__file__, middleware=gate.MIDDLEWARE)
