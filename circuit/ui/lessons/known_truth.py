"""Lesson 6: methods compete on models whose circuit is known, and a class bets first."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from circuit.common.words import counted
from circuit.jobs.known import METHODS, Judged, JudgeRequest, judge, known_run, known_truth
from circuit.models.catalogue import offered, title_of
from circuit.models.known import KEYS
from circuit.plots.truth import auroc_bars
from circuit.prompts.presets import PRESETS
from circuit.runs.truth import ROUNDING, Truth
from circuit.ui.frame import click, explain, markdown, navigation, page, session
from circuit.ui.frame.server import visitor
from circuit.ui.frame.widgets import kept
from circuit.ui.lessons.asking import ask
from circuit.ui.run import truth as truth_view

TITLE = "Which method finds the circuit that we know?"
_OWN, _PICKED = "lesson6_bets", "lesson6_picked"
"""What this session has bet on, by model, empty where it looked without a bet; and what was clicked in the picture."""
_MOST = 5000
"""Bets of all visitors that are remembered; the oldest go first."""
_TITLES = tuple(method.title for method in METHODS)


class _Bets:
    """What the visitors of this server have bet on: one bet each for every model."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bets: OrderedDict[tuple[str, str], str] = OrderedDict()

    def put(self, model: str, who: str, title: str) -> None:
        with self._lock:
            self._bets[model, who] = title
            while len(self._bets) > _MOST:
                self._bets.popitem(last=False)

    def on(self, model: str) -> Counter[str]:
        with self._lock:
            return Counter(title for (of, _), title in self._bets.items() if of == model)


@st.cache_resource(show_spinner=False)
def _bets() -> _Bets:
    return _Bets()


def draw() -> None:
    models = [key for key in KEYS if key in offered()]
    if not models:
        st.info("The models of this lesson are not offered by this server.")
        return
    text, picture = st.columns([1, 1.25], gap="medium")
    with text:
        key = st.selectbox(
            "Model",
            models,
            format_func=title_of,
            help="Each is a small GPT-2 whose weights were compiled from a program, so that its circuit is known.",
            **kept("lesson6_model"),
        )
        _text(key)
        truth = known_truth(key)
        st.caption(
            f"Its circuit has **{counted(len(truth.edges), 'edge')}** of {truth.graph.n_edges:,}. "
            f"{explain.more('known-circuit')}"
        )
        bet = _bet(key)
    with picture:
        if bet is None:
            st.info("Bet first: the results are shown after that.", icon=":material/casino:")
            return
        request = JudgeRequest(known_run(key))
        if (found := ask(judge, request, f"Scoring by {counted(len(METHODS), 'method')}")) is None:
            return
        _results(found, key, bet)
    _one(found, truth, key)


def _text(key: str) -> None:
    preset = PRESETS[key]
    pair = preset.prompts.pairs[0]
    st.markdown(
        f"{markdown.plain(preset.about)}\n\n"
        f"*{markdown.plain(pair.clean)}* → **{markdown.plain(pair.answers[0].strip())}**  \n"
        f"Corrupt: *{markdown.plain(pair.corrupt)}*"
    )


def _bet(key: str) -> str | None:
    """What this session bet on this model; empty where it looked without a bet, None where it did neither."""
    own: dict[str, str] = st.session_state.get(_OWN, {})
    if key in own:
        if own[key]:
            st.markdown(f"You bet on **{markdown.plain(own[key])}**.")
        st.button(
            "Bet again",
            key="lesson6_again",
            on_click=_put,
            args=(key, None),
            help="Hides the results, and takes a new bet.",
        )
        return own[key]
    title = st.selectbox(
        "I bet on",
        _TITLES,
        help="The method whose scores tell the circuit's edges best from all others.",
        **kept("lesson6_bet"),
    )
    bet_at, look_at = st.columns(2)
    bet_at.button(
        "Bet, and see",
        key="lesson6_see",
        type="primary",
        icon=":material/casino:",
        width="stretch",
        on_click=_put,
        args=(key, title),
        help="Counts your bet with those of all others on this server, and shows the results.",
    )
    look_at.button(
        "See without a bet",
        key="lesson6_look",
        width="stretch",
        on_click=_put,
        args=(key, ""),
        help="Shows the results at once.",
    )
    return None


def _put(key: str, title: str | None) -> None:
    own = dict(st.session_state.get(_OWN, {}))
    own.pop(key, None)
    if title is not None:
        own[key] = title
    if title:
        _bets().put(key, visitor(), title)
    st.session_state[_OWN] = own


