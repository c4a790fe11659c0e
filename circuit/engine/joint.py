"""Joint projections: queries, keys and values by one layer (GPT-2, GPT-NeoX), and the three that run in its place.

The bridge makes a layer each for queries, keys and values, whose weights are views of the joint one's (GPT-2) or copies
(GPT-NeoX; GPT-2 too once it was moved or cast). It is these that run, and that edge scores read: they may differ from
the joint ones, in a bridge whose weights were processed or edited. Where they were the same, and the joint weights are
changed, the three follow:

    joints = JointProjections(bridge)
    bridge.blocks[0].attn.qkv.weight.data.zero_()
    joints.follow()                                   # the three are zero too
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge.generalized_components import JointQKVAttentionBridge

from circuit.common.errors import ModelError


class JointProjections:
    """The joint projections of a bridge, as they are now."""

    def __init__(self, bridge: Any) -> None:
        joints = [block.attn for block in bridge.blocks if isinstance(block.attn, JointQKVAttentionBridge)]
        self._joints = [_Joint(f"blocks.{layer}.attn", attention) for layer, attention in enumerate(joints)]

    def follow(self) -> None:
        """Copy to the three layers what was changed in their joint projection since the last time.

        Raises:
            ModelError: When both were changed, so that nobody knows which is meant; names the block.
        """
        for joint in self._joints:
            joint.follow()


class _Joint:
    def __init__(self, name: str, attention: Any) -> None:
        self._name = name
        self._attention = attention
        self._layers = [getattr(attention, kind).original_component for kind in "qkv"]
        self._same = self._shares_memory() or self._is_same()
        self._remember()

    @property
    def _joint(self) -> Any:
        return self._attention.qkv.original_component

    @torch.no_grad()
    def follow(self) -> None:
        if self._shares_memory():
            if not self._same or self._joint_sums is not None:
                self._same = True
                self._remember()
            return
        if not self._joint_changed():
            if self._joint_sums is None:  # the three are no views any more
                self._same = self._is_same()
                self._remember()
            return
        if self._is_same():
            self._same = True
        elif self._same and self._layers_mark == _mark(*self._layers):
            for layer, part in zip(self._layers, self._split(), strict=True):
                layer.weight.copy_(part.weight)
                if layer.bias is not None:
                    layer.bias.copy_(part.bias)
        elif self._same or self._joint_kind == _kind(self._joint):
            raise ModelError(
                f"The joint projection of {self._name} was changed, and so were the layers for queries, keys and "
                "values that the bridge runs in its place: change either, and load the model again."
            )
        self._remember()

    def _remember(self) -> None:
        self._joint_mark, self._layers_mark = _mark(self._joint), _mark(*self._layers)
        self._joint_sums = None if self._shares_memory() else _sums(self._joint)
        self._joint_kind = _kind(self._joint)

    def _joint_changed(self) -> bool:
        """Also in place through `.data`, which no counter of versions tells."""
        if self._joint_sums is None or self._joint_kind != _kind(self._joint):
            return _mark(self._joint) != self._joint_mark
        return not all(map(_equal, self._joint_sums, _sums(self._joint)))

    def _shares_memory(self) -> bool:
        mine = {each.untyped_storage().data_ptr() for each in _tensors(self._joint)}
        return {each.untyped_storage().data_ptr() for layer in self._layers for each in _tensors(layer)} == mine

    def _is_same(self) -> bool:
        pairs = zip(self._layers, self._split(), strict=True)
        return all(all(map(_equal, _tensors(layer), _tensors(part))) for layer, part in pairs)

    def _split(self) -> list[Any]:
        return list(self._attention.split_qkv_matrix(self._attention.original_component))


def _tensors(layer: Any) -> list[Tensor]:
    return [each.detach() for each in (layer.weight, layer.bias) if each is not None]


def _mark(*layers: Any) -> list[tuple[int, int]]:
    """What tells that weights were replaced, or changed in place."""
    return [(p.data_ptr(), p._version) for layer in layers for p in (layer.weight, layer.bias) if p is not None]


def _kind(layer: Any) -> tuple[torch.dtype, torch.device]:
    return layer.weight.dtype, layer.weight.device


def _sums(layer: Any) -> list[Tensor]:
    """A few numbers that change with the weights: much quicker to make than to compare all."""
    return [each.sum(-1) if each.ndim > 1 else each.clone() for each in _tensors(layer)]


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape or a.device != b.device:
        return False
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())
