"""What ablating an edge really does: the number that its score estimates.

    edge_effects    for each of some edges, the loss with that edge alone ablated, minus the loss of the untouched model

    effects = edge_effects(model, loader, [12, 40_017], Method())
    effects[12]        # 0.39: ablating edge 12 raises the loss by 0.39, mean over prompts

A score is the slope of the loss at one mask value, or averaged over the way from 0 to 1 with all edges ablated
together; an effect is the loss at the end of the way for one edge, all others untouched. They agree where the loss is
linear in all masks together. Signs mean the same: positive, that ablating the edge hurts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuit.common.errors import NumericalError
from circuit.common.progress import Cancelled, Progress, Report
from circuit.edges.method import Method
from circuit.engine.ablation import Ablation
from circuit.engine.batches import by_batch, ready
from circuit.engine.dataset import PromptDataLoader, PromptPairBatch
from circuit.engine.loss import prompt_values
from circuit.engine.model import PatchableModel, precision_advice
from circuit.engine.patching import masked_logits


@torch.no_grad()
def edge_effects(
    model: PatchableModel,
    dataloader: PromptDataLoader,
    edges: Sequence[int],
    method: Method,
    *,
    progress: Report | None = None,
    cancelled: Cancelled | None = None,
) -> dict[int, float]:
    """For every edge the rise of the loss, mean over prompts, when it alone is ablated as `method` ablates. Where the
    loader goes through a part of its prompts, that part's share of the mean.

    The cost is one forward pass a batch and edge.

    Args:
        model: The model, with positions kept apart or added up as in the scores.
        dataloader: The prompts.
        edges: Numbers of edges (see `circuit.edges.graph`).
        method: Loss and ablation; where it takes its gradients has no part in this.
        progress: Called as `progress(step, total, message)` after each pass.
        cancelled: Asked before each pass; where it answers True, `JobCancelled` is raised.

    Raises:
        OptionError: An edge that the model does not have.
        PromptError: Prompts that the model or the ablation cannot use; names the row.
        NumericalError: A loss that is not finite; names the edge.
        JobCancelled: `cancelled` said so.
    """
    model.graph.check_edges(edges)
    dataloader = ready(model, dataloader, method.ablation_type)
    n_passes = Ablation.n_passes(dataloader, method.ablation_type)
    steps = Progress(n_passes + len(dataloader) * len(edges), progress, cancelled)
    ablation = Ablation(model, dataloader, method.ablation_type, steps)
    flat = torch.zeros(model.graph.n_edges, device=model.device)
    masks: dict[str, Tensor] = model.graph.unflatten(flat)  # type: ignore[assignment,arg-type] # views of `flat`
    total = dict.fromkeys(edges, 0.0)

    def rises(batch: PromptPairBatch) -> list[float]:
        """How much the loss of the batch rises without each of the edges."""
        found = []
        flat.zero_()
        ablated = ablation.of(batch, method.clean_corrupt)
        untouched = _losses(model.logits(batch.clean, batch.last), batch, method)
        for edge in total:
            steps.check()
            flat[edge] = 1
            losses = _losses(masked_logits(model, batch.clean, batch.last, ablated, masks), batch, method)
            flat[edge] = 0
            if not losses.isfinite().all():
                raise NumericalError(
                    f"The loss without edge {model.graph.edge_name(edge)} is not finite. {precision_advice(model)}"
                )
            found.append(float((losses - untouched).sum(dtype=torch.float64)))
            steps.advance(f"without {model.graph.edge_name(edge)}")
        return found

    for _, found in by_batch(model, dataloader, rises, steps, len(total), method.ablation_type):
        for edge, rise in zip(total, found, strict=True):
            total[edge] += rise
    return {edge: value / len(dataloader.dataset) for edge, value in total.items()}


def _losses(logits: Tensor, batch: PromptPairBatch, method: Method) -> Float[Tensor, " batch"]:
    return -prompt_values(logits, batch, method.grad_function, method.answer_function)
