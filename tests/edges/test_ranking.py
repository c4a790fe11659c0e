"""Choosing edges: each choice compared with something slower and plainer."""

from __future__ import annotations

import numpy as np
import pytest

from circuit.common.errors import NumericalError, OptionError
from circuit.edges.graph import EdgeGraph
from circuit.edges.ranking import edge_mask, edge_ranks, edge_table, edges_above, edges_for_share, n_rankable, top_edges
from circuit.edges.subgraph import live_edges
from tests.graphs import SHAPES, SMOL, random_scores


@pytest.mark.parametrize("n", [0, 1, 5, 37, 40])
def test_top_edges_agree_with_sorting_a_list(n: int) -> None:
    scores = np.random.default_rng(n).integers(-4, 5, 40).astype(np.float32)  # many ties
    plain = sorted(range(40), key=lambda edge: (-abs(scores[edge]), edge))[:n]
    assert top_edges(scores, n).tolist() == plain


def test_of_equal_scores_the_lower_edge_comes_first() -> None:
    assert top_edges(np.array([1, -2, 2, 1], dtype=np.float32), 3).tolist() == [1, 2, 0]
    assert top_edges(np.zeros(5, dtype=np.float32), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("n", [-1, 41])
def test_a_size_that_no_circuit_has_is_refused(n: int) -> None:
    with pytest.raises(OptionError, match="between 0 and 40 edges"):
        top_edges(np.zeros(40, dtype=np.float32), n)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    scores = np.array([1, bad, 2], dtype=np.float32)
    for choose in (lambda: top_edges(scores, 1), lambda: edges_above(scores, 0.5), lambda: edges_for_share(scores, 1)):
        with pytest.raises(NumericalError, match="1 of 3 scores"):
            choose()


def test_a_threshold_keeps_what_reaches_it() -> None:
    scores = np.array([0.5, -2, 1, 0], dtype=np.float32)
    assert edges_above(scores, 1).tolist() == [1, 2]
    assert edges_above(scores, 0).tolist() == [1, 2, 0, 3]
    assert edges_above(scores, 9).tolist() == []
    with pytest.raises(OptionError, match="0 or more"):
        edges_above(scores, -1)


def test_a_share_is_reached_by_the_fewest_edges() -> None:
    scores = random_scores(SHAPES[0])
    total = np.abs(scores).sum(dtype=np.float64)
    for share in (0.1, 0.5, 0.99, 1.0):
        edges = edges_for_share(scores, share)
        assert np.abs(scores[edges]).sum(dtype=np.float64) >= share * total * (1 - 1e-12)
        assert np.abs(scores[edges[:-1]]).sum(dtype=np.float64) < share * total
    assert edges_for_share(scores, 0).tolist() == []
    assert edges_for_share(np.zeros(3, dtype=np.float32), 0.5).tolist() == []
    with pytest.raises(OptionError, match="between 0 and 1"):
        edges_for_share(scores, 1.5)


def test_by_signed_score_edges_go_on_into_the_negative_ones() -> None:
    scores = np.array([0.5, -2, 1, 0, -1], dtype=np.float32)
    assert top_edges(scores, 5, "signed").tolist() == [2, 0, 3, 4, 1]
    assert top_edges(scores, 5, "positive").tolist() == [2, 0]
    assert edges_above(scores, 0.5, "signed").tolist() == [2, 0]
    assert edges_for_share(scores, 1, "signed").tolist() == [2, 0]  # of the positive ones' sum
    assert [n_rankable(scores, by) for by in ("absolute", "positive", "signed")] == [5, 2, 5]


def test_a_mask_is_true_for_the_edges_given() -> None:
    graph = SHAPES[0]
    edges = top_edges(random_scores(graph), 20)
    mask = edge_mask(graph, edges)
    assert mask.shape == (graph.n_edges,)
    assert set(np.flatnonzero(mask).tolist()) == set(edges.tolist())
    assert not edge_mask(graph, np.array([], dtype=int)).any()


@pytest.mark.parametrize("edges", [[-1], [262], [0.5]])
def test_an_edge_that_the_model_lacks_is_refused(edges: list[float]) -> None:
    with pytest.raises(OptionError):
        edge_mask(SHAPES[0], np.array(edges))
    with pytest.raises(OptionError):
        live_edges(SHAPES[0], np.array(edges))


def test_ranks_count_from_the_strongest() -> None:
    scores = random_scores(SMOL)
    ranks = edge_ranks(scores)
    np.testing.assert_array_equal(ranks[top_edges(scores, 100)], np.arange(1, 101))
    assert sorted(ranks.tolist()) == list(range(1, SMOL.n_edges + 1))


def test_the_table_says_what_each_edge_is_and_how_much_it_holds() -> None:
    graph = EdgeGraph(2, 4, 2)
    scores = random_scores(graph)
    edges = top_edges(scores, 30)
    table = edge_table(graph, scores, edges)
    assert table.index.tolist() == edges.tolist()
    assert table["rank"].tolist() == list(range(1, 31))
    total = sum(abs(float(score)) for score in scores)
    running = 0.0
    for edge, row in table.iterrows():
        assert f"{row['source']}->{row['destination']}" == graph.edge_name(int(str(edge)))
        running += abs(row["score"]) / total
        assert row["share"] == pytest.approx(abs(row["score"]) / total)
        assert row["cumulative share"] == pytest.approx(running)
    assert "position" not in table


def test_the_table_of_all_edges_adds_up_to_everything() -> None:
    table = edge_table(SMOL, random_scores(SMOL))
    assert len(table) == SMOL.n_edges == 70_651
    assert table["cumulative share"].iloc[-1] == pytest.approx(1)
    assert table["rank"].is_monotonic_increasing
    assert (edge_table(SMOL, np.zeros(SMOL.n_edges, dtype=np.float32))["share"] == 0).all()


def test_the_table_tells_positions_apart_and_keeps_ranks_of_the_whole_model() -> None:
    graph = SHAPES[3]
    scores = random_scores(graph)
    edges = top_edges(scores, 20)[::-2]
    table = edge_table(graph, scores, edges)
    assert table["position"].tolist() == graph.edge_position[edges].tolist()
    assert table["rank"].tolist() == list(range(20, 0, -2))


@pytest.mark.parametrize("n", [0, 3, 17, 40])
def test_by_positive_score_no_edge_is_chosen_whose_ablation_helps(n: int) -> None:
    scores = np.random.default_rng(n).integers(-4, 5, 40).astype(np.float32)
    plain = sorted((edge for edge in range(40) if scores[edge] > 0), key=lambda edge: (-scores[edge], edge))[:n]
    assert top_edges(scores, n, "positive").tolist() == plain
    assert set(edges_above(scores, 2, "positive")) == set(np.flatnonzero(scores >= 2))
    assert (scores[edges_above(scores, 0, "positive")] > 0).all()


def test_a_share_of_the_positive_scores_is_reached_by_the_fewest_edges() -> None:
    scores = np.array([4, -9, 3, 2, 1], dtype=np.float32)
    assert edges_for_share(scores, 0.7, "positive").tolist() == [0, 2]
    assert edges_for_share(scores, 1, "positive").tolist() == [0, 2, 3, 4]


def test_a_kind_of_importance_that_there_is_not_is_named() -> None:
    with pytest.raises(OptionError, match="'absolute' or 'positive'"):
        top_edges(np.zeros(3, dtype=np.float32), 1, "loud")  # type: ignore[arg-type]
