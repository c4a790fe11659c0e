"""The Hugging Face model under a TransformerLens bridge, run without the bridge.

A bridge puts a component in the place of every part of the model, with hook points before and after. Going through
them, and looking hook points up by name, takes two to three times as long as launching a pass of the model itself,
which is what a pass of a small model takes on a GPU. Here the parts are back in their places while a pass runs, and
hooks are called between them, where the bridge has its hook points:

    unbridged = Unbridged(bridge)
    with unbridged.hooked([("blocks.0.attn.hook_q", hook)], tokens.shape):
        logits = bridge.original_model(input_ids=tokens).logits

Where queries, keys and values are one joint projection (GPT-2, GPT-NeoX), the bridge keeps a linear layer for each, and
these run in its place: edge scores read their weights, and they may differ from the joint ones, in a bridge whose
weights were processed (`enable_compatibility_mode`) or edited.

Only hook points that are the input or output of a part have a place here, and see what they see in the bridge.
Attention scores and patterns are intermediate results of TransformerLens's own attention, and hooks on them need the
bridge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformer_lens.model_bridge.generalized_components import JointQKVAttentionBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

from circuit.common.errors import OptionError

Hook = tuple[str, Callable[..., Tensor | None]]
"""The name of a hook point, and a function of what passes there and of `hook`, the hook point. Unless it returns None,
what it returns goes on instead."""
_NO_PLACE = (
    (re.compile(r"(pos_)?embed\.hook_in"), "token ids pass there, not activations"),
    (re.compile(r"rotary_emb\.hook_(in|out)|hook_pos_embed"), "TransformerLens calls no hooks there"),
    (re.compile(r"blocks\.\d+\.attn\.qkv\.hook_(in|out)"), "a layer each for queries, keys and values runs instead"),
    (re.compile(r"blocks\.\d+\.attn\.[qk]_norm\.\w+"), "heads and positions come in another order than in the bridge"),
)
"""Hook points before or after a part that are none without the bridge, unless one has a name besides, and why."""
_AXIS_OF_KIND = {"gpt2": -3, "gpt_neox": -2}
"""Where queries, keys and values are one joint projection: the axis that tells them apart, once its output is split,
[..., 3, n_heads, d_head] or [..., n_heads, 3, d_head]."""


class _Place(NamedTuple):
    """Where a hook point is: before or after a part. `d_head`: the size of heads, where hooks see them apart."""

    part: Any
    before: bool
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
        self._d_head: int = bridge.cfg.d_head
        joints = [component for *_, component in self._components if isinstance(component, JointQKVAttentionBridge)]
        self._axis_of_kind = _AXIS_OF_KIND[bridge.original_model.config.model_type] if joints else 0
        self._apart = {_part(each.qkv): [_part(each.q), _part(each.k), _part(each.v)] for each in joints}
        places = {}
        for component in bridge.modules():
            # one without a name stands for several parts, and takes the block around them for its own
            if isinstance(component, GeneralizedComponent) and component.name is not None:
                for before, point in ((True, component.hook_in), (False, component.hook_out)):
                    d_head = getattr(point.hook_conversion, "d_head", None)
                    places[id(point)] = _Place(_part(component), before, d_head, point)
        self._places = {name: places[id(point)] for name, point in bridge.hook_dict.items() if id(point) in places}

    @contextmanager
    def hooked(self, hooks: Iterable[Hook], shape: Sequence[int]) -> Iterator[None]:
        """Put the parts in their places and let hooks be called; all is as before on leaving.

        Args:
            hooks: Called in this order where several are at one place.
            shape: Prompts and positions, for parts that see them as one axis.

        Raises:
            OptionError: A hook point that is not the input or output of a part, or sees something else in the bridge.
        """
        calls: dict[Any, _Calls] = {joint: [] for joint in self._apart}
        for name, hook in hooks:
            place = self._place(name)
            calls.setdefault(place.part, []).append((place, hook))
        try:
            for parent, name, component in self._components:
                parent._modules[name] = _part(component)
            with replaced_forwards(list(calls), lambda part: self._forward(part, calls[part], tuple(shape))):
                yield
        finally:
            for parent, name, component in self._components:
                parent._modules[name] = component

    def _place(self, name: str) -> _Place:
        why = next((why for pattern, why in _NO_PLACE if pattern.fullmatch(name)), None)
        if why is not None:
            raise OptionError(f"Nothing can be hooked at '{name}': {why}.")
        if name not in self._places:
            raise OptionError(f"The hook point '{name}' is not the input or output of a part of this model.")
        return self._places[name]

    def _forward(self, part: Any, calls: _Calls, shape: tuple[int, ...]) -> Callable[..., Any]:
        """The part's forward, with hooks called before and after it."""
        inner = partial(self._joined, self._apart[part]) if part in self._apart else part.forward
        before, after = ([call for call in calls if call[0].before == side] for side in (True, False))

        def forward(*inputs: Any, **others: Any) -> Any:
            if before and inputs:
                inputs = (_call(before, inputs[0], shape), *inputs[1:])
            elif before:
                others["hidden_states"] = _call(before, others["hidden_states"], shape)
            output = inner(*inputs, **others)
            if after and isinstance(output, tuple):  # attention hands its pattern out too
                return (_call(after, output[0], shape), *output[1:])
            return _call(after, output, shape) if after else output

        return forward

    def _joined(self, layers: Sequence[Any], x: Tensor) -> Tensor:
        """What a joint projection makes of x, by a layer each for queries, keys and values."""
        kinds = [layer(x).unflatten(-1, (-1, self._d_head)) for layer in layers]
        return torch.stack(kinds, self._axis_of_kind).flatten(-3)


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
        if isinstance(child, GeneralizedComponent) and _part(child) is not None:
            yield module, name, child
            yield from _components(_part(child))
        elif child is not None:
            yield from _components(child)


def _part(component: Any) -> Any:
    """What a bridge's component stands for."""
    return component._modules.get("_original_component")


@contextmanager
def replaced_forwards(modules: Sequence[Any], forward_of: Callable[[Any], Callable[..., Tensor]]) -> Iterator[None]:
    """Let each module's `forward` be `forward_of(module)`, and be as before on leaving."""
    before = [vars(module).get("forward") for module in modules]
    try:
        for module in modules:
            vars(module)["forward"] = forward_of(module)
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = forward
