"""Edges in words: every name in its sentence, and a measured effect beside its score."""

from __future__ import annotations

import pytest

from circuit.edges.graph import EdgeGraph
from circuit.edges.method import Method
from circuit.edges.sentences import edge_words, effect_words, node_words, position_words

GROUPED = EdgeGraph(3, 6, 2)
PLAIN = EdgeGraph(3, 4, 4, seq_len=2)


@pytest.mark.parametrize(
    ("graph", "name", "words"),
    [
        (GROUPED, "A1.5->A2.1.Q", "head 5 of layer 1 writes into the query input of head 1 in layer 2"),
        (GROUPED, "MLP 0->A2.1.K", "the MLP of layer 0 writes into the key input of key-value head 1 (heads 3 to 5) in "
         "layer 2"),
        (GROUPED, "Resid Start->MLP 1", "Resid Start, the embedding, writes into the input of the MLP of layer 1"),
        (GROUPED, "A0.0->Resid End", "head 0 of layer 0 writes into Resid End, the final residual, which the "
         "unembedding reads"),
        (PLAIN, "A0.3->A2.1.V @1", "head 3 of layer 0 writes into the value input of head 1 in layer 2 at position 1"),
    ],
)  # fmt: skip
def test_an_edge_in_words(graph: EdgeGraph, name: str, words: str) -> None:
    (edge,) = (edge for edge in range(graph.n_edges) if graph.edge_name(edge) == name)
    assert edge_words(graph, edge) == words


def test_a_measured_effect_stands_beside_its_estimate() -> None:
    assert effect_words(0.43) == "ablating this edge raises the loss by about 0.43, as its score estimates"
    assert effect_words(0.43, 0.39).endswith(
        "raises the loss by about 0.43, as its score estimates; measured by really ablating it: 0.39"
    )
    assert effect_words(-0.5, 0.25) == (
        "ablating this edge lowers the loss by about 0.5, as its score estimates; really ablating it raised the loss "
        "by 0.25: the score has the wrong sign"
    )


@pytest.mark.parametrize("effect", [0.0, 1e-8, -1e-8, 4e-4])
def test_an_effect_that_is_none_has_no_wrong_sign(effect: float) -> None:
    words = (
        "ablating this edge lowers the loss by about 0.5, as its score estimates; really ablating it leaves the loss"
    )
    assert effect_words(-0.5, effect) == f"{words} as it is"


def test_an_effect_within_the_precisions_noise_is_none() -> None:
    assert effect_words(-0.5, 0.03, noise=0.05).endswith("really ablating it leaves the loss as it is")
    assert effect_words(-0.5, 0.03, noise=0.02).endswith("the score has the wrong sign")


def test_a_score_of_zero_has_no_sign() -> None:
    assert effect_words(0.0) == "its score is 0: ablating this edge should leave the loss as it is"
    assert effect_words(0.0, 1e-8).endswith("really ablating it leaves the loss as it is")
    assert effect_words(0.0, -0.2).endswith("really ablating it lowered the loss by 0.2")


def test_only_a_gradient_at_the_untouched_model_is_called_an_estimate() -> None:
    assert effect_words(0.43, method=Method()) == effect_words(0.43)
    integrated, halfway = Method(mask_val=None, integrated_grad_samples=5), Method(mask_val=0.5)
    assert effect_words(0.43, 0.39, integrated) == (
        "its score is +0.43, the mean slope of the loss while all edges are ablated together: ablating it is estimated "
        "to raise the loss; measured by really ablating it: 0.39"
    )
    assert "slope of the loss where all edges are ablated by 0.5" in effect_words(0.43, method=halfway)
    assert Method().score == "linear estimate"


def test_a_tokens_markdown_is_only_text() -> None:
    assert position_words(1, ["a", "*b*_[x](y)"]) == r"position 1 (\*b\*\_\[x\]\(y\))"
    assert position_words(1, ["0", "1"]) == "position 1"
    node = {"kind": "kv", "layer": 2, "head": 1, "position": 0}
    assert node_words(node, GROUPED, ["·So"]) == (
        "keys and values of key-value head 1 (heads 3 to 5) of layer 2 at position 0 (·So)"
    )
