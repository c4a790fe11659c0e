"""The teaching model as a board: all its nodes, and the edges that a lesson shows, to be clicked.

show             the picture
choose_edges     the edges to show: the strongest, all, or those of one node, which a click on the node chooses
node_of          the edges that a node reads, and those that carry what it writes
pick_list        the edges that were clicked, as a list to be edited with the keyboard
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import networkx as nx
import numpy as np
import streamlit as st

from circuit.edges.graph import RESID_END
from circuit.edges.subgraph import circuit_graph
from circuit.jobs.lessons import lesson_graph
from circuit.plots.graph_svg import Line, graph_svg
from circuit.plots.layout import Layout, circuit_layout, stretched
from circuit.ui.frame import page
from circuit.ui.frame.widgets import kept
from circuit.ui.run import graph_view

WIDTH = 530
"""Pixels of the picture on a screen of 1366; it is scaled to the column it stands in."""
ALL, STRONGEST = "all edges", "the strongest edges"


@cache
def _whole() -> nx.MultiDiGraph:
    graph = lesson_graph()
    return circuit_graph(graph, np.arange(graph.n_edges), np.zeros(graph.n_edges, dtype=np.float32))


@cache
def _layout(height: int) -> Layout:
    return stretched(circuit_layout(_whole(), width=WIDTH), height, 54.0)


def names() -> list[str]:
    """All nodes, in the order in which they compute."""
    graph = lesson_graph()
    return [node.name for node in graph.sources] + [RESID_END]


class NodeEdges(NamedTuple):
    """The edges of one node, by number."""

    reads: list[int]
    writes: list[int]


@cache
def node_of(name: str) -> NodeEdges:
    """The edges that a node reads, and those that carry what it writes."""
    edges = _whole()
    return NodeEdges(
        sorted(data["edge"] for *_, data in edges.in_edges(name, data=True)),
        sorted(data["edge"] for *_, data in edges.out_edges(name, data=True)),
    )


def edge_label(edge: int) -> str:
    """An edge's name, with an arrow."""
    return lesson_graph().edge_label(edge)


def show(
    lines: Mapping[int, Line],
    *,
    key: str,
    caption: str,
    height: int = 330,
    picked: str | None = None,
    on_edge: Callable[[int], None] | None = None,
    on_node: Callable[[str | None], None],
    node_hint: str,
) -> None:
    """Draw all nodes, and these edges.

    Args:
        lines: How the edges that are shown are drawn, by number.
        key: Keeps zoom and place.
        caption: What the picture shows, in words; written below it.
        height: Of the circuit, in pixels.
        picked: The node to mark.
        on_edge: Called with the number of an edge that was clicked.
        on_node: Called with the name of a node that was clicked, or None for a click beside all.
        node_hint: What a click on a node does.
    """
    drawn = _whole().copy()
    drawn.remove_edges_from([edge for edge in drawn.edges(keys=True) if edge[2] not in lines])
    svg = graph_svg(drawn, _layout(height), caption=caption, dark=page.is_dark(), lines=lines, node_hint=node_hint)

    def clicked(item: str) -> None:
        kind, _, name = item.partition(":")
        if kind == "edge" and on_edge is not None:
            on_edge(int(name))
        elif kind != "edge":
            on_node(name if kind == "node" else None)

    mark = None if picked is None else f"node:{picked}"
    graph_view.show(svg, height=height + 72, picked=mark, file_name=key, key=key, on_click=clicked)


def choose_edges(key: str, strongest: Sequence[int] = ()) -> tuple[list[int], Callable[[str | None], None], str | None]:
    """The choice of edges to show; by default `strongest`, or all where none are given.

    Returns:
        The edges; what a click on a node does, for `show`; and the node chosen, if one is.
    """
    choices = [*([STRONGEST] if strongest else []), ALL, *names()]

    def click(node: str | None) -> None:
        st.session_state[key] = choices[0] if node in (None, st.session_state.get(key)) else node

    words = {STRONGEST: f"the {len(strongest)} strongest", ALL: f"all {lesson_graph().n_edges}"}
    shown = st.selectbox(
        "Edges shown",
        choices,
        format_func=lambda choice: words.get(choice, f"those of {choice}"),
        help="All, the strongest, or those of one node: the same as a click on a node of the picture.",
        **kept(key),
    )
    if shown == ALL:
        return list(range(lesson_graph().n_edges)), click, None
    if shown == STRONGEST:
        return list(strongest), click, None
    return [*node_of(shown).reads, *node_of(shown).writes], click, shown


def pick_list(label: str, key: str, help_text: str, most: int | None = None) -> tuple[int, ...]:
    """The edges picked, as a list to search and edit with the keyboard; `toggle` is what a click does to it."""
    return tuple(
        st.multiselect(
            label,
            range(lesson_graph().n_edges),
            format_func=edge_label,
            max_selections=most,
            placeholder="Type to find an edge, or click one in the picture",
            help=help_text,
            **kept(key),
        )
    )


def toggle(key: str, edge: int, most: int | None = None) -> None:
    """Put an edge into a `pick_list`, or take it out. Called from a click, before the page runs."""
    picked = list(st.session_state.get(key, []))
    if edge in picked:
        picked.remove(edge)
    elif most is None or len(picked) < most:
        picked.append(edge)
    st.session_state[key] = picked
