"""The parts of a model: which they are, and whether anything was put on them or in their places.

    Parts             the parts as they are now; `check` refuses what changed since, and what would not count everywhere
    check_unbridged   refuses a model that cannot be put under a bridge as it is
    check_readable    refuses parts whose weights edge scores cannot read

Edge scores read weights, and run layer norms, beside the model's own passes. A hook of PyTorch's, or a `forward` of a
part's own, would count in the one and not in the other, so a model with any is refused, by the part's name. Hooks on
the bridge's hook points (`bridge.hooks`, `add_hook`) are no such hooks: nobody calls them, and they change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.nn.modules.module import _has_any_global_hook
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformers.pytorch_utils import Conv1D

from circuit.common.errors import ModelError
from circuit.engine.norms import read_norm

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_INSIDE = "_original_component"
"""What a bridge's component calls the part that it stands for."""
_WHY = "Edge scores read weights and run layer norms beside the model's own passes, where it would not count"


class _Part(NamedTuple):
    name: str
    module: Any
    kind: type
    children: list[int]


class Parts:
    """The modules of a model, without the bridge's hook points.

    Args:
        model: A Hugging Face model, under a bridge or not.
        bridge: The TransformerLens bridge around it, if there is one.
    """

    def __init__(self, model: Any, bridge: Any = None) -> None:
        found = [("", model), *_named(model, "", {id(model)})]
        if bridge is not None:
            found.append(("", bridge))
        self._parts = [_Part(name, module, type(module), _children(module)) for name, module in found]
        self.modules = [part.module for part in self._parts]

    def check(self) -> None:
        """Nothing where every part is the one it was, with its own `forward` and without hooks of PyTorch's.

        Raises:
            ModelError: Otherwise; names the part, and says what to do.
        """
        if _has_any_global_hook():
            raise ModelError(f"PyTorch calls a hook on all modules. {_WHY}: remove it (handle.remove()).")
        for name, module, kind, children in self._parts:
            attributes = vars(module)
            if type(module) is not kind or _children(module) != children:
                raise _changed(name, module, children)
            _check_untouched(name, attributes)

    def parameters(self) -> Iterator[Any]:
        """The parameters that the parts have now. A tied one comes more than once."""
        for module in self.modules:
            for parameter in vars(module)["_parameters"].values():
                if parameter is not None:
                    yield parameter


def check_unbridged(model: Any) -> None:
    """Nothing where a Hugging Face model is under no bridge yet, and nothing was put on its parts.

    Raises:
        ModelError: Otherwise; says what to do.
    """
    if any(isinstance(module, GeneralizedComponent) for module in model.modules()):
        raise ModelError(
            "This model is wrapped already: use the PatchableModel that wrap() returned, or PatchableModel(bridge), or "
            "load the model again."
        )
    Parts(model).check()


def check_readable(name: str, part: Any, kind: str) -> None:
    """Nothing where `part`, a `kind` ("projection" or "layer norm"), computes what edge scores take it to compute.

    Raises:
        ModelError: Otherwise; names the part.
    """
    forward = type(part).forward
    if kind == "projection":
        known = forward in (torch.nn.Linear.forward, Conv1D.forward) and part.weight.is_floating_point()
    else:
        known = read_norm(part) is not None
    if not known:
        raise ModelError(
            f"{name} is a {type(part).__name__}, not a plain {kind}, and edge scores would read it wrongly. Merge "
            "adapters into the weights (merge_and_unload), and load weights in float32, bfloat16 or float16."
        )


def _named(module: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """All modules below, by the names that Hugging Face gives them: a component has the name of its part."""
    children = [(key, child) for key, child in module._modules.items() if child is not None]
    for key, child in sorted(children, key=lambda each: each[0] != _INSIDE):
        if id(child) in seen or isinstance(child, HookPoint):
            continue
        seen.add(id(child))
        called = name if key == _INSIDE else f"{name}.{key}".lstrip(".")
        yield called, child
        yield from _named(child, called, seen)


def _children(module: Any) -> list[int]:
    return list(map(id, vars(module)["_modules"].values()))


def _called(name: str) -> str:
    return f"The part {name} of this model" if name else "The model"


def _changed(name: str, module: Any, children: list[int]) -> ModelError:
    now = vars(module)["_modules"]
    if "parametrizations" in now:
        return _parametrized(name)
    new = next((key for key, child in now.items() if id(child) not in children), None)
    place = name if new in (None, _INSIDE) else f"{name}.{new}".lstrip(".")
    return ModelError(
        f"{_called(place)} was replaced after the model was wrapped, and would be left out: load the model again, put "
        "the part in its place, and wrap it then."
    )


def _check_untouched(name: str, attributes: dict[str, Any]) -> None:
    for kind in _HOOKS:
        for hook in attributes[kind].values() if attributes[kind] else ():
            if not (getattr(hook, "__module__", None) or "").startswith("transformer_lens."):
                raise ModelError(
                    f"{_called(name)} has a hook of PyTorch's on it ({kind.strip('_').removesuffix('s')}). {_WHY}: "
                    "remove it (handle.remove()). Hooks given to PatchableModel.logits are called."
                )
    if "_hf_hook" in attributes:
        raise ModelError(
            f"{_called(name)} is moved between devices by accelerate (device_map), which edge scores do not support: "
            "load the whole model on one device."
        )
    if "forward" in attributes:
        raise ModelError(
            f"{_called(name)} has a forward of its own in the place of its class's. {_WHY}: delete it "
            "(del part.forward)."
        )
    if "parametrizations" in attributes["_modules"]:
        raise _parametrized(name)
    if attributes.get("_compiled_call_impl") is not None or "_orig_mod" in attributes["_modules"]:
        raise ModelError(
            f"{_called(name)} is compiled (torch.compile), which keeps hooks out: use the model as it was."
        )


def _parametrized(name: str) -> ModelError:
    return ModelError(
        f"{_called(name)} computes its weights from others (torch.nn.utils.parametrize), which edge scores do not "
        "follow: call torch.nn.utils.parametrize.remove_parametrizations first."
    )
