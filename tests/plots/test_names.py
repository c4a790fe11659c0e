"""One name for one thing: the graph, the heatmaps, the tables, the key, the sentences and the filters name alike."""

from __future__ import annotations

import re

import numpy as np
import pytest

from circuit.edges.agreement import disagreements
from circuit.edges.filter import EdgeFilter, describe_filter
from circuit.edges.graph import RESID_END, RESID_START, EdgeGraph
from circuit.edges.ranking import edge_table, readable
from circuit.edges.sentences import edge_words
from circuit.edges.subgraph import circuit_graph
from circuit.plots.curves import effect_scatter
from circuit.plots.graph_svg import graph_svg
from circuit.plots.heatmap import block_heatmap, layer_heatmap
from circuit.plots.layout import circuit_layout
from circuit.plots.matrix import score_matrix
from tests.graphs import random_scores

GROUPED, PLAIN, APART = EdgeGraph(2, 6, 2), EdgeGraph(2, 3, 3), EdgeGraph(2, 2, 2, seq_len=3)
GRAPHS = pytest.mark.parametrize("graph", [GROUPED, PLAIN, APART], ids=["grouped", "plain", "positions apart"])


def nodes_drawn(graph: EdgeGraph) -> set[str]:
    """The nodes of the picture of all edges, without their positions."""
    drawn = circuit_graph(graph, np.arange(graph.n_edges), random_scores(graph))
    return {str(node["label"]) for node in drawn.nodes.values()}


def node_of(label: str) -> str:
    """The node whose input a destination is."""
    return re.sub(r"\.[QKV]$", "", label)


@GRAPHS
def test_tables_heatmaps_and_sentences_name_the_nodes_of_the_picture(graph: EdgeGraph) -> None:
    scores, nodes = random_scores(graph), nodes_drawn(graph)
    table = readable(graph, edge_table(graph, scores))
    assert set(table["source"]) <= nodes
    assert {node_of(name) for name in table["destination"]} <= nodes
    assert {name for row in table["input"] for name in [row] if name not in "QKV"} == {"MLP", RESID_END}
    whole = score_matrix(graph, scores, caption="")
    assert {node_of(name) for name in whole.data[0].y} <= nodes
    block = block_heatmap(graph, scores, "A1", "A0", caption="")
    assert {node_of(name) for name in block.data[0].y} == {name for name in nodes if name.startswith("A1.")}
    effects = {int(edge): 1.0 for edge in table.index[:40]}
    figure = effect_scatter(graph, scores, effects, caption="", score_is="")
    points = {name for trace in figure.data for name in trace.text or () if " → " in name}
    said = re.findall(r"(?:: |; )([^;(]+ → [^ (]+(?: End| \d+)?)", disagreements(graph, scores, effects, most=40))
    assert len(points) == len(said) == 40
    for label in (*points, *said):
        source, destination = label.split(" @")[0].split(" → ")
        assert {source, node_of(destination)} <= nodes, label


@GRAPHS
def test_the_ends_of_the_stream_have_one_name_each(graph: EdgeGraph) -> None:
    scores = random_scores(graph)
    drawn = circuit_graph(graph, np.arange(graph.n_edges), scores)
    svg = graph_svg(drawn, circuit_layout(drawn), caption="")
    key = re.findall(r"<text[^>]*>([^<]*)</text>", svg.partition('class="key"')[2].partition("</g><svg")[0])
    assert {RESID_START, RESID_END, f"into MLP or {RESID_END}"} <= set(key)
    assert not {"embedding", "final residual"} & set(key)
    overview = layer_heatmap(graph, scores, caption="").data[0]
    assert (overview.x[0], overview.y[-1]) == (RESID_START, RESID_END)
    everything = EdgeFilter(("Final",), source_layers=(-1, 0), destination_layers=(2, 2))
    assert describe_filter(everything, graph) == f"into {RESID_END}, from {RESID_START} to layer 0, to {RESID_END}"
    first = int(np.flatnonzero((graph.edge_source == 0) & (graph.edge_destination == len(graph.destinations) - 1))[0])
    words = edge_words(graph, first)
    assert words.startswith(f"{RESID_START}, the embedding, writes into {RESID_END}, the final residual")


def test_filters_take_the_names_of_the_pages_and_those_of_files() -> None:
    scores = random_scores(GROUPED)
    by_page, by_file = (EdgeFilter(destination=name) for name in ("A1.kv1.V", "a1.1.v"))
    np.testing.assert_array_equal(by_page.mask(GROUPED, scores), by_file.mask(GROUPED, scores))
    assert by_page.mask(GROUPED, scores).sum() == GROUPED.n_sources_before(1)
    assert describe_filter(by_page, GROUPED) == describe_filter(by_file, GROUPED) == "destinations A1.kv1.V"
    both = EdgeFilter(destination="A1.kv1").mask(GROUPED, scores)
    assert both.sum() == 2 * GROUPED.n_sources_before(1)


def test_a_filter_says_which_key_value_heads_a_heads_name_lets_through() -> None:
    assert describe_filter(EdgeFilter(destination="A1.1"), GROUPED) == "destinations A1.1 (with A1.kv1)"
    assert describe_filter(EdgeFilter(destination="A1.4, MLP 0"), GROUPED) == "destinations A1.4, MLP 0"
    assert describe_filter(EdgeFilter(destination="A1.1"), PLAIN) == "destinations A1.1"
    assert describe_filter(EdgeFilter(destination="A1, MLP"), GROUPED) == "destinations A1, MLP"
