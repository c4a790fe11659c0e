"""One forward pass through several circuits, as one batch.

run_patched    logits of circuits whose edges carry masks of their own
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from circuit.engine.ablation import Activations
from circuit.engine.differences import Differences
from circuit.engine.hooks import Hook
from circuit.engine.matmul import batched
from circuit.engine.model import PatchableModel
from circuit.engine.token_block import TokenBlock


@dataclass
class _Patch:
    """What the destinations of some modules read in one circuit: the current or the ablated stream, and in some `rows`
    the differences of `sources` on top of it."""

    from_ablated: bool
    rows: list[int]
    sources: slice | Int[np.ndarray, " n"]
    coefficients: Float[Tensor, "*pos n_rows n"]

    @classmethod
    def of(cls, masks: Sequence[Float32[np.ndarray, "*pos rows sources"]], device: torch.device) -> _Patch:
        mask = np.concatenate(masks, axis=-2)
        other_axes = tuple(axis for axis in range(mask.ndim) if axis != mask.ndim - 2)
        as_current, as_ablated = (mask == 0).all(other_axes), (mask == 1).all(other_axes)
        from_ablated = bool(as_ablated.sum() > as_current.sum())
        rows = np.flatnonzero(~(as_ablated if from_ablated else as_current))
        coefficients = mask[..., rows, :] - np.float32(from_ablated)
        used = np.flatnonzero((coefficients != 0).any(tuple(range(mask.ndim - 1))))
        n_sources = mask.shape[-1]
        sources: slice | np.ndarray = slice(0, n_sources)
        if len(used) <= n_sources / 2:  # else copying them takes longer than multiplying all
            sources, coefficients = used, coefficients[..., used]
        return cls(from_ablated, rows.tolist(), sources, torch.from_numpy(coefficients).to(device))

    def added(
        self, differences: Float[Tensor, "sources outer inner d_model"], first_position: int
    ) -> Float[Tensor, "rows outer inner d_model"]:
        """What is added to the stream, for each of the rows."""
        read = differences[self.sources if isinstance(self.sources, slice) else torch.from_numpy(self.sources)]
        if self.coefficients.ndim == 2:
            return torch.tensordot(self.coefficients, read, dims=1)
        return torch.einsum("prs,spbd->rpbd", self.coefficients[first_position:], read)


class _Circuit:
    """One circuit's part of a pass: its patches, and the differences of its sources as they come up.

    Rows of `heads[layer]` are the queries, keys and values of the block.
    """

    def __init__(
        self, model: PatchableModel, mask: Float32[np.ndarray, " n_edges"], ablated: Activations, block: TokenBlock
    ) -> None:
        masks: dict[str, np.ndarray] = model.graph.unflatten(mask)
        by_place: dict[tuple[str, int], list[np.ndarray]] = {}
        for module in model.graph.blocks:
            part = masks[module.module]
            place = ("heads" if module.has_heads else module.kind, module.layer)
            by_place.setdefault(place, []).append(part if module.has_heads else part[..., None, :])
        patches = {place: _Patch.of(parts, model.device) for place, parts in by_place.items()}
        self.heads = [patches["heads", layer] for layer in range(model.n_layers)]
        self.mlp = [patches["MLP", layer] for layer in range(model.n_layers)]
        self.final = patches["Final", model.n_layers]
        # zeros: a source that nothing reads is never written, and must not be NaN when multiplied by 0
        memory = torch.zeros(Differences.n_values(model, block), device=model.device)
        self.differences = Differences(model, ablated, block, memory)
        self.read_sources = self._read_sources(model)

    def _read_sources(self, model: PatchableModel) -> set[int]:
        """The sources of whose differences any destination reads some."""
        read: set[int] = set()
        for patch in (*self.heads, *self.mlp, self.final):
            if patch.rows:
                read |= set(np.arange(model.graph.n_sources)[patch.sources].tolist())
        return read


@torch.no_grad()
def run_patched(
    model: PatchableModel,
    tokens: Int[Tensor, "batch pos"],
    last: Int[Tensor, " batch"],
    ablated: Activations,
    masks: Float32[np.ndarray, "circuits n_edges"],
    first_position: int,
) -> Float[Tensor, "circuits batch d_vocab"]:
    """Logits of several circuits, which go through the model as one batch: the first with all prompts, and so on."""
    n_prompts, n_positions = tokens.shape
    by_position = model.seq_len is not None
    block = TokenBlock(range(n_prompts), range(first_position, n_positions), positions_first=by_position)
    circuits = [_Circuit(model, mask, ablated, block) for mask in masks]
    streams: dict[int, Tensor] = {}
    projected: dict[str, list[Tensor | None]] = {}

    def each(x: Tensor) -> Iterator[tuple[_Circuit, Float[Tensor, "batch pos *rest"]]]:
        return zip(circuits, x.split(n_prompts), strict=True)

    def read(patch: _Patch, circuit: _Circuit, current: Tensor, ablated_stream: Tensor) -> Tensor:
        """What the patch's rows read, on the block: [rows, outer, inner, d_model]."""
        stream = block.of(ablated_stream.expand_as(current) if patch.from_ablated else current)
        return (stream.float() + patch.added(circuit.differences.values, first_position)).to(current.dtype)

    def attention(layer: int) -> Hook:
        stream = ablated.attention_stream[layer]
        names = model.head_input_hooks(layer)

        def hook(x: Tensor, hook: object) -> Tensor:
            if model.shares_norm:  # the MLP reads it too, and gets to see it only behind the norm
                streams[layer] = x
            bases = []
            projected.update({name: [] for name in names})
            for circuit, current in each(x):
                patch = circuit.heads[layer]
                bases.append(stream.to(x).expand_as(current) if patch.from_ablated else current)
                found: list[Tensor | None] = [None, None, None]
                if patch.rows:
                    normed = model.normed_for_attention(layer, read(patch, circuit, current, stream.to(x)))
                    found = _project(model, layer, patch.rows, normed, block)
                for name, part in zip(names, found, strict=True):
                    projected[name].append(part)
            return torch.cat(bases)

        return model.attention_hook(layer), hook

    def head_input(layer: int, kind: int, name: str) -> Hook:
        def hook(x: Tensor, hook: object) -> Tensor:
            for (circuit, into), part in zip(each(x), projected.pop(name), strict=True):
                if part is not None:
                    into[:, first_position:, _of_kind(model, circuit.heads[layer].rows, kind)] = part
            return x

        return name, hook

    def branch(x: Tensor, patches: list[_Patch], stream: Tensor) -> Tensor:
        """What a destination of one row reads instead of the stream x."""
        outputs = []
        for (circuit, current), patch in zip(each(x), patches, strict=True):
            whole = stream.to(x).expand_as(current) if patch.from_ablated else current
            if patch.rows:
                whole = whole.clone()
                block.of(whole).copy_(read(patch, circuit, current, stream.to(x))[0])
            outputs.append(whole)
        return torch.cat(outputs)

    def mlp_input(layer: int) -> Hook:
        patches, stream = [circuit.mlp[layer] for circuit in circuits], ablated.mlp_stream[layer]

        def hook(x: Tensor, hook: object) -> Tensor:
            if model.shares_norm:  # x has been through the norm, with what attention reads
                return model.normed_for_attention(layer, branch(streams[layer], patches, stream))
            return branch(x, patches, stream)

        return model.mlp_hook(layer), hook

    def write(name: str, sources: range, add: Callable[..., None], *layer: int) -> Hook:
        """Differences of the sources that write here."""

        def hook(x: Tensor, hook: object) -> None:
            for circuit, current in each(x):
                if not circuit.read_sources.isdisjoint(sources):
                    add(circuit.differences, *layer, current)

        return name, hook

    hooks: list[Hook] = [write(model.embedding_hook, range(1), Differences.embedding)]
    for layer in range(model.n_layers):
        first_head = model.graph.first_head(layer)
        mlp_source = first_head + model.n_heads
        hooks.append(attention(layer))
        hooks += [head_input(layer, kind, name) for kind, name in enumerate(model.head_input_hooks(layer))]
        heads = range(first_head, mlp_source)
        hooks.append(write(model.head_output_hook(layer), heads, Differences.heads, layer))
        hooks.append(mlp_input(layer))
        mlp = range(mlp_source, mlp_source + 1)
        hooks.append(write(model.mlp_output_hook(layer), mlp, Differences.mlp, layer))
    hooks.append((model.final_hook, lambda x, hook: branch(x, [c.final for c in circuits], ablated.final_stream)))
    logits = model.logits(tokens.repeat(len(circuits), 1), last.repeat(len(circuits)), hooks)
    return logits.unflatten(0, (len(circuits), n_prompts))


