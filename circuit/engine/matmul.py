"""Matrix products, by the library that is quicker on this processor.

    linear          x @ weight.T + bias, differentiable by x
    inner_products  x @ weight.T in float32, of half precision too
    batched         many products of small matrices, into memory that is there
    quick_linears   lets the `linear_layers` of a model use `linear`

PyTorch multiplies float32 matrices on the CPU with Intel's MKL, which leaves half of the vector units of other makers'
processors idle: it uses AVX2 where they have AVX-512. oneDNN, which PyTorch comes with and uses for half precision and
convolutions, uses all of it, and is 2.2 times as fast on an AMD EPYC of the fifth generation. PyTorch has no switch for
this; the operator called here is the one that its compiler (inductor) puts in the place of linear layers. Everywhere
else - Intel's processors, GPUs, half precision, float64 - these are the ordinary products.

oneDNN compiles a kernel for every new shape, and keeps about 0.6 MB for each; `circuit.workers.cluster` limits their
number.

Both round like float32, oneDNN more often: sums of 576 terms are off by 4e-7 of their size instead of 2.5e-7.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from circuit.engine.hooks import replaced_forwards

_SMALL, _SMALL_OF_MANY = 1e6, 5e6
"""Multiplications of a matrix product below which MKL is quicker, since oneDNN takes longer to begin; and of one among
many, which MKL does in one call."""


def linear(
    x: Float[Tensor, "*rows n_in"], weight: Float[Tensor, "n_out n_in"], bias: Float[Tensor, " n_out"] | None = None
) -> Float[Tensor, "*rows n_out"]:
    """x @ weight.T + bias, once differentiable. Where weight or bias require gradients, PyTorch's own, so that they get
    them."""
    small = weight.shape[0] * x.numel() < _SMALL
    if small or not _suits(x, weight) or (torch.is_grad_enabled() and _any_requires_grad(weight, bias)):
        return torch.nn.functional.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


def inner_products(
    x: Float[Tensor, "*batch rows n"], weight: Float[Tensor, "*batch n_out n"]
) -> Float[Tensor, "*batch rows n_out"]:
    """x @ weight.T in float32. Half precision is added up in float32; except on CUDA, the sums are rounded once
    to it."""
    if x.dtype != torch.float32 and x.is_cuda:
        multiply = torch.mm if x.ndim == 2 else torch.bmm
        return multiply(x, weight.mT, out_dtype=torch.float32)
    if x.ndim == 2:
        return linear(x, weight).float()
    products = x.new_empty(*x.shape[:-1], weight.shape[-2])
    batched(x, weight, out=products)
    return products.float()


def batched(
    x: Float[Tensor, "batch rows n_in"],
    weight: Float[Tensor, "batch n_out n_in"],
    out: Float[Tensor, "batch rows n_out"],
) -> None:
    """Write x[i] @ weight[i].T into out[i]. No gradients."""
    if not _suits(x, weight) or weight.shape[1:].numel() * x.shape[1] < _SMALL_OF_MANY:
        if x.device.type == "cpu" and x.dtype == torch.bfloat16:
            weight = _dense(weight)  # or PyTorch copies it, element by element
        torch.bmm(x, weight.mT, out=out)
        return
    for one_x, one_weight, one_out in zip(x, weight, out, strict=True):
        one_out.copy_(_onednn(one_x, one_weight))


def linear_layers(model: torch.nn.Module) -> list[Any]:
    """The layers of a model that `quick_linears` is for: none that multiply in a way of their own."""
    return [
        each
        for each in model.modules()
        if type(each).forward in (torch.nn.Linear.forward, Conv1D.forward) and "forward" not in vars(each)
    ]


def quick_linears(layers: Sequence[Any]) -> AbstractContextManager[None]:
    """Let linear layers use `linear`, and be as before on leaving. One with a `forward` of its own keeps it."""
    plain = [layer for layer in layers if "forward" not in vars(layer)] if onednn_is_quicker() else ()
    return replaced_forwards(plain, _forward)


@cache
def onednn_is_quicker() -> bool:
    """Whether oneDNN is there, and MKL does not use what this processor has."""
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return there and torch.backends.cpu.get_cpu_capability() == "AVX512" and "AuthenticAMD" in _processor()


def bfloat16_is_quick() -> bool:
    """Whether products in bfloat16 are quicker on this processor than in float32."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Linear(torch.autograd.Function):
    """`torch.nn.functional.linear` with a gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _onednn(gradients[0], weight.T), None, None


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # With gaps between rows or columns, as in a part of a joint projection, oneDNN takes thousands of times as long;
    # gaps in a bias it does not see.
    bias = None if bias is None else bias.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x, _dense(weight), bias, "none", [], "")


def _dense(weight: Tensor) -> Tensor:
    """The weight, or a copy of it, without gaps between rows or columns."""
    if weight.is_contiguous() or weight.mT.is_contiguous():
        return weight
    return weight.contiguous() if weight.stride(-1) == 1 else weight.mT.contiguous().mT


def _suits(x: Tensor, weight: Tensor) -> bool:
    on_cpu = x.device.type == "cpu" and weight.device.type == "cpu"
    return on_cpu and x.dtype == weight.dtype == torch.float32 and x.shape[-1] > 0 and onednn_is_quicker()


def _any_requires_grad(weight: Tensor, bias: Tensor | None) -> bool:
    return weight.requires_grad or (bias is not None and bias.requires_grad)


def _forward(layer: Any) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        # GPT-2's Conv1D is a linear layer that keeps its weight the other way round
        weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
        return linear(x, weight, layer.bias)

    return forward


def _processor() -> str:
    """What the operating system says about the processor."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
