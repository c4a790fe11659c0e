"""A forward pass in which every edge has a mask value of its own, and a backward pass to all of them.

EdgeMaskPass   the gradient of a loss with respect to every edge's mask, wherever the masks are

one_pass = EdgeMaskPass(model, batch, ablated, masks)            # masks: [n_edges], 0 leaves an edge, 1 ablates it
gradients = one_pass.run(lambda logits: loss(logits, batch, method))

With one mask value on all edges the residual stream's branches need no tensor per edge (`circuit.engine.masked_pass`).
Here destination d reads  x_d = r + sum over s of m_ds (a_s - c_s),  one product of the masks with the differences of
all sources before it. The way back is as cheap: the gradient at x_d is kept, and a source's own gradient is what comes
back through the stream r less  sum over d of m_ds dL/dx_d,  since what is masked does not depend on it. Then

    dL/dm_ds = sum over token positions of < dL/dx_d , a_s - c_s >

as in `circuit.engine.mask_gradient`, of which this is the general case.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from circuit.common.errors import OptionError
from circuit.edges.graph import BlockKind
from circuit.engine.ablation import Activations
from circuit.engine.dataset import PromptPairBatch
from circuit.engine.differences import Differences
from circuit.engine.hooks import Hook
from circuit.engine.model import PatchableModel
from circuit.engine.pass_hooks import PassHooks
from circuit.engine.token_block import TokenBlock

_HEAD_INPUTS: tuple[BlockKind, ...] = ("Q", "K", "V")


class EdgeMaskPass(PassHooks):
    """One forward and one backward pass with a mask value on each edge.

    Its hooks stand below in the order in which the model calls them.

    Args:
        model: The model, with token positions added up.
        batch: The prompts, on the model's device; the clean ones go in.
        ablated: What replaces the sources on them: `Ablation.of` this batch, without streams.
        masks: The mask value of every edge, on the model's device.

    Raises:
        OptionError: A model with token positions kept apart, or masks of another number of edges.
    """

    def __init__(
        self,
        model: PatchableModel,
        batch: PromptPairBatch,
        ablated: Activations,
        masks: Float32[Tensor, " n_edges"],
    ) -> None:
        graph = model.graph
        if model.seq_len is not None:
            raise OptionError("Masks of single edges are for all token positions together: leave seq_len out.")
        if tuple(masks.shape) != (graph.n_edges,):
            raise OptionError(f"There is one mask value for each of {graph.n_edges} edges, not {list(masks.shape)}.")
        self._model, self._batch = model, batch
        tokens = TokenBlock.whole(*batch.clean.shape)
        self._differences = Differences(model, ablated, tokens)
        self._masks = masks.new_zeros(len(graph.destinations), graph.n_sources)
        for block, part in zip(graph.blocks, graph.unflatten(masks).values(), strict=True):
            rows = slice(block.first_destination, block.first_destination + block.n_rows)
            self._masks[rows, : block.n_sources] = part
        self._gradients = masks.new_zeros(len(graph.destinations), *tokens.shape, model.d_model)
        self._rows_of = {(block.kind, block.layer): (block.first_destination, block.n_rows) for block in graph.blocks}
        self._sources_of = {block.first_destination: block.n_sources for block in graph.blocks}
        self._projected: dict[str, Tensor] = {}
        self._mlp_read: dict[int, Tensor] = {}

    def run(
        self, objective: Callable[[Float[Tensor, "batch d_vocab"]], Float[Tensor, ""]]
    ) -> Float32[Tensor, " n_edges"]:
        """The gradient of the objective with respect to every mask value, in the edges' order.

        Args:
            objective: What is differentiated, given the logits after each prompt's last token.
        """
        model, graph = self._model, self._model.graph
        with model.activations_only():
            logits = model.logits(self._batch.clean, self._batch.last, self.hooks())
            torch.autograd.grad(objective(logits), self._start)
        found = torch.empty(graph.n_edges, device=self._masks.device)
        for block, part in zip(graph.blocks, graph.unflatten(found).values(), strict=True):
            rows = slice(block.first_destination, block.first_destination + block.n_rows)
            read, written = self._gradients[rows].flatten(1), self._differences.values[: block.n_sources].flatten(1)
            part.copy_((read @ written.T).view(part.shape))
        return found

    def _write_embedding(self, x: Tensor, hook: object) -> Tensor:
        self._start = x.detach().requires_grad_()  # the graph starts here
        self._differences.embedding(self._start)
        return self._start

    def _read_attention(self, layer: int, x: Tensor, hook: object) -> None:
        """Queries, keys and values of every head, each from what it reads; the model's own are not used."""
        model, weights = self._model, self._model.weights(layer)
        if model.shares_norm:  # the MLP gets to see the stream only behind the norm
            self._mlp_read[layer] = self._read(x, "MLP", layer)[0]
        parts = ((weights.W_Q, weights.b_Q), (weights.W_K, weights.b_K), (weights.W_V, weights.b_V))
        for kind, (W, bias), name in zip(_HEAD_INPUTS, parts, model.head_input_hooks(layer), strict=True):
            normed = model.normed_for_attention(layer, self._read(x, kind, layer))
            projected = torch.einsum("hbpd,hde->bphe", normed, W)
            self._projected[name] = projected if bias is None else projected + bias

    def _head_hooks(self, layer: int) -> list[Hook]:
        return [(name, partial(self._read_head, name)) for name in self._model.head_input_hooks(layer)]

    def _read_head(self, name: str, x: Tensor, hook: object) -> Tensor:
        return self._projected.pop(name)

    def _write_heads(self, layer: int, x: Tensor, hook: object) -> Tensor:
        self._differences.heads(layer, x)
        first = self._model.graph.first_head(layer)
        sources = slice(first, first + self._model.n_heads)

        def masked(readers: slice) -> Tensor:
            read = torch.tensordot(self._masks[readers, sources].T, self._gradients[readers], dims=1)
            W_O = self._model.weights(layer).W_O.to(read)
            return torch.einsum("hbpd,hed->bphe", read, W_O)

        return self._written(x, sources, masked)

    def _read_mlp(self, layer: int, x: Tensor, hook: object) -> Tensor:
        if self._model.shares_norm:
            return self._model.normed_for_attention(layer, self._mlp_read.pop(layer))
        return self._read(x, "MLP", layer)[0]

    def _write_mlp(self, layer: int, x: Tensor, hook: object) -> Tensor:
        self._differences.mlp(layer, x)
        source = self._model.graph.first_head(layer) + self._model.n_heads

        def masked(readers: slice) -> Tensor:
            return torch.tensordot(self._masks[readers, source], self._gradients[readers], dims=1)

        return self._written(x, slice(source, source + 1), masked)

    def _read_final(self, x: Tensor, hook: object) -> Tensor:
        return self._read(x, "Final", self._model.n_layers)[0]

    def _read(self, x: Tensor, kind: BlockKind, layer: int) -> Float[Tensor, "rows batch pos d_model"]:
        """What the destinations of a module read."""
        first, n_rows = self._rows_of[kind, layer]
        rows, n_sources = slice(first, first + n_rows), self._sources_of[first]
        with torch.no_grad():
            added = torch.tensordot(self._masks[rows, :n_sources], self._differences.values[:n_sources], dims=1)
        read: Tensor = _Read.apply(x, added, self._gradients[rows])
        return read

    def _written(self, x: Tensor, sources: slice, masked: Callable[[slice], Tensor]) -> Tensor:
        """What sources write, such that the gradient that comes back to them is without what is masked."""
        first = next(
            (first for first, n_sources in self._sources_of.items() if n_sources > sources.start),
            len(self._gradients),
        )
        written: Tensor = _Write.apply(x, partial(masked, slice(first, None)))
        return written


class _Read(torch.autograd.Function):
    """The stream and what is added for each row; the gradient of each row is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor, gradients: Tensor) -> Tensor:
        ctx.gradients = gradients
        return (x + added).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        ctx.gradients.copy_(gradient)
        return gradient.sum(0), None, None


class _Write(torch.autograd.Function):
    """What a source writes; of the gradient that the stream brings back, what is masked is taken off."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, masked: Callable[[], Tensor]) -> Tensor:
        ctx.masked = masked
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient - ctx.masked().to(gradient), None
