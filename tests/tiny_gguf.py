"""A GGUF file of a few kilobytes: a random Llama with a byte-level tokenizer, for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants
from tokenizers import pre_tokenizers

D_MODEL, D_MLP, N_HEADS, N_KV_HEADS, N_LAYERS = 32, 64, 4, 2, 2
N_CTX, ROPE_BASE = 64, 5000.0


def write_gguf(
    path: Path, *, architecture: str = "llama", also: Callable[[GGUFWriter], object] | None = None
) -> dict[str, np.ndarray]:
    """Write the file; the weights in it, dequantised, by GGUF name. `also` may add keys and tensors."""
    words = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "he"]
    writer = GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(D_MODEL)
    writer.add_block_count(N_LAYERS)
    writer.add_feed_forward_length(D_MLP)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV_HEADS)
    writer.add_rope_dimension_count(D_MODEL // N_HEADS)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3, 3] + [1] * (len(words) - 2))
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)

    generator = np.random.default_rng(7)
    d_kv = D_MODEL // N_HEADS * N_KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (len(words), D_MODEL), "output": (len(words), D_MODEL)}
    for layer in range(N_LAYERS):
        block: dict[str, tuple[int, ...]] = {
            "attn_q": (D_MODEL, D_MODEL),
            "attn_k": (d_kv, D_MODEL),
            "attn_v": (d_kv, D_MODEL),
            "attn_output": (D_MODEL, D_MODEL),
            "ffn_gate": (D_MLP, D_MODEL),
            "ffn_up": (D_MLP, D_MODEL),
            "ffn_down": (D_MODEL, D_MLP),
            "attn_norm": (D_MODEL,),
            "ffn_norm": (D_MODEL,),
        }
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    shapes["output_norm"] = (D_MODEL,)
    written: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        weight = generator.normal(scale=0.2, size=shape).astype(np.float32)
        if len(shape) == 1:
            written[name] = 1 + weight
            writer.add_tensor(f"{name}.weight", written[name])
        else:
            kind = GGMLQuantizationType.Q8_0
            packed = quants.quantize(weight, kind)
            written[name] = quants.dequantize(packed, kind)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
    if architecture == "qwen2":
        for layer in range(N_LAYERS):
            for name, size in (("attn_q", D_MODEL), ("attn_k", d_kv), ("attn_v", d_kv)):
                bias = generator.normal(scale=0.2, size=size).astype(np.float32)
                writer.add_tensor(f"blk.{layer}.{name}.bias", bias)
    if also is not None:
        also(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written
