"""Circuits that hang together: compared with thresholds lowered one by one, and with networkx's shortest paths."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import networkx as nx
import numpy as np
import pytest

from circuit.common.errors import NumericalError, OptionError
from circuit.edges.choose import SelectionRule, choose_edges, rank_edges, strength_through
from circuit.edges.graph import EdgeGraph
from circuit.edges.ranking import Importance, strength_of, top_edges
from circuit.edges.subgraph import live_edges
from tests.graphs import SHAPES, SMOL, random_scores

RANKS: tuple[Importance, ...] = ("absolute", "signed", "positive")
SIZES = (0, 1, 3, 5, 8, 13, 21, 34, 55, 89)


@pytest.mark.parametrize("rank", RANKS)
def test_top_is_the_strongest_one_by_one(rank: Importance) -> None:
    scores = random_scores(SHAPES[0])
    np.testing.assert_array_equal(choose_edges(SHAPES[0], scores, 20, rank), top_edges(scores, 20, rank))


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_connected_is_the_largest_live_circuit_above_a_threshold(graph: EdgeGraph, rank: Importance) -> None:
    scores = random_scores(graph, seed=1)
    strength = strength_of(scores, rank)
    above = [np.flatnonzero(strength >= t) for t in np.unique(strength[strength > 0 if rank == "positive" else ...])]
    live = [set(live_edges(graph, edges).tolist()) for edges in above]
    for n in SIZES:
        expected = max((edges for edges in live if len(edges) <= n), key=len, default=set())
        assert set(choose_edges(graph, scores, n, rank, "connected").tolist()) == expected


@pytest.mark.parametrize("rule", ["connected", "paths"])
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("graph", [*SHAPES, SMOL], ids=str)
def test_no_size_has_a_dead_end_and_larger_circuits_hold_smaller_ones(
    graph: EdgeGraph, rank: Importance, rule: SelectionRule
) -> None:
    scores = random_scores(graph, seed=2)
    sizes = [*(n for n in SIZES if n < graph.n_edges // 2), graph.n_edges // 2]
    found = [choose_edges(graph, scores, n, rank, rule) for n in sizes]
    assert len(found[-1]) > 0
    for n, edges in zip(sizes, found, strict=True):
        assert len(edges) <= n
        assert len(set(edges.tolist())) == len(edges) == len(live_edges(graph, edges))
    for smaller, larger in pairwise(found):
        np.testing.assert_array_equal(larger[: len(smaller)], smaller)


@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_the_first_path_is_the_one_with_the_largest_product_of_shares(graph: EdgeGraph) -> None:
    scores = random_scores(graph, seed=3)
    # An edge's share, and the model's ways, written down a second time, node by node.
    worth, ways = np.abs(scores.astype(np.float64)), nx.DiGraph()
    group = graph.n_heads // graph.n_kv_heads
    reader = [(int(d), int(p)) for d, p in zip(graph.edge_destination, graph.edge_position, strict=True)]
    total: dict[tuple[int, int], float] = {}
    for place, value in zip(reader, worth, strict=True):
        total[place] = total.get(place, 0.0) + value
    costs = [-np.log(worth[edge] / total[place]) for edge, place in enumerate(reader)]
    for edge, (d, p) in enumerate(reader):
        ways.add_edge(("writes", int(graph.edge_source[edge]), p), ("reads", d, p), weight=costs[edge], edge=edge)
    for d, node in enumerate(graph.destinations):
        for p in range(graph.seq_len or 1):
            if node.kind == "final":
                ways.add_edge(("reads", d, p), "end", weight=0.0)
            elif node.kind == "mlp":
                of = graph.first_head(node.layer) + graph.n_heads
                ways.add_edge(("reads", d, p), ("writes", of, p), weight=0.0)
            else:
                assert node.head is not None
                is_query = node.name.endswith("Q")
                heads = [node.head] if is_query else range(group * node.head, group * (node.head + 1))
                for head in heads:
                    for later in [p] if is_query else range(p, graph.seq_len or 1):
                        ways.add_edge(("reads", d, p), ("writes", graph.first_head(node.layer) + head, later), weight=0)
    for p in range(graph.seq_len or 1):
        ways.add_edge("start", ("writes", 0, p), weight=0.0)
    cost, path = nx.single_source_dijkstra(ways, "start", "end")
    edges = {ways.edges[step]["edge"] for step in pairwise(path) if "edge" in ways.edges[step]}
    first = next(found for n in range(1, 60) if len(found := choose_edges(graph, scores, n, rule="paths")))
    assert edges <= set(first.tolist())  # ties, as of a head's query and key that read the embedding alone, come along
    shares = -np.array(costs)
    np.testing.assert_allclose(strength_through(graph, shares, "paths")[first], -cost, atol=1e-6)


def test_by_positive_score_no_edge_that_hinders_is_chosen() -> None:
    for rule in get_args(SelectionRule):
        edges = choose_edges(SMOL, random_scores(SMOL), SMOL.n_edges, "positive", rule)
        assert len(edges) > 1000
        assert (random_scores(SMOL)[edges] > 0).all()


def test_by_signed_score_all_edges_are_chosen_in_the_end() -> None:
    graph = SHAPES[1]
    assert len(choose_edges(graph, random_scores(graph), graph.n_edges, "signed", "connected")) == graph.n_edges


def test_scores_that_are_all_zero_give_no_path_before_all_edges() -> None:
    graph = SHAPES[0]
    assert len(choose_edges(graph, np.zeros(graph.n_edges), 20, rule="connected")) == 0
    assert len(choose_edges(graph, np.zeros(graph.n_edges), graph.n_edges, rule="connected")) == graph.n_edges
    assert len(choose_edges(graph, np.zeros(graph.n_edges), graph.n_edges, rule="paths")) == 0


def test_what_cannot_be_chosen_is_refused_in_a_sentence() -> None:
    graph, scores = SHAPES[0], random_scores(SHAPES[0])
    with pytest.raises(OptionError, match="'top', 'connected' or 'paths', and is 'best'"):
        choose_edges(graph, scores, 5, rule="best")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=f"between 0 and {graph.n_edges:,} edges"):
        choose_edges(graph, scores, graph.n_edges + 1, rule="connected")
    scores[3] = np.nan
    with pytest.raises(NumericalError, match="1 of"):
        choose_edges(graph, scores, 5, rule="paths")


@pytest.mark.parametrize("rule", get_args(SelectionRule))
@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_sizes_are_those_at_which_a_circuit_ends(graph: EdgeGraph, rule: SelectionRule) -> None:
    scores = random_scores(graph, seed=4)
    ranked = rank_edges(graph, scores, "signed", rule)
    found = {len(choose_edges(graph, scores, n, "signed", rule)) for n in range(graph.n_edges + 1)}
    assert set(ranked.sizes.tolist()) == found
    for n in sorted(found):
        np.testing.assert_array_equal(choose_edges(graph, scores, n, "signed", rule), ranked.edges[:n])
