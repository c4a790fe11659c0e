"""Runs beside each other: numbers by their definitions, and what differs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from circuit.edges.method import AblationType, Method
from circuit.edges.ranking import edge_ranks, top_edges
from circuit.runs.comparison import (
    differing_settings,
    expected_overlap,
    only_in,
    overlap,
    overlap_of,
    pairs_of,
    spearman,
    why_not_comparable,
)
from circuit.runs.run import Run
from tests.runs_made import run_with


def mean_ranks(values: np.ndarray) -> list[float]:
    """For every value, how many are smaller, and half of those that equal it."""
    return [float((values < value).sum() + ((values == value).sum() + 1) / 2) for value in values]


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_the_correlation_of_ranks_by_its_definition(seed: int) -> None:
    first, second = (run_with(2 * seed + i).scores for i in range(2))
    second = second + first  # somewhat alike
    x, y = np.array(mean_ranks(first)), np.array(mean_ranks(second))
    x, y = x - x.mean(), y - y.mean()
    assert spearman(first, second) == pytest.approx((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()), abs=1e-12)


def test_spearman_without_ties_is_the_formula_of_the_textbook() -> None:
    """rho = 1 - 6 sum d^2 / (n (n^2 - 1)); the example is that of Wikipedia's article, rho = -29/165."""
    iq = np.array([106, 100, 86, 101, 99, 103, 97, 113, 112, 110.0])
    hours = np.array([7, 27, 2, 50, 28, 29, 20, 12, 6, 17.0])
    assert spearman(iq, hours) == pytest.approx(-29 / 165)


def test_spearman_ends_and_none() -> None:
    scores = run_with(1).scores
    assert spearman(scores, scores**3) == pytest.approx(1)
    assert spearman(scores, -scores) == pytest.approx(-1)
    assert np.isnan(spearman(scores, np.zeros_like(scores)))


def test_overlap_is_what_counting_sets_gives_for_every_n() -> None:
    first, second = run_with(3), run_with(4)
    shared = overlap(first.ranks, second.ranks)
    assert shared.shape == (first.graph.n_edges,)
    for n in range(1, first.graph.n_edges + 1):
        both = set(top_edges(first.scores, n).tolist()) & set(top_edges(second.scores, n).tolist())
        assert shared[n - 1] == len(both) / n
    assert shared[-1] == 1
    assert (overlap(first.ranks, first.ranks) == 1).all()


def test_edges_drawn_at_random_overlap_as_expected() -> None:
    rng = np.random.default_rng(0)
    drawn = [overlap(rng.permutation(100) + 1, rng.permutation(100) + 1) for _ in range(4000)]
    np.testing.assert_allclose(np.mean(drawn, axis=0), expected_overlap(100), atol=0.01)


def test_edges_of_score_zero_agree_by_chance_alone() -> None:
    """Two runs that have five edges each in common with nobody: beyond these, places go to edges of score zero."""
    first, second = run_with(3), run_with(4)
    n_edges = first.graph.n_edges
    for run, edges in ((first, slice(0, 5)), (second, slice(5, 10))):
        run.scores[:] = 0
        run.scores[edges] = [5, -4, 3, 2, 1]
    shared = overlap_of(first, second)
    assert (shared[:5] == 0).all()
    half = n_edges // 2
    assert shared[half - 1] == pytest.approx(0.5, abs=0.05)
    assert shared[-1] == pytest.approx(1)
    rng, found = np.random.default_rng(0), []
    for _ in range(4000):
        one, other = (
            np.argsort(np.argsort(-np.abs(run.scores) - 1e-9 * rng.random(n_edges))) + 1 for run in (first, second)
        )
        found.append(overlap(one, other))
    np.testing.assert_allclose(shared, np.mean(found, axis=0), atol=0.02)
    assert len(only_in(first, second, half)) == 5
    assert set(only_in(first, second, half).index) == {0, 1, 2, 3, 4}


