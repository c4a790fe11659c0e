"""Step 5 of `circuit.engine.mask_gradient`: the scores, from what one masked pass leaves.

    ScoreProduct   adds the scores of passes to sums

For every destination d and source s the score is an inner product of the gradient at d's own input with a_s - c_s, over
prompts, positions and d_model. As matrices,

    scores [sources, destinations]  =  (A - C) [sources, tokens * d_model]  @  G [destinations, tokens * d_model].T

where `differences` forms A - C (step 3) and `norm_backward` the heads' rows of G (step 4). This product takes most of
the time that attribution takes beyond the passes themselves, and is arranged for it:

- The heads of one layer and the MLP of the layer before read the same sources (except that MLP's own, which is left out
  afterwards). They, and those of the next layers, are multiplied together: with few destinations a product waits for
  memory, since it reads all sources for each of them.
- (A - C) and G are formed in buffers that later blocks, points and batches use again: fresh memory costs a page fault
  every 4 kB.
- For a model in bfloat16 both are kept in bfloat16 and multiplied with sums in float32, where that is quick.
- Tokens come in blocks, so that memory does not grow with their number; and prompts of a pair are the same up to some
  position, before which a_s - c_s is zero for every source and nothing has to be multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuit.edges.graph import ScoreBlock
from circuit.edges.shape import DEFAULT_PRODUCT_BYTES, PRODUCT_BYTES, PRODUCT_ROWS
from circuit.engine.ablation import Activations
from circuit.engine.differences import Differences
from circuit.engine.masked_pass import MaskedPass
from circuit.engine.matmul import bfloat16_is_quick, inner_products
from circuit.engine.model import PatchableModel
from circuit.engine.norm_backward import NormBackward
from circuit.engine.token_block import TokenBlock

Keep = Literal["positions", "prompts"] | None
"""An axis that scores are not summed over."""


class ScoreProduct:
    """Adds the scores of passes to sums. Its buffers are used again for every pass.

    Args:
        model: The model.
        keep: The axis that is kept apart, which becomes the first axis of every score tensor.
    """

    def __init__(self, model: PatchableModel, keep: Keep = None) -> None:
        self._model = model
        self._keep = keep
        self._stages = [_stage(model, layer) for layer in range(model.n_layers + 1)]
        self._memory: dict[str, Tensor] = {}
        self._dtype = precision(model)
        self._rows_a_layer = model.n_heads + 2 * model.n_kv_heads + 1
        self._layers_at_once = -(-PRODUCT_ROWS // self._rows_a_layer)

    @torch.no_grad()
    def add(
        self, done: MaskedPass, ablated: Activations, first_position: int, weight: float, sums: dict[str, Tensor]
    ) -> None:
        """Add `weight` times the scores of one pass, summed over all axes but the kept one, to `sums` by module.

        Args:
            done: The pass.
            ablated: What replaces the sources.
            first_position: Before this position, ablated and current activations are the same.
            weight: The factor of the scores.
            sums: Score tensors [*kept, rows, sources], without the axis of rows where the module has no heads; where
                prompts are kept apart, that axis holds the prompts of this batch.
        """
        n_prompts, n_positions = done.embedding.shape[:2]
        tokens = TokenBlock(
            range(n_prompts), range(first_position, n_positions), positions_first=self._keep == "positions"
        )
        for block in tokens.split(self._tokens_at_once()):
            differences = self._differences(done, ablated, block)
            stages = iter(enumerate(self._stages))
            while group := list(islice(stages, self._layers_at_once)):
                self._add_group(group, done, block, differences, weight, sums)

    def _add_group(
        self,
        group: list[tuple[int, list[ScoreBlock]]],
        done: MaskedPass,
        block: TokenBlock,
        differences: Float[Tensor, "n_sources outer inner d_model"],
        weight: float,
        sums: dict[str, Tensor],
    ) -> None:
        """The scores of the destinations of some layers, in one product."""
        modules = [module for _, stage in group for module in stage]
        rows = self._buffer("rows", (sum(module.n_rows for module in modules), len(block), self._model.d_model))
        by_stage = rows.split([sum(module.n_rows for module in stage) for _, stage in group])
        for (layer, stage), part in zip(group, by_stage, strict=True):
            self._gradients(layer, stage, done, block, part)
        read = differences[: max(module.n_sources for module in modules)]
        scores = self._product(read, rows.view(len(rows), *block.shape, -1))
        by_module = scores.split([module.n_rows for module in modules], dim=-1)
        for module, found in zip(modules, by_module, strict=True):
            found = found[..., : module.n_sources, :].transpose(-1, -2)
            into = sums[module.module]
            if self._keep is not None:
                into = into[block.outer.start : block.outer.stop]
            into.add_((found if module.has_heads else found.squeeze(-2)).to(into), alpha=weight)

    def _gradients(
        self,
        layer: int,
        stage: list[ScoreBlock],
        done: MaskedPass,
        block: TokenBlock,
        out: Float[Tensor, "rows tokens d_model"],
    ) -> None:
        """Write the gradient at every destination's own input into `out`."""
        model = self._model
        first = {module.kind: sum(m.n_rows for m in stage[:i]) for i, module in enumerate(stage)}
        norm = None
        if layer < model.n_layers:
            norm = NormBackward(model, layer, done.attention_input[layer], block, constant_scale="norm" in done.parts)
            names = model.head_input_hooks(layer)
            gradients, values = ([of[name] for name in names] for of in (done.gradients, done.head_inputs))
            rows = slice(first["Q"], first["Q"] + model.n_heads + 2 * model.n_kv_heads)
            norm.heads(gradients, values, out[rows])
        else:
            self._copy(done.gradients[model.final_hook], block, out[first["Final"]])
        if "MLP" in first:
            mlp_layer = next(module.layer for module in stage if module.kind == "MLP")
            gradient = done.gradients[model.mlp_hook(mlp_layer)]
            if model.shares_norm and norm is not None:
                norm.vector(gradient, out[first["MLP"]])
            else:
                self._copy(gradient, block, out[first["MLP"]])

    @staticmethod
    def _copy(gradient: Tensor, block: TokenBlock, out: Float[Tensor, "tokens d_model"]) -> None:
        out.view(*block.shape, -1).copy_(block.of(gradient))

    def _differences(
        self, done: MaskedPass, ablated: Activations, block: TokenBlock
    ) -> Float[Tensor, "n_sources outer inner d_model"]:
        n_values = Differences.n_values(self._model, block)
        differences = Differences(self._model, ablated, block, self._buffer("differences", (n_values,)))
        differences.embedding(done.embedding)
        for layer in range(self._model.n_layers):
            differences.heads(layer, done.z[layer])
            differences.mlp(layer, done.mlp[layer])
        return differences.values

    def _product(
        self,
        differences: Float[Tensor, "sources outer inner d_model"],
        gradients: Float[Tensor, "rows outer inner d_model"],
    ) -> Float[Tensor, "*outer sources rows"]:
        """Inner products of differences and gradients."""
        if self._keep is None:
            return inner_products(differences.flatten(1), gradients.flatten(1))
        return inner_products(differences.flatten(2).transpose(0, 1), gradients.flatten(2).transpose(0, 1))

    def _tokens_at_once(self) -> int:
        model = self._model
        rows = self._layers_at_once * self._rows_a_layer
        a_token = self._dtype.itemsize * model.d_model * (model.graph.n_sources + rows)
        return max(int(PRODUCT_BYTES.get(model.device.type, DEFAULT_PRODUCT_BYTES) / a_token), 1)

    def _buffer(self, name: str, shape: Sequence[int]) -> Tensor:
        """Memory of this name, made larger where it has to be."""
        size = torch.Size(shape).numel()
        if name not in self._memory or self._memory[name].numel() < size:
            self._memory[name] = torch.empty(size, device=self._model.device, dtype=self._dtype)
        return self._memory[name][:size].view(*shape)


def precision(model: PatchableModel) -> torch.dtype:
    """What differences and gradients are kept in: bfloat16, if that is the model's and the device multiplies it faster
    than float32. float16 would lose small gradients."""
    fast = model.device.type == "cuda" or (model.device.type == "cpu" and bfloat16_is_quick())
    return torch.bfloat16 if fast and model.dtype == torch.bfloat16 else torch.float32


def _stage(model: PatchableModel, layer: int) -> list[ScoreBlock]:
    """The modules that read the stream as block `layer` finds it.

    These are the block's heads, and the MLP of the block before, which reads all sources but that MLP itself (in a
    parallel block: its own MLP); after the last block, the final residual.
    """
    mlp_layer = layer if model.parallel else layer - 1
    return [block for block in model.graph.blocks if block.layer == (mlp_layer if block.kind == "MLP" else layer)]
