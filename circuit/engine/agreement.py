"""Whether a bridge computes what its Hugging Face model computes.

    check_agreement   refuses a model whose bridge gives other logits
    plain_logits      a Hugging Face model's own logits, to compare with
    in_float32        a model in half precision computes in float32, with its weights as they are
    whole_on_error    a model that is taken apart is as it was, where that fails

Two sound ways of computing one number agree to about the precision's own step, 0.4 % in bfloat16, times whatever the
layers make of it, so no bound in half precision tells rounding from a fault. A model in half precision is therefore
compared in float32, where they agree to 1e-5: the weights of each block are in float32 while it runs, and no longer,
so the model is not held twice. What it computes in its own precision is then allowed a few times the error
that the Hugging Face model itself makes there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

from circuit.common.errors import ModelError
from circuit.engine.hooks import replaced_forwards
from circuit.engine.model import PatchableModel
from circuit.engine.running import attention_by, evaluation_mode

_HALF = (torch.float16, torch.bfloat16)
_TOLERANCE = 1e-3
"""Of the largest logit, in float32."""
_FUSED = 5
"""How much more a fused attention kernel may be off, which rounds at other places."""
_NOISE = 5
"""How many times the Hugging Face model's own error in half precision, beside 1 %, others may make there."""
_AT_ONCE = 2**22
"""Numbers of a weight that are held in float32 at once."""


class PlainLogits(NamedTuple):
    """What a Hugging Face model gives by itself: in float32, and in its own precision where that is another."""

    tokens: Int[Tensor, "1 pos"]
    exact: Float[Tensor, " d_vocab"]
    own: Float[Tensor, " d_vocab"] | None


@torch.no_grad()
def plain_logits(model: Any) -> PlainLogits:
    """Logits after the first few tokens of a Hugging Face model's vocabulary. No bridge may be around it yet."""
    tokens = torch.arange(1, 1 + min(6, model.config.vocab_size - 1), device=model.device)[None]

    def logits() -> Tensor:
        return model(tokens, use_cache=False).logits[0, -1].float()

    with evaluation_mode(model.modules()), attention_by(model, "eager"):
        own = logits() if model.dtype in _HALF else None
        with in_float32(model):
            return PlainLogits(tokens, logits(), own)


@torch.no_grad()
def check_agreement(model: PatchableModel, plain: PlainLogits) -> None:
    """Nothing where the bridge, and the model run without it, give the logits that the model gave by itself.

    NaN agrees with everything: a model that overflows is found when it is used.

    Raises:
        ModelError: Otherwise; says by how much.
    """
    last = torch.tensor([plain.tokens.shape[1] - 1], device=plain.tokens.device)

    def off(bridged: bool) -> float:
        """How far logits are from the right ones, as a share of the largest."""
        found = model.logits(plain.tokens, last, through_bridge=bridged)[0].float()
        return float((found - plain.exact).abs().max() / plain.exact.abs().max())

    with model.running():
        with in_float32(model.bridge.original_model):
            theirs, ours = off(bridged=True), off(bridged=False)
        _refuse(max(theirs, ours / _FUSED), _TOLERANCE)
        if plain.own is not None:
            noise = float((plain.own - plain.exact).abs().max() / plain.exact.abs().max())
            _refuse(max(off(bridged=True), off(bridged=False)), 1e-2 + _NOISE * noise)


def _refuse(error: float, tolerance: float) -> None:
    if error > tolerance:
        raise ModelError(
            f"TransformerLens computes other logits than the model itself (off by {error:.1%} of the largest), so edge "
            "scores would be wrong. Its config.json must hold an option that TransformerLens does not know."
        )


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Let a model in half precision compute in float32, with its weights as they are; all is as before on leaving.

    The weights of one block at a time are in float32, while it runs.
    """
    if model.dtype not in _HALF:
        yield
        return
    # a bridge's component may cast what its part makes of it to the precision of the weights, so it counts too
    blocks = [each for block in _blocks(model) for each in {block, _part(block)}]
    inside = {id(each) for block in blocks for each in block.modules()}
    embeddings = [each for each in model.modules() if isinstance(_part(each), torch.nn.Embedding)]
    linear = [each for each in model.modules() if isinstance(each, torch.nn.Linear) and id(each) not in inside]
    outer = [*embeddings, *linear]
    within = {id(parameter) for block in blocks for parameter in block.parameters()}
    others = [p for p in model.parameters() if p.ndim == 1 and id(p) not in within]  # the last norm, and biases
    with (
        _floats(others),
        replaced_forwards(blocks, lambda block: partial(_run_block, list(block.parameters()), block.forward)),
        replaced_forwards(outer, _outer_forward),
    ):
        yield


def _part(module: Any) -> Any:
    """What a bridge's component stands for; any other module itself."""
    return module.original_component if isinstance(module, GeneralizedComponent) else module


def _blocks(model: Any) -> Any:
    return next(part for part in model.modules() if isinstance(part, torch.nn.ModuleList))


@contextmanager
def _floats(parameters: Iterable[Any]) -> Iterator[None]:
    """Let parameters be in float32, and be the tensors that they were on leaving."""
    before = [(parameter, parameter.data) for parameter in parameters]
    try:
        for parameter, data in before:
            parameter.data = data.float()
        yield
    finally:
        for parameter, data in before:
            parameter.data = data


def _run_block(parameters: list[Any], forward: Callable[..., Any], *inputs: Any, **others: Any) -> Any:
    with _floats(parameters):
        return forward(*inputs, **others)


def _outer_forward(layer: Any) -> Callable[..., Tensor]:
    """Of an embedding, or of the unembedding: the largest matrices, of which few rows are in float32 at once."""
    if isinstance(_part(layer), torch.nn.Embedding):
        inner = layer.forward
        return lambda *inputs, **others: inner(*inputs, **others).float()

    def forward(x: Tensor) -> Tensor:
        rows = max(_AT_ONCE // layer.weight.shape[1], 1)
        parts = [torch.nn.functional.linear(x, part.float()) for part in layer.weight.split(rows)]
        return torch.cat(parts, dim=-1) if layer.bias is None else torch.cat(parts, dim=-1) + layer.bias

    return forward


@contextmanager
def whole_on_error(model: Any) -> Iterator[None]:
    """Where what is done to a Hugging Face model fails, put its parts, their modes and its config back as they were."""
    before = [(module, {key: _copied(value) for key, value in vars(module).items()}) for module in model.modules()]
    config = copy.deepcopy(vars(model.config))
    try:
        yield
    except BaseException:
        for module, attributes in before:
            _put_back(vars(module), attributes)
        vars(model.config).clear()
        vars(model.config).update(config)
        raise


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, dict) else value


def _put_back(now: dict[str, Any], before: dict[str, Any]) -> None:
    """Into the very dictionaries that were there, which PyTorch's handles of hooks hold."""
    for key in [key for key in now if key not in before]:
        del now[key]
    for key, value in before.items():
        if isinstance(value, dict) and isinstance(now.get(key), dict):
            now[key].clear()
            now[key].update(value)
        else:
            now[key] = value
