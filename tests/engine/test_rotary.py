"""Rotary frequencies that follow the prompts' length: what a prompt gives does not depend on others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from circuit.common.errors import PromptError
from circuit.engine.dataset import PromptDataLoader, PromptDataset
from circuit.engine.mask_gradient import mask_gradient_prune_scores
from circuit.models.load import load_tokenizer
from tests.small_models import D_VOCAB, random_hf_model, random_model, tokenizer

DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 3.0, 2.0, 1.5],
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}


def prompts(*lengths: int) -> PromptDataset:
    clean = [torch.arange(length) % D_VOCAB for length in lengths]
    corrupt = [(row + 1) % D_VOCAB for row in clean]
    return PromptDataset(clean, corrupt, [[1]] * len(clean), [[2]] * len(clean))


def scores(model: Any, data: PromptDataset) -> torch.Tensor:
    found = mask_gradient_prune_scores(model, PromptDataLoader(data, 4), mask_val=0.5)
    return torch.cat([each.flatten() for each in found.values()])


@pytest.mark.parametrize(("rope", "context"), [(DYNAMIC, 128), (LONG, 32), (None, 32)])
def test_the_context_is_what_the_model_can_read(rope: dict[str, Any] | None, context: int, tmp_path: Path) -> None:
    changes: dict[str, Any] = {} if rope is None else {"rope_parameters": rope}
    hf_model = random_hf_model("llama", **changes)
    hf_model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = random_model("llama", **changes)
    assert model.n_ctx == load_tokenizer(tmp_path).n_ctx == context
    model.check_prompts(prompts(context, context))
    with pytest.raises(
        PromptError, match=f"Row 2: {context + 1} tokens are more than the model's context of {context}"
    ):
        model.check_prompts(prompts(context, context + 1))


@pytest.mark.parametrize(("rope", "fixed"), [(DYNAMIC, 32), (LONG, 16)])
def test_beyond_the_fixed_frequencies_prompts_are_of_one_length(rope: dict[str, Any], fixed: int) -> None:
    model = random_model("llama", rope_parameters=rope)
    model.check_prompts(prompts(fixed, 3, fixed - 1))
    model.check_prompts(prompts(fixed + 1, fixed + 1))
    for lengths, row in (((fixed + 1, 3), 2), ((3, fixed + 1), 1), ((fixed + 2, fixed + 1), 2)):
        words = rf"Row {row}: .*beyond {fixed} tokens this model's rotary frequencies follow the longest prompt"
        with pytest.raises(PromptError, match=words):
            model.check_prompts(prompts(*lengths))


@pytest.mark.parametrize(("rope", "lengths"), [(DYNAMIC, (32, 20, 40, 90)), (LONG, (16, 10, 17, 30))])
def test_what_ran_before_does_not_matter(rope: dict[str, Any], lengths: tuple[int, ...]) -> None:
    used = random_model("llama", rope_parameters=rope)
    longest = torch.arange(max(lengths))[None] % D_VOCAB
    for length in lengths:
        fresh, plain = random_model("llama", rope_parameters=rope), random_hf_model("llama", rope_parameters=rope)
        with torch.no_grad():
            used.bridge.original_model(longest)  # by whoever uses the model beside
            tokens, last = longest[:, :length], torch.tensor([length - 1])
            expected = plain(tokens).logits[:, -1]
            for bridged in (False, True):
                torch.testing.assert_close(
                    used.logits(tokens, last, through_bridge=bridged), expected, rtol=1e-4, atol=1e-4
                )
            used.bridge.original_model(longest)
        torch.testing.assert_close(scores(used, prompts(length, length)), scores(fresh, prompts(length, length)))