def _of_kind(model: PatchableModel, rows: Sequence[int], kind: int) -> list[int]:
    """Which queries (kind 0), keys (1) or values (2) are among the rows of a block's heads."""
    counts = (model.n_heads, model.n_kv_heads, model.n_kv_heads)
    first = sum(counts[:kind])
    return [row - first for row in rows if first <= row < first + counts[kind]]


def _project(
    model: PatchableModel,
    layer: int,
    rows: Sequence[int],
    read: Float[Tensor, "rows outer inner d_model"],
    block: TokenBlock,
) -> list[Float[Tensor, "batch pos rows d_head"] | None]:
    """Queries, keys and values of those heads that read something of their own, before rotation; None without any."""
    w = model.weights(layer)
    found: list[Tensor | None] = []
    for kind, (W, bias) in enumerate(((w.W_Q, w.b_Q), (w.W_K, w.b_K), (w.W_V, w.b_V))):
        heads = _of_kind(model, rows, kind)
        if not heads:
            found.append(None)
            continue
        part, read = read[: len(heads)], read[len(heads) :]
        whole = len(heads) == len(W)
        W = W if whole else W[heads]
        projected = part.new_empty(len(heads), len(block), W.shape[-1])
        batched(part.flatten(1, 2), W.transpose(1, 2), out=projected)
        if bias is not None:
            projected += (bias if whole else bias[heads])[:, None]
        by_token = projected.unflatten(1, block.shape)
        found.append(by_token.permute((2, 1, 0, 3) if block.positions_first else (1, 2, 0, 3)))
    return found
