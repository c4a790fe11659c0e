"""The filter bar of the scores page: widgets in, an `EdgeFilter` and its mask out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from circuit.common.errors import OptionError
from circuit.edges.filter import EdgeFilter, describe_filter
from circuit.edges.graph import INPUT_LABELS, RESID_END, RESID_START, BlockKind, EdgeGraph
from circuit.runs.run import Run
from circuit.ui.frame import address, explain, keys, markdown
from circuit.ui.frame.widgets import in_address

_INPUTS: tuple[BlockKind, ...] = ("Q", "K", "V", "MLP", "Final")
_ONCE_CALLED = {"Logits": RESID_END, "logits": RESID_END, "embed": RESID_START}
"""What links of before call the ends of the residual stream."""
_SIGNS = {"any": "Any sign", "positive": "Positive", "negative": "Negative"}


def edge_filter(run: Run, position: int | None) -> tuple[np.ndarray | None, str]:
    """Draw the filters. Returns the mask, None where everything is let through, and a few words for captions."""
    graph = run.graph
    chosen = _choose(graph, position)
    words = describe_filter(chosen, graph)
    if not words:
        return None, ""
    try:
        kept = chosen.mask(graph, run.scores)
    except OptionError as error:
        st.warning(f"{markdown.plain(str(error))} The filter by name is left out. {explain.more('source')}")
        chosen = replace(chosen, source="", destination="")
        kept, words = chosen.mask(graph, run.scores), describe_filter(chosen, graph)
    return kept, f"only {words}" if words else ""


def _choose(graph: EdgeGraph, position: int | None) -> EdgeFilter:
    """The widgets."""
    into: dict[str, BlockKind] = {label: kind for kind, label in INPUT_LABELS.items()}
    if (old := address.renamed(keys.INPUTS, _ONCE_CALLED, into)) is not None:
        st.session_state[keys.INPUTS] = old
    first, second = st.columns([1.35, 1.35, 1]), st.columns(4)
    inputs = first[0].segmented_control(
        "Edges into",
        _INPUTS,
        selection_mode="multi",
        format_func=INPUT_LABELS.__getitem__,
        help="What the edges are read by: queries, keys or values of heads, MLPs, or the final residual, Resid End. "
        "None chosen: all.",
        **in_address(keys.INPUTS),
    )
    sign = first[1].segmented_control(
        "Sign of the score",
        list(_SIGNS),
        format_func=_SIGNS.__getitem__,
        default="any",
        required=True,
        help="Positive edges help the task, negative ones work against it.",
        **in_address(keys.SIGN, _SIGNS.values()),
    )
    least = first[2].number_input(
        "Smallest |score|",
        0.0,
        None,
        0.0,
        step=None,
        format="%.4g",
        help="Hides weaker edges, whatever their sign.",
        **in_address(keys.LEAST),
    )
    names = "Separate names by commas. `A3.7`; `A3` for all heads of layer 3; `A*.7` with a star for anything."
    source = second[0].text_input("Source", placeholder="A3.7, MLP 2", help=names, **in_address(keys.FROM))
    groups = " `A5.kv1` is key-value head 1 of layer 5." if graph.has_kv_nodes else ""
    destination = second[1].text_input(
        "Destination", placeholder="A5.1.Q, MLP 4", help=names + groups, **in_address(keys.TO)
    )
    writes = _layers(second[2], "Source", keys.FROM_LAYERS, range(-1, graph.n_layers), {-1: RESID_START})
    reads = _layers(second[3], "Destination", keys.TO_LAYERS, range(graph.n_layers + 1), {graph.n_layers: RESID_END})
    return EdgeFilter(
        tuple(inputs or ()), writes, reads, source or "", destination or "", sign or "any", least or 0.0, position
    )


def _layers(at: DeltaGenerator, what: str, key: str, layers: range, names: dict[int, str]) -> tuple[int, int]:
    """From which layer to which one end of an edge may lie."""
    by_name = {names.get(n, str(n)): n for n in layers}
    if (old := address.renamed(key, _ONCE_CALLED, by_name)) is not None and len(old) == 2:
        st.session_state[key] = tuple(old)
    low, high = at.select_slider(
        f"{what} layers",
        list(layers),
        value=(layers[0], layers[-1]),
        format_func=lambda n: names.get(n, str(n)),
        help=f"From which layer to which the {what.lower()} of an edge may lie, ends included.",
        **in_address(key),
    )
    return low, high
