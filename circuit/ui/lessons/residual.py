"""Lesson 1: the residual stream is a sum, and every pair of writer and later reader is an edge."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from circuit.edges.graph import EdgeGraph
from circuit.jobs.lessons import edge_counts, lesson_graph
from circuit.plots.colors import PALETTES
from circuit.plots.graph_svg import Line
from circuit.ui.frame import page
from circuit.ui.frame.widgets import kept
from circuit.ui.lessons import board

TITLE = "Residual stream and edges"
_NODE = "lesson1_node"
_NOTHING = "no node"


def draw() -> None:
    text, picture = st.columns([1, 1.3], gap="medium")
    with text:
        _text()
        node = st.selectbox(
            "Look at a node",
            [_NOTHING, *board.names()],
            help="The same as a click on a node of the picture.",
            **kept(_NODE),
        )
        _explain(node)
    with picture:
        board.show(
            _lines(node),
            key="board-1",
            caption="The teaching model: 3 layers of 4 heads. Time runs upwards. A line ends at the left of a head for "
            "its query, in the middle for its key, at the right for its value.",
            picked=None if node == _NOTHING else node,
            on_node=_click,
            node_hint="Click to see what it reads and writes.",
        )
    _count()


def _click(node: str | None) -> None:
    st.session_state[_NODE] = _NOTHING if node in (None, st.session_state.get(_NODE)) else node


def _text() -> None:
    st.markdown(
        "Each layer **adds** to the residual stream and replaces nothing. What a destination $d$ reads, before its "
        "layer norm, is the sum of what all sources $s$ before it wrote, and constant biases $b$:"
    )
    st.latex(r"x_d \;=\; b_d \,+\!\!\sum_{s \text{ before } d}\!\! c_s")
    st.markdown(
        "Each term is an **edge** $s \\to d$. Sources are the embedding (Resid Start), each head and each MLP; "
        "destinations are each head's query, key and value, each MLP, and the final residual (Resid End) "
        "([Elhage et al. 2021](https://transformer-circuits.pub/2021/framework))."
    )


def _lines(node: str) -> dict[int, Line]:
    palette = PALETTES[page.is_dark()]
    if node == _NOTHING:
        faint = Line("an edge", palette.faint, 1.0, 0.4)
        return dict.fromkeys(range(lesson_graph().n_edges), faint)
    edges = board.node_of(node)
    return {
        **dict.fromkeys(edges.reads, Line(f"{node} reads this", palette.helps, 1.8, 0.9)),
        **dict.fromkeys(edges.writes, Line(f"reads what {node} writes", palette.hurts, 1.8, 0.9)),
    }


def _explain(node: str) -> None:
    """What the chosen node reads and writes, in words: the picture's text alternative."""
    graph = lesson_graph()
    if node == _NOTHING:
        st.caption(f"The picture shows all {graph.n_edges} edges. Choose a node, here or there, to see its own.")
        return
    edges = board.node_of(node)
    sources = list(dict.fromkeys(graph.sources[graph.edge_source[edge]].name for edge in edges.reads))
    readers = [graph.destinations[graph.edge_destination[edge]].name for edge in edges.writes]
    times = ", each three times (Q, K, V)" if node.startswith("A") and sources else ""
    reads = f"reads {len(sources)} sources{times}: **{len(edges.reads)} edges**" if sources else "reads no source"
    writes = f"is read by {len(readers)} destinations: **{len(readers)} edges**" if readers else "is read by no one"
    st.markdown(f"**{node}** {reads}; it {writes}.".replace("1 sources", "1 source").replace("1 edges", "1 edge"))
    with st.expander("Which"):
        st.caption(f"Reads: {', '.join(sources) or 'nothing'}.")
        st.caption(f"Read by: {', '.join(readers) or 'nothing'}.")


def _count() -> None:
    """The number of edges by formula and by counting, for this model and for any other."""
    st.subheader("How many edges are there?", anchor=False)
    left, right = st.columns([1.25, 1], gap="medium")
    with left:
        st.markdown(
            "Before layer $\\ell$, the embedding and $\\ell$ layers of $h$ heads and an MLP have written: "
            "$1 + \\ell\\,(h+1)$ sources. With $n$ layers:"
        )
        st.latex(
            r"\sum_{\ell=0}^{n-1}\Big[\underbrace{3h\,\big(1+\ell(h+1)\big)}_{\text{Q, K, V}}"
            r"+\underbrace{1+\ell(h+1)+h}_{\text{MLP}}\Big]+\underbrace{1+n(h+1)}_{\text{Resid End}}"
        )
        layers, heads, total = st.columns(3, vertical_alignment="bottom")
        n = layers.number_input(
            "Layers n",
            1,
            200,
            3,
            help="Of any model.",
            **kept("lesson1_layers"),
        )
        h = heads.number_input(
            "Heads h",
            1,
            200,
            4,
            help="In each layer.",
            **kept("lesson1_heads"),
        )
        total.metric("Edges", f"{EdgeGraph(int(n), int(h), int(h)).n_edges:,}")
        st.caption("GPT-2 small has 12 layers of 12 heads. With grouped-query attention, keys and values are fewer.")
    with right:
        counts = edge_counts(lesson_graph())
        rows = [
            {
                "layer": "end" if count.what == "Resid End" else str(count.layer),
                "into": count.what,
                "destinations": count.destinations,
                "sources each": count.sources,
                "edges": count.edges,
            }
            for count in counts
        ]
        st.dataframe(pd.DataFrame(rows), hide_index=True, height=283, key="lesson1_counts")
        st.caption(
            f"This model's edges, counted one by one: {sum(count.edges for count in counts)}, into "
            f"{sum(count.destinations for count in counts)} destinations."
        )
