"""Hooks see and change the same with and without TransformerLens's bridge."""

from __future__ import annotations

import re
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from circuit.common.errors import ModelError, OptionError
from circuit.engine import model as engine_model
from circuit.engine.hooks import Hook
from circuit.engine.model import PatchableModel
from circuit.models.load import wrap
from tests.small_models import D_VOCAB, VARIANTS, random_hf_model, random_model, shared_model, tokenizer

TOKENS = torch.arange(12).view(2, 6)


def same(x: torch.Tensor, y: torch.Tensor) -> None:
    """Number by number in float32; in bfloat16, where single numbers are rounded too much, as a whole."""
    if x.dtype == torch.float32:
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    else:
        assert (x - y).norm() < 0.05 * y.norm()


def all_hook_points(model: PatchableModel) -> list[str]:
    """Every hook point that the engine uses."""
    layers = range(model.n_layers)
    of_layers = [
        (model.attention_hook(i), *model.head_input_hooks(i), model.head_output_hook(i), model.mlp_hook(i),
         model.mlp_output_hook(i)) for i in layers
    ]  # fmt: skip
    return [model.embedding_hook, *(name for names in of_layers for name in names), model.final_hook]


@pytest.mark.parametrize(("dtype", "short"), [(torch.float32, 9), (torch.bfloat16, 8), (torch.bfloat16, 9)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_without_the_bridge_hooks_see_the_same_and_nothing_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, variant: str, dtype: torch.dtype, short: int
) -> None:
    monkeypatch.setattr(engine_model, "_SHORT", short)
    name, changes = VARIANTS[variant]
    model = shared_model(variant)
    if dtype != torch.float32:
        model = wrap(random_hf_model(name, **changes).to(dtype), tokenizer())
    fused = Mock(wraps=torch.nn.functional.scaled_dot_product_attention)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused)
    generator = torch.Generator().manual_seed(5)
    tokens, last = torch.randint(0, D_VOCAB, (3, 9), generator=generator), torch.tensor([8, 4, 8])
    config = model.bridge.original_model.config
    parts = dict(model.bridge.original_model.named_modules())
    seen: dict[bool, dict[str, torch.Tensor]] = {True: {}, False: {}}

    def keep(into: dict[str, torch.Tensor], name: str) -> Hook:
        def hook(x: torch.Tensor, hook: Any) -> None:
            assert hook is model.bridge.hook_dict[name]
            into[name] = x.clone()

        return name, hook

    logits = {}
    for bridged, kept in seen.items():
        hooks = [keep(kept, name) for name in all_hook_points(model)]
        with torch.no_grad():
            logits[bridged] = model.logits(tokens, last, hooks, through_bridge=bridged)
        assert config._attn_implementation == "eager"
        assert dict(model.bridge.original_model.named_modules()) == parts
        assert not any("forward" in vars(part) for part in parts.values())
    assert fused.called == ((dtype == torch.float32 or short < 9) and name != "gpt_neo")
    same(logits[False], logits[True])
    assert list(seen[False]) == all_hook_points(model)
    assert set(seen[True]) == set(seen[False])
    for at, x in seen[True].items():
        same(seen[False][at], x)


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_the_bridge_hooks_change_the_same(variant: str) -> None:
    model = shared_model(variant)
    tokens, last = torch.arange(14).view(2, 7), torch.tensor([6, 4])
    plain = model.logits(tokens, last)
    for name in all_hook_points(model):
        # in this order, and no norm undoes it
        hooks: list[Hook] = [(name, lambda x, hook: x * torch.arange(x.shape[-1])), (name, lambda x, hook: x.flip(-1))]
        with torch.no_grad():
            ours, theirs = (model.logits(tokens, last, hooks, through_bridge=bridged) for bridged in (False, True))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(ours, plain)


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_the_bridge_and_hooks_it_is_the_model_of_hugging_face(variant: str) -> None:
    name, changes = VARIANTS[variant]
    model = shared_model(variant)
    tokens, last = torch.arange(14).view(2, 7), torch.tensor([6, 4])
    plain = random_hf_model(name, **changes)(input_ids=tokens, use_cache=False).logits[[0, 1], last]
    called: list[str] = []

    def watch(name: str) -> Hook:
        return name, lambda x, hook: called.append(name)

    with torch.no_grad(), model.bridge.hooks(fwd_hooks=[watch("ln_final.hook_in"), watch("blocks.0.hook_out")]):
        torch.testing.assert_close(model.logits(tokens, last), plain)
    assert not called  # the bridge's components had no part in it


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama"])
@pytest.mark.parametrize("change", ["processed", "edited"])
def test_weights_that_were_changed_in_the_bridge_are_those_that_run(name: str, change: str) -> None:
    bridge = random_model(name).bridge
    if change == "processed":
        bridge.enable_compatibility_mode()
    model = PatchableModel(bridge)
    last = torch.tensor([5, 5])
    with torch.no_grad():
        before = model.logits(TOKENS, last)
        if change == "edited":
            bridge.blocks[0].attn.q.original_component.weight.zero_()
        ours, theirs = (model.logits(TOKENS, last, through_bridge=bridged) for bridged in (False, True))
    torch.testing.assert_close(ours.log_softmax(-1), theirs.log_softmax(-1), rtol=1e-4, atol=1e-4)
    assert torch.allclose(ours, before) == (change == "processed")