def _results(found: Sequence[Judged], key: str, bet: str) -> None:
    names, values = [each.method.title for each in found], [each.auroc for each in found]
    best = max(values)
    winners = [name for name, value in zip(names, values, strict=True) if value > best - 0.0005]
    won = "" if not bet else " **Your bet is among them.**" if bet in winners else " Your bet is not among them."
    few = winners[:3]
    more = f" and {len(winners) - 3} more" if len(winners) > 3 else ""
    st.markdown(f"The best AUROC is **{best:.3f}**, by {markdown.plain(', '.join(few))}{more}.{won}")
    st.plotly_chart(
        auroc_bars(names, values, bet=bet, dark=page.is_dark()),
        key="lesson6_bars",
        config={"displayModeBar": False},
        alt="AUROC of each method; the table below has the numbers.",
    )
    st.dataframe(_table(found, key), hide_index=True, width="stretch", column_config=_COLUMNS)


_COLUMNS = {
    "AUROC": st.column_config.NumberColumn(
        format="%.3f",
        help="How often an edge of the circuit has a larger |score| than one outside; pairs of equals count half.",
    ),
    "Found": st.column_config.TextColumn(help="Edges of the circuit among as many of the strongest."),
    "Bets": st.column_config.NumberColumn(help="Of everybody on this server, since it was started."),
}


def _table(found: Sequence[Judged], key: str) -> pd.DataFrame:
    bets = _bets().on(key)
    return pd.DataFrame(
        [
            {
                "Method": each.method.title,
                "AUROC": each.auroc,
                "Found": f"{each.hits} of {each.size}",
                "Bets": bets[each.method.title],
            }
            for each in found
        ]
    )


def _one(found: Sequence[Judged], truth: Truth, key: str) -> None:
    """What one method found, as a graph, and why."""
    choose_at, open_at = st.columns([3, 1], vertical_alignment="bottom")
    title = choose_at.selectbox(
        "What a method finds",
        [each.method.title for each in found],
        help="As many of its strongest edges as the circuit has, beside the circuit.",
        **kept("lesson6_method"),
    )
    each = next(each for each in found if each.method.title == title)
    if click.button(
        "Open in 1 · Prompts",
        at=open_at,
        key="lesson6_open",
        icon=":material/edit_note:",
        width="stretch",
        help="Works on this model and its prompts on all pages.",
    ):
        session.work_on(key, PRESETS[key].prompts)
        navigation.go(navigation.PROMPTS)
    edges = truth.strongest(each.scores)
    picture, words = st.columns([1.4, 1], gap="medium")
    with picture:
        truth_view.picture(truth, edges, each.scores, key=f"lesson6-{key}", width=560, on_click=_pick)
        _clicked(truth)
    with words:
        st.markdown(_in_words(each, truth))


def _pick(item: str) -> None:
    st.session_state[_PICKED] = item


def _clicked(truth: Truth) -> None:
    """The edge that was clicked, in words."""
    kind, _, number = str(st.session_state.get(_PICKED, "")).partition(":")
    if kind == "edge" and number.isdecimal() and len(number) < 12 and int(number) < truth.graph.n_edges:
        edge = int(number)
        where = "in the circuit" if truth.inside[edge] else "not in the circuit"
        what = f": {markdown.plain(truth.carries(edge))}" if truth.carries(edge) else ""
        st.caption(f"**{markdown.plain(truth.graph.edge_label(edge))}**, {where}{what}.")
    else:
        st.caption("Click an edge to read what it carries.")


def _in_words(each: Judged, truth: Truth) -> str:
    """What the method missed and what it found in vain, with what the edges carry."""
    found = truth.strongest(each.scores)
    strongest = float(abs(each.scores).max())
    lines = [f"**{markdown.plain(each.method.title)}** finds {len(truth.hits(found))} of {each.size} edges."]
    for edge in truth.misses(found).tolist():
        share = abs(float(each.scores[edge])) / strongest if strongest else 0.0
        score = "its score is rounding" if share < ROUNDING else f"its score is {share:.2g} of the largest"
        lines.append(
            f"- missed: {markdown.plain(truth.graph.edge_label(edge))} ({markdown.plain(truth.carries(edge))}); {score}"
        )
    for edge in truth.false_alarms(found).tolist():
        what = f", a decoy: {markdown.plain(truth.carries(edge))}" if truth.carries(edge) else ""
        lines.append(f"- false alarm: {markdown.plain(truth.graph.edge_label(edge))}{what}")
    lines.append(
        "\nHeads that look at one place with all their weight are **saturated**: a small change of the query changes "
        "nothing, so one gradient at the clean prompt gives edges into queries and keys no score. **Decoys** have a "
        "slope on the clean prompt, and write nothing on either prompt. Averages of gradients on the way between the "
        "prompts see more of both."
    )
    return "\n".join(lines)
