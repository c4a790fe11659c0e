"""Single edges and heads: effects and attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuit import (
    PatchableModel,
    load_model,
)
from circuit.common.errors import PromptError
from circuit.engine.attention import attention_patterns
from circuit.engine.dataset import PromptDataLoader
from circuit.engine.patching import run_edge_masks
from circuit.jobs.inspect import AttentionRequest, EffectsRequest, measure_effects, read_attention
from circuit.prompts.pairs import PromptSet
from circuit.runs.config import RunConfig
from tests.number_pairs import BAD, PAIRS, dataset, tokens


def test_the_effect_of_an_edge_is_that_of_a_circuit_without_it(small: str) -> None:
    """`run_edge_masks` with all edges but one, and the answer differences taken from its logits."""
    config = RunConfig(small, PromptSet("numbers", (PAIRS[0], BAD, *PAIRS[1:])))
    model = load_model(small, device="cpu")
    edges = (3, 77, model.graph.n_edges - 2)
    effects = measure_effects(EffectsRequest(config, edges))
    whole = np.ones(model.graph.n_edges, dtype=bool)
    circuits = [whole]
    for edge in edges:
        circuits.append(whole.copy())
        circuits[-1][edge] = False
    outputs = run_edge_masks(model, PromptDataLoader(dataset(PAIRS)), circuits)

    def loss(logits: torch.Tensor) -> float:
        rows = zip(logits, PAIRS, strict=True)
        differences = [
            row[tokens(" ".join(pair.answers))].mean() - row[tokens(" ".join(pair.wrong_answers))].mean()
            for row, pair in rows
        ]
        return -float(torch.stack(differences).mean())

    for edge, logits in zip(edges, outputs[1:], strict=True):
        assert effects[edge] == pytest.approx(loss(logits) - loss(outputs[0]), rel=1e-3, abs=1e-5)


def test_attention_is_read_on_both_prompts_of_a_row(small: str, small_model: PatchableModel) -> None:
    config = RunConfig(small, PromptSet("numbers", (BAD, *PAIRS)))
    pair = read_attention(AttentionRequest(config, 2, layer=1, head=3))
    assert pair.clean_tokens == ["8", "9", "17", "11", "12", "13"]
    assert pair.corrupt_tokens == ["8", "9", "3", "11", "12", "13"]
    for pattern, text in ((pair.clean, PAIRS[1].clean), (pair.corrupt, PAIRS[1].corrupt)):
        expected = attention_patterns(small_model, tokens(text)[None], 1, 3)[0]
        np.testing.assert_allclose(pattern, expected, atol=1e-6)
        np.testing.assert_allclose(pattern.sum(axis=1), 1, atol=1e-5)
    assert np.abs(pair.clean - pair.corrupt).max() > 1e-4
    with pytest.raises(PromptError, match="Row 1 cannot be used"):
        read_attention(AttentionRequest(config, 0, layer=1, head=3))
