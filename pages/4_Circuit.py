"""Keep the strongest edges only: the graph that is left, and whether it still does the task."""

from __future__ import annotations

import math

import streamlit as st

from circuit.method import AblationType
from circuit.plots.circuit_graph import graph_height, graph_options, picked_item
from circuit.pruning import circuit_graph, live_edges, top_edges
from circuit.runs import Run
from circuit.tasks import MeasureRequest, measure_circuits
from circuit.ui import job_panel, page, session
from circuit.ui.page import ALL_ZERO

page.begin(
    "4 · Circuit",
    "Keep the edges of largest absolute score and ablate all others. If the circuit is right, the task survives.",
)
run = session.current_run()
if run is None:
    page.need_run()
assert run is not None

MANY = 300


def sizes(n_edges: int) -> list[int]:
    """Circuit sizes for the slider: close together at the small end, where graphs can be read."""
    steps = {round(10 ** (i / 12)) for i in range(12 * math.ceil(math.log10(n_edges)) + 1)}
    return sorted({n for n in steps if 5 <= n < n_edges} | {n_edges})


def choose_size(run: Run) -> int:
    options = sizes(run.graph.n_edges)
    # The first size at which there is something to see: most edges lie on a path from input to output.
    smallest = min(50, run.graph.n_edges // 10)
    readable = (n for n in options if n >= smallest and len(live_edges(run.graph, top_edges(run.scores, n))) >= 0.7 * n)
    default = next(readable, options[-1])
    return st.select_slider(
        "Edges kept, by absolute score",
        options,
        value=default,
        format_func=lambda n: f"{n:,}",
        key=f"size-{run.id}",
        persist_state="session",
    )


def draw(run: Run, n: int) -> None:
    kept = top_edges(run.scores, n)
    live = live_edges(run.graph, kept)
    dead = len(kept) - len(live)
    if dead:
        st.caption(f"{dead} of the {n:,} edges are dead ends, on no path from input to output: not drawn.")
    if not len(live):
        st.info("No path leads from the embedding to the final residual through these edges: keep more of them.")
        return
    if len(live) > MANY:
        st.warning(f"{len(live):,} edges are too many to draw readably: the graph shows the strongest {MANY} of them.")
        live = live[:MANY]
    drawn = circuit_graph(run.graph, live, run.scores)
    height = graph_height(drawn)
    caption = f"{len(live)} edges. {run.caption}"
    event = st.echarts_chart(
        graph_options(drawn, caption=caption, dark=page.is_dark(), width=680, height=height),
        height=height,
        key=f"graph-{run.id}-{n}",  # a selection belongs to one circuit
        on_select="rerun",
    )
    item = picked_item(drawn, event["selection"]["selected"])
    if item is not None:
        with st.container(border=True):
            st.markdown(item.text.replace("<b>", "**").replace("</b>", "**").replace("<br>", "  \n"))


def faithfulness(run: Run, n: int) -> None:
    """Measure the circuit, the whole model and the fully ablated one; results are kept with the run."""
    done = session.measurements(run)
    slot = f"measure-{run.id}"  # a run's own: another run's job or error says nothing about this one
    if (measured := job_panel.follow(slot)) is not None:
        done.update(measured)
    failed = f"error-{slot}" in st.session_state
    missing = tuple(sorted({0, n, run.graph.n_edges} - done.keys()))
    if missing and job_panel.running(slot) is None and not failed:
        request = MeasureRequest(run.config, run.scores, missing, run.config.method.ablation_type)
        job_panel.start(slot, measure_circuits, request, title=f"Measuring the circuit of {n:,} edges")
        st.rerun()
    if missing:
        if failed and st.button("Measure again"):
            del st.session_state[f"error-{slot}"]
            st.rerun()
        return
    report(run, n)


def report(run: Run, n: int) -> None:
    done = session.measurements(run)
    circuit, whole, ablated = done[n], done[run.graph.n_edges], done[0]
    method = run.config.method
    function = f"{method.grad_function} {method.answer_function}"
    span = whole.mean - ablated.mean
    if abs(span) < 1e-3 * max(abs(whole.mean), abs(ablated.mean), 1e-6):
        st.warning("The whole and the fully ablated model do equally well, so no share can be given.")
    else:
        share = (circuit.mean - ablated.mean) / span
        st.metric(
            "Faithfulness",
            f"{share + 0.0:.0%}" if abs(share) >= 0.005 else "0%",
            help="(circuit − ablated) / (whole model − ablated), of the mean answer value: 100 % is as good as the "
            "whole model, 0 % as bad as with every edge ablated.",
        )
        st.markdown(verdict(run, n, share, circuit.accuracy))
    rows = [("Whole model", whole), (f"**{n:,} edges**", circuit), ("No edge", ablated)]
    lines = [f"| {name} | {result.mean:+.2f} | {right(result.accuracy)} |" for name, result in rows]
    st.markdown("\n".join([f"| | {function} | right |", "| --- | ---: | ---: |", *lines]))
    source = " from the corrupt prompts" if method.ablation_type.reads_batch else ""
    st.caption(
        f"Means over the {len(circuit.values)} prompt pairs that the scores were made from: new prompts may do "
        f"worse. Clean prompts in; all edges but the circuit's carry {method.ablation_type} "
        f"ablation{source}. 'Right' is the share of prompts with every right answer above every wrong one."
    )
    if method.ablation_type is AblationType.RESAMPLE and method.clean_corrupt == "clean":
        st.caption("The scores patched clean activations; the circuit is measured with corrupt ones.")


def verdict(run: Run, n: int, share: float, accuracy: float) -> str:
    """The answer to the question above it, in words: by how much of the difference is left, and by who is ahead."""
    if n == run.graph.n_edges:
        return "These are all the edges: the whole model."
    kept = f"the {n:,} strongest edges keep {share:.0%} of the difference between the whole and the ablated model"
    if accuracy < 0.5:
        return (
            f"**No**: {kept}, but a wrong answer comes out ahead on {1 - accuracy:.0%} of the prompts. Keep more edges."
        )
    if share < 0.2:
        return f"**No**: {kept}. Keep more edges, or score with integrated gradients."
    return f"**{'Largely yes' if share >= 0.8 else 'Partly'}**: {kept}" + (
        "." if math.isnan(accuracy) else f", and the right answer stays ahead on {accuracy:.0%} of the prompts."
    )


def right(accuracy: float) -> str:
    """The share of prompts with every right answer above every wrong one."""
    return "–" if math.isnan(accuracy) else f"{accuracy:.0%}"


if not run.scores.any():
    st.error(ALL_ZERO)
    st.stop()
n_edges = choose_size(run)
graph, measured = st.columns([3, 1.15], gap="medium")
with measured:
    st.subheader("Does it still do the task?", anchor=False)
    faithfulness(run, n_edges)
with graph:
    draw(run, n_edges)
