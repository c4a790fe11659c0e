"""Where the strong edges are: heatmaps, the selected edge in words, and a table."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from circuit.edges.agreement import disagreements, with_effects
from circuit.edges.filter import strongest_of
from circuit.edges.ranking import edge_table, node_scores, readable
from circuit.plots.curves import effect_scatter, falloff_curve, trust
from circuit.plots.heatmap import block_heatmap, block_of, layer_heatmap, node_heatmap, picked_block, picked_edge
from circuit.plots.matrix import position_heatmap, score_matrix
from circuit.plots.numbers import Reduce
from circuit.runs.run import Run
from circuit.ui.frame import address, explain, keys, markdown, navigation, page, session, share
from circuit.ui.frame.widgets import in_address
from circuit.ui.run.details import edge_details, follow_effects, measure, measuring
from circuit.ui.run.filters import edge_filter

REDUCE: dict[Reduce, str] = {"abs_sum": "Sum of |score|", "abs_max": "Largest |score|", "signed_sum": "Signed sum"}
VIEWS = {
    "layers": "Layer by layer",
    "nodes": "Nodes",
    "matrix": "Every edge",
    "positions": "Position by layer",
    "falloff": "Fall-off",
    "measured": "Score and effect",
}
WIDE, LEFT, RIGHT = 940, 560, 360  # pixels for which figures are laid out: those of a screen 1366 pixels wide
MEASURED = 30
NODES = 50
TABLE = "The table below lists the edges with their scores."


@dataclass(frozen=True)
class Shown:
    """What the controls ask for: a view, and the edges in it."""

    view: str
    position: int | None
    reduce: Reduce
    kept: np.ndarray | None
    filtered: str
    edges: np.ndarray
    caption: str


def controls(run: Run) -> tuple[Shown, DeltaGenerator]:
    """The row of controls; also where the Share button goes."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        view = choose_view(run)
        position = choose_position(run) if run.graph.seq_len is not None else None
        reduce = choose_cell() if view in (VIEWS["layers"], VIEWS["positions"]) else "abs_sum"
        with st.popover(
            "Filter",
            key="open-filter",
            icon=":material/filter_alt:",
            help="Shows some of the edges only, on the map and in the table.",
        ):
            kept, filtered = edge_filter(run, position)
        share_at = st.container(width="content")
    edges = run.order if kept is None else strongest_of(kept, run.ranks)
    caption = run.caption
    with st.container():  # one place, with or without the caption
        if filtered:
            st.caption(f"Showing **{markdown.plain(filtered)}**: {len(edges):,} edges.")
            caption = f"{run.caption}; {filtered}"
    return Shown(view, position, reduce, kept, filtered, edges, caption), share_at


def choose_view(run: Run) -> str:
    views = [label for key, label in VIEWS.items() if key != "positions" or run.graph.seq_len is not None]
    return st.segmented_control(
        "View",
        views,
        default=VIEWS["layers"],
        required=True,
        help="Layer by layer to find where the strong edges are; nodes for what each head and MLP is worth through all "
        "its edges; every edge for the whole picture; fall-off for how "
        "fast scores shrink; score and effect for how far to trust them.",
        **in_address("view", views),
    )


def choose_position(run: Run) -> int | None:
    """The token position; None adds all of them up."""
    positions = ["All positions", *(f"{i} {token}" for i, token in enumerate(run.tokens))]
    chosen = st.selectbox(
        "Token position",
        positions,
        width=190,
        help="Shows the edges at this token only; otherwise all positions are added up.",
        **in_address(keys.POSITION, positions),
    )
    return None if chosen == positions[0] else positions.index(chosen) - 1


def choose_cell() -> Reduce:
    label = st.selectbox(
        "A cell shows",
        list(REDUCE.values()),
        width=180,
        help="What a cell of the map shows of its edges: how strong they are together, the strongest alone, or "
        "their sum with signs, in which helping and hindering edges cancel out.",
        **in_address("cell", REDUCE.values()),
    )
    return next(key for key, words in REDUCE.items() if words == label)


