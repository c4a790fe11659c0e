"""Running a circuit: does it still do the task?

    run_circuits     logits of circuits of several sizes, as AutoCircuit's
    masked_logits    logits with any mask value on any edge: what runs a circuit

    outputs = run_circuits(model, loader, [0, 20, 500], scores, patch_type=PatchType.TREE_PATCH)
    outputs[20]                                          # [n_prompts, d_vocab]

With a mask an edge of its own, destination d reads

    x_d = r + sum over sources s of  mask[d, s] (a_s - c_s)

The destinations of one layer are formed together in one matrix product; heads that now read different inputs are
normalised and projected on their own, and their queries, keys and values put in place of the model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuit.ablation import Ablation, Activations, Differences
from circuit.dataset import PromptDataLoader
from circuit.errors import NumericalError, OptionError
from circuit.mask_gradient import PruneScores, precision_advice
from circuit.memory import ready
from circuit.method import AblationType, PatchType
from circuit.patchable import Hook, PatchableModel
from circuit.progress import Cancelled, Progress, Report
from circuit.pruning import edge_mask, top_edges


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
    """`run_circuits` for circuits given as sets of edges: for each, a bool array [n_edges], True for its edges."""
    for kept in circuits:
        if kept.shape != (model.graph.n_edges,):
            raise OptionError(f"A circuit must be a bool array of {model.graph.n_edges} edges, not {list(kept.shape)}.")
    dataloader = ready(model, dataloader, ablation_type)
    total = len(dataloader) * len(circuits) + Ablation.n_passes(dataloader, ablation_type)
    steps = Progress(total, progress, cancelled)
    ablation = Ablation(model, dataloader, ablation_type, steps)
    clean_in = (patch_type is PatchType.TREE_PATCH) != reverse_clean_corrupt
    outputs: list[list[Tensor]] = [[] for _ in circuits]
    for batch in dataloader:
        batch = batch.to(model.device)
        ablated = ablation.of(batch, "corrupt" if clean_in else "clean")
        for kept, into in zip(circuits, outputs, strict=True):
            steps.check()
            patched = kept if patch_type is PatchType.EDGE_PATCH else ~kept
            masks = _on_device(model, patched)
            logits = masked_logits(model, batch.prompts("clean" if clean_in else "corrupt"), batch.last, ablated, masks)
            if not logits.isfinite().all():
                raise NumericalError(
                    f"A logit that is not finite came out of the circuit of {int(kept.sum())} edges, among the prompts "
                    f"{batch.rows.start + 1} to {batch.rows.stop}. {precision_advice(model)}"
                )
            into.append(logits.float().cpu())
            steps.advance(f"circuit of {int(kept.sum())} edges")
    return [torch.cat(parts) for parts in outputs]


@torch.no_grad()
def masked_logits(
    model: PatchableModel,
    tokens: Int[Tensor, "batch pos"],
    last: Int[Tensor, " batch"],
    ablated: Activations,
    masks: Mapping[str, Tensor],
) -> Float[Tensor, "batch d_vocab"]:
    """Logits with a mask value on every edge: 0 leaves the edge as it is, 1 ablates it.

    Args:
        model: The model.
        tokens: The prompts, right-padded, on the model's device.
        last: The position of each prompt's last token.
        ablated: What replaces the sources: `Ablation.of` this batch.
        masks: Mask values, named and shaped as scores, float32, on the model's device.
    """
    differences = Differences(model, ablated, *tokens.shape)
    streams: dict[int, Tensor] = {}
    projected: dict[str, Tensor] = {}

    def patch(*modules: str) -> Float[Tensor, "rows pos batch d_model"] | None:
        """What is added to the stream for each destination of the modules, or None where nothing is."""
        rows = torch.cat([masks[name] if _has_heads(name) else masks[name].unsqueeze(-2) for name in modules], dim=-2)
        if not rows.any():
            return None
        read = differences.values[: rows.shape[-1]]
        if model.seq_len is None:
            return torch.tensordot(rows, read, dims=1)
        return torch.einsum("prs,spbd->rpbd", rows, read)

    def attention(layer: int) -> Hook:
        def hook(x: Tensor, hook: object) -> None:
            streams[layer] = x
            names = [f"blocks.{layer}.hook_{kind}_input" for kind in "qkv"]
            added = patch(*names)
            if added is None:
                return
            read = model.attention_norm(layer)((_stream_first(x) + added).to(x.dtype))  # [rows, pos, batch, d_model]
            w = model.weights(layer)
            at_heads = torch.bmm(read.flatten(1, 2), torch.cat([w.W_Q, w.W_K, w.W_V])).unflatten(1, read.shape[1:3])
            counts = [model.n_heads, model.n_kv_heads, model.n_kv_heads]
            parts = at_heads.permute(2, 1, 0, 3).split(counts, dim=2)  # [batch, pos, heads, d_head] each
            for name, part, bias in zip(model.head_input_hooks(layer), parts, (w.b_Q, w.b_K, w.b_V), strict=True):
                projected[name] = part if bias is None else part + bias

        return model.attention_hook(layer), hook

    def head_input(name: str) -> Hook:
        def hook(x: Tensor, hook: object) -> Tensor | None:
            return projected.pop(name, None)

        return name, hook

    def mlp(layer: int) -> Hook:
        def hook(x: Tensor, hook: object) -> Tensor | None:
            added = patch(f"blocks.{layer}.hook_mlp_in")
            if added is None:
                return None
            if model.shares_norm:
                return model.attention_norm(layer)(_add(streams[layer], added))
            return _add(x, added)

        return model.mlp_hook(layer), hook

    def final(x: Tensor, hook: object) -> Tensor | None:
        added = patch(f"blocks.{model.n_layers - 1}.hook_resid_post")
        return None if added is None else _add(x, added)

    hooks: list[Hook] = [(model.embedding_hook, lambda x, hook: differences.embedding(x))]
    for layer in range(model.n_layers):
        hooks.append(attention(layer))
        hooks += [head_input(name) for name in model.head_input_hooks(layer)]
        hooks.append((model.head_output_hook(layer), lambda z, hook, layer=layer: differences.heads(layer, z)))
        hooks.append(mlp(layer))
        hooks.append((model.mlp_output_hook(layer), lambda x, hook, layer=layer: differences.mlp(layer, x)))
    hooks.append((model.final_hook, final))
    return model.logits(tokens, last, hooks)


def _has_heads(module: str) -> bool:
    return module.endswith(("hook_q_input", "hook_k_input", "hook_v_input"))


def _stream_first(x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "pos batch d_model"]:
    return x.transpose(0, 1).float()


def _add(x: Float[Tensor, "batch pos d_model"], added: Float[Tensor, "1 pos batch d_model"]) -> Tensor:
    return (_stream_first(x) + added[0]).to(x.dtype).transpose(0, 1)


def _on_device(model: PatchableModel, patched: np.ndarray) -> dict[str, Tensor]:
    flat = torch.from_numpy(patched.astype(np.float32)).to(model.device)
    return model.graph.unflatten(flat)  # type: ignore[return-value,arg-type]
