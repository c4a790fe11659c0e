"""Where a pass reaches into the model: one list of hooks for all passes, each of which says what its hooks do.

PassHooks   what the passes are made of: `circuit.engine.masked_pass`, `patched_pass`, `edge_mask_pass`
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from torch import Tensor

from circuit.engine.hooks import Hook
from circuit.engine.model import PatchableModel


class PassHooks:
    """The hooks of a forward pass. Its methods stand in the order in which the model calls them.

    Each is given what passes there, and the hook point. Unless it returns None, what it returns goes on instead.
    """

    _model: PatchableModel

    def hooks(self) -> list[Hook]:
        model = self._model
        hooks: list[Hook] = [(model.embedding_hook, self._write_embedding)]
        for layer in range(model.n_layers):
            hooks += [
                (model.attention_hook(layer), partial(self._read_attention, layer)),
                *self._head_hooks(layer),
                (model.head_output_hook(layer), partial(self._write_heads, layer)),
                (model.mlp_hook(layer), partial(self._read_mlp, layer)),
                *self._gate_hooks(layer),
                (model.mlp_output_hook(layer), partial(self._write_mlp, layer)),
            ]
        return [*hooks, (model.final_hook, self._read_final)]

    def _write_embedding(self, x: Tensor, hook: object) -> Tensor | None:
        raise NotImplementedError

    def _read_attention(self, layer: int, x: Tensor, hook: object) -> Tensor | None:
        raise NotImplementedError

    def _head_hooks(self, layer: int) -> Iterable[Hook]:
        """At queries, keys and values."""
        raise NotImplementedError

    def _write_heads(self, layer: int, x: Tensor, hook: object) -> Tensor | None:
        raise NotImplementedError

    def _read_mlp(self, layer: int, x: Tensor, hook: object) -> Tensor | None:
        raise NotImplementedError

    def _gate_hooks(self, layer: int) -> Iterable[Hook]:
        """At the product of gate and values of a gated MLP; most passes need none."""
        return ()

    def _write_mlp(self, layer: int, x: Tensor, hook: object) -> Tensor | None:
        raise NotImplementedError

    def _read_final(self, x: Tensor, hook: object) -> Tensor | None:
        raise NotImplementedError
