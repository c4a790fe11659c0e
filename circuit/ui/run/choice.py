"""Which edges the circuit page keeps: by number, by score or by share of the total; the controls in one row.

Choice     the circuit: its edges, and how they were chosen
choose     draw the controls, read them
AFRESH     what a page that is opened afresh begins with
show_size  show the circuit of another size, from elsewhere on the page
reference  the circuit whose layers get room in the layout
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import networkx as nx
import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from circuit.edges.choose import SelectionRule
from circuit.edges.ranking import IMPORTANCE_WORDS, Importance, edges_above, edges_for_share
from circuit.edges.subgraph import circuit_graph, live_edges
from circuit.plots.layout import next_step
from circuit.runs.run import Run
from circuit.ui.frame import address, explain, keys
from circuit.ui.frame.widgets import in_address

RULES = ("Number of edges", "Score at least", "Share of total")
HANGING: dict[str, tuple[SelectionRule, bool]] = {
    "one by one": ("top", True),
    "one by one, dead ends too": ("top", False),
    "connected": ("connected", True),
    "by paths": ("paths", True),
}
"""How edges are taken: by which rule, and whether those on no path are dropped. The first is what links of before this
choice show; a page that is opened afresh begins with `AFRESH`."""
AFRESH = {keys.RANKED_BY: "score, signed", keys.HANGING: "connected"}
SELECTION_WORDS: dict[SelectionRule, str] = {
    "top": "one by one",
    "connected": "so that each lies on a path of chosen edges",
    "paths": "a whole path at a time",
}
IMPORTANCE: dict[str, Importance] = {"|score|": "absolute", "score > 0 only": "positive", "score, signed": "signed"}
_AT_FIRST = 60
"""Edges of a large model's first circuit, few enough to be read. Of twelve pairs about capitals with three held out, 60
edges of SmolLM2-135M keep 80 % on these, where 50 keep 72 %."""


@dataclass(frozen=True)
class Choice:
    """The circuit: its edges, strongest first, and how they were chosen."""

    edges: np.ndarray
    importance: Importance
    drop_dead_ends: bool
    rule: SelectionRule = "top"
    wanted: int = 0
    """How many edges were asked for: by some rules there may be fewer."""

    @property
    def n(self) -> int:
        return len(self.edges)

    @property
    def words(self) -> str:
        how = hanging_words(self.rule, self.drop_dead_ends)
        return f"{self.n:,} edges chosen by {IMPORTANCE_WORDS[self.importance]}, {how}"


def hanging_words(rule: SelectionRule, dropped: bool) -> str:
    """How the edges of a circuit hang together, after "edges chosen by ... score,"."""
    if rule != "top":
        return "connected" if rule == "connected" else "path by path"
    return "without dead ends" if dropped else "dead ends included"


def sizes(n_edges: int) -> list[int]:
    """Circuit sizes for the slider: close together at the small end, where graphs can be read."""
    steps = {round(10 ** (i / 12)) for i in range(12 * math.ceil(math.log10(n_edges)) + 1)}
    return sorted({n for n in steps if 5 <= n < n_edges} | {n_edges})


def default_size(run: Run) -> int:
    """The first size of a connected circuit that is neither too small to say much nor too large to read."""
    sizes_there = run.ranked("signed", "connected").sizes
    wanted = min(_AT_FIRST, max(run.graph.n_edges // 10, 5))
    within = int(sizes_there[np.searchsorted(sizes_there, wanted, side="right") - 1])
    return within or int(sizes_there[min(1, len(sizes_there) - 1)]) or 1


def default_choice() -> tuple[Importance, SelectionRule]:
    """What a page that is opened afresh ranks edges by, and how it takes them."""
    return IMPORTANCE[AFRESH[keys.RANKED_BY]], HANGING[AFRESH[keys.HANGING]][0]


def begin_afresh() -> None:
    """Let a page whose address says nothing of a circuit begin with what does most with few edges."""
    said = {keys.SIZE_RULE, keys.SIZE, keys.THRESHOLD, keys.SHARE, keys.RANKED_BY, keys.HANGING, "dead_ends"}
    if st.query_params.pop("dead_ends", None) == "false":  # of links from before edges could be connected
        st.session_state[keys.HANGING] = "one by one, dead ends too"
    if said.isdisjoint(st.query_params) and said.isdisjoint(map(str, st.session_state)):
        st.session_state.update(AFRESH)


def choose(run: Run) -> Choice:
    """The controls in one row."""
    begin_afresh()
    take_size(run)
    rule_at, first, second, by_at, hanging_at = st.columns([1.3, 2, 0.9, 1.15, 1.35], vertical_alignment="bottom")
    rule = rule_at.selectbox(
        "Choose by",
        RULES,
        help="How the size of the circuit is given: as a number of edges, by the smallest score kept, or by the share "
        "of all scores that the kept edges hold.",
        **in_address(keys.SIZE_RULE, RULES),
    )
    by = by_at.selectbox(
        "Ranked by",
        list(IMPORTANCE),
        help="|score| takes edges that help and edges that hinder, the strongest first. score > 0 takes only those "
        "whose ablation is estimated to hurt the task. Signed goes on from these into the negative ones, the strongest "
        "last.",
        **in_address(keys.RANKED_BY, IMPORTANCE),
    )
    hanging = hanging_at.selectbox(
        "Edges are taken",
        list(HANGING),
        help="Connected: a threshold is lowered, and of the edges above it those are kept that lie on a path of kept "
        "edges from Resid Start to Resid End. By paths: whole paths, those first whose edges hold the largest shares. "
        "One by one: the strongest, whether or not they hang together; those on no path are left out, or kept too. "
        f"{explain.more('dead-end')}",
        **in_address(keys.HANGING, HANGING),
    )
    importance = IMPORTANCE[by]
    selection, drop = HANGING[hanging]
    ranked = run.ranked(importance, selection)
    if rule == "Number of edges":
        wanted = by_number(run, first, second)
    elif rule == "Score at least":
        wanted = len(edges_above(run.scores, by_threshold(run, first), importance))
    else:
        percent = first.slider(
            "Percent of the total",
            0.0,
            100.0,
            50.0,
            0.5,
            help="Keeps the fewest edges whose scores add up to this share of the total: of all scores' absolute sum "
            "by |score|, and of the positive scores' sum by the two others.",
            **in_address(keys.SHARE),
        )
        wanted = len(edges_for_share(run.scores, percent / 100, importance))
    edges = ranked.first(wanted)
    if rule != "Number of edges":
        second.markdown(f"**{len(edges):,}** edges")
    if len(edges) < wanted:
        st.caption(_fewer(run, len(edges), wanted, selection))
    return Choice(edges, importance, drop, selection, wanted)


def _fewer(run: Run, n: int, wanted: int, selection: SelectionRule) -> str:
    """Why the circuit has fewer edges than were asked for."""
    if selection == "top":
        return f"Only {n:,} edges have a positive score: the circuit is all of these."
    return f"{n:,} of the {wanted:,} edges: the next path would need more, and half a path does nothing."


def show_size(run: Run, n: int) -> None:
    """Show the circuit of n edges of this run: at the next run of the page, before its widgets are drawn."""
    st.session_state[keys.SIZE_WANTED] = run.id, n


def take_size(run: Run) -> None:
    """The size that `show_size` asked for, whatever rule the circuit was chosen by until now."""
    run_id, n = st.session_state.pop(keys.SIZE_WANTED, ("", 0))
    if run_id == run.id and 1 <= n <= run.graph.n_edges:
        st.session_state[keys.SIZE_RULE], st.session_state[keys.SIZE] = RULES[0], n


def by_number(run: Run, slider_at: DeltaGenerator, exact_at: DeltaGenerator) -> int:
    """A logarithmic slider, and beside it the exact number."""
    n_edges = run.graph.n_edges
    asked = address.numbered(keys.SIZE, 1, n_edges)
    # The slider offers round sizes, and whatever exact number was asked for.
    first = default_size(run)
    options = sorted({*sizes(n_edges), first, *([asked] if asked else []), *exact_size(run)})
    n = slider_at.select_slider(
        "Edges kept",
        options,
        value=first,
        help="The size of the circuit. Fewer edges are easier to understand, more do the task better: look for the "
        "fewest that are still faithful.",
        **in_address(keys.SIZE),
    )
    st.session_state[keys.EXACT_SIZE] = int(n)
    exact_at.number_input(
        "exactly",
        1,
        n_edges,
        key=keys.EXACT_SIZE,
        on_change=take_exact,
        help="Any size, where the slider has round ones only.",
    )
    return int(n)


def exact_size(run: Run) -> list[int]:
    n = st.session_state.get(keys.SIZE)
    return [n] if isinstance(n, int) and 1 <= n <= run.graph.n_edges else []


def take_exact() -> None:
    st.session_state[keys.SIZE] = st.session_state[keys.EXACT_SIZE]


def by_threshold(run: Run, number_at: DeltaGenerator) -> float:
    largest, start = (float(np.abs(run.scores[run.order[i]])) for i in (0, min(50, run.graph.n_edges) - 1))
    least = number_at.number_input(
        f"Smallest score kept (the largest is {largest:.3g})",
        0.0,
        None,
        float(f"{start:.2g}"),
        step=start / 10,
        format="%.4g",
        help="Keeps every edge whose score is at least this, whatever the number of edges.",
        **in_address(keys.THRESHOLD),
    )
    return float(least or 0.0)


def reference(run: Run, choice: Choice) -> nx.MultiDiGraph | None:
    """The circuit whose layers get room in the layout: the same for all sizes up to the next step."""
    step = next_step(choice.n, apart=run.graph.seq_len is not None)
    if step is None:
        return None
    edges = run.ranked(choice.importance, choice.rule).first(step)
    if choice.drop_dead_ends:
        edges = live_edges(run.graph, edges)
    return circuit_graph(run.graph, edges, run.scores, ranks=run.ranks)
