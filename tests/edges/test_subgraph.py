"""Dropping dead ends, and the circuit as a graph: each compared with something slower and plainer."""

from __future__ import annotations

import io
import json

import networkx as nx
import numpy as np
import pytest

from circuit.edges.graph import EdgeGraph
from circuit.edges.ranking import top_edges
from circuit.edges.subgraph import circuit_graph, connecting_size, live_edges, node_edges
from tests.graphs import SMOL, random_scores

SHAPES = [
    EdgeGraph(3, 4, 4),
    EdgeGraph(3, 4, 2),
    EdgeGraph(3, 3, 1, parallel=True),
    EdgeGraph(2, 2, 2, seq_len=3),
    EdgeGraph(2, 4, 2, parallel=True, seq_len=3),
    EdgeGraph(3, 2, 1, seq_len=2),
]


def explicit_paths(graph: EdgeGraph, edges: np.ndarray) -> tuple[nx.DiGraph, dict[int, tuple[str, str]]]:
    """What feeds what, written out node by node: outputs, inputs, and one start and one end."""
    net = nx.DiGraph()
    positions = range(graph.seq_len or 1)
    group = graph.n_heads // graph.n_kv_heads
    for p in positions:
        net.add_edge("start", f"Resid Start out {p}")
        net.add_edge(f"Resid End in {p}", "end")
        for layer in range(graph.n_layers):
            net.add_edge(f"MLP {layer} in {p}", f"MLP {layer} out {p}")
            for head in range(graph.n_heads):
                net.add_edge(f"A{layer}.{head}.Q in {p}", f"A{layer}.{head} out {p}")
                for q in positions:
                    if q >= p:
                        net.add_edge(f"A{layer}.{head // group}.K in {p}", f"A{layer}.{head} out {q}")
                        net.add_edge(f"A{layer}.{head // group}.V in {p}", f"A{layer}.{head} out {q}")
    ends = {}
    for edge in edges.tolist():
        p = graph.edge_position[edge]
        tail = f"{graph.sources[graph.edge_source[edge]].name} out {p}"
        tip = f"{graph.destinations[graph.edge_destination[edge]].name} in {p}"
        net.add_edge(tail, tip)
        ends[edge] = (tail, tip)
    return net, ends


@pytest.mark.parametrize("graph", SHAPES, ids=str)
@pytest.mark.parametrize("seed", range(12))
def test_live_edges_are_those_on_a_path_from_start_to_end(graph: EdgeGraph, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, min(graph.n_edges, 5 * graph.n_layers * (graph.seq_len or 1) * 3)))
    edges = rng.permutation(graph.n_edges)[:n]
    net, ends = explicit_paths(graph, edges)
    after_start = nx.descendants(net, "start")
    before_end = nx.ancestors(net, "end")
    plain = [edge for edge in edges.tolist() if ends[edge][0] in after_start and ends[edge][1] in before_end]
    assert live_edges(graph, edges).tolist() == plain


@pytest.mark.parametrize("graph", [*SHAPES, SMOL], ids=str)
def test_with_every_edge_nothing_is_a_dead_end_and_the_order_is_kept(graph: EdgeGraph) -> None:
    edges = np.random.default_rng(0).permutation(graph.n_edges)
    np.testing.assert_array_equal(live_edges(graph, edges), edges)


def test_dropping_dead_ends_twice_changes_nothing() -> None:
    edges = live_edges(SMOL, top_edges(random_scores(SMOL), 500))
    assert 0 < len(edges) < 500
    np.testing.assert_array_equal(live_edges(SMOL, edges), edges)
    assert live_edges(SMOL, np.array([], dtype=int)).tolist() == []


def test_the_smallest_connecting_circuit_is_the_first_with_an_edge_on_a_path() -> None:
    order = np.random.default_rng(1).permutation(SMOL.n_edges)
    size = connecting_size(SMOL, order)
    assert size is not None
    assert len(live_edges(SMOL, order[:size]))
    assert not len(live_edges(SMOL, order[: size - 1]))
    assert connecting_size(SMOL, order[: size - 1]) is None
    assert connecting_size(SMOL, order[:0]) is None


def find(graph: EdgeGraph, source: str, destination: str, position: int = 0) -> int:
    names = [node.name for node in graph.sources], [node.name for node in graph.destinations]
    here = graph.edge_source == names[0].index(source)
    here &= graph.edge_destination == names[1].index(destination)
    here &= graph.edge_position == position
    (edge,) = np.flatnonzero(here)
    return int(edge)


def test_a_key_at_an_earlier_position_feeds_a_later_output_and_not_the_reverse() -> None:
    graph = EdgeGraph(1, 2, 2, seq_len=3)
    key = find(graph, "Resid Start", "A0.1.K", 1)
    for position, live in ((0, False), (1, True), (2, True)):
        edges = np.array([key, find(graph, "A0.1", "Resid End", position)])
        assert len(live_edges(graph, edges)) == (2 if live else 0)


