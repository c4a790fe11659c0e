"""The guided tour: six cards at the top of the pages, over the teaching model's ready example.

    start         go to the first step, with the example's model and prompts
    card          draw the card of this step, or the way back to it; `page.begin` calls it
    offered       whether there is a tour to take
    button        "Take the tour", or resume it where it was left
    own           the visitor's own model and prompts, which the tour only stands in front of

The step stands in the address (`tour=3`), so a reload goes on with it. The example is scored while its prompts are
explained. Who takes the tour in the middle of something else gets model, prompts and run back at its end; who edits the
example on the way gets that back, or can bring it back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from circuit.edges.sentences import edge_words
from circuit.jobs.attribute import attribute
from circuit.models.catalogue import is_allowed
from circuit.prompts.pairs import PromptSet
from circuit.runs.config import RunConfig
from circuit.runs.examples import EXAMPLES
from circuit.runs.run import Run
from circuit.ui.frame import click, explain, job_panel, keys, navigation, session

EXAMPLE = EXAMPLES["teaching-ioi"]
_SLOT = "tour"


@dataclass(frozen=True)
class Step:
    """One card: the page that it stands on, and what it says; of the run, where it needs one."""

    page: str
    title: str
    words: Callable[[Run], str] | str


def _score(run: Run) -> str:
    edge = int(run.order[0])
    change = "raise" if run.scores[edge] >= 0 else "lower"
    what = f"ablating that would {change} the loss by about {abs(run.scores[edge]):.2f}"
    if not (method := run.config.method).foretells:  # only a slope at the untouched model foretells how much
        what = f"ablating that would {change} the loss: the number is the {method.score}"
    return (
        "The **score** of an edge estimates what happens when the edge is *ablated*: when the reader gets what the "
        f"writer wrote on the corrupt prompt. Here the strongest edge is **{run.graph.edge_label(edge)}** with "
        f"**{run.scores[edge]:+.2f}**: {edge_words(run.graph, edge)}, and {what}. "
        "**Positive: the edge is estimated to help the task; negative, to work against it.** All the options on this "
        "page are ways of estimating that; the ones that are set will do."
    )


def _pruning(run: Run) -> str:
    return (
        f"**Pruning** keeps the strongest of the {run.graph.n_edges:,} edges and ablates all others: what is left is "
        "the **circuit**. Read the picture from the bottom, where the prompt comes in, to the top, where the next word "
        "is read. Thick lines have large scores; by these, blue ones help, orange ones hinder. **Move the slider** "
        "*Edges kept*: fewer edges are easier to understand, more do the task better. Click a head to read about it."
    )


STEPS = (
    Step(
        "pages/1_Prompts.py",
        "A pair of prompts",
        "The **clean** prompt shows a behaviour: after *…, Lisa said hello to* comes **David**. The **corrupt** prompt "
        "is its smallest edit that takes the behaviour away: now David says hello, so **Lisa** comes next. Everything "
        "else is the same, and cancels out: what remains is how the model knows who gets the hello. Each row of the "
        "table below is such a pair, with its right and wrong answer.",
    ),
    Step(
        "pages/2_Attribute.py",
        "Nodes and edges",
        "A transformer is a stack of parts, the **nodes**: *attention heads* (`A1.2` is head 2 of layer 1), which "
        "carry information from word to word, and *MLPs* (`MLP 1`), which work on one word at a time. They do not talk "
        "to each other directly: each reads from a shared *residual stream* and adds to it. An **edge** is one part "
        "reading what an earlier one wrote. This small model has 262 edges; most have nothing to do with our question.",
    ),
    Step("pages/2_Attribute.py", "The score of an edge", _score),
    Step(
        "pages/3_Scores.py",
        "The heatmap",
        "Each **column writes**, each **row reads**, and the colour of a cell says how strong the edges between them "
        "are: a few of them stand out. **Click a cell** to see its edges one by one, with their signs. Under the map "
        "all edges stand in a table, the strongest first.",
    ),
    Step("pages/4_Circuit.py", "From scores to a circuit", _pruning),
    Step(
        "pages/4_Circuit.py",
        "Should you believe it?",
        "The number on the right, **faithfulness**, is measured and not estimated: the model was run with everything "
        "but the circuit ablated. 100 % is as good as the whole model, 0 % as bad as with nothing left. Before you "
        "believe a circuit: press **Measure all sizes** below and compare with random edges; hold out some prompts on "
        "2 · Attribute, so that it is measured on prompts it was not made from; look whether the 95 % interval is "
        "narrow.",
    ),
)


def start(at: int = 0) -> None:
    """Begin, or go on at a step (counted from 0)."""
    if keys.TOUR_STEP not in st.session_state:
        run = session.run_shown()
        st.session_state[keys.TOUR_BEFORE] = (session.model_key(), session.prompts(), run)
        if run is not None and run.config != EXAMPLE.config:
            del st.session_state[keys.RUN]
    _go(at)


def offered() -> bool:
    """Whether it can be taken now: the owner lets its model be used, and it is not being taken already."""
    return is_allowed(EXAMPLE.config.model) and keys.TOUR_STEP not in st.session_state


def left_at() -> int:
    """The step (counted from 0) that it was left at, 0 where it was not."""
    return st.session_state.get(keys.TOUR_LEFT_AT, 0)


def resume_at(step: int) -> None:
    """Offer to go on at a step (counted from 0) that it was left at before a reload."""
    if 0 < step < len(STEPS):
        st.session_state[keys.TOUR_LEFT_AT] = step


def button(place: str) -> None:
    """The way into the tour, for the landing page and the sidebar."""
    if not offered():
        return
    step = left_at()
    label = f"Resume the tour, {step + 1} of {len(STEPS)}" if step else "Take the tour"
    if click.button(
        label,
        key=f"tour-{place}",
        icon=":material/explore:",
        width="stretch",
        help=f"{len(STEPS)} short steps over a ready example: what the pages show, and how to read it. Your own "
        "prompts and run come back afterwards.",
    ):
        start(step)


def card(here: str) -> None:
    """Draw the card of the step that the session is at, on its page; on others, the way back to it."""
    named = st.query_params.get("tour", "")
    if offered() and named in map(str, range(1, len(STEPS) + 1)):  # a reload, or a link
        st.session_state[keys.TOUR_BEFORE] = (session.model_key(), session.prompts(), None)
        st.session_state[keys.TOUR_STEP] = int(named) - 1
        _take_example()
        click.run_again()  # the sidebar stands above
    if keys.TOUR_STEP not in st.session_state:
        return
    at = st.session_state[keys.TOUR_STEP]
    step = STEPS[at]
    with st.container(border=True, key="tour-card"):
        if here == step.page:
            _show(at, step)
        else:
            words, on, leave = st.columns([4, 1.5, 1.3], vertical_alignment="center")
            words.markdown(f"**The tour** is at step {at + 1} of {len(STEPS)}: {step.title.lower()}.")
            if click.button(
                "Go on with it", key="tour-on", at=on, width="stretch", help="Leads to the page of that step."
            ):
                _go(at)
            leave.button("Leave the tour", key="tour-leave", on_click=_leave, width="stretch", help=_LEAVE)


_LEAVE = "Ends the tour; it can be resumed from the sidebar."


def _show(at: int, step: Step) -> None:
    st.markdown(f"**Tour {at + 1} of {len(STEPS)} · {step.title}**")
    run = _run()
    if isinstance(step.words, str):
        st.markdown(step.words)
    elif run is not None:
        st.markdown(step.words(run))
    last = at == len(STEPS) - 1
    with st.container(horizontal=True, vertical_alignment="center"):
        if at and click.button("Back", key="tour-back", icon=":material/arrow_back:", help="One step back."):
            _go(at - 1)
        if last:
            st.button("Finish", key="tour-finish", type="primary", on_click=_finish, help="Ends the tour.")
        else:
            if click.button(
                "Next",
                key="tour-next",
                type="primary",
                icon=":material/arrow_forward:",
                help=f"On to: {STEPS[at + 1].title.lower().removesuffix('?')}.",
            ):
                _go(at + 1)
            st.button("Skip the rest", key="tour-leave", on_click=_leave, help=_LEAVE)
        st.caption(f"More: {', '.join(explain.link(key) for key in _TERMS[at])}")


_TERMS = (
    ("clean-prompt", "corrupt-prompt", "answer"),
    ("node", "edge", "residual-stream"),
    ("score", "ablation", "loss"),
    ("heatmap", "source", "destination"),
    ("pruning", "circuit", "dead-end"),
    ("believe", "faithfulness", "held-out", "random-circuit"),
)
"""What each step's words are explained by."""


