"""Other rules for the backward pass: what a gradient through a norm, an activation, a gate or attention is taken to be.

    PARTS              what each backward rule of a `Method` consists of
    differentiated_by  a model whose backward pass follows some of these parts; its forward pass stays what it is

    with differentiated_by(parts, PARTS["gim"]):
        logits = bridge.original_model(input_ids=tokens).logits

A gradient says what an infinitely small change would do. Where a part of the model saturates or renormalises, that is
far from what ablating does, and these rules replace the local derivative by one that reaches further:

    norm         the norm's scale is a constant: g -> w g / s, less its mean where the norm centres
    activation   f(h) is the line through the origin: g -> g f(h) / h instead of g f'(h)
    product      of a gated MLP: each of the two factors gets half of the product's gradient
    softmax      differentiated as if the temperature had been 2
    pattern      attention weights are constants: no gradient reaches queries and keys
    factors      gradients at queries and keys times 1/4, at values times 1/2

`relp` is RelP (https://arxiv.org/abs/2508.21258), with `relp+constant-attention` as its option, `gim` is GIM
(https://arxiv.org/abs/2505.17630), and `linear-mlp+gim-attention` takes the activation of the one and the attention of
the other. Without parts it is the gradient. A part that a model does not have (gates, in a plain MLP) does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from circuit.edges.method import Backward
from circuit.engine.hooks import replaced_forwards
from circuit.engine.norms import read_norm

Part = Literal["norm", "activation", "product", "softmax", "pattern", "factors"]

PARTS: dict[Backward, frozenset[Part]] = {
    "gradient": frozenset(),
    "relp": frozenset({"norm", "activation", "product"}),
    "relp+constant-attention": frozenset({"norm", "activation", "product", "pattern"}),
    "gim": frozenset({"norm", "product", "softmax", "factors"}),
    "linear-mlp+gim-attention": frozenset({"activation", "softmax", "factors"}),
}
"""What each backward rule consists of."""

HEAD_FACTORS = (0.25, 0.25, 0.5)
"""Of the gradients at queries, keys and values."""
PRODUCT_FACTOR = 0.5
TEMPERATURE = 2.0

_ATTENTION: dict[Part, str] = {"softmax": "edgescope_warm_softmax", "pattern": "edgescope_constant_pattern"}
"""What the attention of these rules is called among Hugging Face's implementations."""
_ACTIVATIONS = ("act", "act_fn", "activation_fn")
_NEAR_ZERO = 1e-6
"""Added to an activation's input, away from zero, before it divides: as in RelP's published code."""


@contextmanager
def differentiated_by(model: Any, parts: Iterable[Part]) -> Iterator[None]:
    """Let a Hugging Face model, whether or not a bridge stands in for its parts, be differentiated by these rules.

    `product` and `factors` are scaled gradients at hook points, and left to the pass: see `scaled_gradient`.

    Args:
        model: The model. No gradient reaches its parameters meanwhile.
        parts: Those of `PARTS`; everything else is differentiated as usual.
    """
    parts = set(parts)
    if not parts:
        yield
        return
    modules = [module for module in model.modules() if not isinstance(module, GeneralizedComponent)]
    norms = [module for module in modules if is_norm(module)] if "norm" in parts else []
    activations = list(_activations(modules)) if "activation" in parts else []
    with (
        replaced_forwards(norms, lambda norm: partial(_with_constant_scale, norm, norm.forward)),
        replaced_forwards(activations, lambda activation: partial(_through_origin, activation.forward)),
        _attending(model, modules, next((part for part in _ATTENTION if part in parts), None)),
    ):
        yield


def is_norm(module: Any) -> bool:
    """Whether this is a layer norm or an RMS norm of a Hugging Face model."""
    return read_norm(module) is not None


def _activations(modules: Iterable[Any]) -> Iterator[Any]:
    for module in modules:
        for name in _ACTIVATIONS:
            if isinstance(module._modules.get(name), torch.nn.Module):
                yield module._modules[name]


# --- norms ---------------------------------------------------------------------------------------------------------


