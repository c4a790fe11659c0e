"""Ablated minus current activations: what an edge would pass on if it were ablated, less what it passes on now.

    TokenBlock    some prompts and positions of a batch, in one order
    Differences   a_s - c_s of every source, as d_model numbers a token: the A - C of the algorithm

    block = TokenBlock.whole(n_prompts, n_positions)
    differences = Differences(model, ablated, block)
    differences.embedding(x)
    differences.heads(0, z)
    differences.values[0]                                # [prompts, positions, d_model]

All sources of a long batch are the largest thing that attribution would ever hold, so they are formed a block of tokens
at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuit.ablation import Activations
from circuit.patchable import PatchableModel
from circuit.products import batched


@dataclass(frozen=True)
class TokenBlock:
    """Prompts and positions of a batch. `outer` and `inner` are the two axes in the order in which tokens are laid out.

    A sum over one of them that keeps the other apart is one matrix product an entry of the outer axis, without a copy;
    a sum over both is one product.
    """

    prompts: range
    positions: range
    positions_first: bool = False

    @classmethod
    def whole(cls, n_prompts: int, n_positions: int, positions_first: bool = False) -> TokenBlock:
        return cls(range(n_prompts), range(n_positions), positions_first)

    def split(self, n_tokens: int) -> list[TokenBlock]:
        """The same tokens in blocks of at most `n_tokens`, about equal: all prompts and few positions, as far as
        that goes."""
        n_positions = _even(len(self.positions), n_tokens // len(self.prompts))
        n_prompts = _even(len(self.prompts), n_tokens // n_positions)
        return [
            TokenBlock(
                self.prompts[i : i + n_prompts],
                self.positions[j : j + n_positions],
                self.positions_first,
            )
            for i in range(0, len(self.prompts), n_prompts)
            for j in range(0, len(self.positions), n_positions)
        ]

    @property
    def outer(self) -> range:
        return self.positions if self.positions_first else self.prompts

    @property
    def shape(self) -> tuple[int, int]:
        inner = self.prompts if self.positions_first else self.positions
        return len(self.outer), len(inner)

    def __len__(self) -> int:
        return len(self.prompts) * len(self.positions)

    def of(self, x: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "outer inner *rest"]:
        """This block of an activation, as a view. An axis of length 1 stands for all, and stays."""
        for axis, part in enumerate((self.prompts, self.positions)):
            if len(part) != x.shape[axis] and (x.shape[axis] > 1 or not part):
                x = x.narrow(axis, part.start, len(part))
        return x.transpose(0, 1) if self.positions_first else x


def _even(n: int, most: int) -> int:
    """The size of parts of at most `most` (at least 1) into which n can be cut so that the last is hardly smaller."""
    n_parts = -(-n // max(most, 1))
    return -(-n // n_parts) if n_parts else 1


class Differences:
    """Ablated minus current activations of every source: `values[source]` is a_s - c_s.

    Sources are written in the model's order, each straight into its place, so that the destinations of a layer read one
    contiguous matrix `values[:n_sources]`.

    Args:
        model: The model.
        ablated: What replaces the sources.
        block: The tokens that are wanted.
        memory: Where to put them, and in which precision: at least `n_values` numbers; None makes room, in float32.
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
