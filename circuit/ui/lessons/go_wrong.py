"""Lesson 5: prompt sets with one thing wrong, what the checks say, and what happens where nobody looks."""

from __future__ import annotations

import numpy as np
import streamlit as st

from circuit.common.words import counted
from circuit.edges.ranking import top_edges
from circuit.jobs.careless import BROKEN, Broken, Careless, CarelessRequest, careless_scores
from circuit.jobs.check import CheckRequest, check_prompts
from circuit.jobs.load import ModelRequest, read_tokenizer
from circuit.models.catalogue import is_here, title_of
from circuit.plots.lessons import careless_plot
from circuit.plots.token_view import token_view
from circuit.prompts.encode import Encoded, encode
from circuit.prompts.verdicts import verdicts
from circuit.ui.frame import click, navigation, page, session
from circuit.ui.frame.widgets import kept
from circuit.ui.lessons.asking import ask
from circuit.ui.prompts import report as prompt_report

TITLE = "What can go wrong"
_COMPARED = 10
_DRAWN = 300


def draw() -> None:
    choice, button = st.columns([3, 1], vertical_alignment="bottom")
    key = choice.selectbox(
        "A prompt set with one thing wrong",
        list(BROKEN),
        format_func=lambda key: BROKEN[key].title,
        help="Each is a set that works, except for one thing.",
        **kept("lesson5_set"),
    )
    broken = BROKEN[key]
    opened = click.button(
        "Open in 1 · Prompts",
        at=button,
        key="lesson5_open",
        icon=":material/edit_note:",
        width="stretch",
        help=f"With {title_of(broken.model)}; there most of this can be mended at a click.",
    )
    if opened:
        session.work_on(broken.model, broken.prompts)
        navigation.go(navigation.PROMPTS)
    if not is_here(broken.model):
        st.info(f"This set is for {title_of(broken.model)}, which is not on this server yet: open it in 1 · Prompts.")
        return
    said, unnoticed = st.columns(2, gap="medium")
    with said:
        _checks(broken)
    with unnoticed:
        _unnoticed(broken)
    st.caption(
        "Even a set without faults has one wording of a task, and one way to corrupt it: numbers change with both, and "
        "with the ablation ([Miller et al. 2024](https://arxiv.org/abs/2407.08734))."
    )


# --- what the app says ---------------------------------------------------------------------------------------------


def _checks(broken: Broken) -> None:
    st.markdown("**What the app says** of it on 1 · Prompts")
    words = ask(read_tokenizer, ModelRequest(broken.model), f"Reading the tokenizer of {title_of(broken.model)}")
    if words is None:
        return
    checked = encode(broken.prompts, words, words.prepend_bos, words.n_ctx)
    row = next((row for row, found in enumerate(checked.findings) if found), 0)
    st.html(token_view(checked.rows[row], words, dark=page.is_dark()))
    st.caption(f"Row {row + 1} of {len(checked.rows)}, in tokens. A run would use {len(checked.usable)} of them.")
    lines = prompt_report.finding_lines(checked)
    for line in lines[:3]:
        st.caption(prompt_report.finding_words(*line))
    if len(lines) > 3:
        with st.expander(f"{len(lines) - 3} more"):
            for line in lines[3:]:
                st.caption(prompt_report.finding_words(*line))
    _verdict(broken, checked)


def _verdict(broken: Broken, checked: Encoded) -> None:
    """What the model's own answers say about the set."""
    if not checked.usable:
        return
    report = ask(check_prompts, CheckRequest(broken.model, broken.prompts), "Checking the broken set")
    if report is None:
        return
    pairs = broken.prompts.pairs
    prompt_report.show_verdicts(verdicts({row: report.results[pairs[row]] for row in checked.usable}))


# --- what would have happened --------------------------------------------------------------------------------------


def _unnoticed(broken: Broken) -> None:
    st.markdown("**If nobody had noticed**")
    request = CarelessRequest(broken.model, broken.right, broken.prompts)
    found = ask(careless_scores, request, "Scoring both sets")
    if found is None:
        return
    st.markdown(broken.why)
    edges = np.union1d(
        top_edges(found.right, min(_DRAWN, len(found.right))), top_edges(found.broken, min(_DRAWN, len(found.broken)))
    )
    names = [found.graph.edge_label(int(edge)) for edge in edges]
    figure = careless_plot(names, found.right[edges], found.broken[edges], dark=page.is_dark())
    st.plotly_chart(
        figure,
        key="lesson5_figure",
        config={"displayModeBar": False},
        alt=f"A point for each of {counted(len(edges), 'edge')}: its score from the set as it should be, and from the "
        "broken one. The words below sum it up.",
    )
    st.caption(_in_words(found))


def _in_words(found: Careless) -> str:
    """The figure in words and numbers."""
    right, broken = (float(np.abs(scores).sum(dtype=np.float64)) for scores in (found.right, found.broken))
    words = (
        "A point for each edge, by its score (attribution patching); on the dotted line both sets agree. Sum of "
        f"|score|: {right:.3g} from the set as it should be, {broken:.3g} from the broken one. "
    )
    if found.all_zero:
        return f"{words}**Every score is zero.**"
    strongest = found.graph.edge_label(int(top_edges(found.broken, 1)[0]))
    return (
        f"{words}Of the {_COMPARED} strongest edges **{found.shared(_COMPARED)}** are the same. The strongest now: "
        f"{strongest}."
    )
