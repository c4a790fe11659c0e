"""Running a circuit: the model with its edges left as they are, or ablated, each by a mask of its own.

    run_circuits     logits of circuits of several sizes, as AutoCircuit's
    run_edge_masks   the same for circuits given as sets of edges
    circuit_outputs  what is read off the logits, batch by batch, where all logits would be too many to keep
    masked_logits    logits of one batch with any mask value on any edge

    outputs = run_circuits(model, loader, [0, 20, 500], scores, patch_type=PatchType.TREE_PATCH)
    outputs[20]                                          # [n_prompts, d_vocab]

With one mask per edge, destination d reads

    x_d = r + sum over sources s of  mask[d, s] (a_s - c_s)  =  r_abl + sum over s of  (mask[d, s] - 1) (a_s - c_s)

where r is the residual stream and r_abl the ablated one, which is known beforehand. In a small circuit nearly all
destinations read r_abl, in a large one nearly r: whichever serves more destinations of a block is what the block reads,
and only the others are formed, normalised and projected on their own. Nothing is formed at positions before which clean
and corrupt prompts are the same. Several circuits go through the model as one batch, and share the ablated activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuit.common.errors import NumericalError, OptionError
from circuit.common.progress import Cancelled, Progress, Report
from circuit.edges.method import AblationType, CleanCorrupt, PatchType
from circuit.edges.ranking import edge_mask, top_edges
from circuit.engine.ablation import Ablation, Activations
from circuit.engine.batches import by_batch, prompts_at_once, ready
from circuit.engine.dataset import PromptDataLoader, PromptPairBatch
from circuit.engine.model import PatchableModel, PruneScores, precision_advice
from circuit.engine.patched_pass import PatchedPass


def run_circuits(
    model: PatchableModel,
    dataloader: PromptDataLoader,
    test_edge_counts: Sequence[int],
    prune_scores: PruneScores,
    patch_type: PatchType = PatchType.EDGE_PATCH,
    ablation_type: AblationType = AblationType.RESAMPLE,
    reverse_clean_corrupt: bool = False,
    *,
    progress: Report | None = None,
    cancelled: Cancelled | None = None,
) -> dict[int, Float[Tensor, "n_prompts d_vocab"]]:
    """Logits of circuits of several sizes, after each prompt's last token.

    The circuit of n edges is the n edges of largest absolute score, ties broken by the edges' order (AutoCircuit takes
    all tied edges instead, and so sometimes more than n).

    Args:
        model: The model, with positions kept apart or added up as in `prune_scores`.
        dataloader: The prompts.
        test_edge_counts: Sizes of the circuits.
        prune_scores: Scores of every edge.
        patch_type: `TREE_PATCH`: clean prompt in, all edges outside the circuit ablated with corrupt activations: the
            circuit alone. `EDGE_PATCH`: corrupt prompt in, the circuit's edges patched with clean activations.
        ablation_type: What replaces an ablated activation.
        reverse_clean_corrupt: Swap clean and corrupt, for the input and for what is patched in.
        progress: Called as `progress(step, total, message)` after each step.
        cancelled: Asked before each step; where it answers True, `JobCancelled` is raised.

    Returns:
        For every size, float32 logits on the CPU, in the prompts' order.

    Raises:
        OptionError: A size that is negative or larger than the model, or scores of another model.
        PromptError: Prompts that the model or the ablation cannot use; names the row.
        NumericalError: A logit that is not finite; names the circuit.
        JobCancelled: `cancelled` said so.
    """
    flat = model.graph.flatten(prune_scores)
    circuits = [edge_mask(model.graph, top_edges(flat, n)) for n in test_edge_counts]
    outputs = run_edge_masks(
        model,
        dataloader,
        circuits,
        patch_type,
        ablation_type,
        reverse_clean_corrupt,
        progress=progress,
        cancelled=cancelled,
    )
    return dict(zip(test_edge_counts, outputs, strict=True))


def run_edge_masks(
    model: PatchableModel,
    dataloader: PromptDataLoader,
    circuits: Sequence[np.ndarray],
    patch_type: PatchType = PatchType.TREE_PATCH,
    ablation_type: AblationType = AblationType.RESAMPLE,
    reverse_clean_corrupt: bool = False,
    *,
    progress: Report | None = None,
    cancelled: Cancelled | None = None,
) -> list[Float[Tensor, "n_prompts d_vocab"]]:
    """Logits of circuits given as sets of edges.

    Args:
        model: The model, with positions kept apart or added up as in the circuits.
        dataloader: The prompts.
        circuits: For each circuit a bool array [n_edges], True for its edges.
        patch_type: As in `run_circuits`, like all that follow.
        ablation_type: What replaces an ablated activation.
        reverse_clean_corrupt: Swap clean and corrupt, for the input and for what is patched in.
        progress: Called as `progress(step, total, message)` after each step.
        cancelled: Asked before each step; where it answers True, `JobCancelled` is raised.

    Returns:
        For every circuit, float32 logits on the CPU, in the prompts' order.

    Raises:
        OptionError: A circuit of another number of edges.
        PromptError, NumericalError, JobCancelled: As `run_circuits`.
    """
    loader = ready(model, dataloader, ablation_type)
    n_steps = len(loader) * len(circuits) + Ablation.n_passes(loader, ablation_type)
    steps = Progress(n_steps, progress, cancelled)
    outputs: list[list[Tensor]] = [[] for _ in circuits]

    def keep(batch: PromptPairBatch, number: int, logits: Tensor) -> Tensor:
        return logits.float().cpu()

    for found in circuit_outputs(
        model, loader, circuits, patch_type, ablation_type, reverse_clean_corrupt, steps, keep
    ):
        for parts, part in zip(outputs, found, strict=True):
            parts.append(part)
    return [torch.cat(parts) for parts in outputs]


def circuit_outputs(
    model: PatchableModel,
    loader: PromptDataLoader,
    circuits: Sequence[np.ndarray],
    patch_type: PatchType,
    ablation_type: AblationType,
    reverse_clean_corrupt: bool,
    steps: Progress,
    read: Callable[[PromptPairBatch, int, Float[Tensor, "batch d_vocab"]], Tensor],
    *,
    patched_in: CleanCorrupt | None = None,
    means_of: PromptDataLoader | None = None,
    name: Callable[[int], str] | None = None,
) -> Iterator[list[Tensor]]:
    """For every batch, what `read` makes of every circuit's logits, in the circuits' order.

    Args:
        model: The model.
        loader: The prompts, made `ready` for the model.
        circuits: For each, a bool array [n_edges], True for its edges.
        patch_type: As in `run_circuits`, like the two that follow.
        ablation_type: What replaces an ablated activation.
        reverse_clean_corrupt: Swap clean and corrupt.
        steps: Advances by one for each circuit and batch.
        read: Called as `read(batch, number of the circuit, logits)`.
        patched_in: The prompts of the pair that patched activations come from; by default those that do not go in.
        means_of: The prompts that an ablation takes its means over the dataset from, if not those of `loader`.
        name: What a circuit is called in messages, by its number; by default it is named by its size.

    Raises:
        As `run_circuits`.
    """
    for kept in circuits:
        if kept.shape != (model.graph.n_edges,):
            raise OptionError(f"A circuit must be a bool array of {model.graph.n_edges} edges, not {list(kept.shape)}.")
    ablation = Ablation(model, means_of or loader, ablation_type, steps)
    clean_in = (patch_type is PatchType.TREE_PATCH) != reverse_clean_corrupt
    given: CleanCorrupt = "clean" if clean_in else "corrupt"
    source: CleanCorrupt = patched_in or ("corrupt" if clean_in else "clean")
    name = name or (lambda number: f"circuit of {int(circuits[number].sum()):,} edges")

    halved = False

    def run(batch: PromptPairBatch) -> list[Tensor]:
        nonlocal halved
        found = []
        steps.check()
        ablated = ablation.of(batch, source)
        first = ablation.first_position(batch, source, into=given)
        asked = loader.batch_size or len(batch)
        halved = halved or (len(batch) < asked and batch.rows.stop < loader.rows.stop)
        # where a batch did not fit into memory, circuits go through the model one by one
        together = 1 if halved else max(prompts_at_once(model, batch.clean.shape[1]) // asked, 1)
        for start in range(0, len(circuits), together):
            steps.check()
            some = [circuits[number] for number in range(start, min(start + together, len(circuits)))]
            patched = [kept if patch_type is PatchType.EDGE_PATCH else ~kept for kept in some]
            masks = np.stack(patched).astype(np.float32)
            outputs = PatchedPass(model, batch.prompts(given), batch.last, ablated, masks, first).run()
            for number, logits in enumerate(outputs, start=start):
                steps.check()
                if not logits.isfinite().all():
                    raise NumericalError(
                        f"A logit that is not finite came out of the {name(number)}, among the prompts "
                        f"{batch.rows.start + 1} to {batch.rows.stop}. {precision_advice(model)}"
                    )
                found.append(read(batch, number, logits))
                steps.advance(f"{name(number)}, prompts to {batch.rows.stop} of {len(loader.dataset)}")
        return found

    for _, outputs in by_batch(model, loader, run, steps, len(circuits), ablation_type):
        yield outputs


def masked_logits(
    model: PatchableModel,
    tokens: Int[Tensor, "batch pos"],
    last: Int[Tensor, " batch"],
    ablated: Activations,
    mask: Float[np.ndarray, " n_edges"],
) -> Float[Tensor, "batch d_vocab"]:
    """Logits with a mask value on every edge: 0 leaves the edge as it is, 1 ablates it.

    Args:
        model: The model.
        tokens: The prompts, right-padded, on the model's device.
        last: The position of each prompt's last token.
        ablated: What replaces the sources: `Ablation.of` this batch.
        mask: The mask value of every edge, in the edges' order.

    Raises:
        OptionError: Masks of another number of edges.
    """
    if mask.shape != (model.graph.n_edges,):
        raise OptionError(f"There is one mask value for each of {model.graph.n_edges} edges, not {list(mask.shape)}.")
    return PatchedPass(model, tokens, last, ablated, mask[None].astype(np.float32), 0).run()[0]
