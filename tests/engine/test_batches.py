"""How many prompts fit into memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from circuit.edges.shape import bytes_per_prompt
from circuit.engine import batches
from circuit.engine.batches import automatic_batch_size, shape_of
from circuit.engine.dataset import PromptDataLoader, PromptDataset
from circuit.engine.mask_gradient import mask_gradient_prune_scores
from circuit.engine.memory import free_memory
from tests.small_models import random_model, shared_model

TOKENS = torch.arange(12).view(2, 6)


def dataset(**changes: Any) -> PromptDataset:
    parts: dict[str, Any] = {"clean": TOKENS, "corrupt": TOKENS + 1, "answers": [[1], [2]], "wrong_answers": [[3], [4]]}
    return PromptDataset(**{**parts, **changes})


def test_the_batch_size_follows_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = shared_model("gpt2")
    tokens = torch.zeros(40, 6, dtype=torch.long)
    many = PromptDataset(tokens, tokens, torch.ones(40, 1, dtype=torch.long))
    each = bytes_per_prompt(shape_of(model), 6)
    for free, size in ((0, 1), (each, 1), (10 * each, 5), (1000 * each, 40)):
        monkeypatch.setattr(batches, "free_memory", lambda device, free=free: free)
        assert automatic_batch_size(model, many) == size


def test_longer_prompts_take_more_memory() -> None:
    model = shared_model("llama")
    assert bytes_per_prompt(shape_of(model), 20) > 2 * bytes_per_prompt(shape_of(model), 8)
    assert free_memory(torch.device("cpu")) > 2**20


def test_a_batch_size_left_open_is_chosen_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("gpt2", n_layer=2)
    expected = mask_gradient_prune_scores(model, PromptDataLoader(dataset(), 2), mask_val=0.5)
    monkeypatch.setattr(batches, "free_memory", lambda device: 0)
    reports: list[int] = []
    scores = mask_gradient_prune_scores(
        model, PromptDataLoader(dataset()), mask_val=0.5, progress=lambda step, total, message: reports.append(total)
    )
    assert reports == [2, 2]
    for name, score in scores.items():
        torch.testing.assert_close(score, expected[name], rtol=1e-4, atol=1e-6)
