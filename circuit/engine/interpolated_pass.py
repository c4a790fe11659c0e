"""Step 2 of `circuit.engine.mask_gradient` along the paths other than masks: sources are moved, and no edge is masked.

InterpolatedPass   a forward pass in which one group of sources is on its way to what replaces it, and the backward
                   pass; differences are those between the clean prompt and the replacement
group_count        the groups of a model: the embedding, and of each block its heads together and its MLP

InterpolatedPass(model, batch, recorded, ablated, m=0.4).run(method)         # 0.4 of the way from clean to corrupt
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from circuit.edges.method import Method
from circuit.engine.ablation import Activations
from circuit.engine.backward_rules import Part
from circuit.engine.dataset import PromptPairBatch
from circuit.engine.masked_pass import MaskedPass
from circuit.engine.model import PatchableModel, at_last

EMBEDDING = 0
"""The first group of sources."""


def group_count(model: PatchableModel) -> int:
    """How many groups of sources a model has: the embedding, then of each block its heads together, then its MLP."""
    return 1 + 2 * model.n_layers


class InterpolatedPass(MaskedPass):
    """A forward pass in which what one group of sources writes is `(1 - m) * clean + m * ablated`; all else follows.

    What it leaves for the scores is as in `MaskedPass`, except that `embedding`, `z` and `mlp` are those of the clean
    prompt, so that a_s - c_s is the same at every point of the path (EAP-IG, Hanna et al. 2024,
    https://arxiv.org/abs/2403.17806).

    Args:
        model: The model.
        batch: The prompts, on the model's device; the clean ones go in.
        clean: What the sources write on the clean prompts.
        ablated: What replaces the sources.
        m: The share of the way, in [0, 1].
        group: Which sources are moved: see `group_count`.
        parts: By which rules gradients go back: see `circuit.engine.backward_rules`.
        as_published: Where the embedding itself is moved, leave out the gradients at what reads nothing else, unless
            the model adds position embeddings to it. EAP-IG's code does so, since nothing that they could be
            differentiated by is left.
    """

    def __init__(
        self,
        model: PatchableModel,
        batch: PromptPairBatch,
        clean: Activations,
        ablated: Activations,
        m: float,
        group: int = EMBEDDING,
        parts: frozenset[Part] = frozenset(),
        *,
        as_published: bool = False,
    ) -> None:
        super().__init__(model, batch, ablated, 0.0, parts)
        self._share = m
        self._ablated = ablated
        self._as_published = as_published and group == EMBEDDING and not model.embeds_positions
        self._layer, self._is_mlp = divmod(group - 1, 2)  # the embedding's layer is -1
        self.embedding = clean.embedding
        self.z = dict(enumerate(clean.z))
        self.mlp = dict(enumerate(clean.mlp))

    def run(self, method: Method) -> Self:
        super().run(method)
        if self._as_published:
            first = [*self._model.head_input_hooks(0), *([self._model.mlp_hook(0)] if self._model.parallel else [])]
            self.gradients |= {name: torch.zeros_like(self.gradients[name]) for name in first}
        return self

    def _write_embedding(self, x: Tensor, hook: object) -> Tensor:
        return self._moved(self.embedding, self._ablated.embedding) if self._layer < 0 else x.detach().requires_grad_()

    def _write_heads(self, layer: int, x: Tensor, hook: object) -> Tensor | None:
        if layer != self._layer or self._is_mlp:
            return None
        return self._moved(self.z[layer], self._ablated.z[layer])

    def _write_mlp(self, layer: int, x: Tensor, hook: object) -> Tensor | None:
        if layer != self._layer or not self._is_mlp:
            return None
        moved = self._moved(self.mlp[layer], self._ablated.mlp[layer])
        return at_last(moved, self._batch.last) if x.shape[1] < moved.shape[1] else moved

    def _moved(self, clean: Tensor, ablated: Tensor) -> Tensor:
        return torch.lerp(clean, ablated.to(clean).expand_as(clean), self._share).requires_grad_()
