"""What a user does to a model between runs counts in the next run, everywhere, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module
from torch.nn.utils import parametrize

from circuit.common.errors import ModelError
from circuit.edges.method import PatchType
from circuit.engine import matmul
from circuit.engine.attention import attention_patterns
from circuit.engine.dataset import PromptDataLoader, PromptDataset
from circuit.engine.mask_gradient import mask_gradient_prune_scores
from circuit.engine.model import PatchableModel
from circuit.engine.patching import run_circuits
from circuit.models.load import wrap
from tests.small_models import ARCHITECTURES, random_hf_model, random_model, shared_model, tokenizer

TOKENS, LAST = torch.arange(12).view(2, 6), torch.tensor([5, 5])
LAYERS = {
    "gpt2": "transformer.h.1.attn.c_attn",
    "gpt_neo": "transformer.h.1.attn.attention.v_proj",
    "gpt_neox": "gpt_neox.layers.1.attention.query_key_value",
    "opt": "model.decoder.layers.1.self_attn.v_proj",
}


def loader() -> PromptDataLoader:
    return PromptDataLoader(PromptDataset(TOKENS, TOKENS + 1, [[1], [2]], [[3], [4]]), 2)


def scores(model: PatchableModel) -> torch.Tensor:
    found = mask_gradient_prune_scores(model, loader(), mask_val=0.5)
    return torch.cat([each.flatten() for each in found.values()])


def results(model: PatchableModel) -> dict[str, torch.Tensor]:
    """Everything that reads weights: scores, circuits, logits, by both ways through the model."""
    found = mask_gradient_prune_scores(model, loader(), mask_val=0.5)
    circuits = run_circuits(model, loader(), [20], found, PatchType.TREE_PATCH)
    with torch.no_grad():
        logits, bridged = (model.logits(TOKENS, LAST, through_bridge=bridge) for bridge in (False, True))
    return {**found, "circuit": circuits[20], "logits": logits, "bridged": bridged}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, values in expected.items():
        assert torch.allclose(found[name], values, rtol=1e-4, atol=1e-4), name


def attention_layer(hf_model: Any) -> Any:
    """A projection of the second block, by the names of Hugging Face, with a bridge around the model or without."""
    part = hf_model
    for key in LAYERS.get(hf_model.config.model_type, "model.layers.1.self_attn.v_proj").split("."):
        part = part[int(key)] if key.isdigit() else getattr(part, key, part)
    return part


def other(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach() * torch.linspace(-1, 2, weight.shape[-1], dtype=weight.dtype)


# --- weights -------------------------------------------------------------------------------------------------------


def given_data(hf_model: Any) -> None:
    layer = attention_layer(hf_model)
    layer.weight.data = other(layer.weight)


def edited_in_place(hf_model: Any) -> None:
    layer = attention_layer(hf_model)
    with torch.no_grad():
        layer.weight.copy_(other(layer.weight))


def edited_through_data(hf_model: Any) -> None:
    layer = attention_layer(hf_model)
    layer.weight.data.copy_(other(layer.weight))


def new_parameter(hf_model: Any) -> None:
    layer = attention_layer(hf_model)
    layer.weight = torch.nn.Parameter(other(layer.weight))


def all_new_data(hf_model: Any) -> None:
    for parameter in hf_model.parameters():
        parameter.data = parameter.data * 0.9


def loaded(hf_model: Any) -> None:
    hf_model.load_state_dict({name: 0.9 * weight for name, weight in hf_model.state_dict().items()})


def loaded_and_assigned(hf_model: Any) -> None:
    hf_model.load_state_dict({name: 0.9 * weight for name, weight in hf_model.state_dict().items()}, assign=True)


def cast_and_back(hf_model: Any) -> None:
    hf_model.to(torch.bfloat16).to(torch.float32)


CHANGES = [
    given_data,
    edited_in_place,
    edited_through_data,
    new_parameter,
    all_new_data,
    loaded,
    loaded_and_assigned,
    cast_and_back,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_changed_weights_are_those_of_the_next_run(name: str, change: Callable[[Any], None]) -> None:
    model, twin = random_model(name), random_hf_model(name)
    before = results(model)
    change(model.bridge.original_model)
    change(twin)
    found = results(model)
    assert_same(found, results(wrap(twin, tokenizer())))
    assert not torch.allclose(found["logits"], before["logits"])


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama"])
@pytest.mark.parametrize("assign", [False, True])
def test_a_checkpoint_loaded_into_the_bridge_counts(name: str, assign: bool) -> None:
    model, twin = random_model(name), random_hf_model(name)
    all_new_data(twin)
    results(model)
    other_model = wrap(twin, tokenizer())
    weights = {key: weight.clone() for key, weight in other_model.bridge.state_dict().items()}
    model.bridge.load_state_dict(weights, assign=assign)
    assert_same(results(model), results(other_model))


def test_a_joint_projection_edited_twice_counts_twice() -> None:
    model, twin = random_model("gpt_neox"), random_hf_model("gpt_neox")
    for _ in range(2):
        edited_through_data(model.bridge.original_model)
        edited_through_data(twin)
        assert_same(results(model), results(wrap(deepcopy(twin), tokenizer())))


def test_a_joint_projection_and_its_layers_cannot_both_be_edited() -> None:
    model = random_model("gpt_neox")
    attention = model.bridge.blocks[1].attn
    with torch.no_grad():
        attention.q.weight.zero_()
        results(model)
        attention.qkv.weight.zero_()
    with pytest.raises(ModelError, match=r"joint projection of blocks\.1\.attn was changed, and so were the layers"):
        scores(model)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_replaced_module_is_refused_by_name(name: str) -> None:
    model = random_model(name)
    for path in ("blocks.1.attn.o", "blocks.1.ln1", "blocks.1", "blocks.1.attn", "ln_final"):
        *way, last = path.split(".")
        parent: Any = model.bridge
        for key in way:
            parent = parent[int(key)] if key.isdigit() else getattr(parent, key)
        before = parent._modules[last]
        parent._modules[last] = deepcopy(before)
        with pytest.raises(ModelError, match=r"was replaced after the model was wrapped.*wrap it then"):
            model.logits(TOKENS, LAST)
        parent._modules[last] = before
    results(model)


# --- mode ----------------------------------------------------------------------------------------------------------

DROPOUT = {
    "gpt2": {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5},
    "gpt_neo": {"attention_dropout": 0.5, "resid_dropout": 0.5, "embed_dropout": 0.5},
    "gpt_neox": {"attention_dropout": 0.5, "hidden_dropout": 0.5},
    "gpt_neox_sequential": {"attention_dropout": 0.5, "hidden_dropout": 0.5},
    "opt": {"dropout": 0.5, "attention_dropout": 0.5},
    "phi": {"attention_dropout": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5},
}


@pytest.mark.parametrize("when", ["before wrapping", "after"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_dropout_has_no_part_in_a_run(name: str, when: str) -> None:
    dropout = DROPOUT.get(name, {"attention_dropout": 0.5})
    expected = results(wrap(random_hf_model(name, **dropout), tokenizer()))
    hf_model = random_hf_model(name, **dropout)
    if when == "before wrapping":
        hf_model.train()
    model = wrap(hf_model, tokenizer())
    if when == "after":
        hf_model.train()
    attention_layer(hf_model).eval()
    modes = {key: part.training for key, part in hf_model.named_modules()}
    assert_same(results(model), expected)
    pattern = attention_patterns(model, TOKENS, 0, 0)
    torch.testing.assert_close(pattern[:, -1].sum(-1), torch.ones(2))
    assert {key: part.training for key, part in hf_model.named_modules()} == modes
    assert set(modes.values()) == {True, False}


# --- what may be put on a part -------------------------------------------------------------------------------------


def forward_hook(part: Any) -> Callable[[], None]:
    return part.register_forward_hook(lambda module, inputs, output: output).remove


def forward_pre_hook(part: Any) -> Callable[[], None]:
    return part.register_forward_pre_hook(lambda module, inputs: inputs).remove


def full_backward_hook(part: Any) -> Callable[[], None]:
    return part.register_full_backward_hook(lambda module, inputs, outputs: None).remove


def full_backward_pre_hook(part: Any) -> Callable[[], None]:
    return part.register_full_backward_pre_hook(lambda module, outputs: None).remove


def own_forward(part: Any) -> Callable[[], None]:
    vars(part)["forward"] = part.forward
    return lambda: vars(part).pop("forward")


def accelerate_hook(part: Any) -> Callable[[], None]:
    add_hook_to_module(part, ModelHook())

    def remove() -> None:
        for key in ("_hf_hook", "_old_forward", "forward"):
            del vars(part)[key]

    return remove


PUT_ON = [forward_hook, forward_pre_hook, full_backward_hook, full_backward_pre_hook, own_forward, accelerate_hook]
PLACES = ["", "blocks.1", "blocks.1.ln1", "blocks.1.attn", "blocks.1.attn.q", "blocks.1.attn.o", "blocks.1.mlp.out"]
PLACES += ["ln_final", "embed", "unembed"]


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("put_on", PUT_ON)
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_what_would_not_count_everywhere_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, put_on: Callable[[Any], Callable[[], None]], onednn: bool
) -> None:
    monkeypatch.setattr(matmul, "onednn_is_quicker", lambda: onednn)
    model = shared_model(name)
    for place in PLACES:
        component = model.bridge
        for key in filter(None, place.split(".")):
            component = component[int(key)] if key.isdigit() else getattr(component, key)
        part = component.original_component if place else component.original_model
        of_torch = put_on not in (own_forward, accelerate_hook)  # set on a component, these go to its part
        for on in [part, component] if place and of_torch else [part]:
            remove = put_on(on)
            words = "moved between devices by accelerate" if put_on is accelerate_hook else "hook|forward of its own"
            for run in (
                lambda: scores(model),
                lambda: model.logits(TOKENS, LAST),
                lambda: PatchableModel(model.bridge),
            ):
                with pytest.raises(ModelError, match=words) as caught:
                    run()
                assert ("1" in str(caught.value)) == ("1" in place), str(caught.value)
            remove()
    scores(model)


@pytest.mark.parametrize("put_on", PUT_ON)
def test_what_was_put_on_a_model_before_it_is_wrapped_is_refused_and_left(
    put_on: Callable[[Any], Callable[[], None]],
) -> None:
    hf_model = random_hf_model("llama")
    remove = put_on(hf_model.model.layers[1].mlp.up_proj)
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj"):
        wrap(hf_model, tokenizer())
    remove()
    assert_same(results(wrap(hf_model, tokenizer())), results(random_model("llama")))


def test_a_hook_on_all_modules_is_refused() -> None:
    model = shared_model("gpt2")
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    try:
        with pytest.raises(ModelError, match="hook on all modules"):
            scores(model)
    finally:
        handle.remove()
    scores(model)


def test_weights_that_are_computed_are_refused() -> None:
    hf_model = random_hf_model("llama")
    layer = hf_model.model.layers[1].mlp.up_proj
    parametrize.register_parametrization(layer, "weight", torch.nn.Identity())
    with pytest.raises(ModelError, match=r"up_proj of this model computes its weights.*remove_parametrizations"):
        wrap(hf_model, tokenizer())
    parametrize.remove_parametrizations(layer, "weight")
    model = wrap(hf_model, tokenizer())
    scores(model)
    parametrize.register_parametrization(layer, "weight", torch.nn.Identity())
    with pytest.raises(ModelError, match="up_proj of this model computes its weights"):
        scores(model)


class Adapted(torch.nn.Linear):
    """As an adapter that was not merged: its weight is not all that it multiplies by."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + 1


