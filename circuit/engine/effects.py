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

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from circuit.common.progress import Cancelled, Progress, Report
from circuit.edges.graph import EdgeGraph
from circuit.edges.method import Method, PatchType
from circuit.engine.ablation import Ablation
from circuit.engine.batches import ready
from circuit.engine.dataset import PromptDataLoader, PromptPairBatch
from circuit.engine.loss import prompt_values
from circuit.engine.model import PatchableModel
from circuit.engine.patching import circuit_outputs


def edge_effects(
    model: PatchableModel,
    dataloader: PromptDataLoader,
    edges: Sequence[int],
    method: Method,
    *,
    progress: Report | None = None,
    cancelled: Cancelled | None = None,
) -> dict[int, float]:
    """For every edge the rise of the loss, mean over prompts, when it alone is ablated as `method` ablates.

    The cost is one forward pass per batch and edge; several edges share one where batches are small.

    Args:
        model: The model, with positions kept apart or added up as in the scores.
        dataloader: The prompts. Where it goes through a part of them, the effects are that part's share of the mean.
        edges: Numbers of edges (see `circuit.edges.graph`).
        method: Loss and ablation; where it takes its gradients plays no part in this.
        progress: Called as `progress(step, total, message)` after each pass.
        cancelled: Asked before each pass; where it answers True, `JobCancelled` is raised.

    Returns:
        Effects in units of the loss, by edge, in the order given.

    Raises:
        OptionError: An edge that the model does not have.
        PromptError: Prompts that the model or the ablation cannot use; names the row.
        NumericalError: A logit that is not finite; names the edge.
        JobCancelled: `cancelled` said so.
    """
    model.graph.check_edges(edges)
    loader = ready(model, dataloader, method.ablation_type)
    circuits = _AllButOne(model.graph, list(dict.fromkeys(edges)))
    n_passes = Ablation.n_passes(loader, method.ablation_type)
    steps = Progress(n_passes + len(loader) * len(circuits), progress, cancelled)

    @torch.no_grad()
    def losses(batch: PromptPairBatch, number: int, logits: Tensor) -> Tensor:
        return -prompt_values(logits, batch, method).cpu().double()

    total = dict.fromkeys(circuits.edges, 0.0)
    for untouched, *found in circuit_outputs(
        model,
        loader,
        circuits,
        PatchType.TREE_PATCH,
        method.ablation_type,
        False,
        steps,
        losses,
        patched_in=method.clean_corrupt,
        name=circuits.name,
    ):
        for edge, without in zip(total, found, strict=True):
            total[edge] += float((without - untouched).sum())
    return {edge: rise / len(loader.dataset) for edge, rise in total.items()}


class _AllButOne(Sequence[Bool[np.ndarray, " n_edges"]]):
    """The circuit of all edges, then those of all but one, each made when it is asked for."""

    def __init__(self, graph: EdgeGraph, edges: Sequence[int]) -> None:
        self._graph = graph
        self.edges = edges

    def __len__(self) -> int:
        return 1 + len(self.edges)

    def __getitem__(self, number: int) -> np.ndarray:  # type: ignore[override]
        if not 0 <= number < len(self):
            raise IndexError(number)
        kept = np.ones(self._graph.n_edges, dtype=bool)
        if number > 0:
            kept[self.edges[number - 1]] = False
        return kept

    def name(self, number: int) -> str:
        """What a circuit is called in messages."""
        return "whole model" if number == 0 else f"model without edge {self._graph.edge_name(self.edges[number - 1])}"
