"""Scores for every edge: the gradient of the loss with respect to the edge's mask.

For destination d and source s, at mask value m on every edge at once,

    score[d, s] = mean over prompts of  sum over token positions of  < dL/dx_d , a_s - c_s >

where x_d is what d reads before its layer norm, c_s what s wrote in this pass, and a_s its ablated value. It is
AutoCircuit's `mask_gradient_prune_scores` (https://github.com/UFO-101/auto-circuit, MIT), after edge attribution
patching (Syed et al. 2023, https://arxiv.org/abs/2310.10348) and integrated gradients (Sundararajan et al. 2017,
https://arxiv.org/abs/1703.01365; Hanna et al. 2024, https://arxiv.org/abs/2403.17806).

The steps for each batch of prompts (`batches`) and mask value m (`passes`, which knows the other paths too), each in
the file of this folder that bears its name:

1. `ablation`: the ablated activations a_s, and the streams built from them, from one plain forward pass.
2. `masked_pass`: a forward pass in which each branch reads  x = r + m (r_abl - r),  and a backward pass from the loss
   (`loss`). All masks share one value, and the residual stream r is the plain sum of its sources, so no edge needs a
   tensor of its own. Gradients go to activations only: to the queries, keys and values of each head, each MLP's input,
   and the final residual.
3. `differences`: a_s - c_s of every source.
4. `norm_backward`: the gradient at each head's own input. The layer norm's vector-Jacobian product is linear, so it is
   taken of W_Q[h] @ dL/dq_h, and the forward pass never copies the residual stream once per head.
5. `score_product`: the scores of a few layers' destinations, (A - C) [sources, tokens * d_model] times their gradients
   [destinations, the same].T

A positive score means that ablating the edge raises the loss: the edge helps the task. Scores are averages over prompts
and sample points; AutoCircuit's code adds them up instead, so its numbers are n_batches * n_points times ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from circuit.common.errors import NumericalError, OptionError
from circuit.common.progress import Cancelled, Progress, Report
from circuit.edges.method import AblationType, AnswerFunction, GradFunction, IntegrationRule, Method
from circuit.engine.ablation import Ablation
from circuit.engine.batches import by_batch, ready
from circuit.engine.dataset import PromptDataLoader, PromptPairBatch
from circuit.engine.loss import check_answers
from circuit.engine.model import PatchableModel, PruneScores, precision_advice
from circuit.engine.passes import PassesAlong
from circuit.engine.score_product import ScoreProduct


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

    It is the function of this name in AutoCircuit (https://github.com/UFO-101/auto-circuit, MIT), with its options.
    With `grad_function="logit"` and `mask_val=0` it is edge attribution patching (Syed et al. 2023,
    https://arxiv.org/abs/2310.10348); with `integrated_grad_samples`, integrated gradients.

    Args:
        model: The model, with token positions kept apart or added up.
        dataloader: The prompts. Scores do not depend on its batch size, except with the two batch-mean ablations.
        official_edges: Not used; accepted because AutoCircuit's algorithms all take it.
        grad_function: What the logits become before the answers are read off: `logit`, `prob`, `logprob` or
            `logit_exp`.
        answer_function: How the answers become one number per prompt, `avg_diff`, `avg_val` or `mse`; the loss is minus
            that number.
        mask_val: The mask value m in [0, 1] at which the gradient is taken: 0 at the untouched model.
        integrated_grad_samples: Average over mask values from 0 to 1 instead. Exactly one of the two is given.
        ablation_type: What replaces an ablated activation.
        clean_corrupt: Which prompts of the pair the ablated activations come from. Needed by the ablations that read
            the batch (resample and the batch means); the others ignore it.
        integration_rule: Which mask values are averaged, with which weights: see `sample_points`.
        progress: Called as `progress(step, total, message)` after each step.
        cancelled: Asked before each step; where it answers True, `JobCancelled` is raised.

    Returns:
        Scores in units of the loss (logits for `logit`, and so on), means over prompts and mask values, by destination
        module: float32 on the CPU, shaped as `PruneScores` says. An edge's importance is its absolute score.

    Raises:
        OptionError: Options that do not fit together.
        PromptError: Prompts that the options or the model cannot use; names the row.
        BatchMemoryError: A prompt that does not fit into memory, or a batch that must not be halved.
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

    Returns:
        As `mask_gradient_prune_scores`, in logits.

    Raises:
        PromptError: Prompts that the model cannot use, or a prompt without wrong answers; names the row.
        BatchMemoryError: A prompt that does not fit into memory.
        NumericalError: A score that is not finite.
    """
    answer_function: AnswerFunction = "avg_diff" if answer_diff else "avg_val"
    return score_edges(model, dataloader, Method(answer_function=answer_function))