@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_the_graph_holds_each_edge_once_with_its_score(graph: EdgeGraph) -> None:
    scores = random_scores(graph)
    edges = top_edges(scores, 25)
    drawn = circuit_graph(graph, edges, scores)
    scored = {data["edge"]: data for _, _, data in drawn.edges(data=True) if data["kind"] == "edge"}
    assert set(scored) == set(edges.tolist())
    for rank, edge in enumerate(edges.tolist(), start=1):
        data = scored[edge]
        assert data["rank"] == rank
        assert data["score"] == float(scores[edge])
        assert data["strength"] == abs(data["score"])
        assert data["name"] == graph.edge_name(edge)


def test_queries_keys_and_values_lead_to_the_head_itself_where_it_has_its_own() -> None:
    graph = EdgeGraph(2, 2, 2)
    edges = np.array([find(graph, "A0.0", f"A1.1.{to}") for to in "QKV"])
    drawn = circuit_graph(graph, edges, np.ones(graph.n_edges, dtype=np.float32))
    assert set(drawn.nodes) == {"A0.0", "A1.1"}
    assert [data["input"] for _, _, data in drawn.edges(data=True)] == ["Q", "K", "V"]
    assert drawn.nodes["A1.1"] == {"kind": "head", "layer": 1, "label": "A1.1", "head": 1}


def test_a_shared_key_leads_to_a_node_linked_to_the_heads_of_its_group_in_the_circuit() -> None:
    graph = EdgeGraph(1, 6, 2)
    edges = np.array(
        [
            find(graph, "Resid Start", "A0.1.K"),
            find(graph, "A0.2", "Resid End"),
            find(graph, "A0.3", "Resid End"),
            find(graph, "A0.5", "Resid End"),
        ]
    )
    drawn = circuit_graph(graph, edges, np.ones(graph.n_edges, dtype=np.float32))
    assert drawn.nodes["A0.kv1"]["kind"] == "kv"
    assert set(drawn.successors("A0.kv1")) == {"A0.3", "A0.5"}
    assert all(drawn.edges["A0.kv1", head, "group"]["kind"] == "group" for head in ("A0.3", "A0.5"))


def test_a_key_links_to_the_same_and_later_positions_only() -> None:
    graph = EdgeGraph(1, 2, 2, seq_len=3)
    edges = np.array(
        [
            find(graph, "Resid Start", "A0.1.V", 1),
            *(find(graph, "A0.1", "Resid End", position) for position in range(3)),
        ]
    )
    drawn = circuit_graph(graph, edges, np.ones(graph.n_edges, dtype=np.float32))
    assert set(drawn.successors("A0.kv1 @1")) == {"A0.1 @1", "A0.1 @2"}


@pytest.mark.parametrize("graph", SHAPES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_after_dropping_dead_ends_every_node_of_the_graph_is_on_a_path(graph: EdgeGraph, seed: int) -> None:
    scores = random_scores(graph, seed)
    edges = live_edges(graph, top_edges(scores, graph.n_edges // 4))
    drawn = circuit_graph(graph, edges, scores)
    starts = [name for name, node in drawn.nodes(data=True) if node["kind"] == "embedding"]
    ends = [name for name, node in drawn.nodes(data=True) if node["kind"] == "final"]
    for name in drawn:
        assert any(nx.has_path(drawn, start, name) for start in starts)
        assert any(nx.has_path(drawn, name, end) for end in ends)
    assert nx.is_directed_acyclic_graph(drawn)


@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_the_graph_can_be_written_as_graphml_and_json(graph: EdgeGraph) -> None:
    scores = random_scores(graph)
    drawn = circuit_graph(graph, top_edges(scores, 20), scores)
    file = io.BytesIO()
    nx.write_graphml(drawn, file)
    file.seek(0)
    assert set(nx.read_graphml(file).nodes) == set(drawn.nodes)
    back = nx.node_link_graph(json.loads(json.dumps(nx.node_link_data(drawn, edges="edges"))), edges="edges")
    assert nx.utils.graphs_equal(back, drawn)


@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_the_edges_of_a_node_are_those_that_name_it(graph: EdgeGraph) -> None:
    scores = random_scores(graph)
    drawn = circuit_graph(graph, np.arange(graph.n_edges), scores)
    group = graph.n_heads // graph.n_kv_heads
    for node in drawn.nodes.values():
        into, out_of = node_edges(graph, node)
        label, head = node["label"], node.get("head")
        at = f" @{node['position']}" if "position" in node else ""
        reads = {label}
        if node["kind"] == "head":
            reads = {f"{label}.Q", *(f"A{node['layer']}.{head // group}.{to}" for to in "KV")}
        elif node["kind"] == "kv":
            reads = {f"A{node['layer']}.{head}.{to}" for to in "KV"}
        names = [graph.edge_name(edge) for edge in range(graph.n_edges)]
        ends = [name.removesuffix(at).split("->") if name.endswith(at) else ["", ""] for name in names]
        assert into.tolist() == [i for i, (_, to) in enumerate(ends) if to in reads]
        assert out_of.tolist() == [i for i, (of, _) in enumerate(ends) if of == label]
