"""Small models for the tests: random ones of every supported architecture, and AutoCircuit's reference models."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from circuit.engine.model import PatchableModel
from circuit.models.load import wrap

torch.set_num_threads(1)  # threads would only wait for each other on models this small

AUTOCIRCUIT = Path(__file__).parent / "data" / "autocircuit"
D_VOCAB = 97

_GROUPED: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 32,
}
_UNGROUPED: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
_LOCAL_AND_GLOBAL = ["sliding_attention", "full_attention", "sliding_attention"]
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 32}),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 32,
            "window_size": 4,
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", _UNGROUPED),
    "gpt_neox_sequential": ("GPTNeoXConfig", {**_UNGROUPED, "use_parallel_residual": False}),
    "opt": (
        "OPTConfig",
        {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "max_position_embeddings": 32,
            "word_embed_proj_dim": 32,
        },
    ),
    "llama": ("LlamaConfig", _GROUPED),
    "mistral": ("MistralConfig", _GROUPED | {"sliding_window": 4}),
    "qwen2": ("Qwen2Config", _GROUPED),
    "qwen3": ("Qwen3Config", _GROUPED),
    "phi": ("PhiConfig", _UNGROUPED),
    "stablelm": ("StableLmConfig", _GROUPED),
    "starcoder2": ("Starcoder2Config", _GROUPED),
    "smollm3": ("SmolLM3Config", _GROUPED | {"no_rope_layers": [1, 0, 1]}),
    "ernie4_5": ("Ernie4_5Config", _GROUPED),
    "seed_oss": ("SeedOssConfig", _GROUPED),
    "ministral3": ("Ministral3Config", _GROUPED),
    "arcee": ("ArceeConfig", _GROUPED),
    "apertus": ("ApertusConfig", _GROUPED),
    "hunyuan_v1_dense": ("HunYuanDenseV1Config", _GROUPED),
    "cohere": ("CohereConfig", _GROUPED),
    "cohere2": ("Cohere2Config", _GROUPED | {"sliding_window": 4, "layer_types": _LOCAL_AND_GLOBAL}),
}
ARCHITECTURES = list(CONFIGS)

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in ARCHITECTURES} | {
    "llama_biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama_one_kv_head": ("llama", {"num_key_value_heads": 1}),
    "mistral_wide_heads": ("mistral", {"head_dim": 12}),  # heads together wider than the stream
    "qwen2_sliding": ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3_wide_heads": ("qwen3", {"head_dim": 12}),
    "phi_grouped": ("phi", {"num_key_value_heads": 2}),
    "opt_no_biases": ("opt", {"enable_bias": False}),
    "opt_norms_without_weight": ("opt", {"layer_norm_elementwise_affine": False}),
    "stablelm_biases": ("stablelm", {"use_qkv_bias": True, "num_key_value_heads": 4}),
    "stablelm_parallel": ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}),
    "starcoder2_no_biases": ("starcoder2", {"use_bias": False}),
    "starcoder2_sliding": ("starcoder2", {"sliding_window": 4}),
    "smollm3_untied": ("smollm3", {"tie_word_embeddings": False, "attention_bias": True}),
    "smollm3_ungrouped": ("smollm3", {"num_key_value_heads": 4}),
    "ernie4_5_biases": ("ernie4_5", {"use_bias": True}),
    "ernie4_5_ungrouped": ("ernie4_5", {"num_key_value_heads": 4}),
    "seed_oss_biases": ("seed_oss", {"attention_bias": True, "attention_out_bias": True, "mlp_bias": True}),
    "seed_oss_wide_heads": ("seed_oss", {"head_dim": 12}),
    "cohere_normalised_queries": ("cohere", {"use_qk_norm": True}),
    "cohere_biases": ("cohere", {"attention_bias": True, "num_key_value_heads": 4, "logit_scale": 0.5}),
    "cohere2_biases": ("cohere2", {"attention_bias": True}),
    "cohere2_wide_heads": ("cohere2", {"head_dim": 12}),
    "ministral3_wide_heads": ("ministral3", {"head_dim": 12}),
    "ministral3_ungrouped_sliding": ("ministral3", {"num_key_value_heads": 4, "sliding_window": 4}),
    "arcee_biases": ("arcee", {"attention_bias": True, "mlp_bias": True}),
    "arcee_ungrouped": ("arcee", {"num_key_value_heads": 4}),
    "apertus_biases": ("apertus", {"attention_bias": True}),
    "apertus_ungrouped": ("apertus", {"num_key_value_heads": 4}),
    "hunyuan_biases": ("hunyuan_v1_dense", {"attention_bias": True}),
    "hunyuan_ungrouped": ("hunyuan_v1_dense", {"num_key_value_heads": 4}),
    "gpt2_untied": ("gpt2", {"tie_word_embeddings": False}),
    "gpt2_scaled_by_layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2_one_layer": ("gpt2", {"n_layer": 1}),
}
"""Options that change what a block computes: architecture and changes of its config."""


@functools.cache
def tokenizer_folder() -> str:
    """A tokenizer whose words are the numbers 0 to 96, saved, since bridges read tokenizers from disk."""
    words = Tokenizer(models.WordLevel({str(i): i for i in range(D_VOCAB)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tempfile.mkdtemp(prefix="edgescope-tests-")
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="0", eos_token="0", pad_token="0").save_pretrained(folder)
    return folder


def tokenizer() -> Any:
    return PreTrainedTokenizerFast.from_pretrained(tokenizer_folder())


def random_hf_model(name: str, **changes: Any) -> Any:
    """A random model, the same each time, with weights and biases large enough for every path to matter."""
    config_name, options = CONFIGS[name]
    options = {**options, "vocab_size": D_VOCAB, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, **changes}
    config = getattr(transformers, config_name)(**options)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model.config.architectures = [type(model).__name__]  # as in every config.json
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm_weight = parameter.ndim == 1 and bool((parameter == 1).all())
            parameter.copy_(1 + 0.1 * noise if is_norm_weight else 0.2 * noise)
    return model


def random_model(name: str, seq_len: int | None = None, **changes: Any) -> PatchableModel:
    return wrap(random_hf_model(name, **changes), tokenizer(), seq_len)


@functools.cache
def shared_model(variant: str) -> PatchableModel:
    """One of `VARIANTS`, made once for all tests: leave it as it was."""
    name, changes = VARIANTS[variant]
    return random_model(name, **changes)


@functools.cache
def reference_model(name: str) -> PatchableModel:
    """One of the models that AutoCircuit's numbers belong to."""
    hf_model = AutoModelForCausalLM.from_pretrained(AUTOCIRCUIT / name / "model", attn_implementation="eager")
    return wrap(hf_model.eval(), tokenizer())
