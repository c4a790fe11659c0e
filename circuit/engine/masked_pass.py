"""Step 2 of `circuit.engine.mask_gradient`: a forward pass with mask value m on every edge, and a backward pass.

MaskedPass   both passes, and what they leave for the scores: activations and gradients

done = MaskedPass(model, batch, ablated, m=0.5).run(Method())
done.z[2]                                            # what the heads of block 2 wrote: [batch, pos, n_heads, d_head]
done.gradients[model.final_hook]                     # dL/dx of the final residual: [batch, pos, d_model]
"""

from __future__ import annotations

from functools import partial
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from circuit.edges.method import Method
from circuit.engine.ablation import Activations
from circuit.engine.backward_rules import HEAD_FACTORS, PRODUCT_FACTOR, Part, scaled_gradient
from circuit.engine.dataset import PromptPairBatch
from circuit.engine.hooks import Hook
from circuit.engine.loss import loss
from circuit.engine.model import PatchableModel, at_last
from circuit.engine.pass_hooks import PassHooks


class MaskedPass(PassHooks):
    """One forward pass with mask value m on every edge, and one backward pass from the loss to activations.

    Its hooks stand below in the order in which the model calls them.

    Args:
        model: The model.
        batch: The prompts, on the model's device; the clean ones go in.
        ablated: What replaces the sources. Its streams are read unless m is 0.
        m: The mask value of every edge, in [0, 1].
        parts: By which rules gradients go back: see `circuit.engine.backward_rules`.

    Attributes:
        embedding: The embedding of every token.
        z: By block, what its heads hand to the output projection.
        mlp: By block, what its MLP writes. That of the last block may hold the last tokens alone, [batch, 1, d_model]:
            no gradient reaches the others.
        attention_input: By block, what its attention reads, before the layer norm.
        head_inputs: By hook, queries, keys and values.
        gradients: By hook, the gradient of the loss at queries, keys and values, at what each MLP reads, and at the
            final residual.
    """

    embedding: Float[Tensor, "batch pos d_model"]

    def __init__(
        self,
        model: PatchableModel,
        batch: PromptPairBatch,
        ablated: Activations,
        m: float,
        parts: frozenset[Part] = frozenset(),
    ) -> None:
        self.parts = parts
        self._model = model
        self._batch = batch
        self._m = m
        none: list[Tensor | None] = [None] * model.n_layers
        self._attention_streams = none if m == 0 else ablated.attention_stream
        # where the MLP shares the attention's norm, what comes out of that norm is masked already
        self._mlp_streams = none if m == 0 or model.shares_norm else ablated.mlp_stream
        self._final_stream = None if m == 0 else ablated.final_stream
        self._differentiated: dict[str, Tensor] = {}
        self.z: dict[int, Float[Tensor, "batch pos n_heads d_head"]] = {}
        self.mlp: dict[int, Float[Tensor, "batch pos d_model"]] = {}
        self.attention_input: dict[int, Float[Tensor, "batch pos d_model"]] = {}
        self.head_inputs: dict[str, Float[Tensor, "batch pos heads d_head"]] = {}
        self.gradients: dict[str, Tensor] = {}

    def run(self, method: Method) -> Self:
        """Run both passes; the loss is that of `method`."""
        with self._model.activations_only():
            logits = self._model.logits(self._batch.clean, self._batch.last, self.hooks(), parts=self.parts)
            value = loss(logits, self._batch, method)
            names, inputs = list(self._differentiated), list(self._differentiated.values())
            self._differentiated.clear()
            self.gradients = dict(zip(names, torch.autograd.grad(value, inputs, materialize_grads=True), strict=True))
        return self

    def _write_embedding(self, x: Tensor, hook: object) -> Tensor:
        self.embedding = x.detach()
        return x.detach().requires_grad_()  # the graph starts here

    def _read_attention(self, layer: int, x: Tensor, hook: object) -> Tensor:
        x = self._masked(x, self._attention_streams[layer])
        self.attention_input[layer] = x.detach()
        return x

    def _head_hooks(self, layer: int) -> list[Hook]:
        factors = HEAD_FACTORS if "factors" in self.parts else (1.0, 1.0, 1.0)
        names = self._model.head_input_hooks(layer)
        return [(name, partial(self._read_head, name, factor)) for name, factor in zip(names, factors, strict=True)]

    def _read_head(self, name: str, factor: float, x: Tensor, hook: object) -> Tensor:
        self._differentiated[name] = x
        self.head_inputs[name] = x.detach()
        return x if factor == 1 else scaled_gradient(x, factor)

    def _write_heads(self, layer: int, x: Tensor, hook: object) -> Tensor | None:
        self.z[layer] = x.detach()
        return None

    def _read_mlp(self, layer: int, x: Tensor, hook: object) -> Tensor:
        self._differentiated[self._model.mlp_hook(layer)] = x = self._masked(x, self._mlp_streams[layer])
        # What the last MLP writes is read at each prompt's last token only, so it is run on these alone.
        is_last = layer == self._model.n_layers - 1 and self._model.adds_mlp_by_position
        return at_last(x, self._batch.last) if is_last else x

    def _gate_hooks(self, layer: int) -> list[Hook]:
        gated = "product" in self.parts and self._model.has_gates
        return [(self._model.mlp_product_hook(layer), self._multiply_gates)] if gated else []

    def _multiply_gates(self, x: Tensor, hook: object) -> Tensor:
        return scaled_gradient(x, PRODUCT_FACTOR)

    def _write_mlp(self, layer: int, x: Tensor, hook: object) -> Tensor | None:
        self.mlp[layer] = x.detach()
        return None

    def _read_final(self, x: Tensor, hook: object) -> Tensor:
        self._differentiated[self._model.final_hook] = x = self._masked(x, self._final_stream)
        return x

    def _masked(self, x: Tensor, stream: Tensor | None) -> Tensor:
        """x + m (stream - x), as a view of its own, so that its gradient is this branch's and not also the residual
        stream's."""
        return x.view_as(x) if stream is None else torch.lerp(x, stream.to(x), self._m)