def _run() -> Run | None:
    """The example's run. Where there is none yet it is computed, with a panel in the card."""

    def keep(_: RunConfig, found: Run) -> None:
        session.show_run(found)
        click.run_again()

    return job_panel.computed(_SLOT, attribute, EXAMPLE.config, "Scoring the tour's example", known=_shown, keep=keep)


def _shown() -> Run | None:
    return session.current_run() if "run" in st.query_params else session.run_shown()


def _go(at: int) -> None:
    st.session_state[keys.TOUR_STEP] = at
    _take_example()
    job_panel.forget_error(_SLOT)
    navigation.go(STEPS[at].page)


def own() -> tuple[str, PromptSet]:
    """The visitor's own model and prompts: what they work on, or did before the tour. Whoever came with nothing of
    their own owns what they have made of the example."""
    if keys.TOUR_BEFORE not in st.session_state:
        return session.model_key(), session.prompts()
    model, prompts, _ = st.session_state[keys.TOUR_BEFORE]
    if _edited() and not _is_own(model, prompts):
        return session.model_key(), session.prompts()
    return model, prompts


def _edited() -> bool:
    return session.prompts().pairs != EXAMPLE.config.prompts.pairs


def _is_own(model: str, prompts: PromptSet) -> bool:
    """Whether this is something else than what every session starts from."""
    return model != session.EXAMPLE.model or prompts.pairs != session.EXAMPLE.prompts.pairs


