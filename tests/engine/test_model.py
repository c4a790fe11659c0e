"""Models: which are refused and why, what prompts they take, and how many of these fit into memory."""

from __future__ import annotations

import re
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import transformers

from circuit.common.errors import ModelError, OptionError, PromptError
from circuit.edges.shape import bytes_per_prompt
from circuit.engine import batches
from circuit.engine import model as engine_model
from circuit.engine.batches import automatic_batch_size, shape_of
from circuit.engine.dataset import PromptDataLoader, PromptDataset
from circuit.engine.hooks import Hook
from circuit.engine.mask_gradient import mask_gradient_prune_scores
from circuit.engine.memory import free_memory
from circuit.engine.model import PatchableModel
from circuit.engine.supported import SUPPORTED, check_supported
from circuit.models.load import wrap
from tests.small_models import ARCHITECTURES, D_VOCAB, VARIANTS, random_hf_model, random_model, shared_model, tokenizer

TOKENS = torch.arange(12).view(2, 6)


def dataset(**changes: Any) -> PromptDataset:
    parts: dict[str, Any] = {"clean": TOKENS, "corrupt": TOKENS + 1, "answers": [[1], [2]], "wrong_answers": [[3], [4]]}
    return PromptDataset(**{**parts, **changes})


def same(x: torch.Tensor, y: torch.Tensor) -> None:
    """Number by number in float32; in bfloat16, where single numbers are rounded too much, as a whole."""
    if x.dtype == torch.float32:
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    else:
        assert (x - y).norm() < 0.05 * y.norm()


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ["Gemma2Config", "Gemma3TextConfig", "Olmo2Config"])
def test_models_that_normalise_a_blocks_output_are_refused(config: str) -> None:
    with pytest.raises(ModelError, match=r"normalise a block's output before adding it.* not supported"):
        check_supported(getattr(transformers, config)())


@pytest.mark.parametrize("config", ["BloomConfig", "MambaConfig", "T5Config", "GemmaConfig", "MixtralConfig"])
def test_other_models_are_refused_with_the_names_of_those_that_are_not(config: str) -> None:
    made = getattr(transformers, config)()
    with pytest.raises(ModelError, match=f"type '{made.model_type}' are not supported. Supported are GPT-2, .*Phi"):
        check_supported(made)


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        ("OPTConfig", {"do_layer_norm_before": False}, "norms after each block .* not a plain sum"),
        ("OPTConfig", {"word_embed_proj_dim": 512}, "projects its embeddings"),
        ("OPTConfig", {"_remove_final_layer_norm": True}, "no final layer norm"),
        ("GPT2Config", {"scale_attn_weights": False}, "does not scale its attention scores"),
        ("GPT2Config", {"add_cross_attention": True}, "cross-attention"),
        ("GPTNeoXConfig", {"attention_bias": False}, "no attention biases"),
        ("PhiConfig", {"qk_layernorm": True}, "normalises queries and keys"),
    ],
)
def test_variants_that_transformer_lens_computes_differently_are_refused(
    config: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=f"{words}.*not supported"):
        check_supported(getattr(transformers, config)(**options))


def test_a_refused_model_is_refused_by_the_wrapper_too() -> None:
    bridge = shared_model("opt").bridge
    config = bridge.original_model.config
    config.do_layer_norm_before = False
    try:
        with pytest.raises(ModelError, match="after each block"):
            PatchableModel(bridge)
    finally:
        config.do_layer_norm_before = True


def test_every_supported_type_is_tested() -> None:
    assert {random_hf_model(name).config.model_type for name in ARCHITECTURES} == set(SUPPORTED)


# --- what it is ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_shape(name: str) -> None:
    model = shared_model(name)
    grouped = name in ("llama", "mistral", "qwen2", "qwen3")
    assert (model.n_heads, model.n_kv_heads, model.d_head) == (4, 2 if grouped else 4, 8)
    assert model.parallel == (name in ("gpt_neox", "phi"))
    assert model.n_ctx == 32  # also where attention sees only a window
    assert model.d_vocab == D_VOCAB
    assert not model.bridge.training


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_residual_stream_is_the_sum_of_its_sources_and_of_output_biases(name: str) -> None:
    """What every number rests on."""
    from circuit.engine.ablation import record

    model = shared_model(name)
    (batch,) = PromptDataLoader(dataset(), 2)
    activations = record(model, batch, "clean")
    total = activations.embedding
    for layer in range(model.n_layers):
        torch.testing.assert_close(activations.attention_stream[layer], total, rtol=1e-4, atol=1e-5)
        w = model.weights(layer)
        total = total + torch.einsum("bphd,hdm->bpm", activations.z[layer], w.W_O)
        if w.b_O is not None:
            total = total + w.b_O
        if not model.parallel:
            torch.testing.assert_close(activations.mlp_stream[layer], total, rtol=1e-4, atol=1e-5)
        total = total + activations.mlp[layer]
    torch.testing.assert_close(activations.final_stream, total, rtol=1e-4, atol=1e-5)


# --- prompts that a model cannot run -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clean": TOKENS + 90}, f"Row 2: token id 97 of the clean prompt is unknown.* 0 to {D_VOCAB - 1}"),
        ({"clean": TOKENS - 1}, "Row 1: token id -1 of the clean prompt"),
        ({"corrupt": TOKENS + 86}, "Row 2: token id 97 of the corrupt prompt"),
        ({"answers": [[1], [2, 500]]}, "Row 2: token id 500 of the answers"),
        ({"wrong_answers": [[97], [2]]}, "Row 1: token id 97 of the wrong answers.* tokenized for another model"),
        ({"clean": torch.zeros(2, 33), "corrupt": torch.zeros(2, 33)}, "Row 1: 33 tokens .* context of 32"),
        ({"answers": torch.rand(2, 96)}, f"target has 96 entries per prompt, and the vocabulary {D_VOCAB}"),
    ],
)
def test_prompts_that_the_model_cannot_run_are_refused(changes: dict[str, Any], words: str) -> None:
    for name, part in changes.items():
        if isinstance(part, torch.Tensor) and name != "answers":
            changes[name] = part.long()
    with pytest.raises(PromptError, match=words):
        shared_model("gpt2").check_prompts(dataset(**changes))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_whole_context_can_be_used(name: str) -> None:
    tokens = torch.arange(64).view(2, 32)
    data = dataset(clean=tokens, corrupt=(tokens + 1) % D_VOCAB)
    scores = mask_gradient_prune_scores(shared_model(name), PromptDataLoader(data, 2), mask_val=0.5)
    assert all(bool(score.isfinite().all()) for score in scores.values())


def test_positions_kept_apart_need_one_length() -> None:
    model = shared_model("gpt2").with_seq_len(6)
    model.check_prompts(dataset())
    ragged = [torch.arange(6), torch.arange(5)]
    with pytest.raises(PromptError, match=r"Row 2: the prompt has 5 tokens.*of 6\. .* or add the positions up"):
        model.check_prompts(dataset(clean=ragged, corrupt=ragged))
    with pytest.raises(ModelError, match="seq_len must be the number of tokens"):
        shared_model("gpt2").with_seq_len(0)


# --- memory --------------------------------------------------------------------------------------------------------


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


def test_parameters_are_counted_as_hugging_face_counts_them() -> None:
    for name in ("gpt2", "gpt_neox", "llama"):
        assert random_model(name).n_parameters == random_hf_model(name).num_parameters()


# --- running it ----------------------------------------------------------------------------------------------------


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
