"""Edges and nodes in words.

    edge_words    what an edge is: "head 5 of layer 4 writes into the query input of head 1 in layer 6"
    effect_words  what its score says, and what ablating it really did
    node_words    what a node of the circuit graph is

Markdown characters in tokens are escaped: what these functions return may stand on a page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from circuit.edges.agreement import contradicts, is_no_effect
from circuit.edges.graph import INPUT_WORDS, RESID_END, RESID_START, EdgeGraph, Node
from circuit.edges.method import Method


def edge_words(graph: EdgeGraph, edge: int, tokens: Sequence[str] = ()) -> str:
    """What the edge connects, as a sentence; `tokens` name the positions, where these are kept apart."""
    source = graph.sources[graph.edge_source[edge]]
    destination = graph.destinations[graph.edge_destination[edge]]
    writer = {
        "embedding": f"{RESID_START}, the embedding,",
        "head": f"head {source.head} of layer {source.layer}",
        "mlp": f"the MLP of layer {source.layer}",
    }[source.kind]
    words = f"{writer} writes into {_input(graph, destination)}"
    if graph.seq_len is not None:
        words += " at " + position_words(int(graph.edge_position[edge]), tokens)
    return words


def effect_words(score: float, effect: float | None = None, method: Method | None = None, noise: float = 0.0) -> str:
    """What the score says of ablating the edge, and what was measured, where it was.

    Only a gradient at the untouched model, which is what `method` is if it is not given, is an estimate of what
    ablating this edge alone does; that of another is called what it is. An effect below `noise` is none.
    """
    change = "raises" if score > 0 else "lowers"
    if method is not None and not method.foretells:
        words = f"its score is {score:+.3g}, the {method.score}: ablating it is estimated to {change[:-1]} the loss"
    else:
        words = f"ablating this edge {change} the loss by about {abs(score):.3g}, as its score estimates"
    if score == 0:
        words = "its score is 0: ablating this edge should leave the loss as it is"
    if effect is None:
        return words
    if is_no_effect(score, effect, noise):
        return f"{words}; really ablating it leaves the loss as it is"
    changed = "raised" if effect > 0 else "lowered"
    if score == 0:
        return f"{words}; really ablating it {changed} the loss by {abs(effect):.3g}"
    if not contradicts(score, effect, noise):
        return f"{words}; measured by really ablating it: {abs(effect):.3g}"
    return f"{words}; really ablating it {changed} the loss by {abs(effect):.3g}: the score has the wrong sign"


def node_words(node: Mapping[str, Any], graph: EdgeGraph, tokens: Sequence[str] = ()) -> str:
    """What a node of `circuit.edges.subgraph.circuit_graph` is; `node` is its data there, `graph` the model's."""
    layer, head = node["layer"], node.get("head")
    words = {
        "embedding": "the embedding",
        "head": f"head {head} of layer {layer}",
        "mlp": f"the MLP of layer {layer}",
        "final": "the final residual, read by the unembedding",
    }.get(node["kind"])
    if words is None:
        words = f"keys and values of {_kv_head(graph, int(head or 0))} of layer {layer}"
    if "position" in node:
        words += " at " + position_words(node["position"], tokens)
    return words


def position_words(position: int, tokens: Sequence[str] = ()) -> str:
    """A token position, with its token where that is known."""
    known = position < len(tokens) and tokens[position] != str(position)
    return f"position {position} ({_escaped(tokens[position])})" if known else f"position {position}"


def _input(graph: EdgeGraph, destination: Node) -> str:
    if destination.kind == "final":
        return f"{RESID_END}, the final residual, which the unembedding reads"
    if destination.kind == "mlp":
        return f"the input of the MLP of layer {destination.layer}"
    head = destination.head or 0
    whose = f"head {head}" if destination.input == "Q" else _kv_head(graph, head)
    return f"the {INPUT_WORDS[destination.input]} of {whose} in layer {destination.layer}"


def _kv_head(graph: EdgeGraph, kv_head: int) -> str:
    """A key-value head, with the query heads that use it if there are several."""
    heads = graph.heads_of(kv_head)
    return f"head {heads[0]}" if len(heads) == 1 else f"key-value head {kv_head} (heads {heads[0]} to {heads[-1]})"


def _escaped(token: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>()#+\-.!|$~:])", r"\\\1", token)