def _take_example() -> None:
    """Its model and prompts, for 1 · Prompts and 2 · Attribute to show."""
    (_, prompts, run), now = st.session_state[keys.TOUR_BEFORE], session.prompts()
    if _edited() and now.pairs != prompts.pairs:  # the visitor's work on the example: to be brought back
        st.session_state[keys.TOUR_BEFORE] = (*own(), run)
        session.put_prompts(EXAMPLE.config.prompts)
    elif _edited():
        session.set_prompts(EXAMPLE.config.prompts)
    st.session_state[keys.MODEL] = EXAMPLE.config.model


def _leave() -> None:
    st.session_state[keys.TOUR_LEFT_AT] = st.session_state[keys.TOUR_STEP]
    _end()


def _finish() -> None:
    st.session_state.pop(keys.TOUR_LEFT_AT, None)
    _end()


def _end() -> None:
    """What the tour looked at gives way to what there was before, if that was somebody's own."""
    del st.session_state[keys.TOUR_STEP]
    st.query_params.pop("tour", None)
    (model, prompts), (*_, run) = own(), st.session_state[keys.TOUR_BEFORE]
    del st.session_state[keys.TOUR_BEFORE]
    if _is_own(model, prompts) or run is not None:
        st.session_state[keys.MODEL] = model
        put = session.put_prompts if _edited() else session.set_prompts  # a last edit can be brought back
        put(prompts)
    if run is not None:
        session.look_at(run)
        if "run" in st.query_params:
            st.query_params["run"] = run.id
