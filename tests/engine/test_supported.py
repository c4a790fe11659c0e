"""Which models are refused, and why."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from circuit.common.errors import ModelError
from circuit.engine.model import PatchableModel
from circuit.engine.supported import SUPPORTED, check_supported
from tests.small_models import ARCHITECTURES, random_hf_model, shared_model


@pytest.mark.parametrize("config", ["Gemma2Config", "Gemma3TextConfig", "Olmo2Config"])
def test_models_that_normalise_a_blocks_output_are_refused(config: str) -> None:
    with pytest.raises(ModelError, match=r"normalise a block's output before adding it.* not supported"):
        check_supported(getattr(transformers, config)())


@pytest.mark.parametrize(
    "config", ["BloomConfig", "MambaConfig", "T5Config", "GemmaConfig", "OlmoConfig", "MixtralConfig"]
)
def test_other_models_are_refused_with_the_names_of_those_that_are_not(config: str) -> None:
    made = getattr(transformers, config)()
    with pytest.raises(ModelError, match=f"type '{made.model_type}' are not supported. Supported are GPT-2, .*Phi"):
        check_supported(made)


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        ("OPTConfig", {"do_layer_norm_before": False}, "norms after each block .* not a plain sum"),
        ("OPTConfig", {"word_embed_proj_dim": 512}, "projects its embeddings"),
        ("OPTConfig", {"_remove_final_layer_norm": True}, "no final layer norm"),
        ("GPT2Config", {"scale_attn_weights": False}, "does not scale its attention scores"),
        ("GPT2Config", {"add_cross_attention": True}, "cross-attention"),
        ("GPTNeoXConfig", {"attention_bias": False}, "no attention biases"),
        ("PhiConfig", {"qk_layernorm": True}, "normalises queries and keys"),
    ],
)
def test_variants_that_transformer_lens_computes_differently_are_refused(
    config: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=f"{words}.*not supported"):
        check_supported(getattr(transformers, config)(**options))


def test_a_refused_model_is_refused_by_the_wrapper_too() -> None:
    bridge = shared_model("opt").bridge
    config = bridge.original_model.config
    config.do_layer_norm_before = False
    try:
        with pytest.raises(ModelError, match="after each block"):
            PatchableModel(bridge)
    finally:
        config.do_layer_norm_before = True


def test_every_supported_type_is_tested() -> None:
    assert {random_hf_model(name).config.model_type for name in ARCHITECTURES} == set(SUPPORTED)
