"""Lesson 2: ablate edges by hand, and see the answer change."""

from __future__ import annotations

import math

import streamlit as st

from circuit.edges.ranking import top_edges
from circuit.jobs.lessons import LESSON, Ablated, AblateRequest, SurveyRequest, ablate, survey
from circuit.models.tokenizer import visible
from circuit.plots.colors import PALETTES
from circuit.plots.graph_svg import Line
from circuit.ui.frame import markdown, page
from circuit.ui.frame.widgets import kept
from circuit.ui.lessons import board
from circuit.ui.lessons.asking import ask

TITLE = "Ablate an edge by hand"
_ABLATED = "lesson2_ablated"
_SHOWN = 24
_PROMPTS = 6


def draw() -> None:
    found = ask(survey, SurveyRequest(LESSON), "Scoring all edges of the teaching model")
    if found is None:
        return
    strongest = top_edges(found.integrated, _SHOWN).tolist()
    text, picture = st.columns([1, 1.3], gap="medium")
    with text:
        _text()
        row = _choose_prompt()
        rows = tuple(range(_PROMPTS)) if row < 0 else (row,)
        ablated = board.pick_list("Ablated edges", _ABLATED, "The same as clicks on edges of the picture.")
    with picture:
        answers = st.container()
        shown_at, reset = st.columns([3, 1])
        reset.button(
            "Reset",
            key="lesson2_reset",
            disabled=not ablated,
            on_click=_reset,
            width="stretch",
            help="Restores every edge.",
        )
        with shown_at:
            shown, click, node = board.choose_edges("lesson2_shown", strongest)
        board.show(
            _lines(shown, ablated),
            key="board-2",
            caption=f"Click an edge to ablate it, again to restore it. Shown: {len({*shown, *ablated})} of 262 edges.",
            height=280,
            picked=node,
            on_edge=lambda edge: board.toggle(_ABLATED, edge),
            on_node=click,
            node_hint="Click to see its edges only.",
        )
    request = AblateRequest(LESSON, rows, tuple(sorted(ablated)))
    with answers:
        result = ask(ablate, request, "Running the model with these edges ablated")
        if result is not None:
            _report(result, len(ablated), len(rows))


def _reset() -> None:
    st.session_state[_ABLATED] = []


def _text() -> None:
    st.markdown(
        "To **ablate** an edge is to let $d$ read $a_s$, what $s$ wrote on the *corrupt* prompt, instead of $c_s$. "
        "Every other reader still gets $c_s$. With $r$ the residual stream and $m_{ds} = 1$ on ablated edges, else 0:"
    )
    st.latex(r"x_d \;=\; r + \sum_s m_{ds}\,(a_s - c_s)")
    st.caption(
        "Activation patching along edges: [Wang et al. 2022](https://arxiv.org/abs/2211.00593), "
        "[ACDC](https://arxiv.org/abs/2304.14997). Try Resid Start → A0.0.V, then MLP 1 → Resid End."
    )


def _choose_prompt() -> int:
    """The row to look at, or -1 for the mean over the first few."""
    pairs = LESSON.prompts.pairs
    row = st.selectbox(
        "Prompt",
        [*range(_PROMPTS), -1],
        format_func=lambda row: f"Mean over the {_PROMPTS} prompts above" if row < 0 else pairs[row].clean,
        help="Whose answer is measured: one pair's, or the mean over several.",
        **kept("lesson2_prompt"),
    )
    if row >= 0:
        pair = pairs[row]
        st.caption(
            f"Corrupt: {markdown.plain(pair.corrupt)}  \nRight: **{markdown.plain(visible(pair.answers[0]))}**, wrong: "
            f"**{markdown.plain(visible(pair.wrong_answers[0]))}**"
        )
    return row


def _lines(shown: list[int], ablated: tuple[int, ...]) -> dict[int, Line]:
    palette = PALETTES[page.is_dark()]
    return {
        **dict.fromkeys(shown, Line("intact", palette.helps, 1.6, 0.75)),
        **dict.fromkeys(ablated, Line("ablated", palette.hurts, 3.4)),
    }


def _report(result: Ablated, n_ablated: int, n_prompts: int) -> None:
    """The answers of clean, present and corrupt, side by side."""
    cells = st.columns(3)
    of = f"Mean over {n_prompts} prompts" if n_prompts > 1 else "After this prompt"
    for cell, name, answer in (
        (cells[0], "Clean", result.clean),
        (cells[1], f"Now, {n_ablated} ablated", result.present),
        (cells[2], "Corrupt", result.corrupt),
    ):
        now = answer is result.present
        change = answer.difference - result.clean.difference
        cell.metric(
            f"{name}: P(right)",
            f"{answer.probability:.1%}",
            delta=f"difference {answer.difference:+.2f}",
            delta_color="off" if not now or abs(change) < 0.005 else ("normal" if answer.difference > 0 else "inverse"),
            delta_arrow="off",
            help=f"{of}: the probability of the right answer; below it the answer difference, the logit of the right "
            "answer minus that of the wrong one.",
        )
    span = result.clean.difference - result.corrupt.difference
    share = (result.present.difference - result.corrupt.difference) / span if span else math.nan
    share = 0.0 if abs(share) < 0.005 else share  # not -0%
    top = ", ".join(f"{markdown.plain(visible(token))} {share:.0%}" for token, share in result.top[:3])
    left = "" if math.isnan(share) else f"**{share:.0%}** of the way from corrupt to clean is left. "
    st.caption(f"{left}The model now says: {top}" + (" (first prompt)." if n_prompts > 1 else "."))
