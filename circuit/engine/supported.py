"""Which models the engine can score: by architecture, and by what their config says.

SUPPORTED          Hugging Face model types, and their names
check_supported    refuses all others, and variants that TransformerLens does not compute; the sentence says why
count_parameters   of a model with this config, without making it
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from circuit.common.errors import ModelError

SUPPORTED = {
    "gpt2": "GPT-2",
    "gpt_neo": "GPT-Neo",
    "gpt_neox": "GPT-NeoX and Pythia",
    "opt": "OPT",
    "llama": "Llama and SmolLM",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "stablelm": "StableLM",
    "starcoder2": "Starcoder 2",
    "smollm3": "SmolLM 3",
    "ernie4_5": "ERNIE 4.5",
    "seed_oss": "Seed-OSS",
    "ministral3": "Ministral 3",
    "arcee": "Arcee",
    "apertus": "Apertus",
    "hunyuan_v1_dense": "HunYuan",
    "cohere": "Cohere Command R",
    "cohere2": "Cohere Command R7B",
    "phi": "Phi",
}
"""Hugging Face model types whose edges can be scored, and their names."""
_REFUSED_VARIANTS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    (
        "opt",
        lambda config: not config.do_layer_norm_before,
        "applies its layer norms after each block (do_layer_norm_before=false), so its stream is not a plain sum",
    ),
    (
        "opt",
        lambda config: config.word_embed_proj_dim != config.hidden_size,
        "projects its embeddings to another width (word_embed_proj_dim), which TransformerLens does not",
    ),
    ("opt", lambda config: getattr(config, "_remove_final_layer_norm", False), "has no final layer norm"),
    (
        "gpt2",
        lambda config: not config.scale_attn_weights,
        "does not scale its attention scores (scale_attn_weights=false), and TransformerLens would scale them",
    ),
    ("gpt2", lambda config: config.add_cross_attention, "has cross-attention (add_cross_attention=true)"),
    (
        "gpt_neox",
        lambda config: not getattr(config, "attention_bias", True),
        "has no attention biases (attention_bias=false), which TransformerLens needs",
    ),
    (
        "phi",
        lambda config: getattr(config, "qk_layernorm", False),
        "normalises queries and keys (qk_layernorm=true), which TransformerLens does not",
    ),
)
"""Variants of supported architectures on which TransformerLens fails, or computes something else."""
_NORMALISED_OUTPUT = {"gemma2", "gemma3", "gemma3_text", "olmo2", "olmo3"}


def count_parameters(config: Any) -> int:
    """Parameters of a Hugging Face model with this config, tied weights counted once, without making them."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config).num_parameters()


def check_supported(config: Any) -> None:
    """Raise a `ModelError` that says why, unless edges of a model with this Hugging Face config can be scored."""
    kind = config.model_type
    if kind in _NORMALISED_OUTPUT:
        raise ModelError(
            f"Models of type '{kind}' normalise a block's output before adding it to the residual stream, so a head's "
            "contribution is not a plain sum and edge scores would be wrong: this model is not supported."
        )
    if kind not in SUPPORTED:
        raise ModelError(f"Models of type '{kind}' are not supported. Supported are {', '.join(SUPPORTED.values())}.")
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None:
        raise ModelError(
            f"This model's weights are quantised ({_quantised_by(quantization)}), and edge scores read them as plain "
            "numbers: load a version of it in float32, bfloat16 or float16, or a GGUF file, which is dequantised here."
        )
    for of_kind, applies, what in _REFUSED_VARIANTS:
        if kind == of_kind and applies(config):
            raise ModelError(f"This model of type '{kind}' {what}: it is not supported. Others of its type are.")


def _quantised_by(quantization: Any) -> str:
    """The method of a `quantization_config`, which is a dictionary as long as no model was made of it."""
    options = quantization if isinstance(quantization, dict) else vars(quantization)
    if options.get("load_in_8bit") or options.get("load_in_4bit"):  # older files name no method
        return "bitsandbytes"
    method = options.get("quant_method")
    return str(getattr(method, "value", method) or "by a method that its config.json does not name")
