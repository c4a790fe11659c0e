"""Scores of every edge in the JSON of the Mechanistic Interpretability Benchmark, which is EAP-IG's: in and out.

    importances_json    scores of a model's edges -> a file that the benchmark reads
    width_of            the width of a run's model, which the file has to name
    read_importances    such a file -> Importances
    Importances         its scores, and those of the edges that a model has here

    content = importances_json(run.graph, run.scores, d_model=128)
    scores = read_importances(content).for_model(run.graph)            # the same scores; or those from elsewhere
    measure(MeasureRequest(config, scores, (0, 20, 262))).faithfulness

The file has `cfg`, `nodes` and `edges`; an edge is called `input->a0.h0<q>`, `a3.h7->m5` or `m11->logits`. Scores keep
their sign. Here it is positive where ablating the edge is estimated to hurt, and the benchmark's circuits by signed
score want that too; but a file does not say, and some have the opposite: in the example that comes with the
benchmark's code (`circuits/ioi-eap-ig.json`) GPT-2's name mover `a9.h9->logits` has -0.28. Look at an edge that you
know.

**Grouped heads.** There every query head has key and value edges of its own; here these are the edges of the key-value
head that a group of query heads shares. What reaches the shared head is the sum of what reaches its copies, so when a
file is read the scores of a group's heads are added up. When one is written, each head of the group gets an equal
share, and reading it again gives the same sum.

The benchmark: https://github.com/aaronmueller/MIB; the format: https://github.com/hannamw/EAP-IG.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32

from circuit.common.errors import OptionError, RunFileError
from circuit.common.files import parse_json
from circuit.common.words import MB
from circuit.edges.graph import EdgeGraph, Node
from circuit.runs.run import Run

MOST_BYTES = 400 * MB
"""Of a file: about four million edges, more than any model has that is scored here."""
_SHAPE = ("n_layers", "n_heads", "d_model")
_LARGEST = 1_000_000


@dataclass(frozen=True)
class Importances:
    """Scores of every edge, read from a file.

    Attributes:
        graph: The model's shape, with keys and values of every query head.
        scores: Of every edge, in the order of `graph`.
        in_circuit: For every edge, whether the file counts it to its circuit; None where it does not say.
        node_scores: Scores of nodes by the benchmark's names, where the file has any.
        d_model: The width of the model's stream.
    """

    graph: EdgeGraph
    scores: Float32[np.ndarray, " n_edges"]
    in_circuit: Bool[np.ndarray, " n_edges"] | None
    node_scores: dict[str, float]
    d_model: int

    def for_model(self, graph: EdgeGraph) -> Float32[np.ndarray, " n_edges"]:
        """The scores of a model's edges: those of the query heads of a group are added up for their shared keys and
        values.

        Raises:
            OptionError: When the file is of a model of another shape, or token positions are kept apart.
        """
        if graph.seq_len is not None:
            raise OptionError("The benchmark's files have no token positions: add the model's positions up.")
        if (by_query := _by_query_head(graph)) != self.graph:
            raise OptionError(
                f"The file is of a model with {_shape_words(self.graph)}, and this one has {_shape_words(by_query)}."
            )
        found = np.zeros(graph.n_edges)
        np.add.at(found, _edge_here(graph), self.scores)
        return found.astype(np.float32)


def importances_json(
    graph: EdgeGraph,
    scores: Float[np.ndarray, " n_edges"],
    d_model: int,
    in_circuit: Bool[np.ndarray, " n_edges"] | None = None,
) -> bytes:
    """A file of these scores.

    Args:
        graph: The model's edges, token positions added up.
        scores: Of every edge. Those of shared keys and values are shared out equally among the heads of their group.
        d_model: The width of the model's stream, which the file has to name.
        in_circuit: Which edges belong to the circuit; by default all. The benchmark ranks by scores and ignores it.

    Raises:
        OptionError: When positions are kept apart, there is another number of scores, or one is not finite.
    """
    if graph.seq_len is not None:
        raise OptionError("The benchmark's files have no token positions: score with positions added up.")
    inside = np.ones(graph.n_edges, dtype=bool) if in_circuit is None else in_circuit
    if scores.shape != (graph.n_edges,) or inside.shape != (graph.n_edges,):
        raise OptionError(f"This model has {graph.n_edges:,} edges, and there are {len(scores):,} scores.")
    if not np.isfinite(scores).all():
        raise OptionError("The benchmark's files hold finite scores only, and not all of these are.")
    theirs, here = _by_query_head(graph), _edge_here(graph)
    shares = (scores / np.bincount(here, minlength=graph.n_edges))[here]
    edges = {
        name: {"score": float(share), "in_graph": bool(kept)}
        for name, share, kept in zip(edge_names(theirs), shares, inside[here], strict=True)
    }
    used = {part for name, edge in edges.items() if edge["in_graph"] for part in name.split("<")[0].split("->")}
    nodes = {name: {"in_graph": name in used} for name in [*map(_source_name, theirs.sources), "logits"]}
    cfg = {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
        "d_model": d_model,
    }
    return json.dumps({"cfg": cfg, "nodes": nodes, "edges": edges}).encode()


def width_of(run: Run) -> int | None:
    """The width of the stream of a run's model; None where the run does not say (older ones), or keeps positions apart,
    so that there is no file of it."""
    width = run.provenance.get("d_model")
    return width if type(width) is int and 0 < width <= _LARGEST and run.graph.seq_len is None else None


def read_importances(content: bytes) -> Importances:
    """The scores in a file of the benchmark. It is read as data, and every edge of its model must be in it.

    Raises:
        RunFileError: When it is too large, or no such file; says why.
    """
    if len(content) > MOST_BYTES:
        raise RunFileError(f"The file has {len(content) / MB:,.0f} MB, and {MOST_BYTES / MB:,.0f} are the most.")
    try:
        return _read(parse_json(content))
    except (ValueError, TypeError, KeyError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")[:300]
        raise RunFileError(f"These are no importance scores of the benchmark: {why}.") from error


def _read(values: dict[str, Any]) -> Importances:
    cfg, nodes, edges = values["cfg"], values["nodes"], values["edges"]
    if not all(isinstance(part, dict) for part in (cfg, nodes, edges)):
        raise ValueError("cfg, nodes and edges must be objects")
    sizes = [cfg[name] for name in _SHAPE]
    # An edge takes more than ten bytes, so sizes that go with the number of edges cannot be large.
    if not all(type(size) is int and 0 < size <= _LARGEST for size in sizes) or sizes[0] * sizes[1] > len(edges):
        raise ValueError(f"a model cannot have {sizes[0]!r} layers, {sizes[1]!r} heads and width {sizes[2]!r}"[:120])
    parallel = cfg.get("parallel_attn_mlp", False)
    if type(parallel) is not bool:
        raise ValueError("parallel_attn_mlp must be true or false")
    graph = EdgeGraph(sizes[0], sizes[1], sizes[1], parallel)
    if len(edges) != graph.n_edges:
        raise ValueError(f"a model of its shape has {graph.n_edges:,} edges, and the file has {len(edges):,}")
    names = list(edge_names(graph))
    found = [edges[name] for name in names]
    if not all(isinstance(each, dict) for each in found):
        raise ValueError('an edge must have a score, as in {"score": 0.5, "in_graph": true}')
    scores = np.array([_number(name, each.get("score")) for name, each in zip(names, found, strict=True)])
    kept = [each.get("in_graph") for each in found]
    inside = np.array(kept) if all(type(each) is bool for each in kept) else None
    given: dict[str, Any] = {name: node.get("score") for name, node in nodes.items() if isinstance(node, dict)}
    node_scores = {name: float(score) for name, score in given.items() if _is_number(score)}
    return Importances(graph, scores.astype(np.float32), inside, node_scores, sizes[2])


def _number(name: str, value: Any) -> float:
    if not _is_number(value) or abs(value) > float(np.finfo(np.float32).max):
        raise ValueError(f"the score of {name} is {repr(value)[:40]}, which is no finite number")
    return float(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


# --- names ---------------------------------------------------------------------------------------------------------


def edge_names(graph: EdgeGraph) -> Iterator[str]:
    """What the benchmark calls the edges of a model without shared keys and values, in the order of edges here."""
    sources = [_source_name(node) for node in graph.sources]
    destinations = [_destination_name(node) for node in graph.destinations]
    for source, destination in zip(graph.edge_source, graph.edge_destination, strict=True):
        yield f"{sources[source]}->{destinations[destination]}"


def _source_name(node: Node) -> str:
    if node.kind == "head":
        return f"a{node.layer}.h{node.head}"
    return "input" if node.kind == "embedding" else f"m{node.layer}"


def _destination_name(node: Node) -> str:
    if node.kind == "head":
        return f"a{node.layer}.h{node.head}<{node.input.lower()}>"
    return "logits" if node.kind == "final" else f"m{node.layer}"


def _by_query_head(graph: EdgeGraph) -> EdgeGraph:
    return EdgeGraph(graph.n_layers, graph.n_heads, graph.n_heads, graph.parallel)


def _edge_here(graph: EdgeGraph) -> np.ndarray:
    """For every edge by query head, the number of the edge of this model that it is part of."""
    parts = []
    for block in graph.blocks:
        edges = block.first_edge + np.arange(block.n_rows * block.n_sources).reshape(block.n_rows, block.n_sources)
        parts.append((edges.repeat(graph.group, axis=0) if block.kind in ("K", "V") else edges).ravel())
    return np.concatenate(parts)


def _shape_words(graph: EdgeGraph) -> str:
    how = "parallel" if graph.parallel else "sequential"
    return f"{graph.n_layers} layers of {graph.n_heads} heads, {how} attention and MLP"
