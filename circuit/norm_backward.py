"""The backward pass of the layer norm before a block's attention, for all its heads at once.

With x_hat the normalised input and s its scale, a norm with weight w sends a gradient g at its output to

    (w g - mean(w g) - x_hat mean(w g x_hat)) / s

at its input, where RMS norms leave out the first mean. This is linear in g, so the gradients of many heads, each the
gradient at its own query, key or value sent back through its own weights, pass through it together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuit.differences import TokenBlock
from circuit.patchable import PatchableModel


class NormBackward:
    """The vector-Jacobian product of the layer norm before the attention of block `layer`, on a block of tokens.

    Args:
        model: The model.
        layer: The transformer block.
        x: What its attention reads, before the norm.
        block: The tokens that are wanted.
    """

    def __init__(self, model: PatchableModel, layer: int, x: Float[Tensor, "batch pos d_model"], block: TokenBlock):
        self._block = block
        self._weights = model.weights(layer)
        module = model.attention_norm(layer)
        self._centers = isinstance(module, torch.nn.LayerNorm)
        self._weight = None if module.weight is None else module.weight.float()  # OPT may have none
        x = block.of(x).float()
        if self._centers:
            x = x - x.mean(-1, keepdim=True)
        epsilon = module.eps if self._centers else module.variance_epsilon
        self._inverse_scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
        self._x_hat = (x * self._inverse_scale).flatten(0, 1)

    def heads(
        self,
        gradients: Sequence[Float[Tensor, "batch pos heads d_head"]],
        out: Sequence[Float[Tensor, "heads tokens d_model"]],
        scratch: Tensor,
    ) -> None:
        """Gradients at queries, keys and values -> into `out`, the gradients at each head's own query, key and value
        input before the norm. `scratch` is memory for as many numbers as the largest of `out`."""
        w = self._weights
        for gradient, W, rows in zip(gradients, (w.W_Q, w.W_K, w.W_V), out, strict=True):
            at_heads = self._block.of(gradient).float() * self._inverse_scale[..., None]
            torch.bmm(at_heads.permute(2, 0, 1, 3).flatten(1, 2), W.float().transpose(1, 2), out=rows)
            self._finish(rows, scratch)

    def vector(
        self, gradient: Float[Tensor, "batch pos d_model"], out: Float[Tensor, "tokens d_model"], scratch: Tensor
    ) -> None:
        """A gradient at the norm's output -> into `out`, the gradient at its input."""
        torch.mul(self._block.of(gradient).float(), self._inverse_scale, out=out.view(*self._block.shape, -1))
        self._finish(out[None], scratch)

    def _finish(self, rows: Float[Tensor, "rows tokens d_model"], scratch: Tensor) -> None:
        """Gradients at the norm's output over its scale -> gradients at its input, in place."""
        if self._weight is not None:
            rows *= self._weight
        if self._centers:
            rows -= rows.mean(-1, keepdim=True)
        # not an einsum, which would copy all rows to make one matrix product a token of it
        along = torch.mul(rows, self._x_hat, out=scratch[: rows.numel()].view_as(rows)).mean(-1, keepdim=True)
        rows.addcmul_(along, self._x_hat, value=-1)
