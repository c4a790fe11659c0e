"""Models: from a name or a folder to a PatchableModel."""

from __future__ import annotations

from typing import Any

from circuit.patchable import PatchableModel, check_supported


def wrap(hf_model: Any, tokenizer: Any, seq_len: int | None = None) -> PatchableModel:
    """A Hugging Face model with its tokenizer -> PatchableModel. The tokenizer's `name_or_path` must exist."""
    from transformer_lens.model_bridge import TransformerBridge

    check_supported(hf_model.config)
    bridge = TransformerBridge.boot_transformers(
        tokenizer.name_or_path, hf_model=hf_model, tokenizer=tokenizer, device=hf_model.device, dtype=hf_model.dtype
    )
    return PatchableModel(bridge, seq_len)
