"""Keep the strongest edges only: the graph that is left, and whether it still does the task."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from circuit.edges.agreement import with_effects
from circuit.edges.method import AblationType
from circuit.edges.ranking import edge_table, readable
from circuit.edges.subgraph import circuit_graph, live_edges
from circuit.plots.graph_svg import graph_svg
from circuit.plots.layout import circuit_layout
from circuit.runs import export, importances
from circuit.runs.run import Run
from circuit.ui.frame import address, click, explain, markdown, navigation, page, session, share
from circuit.ui.frame.page import ALL_ZERO
from circuit.ui.run import advice, checks, faithfulness, graph_view, stability, truth
from circuit.ui.run.choice import Choice, choose, reference
from circuit.ui.run.details import edge_details, follow_effects, node_details

READABLE = 250  # edges: with more, the graph is hard to read
DRAWN = 1000  # edges: more would only make the page slow
WIDTH = 690  # pixels that the graph has on a screen of 1366


def draw(run: Run, choice: Choice) -> nx.MultiDiGraph | None:
    """The picture; returns the graph drawn, if there is one."""
    live = live_edges(run.graph, choice.edges)
    shown = live if choice.drop_dead_ends else choice.edges
    with st.container():  # one place, with or without a word: the picture stays where it is
        say_what_is_drawn(choice, len(live), len(shown))
    if not len(shown):
        return None
    shown = shown[:DRAWN]
    drawn = circuit_graph(run.graph, shown, run.scores, ranks=run.ranks)
    layout = circuit_layout(drawn, reference(run, choice), width=WIDTH, tokens=run.tokens)
    caption = f"{len(drawn.edges) - links(drawn):,} of {choice.words}; {run.caption}"
    picture_at = st.container()
    stable_at, export_at = st.columns([4, 1], vertical_alignment="bottom")
    with stable_at:
        stability.choose(run, choice)  # before the picture is drawn, which shows what is chosen
    with st.container():  # one place, with or without a job and a word
        stable = stability.of_circuit(run, choice, shown)
        if stable is not None:
            caption += f"; {stable.caption}"
            st.markdown(stable.count)
    svg = graph_svg(
        drawn, layout, caption=caption, dark=page.is_dark(), tokens=run.tokens,
        marks=None if stable is None else stable.marks, effects=session.effects(run), noise=run.noise,
    )  # fmt: skip
    name = f"circuit-{run.id[:8]}-{choice.n}"
    looked = st.query_params.get("look")
    height = min(layout.height + 90, 720)
    with picture_at:
        graph_view.show(svg, height=height, picked=looked, file_name=name, key=f"graph-{run.id}", on_click=look_at)
        st.caption(reading(run, choice, len(live)))
    with export_at:
        exports(run, choice, drawn, svg, caption, name)
    with st.expander("The same as a table", icon=":material/table_rows:"):
        table = with_effects(edge_table(run.graph, run.scores, shown, ranks=run.ranks), session.effects(run), run.noise)
        table = readable(run.graph, table if stable is None else stable.beside(table))
        st.dataframe(table, hide_index=True, height=260, alt=f"The {len(shown)} edges drawn, with their scores.")
    return drawn


def say_what_is_drawn(choice: Choice, n_live: int, n_shown: int) -> None:
    """Why the picture has fewer edges than the circuit, and where it has too many."""
    if dead := choice.n - n_live:
        are = "is a dead end" if dead == 1 else "are dead ends"
        what = "not drawn" if choice.drop_dead_ends else "drawn too"
        st.caption(f"{dead:,} of the {choice.n:,} edges {are}, on no path from Resid Start to Resid End: {what}.")
    if not n_shown:
        st.info(f"No path leads from Resid Start to Resid End through these edges. {explain.more('dead-end')}")
    elif n_shown > DRAWN:
        st.warning(
            f"{n_shown:,} edges are too many to draw: the graph shows the strongest {DRAWN:,} of them. "
            f"{explain.more('graph-size')}"
        )
    elif n_shown > READABLE:
        st.warning(
            f"{n_shown:,} edges are hard to read in one picture. Zoom in, or hover to single out a node. "
            f"{explain.more('graph-size')}"
        )


def question(run: Run) -> None:
    """What the circuit is a circuit of: the first prompt pair that was scored."""
    pair = run.config.prompts.pairs[run.used_rows[0]]
    right, wrong = (markdown.plain(", ".join(texts[:3]).strip()) for texts in (pair.answers, pair.wrong_answers))
    st.caption(
        f"**The task**, as in the first of {len(run.used_rows)} prompt pairs: "
        f"*{markdown.plain(pair.clean)}* → **{right}**"
        + (f", not {wrong}" if wrong else "")
        + f". The corrupt prompt: *{markdown.plain(pair.corrupt)}*"
    )


def reading(run: Run, choice: Choice, n_live: int) -> str:
    """How to read the picture, for whoever sees it first."""
    rest = run.graph.n_edges - (n_live if choice.drop_dead_ends else choice.n)
    others, ablation = "edges and dead ends" if choice.drop_dead_ends else "edges", run.config.method.ablation_type
    instead = "what they would carry on the corrupt prompt" if ablation is AblationType.RESAMPLE else f"the {ablation}"
    return (
        "**Read it upwards**: the prompt comes in at the bottom, heads (ellipses) carry information between its words, "
        "MLPs (boxes) work on each word, and the next word is read off at the top. The thicker a line, the larger its "
        "score; blue is estimated to help the task, orange to work against it. "
        f"The other {rest:,} {others} carry {instead}. "
        "**Click** a part to read about it, hover to single it out, zoom with Ctrl and scroll, drag to move."
    )


def look_at(item: str) -> None:
    """A click on what is looked at already, or beside all, ends that."""
    address.put("look", None if item in ("none", st.query_params.get("look")) else item)


def links(drawn: nx.MultiDiGraph) -> int:
    return sum(data["kind"] == "group" for *_, data in drawn.edges(data=True))


def exports(run: Run, choice: Choice, drawn: nx.MultiDiGraph, svg: str, caption: str, name: str) -> None:
    snippet = export.python_snippet(run, choice.n, choice.importance, choice.drop_dead_ends, choice.rule)
    files: dict[str, tuple[Callable[[], str | bytes], str, str, str]] = {
        "Picture, SVG": (
            lambda: svg.encode(),
            f"{name}.svg",
            "image/svg+xml",
            "For papers and slides; sharp at any size.",
        ),
        "Graph, GraphML": (
            lambda: export.graphml(drawn, caption),
            f"{name}.graphml",
            "application/xml",
            "The edges shown, for Gephi, Cytoscape or networkx.",
        ),
        "Graph, node-link JSON": (
            lambda: export.node_link_json(drawn, caption),
            f"{name}.json",
            "application/json",
            "The edges shown, for D3 or networkx.",
        ),
        "Graph, DOT": (
            lambda: export.dot(drawn, caption),
            f"{name}.dot",
            "text/vnd.graphviz",
            "The edges shown, for Graphviz.",
        ),
        "All scores, safetensors": (
            lambda: export.run_file(run),
            f"{run.id[:8]}.safetensors",
            "application/octet-stream",
            "The whole run, with its prompts and options, under AutoCircuit's names.",
        ),
        "All scores, CSV": (
            lambda: export.scores_csv(run),
            f"{run.id[:8]}.csv",
            "text/csv",
            "Every edge with its score, one line each.",
        ),
        "Python that computes this again": (
            lambda: snippet,
            f"{name}.py",
            "text/x-python",
            "A script with these prompts and options, for a notebook.",
        ),
    }
    if (width := importances.width_of(run)) is not None:
        files["All scores, benchmark's JSON"] = (
            lambda: importances.importances_json(run.graph, run.scores, width),
            f"{run.id[:8]}-importances.json",
            "application/json",
            "Importance scores for the Mechanistic Interpretability Benchmark and EAP-IG. Scores of shared keys and "
            "values are shared out equally among their heads.",
        )
    words = "The circuit or all scores as a file."
    with st.popover("Export", key="open-export", icon=":material/download:", help=words):
        for label, (data, file, mime, about) in files.items():
            st.download_button(
                label, data, file, mime, on_click="ignore", width="stretch", key=f"export-{file}-{label}", help=about
            )
        st.caption("PNG: the button in the corner of the picture.")


def details(run: Run, drawn: nx.MultiDiGraph, below: DeltaGenerator) -> None:
    """The node or edge that was clicked, and that the address names, in words and numbers."""
    item = st.query_params.get("look")
    if item is None:
        return
    kind, _, name = item.partition(":")
    with st.container(border=True):
        if kind == "node" and name in drawn:
            node_details(run, drawn, name, below)
        elif kind == "edge" and name.isdecimal() and len(name) < 12 and int(name) < run.graph.n_edges:
            if follow_effects(run):
                click.run_again()  # the picture has been drawn without what was found
            edge_details(run, int(name))
        elif kind == "node":
            st.markdown(f"**{markdown.plain(name[:40])}** is not in this circuit.")
        else:
            address.left_out("look")
        st.button(
            "Close",
            key="close",
            type="tertiary",
            on_click=lambda: address.put("look", None),
            help="Ends looking at this part; a click beside all parts of the picture does so, too.",
        )


# --- the page ------------------------------------------------------------------------------------------------------

page.begin(
    "4 · Circuit",
    "Keep the strongest edges and ablate all others. If the circuit is right, the task survives.",
)
run = session.current_run() or navigation.need_run()
address.belongs_to(run)
if not run.scores.any():
    st.error(ALL_ZERO)
    st.stop()
question(run)
controls, share_at = st.columns([8, 1], vertical_alignment="bottom")
with controls:
    choice = choose(run)
graph, beside = st.columns([3, 1.15], gap="medium")
with graph:
    drawn = draw(run, choice)
    checked_at, below = st.container(), st.container()
with beside:
    with st.container():  # one place, whether or not a part is looked at
        if drawn is not None:
            details(run, drawn, below)
    st.subheader("Does it still do the task?", anchor=False)
    setting = faithfulness.ask(run, choice)
    with st.container():  # one place, before and after it is measured
        faithfulness.panel(run, choice, setting)
    faithfulness.keeping(run, setting)
    advice.panel(run, choice, setting)
if drawn is not None:
    with checked_at:
        checks.panel(run, drawn, wait=faithfulness.measuring(run, setting))
truth.panel(run, choice)
faithfulness.curve(run, choice, setting)
with share_at:
    share.share(run)
address.keep(navigation.CIRCUIT)
