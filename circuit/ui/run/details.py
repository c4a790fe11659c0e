"""What was clicked, in words and numbers: an edge, a node, a head's attention; and measuring edges.

edge_details   what an edge connects, its score, and what ablating it really does
node_details   a node's strongest edges in and out, and for a head its attention pattern
measure        ablate some edges one at a time, as a job
follow_effects draw that job's panel, and keep what it found; call once on a page
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx
import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from circuit.edges.agreement import OPPOSITE, contradicts
from circuit.edges.sentences import edge_words, effect_words, node_words
from circuit.edges.subgraph import node_edges
from circuit.jobs.inspect import AttentionRequest, EffectsRequest, measure_effects, read_attention
from circuit.models.tokenizer import visible
from circuit.plots.attention import attention_heatmaps
from circuit.runs.run import Run
from circuit.ui.frame import explain, job_panel, keys, markdown, session
from circuit.ui.frame.widgets import kept


def edge_details(run: Run, edge: int) -> None:
    score, effect = float(run.scores[edge]), session.effects(run).get(edge)
    words = edge_words(run.graph, edge, run.tokens)
    st.markdown(
        f"**{run.graph.edge_label(edge)}** · number {run.ranks[edge]:,} of {run.graph.n_edges:,} by |score|  \n"
        f"{markdown.plain(words[0].upper() + words[1:])}; {effect_words(score, effect, run.config.method, run.noise)}."
    )
    if effect is not None and contradicts(score, effect, run.noise):
        st.warning(
            f"**{OPPOSITE} Measured, it does the opposite**: by its score this edge "
            f"{'helps' if score > 0 else 'hinders'}, and really it {'helps' if effect > 0 else 'hinders'}. "
            f"{explain.more('effect')}"
        )
    if effect is not None and not 0.5 < abs(effect) / max(abs(score), 1e-12) < 2:
        st.caption(
            "A score is read from gradients, and taking the edge out altogether can do much more or less than they "
            "say: [lesson 3 of Learn](Learn?lesson=3) shows why."
        )
    if effect is None:
        label = "Measure by ablating it"
        st.button(
            label,
            icon=":material/science:",
            disabled=measuring(run),
            on_click=measure,
            args=(run, (edge,)),
            help="Runs the model with this edge alone ablated, to see how good an estimate the score is.",
        )


def measure(run: Run, edges: tuple[int, ...]) -> None:
    title = run.graph.edge_label(edges[0]) if len(edges) == 1 else f"{len(edges)} edges, one at a time"
    request = EffectsRequest(run.config, edges)
    job_panel.start(f"effects-{run.id}", measure_effects, request, title=f"Ablating {title}")


def measuring(run: Run) -> bool:
    return job_panel.running(f"effects-{run.id}") is not None


def follow_effects(run: Run) -> bool:
    """Before `edge_details`, so that these show what was found; says whether something new was."""
    if (new := job_panel.follow(f"effects-{run.id}", in_address=True)) is not None:
        session.keep_effects(run, new)
    return new is not None


def node_details(run: Run, drawn: nx.MultiDiGraph, name: str, below: DeltaGenerator) -> None:
    """A head's attention pattern needs more room: it is drawn into `below`."""
    node = drawn.nodes[name]
    words = node_words(node, run.graph, run.tokens)
    st.markdown(f"**{name}** · {markdown.plain(words)}")
    here = {data["edge"] for *_, data in drawn.edges(data=True) if data["kind"] == "edge"}
    for title, edges in zip(("In", "Out"), node_edges(run.graph, node), strict=True):
        if not len(edges):
            continue
        strength = np.abs(run.scores[edges])
        strongest = edges[np.argsort(-strength, kind="stable")][:5]
        inside = sum(edge in here for edge in edges.tolist())
        lines = [
            f"**{title}**: {len(edges):,} edges, sum of |score| {strength.sum():.3g}; {inside} of them in the circuit",
            *(
                f"{'●' if edge in here else '○'} {run.graph.edge_label(edge)}: {run.scores[edge]:+.3g}"
                f"{_beside(run, edge)}"
                for edge in strongest.tolist()
            ),
        ]
        st.markdown("  \n".join(lines))
    st.caption(f"● in the circuit, ○ not, {OPPOSITE} measured: the opposite of its score")
    if node["kind"] == "head":
        attention(run, node, below)


def _beside(run: Run, edge: int) -> str:
    """What was measured of the edge, to stand beside its score."""
    if (effect := session.effects(run).get(edge)) is None:
        return ""
    mark = f" {OPPOSITE}" if contradicts(float(run.scores[edge]), effect, run.noise) else ""
    return f"{mark} (measured {effect:+.3g})"


def attention(run: Run, node: Mapping[str, Any], below: DeltaGenerator) -> None:
    """The head's attention pattern on a chosen prompt, clean and corrupt."""
    if not st.toggle(
        "Attention pattern",
        help="Shows from where to where this head looks, on one prompt pair.",
        **kept("attention"),
    ):
        return
    pairs = run.config.prompts.pairs
    row = st.selectbox(
        "Prompt",
        run.used_rows,
        format_func=lambda i: f"{i + 1}: {pairs[i].clean}",
        key=keys.ATTENTION_ROW,
        help="The pair whose clean and corrupt prompt the head is looked at on.",
    )
    known = st.session_state.setdefault(keys.ATTENTION, {})
    request = AttentionRequest(run.config, row, node["layer"], node["head"])
    pair = job_panel.computed(
        f"attention-{run.id}",
        read_attention,
        request,
        "Reading the attention pattern",
        known=lambda: known.get(_place(run, request)),
        keep=lambda asked, pair: known.__setitem__(_place(run, asked), pair),
        again="Try again",
    )
    if pair is None:
        return
    name = f"A{node['layer']}.{node['head']}"
    model, prompts = run.provenance.get("model", run.config.model), run.config.prompts.name
    caption = f"Attention of {name} in {model} on pair {row + 1} of {prompts}: rows attend to columns"
    clean, corrupt = ([visible(token) for token in tokens] for tokens in (pair.clean_tokens, pair.corrupt_tokens))
    below.plotly_chart(
        attention_heatmaps(pair.clean, pair.corrupt, clean, corrupt, caption=caption),
        key=f"attention-{name}-{row}",
        alt=f"Two heatmaps, clean and corrupt. {caption}",
    )


def _place(run: Run, request: AttentionRequest) -> tuple[str, int, int, int]:
    """Which head of which run, on which prompt."""
    return run.id, request.row, request.layer, request.head
