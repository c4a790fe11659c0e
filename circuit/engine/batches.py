"""Prompts in batches that fit.

    ready                  a loader that a model can run: prompts checked, batch size settled
    by_batch               do something with every batch; one that does not fit is halved
    automatic_batch_size   prompts per batch, for a loader that leaves it open

    for batch, sums in by_batch(model, loader, score, progress, steps_a_batch=5):
        total += sums

How much memory a prompt takes is arithmetic on the model's shape: `circuit.edges.shape`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from circuit.common.errors import BatchMemoryError, OptionError
from circuit.common.progress import Progress, note
from circuit.common.words import counted
from circuit.edges import shape as estimate
from circuit.edges.method import AblationType
from circuit.edges.shape import ModelShape
from circuit.engine.dataset import PromptDataLoader, PromptDataset, PromptPairBatch
from circuit.engine.memory import free_memory, is_out_of_memory, release
from circuit.engine.model import PatchableModel

T = TypeVar("T")


def shape_of(model: PatchableModel) -> ModelShape:
    """The numbers that time and memory depend on."""
    return ModelShape(
        n_layers=model.n_layers,
        n_heads=model.n_heads,
        n_kv_heads=model.n_kv_heads,
        d_model=model.d_model,
        d_mlp=getattr(model.bridge.cfg, "d_mlp", None) or 4 * model.d_model,
        d_vocab=model.d_vocab,
        n_edges=model.with_seq_len(None).graph.n_edges if model.seq_len else model.graph.n_edges,
        element=torch.finfo(model.dtype).bits // 8,
        device=model.device.type,
    )


def automatic_batch_size(model: PatchableModel, dataset: PromptDataset) -> int:
    """Prompts per batch such that attribution fits into half the free memory of the model's device."""
    return min(prompts_at_once(model, max(dataset.lengths)), len(dataset))


def prompts_at_once(model: PatchableModel, n_tokens: int) -> int:
    """Prompts of `n_tokens` that are worth running together, and fit."""
    return estimate.prompts_at_once(shape_of(model), n_tokens, free_memory(model.device))


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


def by_batch(
    model: PatchableModel,
    loader: PromptDataLoader,
    step: Callable[[PromptPairBatch], T],
    progress: Progress | None = None,
    steps_a_batch: int = 0,
    ablation_type: AblationType | None = None,
) -> Iterator[tuple[PromptPairBatch, T]]:
    """Every batch, on the model's device, with what `step` makes of it while it has the model to itself.

    Where memory runs out, what the step has begun is dropped, and it is repeated with half the prompts, as are all
    that follow; a `note` says so.

    Args:
        model: The model.
        loader: The prompts.
        step: A function of a batch. It may be called again for the same prompts, so it must leave no trace except what
            it returns.
        progress: Set back by what is repeated.
        steps_a_batch: How many of its steps one batch takes.
        ablation_type: Where its meaning depends on the batch size, running out of memory is an error.

    Raises:
        BatchMemoryError: A prompt that does not fit by itself, or a batch that must not be halved.
    """
    progress = progress or Progress()
    left, size = loader.rows, loader.batch_size or max(len(loader.rows), 1)
    while left:
        rows, begun, failed = left[:size], progress.step, False
        try:
            with model.running():
                batch = loader.dataset.batch(rows).to(model.device)
                result = step(batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failed = True
        if not failed:
            yield batch, result
            left = left[size:]
            del batch, result  # or they would be held while the next batch is run
            continue
        # Here the error is gone, whose frames held what the step had allocated.
        release(model.device)
        _check_divisible(rows, loader, ablation_type, model.device)
        progress.step = begun
        batches = -(-len(left) // size)
        size = -(-len(rows) // 2)
        progress.total += steps_a_batch * (-(-len(left) // size) - batches)
        note(
            f"The batch was halved to {counted(size, 'prompt')}, because {len(rows)} together did not fit "
            f"into the memory that {_called(model.device)} had free."
        )


def _check_divisible(
    rows: range, loader: PromptDataLoader, ablation_type: AblationType | None, device: torch.device
) -> None:
    if len(rows) == 1:
        raise BatchMemoryError(
            f"Row {loader.dataset.numbers[rows.start]}: this prompt of {loader.dataset.lengths[rows.start]} tokens "
            f"does not fit by itself into the memory that {_called(device)} has free. Use shorter prompts, a smaller "
            "model, or a lower precision."
        )
    if ablation_type is not None and ablation_type.needs_batch_size:
        raise BatchMemoryError(
            f"A batch of {len(rows)} prompts does not fit into the memory that {_called(device)} has free, and with "
            f"the ablation '{ablation_type}' the scores depend on the batch size. Choose a smaller batch size, or "
            "another ablation."
        )


def _called(device: torch.device) -> str:
    return "this machine" if device.type == "cpu" else f"the device {device}"
