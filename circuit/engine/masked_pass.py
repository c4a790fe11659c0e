"""Steps 2 and 3 of `circuit.engine.mask_gradient`: a forward pass with mask value m on every edge, and a backward pass.

masked_backward   both passes -> Pass
Pass              what they leave for the scores: activations, and gradients
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from circuit.edges.method import Method
from circuit.engine.ablation import Activations
from circuit.engine.dataset import PromptPairBatch
from circuit.engine.hooks import Hook
from circuit.engine.loss import loss
from circuit.engine.model import PatchableModel, at_last


@dataclass
class Pass:
    """What one masked forward pass and its backward pass leave, by transformer block; queries, keys and values, and
    gradients, by hook. What the last MLP writes may stand for the last tokens alone: no gradient reaches the others."""

    embedding: Float[Tensor, "batch pos d_model"] = field(default_factory=lambda: torch.empty(0))
    z: dict[int, Float[Tensor, "batch pos n_heads d_head"]] = field(default_factory=dict)
    mlp: dict[int, Float[Tensor, "batch pos d_model"]] = field(default_factory=dict)
    attention_input: dict[int, Float[Tensor, "batch pos d_model"]] = field(default_factory=dict)
    head_inputs: dict[str, Float[Tensor, "batch pos heads d_head"]] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)


def masked_backward(
    model: PatchableModel, batch: PromptPairBatch, ablated: Activations, m: float, method: Method
) -> Pass:
    """One forward pass with mask value m on every edge, and one backward pass from the loss to activations."""
    done = Pass()
    differentiated: dict[str, Tensor] = {}
    with model.activations_only():
        hooks = _masked_hooks(model, ablated, m, batch.last, done, differentiated)
        logits = model.logits(batch.clean, batch.last, hooks)
        value = loss(logits, batch, method.grad_function, method.answer_function)
        names, inputs = list(differentiated), list(differentiated.values())
        differentiated.clear()  # so that what the backward pass is done with is freed on the way
        done.gradients = dict(zip(names, torch.autograd.grad(value, inputs), strict=True))
    return done


def _masked_hooks(
    model: PatchableModel,
    ablated: Activations,
    m: float,
    last: Tensor,
    done: Pass,
    differentiated: dict[str, Tensor],
) -> list[Hook]:
    """Hooks for a forward pass with mask value m on every edge; they put what the scores need into `done`, and what the
    loss is differentiated by into `differentiated`.

    Nobody reads what the last MLP writes but at the `last` token of each prompt, so it is run on these alone.
    """

    def start(x: Tensor, hook: object) -> Tensor:
        done.embedding = x.detach()
        return x.detach().requires_grad_()  # the graph starts here

    n = model.n_layers
    attention_streams, mlp_streams = (
        (ablated.attention_stream, ablated.mlp_stream) if m != 0 else ([None] * n, [None] * n)
    )

    def masked(x: Tensor, stream: Tensor | None) -> Tensor:
        # A view of its own, so that its gradient is this branch's, and not also the residual stream's.
        return x.view_as(x) if stream is None else torch.lerp(x, stream.to(x), m)

    def attention_input(name: str, layer: int, stream: Tensor | None) -> Hook:
        def hook(x: Tensor, hook: object) -> Tensor:
            x = masked(x, stream)
            done.attention_input[layer] = x.detach()
            return x

        return name, hook

    def branch_input(name: str, stream: Tensor | None, *, last_only: bool = False) -> Hook:
        def hook(x: Tensor, hook: object) -> Tensor:
            differentiated[name] = x = masked(x, stream)
            return at_last(x, last) if last_only else x

        return name, hook

    def head_input(name: str) -> Hook:
        def hook(x: Tensor, hook: object) -> Tensor:
            differentiated[name] = x
            done.head_inputs[name] = x.detach()
            return x

        return name, hook

    def keep(into: dict[int, Tensor], layer: int, name: str) -> Hook:
        def hook(x: Tensor, hook: object) -> None:
            into[layer] = x.detach()

        return name, hook

    hooks: list[Hook] = [(model.embedding_hook, start)]
    for layer in range(n):
        hooks.append(attention_input(model.attention_hook(layer), layer, attention_streams[layer]))
        hooks += [head_input(name) for name in model.head_input_hooks(layer)]
        hooks.append(keep(done.z, layer, model.head_output_hook(layer)))
        # where the MLP shares the attention's norm, what comes out of that norm is masked already
        stream = None if model.shares_norm else mlp_streams[layer]
        last_only = layer == n - 1 and model.adds_mlp_by_position
        hooks.append(branch_input(model.mlp_hook(layer), stream, last_only=last_only))
        hooks.append(keep(done.mlp, layer, model.mlp_output_hook(layer)))
    hooks.append(branch_input(model.final_hook, ablated.final_stream if m != 0 else None))
    return hooks
