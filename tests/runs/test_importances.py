"""Scores in the benchmark's JSON: in, out, and with heads that share their keys and values."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from circuit.common.errors import OptionError, RunFileError
from circuit.edges.graph import EdgeGraph
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.runs.config import RunConfig
from circuit.runs.importances import importances_json, read_importances, width_of
from circuit.runs.run import Baseline, Run

PLAIN = EdgeGraph(2, 3, 3)
GROUPED = EdgeGraph(3, 6, 2)
PARALLEL = EdgeGraph(2, 4, 4, parallel=True)


def scores_of(graph: EdgeGraph) -> np.ndarray:
    return np.random.default_rng(3).normal(size=graph.n_edges).astype(np.float32)


def written(graph: EdgeGraph) -> dict[str, Any]:
    return json.loads(importances_json(graph, scores_of(graph), 32))


@pytest.mark.parametrize("graph", [PLAIN, GROUPED, PARALLEL], ids=["plain", "grouped", "parallel"])
def test_what_is_written_is_read_back(graph: EdgeGraph) -> None:
    scores, inside = scores_of(graph), np.arange(graph.n_edges) % 3 == 0
    found = read_importances(importances_json(graph, scores, 32, inside))
    np.testing.assert_allclose(found.for_model(graph), scores, rtol=1e-6)
    assert found.graph.n_edges == graph.n_edges_by_query_head
    assert (found.d_model, found.node_scores) == (32, {})
    assert found.in_circuit is not None
    assert 0 < found.in_circuit.sum() < len(found.in_circuit)


def test_edges_have_the_benchmarks_names_and_scores() -> None:
    edges, scores = written(PLAIN)["edges"], scores_of(PLAIN)
    numbers = {PLAIN.edge_name(edge): edge for edge in range(PLAIN.n_edges)}
    for here, there in {
        "Resid Start->A0.0.Q": "input->a0.h0<q>",
        "A0.2->A1.1.K": "a0.h2->a1.h1<k>",
        "MLP 0->A1.2.V": "m0->a1.h2<v>",
        "A1.0->MLP 1": "a1.h0->m1",
        "MLP 1->Resid End": "m1->logits",
    }.items():
        assert edges[there]["score"] == pytest.approx(float(scores[numbers[here]]))


def test_names_of_nodes_and_the_order_of_their_edges_are_those_of_the_formats_own_example() -> None:
    """As in circuits/ioi-eap-ig.json of the benchmark's code: cfg, 12 x 13 + 2 nodes, 32,491 edges."""
    file = json.loads(importances_json(EdgeGraph(12, 12, 12), np.zeros(32_491, dtype=np.float32), 768))
    assert file["cfg"] == {"n_layers": 12, "n_heads": 12, "parallel_attn_mlp": False, "d_model": 768}
    assert len(file["nodes"]) == 158
    assert list(file["nodes"])[:3] == ["input", "a0.h0", "a0.h1"]
    assert len(file["edges"]) == 32_491
    assert set(file["edges"]["a11.h9->logits"]) == {"score", "in_graph"}


def test_shared_keys_and_values_are_shared_out_equally_and_added_up() -> None:
    numbers = {GROUPED.edge_name(edge): edge for edge in range(GROUPED.n_edges)}
    content, scores = written(GROUPED), scores_of(GROUPED)
    shared = float(scores[numbers["A0.1->A1.1.V"]])
    for head in (3, 4, 5):  # those that use key-value head 1
        assert content["edges"][f"a0.h1->a1.h{head}<v>"]["score"] == pytest.approx(shared / 3)
    content["edges"]["a0.h1->a1.h4<v>"]["score"] = 7.0
    found = read_importances(json.dumps(content).encode()).for_model(GROUPED)
    assert found[numbers["A0.1->A1.1.V"]] == pytest.approx(7 + 2 * shared / 3)