def test_hooks_inside_attention_need_the_bridge() -> None:
    model = shared_model("llama")
    seen: list[tuple[int, ...]] = []
    hook: Hook = ("blocks.0.attn.hook_pattern", lambda x, hook: seen.append(tuple(x.shape)))
    with pytest.raises(OptionError, match="hook_pattern' is not the input or output of a part"):
        model.logits(TOKENS, torch.tensor([5, 5]), [hook])
    model.logits(TOKENS, torch.tensor([5, 5]), [hook], through_bridge=True)
    assert seen == [(2, 4, 6, 6)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_hook_point_sees_and_changes_what_it_does_in_the_bridge_or_is_refused(variant: str) -> None:
    model = shared_model(variant)
    tokens, last = torch.arange(14).view(2, 7), torch.tensor([6, 4])
    refused, compared = {}, 0
    for name in model.bridge.hook_dict:
        seen: dict[bool, list[torch.Tensor]] = {True: [], False: []}

        def run(bridged: bool, name: str = name, seen: dict[bool, list[torch.Tensor]] = seen) -> torch.Tensor:
            def hook(x: torch.Tensor, hook: Any) -> torch.Tensor:
                seen[bridged].append(x.clone())
                return x * torch.linspace(0.5, 1.5, x.shape[-1])

            with torch.no_grad():
                return model.logits(tokens, last, [(name, hook)], through_bridge=bridged)

        try:
            ours = run(bridged=False)
        except OptionError as error:
            refused[name] = str(error)
            continue
        theirs = run(bridged=True)
        compared += 1
        assert len(seen[False]) == len(seen[True]) == 1, name
        same(seen[False][0], seen[True][0])
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert all(name in sentence for name, sentence in refused.items())
    assert compared > 20 * model.n_layers
    assert refused.keys().isdisjoint([*all_hook_points(model), "blocks.0.hook_attn_out", "blocks.0.hook_resid_post"])


@pytest.mark.parametrize(
    ("variant", "name", "why"),
    [
        ("gpt2", "embed.hook_in", "token ids"),
        ("gpt2", "pos_embed.hook_in", "token ids"),
        ("gpt2", "blocks.0.attn.qkv.hook_out", "a layer each for queries, keys and values"),
        ("gpt_neox", "blocks.2.attn.qkv.hook_in", "a layer each for queries, keys and values"),
        ("llama", "rotary_emb.hook_out", "calls no hooks there"),
        ("phi", "hook_pos_embed", "calls no hooks there"),
        ("qwen3", "blocks.0.attn.q_norm.hook_out", "another order"),
        ("qwen3", "blocks.1.attn.k_norm.hook_in", "another order"),
        ("opt", "blocks.0.mlp.hook_out", "not the input or output of a part"),
    ],
)
def test_hook_points_that_see_something_else_are_refused_by_name(variant: str, name: str, why: str) -> None:
    with pytest.raises(OptionError, match=f"{re.escape(name)}'.*{why}"):
        shared_model(variant).logits(TOKENS, torch.tensor([5, 5]), [(name, lambda x, hook: None)])


def test_a_component_that_stands_for_no_part_of_its_own_has_no_place() -> None:
    """OPT has no MLP module: TransformerLens's component for it stands for two layers of the block."""
    with pytest.raises(OptionError, match=r"mlp\.hook_in' is not the input or output of a part"):
        shared_model("opt").logits(TOKENS, torch.tensor([5, 5]), [("blocks.0.mlp.hook_in", lambda x, hook: None)])


def test_a_forward_of_a_parts_own_is_refused_and_kept() -> None:
    """As Accelerate sets it, for parts whose weights lie elsewhere."""
    model = random_model("llama")
    part = model.attention_norm(0)
    before = part.forward
    calls: list[torch.Size] = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        calls.append(x.shape)
        return before(x)

    part.forward = forward
    with pytest.raises(ModelError, match=r"model\.layers\.0\.input_layernorm of this model has a forward of its own"):
        model.logits(TOKENS, torch.tensor([5, 5]), [(model.attention_hook(0), lambda x, hook: None)])
    assert part.forward is forward
    assert not calls


def test_a_pass_that_fails_leaves_the_bridge_in_its_place() -> None:
    model = shared_model("gpt2")
    parts = dict(model.bridge.original_model.named_modules())

    def fail(x: torch.Tensor, hook: object) -> None:
        raise ValueError("on the way")

    component = model.bridge.blocks[1].mlp
    assert component in parts.values()
    with pytest.raises(ValueError, match="on the way"):
        model.logits(TOKENS, torch.tensor([5, 5]), [(model.mlp_output_hook(1), fail)])
    assert component in model.bridge.original_model.modules()
    assert dict(model.bridge.original_model.named_modules()) == parts
    assert not any("forward" in vars(part) for part in parts.values())