def prompt_scores(
    model: PatchableModel,
    loader: PromptDataLoader,
    method: Method,
    report: Report | None = None,
    cancelled: Cancelled | None = None,
) -> PruneScores:
    """The scores of every edge on every prompt alone. Their mean over prompts is what `score_edges` returns.

    Args:
        model: The model, with token positions added up.
        loader: The prompts.
        method: Any method whose ablation does not tie the prompts of a batch together.
        report: Called as `report(step, total, message)` after each step.
        cancelled: Asked before each step; where it answers True, `JobCancelled` is raised.

    Returns:
        Scores by destination module, [n_prompts, n_heads or n_kv_heads, n_sources] or [n_prompts, n_sources].

    Raises:
        OptionError: A model with token positions kept apart, or an ablation that ties the prompts of a batch together.
        PromptError, BatchMemoryError, NumericalError, JobCancelled: As `mask_gradient_prune_scores`.
    """
    if model.seq_len is not None:
        raise OptionError("Scores can be kept apart by prompt or by token position, not both: leave seq_len out.")
    if method.ablation_type.needs_batch_size:
        raise OptionError(f"'{method.ablation_type}' mixes the prompts of a batch, so no score belongs to one prompt.")
    return score_edges(model, loader, method, report, cancelled, per_prompt=True)


@torch.inference_mode(False)
def score_edges(
    model: PatchableModel,
    loader: PromptDataLoader,
    method: Method,
    report: Report | None = None,
    cancelled: Cancelled | None = None,
    *,
    per_prompt: bool = False,
    points: Sequence[tuple[float, float]] | None = None,
) -> PruneScores:
    """Score every edge by a method: `mask_gradient_prune_scores` with its options as one `Method`.

    Args:
        model: The model, with token positions kept apart or added up.
        loader: The prompts. Where it goes through a part of them, the scores are that part's share, and the shares of
            all parts add up to the scores.
        method: Loss, ablation, and the mask values that are averaged.
        report: Called as `report(step, total, message)` after each step.
        cancelled: Asked before each step; where it answers True, `JobCancelled` is raised.
        per_prompt: Keep prompts apart, as a first axis: see `prompt_scores`.
        points: Some of the method's mask values with their weights, instead of all: the scores are their share.

    Returns:
        Scores in units of the loss, by destination module: see `PruneScores`.

    Raises:
        OptionError: A method of the path `"learned"` or `"averaged"`.
        PromptError, BatchMemoryError, NumericalError, JobCancelled: As `mask_gradient_prune_scores`.
    """
    if method.path == "learned":
        raise OptionError("Masks are learned by circuit.learn_scores, which takes scores to begin with.")
    if method.path == "averaged":
        raise OptionError("These scores are a mean of other runs' scores: no prompts give them. Choose a method.")
    loader = ready(model, loader, method.ablation_type)
    check_answers(loader.dataset, method)
    points = method.points if points is None else points
    path = PassesAlong(model, method, points)
    steps = len(loader) * len(path)
    progress = Progress(steps + Ablation.n_passes(loader, method.ablation_type), report, cancelled)
    ablation = Ablation(model, loader, method.ablation_type, progress, path.needs_streams)
    product = ScoreProduct(model, "positions" if model.seq_len is not None else "prompts" if per_prompt else None)

    def zeros(*n_prompts: int) -> Tensor:
        return torch.zeros(*n_prompts, model.graph.n_edges, dtype=torch.float64, device=_accumulator_device(model))

    def score(batch: PromptPairBatch) -> Tensor:
        """The batch's scores, summed over its prompts unless they are kept apart."""
        progress.check()
        ablated = ablation.of(batch, method.clean_corrupt)
        first = ablation.first_position(batch, method.clean_corrupt)
        flat = zeros(len(batch)) if per_prompt else zeros()
        sums = model.graph.unflatten(flat)
        for number, (m, weight, one_pass) in enumerate(path.passes(batch, ablated), start=1):
            progress.check()
            product.add(one_pass.run(method), ablated, first, weight, sums)
            place = f"prompts {batch.rows.start + 1} to {batch.rows.stop} of {len(loader.dataset)}, mask value {m:.3g}"
            _check_finite(sums, place, model)
            words = f"prompts to {batch.rows.stop} of {len(loader.dataset)}"
            progress.advance(words if len(path) == 1 else f"{words}, sample point {number} of {len(path)}")
        return flat

    total = zeros(len(loader.rows)) if per_prompt else zeros()
    for batch, found in by_batch(model, loader, score, progress, len(path), method.ablation_type):
        if per_prompt:
            total[batch.rows.start - loader.rows.start : batch.rows.stop - loader.rows.start] = found
        else:
            total += found / len(loader.dataset)
    return {module: scores.float().cpu() for module, scores in model.graph.unflatten(total).items()}


def _accumulator_device(model: PatchableModel) -> torch.device:
    """Sums are kept in float64, which Apple's GPUs do not have."""
    return torch.device("cpu") if model.device.type == "mps" else model.device


def _check_finite(sums: dict[str, Tensor], place: str, model: PatchableModel) -> None:
    # a sum is finite where all its parts are, and the device is asked once, not once per module
    if torch.stack([scores.sum() for scores in sums.values()]).isfinite().all():
        return
    module = next(name for name, scores in sums.items() if not scores.isfinite().all())
    precision = str(model.dtype).removeprefix("torch.")
    raise NumericalError(
        f"A score that is not finite appeared in {module} ({place}, {precision}). {precision_advice(model)}"
    )
