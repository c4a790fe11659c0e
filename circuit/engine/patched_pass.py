"""One forward pass through several circuits, as one batch.

PatchedPass    logits of circuits whose edges carry masks of their own

logits = PatchedPass(model, tokens, last, ablated, masks, first_position=0).run()    # [circuits, batch, d_vocab]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from circuit.engine.ablation import Activations
from circuit.engine.differences import Differences
from circuit.engine.hooks import Hook
from circuit.engine.matmul import batched
from circuit.engine.model import PatchableModel
from circuit.engine.pass_hooks import PassHooks
from circuit.engine.token_block import TokenBlock


class PatchedPass(PassHooks):
    """One forward pass of several circuits, which go through the model as one batch: the first with all prompts, then
    the second, and so on.

    Its hooks stand below in the order in which the model calls them.

    Args:
        model: The model, with token positions kept apart or added up.
        tokens: The prompts, right-padded, on the model's device.
        last: The position of each prompt's last token.
        ablated: What replaces the sources on these prompts, with its streams.
        masks: For every circuit, the mask value of every edge: 0 leaves the edge as it is, 1 ablates it.
        first_position: Before this position, ablated and current activations are the same.
    """

    def __init__(
        self,
        model: PatchableModel,
        tokens: Int[Tensor, "batch pos"],
        last: Int[Tensor, " batch"],
        ablated: Activations,
        masks: Float32[np.ndarray, "circuits n_edges"],
        first_position: int,
    ) -> None:
        n_prompts, n_positions = tokens.shape
        self._model, self._tokens, self._last, self._ablated = model, tokens, last, ablated
        self._first = first_position
        self._block = TokenBlock(
            range(n_prompts), range(first_position, n_positions), positions_first=model.seq_len is not None
        )
        self._circuits = [_Circuit(model, mask, ablated, self._block) for mask in masks]
        self._projected: dict[str, list[Tensor | None]] = {}
        self._attention_input: dict[int, Tensor] = {}

    @torch.no_grad()
    def run(self) -> Float[Tensor, "circuits batch d_vocab"]:
        """Logits after each prompt's last token, in the model's own precision."""
        n = len(self._circuits)
        logits = self._model.logits(self._tokens.repeat(n, 1), self._last.repeat(n), self.hooks())
        return logits.unflatten(0, (n, len(self._tokens)))

    def _write_embedding(self, x: Tensor, hook: object) -> None:
        for circuit, current in self._readers(range(1), x):
            circuit.differences.embedding(current)

    def _read_attention(self, layer: int, x: Tensor, hook: object) -> Tensor:
        """The stream that most heads of the block read; queries, keys and values of the others are kept for
        `_read_head`."""
        model, stream = self._model, self._ablated.attention_stream[layer].to(x)
        if model.shares_norm:  # the MLP reads x too, and gets to see it only behind the norm
            self._attention_input[layer] = x
        names = model.head_input_hooks(layer)
        self._projected.update({name: [] for name in names})
        read = []
        for circuit, current in self._each(x):
            patch = circuit.heads[layer]
            read.append(stream.expand_as(current) if patch.from_ablated else current)
            projected: list[Tensor | None] = [None, None, None]
            if patch.rows:
                normed = model.normed_for_attention(layer, self._rows(patch, circuit, current, stream))
                projected = _project(model, layer, patch.rows, normed, self._block)
            for name, part in zip(names, projected, strict=True):
                self._projected[name].append(part)
        return torch.cat(read)

    def _head_hooks(self, layer: int) -> list[Hook]:
        names = enumerate(self._model.head_input_hooks(layer))
        return [(name, partial(self._read_head, layer, kind, name)) for kind, name in names]

    def _read_head(self, layer: int, kind: int, name: str, x: Tensor, hook: object) -> Tensor:
        for (circuit, into), part in zip(self._each(x), self._projected.pop(name), strict=True):
            if part is not None:
                into[:, self._first :, _of_kind(self._model, circuit.heads[layer].rows, kind)] = part
        return x

    def _write_heads(self, layer: int, x: Tensor, hook: object) -> None:
        first = self._model.graph.first_head(layer)
        for circuit, current in self._readers(range(first, first + self._model.n_heads), x):
            circuit.differences.heads(layer, current)

    def _read_mlp(self, layer: int, x: Tensor, hook: object) -> Tensor:
        patches, stream = [circuit.mlp[layer] for circuit in self._circuits], self._ablated.mlp_stream[layer]
        if self._model.shares_norm:  # x has been through the norm, with what attention reads
            read = self._branch(self._attention_input.pop(layer), patches, stream)
            return self._model.normed_for_attention(layer, read)
        return self._branch(x, patches, stream)

    def _write_mlp(self, layer: int, x: Tensor, hook: object) -> None:
        mlp = self._model.graph.first_head(layer) + self._model.n_heads
        for circuit, current in self._readers(range(mlp, mlp + 1), x):
            circuit.differences.mlp(layer, current)

    def _read_final(self, x: Tensor, hook: object) -> Tensor:
        return self._branch(x, [circuit.final for circuit in self._circuits], self._ablated.final_stream)

    def _each(self, x: Tensor) -> Iterator[tuple[_Circuit, Float[Tensor, "batch pos *rest"]]]:
        """Every circuit, with its part of the batch."""
        return zip(self._circuits, x.split(len(self._tokens)), strict=True)

    def _readers(self, sources: range, x: Tensor) -> Iterator[tuple[_Circuit, Float[Tensor, "batch pos *rest"]]]:
        """The circuits in which any destination reads differences of these sources, with their parts of the batch."""
        return (pair for pair in self._each(x) if not pair[0].read_sources.isdisjoint(sources))

    def _branch(self, x: Tensor, patches: Sequence[_Patch], stream: Tensor) -> Tensor:
        """What a destination of one row reads, in every circuit, instead of the stream x."""
        stream = stream.to(x)
        read = []
        for (circuit, current), patch in zip(self._each(x), patches, strict=True):
            whole = stream.expand_as(current) if patch.from_ablated else current
            if patch.rows:
                whole = whole.clone()
                self._block.of(whole).copy_(self._rows(patch, circuit, current, stream)[0])
            read.append(whole)
        return torch.cat(read)

    def _rows(
        self, patch: _Patch, circuit: _Circuit, current: Tensor, stream: Tensor
    ) -> Float[Tensor, "rows outer inner d_model"]:
        """What the patch's rows read, on the block of tokens; `stream` is the ablated one."""
        base = patch.base(self._block.of(current), self._block.of(stream.expand_as(current)), self._first)
        return patch.added(circuit.differences.values, self._first).add_(base).to(current.dtype)


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