def draw(run: Run, shown: Shown, edge: int | None) -> None:
    """The chosen view, and the selected edge in words."""
    if shown.view == VIEWS["layers"]:
        blocks(run, shown, edge)
        return
    caption, kept = shown.caption, shown.kept
    if shown.view == VIEWS["matrix"]:
        st.plotly_chart(
            score_matrix(run.graph, run.scores, caption=caption, position=shown.position, kept=kept, width=WIDE),
            key="matrix",
            alt=f"Matrix of the scores of every edge. {TABLE} {caption}",
        )
    elif shown.view == VIEWS["nodes"]:
        nodes(run, shown)
    elif shown.view == VIEWS["positions"]:
        st.plotly_chart(
            position_heatmap(run.graph, run.scores, run.tokens, shown.reduce, caption=caption, kept=kept, width=WIDE),
            key="positions",
            alt=f"Heatmap of the scores, token position by layer. {TABLE} {caption}",
        )
    elif shown.view == VIEWS["falloff"]:
        st.plotly_chart(
            falloff_curve(run.scores, caption=caption, kept=kept, dark=page.is_dark(), width=WIDE),
            key="falloff",
            alt=f"Curve of absolute scores by rank, the largest first. {TABLE} {caption}",
        )
    else:
        measured(run, shown)
    selected(run, edge)


def nodes(run: Run, shown: Shown) -> None:
    """What every head and MLP is worth through all its edges, and the strongest of them."""
    scores = run.scores if shown.kept is None else np.where(shown.kept, run.scores, 0)
    found = node_scores(run.graph, scores)
    if run.graph.seq_len is not None:
        found = found.sum(0) if shown.position is None else found[shown.position]
    picture, beside = st.columns([1.55, 1], gap="small")
    with picture:
        st.plotly_chart(
            node_heatmap(run.graph, found, caption=shown.caption, width=LEFT),
            key="nodes",
            alt=f"Heatmap of the sums of every head's and MLP's edges' scores, by layer. {shown.caption}",
        )
    with beside:
        said = "**Estimated**: ablating all that a node writes does, to first order, what its edges' scores add up to."
        if not run.config.method.points:  # learned, or averaged
            said = f"A score is the {run.config.method.score}: what they add up to is no estimate of an effect."
        st.markdown(f"{said} {explain.more('score')}")
        strongest = np.argsort(-np.abs(found), kind="stable")[:NODES]
        st.dataframe(
            pd.DataFrame(
                {"node": [run.graph.sources[node].name for node in strongest], "sum of scores": found[strongest]}
            ),
            hide_index=True,
            height=320,
            alt=f"The {len(strongest)} strongest nodes and the sums of their edges' scores.",
            column_config={"sum of scores": st.column_config.NumberColumn(format="%+.4g")},
        )


def blocks(run: Run, shown: Shown, edge: int | None) -> None:
    """The overview, and beside it the edges of the chosen block and the chosen edge."""
    overview, detail = st.columns([1.55, 1], gap="small")
    block = chosen_block(run)
    with overview:
        # Plotly marks what was clicked: only another block needs a mark, and a figure that stays is not drawn again.
        event = st.session_state.get(f"overview-{run.id}")
        marked = picked_block(run.graph, event["selection"]["points"]) if event else None
        figure = layer_heatmap(
            run.graph,
            run.scores,
            shown.reduce,
            caption=shown.caption,
            position=shown.position,
            kept=shown.kept,
            width=LEFT,
            chosen=None if block == marked else block,
        )
        st.plotly_chart(
            figure,
            key=f"overview-{run.id}",
            on_select="rerun",
            selection_mode="points",
            alt=f"Heatmap of the scores, layer by layer. {TABLE} {shown.caption}",
        )
    with detail:
        if block is None:
            st.info("**Click a cell** of the map to see its edges here, one by one.", icon=":material/ads_click:")
        else:
            edges_of(run, shown, block, edge)
        selected(run, edge)


