"""Edges as arithmetic, against edges counted one by one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from circuit.common.errors import OptionError
from circuit.edges.graph import EdgeGraph

SHAPES = [
    EdgeGraph(3, 4, 4),
    EdgeGraph(1, 2, 1),
    EdgeGraph(3, 4, 2),
    EdgeGraph(3, 4, 4, parallel=True),
    EdgeGraph(2, 4, 1, parallel=True, seq_len=3),
    EdgeGraph(2, 3, 3, seq_len=5),
]


def edges_one_by_one(graph: EdgeGraph) -> list[str]:
    """Names of all edges, from what a transformer is: a source may be read by whatever comes after it."""
    names = []
    written = ["Resid Start"]
    positions = [""] if graph.seq_len is None else [f" @{p}" for p in range(graph.seq_len)]
    for layer in range(graph.n_layers):
        for kind, n in (("Q", graph.n_heads), ("K", graph.n_kv_heads), ("V", graph.n_kv_heads)):
            names += [f"{s}->A{layer}.{h}.{kind}{p}" for p in positions for h in range(n) for s in written]
        heads = [f"A{layer}.{h}" for h in range(graph.n_heads)]
        read_by_mlp = written if graph.parallel else written + heads
        names += [f"{s}->MLP {layer}{p}" for p in positions for s in read_by_mlp]
        written = [*written, *heads, f"MLP {layer}"]
    return names + [f"{s}->Resid End{p}" for p in positions for s in written]


@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_edges_are_those_counted_one_by_one(graph: EdgeGraph) -> None:
    expected = edges_one_by_one(graph)
    assert graph.n_edges == len(expected)
    assert [graph.edge_name(edge) for edge in range(graph.n_edges)] == expected
    assert len(set(expected)) == len(expected)


def test_known_sizes() -> None:
    """GPT-2 small as counted by AutoCircuit, and the number that the module's first lines promise."""
    assert EdgeGraph(12, 12, 12).n_edges == 32491
    assert EdgeGraph(3, 4, 4).n_edges == 262


@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_flatten_and_unflatten_are_inverses_in_the_order_of_edges(graph: EdgeGraph) -> None:
    flat = np.arange(graph.n_edges, dtype=np.float32)
    scores = graph.unflatten(flat)
    assert list(scores) == [block.module for block in graph.blocks]
    assert all(scores[block.module].shape == graph.shape(block) for block in graph.blocks)
    assert np.array_equal(graph.flatten(scores), flat)
    by_prompt = np.arange(3 * graph.n_edges, dtype=np.float32).reshape(3, -1)
    assert np.array_equal(graph.flatten(graph.unflatten(by_prompt), per_prompt=True), by_prompt)
    block = graph.blocks[0]
    at = (-1,) * len(graph.shape(block))
    assert graph.edge_name(int(scores[block.module][at])).startswith(f"Resid Start->A0.{graph.n_heads - 1}.Q")


def test_sources_and_destinations() -> None:
    graph = EdgeGraph(2, 2, 1)
    assert [node.name for node in graph.sources] == ["Resid Start", "A0.0", "A0.1", "MLP 0", "A1.0", "A1.1", "MLP 1"]
    assert [node.name for node in graph.destinations] == [
        *("A0.0.Q", "A0.1.Q", "A0.0.K", "A0.0.V", "MLP 0"),
        *("A1.0.Q", "A1.1.Q", "A1.0.K", "A1.0.V", "MLP 1", "Resid End"),
    ]
    assert graph.sources[graph.first_head(1)].name == "A1.0"
    assert graph.sources[graph.first_head(1) + graph.n_heads].name == "MLP 1"


