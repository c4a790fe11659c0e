"""Scores of whole nodes: what all edges out of a source are worth together.

score_nodes   one score per source, by the same methods as edges
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from circuit.common.progress import Cancelled, Report
from circuit.edges.method import Method
from circuit.edges.ranking import node_scores
from circuit.engine.dataset import PromptDataLoader
from circuit.engine.mask_gradient import score_edges
from circuit.engine.model import PatchableModel


def score_nodes(
    model: PatchableModel,
    loader: PromptDataLoader,
    method: Method,
    report: Report | None = None,
    cancelled: Cancelled | None = None,
    *,
    points: Sequence[tuple[float, float]] | None = None,
) -> Float32[np.ndarray, "*positions n_sources"]:
    """Score every source: what ablating all that it writes would do, by the method's estimate.

    A source reaches the model through its edges alone, and a gradient is linear, so this is the sum of their scores. It
    is node attribution as in attribution patching and EAP-IG (Hanna et al. 2024, https://arxiv.org/abs/2403.17806),
    whose published code differs for MLPs: it multiplies what an MLP writes with the gradient at what it reads.

    Args:
        model: The model, with token positions kept apart or added up.
        loader: The prompts.
        method: Loss, ablation, path and backward rule.
        report: Called as `report(step, total, message)` after each step.
        cancelled: Asked before each step; where it answers True, `JobCancelled` is raised.
        points: Some of the method's points with their weights, instead of all.

    Returns:
        Scores in units of the loss, in the order of `model.graph.sources`; positive where ablating the node would hurt.
        With positions kept apart, one row per position.

    Raises:
        PromptError, BatchMemoryError, NumericalError, JobCancelled: As `score_edges`.
    """
    scores = score_edges(model, loader, method, report, cancelled, points=points)
    return node_scores(model.graph, model.graph.flatten(scores))