def edges_of(run: Run, shown: Shown, block: tuple[str, str], edge: int | None) -> None:
    """The edges of a block, one by one."""
    destination, source = block
    how = "click a cell to read about its edge"
    if run.graph.seq_len is not None and shown.position is None:  # a cell is a sum
        how = "choose a token position to read about single edges"
    st.markdown(f"**{source} → {destination}** · {how}")
    figure = block_heatmap(
        run.graph,
        run.scores,
        destination,
        source,
        caption=shown.caption,
        reduce="signed_sum",
        position=shown.position,
        kept=shown.kept,
        chosen=edge,
        dark=page.is_dark(),
        width=RIGHT,
    )
    st.plotly_chart(
        figure,
        key=block_key(run, block),
        on_select="rerun",
        selection_mode="points",
        alt=f"Heatmap of the edges from {source} to {destination}. {TABLE}",
    )


def chosen_block(run: Run) -> tuple[str, str] | None:
    """The block that the address names."""
    text = st.query_params.get("block")
    if text is None:
        return None
    destination, _, source = text.partition(",")
    block = picked_block(run.graph, [{"y": destination, "x": source}])
    if block is None:
        address.left_out("block")
    return block


def block_key(run: Run, block: tuple[str, str]) -> str:
    return f"block-{run.id}-{block[0]}-{block[1]}"


def take_clicks(run: Run, shown: np.ndarray) -> None:
    """Write to the address what was clicked since the last run, before anything is drawn from it."""
    block = chosen_block(run)
    points = clicked(f"overview-{run.id}", "points")
    if (picked := picked_block(run.graph, points)) is not None:
        address.put("block", ",".join(picked))
    for key in (f"effects-chart-{run.id}", *([block_key(run, block)] if block else [])):
        if (edge := picked_edge(clicked(key, "points"))) is not None:
            select(run, edge, block)
    for row in clicked(f"table-{run.id}", "rows"):
        if row < len(shown):
            select(run, int(shown[row]), block)


def clicked(key: str, part: str) -> list[Any]:
    """What was just selected in a chart or table; nothing if that was earlier."""
    event = st.session_state.get(key)
    selection = event["selection"].get(part, []) if event else []
    return selection if address.changed(key, selection) else []


def select(run: Run, edge: int, block: tuple[str, str] | None) -> None:
    address.put("edge", edge)
    if block is None or edge_is_outside(run, edge, block):
        address.put("block", ",".join(block_of(run.graph, edge)))


def edge_is_outside(run: Run, edge: int, block: tuple[str, str]) -> bool:
    """Whether the detail would not show the edge."""
    destination = run.graph.destinations[run.graph.edge_destination[edge]].name
    source = run.graph.sources[run.graph.edge_source[edge]].name
    layer, _, kind = block[0].partition(".")
    inside = destination == block[0] or (destination.startswith(f"{layer}.") and destination.endswith(kind))
    return not (inside and (source == block[1] or source.startswith(f"{block[1]}.")))


def selected(run: Run, edge: int | None) -> None:
    """The selected edge in words, and what ablating it really does."""
    if edge is not None:
        with st.container(border=True):
            edge_details(run, edge)


def measured(run: Run, shown: Shown) -> None:
    """Score against measured effect, for the strongest edges and all others that were measured."""
    effects = session.effects(run)
    strongest = [int(edge) for edge in shown.edges[:MEASURED]]
    if missing := tuple(edge for edge in strongest if edge not in effects):
        st.markdown(
            f"A score is not a measurement: it is the {run.config.method.score}. Ablating the "
            f"{len(strongest)} strongest edges one at a time, on the run's {len(run.used_rows)} prompt pairs, "
            "shows how far to trust it."
        )
        label = f"Measure {len(strongest)} edges"
        st.button(
            label,
            type="primary",
            disabled=measuring(run),
            on_click=measure,
            args=(run, missing),
            help="Runs the model once for each edge, with that edge ablated: seconds for small models. Edges that were "
            "measured before are not measured again.",
        )
    others = set(shown.edges.tolist()) & set(effects)
    there = {edge: effects[edge] for edge in dict.fromkeys([*strongest, *sorted(others)]) if edge in effects}
    if there:
        furthest = markdown.plain(disagreements(run.graph, run.scores, there, run.noise))
        st.markdown(f"{furthest}  \nOf the edges measured, {trust(run.scores, there)}")
        figure = effect_scatter(
            run.graph,
            run.scores,
            there,
            caption=shown.caption,
            score_is=run.config.method.score,
            noise=run.noise,
            dark=page.is_dark(),
            width=WIDE,
        )
        st.plotly_chart(
            figure,
            key=f"effects-chart-{run.id}",
            on_select="rerun",
            selection_mode="points",
            alt=f"Measured effect against score of {len(there)} edges; {trust(run.scores, there)} {shown.caption}",
        )


