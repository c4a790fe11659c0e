"""Where a head looks: its attention pattern on some prompts.

    attention_patterns   the weights from each position to the positions before it

    pattern = attention_patterns(model, tokens, layer=4, head=5)
    pattern[0, -1]       # [pos]: what the last token of the first prompt attends to, adding up to 1

The weights are those that the model itself computes, in a plain forward pass with eager attention: fused kernels never
form them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuit.common.errors import OptionError
from circuit.engine.model import PatchableModel
from circuit.engine.running import attention_by


@torch.no_grad()
def attention_patterns(
    model: PatchableModel, tokens: Int[Tensor, "batch pos"], layer: int, head: int
) -> Float[Tensor, "batch pos pos"]:
    """Attention weights of one head, float32 on the CPU: one row per query position, one column per key position.

    Args:
        model: The model.
        tokens: Prompts, right-padded, on the model's device. Rows of padding mean nothing.
        layer: The head's layer.
        head: The query head.

    Raises:
        OptionError: When the model has no such head.
    """
    if not (0 <= layer < model.n_layers and 0 <= head < model.n_heads):
        raise OptionError(f"There is no head {head} in layer {layer}: this model has {model.n_layers} layers of "
                          f"{model.n_heads} heads.")  # fmt: skip
    kept: list[Tensor] = []

    def keep(pattern: Tensor, hook: object) -> None:
        kept.append(pattern[:, head].float().cpu())

    none = torch.zeros(0, dtype=torch.long, device=model.device)  # no logits are needed
    with model.running(), attention_by(model.bridge.original_model, "eager"):
        model.logits(tokens, none, [(f"blocks.{layer}.attn.hook_pattern", keep)], through_bridge=True)
    return kept[0]
