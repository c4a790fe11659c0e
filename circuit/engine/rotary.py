"""Rotary frequencies that follow the length of what the model reads: dynamic NTK, and LongRoPE.

    context_length      the longest prompt that a model with this config takes
    RotaryFrequencies   those of a model, which are no longer the same for prompts of all lengths

Up to the context that a model was trained on, the frequencies are fixed. Beyond, transformers takes them from the
longest prompt of a batch (dynamic NTK: from the longest that it has ever seen), so what a prompt gives would depend on
others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from circuit.common.errors import PromptError


def context_length(config: Any) -> int:
    """The longest prompt, in tokens: dynamic NTK stretches the context that the config names by its factor."""
    rope = _rope(config)
    stretch = float(rope.get("factor", 1)) if rope.get("rope_type") == "dynamic" else 1.0
    return int(config.max_position_embeddings * stretch)


class RotaryFrequencies:
    """The rotary embeddings of a Hugging Face model whose frequencies follow the prompts' length, if it has any."""

    def __init__(self, model: Any) -> None:
        config, rope = model.config, _rope(model.config)
        self.fixed_up_to: float = math.inf
        """Tokens up to which a prompt's frequencies do not depend on its length."""
        if rope.get("rope_type") == "dynamic":
            self.fixed_up_to = config.max_position_embeddings
        elif rope.get("rope_type") == "longrope":
            self.fixed_up_to = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        self._dynamic = [part for part in model.modules() if vars(part).get("rope_type") == "dynamic"]

    def check_lengths(self, numbers: Sequence[int], lengths: Sequence[int]) -> None:
        """Raise a `PromptError` that names the row, unless each prompt gets the frequencies of its own length."""
        longest = max(lengths)
        if longest <= self.fixed_up_to:
            return
        for row, length in zip(numbers, lengths, strict=True):
            if length != longest:
                raise PromptError(
                    f"Row {row}: the prompt has {length} tokens, and the longest has {longest}: beyond "
                    f"{self.fixed_up_to} tokens this model's rotary frequencies follow the longest prompt of a batch. "
                    "Use prompts of one length, or shorter ones."
                )

    def start_again(self) -> None:
        """Forget the longest prompt of the past."""
        for part in self._dynamic:
            if part.max_seq_len_cached != part.original_max_seq_len:
                part.inv_freq = part.original_inv_freq.to(part.inv_freq.device)
                part.max_seq_len_cached = part.original_max_seq_len


def _rope(config: Any) -> dict[str, Any]:
    return getattr(config, "rope_parameters", None) or {}
