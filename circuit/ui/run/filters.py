"""The filter bar of the scores page: widgets in, an `EdgeFilter` and its mask out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import streamlit as st

from circuit.common.errors import OptionError
from circuit.edges.filter import EdgeFilter, describe_filter
from circuit.runs.run import Run
from circuit.ui.frame import address, explain, keys, markdown

_KEPT: dict[str, Any] = {"bind": "query-params", "persist_state": "session"}
_INPUTS = ("Q", "K", "V", "MLP", "Final")
_SIGNS = {"any": "Any sign", "positive": "Positive", "negative": "Negative"}


def edge_filter(run: Run, position: int | None) -> tuple[np.ndarray | None, str]:
    """Draw the filters. Returns the mask, None where everything is let through, and a few words for captions."""
    graph = run.graph
    first, second = st.columns([1.35, 1.35, 1]), st.columns(4)
    address.chosen(keys.SIGN, _SIGNS.values())
    inputs = first[0].segmented_control(
        "Edges into", _INPUTS, selection_mode="multi", key=keys.INPUTS, **_KEPT,
        help="What the edges are read by: queries, keys or values of heads, MLPs, or the logits. None chosen: all.",
        format_func=lambda kind: "Logits" if kind == "Final" else kind,
    )  # fmt: skip
    sign = first[1].segmented_control(
        "Sign of the score", list(_SIGNS), format_func=_SIGNS.__getitem__, default="any", required=True, key=keys.SIGN,
        help="Positive edges help the task, negative ones work against it.", **_KEPT,
    )  # fmt: skip
    least = first[2].number_input(
        "Smallest |score|", 0.0, None, 0.0, step=None, format="%.4g", key=keys.LEAST, **_KEPT,
        help="Hides weaker edges, whatever their sign.",
    )  # fmt: skip
    names = "Separate names by commas. `A3.7`; `A3` for all heads of layer 3; `A*.7` with a star for anything."
    source = second[0].text_input("Source", key=keys.FROM, placeholder="A3.7, MLP 2", help=names, **_KEPT)
    destination = second[1].text_input("Destination", key=keys.TO, placeholder="A5.1.Q, MLP 4", help=names, **_KEPT)
    layers = {-1: "embed", graph.n_layers: "logits"}
    limits: list[tuple[int, int]] = []
    for column, (label, key, ends) in zip(
        second[2:],
        (
            ("Source layers", keys.FROM_LAYERS, range(-1, graph.n_layers)),
            ("Destination layers", keys.TO_LAYERS, range(graph.n_layers + 1)),
        ),
        strict=True,
    ):
        low, high = column.select_slider(
            label, list(ends), value=(ends[0], ends[-1]), key=key, format_func=lambda n: layers.get(n, str(n)), **_KEPT,
            help=f"From which layer to which the {label.split()[0].lower()} of an edge may lie, ends included.",
        )  # fmt: skip
        limits.append((low, high))
    (writes, reads), names_of = limits, (source or "", destination or "")
    chosen = EdgeFilter(tuple(inputs or ()), writes, reads, *names_of, sign or "any", least or 0.0, position)
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
