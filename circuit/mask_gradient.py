"""Scores for every edge: the gradient of the loss with respect to the edge's mask.

For destination d and source s, at mask value m on every edge at once,

    score[d, s] = mean over prompts of  sum over token positions of  < dL/dx_d , a_s - c_s >

where x_d is what d reads before its layer norm, c_s what s wrote in this pass, and a_s its ablated value. It is
AutoCircuit's `mask_gradient_prune_scores` (https://github.com/UFO-101/auto-circuit, MIT), after edge attribution
patching (Syed et al. 2023, https://arxiv.org/abs/2310.10348) and integrated gradients (Sundararajan et al. 2017,
https://arxiv.org/abs/1703.01365; Hanna et al. 2024, https://arxiv.org/abs/2403.17806).

The steps, for each batch of prompts and each mask value m:

1. The ablated activations a_s, and the streams built from them, from one plain forward pass (`ablation`).
2. A forward pass in which each branch reads  x = r + m (r_abl - r).  All masks share one value, and the residual stream
   r is the plain sum of its sources, so no edge needs a tensor of its own.
3. A backward pass to activations only: to the queries, keys and values of each head, each MLP's input, and the final
   residual.
4. The gradient at a head's own input. The layer norm's vector-Jacobian product is linear, so it is taken of
   W_Q[h] @ dL/dq_h, and the forward pass never copies the residual stream once a head.
5. The score block of a layer: gradients [rows, position * batch * d_model] times (A - C) [sources, the same].T

A positive score means that ablating the edge raises the loss: the edge helps the task. Scores are averages over prompts
and sample points; AutoCircuit's code adds them up instead, so its numbers are n_batches * n_points times ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuit.ablation import Ablation, Activations, Differences
from circuit.dataset import PromptDataLoader, PromptPairBatch
from circuit.errors import NumericalError
from circuit.memory import ready
from circuit.method import AblationType, AnswerFunction, GradFunction, IntegrationRule, Method
from circuit.objective import check_answers, loss
from circuit.patchable import Hook, PatchableModel
from circuit.progress import Cancelled, Progress, Report

PruneScores = dict[str, Tensor]
"""Scores by destination module, float32, on the CPU: [n_heads or n_kv_heads, n_sources] for a block's queries, keys and
values, [n_sources] for its MLP and for the final residual; with positions kept apart, a leading position axis."""


def mask_gradient_prune_scores(
    model: PatchableModel,
    dataloader: PromptDataLoader,
    official_edges: object = None,
    grad_function: GradFunction = "logit",
    answer_function: AnswerFunction = "avg_diff",
    mask_val: float | None = None,
    integrated_grad_samples: int | None = None,
    ablation_type: AblationType = AblationType.RESAMPLE,
    clean_corrupt: Literal["clean", "corrupt"] | None = "corrupt",
    *,
    integration_rule: IntegrationRule = "reference",
    progress: Report | None = None,
    cancelled: Cancelled | None = None,
) -> PruneScores:
    """Score every edge by the gradient of the loss with respect to its mask.

    Args:
        model: The model, with token positions kept apart or added up.
        dataloader: The prompts. Scores do not depend on its batch size, but for the two batch-mean ablations.
        official_edges: Not used; accepted because AutoCircuit's algorithms all take it.
        grad_function: What the logits become before the answers are read off.
        answer_function: How the answers become one number a prompt; the loss is minus that number.
        mask_val: The mask value m in [0, 1] at which the gradient is taken: 0 at the untouched model.
        integrated_grad_samples: Average over mask values from 0 to 1 instead. Exactly one of the two is given.
        ablation_type: What replaces an ablated activation.
        clean_corrupt: Which prompts of the pair the ablated activations come from. Needed by the ablations that read
            the batch (resample and the batch means); the others ignore it.
        integration_rule: Which mask values are averaged, with which weights: see `sample_points`.
        progress: Called as `progress(step, total, message)` after each step.
        cancelled: Asked before each step; where it answers True, `JobCancelled` is raised.

    Returns:
        Scores in units of the loss (logits for `logit`, and so on), by destination module: see `PruneScores`. An
        edge's importance is its absolute score.

    Raises:
        OptionError: Options that do not fit together.
        PromptError: Prompts that the options or the model cannot use; names the row.
        NumericalError: A score that is not finite; names the step.
        JobCancelled: `cancelled` said so.
    """
    method = Method(
        grad_function,
        answer_function,
        mask_val,
        integrated_grad_samples,
        ablation_type,
        clean_corrupt,
        integration_rule,
    )
    return score_edges(model, dataloader, method, progress, cancelled)


def edge_attribution_patching_prune_scores(
    model: PatchableModel,
    dataloader: PromptDataLoader,
    official_edges: object = None,
    answer_diff: bool = True,
) -> PruneScores:
    """Edge attribution patching (Syed et al. 2023): `mask_gradient_prune_scores` of logits at mask value 0.

    Args:
        model: The model.
        dataloader: The prompts.
        official_edges: Not used.
        answer_diff: Differentiate right minus wrong answers; False, the right answers alone.
    """
    answer_function: AnswerFunction = "avg_diff" if answer_diff else "avg_val"
    return score_edges(model, dataloader, Method(answer_function=answer_function))


def score_edges(
    model: PatchableModel,
    loader: PromptDataLoader,
    method: Method,
    report: Report | None = None,
    cancelled: Cancelled | None = None,
) -> PruneScores:
    """`mask_gradient_prune_scores` with its options as one `Method`."""
    loader = ready(model, loader, method.ablation_type)
    check_answers(loader.dataset, method.answer_function)
    points = method.points
    steps = len(loader) * len(points)
    progress = Progress(steps + Ablation.n_passes(loader, method.ablation_type), report, cancelled)
    ablation = Ablation(model, loader, method.ablation_type, progress)

    accumulator = torch.zeros(model.graph.n_edges, dtype=torch.float64, device=_accumulator_device(model))
    blocks: dict[str, Tensor] = model.graph.unflatten(accumulator)  # type: ignore[assignment,arg-type]
    for number, batch in enumerate(loader, start=1):
        batch = batch.to(model.device)
        progress.check()
        ablated = ablation.of(batch, method.clean_corrupt)
        for m, weight in points:
            progress.check()
            for module, scores in _batch_scores(model, batch, ablated, m, method):
                blocks[module] += weight * scores.to(accumulator)
            place = f"batch {number} of {len(loader)}, mask value {m:.3g}"
            _check_finite(accumulator, blocks, place, model)
            progress.advance(place)
    return {module: (scores / len(loader.dataset)).float().cpu() for module, scores in blocks.items()}


@dataclass
class _Pass:
    """What one masked forward pass leaves: sources, branch inputs and head inputs, by block."""

    embedding: Tensor
    z: dict[int, Tensor]
    mlp: dict[int, Tensor]
    attention_input: dict[int, Tensor]
    differentiated: dict[str, Tensor]


def _batch_scores(
    model: PatchableModel, batch: PromptPairBatch, ablated: Activations, m: float, method: Method
) -> Iterable[tuple[str, Tensor]]:
    """Sums over the batch's prompts of the score of every edge, by module, in float32."""
    with model.activations_only():
        recorded, hooks = _masked_pass(model, ablated, m)
        logits = model.logits(batch.clean, batch.last, hooks)
        value = loss(logits, batch, method.grad_function, method.answer_function)
        inputs = recorded.differentiated
        gradients = dict(zip(inputs, torch.autograd.grad(value, list(inputs.values())), strict=True))

    differences = Differences(model, ablated, *batch.clean.shape)
    differences.embedding(recorded.embedding)
    for layer in range(model.n_layers):
        differences.heads(layer, recorded.z.pop(layer))
        differences.mlp(layer, recorded.mlp.pop(layer))

    # One buffer serves every layer's gradients: fresh memory costs a page fault every 4 kB, and cat another copy.
    n_rows = model.n_heads + 2 * model.n_kv_heads + 1
    rows = torch.empty(n_rows, batch.clean.numel(), model.d_model, device=model.device)
    with torch.no_grad():
        for layer in range(model.n_layers + 1):
            yield from _read_out(model, layer, recorded, gradients, differences, rows)


