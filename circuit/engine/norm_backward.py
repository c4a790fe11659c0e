"""Step 4 of `circuit.engine.mask_gradient`: back through the layer norm before a block's attention, for all heads.

With x_hat the normalised input and s its scale, a norm with weight w sends a gradient g at its output to

    (w g - mean(w g) - x_hat mean(w g x_hat)) / s

at its input, where RMS norms leave out the first mean. This is linear in g, so the gradients of many heads, each the
gradient at its own query, key or value sent back through its own weights W, pass through it together: g = W dL/dq.

Rows of d_model numbers, one per head and token, are what takes time here, so little is done to them:

- w and the first mean go into W, which is smaller: w g - mean(w g) = W' dL/dq, with W' = w W less its mean.
- Queries, keys and values go through together: one step for all of them, and few steps per layer.
- The last mean is known without looking at a row: mean(w g x_hat) = dL/dq . (W'.T x_hat) / d_model, and W'.T x_hat is
  the query that the forward pass computed, less what it adds to every token (the biases of norm and projection).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuit.engine.matmul import batched
from circuit.engine.model import PatchableModel
from circuit.engine.norms import read_norm
from circuit.engine.token_block import TokenBlock


class NormBackward:
    """The vector-Jacobian product of the layer norm before the attention of block `layer`, on a block of tokens.

    Args:
        model: The model.
        layer: The transformer block.
        x: What its attention reads, before the norm.
        block: The tokens that are wanted.
        constant_scale: Take s for a constant, as some rules of the backward pass do: there is no last mean then.
    """

    def __init__(
        self,
        model: PatchableModel,
        layer: int,
        x: Float[Tensor, "batch pos d_model"],
        block: TokenBlock,
        *,
        constant_scale: bool = False,
    ) -> None:
        self._block = block
        self._constant_scale = constant_scale
        self._weights = model.weights(layer)
        norm = read_norm(model.attention_norm(layer))
        assert norm is not None  # or the model would have been refused
        self._centers, weight, bias, epsilon = norm
        self._weight = None if weight is None else weight.detach().float()  # OPT may have none
        self._bias = None if bias is None else bias.detach().float()
        x = block.of(x).float()
        if self._centers:
            x = x - x.mean(-1, keepdim=True)
        self._inverse_scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
        self._x_hat = (x * self._inverse_scale).flatten(0, 1)

    def heads(
        self,
        gradients: Sequence[Float[Tensor, "batch pos heads d_head"]],
        values: Sequence[Float[Tensor, "batch pos heads d_head"]],
        out: Float[Tensor, "rows tokens d_model"],
    ) -> None:
        """Gradients at queries, keys and values, and these themselves -> into `out`, the gradients at each head's own
        query, key and value input before the norm: a row per query head, then per key head, then per value head."""
        gradient = self._joined(gradients).mul_(self._inverse_scale[..., None])
        W = self._scaled_weights(out)
        batched(gradient.to(out).permute(2, 0, 1, 3).flatten(1, 2), W.mT, out=out)
        if not self._constant_scale:
            along = (gradient * self._without_biases(values)).sum(-1) / -W.shape[-1]
            out.addcmul_(along.to(out).permute(2, 0, 1).flatten(1)[..., None], self._x_hat.to(out))

    def _scaled_weights(self, like: Tensor) -> Float[Tensor, "rows d_head d_model"]:
        """W' of every head: its weights times the norm's, less their mean where the norm centres."""
        w = self._weights
        matrices = (w.W_Q, w.W_K, w.W_V)
        n_heads = [len(matrix) for matrix in matrices]
        W = like.new_empty(sum(n_heads), matrices[0].shape[-1], matrices[0].shape[1])  # their layout: d_model last
        for scaled, matrix in zip(W.split(n_heads), matrices, strict=True):
            if self._weight is None:
                scaled.copy_(matrix.mT)
            else:
                torch.mul(matrix.mT, self._weight.to(like), out=scaled)
        if self._centers:
            W -= W.mean(-1, keepdim=True)
        return W

    def _without_biases(
        self, values: Sequence[Float[Tensor, "batch pos heads d_head"]]
    ) -> Float[Tensor, "outer inner rows d_head"]:
        """Queries, keys and values less what the biases of norm and projection add to every token."""
        w = self._weights
        value = self._joined(values)
        by_kind = zip(
            value.split([len(matrix) for matrix in (w.W_Q, w.W_K, w.W_V)], dim=-2),
            (w.W_Q, w.W_K, w.W_V),
            (w.b_Q, w.b_K, w.b_V),
            strict=True,
        )
        for part, matrix, bias in by_kind:
            if bias is not None:
                part.sub_(bias)
            if self._bias is not None:
                part.sub_(matrix.mT.float() @ self._bias)
        return value

    def _joined(
        self, parts: Sequence[Float[Tensor, "batch pos heads d_head"]]
    ) -> Float[Tensor, "outer inner rows d_head"]:
        """The block's queries, keys and values, in float32."""
        return torch.cat([self._block.of(part) for part in parts], dim=-2).float()

    def vector(self, gradient: Float[Tensor, "batch pos d_model"], out: Float[Tensor, "tokens d_model"]) -> None:
        """A gradient at the norm's output -> into `out`, the gradient at its input."""
        torch.mul(self._block.of(gradient).float(), self._inverse_scale, out=out.view(*self._block.shape, -1))
        if self._weight is not None:
            out *= self._weight
        if self._centers:
            out -= out.mean(-1, keepdim=True)
        if not self._constant_scale:
            out.addcmul_((out * self._x_hat).mean(-1, keepdim=True), self._x_hat, value=-1)