def test_scores_of_another_model_are_refused() -> None:
    graph = EdgeGraph(2, 4, 4)

    def scores(of: EdgeGraph) -> dict[str, np.ndarray]:
        return of.unflatten(np.zeros(of.n_edges, dtype=np.float32))

    with pytest.raises(OptionError, match=r"no entry 'blocks.1.hook_q_input': they belong to another model"):
        graph.flatten(scores(EdgeGraph(1, 4, 4)))
    with pytest.raises(OptionError, match=r"shape \[2, 1\], and this model needs \[4, 1\]"):
        graph.flatten(scores(EdgeGraph(2, 4, 2)))
    with pytest.raises(OptionError, match="another number of positions"):
        graph.flatten(scores(EdgeGraph(2, 4, 4, seq_len=3)))
    with pytest.raises(OptionError, match="10 entries, and this model has 9"):
        graph.flatten({**scores(graph), "blocks.7.hook_mlp_in": np.zeros(3)})


@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_a_graph_survives_json(graph: EdgeGraph) -> None:
    assert EdgeGraph(**json.loads(json.dumps(graph.to_dict()))) == graph


@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_query_heads_share_key_value_heads_in_order(graph: EdgeGraph) -> None:
    shared = [graph.heads_of(kv_head) for kv_head in range(graph.n_kv_heads)]
    assert [head for heads in shared for head in heads] == list(range(graph.n_heads))
    assert {len(heads) for heads in shared} == {graph.group}
    assert all(graph.kv_head(head) == kv_head for kv_head, heads in enumerate(shared) for head in heads)


def test_key_value_heads_are_those_that_the_model_shares() -> None:
    grouped = EdgeGraph(3, 6, 2)
    assert (grouped.group, grouped.kv_head(2), grouped.kv_head(3), grouped.heads_of(1)) == (3, 0, 1, range(3, 6))
    assert EdgeGraph(3, 4, 4).group == 1


@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_a_graph_is_made_from_what_tells_its_shape(graph: EdgeGraph) -> None:
    assert EdgeGraph.of({**graph.to_dict(), "n_edges": graph.n_edges, "caption": "else"}) == graph
    assert EdgeGraph.of({name: value for name, value in graph.to_dict().items() if value is not None}) == graph
    with pytest.raises(OptionError, match="no entry 'n_kv_heads'"):
        EdgeGraph.of({"n_layers": 1, "n_heads": 2})


def test_every_destination_says_which_input_it_is() -> None:
    inputs = {node.name: node.input for node in EdgeGraph(2, 2, 1).destinations}
    assert {name: inputs[name] for name in ("A1.1.Q", "A1.0.K", "A0.0.V", "MLP 1", "Resid End")} == {
        "A1.1.Q": "Q",
        "A1.0.K": "K",
        "A0.0.V": "V",
        "MLP 1": "MLP",
        "Resid End": "Final",
    }


def test_keys_and_values_of_a_group_are_not_called_by_the_name_of_a_head() -> None:
    """In SmolLM2's layer 23, `A23.1` is query head 1, and the values of key-value head 1 are those of heads 3 to 5."""
    graph = EdgeGraph(30, 9, 3)
    labels = {node.name: graph.label(node) for node in graph.destinations}
    assert (labels["A23.1.Q"], labels["A23.1.K"], labels["A23.1.V"]) == ("A23.1.Q", "A23.kv1.K", "A23.kv1.V")
    assert labels["MLP 3"] == "MLP 3"
    assert [graph.label(node) for node in graph.sources] == [node.name for node in graph.sources]
    (edge,) = np.flatnonzero(graph.edge_destination == list(labels).index("A23.1.V"))[:1]
    assert (graph.edge_label(edge), graph.edge_name(edge)) == ("Resid Start → A23.kv1.V", "Resid Start->A23.1.V")


def test_where_every_head_has_its_own_keys_and_values_they_are_called_after_it() -> None:
    plain, apart = EdgeGraph(2, 2, 2), EdgeGraph(2, 2, 2, seq_len=3)
    assert all(plain.label(node) == node.name for node in plain.destinations)
    assert "A1.kv1.V" in {apart.label(node) for node in apart.destinations}  # its value is used at later positions too