def _masked_pass(model: PatchableModel, ablated: Activations, m: float) -> tuple[_Pass, list[Hook]]:
    """Hooks for a forward pass with mask value m on every edge, and where they keep what the scores need."""
    kept = _Pass(torch.empty(0), {}, {}, {}, {})

    def start(x: Tensor, hook: object) -> Tensor:
        kept.embedding = x.detach()
        return x.detach().requires_grad_()  # the graph starts here

    def masked(x: Tensor, stream: Tensor) -> Tensor:
        # A view of its own, so that its gradient is this branch's, and not also the residual stream's.
        return x.view_as(x) if m == 0 else torch.lerp(x, stream.to(x), m)

    def attention_input(layer: int) -> Hook:
        def hook(x: Tensor, hook: object) -> Tensor:
            x = masked(x, ablated.attention_stream[layer])
            kept.attention_input[layer] = x.detach()
            return x

        return model.attention_hook(layer), hook

    def branch_input(name: str, stream: Tensor | None) -> Hook:
        def hook(x: Tensor, hook: object) -> Tensor:
            kept.differentiated[name] = x = x.view_as(x) if stream is None else masked(x, stream)
            return x

        return name, hook

    def head_input(name: str) -> Hook:
        def hook(x: Tensor, hook: object) -> Tensor:
            kept.differentiated[name] = x
            return x

        return name, hook

    def keep(into: dict[int, Tensor], layer: int, name: str) -> Hook:
        def hook(x: Tensor, hook: object) -> None:
            into[layer] = x.detach()

        return name, hook

    hooks: list[Hook] = [(model.embedding_hook, start)]
    for layer in range(model.n_layers):
        hooks.append(attention_input(layer))
        hooks += [head_input(name) for name in model.head_input_hooks(layer)]
        hooks.append(keep(kept.z, layer, model.head_output_hook(layer)))
        # where the MLP shares the attention's norm, what comes out of that norm is masked already
        hooks.append(branch_input(model.mlp_hook(layer), None if model.shares_norm else ablated.mlp_stream[layer]))
        hooks.append(keep(kept.mlp, layer, model.mlp_output_hook(layer)))
    hooks.append(branch_input(model.final_hook, ablated.final_stream))
    return kept, hooks


