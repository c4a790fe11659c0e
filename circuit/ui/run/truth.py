"""The circuit on the page held against the one that is known of the model, where one is.

panel    draws nothing on a model whose circuit is not known
picture  hits, misses and false alarms of some edges, as a graph
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import streamlit as st
from jaxtyping import Float, Int

from circuit.common.errors import CircuitError
from circuit.common.words import counted
from circuit.edges.subgraph import circuit_graph
from circuit.plots.graph_svg import graph_svg
from circuit.plots.layout import circuit_layout
from circuit.plots.truth import precision_recall, truth_lines
from circuit.prompts.presets import PRESETS
from circuit.runs.run import Run
from circuit.runs.truth import Truth, n_above_rounding, truth_of, why_not
from circuit.ui.frame import address, explain, markdown, page
from circuit.ui.run import graph_view
from circuit.ui.run.choice import Choice

_DRAWN = 120
"""False alarms beyond these are left out of the picture."""
_WIDTH = 690


def panel(run: Run, choice: Choice) -> None:
    """Precision, recall and AUROC, the picture, and the curve over the number of edges."""
    try:
        truth, reason = truth_of(run), why_not(run)
    except CircuitError as error:
        st.caption(markdown.plain(str(error)))
        return
    if reason is not None:
        st.caption(f"**The known circuit** cannot be held against this run. {markdown.plain(reason)}")
    if truth is None:
        return
    hits = len(truth.hits(choice.edges))
    title = f"The circuit of this model is known: {hits} of its {counted(len(truth.edges), 'edge')} are kept"
    with st.expander(title, expanded=True, icon=":material/fact_check:"):
        _numbers(run, choice, truth)
        picture(truth, choice.edges, run.scores, key=f"truth-{run.id}", on_click=_look_at)
        _curve(run, choice, truth)
        _carried(truth, choice)
        _said(run, truth)


def picture(
    truth: Truth,
    found: Int[np.ndarray, " n"],
    scores: Float[np.ndarray, " n_edges"],
    *,
    key: str,
    width: int = _WIDTH,
    on_click: Callable[[str], None],
) -> None:
    """The edges that were found and those of the circuit, told apart by sign, width and colour.

    Args:
        truth: What is known.
        found: The edges that were found.
        scores: Of every edge.
        key: Keeps zoom and place.
        width: Of the picture, in pixels.
        on_click: Called with the item that was clicked, or `none` beside all.
    """
    false = truth.false_alarms(found)
    shown = np.concatenate([truth.edges, false[:_DRAWN]])
    if len(false) > _DRAWN:
        st.caption(f"Of {len(false):,} false alarms the picture shows the {_DRAWN} strongest.")
    drawn = circuit_graph(truth.graph, shown, scores)
    layout = circuit_layout(drawn, width=width)
    caption = (
        f"{counted(len(truth.hits(found)), 'edge')} of the known circuit found, {len(truth.misses(found))} missed, "
        f"{counted(len(false), 'false alarm')}"
    )
    dark = page.is_dark()
    svg = graph_svg(drawn, layout, caption=caption, dark=dark, lines=truth_lines(truth, found, dark=dark), node_hint="")
    height = min(layout.height + 90, 560)
    graph_view.show(svg, height=height, picked=None, file_name="known-circuit", key=key, on_click=on_click)


def _numbers(run: Run, choice: Choice, truth: Truth) -> None:
    cells = st.columns(4)
    precision = truth.precision(choice.edges)
    for cell, label, value, words in (
        (cells[0], "Precision", f"{precision:.0%}", "The share of the edges kept that belong to the known circuit."),
        (cells[1], "Recall", f"{truth.recall(choice.edges):.0%}", "The share of the known circuit that is kept."),
        (
            cells[2],
            "AUROC",
            f"{truth.auroc(run.scores):.2f}",
            "How often an edge of the known circuit has a larger |score| than one outside: 1 finds the circuit, 0.5 is "
            "chance. It does not depend on the number of edges kept.",
        ),
        (
            cells[3],
            "Scores above rounding",
            f"{n_above_rounding(run.scores):,}",
            f"Of {run.graph.n_edges:,} edges. Scores below a millionth of the largest are rounding; the order of these "
            "edges says nothing.",
        ),
    ):
        cell.metric(label, value, help=words)


def _curve(run: Run, choice: Choice, truth: Truth) -> None:
    most = min(run.graph.n_edges, max(6 * len(truth.edges), 30))
    precision, recall = truth.over_sizes(run.scores, most)
    size = len(truth.edges)
    figure = precision_recall(
        precision, recall, size=size, n_scored=n_above_rounding(run.scores), dark=page.is_dark()
    )  # fmt: skip
    st.plotly_chart(
        figure,
        key="truth-curve",
        config={"displayModeBar": False},
        alt=f"Precision and recall of the 1 to {most} edges of largest |score|. Of the {size} strongest, as many as "
        f"the circuit has, {round(recall[size - 1] * size)} belong to it.",
    )
    st.caption(
        f"By |score|, one by one. Of the {size} strongest, as many as the circuit has, "
        f"**{round(recall[size - 1] * size)}** belong to it. Where the background is grey, scores are rounding."
    )


def _carried(truth: Truth, choice: Choice) -> None:
    """The circuit as a list, so that nothing hangs on the picture."""
    kept = set(choice.edges.tolist())
    rows = [
        f"- {'kept' if edge in kept else '**missed**'}: {markdown.plain(truth.graph.edge_label(edge))}"
        + (f", {markdown.plain(truth.carries(edge))}" if truth.carries(edge) else "")
        for edge in truth.edges.tolist()
    ]
    rows += [
        f"- **false alarm**: {markdown.plain(truth.graph.edge_label(edge))}, a decoy: "
        f"{markdown.plain(truth.carries(edge))}"
        for edge in truth.false_alarms(choice.edges).tolist()
        if truth.carries(edge)
    ]
    st.markdown("\n".join(rows))


def _said(run: Run, truth: Truth) -> None:
    """For which prompts the circuit is known."""
    words = f"Known by construction, under the {truth.circuit.ablation} ablation. {explain.more('known-circuit')}"
    preset = PRESETS.get(truth.circuit.prompts)
    if preset is not None and not set(run.config.prompts.pairs) <= set(preset.prompts.pairs):
        words += (
            f" It is known for prompts like those of the preset **{markdown.plain(preset.title)}**; these are others, "
            "for which other edges may matter."
        )
    st.caption(words)


def _look_at(item: str) -> None:
    """A click marks the part in the picture above, too."""
    address.put("look", None if item in ("none", st.query_params.get("look")) else item)