def test_nodes_that_no_edge_of_the_circuit_touches_are_not_in_it() -> None:
    inside = np.zeros(PLAIN.n_edges, dtype=bool)
    inside[[PLAIN.edge_name(edge) for edge in range(PLAIN.n_edges)].index("A0.1->Resid End")] = True
    nodes = json.loads(importances_json(PLAIN, scores_of(PLAIN), 32, inside))["nodes"]
    assert {name for name, node in nodes.items() if node["in_graph"]} == {"a0.h1", "logits"}


def test_scores_of_nodes_are_read() -> None:
    content = written(PLAIN)
    content["nodes"]["m1"]["score"] = 0.5
    content["nodes"]["m0"]["score"] = float("nan")  # which the format uses for nodes that were not scored
    assert read_importances(json.dumps(content).encode()).node_scores == {"m1": 0.5}


def test_another_model_is_told_by_its_shape() -> None:
    found = read_importances(importances_json(PLAIN, scores_of(PLAIN), 32))
    with pytest.raises(OptionError, match=r"2 layers of 3 heads, sequential.* this one has 3 layers of 6 heads"):
        found.for_model(GROUPED)
    with pytest.raises(OptionError, match="no token positions"):
        found.for_model(EdgeGraph(2, 3, 3, seq_len=4))
    with pytest.raises(OptionError, match="positions added up"):
        importances_json(EdgeGraph(2, 3, 3, seq_len=4), np.zeros(1), 32)
    with pytest.raises(OptionError, match="there are 3 scores"):
        importances_json(PLAIN, np.zeros(3), 32)
    with pytest.raises(OptionError, match="finite"):
        importances_json(PLAIN, np.full(PLAIN.n_edges, np.nan), 32)


def test_a_run_has_a_file_where_it_says_how_wide_its_model_is() -> None:
    config = RunConfig("teaching", PromptSet("one", (PromptPair("a", "b", ("c",)),)))
    run = Run(config, PLAIN, scores_of(PLAIN), Baseline(1, 0, 1), [0], {"d_model": 32})
    assert width_of(run) == 32
    apart = replace(PLAIN, seq_len=2)
    for without in (
        replace(run, provenance={}),
        replace(run, provenance={"d_model": "32"}),
        replace(run, provenance={"d_model": -1}),
        replace(run, graph=apart, scores=scores_of(apart)),
    ):
        assert width_of(without) is None


def broken(**changes: Any) -> bytes:
    content = written(PLAIN)
    for path, value in changes.items():
        part, _, name = path.partition("__")
        if name:
            content[part][name] = value
        else:
            content[part] = value
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x80\x04pickle", "no importance scores"),
        (b"[]", "no importance scores"),
        (b"{}", "it has no 'cfg'"),
        (broken(edges=[]), "must be objects"),
        (broken(edges__input__nothing=1), "a model of its shape has"),
        (broken(**{"edges__m1->logits": 0.5}), "an edge must have a score"),
        (broken(cfg__n_layers=10**9), "cannot have 1000000000 layers"),
        (broken(cfg__n_layers=True), "cannot have True layers"),
        (broken(cfg__n_layers=3), "a model of its shape has"),
        (broken(cfg__parallel_attn_mlp="no"), "true or false"),
        (broken(edges={"input->logits": {"score": 1}}), "cannot have 2 layers"),
        (b'{"cfg": {"n_layers": 1, "n_heads": 1, "d_model": 1}, "nodes": {}, "edges": {"a": {}}}', "has 8 edges"),
    ],
    ids=range(12),
)
def test_what_is_no_such_file_is_refused_in_a_sentence(content: bytes, says: str) -> None:
    with pytest.raises(RunFileError, match=says):
        read_importances(content)


def test_scores_that_are_no_finite_numbers_are_refused_by_name() -> None:
    for value in ("1", None, float("nan"), 1e60, True):
        content = written(PLAIN)
        content["edges"]["m0->logits"]["score"] = value
        with pytest.raises(RunFileError, match="the score of m0->logits is"):
            read_importances(json.dumps(content).encode())
    content = written(PLAIN)
    content["edges"]["m0->nowhere"] = content["edges"].pop("m0->logits")
    with pytest.raises(RunFileError, match="it has no 'm0->logits'"):
        read_importances(json.dumps(content).encode())