class Scaled(torch.nn.LayerNorm):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def test_parts_that_edge_scores_would_read_wrongly_are_refused() -> None:
    for place, kind in (("attn.c_proj", "Adapted"), ("ln_1", "Scaled")):
        hf_model = random_hf_model("gpt2")
        block = hf_model.transformer.h[1]
        if kind == "Scaled":
            block.ln_1 = Scaled(32)
        else:
            block.attn.c_proj = Adapted(32, 32)
        with pytest.raises(ModelError, match=rf"blocks\.1\..* is a {kind}, not a plain"):
            wrap(hf_model, tokenizer())
        assert type(block.get_submodule(place)).__name__ == kind


def test_a_compiled_model_is_refused() -> None:
    hf_model = random_hf_model("llama")
    hf_model.compile(backend="eager")
    with pytest.raises(ModelError, match="is compiled"):
        wrap(hf_model, tokenizer())


def test_a_model_spread_over_devices_is_refused() -> None:
    hf_model = random_hf_model("llama")
    cpu_offload(hf_model, execution_device=torch.device("cpu"))
    with pytest.raises(ModelError, match=r"moved between devices by accelerate \(device_map\).*on one device"):
        wrap(hf_model, tokenizer())


def test_a_model_is_wrapped_once() -> None:
    hf_model = random_hf_model("llama")
    model = wrap(hf_model, tokenizer())
    with pytest.raises(ModelError, match=r"wrapped already: use the PatchableModel that wrap\(\) returned"):
        wrap(hf_model, tokenizer())
    assert_same(results(model), results(PatchableModel(model.bridge)))


