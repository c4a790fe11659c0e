"""A bridge that computes something else is refused in every precision, a sound one in none; the model stays whole."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from circuit.common.errors import ModelError
from circuit.engine import supported
from circuit.engine.agreement import in_float32, plain_logits
from circuit.engine.running import attention_by
from circuit.models.load import wrap
from tests.small_models import VARIANTS, random_hf_model, tokenizer

TOKENS, LAST = torch.arange(12).view(2, 6), torch.tensor([5, 5])
HALF = [torch.bfloat16, torch.float16]


def noisy_model(name: str, scale: float) -> Any:
    """Eight layers with weights so large that rounding grows from one to the next, with attention as
    `from_pretrained` chooses it."""
    hf_model = random_hf_model(name, **{"n_layer" if name == "gpt2" else "num_hidden_layers": 8})
    within = next(blocks for blocks in hf_model.modules() if isinstance(blocks, torch.nn.ModuleList))
    with torch.no_grad():
        for weight in within.parameters():
            if weight.ndim == 2:
                weight.mul_(scale)
    hf_model = hf_model.to(torch.bfloat16)
    hf_model.set_attn_implementation("sdpa")
    return hf_model


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "mistral", "opt", "phi", "qwen3"])
def test_a_sound_model_is_not_refused_for_rounding(name: str, scale: float) -> None:
    wrap(noisy_model(name, scale), tokenizer())


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("variant", VARIANTS)
def test_in_float32_a_model_computes_what_its_float32_copy_computes(variant: str, dtype: torch.dtype) -> None:
    name, changes = VARIANTS[variant]
    hf_model = random_hf_model(name, **changes).to(dtype)
    before = {key: (weight, weight.data_ptr(), weight.clone()) for key, weight in hf_model.named_parameters()}
    plain = plain_logits(hf_model)
    with torch.no_grad():
        expected = deepcopy(hf_model).float()(plain.tokens).logits[0, -1]
    torch.testing.assert_close(plain.exact, expected, rtol=1e-4, atol=1e-4)
    model = wrap(hf_model, tokenizer())
    with torch.no_grad(), model.running(), in_float32(hf_model):
        for bridged in (True, False):
            found = model.logits(plain.tokens, LAST[:1], through_bridge=bridged)[0]
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    for weight, place, values in before.values():
        assert weight.dtype == dtype
        assert weight.data_ptr() == place
        assert torch.equal(weight, values)


def test_the_weights_of_one_block_at_a_time_are_in_float32() -> None:
    hf_model = random_hf_model("llama", num_hidden_layers=6, vocab_size=4000).to(torch.bfloat16)
    block = sum(weight.numel() for weight in hf_model.model.layers[0].parameters())
    held: list[int] = []
    for part in hf_model.modules():
        part.register_forward_pre_hook(
            lambda module, inputs: held.append(
                sum(weight.numel() for weight in hf_model.parameters() if weight.dtype == torch.float32)
            )
        )
    with torch.no_grad(), attention_by(hf_model, "eager"), in_float32(hf_model):
        hf_model(TOKENS)
    assert block <= max(held) < 1.1 * block


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_an_option_that_transformer_lens_does_not_know_is_found(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(supported, "_REFUSED_VARIANTS", ())
    with pytest.raises(ModelError, match=r"computes other logits than the model itself \(off by 5\d\.\d%"):
        wrap(random_hf_model("gpt2", scale_attn_weights=False).to(dtype), tokenizer())


def let_queries_be_wrong(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    boot = TransformerBridge.boot_transformers

    def wrong(*inputs: Any, **others: Any) -> Any:
        bridge = boot(*inputs, **others)
        bridge.blocks[1].attn.q.hook_out.add_perma_hook(lambda x, hook: x * factor)
        return bridge

    monkeypatch.setattr(TransformerBridge, "boot_transformers", wrong)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_a_fault_smaller_than_rounding_in_half_precision_is_found(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    let_queries_be_wrong(monkeypatch, 1.01)
    with pytest.raises(ModelError, match=r"computes other logits than the model itself \(off by 0\.\d%"):
        wrap(random_hf_model("llama").to(dtype), tokenizer())


# --- what is left of a model that is refused -----------------------------------------------------------------------


def state(hf_model: Any) -> tuple[Any, ...]:
    """All that wrapping might change."""
    modules = dict(hf_model.named_modules())
    return (
        modules,
        {key: {name for name in vars(part) if name != "_is_hf_initialized"} for key, part in modules.items()},
        {key: part.training for key, part in modules.items()},
        {key: (id(weight), weight.data_ptr(), weight.dtype) for key, weight in hf_model.named_parameters()},
        {key: buffer.data_ptr() for key, buffer in hf_model.named_buffers()},
        deepcopy(vars(hf_model.config)),
        hf_model.config._attn_implementation,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gpt_neo", "opt"])
def test_a_refused_model_is_as_it_was_and_can_be_wrapped_afterwards(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype
) -> None:
    hf_model = random_hf_model(name).to(dtype)
    if name != "gpt_neo":
        hf_model.set_attn_implementation("sdpa")
    hf_model.train()
    hf_model.get_input_embeddings().eval()
    before = state(hf_model)
    with monkeypatch.context() as patch:
        let_queries_be_wrong(patch, 2.0)
        with pytest.raises(ModelError, match="computes other logits"):
            wrap(hf_model, tokenizer())
    assert state(hf_model) == before
    model = wrap(hf_model, tokenizer())
    with torch.no_grad():
        found, expected = (
            each.logits(TOKENS, LAST) for each in (model, wrap(random_hf_model(name).to(dtype), tokenizer()))
        )
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("opt", {"_remove_final_layer_norm": True}),
        ("gpt_neox", {"attention_bias": False}),
        ("phi", {"qk_layernorm": True}),
    ],
)
def test_a_model_that_cannot_be_taken_apart_is_put_together_again(
    monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(supported, "_REFUSED_VARIANTS", ())
    hf_model = random_hf_model(name, **changes)
    before = state(hf_model)
    with torch.no_grad():
        expected = hf_model(TOKENS).logits
    with pytest.raises(ModelError, match=rf"cannot take this model of type '{name}' apart .*config\.json"):
        wrap(hf_model, tokenizer())
    assert state(hf_model) == before
    with torch.no_grad():
        assert torch.equal(hf_model(TOKENS).logits, expected)


def test_running_out_of_memory_while_a_model_is_wrapped_is_no_fault_of_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def boot(*inputs: Any, hf_model: Any, **others: Any) -> Any:
        hf_model.model.layers = torch.nn.ModuleList()
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(TransformerBridge, "boot_transformers", boot)
    hf_model = random_hf_model("llama")
    before = state(hf_model)
    with pytest.raises(torch.OutOfMemoryError):
        wrap(hf_model, tokenizer())
    assert state(hf_model) == before
