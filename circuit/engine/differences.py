"""Step 3 of `circuit.engine.mask_gradient`: what an edge would pass on if it were ablated, less what it does now.

    Differences   a_s - c_s of every source, as d_model numbers per token: the A - C of the algorithm

    block = TokenBlock.whole(n_prompts, n_positions)
    differences = Differences(model, ablated, block)
    differences.embedding(x)
    differences.heads(0, z)
    differences.values[0]                                # [prompts, positions, d_model]

All sources of a long batch are the largest thing that attribution would ever hold, so they are formed a block of tokens
at a time.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from circuit.engine.ablation import Activations
from circuit.engine.matmul import batched
from circuit.engine.model import PatchableModel
from circuit.engine.token_block import TokenBlock


class Differences:
    """Ablated minus current activations of every source: `values[source]` is a_s - c_s.

    Sources are written in the model's order, each straight into its place, so that the destinations of a layer read one
    contiguous matrix `values[:n_sources]`.

    Args:
        model: The model.
        ablated: What replaces the sources.
        block: The tokens that are wanted.
        memory: Where to put them, and in which precision: at least `n_values` numbers; None allocates it, in float32.
    """

    def __init__(
        self, model: PatchableModel, ablated: Activations, block: TokenBlock, memory: Tensor | None = None
    ) -> None:
        self._model = model
        self._ablated = ablated
        self._block = block
        n_values = self.n_values(model, block)
        if memory is None:
            memory = torch.empty(n_values, device=model.device)
        shape = (model.graph.n_sources, *block.shape, model.d_model)
        self.values: Float[Tensor, "n_sources outer inner d_model"] = memory[:n_values].view(shape)

    @staticmethod
    def n_values(model: PatchableModel, block: TokenBlock) -> int:
        """How many numbers the differences of a block of tokens are."""
        return model.graph.n_sources * len(block) * model.d_model

    @torch.no_grad()
    def embedding(self, current: Float[Tensor, "batch pos d_model"]) -> None:
        self._subtract(0, self._ablated.embedding, current)

    @torch.no_grad()
    def heads(self, layer: int, z: Float[Tensor, "batch pos n_heads d_head"]) -> None:
        """Expand the difference of `z`, not z itself: one product through W_O for ablated and current together."""
        first = self._model.graph.first_head(layer)
        out = self.values[first : first + self._model.n_heads].flatten(1, 2)
        difference = self._block.of(self._ablated.z[layer]).float() - self._block.of(z).float()
        W_O = self._model.weights(layer).W_O.to(out)
        batched(difference.to(out).permute(2, 0, 1, 3).flatten(1, 2), W_O.transpose(1, 2), out=out)

    @torch.no_grad()
    def mlp(self, layer: int, current: Float[Tensor, "batch pos d_model"]) -> None:
        self._subtract(self._model.graph.first_head(layer) + self._model.n_heads, self._ablated.mlp[layer], current)

    def _subtract(self, source: int, ablated: Tensor, current: Tensor) -> None:
        out = self.values[source]
        torch.sub(self._block.of(ablated).float().expand_as(out), self._block.of(current).float(), out=out)