# --- gradients -----------------------------------------------------------------------------------------------------


def test_no_grad_around_a_run_changes_nothing() -> None:
    model = shared_model("llama")
    expected = results(model)
    with torch.no_grad():
        assert_same(results(model), expected)


def test_inference_mode_around_a_run_changes_nothing() -> None:
    model = shared_model("llama")
    expected = results(model)
    with torch.inference_mode():
        assert_same(results(model), expected)


def test_a_model_made_in_inference_mode_has_no_scores_and_a_sentence() -> None:
    with torch.inference_mode():
        model = random_model("llama")
        model.logits(TOKENS, LAST)
    with pytest.raises(ModelError, match=r"torch\.inference_mode\(\)"):
        scores(model)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_autocast_around_a_run_changes_nothing(kind: str) -> None:
    """A run has the model's own precision: half of a pass in bfloat16 would be off by its rounding without a word."""
    model = shared_model(kind)
    expected = results(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results(model)
        assert torch.is_autocast_enabled("cpu")
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, name
        torch.testing.assert_close(found[name], values, msg=name)


@pytest.mark.parametrize("asked", ["high", "medium"])
def test_products_that_are_rounded_elsewhere_are_exact_in_a_run(asked: str) -> None:
    """`set_float32_matmul_precision` rounds products to bfloat16 or TF32, in scores by up to 4 %."""
    model = shared_model("gpt2")
    expected = results(model)
    torch.set_float32_matmul_precision(asked)
    try:
        found = results(model)
        assert torch.get_float32_matmul_precision() == asked
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, msg=name)
