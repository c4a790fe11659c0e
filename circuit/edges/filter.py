"""Which edges a person wants to look at.

    EdgeFilter       inputs, layers, names, sign, smallest score, token position: all of them must fit
    describe_filter  the same in a few words, for captions
    strongest_of     what a filter lets through, strongest first

    kept = EdgeFilter(inputs=("Q", "K"), source="A3, MLP 2", sign="positive").mask(graph, flat)
    edge_table(graph, flat, strongest_of(kept, edge_ranks(flat), 50))

A filter only chooses what is shown: scores, ranks and shares stay those of the whole model. Everything is arithmetic on
arrays, a few milliseconds for a million edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from circuit.common.errors import OptionError
from circuit.edges.graph import INPUT_LABELS, RESID_END, RESID_START, BlockKind, EdgeGraph, Node

Sign = Literal["any", "positive", "negative"]


@dataclass(frozen=True)
class EdgeFilter:
    """What an edge must be to be shown. The default lets all edges through.

    Args:
        inputs: What the edge leads into: any of Q, K, V, MLP and Final; none for all.
        source_layers: First and last layer of the source; -1 is the embedding.
        destination_layers: First and last layer of the destination; n_layers is the final residual.
        source: Names of sources, separated by commas: `A3.7`, `MLP 2`; `A3` for all heads of layer 3; `A*.7` with a
            star for anything. Upper or lower case. Empty for all.
        destination: The same for destinations: `A3.7.K`, `A3.7` for its three inputs, `Resid End`. Where keys and
            values belong to nodes of their own, these may be called as on the pages (`A3.kv1.K`) or as in files
            (`A3.1.K`).
        sign: Of the score.
        min_score: The smallest absolute score.
        position: One token position, where these are kept apart.
    """

    inputs: tuple[BlockKind, ...] = ()
    source_layers: tuple[int, int] | None = None
    destination_layers: tuple[int, int] | None = None
    source: str = ""
    destination: str = ""
    sign: Sign = "any"
    min_score: float = 0.0
    position: int | None = None

    def mask(self, graph: EdgeGraph, scores: Float[np.ndarray, " n_edges"]) -> Bool[np.ndarray, " n_edges"]:
        """One bool per edge, true where it fits.

        Raises:
            OptionError: A name that no source or destination of this model has, or an unknown input or sign.
        """
        if unknown := [kind for kind in self.inputs if kind not in get_args(BlockKind)]:
            raise OptionError(f"inputs are Q, K, V, MLP and Final; {unknown[0]!r} is none of them.")
        if self.sign not in get_args(Sign):
            raise OptionError(f"sign must be 'any', 'positive' or 'negative', and is {self.sign!r}.")
        sources = self._nodes(graph, graph.sources, self.source, self.source_layers, "source")
        destinations = self._nodes(graph, graph.destinations, self.destination, self.destination_layers, "destination")
        if self.inputs:
            destinations &= np.array([node.input in self.inputs for node in graph.destinations])
        kept = sources[graph.edge_source] & destinations[graph.edge_destination]
        if self.sign != "any":
            kept &= scores > 0 if self.sign == "positive" else scores < 0
        if self.min_score > 0:
            kept &= np.abs(scores) >= self.min_score
        if self.position is not None and graph.seq_len is not None:
            kept &= graph.edge_position == self.position
        return kept

    @staticmethod
    def _nodes(
        graph: EdgeGraph, nodes: Sequence[Node], names: str, layers: tuple[int, int] | None, what: str
    ) -> np.ndarray:
        kept = np.ones(len(nodes), dtype=bool)
        if layers is not None:
            kept = np.array([layers[0] <= node.layer <= layers[1] for node in nodes])
        if patterns := [part.lower() for part in _parts(names)]:
            called = [{node.name.lower(), graph.label(node).lower()} for node in nodes]
            matches = [np.array([any(_fits(name, part) for name in each) for each in called]) for part in patterns]
            for pattern, fits in zip(patterns, matches, strict=True):
                if not fits.any():
                    examples = "A3.7, A3, MLP 2, Resid Start" if what == "source" else "A3.7.K, A3, MLP 2, Resid End"
                    raise OptionError(f"No {what} of this model is called {pattern!r}: names are like {examples}.")
            kept &= np.logical_or.reduce(matches)
        return kept


def _parts(names: str) -> list[str]:
    """The names of a list with commas between them."""
    return [" ".join(part.split()) for part in names.split(",") if part.strip()]


def _fits(name: str, pattern: str) -> bool:
    """Whether a name is the pattern, or a part of what the pattern names (`a3.7.q` of `a3`, `mlp 2` of `mlp`)."""
    return (
        name.startswith((f"{pattern}.", f"{pattern} "))
        or fnmatchcase(name, pattern)
        or ("*" in pattern and fnmatchcase(name, f"{pattern}.*"))
    )


def describe_filter(chosen: EdgeFilter, graph: EdgeGraph) -> str:
    """What the filter lets through, for a caption; empty where that is everything."""
    parts = []
    if chosen.inputs:
        parts.append("into " + ", ".join(INPUT_LABELS[kind] for kind in chosen.inputs))
    if chosen.source_layers not in (None, (-1, graph.n_layers - 1)):
        parts.append(f"from {_layers(chosen.source_layers, graph)}")
    if chosen.destination_layers not in (None, (0, graph.n_layers)):
        parts.append(f"to {_layers(chosen.destination_layers, graph)}")
    if sources := _parts(chosen.source):
        parts.append(f"sources {', '.join(sources)}")
    if destinations := _parts(chosen.destination):
        parts.append(f"destinations {', '.join(_described(graph, name) for name in destinations)}")
    if chosen.sign != "any":
        parts.append("score > 0" if chosen.sign == "positive" else "score < 0")
    if chosen.min_score > 0:
        parts.append(f"|score| ≥ {chosen.min_score:g}")
    if chosen.position is not None:
        parts.append(f"position {chosen.position}")
    return ", ".join(parts)


def _described(graph: EdgeGraph, name: str) -> str:
    """A name of destinations as the pages call them, with the key-value heads that it lets through by their names in
    files: `A3.1` is head 1 there, and key-value head 1."""
    pattern = name.lower()
    by_file = [
        node
        for node in graph.destinations
        if _fits(node.name.lower(), pattern) and not _fits(graph.label(node).lower(), pattern)
    ]
    if len(by_file) == 1 and by_file[0].name.lower() == pattern:
        return graph.label(by_file[0])
    groups = list(dict.fromkeys(graph.label(node).rpartition(".")[0] for node in by_file))
    more = " and so on" if len(groups) > 3 else ""
    return f"{name} (with {', '.join(groups[:3])}{more})" if groups else name


def _layers(layers: tuple[int, int] | None, graph: EdgeGraph) -> str:
    def name(layer: int) -> str:
        return {-1: RESID_START, graph.n_layers: RESID_END}.get(layer, f"layer {layer}")

    assert layers is not None
    return name(layers[0]) if layers[0] == layers[1] else f"{name(layers[0])} to {name(layers[1])}"


def strongest_of(
    kept: Bool[np.ndarray, " n_edges"], ranks: Int[np.ndarray, " n_edges"], n: int | None = None
) -> Int[np.ndarray, " n_shown"]:
    """The kept edges by rank (see `circuit.edges.ranking.edge_ranks`), strongest first: the first `n`, or all."""
    edges = np.flatnonzero(kept)
    if n is not None and n < len(edges):
        edges = edges[np.argpartition(ranks[edges], n)[:n]] if n else edges[:0]
    return edges[np.argsort(ranks[edges])]
