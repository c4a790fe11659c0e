"""Lesson 4: find the circuit yourself, against two algorithms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from circuit.common.words import counted
from circuit.edges.ranking import top_edges
from circuit.edges.subgraph import live_edges
from circuit.jobs.lessons import (
    LESSON,
    MEASURED,
    PickRequest,
    Rival,
    RivalsRequest,
    lesson_graph,
    measure_edges,
    measured_rows,
    points,
    rivals,
    scored_rows,
)
from circuit.plots.colors import PALETTES
from circuit.plots.graph_svg import Line
from circuit.plots.lessons import Attempt, attempts_plot
from circuit.ui.frame import click, page
from circuit.ui.lessons import board
from circuit.ui.lessons.asking import ask

TITLE = "Find the circuit yourself"
_PICKED, _REVEALED, _ATTEMPTS, _ASKED = "lesson4_picked", "lesson4_revealed", "lesson4_attempts", "lesson4_asked"


def draw() -> None:
    found = ask(rivals, RivalsRequest(LESSON), "Letting the algorithms pick their circuits")
    if found is None:
        return
    game, picture = st.columns([1, 1.2], gap="medium")
    with game:
        _text()
        picked = tuple(st.session_state.get(_PICKED, ()))
        _buttons(found["integrated gradients"], picked)
        _take_result()
        _score(found)
        _plot(found)
    with picture:
        shown, click, node = board.choose_edges("lesson4_shown")
        board.show(
            _lines(shown, picked),
            key="board-4",
            caption="Click an edge to keep it, again to leave it out; click a node to see its edges only.",
            height=300,
            picked=node,
            on_edge=lambda edge: board.toggle(_PICKED, edge, MEASURED),
            on_node=click,
            node_hint="Click to see its edges only.",
        )
        board.pick_list(
            f"Your edges, up to {MEASURED}", _PICKED, "The same as clicks on edges of the picture.", MEASURED
        )
    _numbers(found)


def _text() -> None:
    st.markdown(
        "*When Mary and John went to the store, John gave a drink to* → **Mary** "
        f"([Wang et al. 2022](https://arxiv.org/abs/2211.00593)). Which of the {lesson_graph().n_edges} edges does "
        "this need? Keep your circuit $C$, ablate all others, and measure how much of the whole model $M$ is left: "
        r"$\;f(C)=\dfrac{L(\varnothing)-L(C)}{L(\varnothing)-L(M)}$"
    )


def _lines(shown: list[int], picked: tuple[int, ...]) -> dict[int, Line]:
    palette = PALETTES[page.is_dark()]
    return {
        **dict.fromkeys(shown, Line("ablated", palette.faint, 1.1, 0.45)),
        **dict.fromkeys(picked, Line("kept", palette.helps, 3.2)),
    }


# --- playing -------------------------------------------------------------------------------------------------------


def _buttons(rival: Rival, picked: tuple[int, ...]) -> None:
    measure_at, hint_at, clear_at = st.columns([1, 1.2, 0.7])
    if click.button(
        "Measure",
        at=measure_at,
        type="primary",
        key="lesson4_measure",
        disabled=not picked,
        width="stretch",
        help="Ablates every other edge, and adds a point to the plot.",
    ):
        st.session_state[_ASKED] = tuple(sorted(picked))
    hint_at.button(
        "Reveal an edge",
        key="lesson4_hint",
        disabled=len(picked) >= MEASURED,
        width="stretch",
        on_click=_reveal,
        args=(rival,),
        help="Adds the edge of largest score by integrated gradients that you do not have yet.",
    )
    clear_at.button(
        "Clear",
        key="lesson4_clear",
        disabled=not picked,
        on_click=_clear,
        width="stretch",
        help="Puts all your edges back; points of the plot stay.",
    )


def _reveal(rival: Rival) -> None:
    picked = list(st.session_state.get(_PICKED, []))
    best = next(edge for edge in top_edges(rival.scores, len(rival.scores)).tolist() if edge not in picked)
    st.session_state[_PICKED] = [*picked, best]
    st.session_state[_REVEALED] = {*st.session_state.get(_REVEALED, set()), best}


def _clear() -> None:
    st.session_state[_PICKED] = []


def _take_result() -> None:
    """Measure what was asked for; when the answer is there, it is an attempt."""
    if (asked := st.session_state.get(_ASKED)) is None:
        return
    measured = ask(measure_edges, PickRequest(LESSON, asked), f"Measuring your {len(asked)} edges")
    if measured is None:
        return
    del st.session_state[_ASKED]
    faithfulness = float(measured.faithfulness[0])
    revealed = len(set(asked) & st.session_state.get(_REVEALED, set()))
    attempt = Attempt(asked, faithfulness, points(faithfulness, len(asked)), revealed)
    st.session_state[_ATTEMPTS] = [*_attempts(), attempt]


def _attempts() -> list[Attempt]:
    """The circuits measured in this session, the last one last."""
    return st.session_state.get(_ATTEMPTS, [])


# --- how it went ---------------------------------------------------------------------------------------------------


def _score(found: dict[str, Rival]) -> None:
    attempts = _attempts()
    last, best, theirs = st.columns(3)
    last.metric(
        "This try",
        attempts[-1].points if attempts else "–",
        help="Points: 100 for the whole model's behaviour, less in proportion for less or for more of it; and one less "
        "for every edge.",
    )
    best.metric("Your best", max(attempt.points for attempt in attempts) if attempts else "–")
    theirs.metric(
        "To beat",
        max(points(f, n) for rival in found.values() for n, f in _sizes(rival)),
        help=f"The best circuit of either algorithm, of 1 to {MEASURED} edges.",
    )
    if attempts:
        n = len(attempts[-1].edges)
        st.markdown(f"Your **{counted(n, 'edge')}** keep **{attempts[-1].faithfulness:.0%}**.{_advice(attempts[-1])}")


def _sizes(rival: Rival) -> list[tuple[int, float]]:
    return list(zip(rival.curve.sizes, rival.curve.faithfulness.tolist(), strict=True))


def _advice(attempt: Attempt) -> str:
    live = len(live_edges(lesson_graph(), np.array(attempt.edges)))
    dead = len(attempt.edges) - live
    if not live:
        return " No path leads through them from Resid Start to Resid End, so the answer cannot get through."
    if dead:
        return f" {dead} of them {'is a dead end' if dead == 1 else 'are dead ends'}, on no whole path."
    return ""


def _plot(found: dict[str, Rival]) -> None:
    curves = {name: rival.curve for name, rival in found.items()}
    figure = attempts_plot(curves, _attempts(), dark=page.is_dark())
    st.plotly_chart(
        figure,
        key="lesson4_figure",
        config={"displayModeBar": False},
        alt=f"Faithfulness by number of edges: a line for each of {len(curves)} algorithms, a star for each of your "
        f"{counted(len(_attempts()), 'attempt')}. The table below has the same numbers.",
    )


def _numbers(found: dict[str, Rival]) -> None:
    """All attempts and both algorithms as a table: the figure's text alternative."""
    st.caption(
        f"Scores come from {len(scored_rows(LESSON))} prompt pairs, faithfulness from {len(measured_rows(LESSON))} "
        "others; ablated edges carry activations of the corrupt prompt. With another ablation or measure, other "
        "circuits win: [Miller et al. 2024](https://arxiv.org/abs/2407.08734)."
    )
    with st.expander("The numbers as a table"):
        rows = [
            {
                "who": "you",
                "edges": len(a.edges),
                "faithfulness": a.faithfulness,
                "points": a.points,
                "revealed": a.revealed,
                "which": ", ".join(map(board.edge_label, a.edges)),
            }
            for a in reversed(_attempts())
        ]
        for name, rival in found.items():
            rows += [
                {"who": name, "edges": n, "faithfulness": f, "points": points(f, n), "revealed": 0, "which": ""}
                for n, f in _sizes(rival)
            ]
        st.dataframe(
            pd.DataFrame(rows),
            hide_index=True,
            key="lesson4_table",
            column_config={"faithfulness": st.column_config.NumberColumn(format="percent")},
        )
