"""Paths and backward rules done slowly, in plain PyTorch: what the engine's methods are compared with.

    backward_rule      a Hugging Face model whose backward pass follows other rules, piece by piece
    slow_path_scores   scores along a path, by `SlowModel`'s copies of the stream and plain autograd
    slow_node_scores   the same for whole nodes

As in `slow_model`, nothing of the package under test is used. Every rule is one replaced function: a norm that divides
by a constant, an activation that multiplies by one, a softmax with a backward pass of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.slow_model import Prompts, Scores, SlowModel, slow_loss

ACTIVATIONS = ("act", "act_fn", "activation_fn")
FACTORS = {"q_proj": 0.25, "k_proj": 0.25, "v_proj": 0.5}

QUERY_KEY_NORM = re.compile(r"(q|k|query|key)_(layer)?norm")

RULES: dict[str, tuple[str, ...]] = {
    "gradient": (),
    "relp": ("norm", "activation", "product"),
    "relp+constant-attention": ("norm", "activation", "product", "pattern"),
    "gim": ("norm", "softmax", "factors", "product"),
    "linear-mlp+gim-attention": ("activation", "softmax", "factors"),
}
"""What each rule consists of."""


class _Softmax(torch.autograd.Function):
    """A softmax that is differentiated as if the temperature had been 2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward((x / 2).softmax(dim))
        ctx.dim = dim
        return x.softmax(dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (p,) = ctx.saved_tensors
        return p * (gradient - (p * gradient).sum(ctx.dim, keepdim=True)), None


def scaled(x: Tensor, factor: float) -> Tensor:
    """x, with `factor` times its gradient."""
    return x * factor + (x * (1 - factor)).detach()


def _is_norm(part: Any) -> bool:
    return any(hasattr(part, name) for name in ("eps", "variance_epsilon"))


def _frozen_norm(norm: Any) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        if type(norm).__name__.startswith("Cohere"):
            x = x - x.mean(-1, keepdim=True)
        elif isinstance(norm, torch.nn.LayerNorm):
            x = x - x.mean(-1, keepdim=True)
            scale = (x.square().mean(-1, keepdim=True) + norm.eps).sqrt().detach()
            y = x / scale
            return y if norm.weight is None else y * norm.weight + (0 if norm.bias is None else norm.bias)
        scale = (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt().detach()
        return x / scale * norm.weight

    return forward


def _linear_activation(activation: Any) -> Callable[[Tensor], Tensor]:
    inner = activation.forward

    def forward(x: Tensor) -> Tensor:
        away_from_zero = x + torch.where(x >= 0, 1e-6, -1e-6)  # as in the published code
        return x * (inner(x) / away_from_zero).detach() + (inner(x) - x * inner(x) / away_from_zero).detach()

    return forward


@contextmanager
def backward_rule(model: SlowModel, parts: Sequence[str]) -> Iterator[None]:
    """The model differentiated by other rules: some of "norm", "activation", "product", "softmax", "factors"."""
    replaced: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, value: Any) -> None:
        replaced.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, value)

    norms = [model.final]
    for block in model.blocks:
        norms += [block.get_submodule(name) for name in (model.norm1, model.norm2) if name]
        norms += [part for name, part in block.named_modules() if QUERY_KEY_NORM.search(name) and _is_norm(part)]
    softmax = F.softmax
    try:
        if "norm" in parts:
            for norm in norms:
                replace(norm, "forward", _frozen_norm(norm))
        for module in model.hf.modules():
            for name in ACTIVATIONS:
                if isinstance(getattr(module, name, None), torch.nn.Module) and "activation" in parts:
                    activation = getattr(module, name)
                    replace(activation, "forward", _linear_activation(activation))
            if "product" in parts and (hasattr(module, "gate_proj") or hasattr(module, "gate_up_proj")):
                down, inner = module.down_proj, module.down_proj.forward
                replace(down, "forward", lambda x, inner=inner: inner(scaled(x, 0.5)))
        if "pattern" in parts:
            F.softmax = lambda x, dim=-1, dtype=None, **_: x.softmax(dim).detach()
        if "softmax" in parts:
            F.softmax = lambda x, dim=-1, dtype=None, **_: _Softmax.apply(x if dtype is None else x.double(), dim)
        model.factors = (0.25, 0.25, 0.5) if "factors" in parts else (1.0, 1.0, 1.0)
        yield
    finally:
        F.softmax = softmax
        model.factors = (1.0, 1.0, 1.0)
        for owner, name, before in reversed(replaced):
            if before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, before)


def _sources(model: SlowModel, tokens: Tensor, last: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return model.run(tokens, last).sources


def _gradients(
    model: SlowModel, prompts: Prompts, writes: Callable[[int, Tensor], Tensor] | None, answer_function: str
) -> dict[str, list[Tensor]]:
    """dL/d(what each destination reads), on clean prompts; `writes` changes what a group of sources writes."""
    model.hf.requires_grad_(True)
    try:
        run = model.run(prompts.clean, prompts.last, change=writes)
        loss = slow_loss(run.logits, prompts, "logit", answer_function)
        reads = [read for of_module in run.reads.values() for read in of_module]
        found = iter(torch.autograd.grad(loss, reads, allow_unused=True, materialize_grads=True))
    finally:
        model.hf.requires_grad_(False)
    return {name: [next(found) for _ in of_module] for name, of_module in run.reads.items()}


def slow_path_scores(
    model: SlowModel, prompts: Prompts, path: str, steps: int = 5, answer_function: str = "avg_diff"
) -> Scores:
    """Scores by the published points of a path: "inputs", "ends" or "activations"."""
    gradients, differences = _along(model, prompts, path, steps, answer_function)
    scores = {}
    for name, shape in model.mask_shapes().items():
        rows = [
            torch.stack([(differences[s] * gradient).sum() for s in range(shape[-1])]) for gradient in gradients[name]
        ]
        scores[name] = torch.stack(rows).view(shape) / len(prompts)
    return scores


def _along(
    model: SlowModel, prompts: Prompts, path: str, steps: int, answer_function: str
) -> tuple[dict[str, list[Tensor]], list[Tensor]]:
    clean, corrupt = (_sources(model, tokens, prompts.last) for tokens in (prompts.clean, prompts.corrupt))

    def between(group: int, share: float) -> Callable[[int, Tensor], Tensor]:
        """What the group of sources writes: a share of the clean, and the rest corrupt."""

        def write(now: int, x: Tensor) -> Tensor:
            if now != group:
                return x
            mixed = [share * a + (1 - share) * b for a, b in zip(clean, corrupt, strict=True)]
            return model.written(group, mixed).view_as(x).detach().requires_grad_()

        return write

    if path == "inputs":
        points = [between(0, k / steps) for k in range(steps)]
    elif path == "ends":
        points = [between(0, 1.0), between(0, 0.0)]
    else:
        groups = range(1 + 2 * len(model.blocks))
        points = [between(group, k / steps) for group in groups for k in range(1, steps + 1)]
    total: dict[str, list[Tensor]] = {}
    for point in points:
        for name, found in _gradients(model, prompts, point, answer_function).items():
            before = total.setdefault(name, [torch.zeros_like(x) for x in found])
            total[name] = [a + b / len(points) for a, b in zip(before, found, strict=True)]
    return total, [b - a for a, b in zip(clean, corrupt, strict=True)]
