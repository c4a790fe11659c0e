"""Choosing edges, dropping dead ends, and the circuit as a graph: each compared with something slower and plainer."""

from __future__ import annotations

import io
import json

import networkx as nx
import numpy as np
import pytest

from circuit.common.errors import NumericalError, OptionError
from circuit.edges.graph import EdgeGraph
from circuit.edges.ranking import edge_mask, edge_ranks, edge_table, edges_above, edges_for_share, n_rankable, top_edges
from circuit.edges.subgraph import circuit_graph, connecting_size, live_edges, node_edges

SHAPES = [
    EdgeGraph(3, 4, 4),
    EdgeGraph(3, 4, 2),
    EdgeGraph(3, 3, 1, parallel=True),
    EdgeGraph(2, 2, 2, seq_len=3),
    EdgeGraph(2, 4, 2, parallel=True, seq_len=3),
    EdgeGraph(3, 2, 1, seq_len=2),
]
SMOL = EdgeGraph(n_layers=30, n_heads=9, n_kv_heads=3)


def random_scores(graph: EdgeGraph, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(2, graph.n_edges).astype(np.float32)


# --- choosing edges ------------------------------------------------------------------------------------------------


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


# --- dead ends -----------------------------------------------------------------------------------------------------


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


# --- for people ----------------------------------------------------------------------------------------------------


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


# --- positive scores only ------------------------------------------------------------------------------------------


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
