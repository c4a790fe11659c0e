"""How many prompts fit: free memory of a device, and what one prompt takes.

free_memory            bytes that may be used on a device
bytes_per_prompt       what attribution of one prompt needs, about
automatic_batch_size   prompts a batch, for a loader that leaves it open
ready                  a loader that a model can run: prompts checked, batch size settled
"""

from __future__ import annotations

import psutil
import torch

from circuit.dataset import PromptDataLoader, PromptDataset
from circuit.errors import OptionError
from circuit.method import AblationType
from circuit.patchable import PatchableModel

_SHARE_OF_FREE_MEMORY = 0.5
_TOKENS_PER_BATCH = {"cpu": 256, "mps": 4096, "cuda": 16384}
"""Larger batches are hardly faster, and a job reports and can be stopped only between two of them."""


def free_memory(device: torch.device) -> int:
    """Free bytes on the device, as its driver or the operating system counts them."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    return psutil.virtual_memory().available


def bytes_per_prompt(model: PatchableModel, n_tokens: int) -> int:
    """What one prompt of `n_tokens` takes at the peak of attribution, within a factor of about two.

    Counted: source differences (float32), the activations that the backward pass keeps, attention patterns, and the
    logits with their gradients.
    """
    element = torch.finfo(model.dtype).bits // 8
    d_mlp = getattr(model.bridge.cfg, "d_mlp", None) or 4 * model.d_model
    differences = 4 * model.graph.n_sources * model.d_model
    kept = element * model.n_layers * (20 * model.d_model + 6 * d_mlp + 4 * model.n_heads * n_tokens)
    return n_tokens * (differences + kept) + 4 * 4 * model.d_vocab


def automatic_batch_size(model: PatchableModel, dataset: PromptDataset) -> int:
    """Prompts a batch such that attribution fits into half the free memory of the model's device."""
    longest = max(dataset.lengths)
    fits = int(_SHARE_OF_FREE_MEMORY * free_memory(model.device)) // bytes_per_prompt(model, longest)
    useful = _TOKENS_PER_BATCH.get(model.device.type, 256) // longest
    return max(1, min(fits, useful, len(dataset)))


def ready(model: PatchableModel, loader: PromptDataLoader, ablation_type: AblationType) -> PromptDataLoader:
    """The loader with its prompts checked against the model, and a batch size, chosen here where it was left open.

    Raises:
        PromptError: Prompts that the model cannot run; names the row.
        OptionError: A batch size left open where the ablation's meaning depends on it.
    """
    model.check_prompts(loader.dataset)
    if loader.batch_size is not None:
        return loader
    if ablation_type.needs_batch_size:
        raise OptionError(
            f"'{ablation_type}' averages over the prompts of a batch, so its result depends on the batch size: "
            "choose one."
        )
    return loader.with_batch_size(automatic_batch_size(model, loader.dataset))
