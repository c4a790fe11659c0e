"""What a run could leave behind, and how it is stopped."""

from __future__ import annotations

from typing import Any

import torch

from circuit.engine.model import PatchableModel


def traces(model: PatchableModel) -> list[Any]:
    """Everything that a run could leave behind: hooks, gradients, what requires one, and the mode."""
    modules = list(model.bridge.modules()) + list(model.bridge.original_model.modules())
    parameters = list(model.bridge.original_model.parameters())
    return [
        [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), m.training) for m in modules],
        [(len(m.fwd_hooks), len(m.bwd_hooks)) for m in modules if hasattr(m, "fwd_hooks")],
        [(p.requires_grad, p.grad is None) for p in parameters],
        torch.is_grad_enabled(),
    ]


class StopAfter:
    """A `cancelled` that says yes once this many steps are done."""

    def __init__(self, steps: int) -> None:
        self.steps, self.done = steps, 0

    def report(self, step: int, total: int, message: str) -> None:
        self.done = step

    def __call__(self) -> bool:
        return self.done >= self.steps
