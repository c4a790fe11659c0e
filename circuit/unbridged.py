"""The Hugging Face model under a TransformerLens bridge, run without the bridge.

A bridge puts a component in the place of every part of the model, with hook points before and after. Going through
them, and looking hook points up by name, takes two to three times as long as launching a pass of the model itself,
which is what a pass of a small model takes on a GPU. Here the parts are back in their places while a pass runs, and
hooks are called between them, at the places of the bridge's hook points and on tensors of the same shape:

    unbridged = Unbridged(bridge)
    with unbridged.hooked([("blocks.0.attn.hook_q", hook)], tokens.shape):
        logits = bridge.original_model(input_ids=tokens).logits

Where queries, keys and values are one joint projection (GPT-2, GPT-NeoX), the bridge keeps a linear layer for each, and
these run in its place: edge scores read their weights, and they may differ from the joint ones, in a bridge whose
weights were processed (`enable_compatibility_mode`) or edited.

Only hook points that are the input or output of a part have a place here. Attention scores and patterns are
intermediate results of TransformerLens's own attention, and hooks on them need the bridge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformer_lens.model_bridge.generalized_components import JointQKVAttentionBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

from circuit.errors import OptionError
from circuit.forwards import replaced_forwards

Hook = tuple[str, Callable[..., Tensor | None]]
"""The name of a hook point, and a function of what passes there and of `hook`, the hook point. Unless it returns None,
what it returns goes on instead."""

_AXIS_OF_KIND = {"gpt2": -3, "gpt_neox": -2}
"""Where queries, keys and values are one joint projection: the axis that tells them apart, once its output is split,
[..., 3, n_heads, d_head] or [..., n_heads, 3, d_head]."""


class _Place(NamedTuple):
    """Where a hook point is: before or after a part; or on queries (0), keys (1) or values (2) of a joint one."""

    part: Any
    side: Literal["before", "after", "joint"]
    kind: int
    d_head: int | None
    point: Any


_Calls = list[tuple[_Place, Callable[..., Tensor | None]]]


class Unbridged:
    """The model of a bridge, with its own parts in their places while it runs.

    Args:
        bridge: A TransformerLens `TransformerBridge`.
    """

    def __init__(self, bridge: Any) -> None:
        self._components = list(_components(bridge.original_model))
        self._axis_of_kind = _AXIS_OF_KIND.get(bridge.original_model.config.model_type)
        self._joints = _joints(bridge)
        self._d_head: int = bridge.cfg.d_head
        at = _places(bridge)
        self._places = {name: at[id(point)] for name, point in bridge.hook_dict.items() if id(point) in at}

    @contextmanager
    def hooked(self, hooks: Iterable[Hook], shape: Sequence[int]) -> Iterator[None]:
        """Put the parts in their places and let hooks be called; all is as before on leaving.

        Args:
            hooks: Called in this order where several are at one place.
            shape: Prompts and positions, for parts that see them as one axis.

        Raises:
            OptionError: A hook point that is not the input or output of a part.
        """
        calls: dict[Any, _Calls] = {joint: [] for joint in self._joints}
        for name, hook in hooks:
            if name not in self._places:
                raise OptionError(f"The hook point '{name}' is not the input or output of a part of this model.")
            place = self._places[name]
            calls.setdefault(place.part, []).append((place, hook))
        try:
            for parent, name, component in self._components:
                parent._modules[name] = component._modules["_original_component"]
            with replaced_forwards(list(calls), lambda part: self._forward(part, calls[part], tuple(shape))):
                yield
        finally:
            for parent, name, component in self._components:
                parent._modules[name] = component

    def _forward(self, part: Any, calls: _Calls, shape: tuple[int, ...]) -> Callable[..., Any]:
        """The part's forward, with hooks called before and after it."""
        inner = part.forward
        before, after, joint = ([c for c in calls if c[0].side == side] for side in ("before", "after", "joint"))

        def forward(*inputs: Any, **others: Any) -> Any:
            if before and inputs:
                inputs = (_call(before, inputs[0], shape), *inputs[1:])
            elif before:
                others["hidden_states"] = _call(before, others["hidden_states"], shape)
            output = self._apart(part, inputs[0], joint) if part in self._joints else inner(*inputs, **others)
            return _call(after, output, shape) if after else output

        return forward

    def _apart(self, part: Any, x: Tensor, calls: _Calls) -> Tensor:
        """Queries, keys and values, each by a layer of its own, with hooks called on them; joined as the part does."""
        axis, heads = self._axis_of_kind, (-1, self._d_head)
        assert axis is not None
        kinds = [layer(x).unflatten(-1, heads) for layer in self._joints[part]]
        for place, hook in calls:
            found = hook(kinds[place.kind], hook=place.point)
            kinds[place.kind] = kinds[place.kind] if found is None else found
        return torch.stack(kinds, axis).flatten(-3)


def _call(calls: _Calls, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What the hooks at one place make of x: they see prompts and positions apart, and heads, where these are."""
    for place, hook in calls:
        seen = x.unflatten(0, shape) if x.ndim == 2 else x
        seen = seen if place.d_head is None else seen.unflatten(-1, (-1, place.d_head))
        found = hook(seen, hook=place.point)
        if found is None:
            continue
        found = found if place.d_head is None else found.flatten(-2)
        x = found.flatten(0, 1) if x.ndim == 2 else found
    return x


def _components(module: Any) -> Iterator[tuple[Any, str, Any]]:
    """Every place in the model where a bridge's component stands for a part: the parent, the name, the component."""
    for name, child in module._modules.items():
        if isinstance(child, GeneralizedComponent) and child._modules.get("_original_component") is not None:
            yield module, name, child
            yield from _components(child._modules["_original_component"])
        elif child is not None:
            yield from _components(child)


def _places(bridge: Any) -> dict[int, _Place]:
    """The places of all hook points that are the input or output of a part, by the hook point's id."""
    places: dict[int, _Place] = {}
    for component in bridge.modules():
        if isinstance(component, GeneralizedComponent) and "_original_component" in component._modules:
            part = component._modules["_original_component"]
            for side, point in (("before", component.hook_in), ("after", component.hook_out)):
                places[id(point)] = _Place(part, side, 0, _d_head(point), point)  # type: ignore[arg-type]
    for attention in bridge.modules():
        if isinstance(attention, JointQKVAttentionBridge):
            joint = attention.qkv._modules["_original_component"]
            for kind, component in enumerate((attention.q, attention.k, attention.v)):
                point = component.hook_out
                places[id(point)] = _Place(joint, "joint", kind, _d_head(point), point)
                places.pop(id(component.hook_in), None)  # a part that TransformerLens made, and only it runs
    return places


def _joints(bridge: Any) -> dict[Any, list[Any]]:
    """The joint projections of queries, keys and values, and the bridge's layers for each of the three."""
    return {
        attention.qkv._modules["_original_component"]: [
            component._modules["_original_component"] for component in (attention.q, attention.k, attention.v)
        ]
        for attention in bridge.modules()
        if isinstance(attention, JointQKVAttentionBridge)
    }


def _d_head(point: Any) -> int | None:
    """The size of heads, where hooks see them apart."""
    return getattr(point.hook_conversion, "d_head", None)
