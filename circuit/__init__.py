"""Edgescope: scores for every edge of a transformer, and the circuits cut from them.

    import circuit

    model = circuit.load_model("smollm2-135m", device="cpu")
    loader = circuit.PromptDataLoader(circuit.PromptDataset(clean, corrupt, answers, wrong_answers), batch_size=4)
    scores = circuit.mask_gradient_prune_scores(model, loader, None, "logit", "avg_diff", mask_val=0.0)
    outputs = circuit.run_circuits(model, loader, [0, 20, 500], scores, circuit.PatchType.TREE_PATCH)

Names are loaded when they are first used, so that importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuit.dataset import PromptDataLoader, PromptDataset
    from circuit.errors import CircuitError
    from circuit.graph import EdgeGraph
    from circuit.mask_gradient import (
        PruneScores,
        edge_attribution_patching_prune_scores,
        mask_gradient_prune_scores,
    )
    from circuit.method import AblationType, Method, PatchType
    from circuit.models import load_model
    from circuit.patchable import PatchableModel
    from circuit.patching import run_circuits
    from circuit.progress import terminal_progress

_HOME = {
    "AblationType": "method",
    "CircuitError": "errors",
    "EdgeGraph": "graph",
    "Method": "method",
    "PatchType": "method",
    "PatchableModel": "patchable",
    "PromptDataLoader": "dataset",
    "PromptDataset": "dataset",
    "PruneScores": "mask_gradient",
    "edge_attribution_patching_prune_scores": "mask_gradient",
    "load_model": "models",
    "mask_gradient_prune_scores": "mask_gradient",
    "run_circuits": "patching",
    "terminal_progress": "progress",
}

__all__ = [
    "AblationType",
    "CircuitError",
    "EdgeGraph",
    "Method",
    "PatchType",
    "PatchableModel",
    "PromptDataLoader",
    "PromptDataset",
    "PruneScores",
    "edge_attribution_patching_prune_scores",
    "load_model",
    "mask_gradient_prune_scores",
    "run_circuits",
    "terminal_progress",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'circuit' has no attribute {name!r}")
    return getattr(import_module(f"circuit.{_HOME[name]}"), name)
