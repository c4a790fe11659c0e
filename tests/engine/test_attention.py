"""Attention patterns, beside those that Hugging Face hands out and beside a computation by hand."""

from __future__ import annotations

import pytest
import torch

from circuit.common.errors import OptionError
from circuit.engine.attention import attention_patterns
from tests.small_models import VARIANTS, random_hf_model, shared_model
from tests.small_prompts import prompts


@pytest.mark.parametrize("variant", VARIANTS)
def test_patterns_are_those_of_hugging_face(variant: str) -> None:
    model, tokens = shared_model(variant), prompts().clean
    name, changes = VARIANTS[variant]
    plain = random_hf_model(name, **changes)
    plain.set_attn_implementation("eager")
    with torch.no_grad():
        theirs = plain(input_ids=tokens, output_attentions=True).attentions
    for layer in range(model.n_layers):
        for head in range(model.n_heads):
            ours = attention_patterns(model, tokens, layer, head)
            torch.testing.assert_close(ours, theirs[layer][:, head], rtol=1e-4, atol=1e-5)


def test_a_pattern_by_hand() -> None:
    """GPT-2: softmax of queries times keys over the root of their size, nobody looking ahead."""
    model, tokens = shared_model("gpt2"), prompts().clean
    hf = model.bridge.original_model
    block = hf.transformer.h[1]
    read: list[torch.Tensor] = []
    hook = block.ln_1.register_forward_hook(lambda m, args, out: read.append(out))
    with torch.no_grad():
        hf(input_ids=tokens)
        hook.remove()
        projection = random_hf_model("gpt2").transformer.h[1].attn.c_attn
        query, key, _ = (read[0] @ projection.weight + projection.bias).split(32, dim=-1)
        query, key = query[..., 16:24], key[..., 16:24]  # head 2 of 4, 8 numbers each
        logits = query @ key.transpose(1, 2) / 8**0.5
        expected = logits.masked_fill(~torch.ones(9, 9).tril().bool(), -torch.inf).softmax(-1)
    torch.testing.assert_close(attention_patterns(model, tokens, 1, 2), expected, rtol=1e-4, atol=1e-6)


def test_the_model_is_left_as_it_was() -> None:
    model, tokens = shared_model("llama"), prompts().clean
    before = model.bridge.original_model.config._attn_implementation
    attention_patterns(model, tokens, 0, 0)
    assert model.bridge.original_model.config._attn_implementation == before


@pytest.mark.parametrize(("layer", "head"), [(3, 0), (0, 4), (-1, 0), (0, -1)])
def test_a_head_that_the_model_lacks_is_named(layer: int, head: int) -> None:
    with pytest.raises(OptionError, match=f"no head {head} in layer {layer}: this model has 3 layers of 4 heads"):
        attention_patterns(shared_model("llama"), prompts().clean, layer, head)