def _with_constant_scale(norm: Any, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return _ConstantScale.apply(x, norm, forward)


class _ConstantScale(torch.autograd.Function):
    """The norm itself; backwards, w g / s, less its mean where the norm centres."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Any, forward: Callable[[Tensor], Tensor]) -> Tensor:
        parts = read_norm(norm)
        assert parts is not None
        ctx.centers = parts.centers
        h = x.float()
        if ctx.centers:
            h = h - h.mean(-1, keepdim=True)
        inverse_scale = torch.rsqrt(h.square().mean(-1, keepdim=True) + parts.epsilon)
        ctx.save_for_backward(inverse_scale, parts.weight)
        return forward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        inverse_scale, weight = ctx.saved_tensors
        g = gradient.float() * inverse_scale
        if weight is not None:
            g = g * weight.float()
        if ctx.centers:
            g = g - g.mean(-1, keepdim=True)
        return g.to(gradient.dtype), None, None


# --- activations ---------------------------------------------------------------------------------------------------


def _through_origin(forward: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    return _ThroughOrigin.apply(h, forward)


class _ThroughOrigin(torch.autograd.Function):
    """f(h); backwards, as if f were the line from the origin to this point."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
        found = forward(h)
        ctx.save_for_backward(found / torch.where(h >= 0, h + _NEAR_ZERO, h - _NEAR_ZERO))
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None


# --- scaled gradients ----------------------------------------------------------------------------------------------


def scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """x; backwards, the gradient times `factor`."""
    return _ScaledGradient.apply(x, factor)


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


# --- attention -----------------------------------------------------------------------------------------------------


class _WarmSoftmax(torch.autograd.Function):
    """A softmax over the last axis; backwards, that of scores divided by `TEMPERATURE`."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        ctx.save_for_backward((scores / TEMPERATURE).softmax(-1))
        return scores.softmax(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensors
        weighted = weights * gradient
        return weighted - weights * weighted.sum(-1, keepdim=True)


def _constant_pattern(scores: Tensor) -> Tensor:
    return scores.softmax(-1).detach()


_SOFTMAX: dict[Part, Callable[[Tensor], Tensor]] = {"softmax": _WarmSoftmax.apply, "pattern": _constant_pattern}


def _attention(
    part: Part,
    module: Any,
    query: Float[Tensor, "batch n_heads pos d_head"],
    key: Float[Tensor, "batch n_kv_heads pos d_head"],
    value: Float[Tensor, "batch n_kv_heads pos d_head"],
    attention_mask: Float[Tensor, "batch 1 pos pos"] | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Float[Tensor, "batch pos n_heads d_head"], None]:
    """Attention as Hugging Face's eager one computes it, with the softmax of a rule."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    grouped = query.unflatten(1, (key.shape[1], -1))  # [batch, n_kv_heads, heads of the group, pos, d_head]
    scores = (grouped @ key[:, :, None].mT).float() * scaling
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, None, :, : key.shape[-2]]
    weights = _SOFTMAX[part](scores).to(value.dtype)
    return (weights @ value[:, :, None]).flatten(1, 2).transpose(1, 2), None


def _attention_of_gpt_neo(
    part: Part, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None
) -> tuple[Tensor, None]:
    """GPT-Neo computes attention in a method of its own: unscaled, with a mask that the module keeps."""
    n = key.shape[-2]
    seen = module.bias[:, :, n - query.shape[-2] : n, :n]
    scores = query.float() @ key.float().mT
    scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    if attention_mask is not None:
        scores = scores + attention_mask
    return _SOFTMAX[part](scores).to(value.dtype) @ value, None


for _part, _name in _ATTENTION.items():
    AttentionInterface.register(_name, partial(_attention, _part))
    AttentionMaskInterface.register(_name, eager_mask)


@contextmanager
def _attending(model: Any, modules: Iterable[Any], part: Part | None) -> Iterator[None]:
    """Let the model attend by this rule, if there is one."""
    if part is None:
        yield
        return
    own = [module for module in modules if hasattr(module, "_attn")]
    before = model.config._attn_implementation
    try:
        model.config._attn_implementation = _ATTENTION[part]
        for module in own:
            module._attn = partial(_attention_of_gpt_neo, part, module)
        yield
    finally:
        model.config._attn_implementation = before
        for module in own:
            del module._attn
