"""Certificates hold as often as they say, follow the circuit's rank and rule, and stay within little memory."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any, get_args

import numpy as np
import pytest

import circuit.edges.stable as module
from circuit.common.errors import NumericalError, OptionError, PromptError
from circuit.edges.choose import SelectionRule, choose_edges
from circuit.edges.graph import EdgeGraph
from circuit.edges.ranking import Importance
from circuit.edges.stable import certify_edges, circuits_of, halves, sign_shares
from tests.graphs import SHAPES, SMOL

GRAPH = EdgeGraph(2, 2, 1)
LOTS: tuple[tuple[Importance, SelectionRule], ...] = tuple(
    (rank, rule) for rank in get_args(Importance) for rule in get_args(SelectionRule)
)


def scores_of(graph: EdgeGraph, n_prompts: int = 12, seed: int = 0) -> np.ndarray:
    """Some edges strong on all prompts, most of them noise."""
    random = np.random.default_rng(seed)
    mean = random.standard_t(2, graph.n_edges)
    return (mean + random.normal(0, 1, (n_prompts, graph.n_edges))).astype(np.float32)


def two_rivals() -> tuple[np.ndarray, float]:
    """Scores of 12 prompts of which each half has one edge in its circuit of one: edge 0 where at least three of the
    prompts 0 to 5 are in the half, and else edge 1. And the share of all halves that have edge 0."""
    scores = np.zeros((12, GRAPH.n_edges), dtype=np.float32)
    scores[:6, 0] = 1
    scores[:, 1] = 2.5 / 6
    return scores, sum(math.comb(6, k) * math.comb(6, 6 - k) for k in (3, 4, 5, 6)) / math.comb(12, 6)


def test_no_more_than_the_named_chance_of_a_wrong_verdict() -> None:
    scores, true_share = two_rivals()
    tries = 600
    wrongly_certified = wrongly_rejected = 0
    for seed in range(tries):
        above = certify_edges(GRAPH, scores, 1, share=true_share + 1e-9, n_subsets=100, seed=seed)
        wrongly_certified += above.certified.tolist() == [0]
        below = certify_edges(GRAPH, scores, 1, share=true_share, n_subsets=100, seed=tries + seed)
        wrongly_rejected += below.rejected.tolist() == [0]
    most = 0.05 + 3 * math.sqrt(0.05 * 0.95 / tries)
    assert 0.01 < wrongly_certified / tries < most
    assert 0.01 < wrongly_rejected / tries < most


def test_what_is_clear_is_told_and_what_is_close_is_an_abstention() -> None:
    scores, true_share = two_rivals()
    verdicts = {
        share: certify_edges(GRAPH, scores, 1, share=share, n_subsets=400).verdicts
        for share in (true_share - 0.1, true_share, true_share + 0.1)
    }
    assert list(verdicts.values()) == [("certified",), ("abstention",), ("rejected",)]


def test_the_bounds_hold_the_share_seen_and_close_in_with_more_halves() -> None:
    scores, true_share = two_rivals()
    widths = []
    for n_subsets in (50, 1000):
        found = certify_edges(GRAPH, scores, 1, n_subsets=n_subsets)
        (low,), (high,) = found.bounds
        assert low < found.held[0] / n_subsets < high
        assert low < true_share < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


@pytest.mark.parametrize(("rank", "rule"), LOTS)
def test_each_half_chooses_by_the_same_rank_and_rule(rank: Importance, rule: SelectionRule) -> None:
    graph = SHAPES[1]
    scores = scores_of(graph)
    found = certify_edges(graph, scores, 30, rank, rule, share=0.8, n_subsets=20, seed=5)
    np.testing.assert_array_equal(found.edges, choose_edges(graph, scores.mean(axis=0), 30, rank, rule))
    held = np.zeros(graph.n_edges, dtype=int)
    for weights in halves(12, 20, seed=5):
        held[choose_edges(graph, scores[weights > 0].mean(axis=0), 30, rank, rule)] += 1
    np.testing.assert_array_equal(found.held, held[found.edges])
    assert 0 < found.held.min() < 20
    parts = [found.certified, found.rejected, found.abstentions]
    assert sorted(np.concatenate(parts).tolist()) == sorted(found.edges.tolist())


def test_rules_differ_in_what_they_certify() -> None:
    graph = SHAPES[1]
    scores = scores_of(graph)
    found = [set(certify_edges(graph, scores, 30, "signed", rule).certified.tolist()) for rule in ("top", "connected")]
    assert found[0] - found[1]
    assert found[1] - found[0]


@pytest.mark.parametrize(("rank", "rule"), LOTS)
def test_circuits_of_draws_answer_every_size(
    rank: Importance, rule: SelectionRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = SHAPES[0]
    scores, weights = scores_of(graph), halves(12, 6)
    monkeypatch.setattr(module, "_CHUNK", 4 * graph.n_edges)  # four draws at a time
    circuits = circuits_of(graph, scores, weights, 60, rank, rule)
    for n in (0, 1, 7, 20, 60):
        expected: dict[int, int] = {}
        for row in weights:
            for edge in choose_edges(graph, row @ scores, n, rank, rule).tolist():
                expected[edge] = expected.get(edge, 0) + 1
        assert circuits.counts(n) == expected


@pytest.mark.parametrize("n_prompts", [5, 8, 13])
def test_halves_hold_half_of_the_prompts_each_once(n_prompts: int) -> None:
    weights = halves(n_prompts, 300)
    assert {tuple(np.unique(row)) for row in weights} == {(0, np.float32(1 / (n_prompts // 2)))}
    assert set((weights > 0).sum(axis=1).tolist()) == {n_prompts // 2}
    assert (weights > 0).mean(axis=0) == pytest.approx(np.full(n_prompts, (n_prompts // 2) / n_prompts), abs=0.1)


def test_signs_are_held_as_often_as_the_bootstrap_says(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.ones((5, 4), dtype=np.float32)
    scores[0, 1] = -10  # in a draw with this prompt, the mean is negative, as it is over all
    scores[:, 2] = 0
    scores[0, 3] = -3  # positive over all, and where this prompt is drawn once or never
    monkeypatch.setattr(module, "_CHUNK", 20_000 * 3)  # three edges at a time
    shares = sign_shares(scores, n_draws=20_000)
    assert shares[[0, 2]].tolist() == [1, 1]
    assert shares[1] == pytest.approx(1 - (4 / 5) ** 5, abs=0.015)
    once_or_never = (4 / 5) ** 5 + 5 * (1 / 5) * (4 / 5) ** 4
    assert shares[3] == pytest.approx(once_or_never, abs=0.015)


def test_a_model_of_seventy_thousand_edges_and_64_prompts_takes_little_more_memory_than_its_scores() -> None:
    scores = np.random.default_rng(0).standard_normal((64, SMOL.n_edges), dtype=np.float32)
    tracemalloc.start()
    try:
        found = certify_edges(SMOL, scores, 50, "signed", "connected", share=0.5, n_subsets=12)
        shares = sign_shares(scores, n_draws=200)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.edges) > 0
    assert shares.shape == (SMOL.n_edges,)
    assert peak < 4 * scores.nbytes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"share": 1.0}, "must lie between 0 and 1"),
        ({"confidence": 1.0}, "must lie between 0 and 1"),
        ({"share": 0.99}, "200 subsets can certify nothing: .* it takes at least 299"),
        ({"n": 10_000}, "has between 0 and"),
        ({"rule": "best"}, "rule must be"),
        ({"rank": "best"}, "importance must be"),
    ],
)
def test_what_cannot_be_certified_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        certify_edges(GRAPH, scores_of(GRAPH), **{"n": 5} | change)


def test_scores_that_are_none_of_single_prompts_of_this_model_are_refused() -> None:
    with pytest.raises(OptionError, match=r"shape \[n_prompts, n_edges\]"):
        certify_edges(GRAPH, scores_of(GRAPH)[0], 5)
    with pytest.raises(OptionError, match="and this model has"):
        certify_edges(GRAPH, scores_of(SHAPES[0]), 5)
    for few in (lambda scores: certify_edges(GRAPH, scores, 5), sign_shares):
        with pytest.raises(PromptError, match="4 prompts are too few"):
            few(scores_of(GRAPH, 4))
    broken = scores_of(GRAPH)
    broken[3, 3] = np.nan
    with pytest.raises(NumericalError):
        certify_edges(GRAPH, broken, 5)