def table(run: Run, shown: np.ndarray, words: str) -> None:
    st.subheader("Strongest edges", anchor=False)
    n_rows = st.session_state.get(keys.ROWS, 100)
    edges = edge_table(run.graph, run.scores, shown[:n_rows], ranks=run.ranks)
    edges = readable(run.graph, with_effects(edges, session.effects(run), run.noise))
    percent = st.column_config.NumberColumn(format="percent")
    st.dataframe(
        edges,
        hide_index=True,
        height=320,
        key=f"table-{run.id}",
        alt=f"The {len(edges)} strongest edges: source, destination, score and rank.",
        on_select="rerun",
        selection_mode="single-row",
        column_config={
            "score": st.column_config.NumberColumn(
                format="%+.5g", help="Positive: ablating the edge is estimated to hurt the task."
            ),
            "measured effect": st.column_config.NumberColumn(
                format="%+.5g", help="What ablating the edge alone really does to the loss."
            ),
            "agrees": st.column_config.TextColumn(help="Whether the effect has the sign of the score, beyond noise."),
            "share": percent,
            "cumulative share": percent,
        },
    )
    number, csv, parquet, _ = st.columns([1, 1, 1, 2.2], vertical_alignment="bottom")
    number.selectbox(
        "Rows shown",
        [100, 300, 1000],
        help="How many of the strongest edges the table shows. The files hold all of them.",
        **in_address(keys.ROWS),
    )
    name = f"edges-{run.id[:8]}"
    for column, kind, mime in ((csv, "csv", "text/csv"), (parquet, "parquet", "application/vnd.apache.parquet")):
        column.download_button(
            f"All {len(shown):,} as {kind.upper() if kind == 'csv' else 'Parquet'}",
            partial(as_file, run, shown, kind),
            f"{name}.{kind}",
            mime,
            on_click="ignore",
            width="stretch",
            icon=":material/download:",
            help="All edges that the filter lets through, with scores and ranks, for a spreadsheet or pandas.",
        )
    st.caption(
        "Click the box at the left of a row to read about its edge; the magnifying glass above the table searches it. "
        f"Shares are of the total absolute score of all {run.graph.n_edges:,} edges. "
        + markdown.plain(run.caption + (f"; {words}" if words else ""))
    )


def as_file(run: Run, shown: np.ndarray, kind: str) -> bytes:
    """All edges that the filter lets through; made when somebody asks for the file."""
    edges = with_effects(edge_table(run.graph, run.scores, shown, ranks=run.ranks), session.effects(run), run.noise)
    if kind == "csv":
        return edges.to_csv().encode()
    buffer = io.BytesIO()
    edges.to_parquet(buffer)
    return buffer.getvalue()


# --- the page ------------------------------------------------------------------------------------------------------

page.begin(
    "3 · Scores",
    "Rows **read** from the residual stream, columns **write** to it; an edge is one writing to one reading.",
)
run = session.current_run() or navigation.need_run()
address.belongs_to(run)
if not run.scores.any():
    st.error(page.ALL_ZERO)
shown, share_at = controls(run)
follow_effects(run)
take_clicks(run, shown.edges)
draw(run, shown, address.numbered("edge", 0, run.graph.n_edges - 1))
table(run, shown.edges, shown.filtered)
navigation.next_step(navigation.CIRCUIT, "See the circuit")
with share_at:
    share.share(run)
address.keep(navigation.SCORES)
