"""Runs held against a known circuit: precision, recall and the area under the ROC curve."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuit.common.errors import CircuitError
from circuit.edges.graph import EdgeGraph
from circuit.edges.method import AblationType, Method
from circuit.models.known.circuits import KnownCircuit
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.run import Baseline, Run
from circuit.runs.truth import Truth, auroc, n_above_rounding, truth_for, truth_of, why_not

GRAPH = EdgeGraph(n_layers=2, n_heads=6, n_kv_heads=6)


def run_of(model: str = "known-induction", **method: object) -> Run:
    config = RunConfig(model, PRESETS["known-induction"].prompts, Method(**method))  # type: ignore[arg-type]
    return Run(config, GRAPH, np.zeros(GRAPH.n_edges, dtype=np.float32), Baseline(1, 0, 1), [0])


def truth() -> Truth:
    found = truth_of(run_of())
    assert found is not None
    return found


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=40))
def test_auroc_counts_the_pairs_in_which_the_edge_of_the_circuit_is_above(edges: list[tuple[int, bool]]) -> None:
    scores, inside = np.array([score for score, _ in edges], float), np.array([each for _, each in edges])
    pairs = [(a > b) + (a == b) / 2 for a in scores[inside] for b in scores[~inside]]
    assert auroc(scores, inside) == pytest.approx(float(np.mean(pairs)) if pairs else np.nan, nan_ok=True)


def test_scores_that_are_rounding_count_as_equal() -> None:
    inside = np.array([True, True, False, False])
    assert auroc(np.array([1, 2e-7, 1e-7, 3e-7]), inside) == pytest.approx(0.75)
    assert auroc(np.array([1, 2e-5, 1e-7, 3e-7]), inside) == 1
    assert n_above_rounding(np.array([-1, 2e-7, 1e-4])) == 2


def test_a_circuit_is_split_into_hits_false_alarms_and_misses() -> None:
    known = truth()
    outside = int(np.flatnonzero(~known.inside)[0])
    edges = np.array([known.edges[0], outside, known.edges[2]])
    assert known.hits(edges).tolist() == known.edges[[0, 2]].tolist()
    assert known.false_alarms(edges).tolist() == [outside]
    assert known.misses(edges).tolist() == known.edges[[1, 3, 4]].tolist()
    assert known.precision(edges) == pytest.approx(2 / 3)
    assert known.recall(edges) == pytest.approx(2 / 5)
    assert np.isnan(known.precision(np.array([], dtype=int)))
    assert known.recall(np.array([], dtype=int)) == 0
    assert known.carries(int(known.edges[0])) == "which word comes again" or known.carries(int(known.edges[0]))


def test_precision_and_recall_over_sizes_are_those_of_the_circuits_of_these_sizes() -> None:
    known = truth()
    scores = np.random.default_rng(0).normal(size=GRAPH.n_edges).astype(np.float32)
    precision, recall = known.over_sizes(scores, 60)
    for n in (1, 7, 60):
        edges = np.argsort(-np.abs(scores))[:n]
        assert precision[n - 1] == pytest.approx(known.precision(edges))
        assert recall[n - 1] == pytest.approx(known.recall(edges))
    assert len(known.over_sizes(scores, 10_000)[0]) == GRAPH.n_edges
    assert known.auroc(scores) == known.auroc(-scores)


def test_what_is_known_holds_for_the_resample_ablation_with_positions_added_up() -> None:
    assert why_not(run_of()) is None
    zero = run_of(ablation_type=AblationType.ZERO, clean_corrupt=None)
    assert truth_of(zero) is None
    assert "known under the ablation 'resample', and this run used 'zero'" in str(why_not(zero))
    apart = replace(run_of(), graph=replace(GRAPH, seq_len=10))
    assert truth_of(apart) is None
    assert "token positions added up" in str(why_not(apart))


def test_nothing_is_known_of_other_models() -> None:
    assert truth_of(run_of("teaching")) is None
    assert why_not(run_of("teaching")) is None


def test_a_circuit_of_another_model_is_refused_by_the_edge_that_is_not_there() -> None:
    with pytest.raises(CircuitError, match=r"'A7\.1->Resid End', which is no edge"):
        truth_for(KnownCircuit({"A7.1->Resid End": ""}), GRAPH)
