"""Edge graphs of several kinds, and scores for them, for the tests of what only looks at numbers."""

from __future__ import annotations

import numpy as np

from circuit.edges.graph import EdgeGraph

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
