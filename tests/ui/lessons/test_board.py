"""The board of the lessons knows the edges of a node."""

from __future__ import annotations

from circuit.jobs.lessons import (
    lesson_graph,
)
from circuit.ui.lessons import board


def test_the_board_knows_what_a_node_reads_and_writes() -> None:
    graph = lesson_graph()
    for name in board.names():
        reads, writes = board.node_of(name)
        starts, ends = zip(*(graph.edge_name(edge).split("->") for edge in range(graph.n_edges)), strict=True)
        assert reads == [i for i, end in enumerate(ends) if end == name or end[:-2] == name]
        assert writes == [i for i, start in enumerate(starts) if start == name]
    assert len(board.node_of("A1.2").reads) == 18  # three times the embedding, four heads and an MLP