@dataclass
class _Patch:
    """What the destinations of some modules read in one circuit: the current or the ablated stream, except in `rows`.

    These are formed each by itself, from the current stream or the ablated one, as `rows_from_ablated` says, with the
    differences of `sources` added. An edge that is left as it is adds nothing to the current stream, and one that is
    ablated nothing to the ablated stream, so a row whose edges are all of one kind is exactly that stream. This matters
    where the sum of what is kept vanishes: of the rounding errors that are left instead, a norm makes large numbers.
    """

    from_ablated: bool
    rows: list[int]
    rows_from_ablated: bool | Bool[Tensor, "rows outer_or_1 1 1"]
    sources: slice | Int[np.ndarray, " n"]
    coefficients: Float[Tensor, "*pos n_rows n"]

    @classmethod
    def of(cls, masks: Sequence[Float32[np.ndarray, "*pos rows sources"]], device: torch.device) -> _Patch:
        mask = np.concatenate(masks, axis=-2)
        row_from_ablated = _nearer_to_ablated(mask)
        coefficients = mask - row_from_ablated[..., None].astype(np.float32)
        changed = (coefficients != 0).any(-1)
        positions = tuple(range(mask.ndim - 2))
        as_ablated = (row_from_ablated & ~changed).all(positions)
        as_current = (~row_from_ablated & ~changed).all(positions)
        from_ablated = bool(as_ablated.sum() > as_current.sum())
        rows = np.flatnonzero(~(as_ablated if from_ablated else as_current))
        coefficients, row_from_ablated = coefficients[..., rows, :], row_from_ablated[..., rows]
        used = np.flatnonzero((coefficients != 0).any((*positions, mask.ndim - 2)))
        n_sources = mask.shape[-1]
        sources: slice | np.ndarray = slice(0, n_sources)
        if len(used) <= n_sources / 2:  # else copying them takes longer than multiplying all
            sources, coefficients = used, coefficients[..., used]
        return cls(
            from_ablated,
            rows.tolist(),
            _for_rows(row_from_ablated, device),
            sources,
            torch.from_numpy(coefficients).to(device),
        )

    def added(
        self, differences: Float[Tensor, "sources outer inner d_model"], first_position: int
    ) -> Float[Tensor, "rows outer inner d_model"]:
        """What is added to the stream, for each of the rows."""
        read = differences[self.sources if isinstance(self.sources, slice) else torch.from_numpy(self.sources)]
        if self.coefficients.ndim == 2:
            return torch.tensordot(self.coefficients, read, dims=1)
        return torch.einsum("prs,spbd->rpbd", self.coefficients[first_position:], read)

    def base(
        self, current: Float[Tensor, "outer inner d_model"], ablated: Float[Tensor, "outer inner d_model"], first: int
    ) -> Float[Tensor, "*rows outer inner d_model"]:
        """The stream that each of the rows is formed from, in float32; without the axis where it is one stream."""
        if isinstance(self.rows_from_ablated, bool):
            return (ablated if self.rows_from_ablated else current).float()
        chosen = self.rows_from_ablated
        return torch.where(chosen if chosen.shape[1] == 1 else chosen[:, first:], ablated.float(), current.float())


def _nearer_to_ablated(mask: Float32[np.ndarray, "*pos rows sources"]) -> Bool[np.ndarray, "*pos rows"]:
    """Whether a row is formed from the ablated stream.

    It is where more is ablated than kept. It is too where the embedding, which all activations stem from, is ablated
    with others, since what is kept may then be nothing: the current stream would leave rounding errors in its place.
    """
    without_embedding = (mask[..., 0] == 1) & ((mask != 0).sum(-1) > 1)
    return (mask.mean(-1) > 0.5) | without_embedding


def _for_rows(
    from_ablated: Bool[np.ndarray, "*pos rows"], device: torch.device
) -> bool | Bool[Tensor, "rows outer_or_1 1 1"]:
    """The choice of each row beside what it reads, [rows, outer, inner, d_model]: one bool where it is one choice."""
    if from_ablated.all() or not from_ablated.any():
        return bool(from_ablated.any())
    by_row = np.atleast_2d(from_ablated).T  # [rows, pos], or [rows, 1]
    return torch.from_numpy(np.ascontiguousarray(by_row)).to(device)[..., None, None]


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
