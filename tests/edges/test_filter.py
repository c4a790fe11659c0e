"""Filters: what they let through, compared with a loop over the names of all edges."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from circuit.common.errors import OptionError
from circuit.edges.filter import EdgeFilter, describe_filter, strongest_of
from circuit.edges.graph import EdgeGraph
from circuit.edges.ranking import edge_ranks, edges_above

GRAPH = EdgeGraph(3, 4, 2)
APART = EdgeGraph(2, 2, 1, seq_len=3)


def random_scores(graph: EdgeGraph) -> np.ndarray:
    return np.random.default_rng(0).standard_t(2, graph.n_edges).astype(np.float32)


CASES: list[tuple[EdgeFilter, Callable[[str, str, float], bool]]] = [
    (EdgeFilter(), lambda source, to, score: True),
    (EdgeFilter(inputs=("Q", "Final")), lambda source, to, score: to.endswith(".Q") or to == "Resid End"),
    (EdgeFilter(inputs=("MLP",)), lambda source, to, score: to.startswith("MLP")),
    (EdgeFilter(source="a1"), lambda source, to, score: source.startswith("A1.")),
    (EdgeFilter(source="A1.2, MLP 0"), lambda source, to, score: source in ("A1.2", "MLP 0")),
    (EdgeFilter(source="mlp"), lambda source, to, score: source.startswith("MLP")),
    (EdgeFilter(source="A*.2"), lambda source, to, score: source in ("A0.2", "A1.2", "A2.2")),
    (EdgeFilter(destination="A2.1"), lambda source, to, score: to in ("A2.1.Q", "A2.1.K", "A2.1.V")),
    (EdgeFilter(destination="A*.1"), lambda source, to, score: to[:1] == "A" and to.split(".")[1] == "1"),
    (EdgeFilter(destination="a2.1.k"), lambda source, to, score: to == "A2.1.K"),
    (EdgeFilter(source_layers=(-1, 0)), lambda source, to, score: source[:2] in ("Re", "A0") or source == "MLP 0"),
    (EdgeFilter(destination_layers=(3, 3)), lambda source, to, score: to == "Resid End"),
    (EdgeFilter(sign="negative"), lambda source, to, score: score < 0),
    (EdgeFilter(sign="positive", min_score=0.5), lambda source, to, score: score >= 0.5),
    (
        EdgeFilter(inputs=("V",), source="A0", sign="positive"),
        lambda source, to, score: source[:2] == "A0" and to[-1] == "V" and score > 0,
    ),
]


@pytest.mark.parametrize(("chosen", "fits"), CASES, ids=lambda case: str(case) if isinstance(case, EdgeFilter) else "")
def test_a_filter_lets_through_what_fits(chosen: EdgeFilter, fits: Callable[[str, str, float], bool]) -> None:
    scores = random_scores(GRAPH)
    kept = chosen.mask(GRAPH, scores)
    for edge in range(GRAPH.n_edges):
        source, to = GRAPH.edge_name(edge).split("->")
        assert kept[edge] == fits(source, to, float(scores[edge]))
    assert kept.any()


def test_a_position_is_chosen_where_these_are_kept_apart() -> None:
    kept = EdgeFilter(position=1).mask(APART, random_scores(APART))
    np.testing.assert_array_equal(kept, APART.edge_position == 1)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (EdgeFilter(source="A9"), "No source of this model is called 'a9'"),
        (EdgeFilter(source="A1, A1.2.Q"), "'a1.2.q'"),
        (EdgeFilter(destination="Resid Start"), "No destination of this model is called 'resid start'"),
        (EdgeFilter(sign="loud"), "sign must be"),  # type: ignore[arg-type]
        (EdgeFilter(inputs=("X",)), "'X' is none of them"),  # type: ignore[arg-type]
    ],
)
def test_what_the_model_lacks_is_named(chosen: EdgeFilter, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        chosen.mask(GRAPH, random_scores(GRAPH))


def test_what_is_shown_comes_strongest_first() -> None:
    scores = random_scores(GRAPH)
    kept = scores > 0
    ranks = edge_ranks(scores)
    expected = [edge for edge in edges_above(scores, 0).tolist() if kept[edge]]
    assert strongest_of(kept, ranks).tolist() == expected
    for n in (0, 1, 7, len(expected), len(expected) + 5):
        assert strongest_of(kept, ranks, n).tolist() == expected[:n]


def test_a_filter_says_what_it_does_and_nothing_where_it_does_nothing() -> None:
    assert describe_filter(EdgeFilter(source_layers=(-1, 2), destination_layers=(0, 3)), GRAPH) == ""
    chosen = EdgeFilter(("Q",), (-1, 1), (3, 3), "A1", "", "negative", 0.25, 2)
    assert describe_filter(chosen, GRAPH) == (
        "into Q, from Resid Start to layer 1, to Resid End, sources A1, score < 0, |score| ≥ 0.25, position 2"
    )
