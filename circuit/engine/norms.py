"""What a norm of a Hugging Face model computes: the difference between its kinds is data.

NormParts   of a layer norm or RMS norm: whether it centres, its weight, bias and epsilon
read_norm   those of a module, or None where it is no norm that is known here

Every kind gives  weight * (x - mean) / sqrt(mean square + epsilon) + bias,  where RMS norms leave out the mean. A kind
that keeps its numbers elsewhere is a line in `_KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class NormParts(NamedTuple):
    """The numbers of a norm. There is no weight or no bias where it is None."""

    centers: bool
    weight: Tensor | None
    bias: Tensor | None
    epsilon: float


_KINDS: dict[str, Callable[[Any], NormParts]] = {
    "CohereLayerNorm": lambda norm: NormParts(True, norm.weight, None, norm.variance_epsilon),
    "Cohere2LayerNorm": lambda norm: NormParts(True, norm.weight, None, norm.variance_epsilon),
}
"""By the name of their class in transformers: norms that are neither PyTorch's layer norm nor Llama's RMS norm."""


def read_norm(module: Any) -> NormParts | None:
    """The numbers of a norm, or None where `module` is none, or of a kind that is not known here."""
    if type(module).__module__.startswith("transformers.models."):
        if type(module).__name__ in _KINDS:
            return _KINDS[type(module).__name__](module)
        if hasattr(module, "variance_epsilon"):
            return NormParts(False, module.weight, getattr(module, "bias", None), module.variance_epsilon)
    if isinstance(module, torch.nn.LayerNorm) and type(module).forward is torch.nn.LayerNorm.forward:
        return NormParts(True, module.weight, module.bias, module.eps)
    return None