def _read_out(
    model: PatchableModel,
    layer: int,
    recorded: _Pass,
    gradients: dict[str, Tensor],
    differences: Differences,
    buffer: Float[Tensor, "rows tokens d_model"],
) -> Iterable[tuple[str, Tensor]]:
    """The scores of the destinations that read the stream as block `layer` finds it.

    These are the block's heads, and the MLP of the block before, which reads all sources but that MLP itself (in a
    parallel block: its own MLP); after the last block, the final residual. One matrix product serves them all; their
    gradients are written into `buffer`.
    """
    mlp_layer = layer if model.parallel else layer - 1
    blocks = [
        block
        for block in model.graph.blocks
        if (block.layer == layer and block.kind != "MLP") or (block.layer == mlp_layer and block.kind == "MLP")
    ]
    blocks.sort(key=lambda block: ("Q", "K", "V", "MLP", "Final").index(block.kind))
    rows = buffer[: sum(block.n_rows for block in blocks)]
    if layer < model.n_layers:
        norm = NormBackward(model, layer, recorded.attention_input[layer])
        n_heads = norm.heads([gradients[name] for name in model.head_input_hooks(layer)], out=rows)
    else:
        n_heads = 0
        rows[-1] = _tokens_first(gradients[model.final_hook])
    if 0 <= mlp_layer < model.n_layers:
        gradient = _tokens_first(gradients[model.mlp_hook(mlp_layer)])
        rows[n_heads] = norm.vector(gradient) if model.shares_norm else gradient

    n_sources = model.graph.n_sources_before(layer)
    scores = _product(rows, differences.values[:n_sources], keep_positions=model.seq_len is not None)
    first = 0
    for block in blocks:
        part = scores[..., first : first + block.n_rows, : block.n_sources]
        yield block.module, part if block.has_heads else part.squeeze(-2)
        first += block.n_rows


