"""Edge graphs of several kinds, and scores for them, for the tests of what only looks at numbers."""

from __future__ import annotations

from functools import cache

import networkx as nx
import numpy as np

from circuit.edges.graph import EdgeGraph
from circuit.edges.ranking import edge_ranks, top_edges
from circuit.edges.subgraph import circuit_graph
from circuit.plots.layout import Layout, circuit_layout, next_step

SHAPES = [
    EdgeGraph(3, 4, 4),
    EdgeGraph(4, 6, 2),
    EdgeGraph(3, 3, 1, parallel=True),
    EdgeGraph(2, 4, 4, seq_len=3),
    EdgeGraph(3, 4, 2, seq_len=4),
]
SMOL = EdgeGraph(n_layers=30, n_heads=9, n_kv_heads=3)


def random_scores(graph: EdgeGraph, seed: int = 0) -> np.ndarray:
    """Heavy-tailed, as scores are."""
    return np.random.default_rng(seed).standard_t(2, graph.n_edges).astype(np.float32)


def circuit(graph: EdgeGraph, n: int) -> nx.MultiDiGraph:
    scores, order, ranks = _ranked(graph)
    return circuit_graph(graph, order[:n], scores, ranks=ranks)


@cache
def _ranked(graph: EdgeGraph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores = random_scores(graph)
    return scores, top_edges(scores, graph.n_edges), edge_ranks(scores)


def laid_out(graph: EdgeGraph, n: int) -> tuple[nx.MultiDiGraph, Layout]:
    drawn = circuit(graph, n)
    step = next_step(n, apart=graph.seq_len is not None)
    return drawn, circuit_layout(drawn, None if step is None else circuit(graph, step))
