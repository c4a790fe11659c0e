"""Where the strong edges are: a heatmap layer by layer, the edges of a block, and a table."""

from __future__ import annotations

import streamlit as st

from circuit.plots.heatmap import Reduce, block_heatmap, layer_heatmap, picked_block, picked_edge, score_matrix
from circuit.pruning import edge_table, top_edges
from circuit.runs import Run
from circuit.ui import page, session

page.begin(
    "3 · Scores",
    "Rows **read** from the residual stream, columns **write** to it; an edge is one writing to one reading. Strong "
    "edges are few: find them layer by layer, then by name.",
)
run = session.current_run()
if run is None:
    page.need_run()
assert run is not None

if not run.scores.any():
    st.error(page.ALL_ZERO)

REDUCE: dict[Reduce, str] = {
    "abs_sum": "Sum of |score|",
    "abs_max": "Largest |score|",
    "signed_sum": "Sum of scores (signed)",
}


def overview(run: Run, position: int | None) -> None:
    control, hint = st.columns([1, 1], vertical_alignment="bottom")
    hint.caption("**Click a cell** to see its edges one by one, below the map. `A1` stands for the heads of layer 1.")
    reduce = control.segmented_control(
        "A cell shows", list(REDUCE), format_func=REDUCE.__getitem__, default="abs_sum", required=True, key="reduce"
    )
    assert reduce is not None
    figure = layer_heatmap(run.graph, run.scores, reduce, caption=run.caption, position=position)
    event = st.plotly_chart(figure, key="overview", on_select="rerun", selection_mode="points")
    if picked := picked_block(run.graph, event["selection"]["points"]):
        st.session_state["block"] = picked


def detail(run: Run, position: int | None) -> None:
    if "block" not in st.session_state:
        return
    destination, source = st.session_state["block"]
    if picked_block(run.graph, [{"y": destination, "x": source}]) is None:
        return  # clicked in the scores of a larger model
    st.subheader(f"{source} → {destination}", anchor=False)
    figure = block_heatmap(
        run.graph, run.scores, destination, source, caption=run.caption, position=position, dark=page.is_dark()
    )
    event = st.plotly_chart(figure, key=f"block-{destination}-{source}", on_select="rerun", selection_mode="points")
    edge = picked_edge(event["selection"]["points"])
    if edge is not None:
        score = float(run.scores[edge])
        change = "raises" if score > 0 else "lowers"
        st.info(
            f"**{run.graph.edge_name(edge)}**: score {score:+.5f}. By this linear estimate, ablating the edge {change} "
            f"the loss by {abs(score):.5f}, so the edge {'helps' if score > 0 else 'works against'} the task."
        )


def table(run: Run) -> None:
    st.subheader("Strongest edges", anchor=False)
    most = min(1000, run.graph.n_edges)
    shown = st.slider("Rows", 10, most, min(50, most), 10) if most > 10 else most
    edges = edge_table(run.graph, run.scores, top_edges(run.scores, shown))
    percent = st.column_config.NumberColumn(format="percent")
    st.dataframe(
        edges,
        hide_index=True,
        height=360,
        column_config={
            "score": st.column_config.NumberColumn(format="%+.5f", help="Positive: ablating the edge hurts the task."),
            "share": percent,
            "cumulative share": percent,
        },
    )
    st.caption(f"Shares are of the total absolute score of all {run.graph.n_edges:,} edges. {run.caption}")


position: int | None = None
if run.graph.seq_len is not None:
    choice = st.selectbox("Token position", ["all", *range(run.graph.seq_len)], key="position")
    position = None if choice == "all" else int(choice)

layers, matrix = st.tabs(["Layer by layer", "Every edge"], on_change="rerun")
with layers:
    if layers.open:
        overview(run, position)
        detail(run, position)
with matrix:
    if matrix.open:
        st.plotly_chart(score_matrix(run.graph, run.scores, caption=run.caption, position=position), key="matrix")
table(run)
page.next_step(page.CIRCUIT, "See the circuit")