def test_edges_of_one_circuit_and_not_of_the_other() -> None:
    first, second = run_with(5), run_with(6)
    for n in (1, 10, first.graph.n_edges):
        mine, other = (set(top_edges(run.scores, n).tolist()) for run in (first, second))
        table = only_in(first, second, n)
        assert set(table.index) == mine - other
        assert table["rank"].is_monotonic_increasing
        for edge, row in table.iterrows():
            assert f"{row['source']}->{row['destination']}" == first.graph.edge_name(edge)
            assert row["score"] == first.scores[edge]
            assert row["score in the other"] == second.scores[edge]
            assert row["rank in the other"] == edge_ranks(second.scores)[edge] > n
    apart = only_in(run_with(7, seq_len=3), run_with(8, seq_len=3), 20)
    assert set(apart["position"]) <= {0, 1, 2}


def test_every_pair_is_named_once() -> None:
    assert pairs_of("ABC") == [(0, 1, "A and B"), (0, 2, "A and C"), (1, 2, "B and C")]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (run_with(1, n_layers=3), "the numbers of layers differ (2, 3). Choose runs of one model."),
        (run_with(1, seq_len=5), "token positions kept apart differ (none, 5)"),
        (run_with(1, parallel=True), "attention and MLP differ (one after the other, side by side)"),
    ],
)
def test_graphs_that_differ_are_not_compared(other: Run, words: str) -> None:
    assert words in (why_not_comparable([run_with(0), other]) or "")


def test_runs_of_one_graph_are_compared() -> None:
    assert why_not_comparable([run_with(0), run_with(1), run_with(2)]) is None


SHA, OTHER = {"source": "a", "sha256": "1" * 64}, {"source": "a", "sha256": "2" * 64}


@pytest.mark.parametrize(
    ("models", "weights", "words"),
    [
        (("gpt2", "other"), ({}, {}), "their models differ (gpt2, other)"),
        (("gpt2", "gpt2"), (SHA, OTHER), "their models' weights differ (gpt2 111111111111, gpt2 222222222222)"),
        (("gpt2", "other"), (SHA, {"revision": "3" * 40}), "their models differ (gpt2, other)"),
        (("gpt2", "local/gpt2"), (SHA, SHA), None),  # the same files under another name
        (("gpt2", "gpt2"), (SHA, None), None),  # an old run, or one made elsewhere
    ],
)
def test_other_models_of_the_same_shape_are_not_compared(
    models: tuple[str, str], weights: tuple[Any, Any], words: str | None
) -> None:
    runs = [run_with(0), run_with(1)]
    for run, model, identity in zip(runs, models, weights, strict=True):
        run.config = replace(run.config, model=model)
        run.provenance = {"model": model, "weights": identity}
    why = why_not_comparable(runs)
    assert (why is None) == (words is None)
    assert (words or "") in (why or "")


def test_the_table_holds_the_settings_that_differ_and_no_other() -> None:
    first, second = run_with(0), run_with(0)
    assert differing_settings([first, second]).empty
    pairs = second.config.prompts.pairs[:2]
    method = Method("prob", mask_val=0.5, ablation_type=AblationType.ZERO)
    second.config = replace(second.config, method=method, prompts=replace(second.config.prompts, pairs=pairs))
    table = differing_settings([first, second])
    differing = "prompts, pairs scored, grad function, ablation, activations taken from, method, points, batch size"
    assert list(table.index) == differing.split(", ")
    assert list(table.loc["ablation"]) == ["batch all tok mean", "zero"]
    assert list(table.loc["points"]) == ["7 points, midpoint rule", "m = 0.5"]
    assert table.loc["prompts", 0] != table.loc["prompts", 1]  # though their name is the same


def test_prompts_are_told_apart_by_their_pairs_and_weights_by_their_hash() -> None:
    first, second = run_with(0), run_with(0)
    pair = replace(second.config.prompts.pairs[0], clean=" Other")
    pairs = (pair, *second.config.prompts.pairs[1:])
    second.config = replace(second.config, prompts=replace(second.config.prompts, pairs=pairs))
    first.provenance["weights"], second.provenance["weights"] = {"sha256": "ab" * 32}, {"revision": "cd" * 20}
    assert list(differing_settings([first, second]).index) == ["weights", "prompts"]