def _product(
    gradients: Float[Tensor, "rows tokens d_model"],
    differences: Float[Tensor, "sources pos batch d_model"],
    keep_positions: bool,
) -> Float[Tensor, "*pos rows sources"]:
    """Inner products of gradients and differences, over prompts and model dimensions, and positions or not."""
    if not keep_positions:
        return gradients.flatten(1) @ differences.flatten(1).T
    n_pos = differences.shape[1]
    by_position = gradients.unflatten(1, (n_pos, -1)).flatten(2).transpose(0, 1)
    return by_position @ differences.flatten(2).permute(1, 2, 0)


class NormBackward:
    """The vector-Jacobian product of the layer norm before a block's attention, for all its heads at once.

    With x_hat the normalised input and s its scale, a norm with weight w sends a gradient g at its output to

        (w g - mean(w g) - x_hat mean(w g x_hat)) / s

    at its input, where RMS norms leave out the first mean. The weight, and the first mean, are folded into the heads'
    projections, so that only x_hat is left to correct for.

    Args:
        model: The model.
        layer: The block.
        x: What its attention reads, before the norm.
    """

    def __init__(self, model: PatchableModel, layer: int, x: Float[Tensor, "batch pos d_model"]) -> None:
        self._weights = model.weights(layer)
        module = model.attention_norm(layer)
        self._centers = isinstance(module, torch.nn.LayerNorm)
        weight = module.weight if module.weight is not None else x.new_ones(model.d_model)  # OPT may have none
        self._weight: Tensor = weight.float()
        x = _tokens_first(x)
        if self._centers:
            x = x - x.mean(-1, keepdim=True)
        epsilon = module.eps if self._centers else module.variance_epsilon
        self._inverse_scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
        self._x_hat = x * self._inverse_scale

    def heads(
        self, gradients: list[Float[Tensor, "batch pos heads d_head"]], out: Float[Tensor, "rows tokens d_model"]
    ) -> int:
        """Gradients at queries, keys and values -> gradients at the block's input, a row each head's Q, K and V.

        They are written into the first rows of `out`; returns how many these are.
        """
        w = self._weights
        n_rows = 0
        for gradient, W in zip(gradients, (w.W_Q, w.W_K, w.W_V), strict=True):
            at_heads = gradient.permute(2, 1, 0, 3).flatten(1, 2).float()
            projection = W.float() * self._weight[:, None]
            if self._centers:
                projection -= projection.mean(1, keepdim=True)
            into = out[n_rows : n_rows + len(W)]
            torch.bmm(at_heads * self._inverse_scale, projection.transpose(1, 2), out=into)
            n_rows += len(W)
        self._correct(out[:n_rows])
        return n_rows

    def vector(self, gradient: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_model"]:
        """A gradient at the norm's output -> the gradient at its input."""
        gradient = gradient * self._weight
        if self._centers:
            gradient -= gradient.mean(-1, keepdim=True)
        gradient *= self._inverse_scale
        self._correct(gradient[None])
        return gradient

    def _correct(self, scaled: Float[Tensor, "rows tokens d_model"]) -> None:
        """Take out what lies along x_hat, in place."""
        along = torch.einsum("rtd,td->rt", scaled, self._x_hat) / scaled.shape[-1]
        scaled.addcmul_(along[..., None], self._x_hat, value=-1)


def _tokens_first(x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "tokens d_model"]:
    """Positions before prompts, as in `Differences`, in float32."""
    return x.transpose(0, 1).flatten(0, 1).float()


def _accumulator_device(model: PatchableModel) -> torch.device:
    """Sums are kept in float64, which Apple's GPUs do not have."""
    return torch.device("cpu") if model.device.type == "mps" else model.device


def _check_finite(accumulator: Tensor, blocks: dict[str, Tensor], place: str, model: PatchableModel) -> None:
    if accumulator.isfinite().all():
        return
    module = next(name for name, scores in blocks.items() if not scores.isfinite().all())
    precision = str(model.dtype).removeprefix("torch.")
    raise NumericalError(
        f"A score that is not finite appeared in {module} ({place}, {precision}). {precision_advice(model)}"
    )


def precision_advice(model: PatchableModel) -> str:
    """What to try where a number is not finite."""
    return {
        torch.float16: "float16 overflows above 65504: load the model in bfloat16 or float32.",
        torch.bfloat16: "Load the model in float32, or use the grad function 'logit'.",
    }.get(model.dtype, "Check the prompts and the model's weights, or use the grad function 'logit'.")
