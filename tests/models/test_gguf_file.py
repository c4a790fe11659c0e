"""A GGUF file's rotary embedding is the loaded model's, whatever scales it, and all its weights have their place."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter, RopeScalingType
from transformers import AutoModelForCausalLM

from circuit.common.errors import ModelError
from circuit.common.settings import cache_folder
from circuit.models.load import load_model, load_tokenizer
from tests.tiny_gguf import D_MODEL, N_CTX, N_HEADS, ROPE_BASE, write_gguf

HALF = D_MODEL // N_HEADS // 2
PLAIN = np.array([ROPE_BASE ** (-2 * i / (2 * HALF)) for i in range(HALF)])
FACTORS = np.array([1, 1, 8, 32], dtype=np.float32)
IDS, LAST = torch.arange(3, 43)[None], torch.tensor([39])


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESCOPE_CACHE", str(tmp_path / "cache"))


def loaded(folder: Path, also: Callable[[GGUFWriter], object] | None = None, architecture: str = "llama") -> Any:
    write_gguf(folder / "tiny.gguf", architecture=architecture, also=also)
    return load_model(folder / "tiny.gguf", device="cpu")


def factors(writer: GGUFWriter, name: str = "rope_freqs", values: np.ndarray = FACTORS) -> None:
    writer.add_tensor(f"{name}.weight", values)


def linear(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(8.0)


def linear_and_factors(writer: GGUFWriter) -> None:
    linear(writer)
    factors(writer)


def old_linear(writer: GGUFWriter) -> None:
    writer.add_float32(f"{writer.arch}.rope.scale_linear", 4.0)


def without_type(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_factor(2.0)


def none(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.NONE)
    writer.add_rope_scaling_factor(8.0)


def yarn(writer: GGUFWriter, **options: float) -> None:
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(N_CTX // 4)


def yarn_with_options(writer: GGUFWriter) -> None:
    yarn(writer)
    writer.add_rope_scaling_yarn_beta_fast(4.0)
    writer.add_rope_scaling_yarn_beta_slow(0.25)
    writer.add_rope_scaling_attn_factors(0.9)


def longrope(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.LONGROPE)
    writer.add_rope_scaling_orig_ctx_len(N_CTX)
    writer.add_rope_scaling_attn_factors(1.1)
    factors(writer, "rope_factors_short", FACTORS)
    factors(writer, "rope_factors_long", 2 * FACTORS)


def by_yarn(fast: float, slow: float) -> np.ndarray:
    """The paper's ramp over the pairs of dimensions, by hand."""
    frequencies = []
    for i, plain in enumerate(PLAIN):
        low, high = (
            2 * HALF * math.log(N_CTX / 4 / (turns * 2 * math.pi)) / (2 * math.log(ROPE_BASE)) for turns in (fast, slow)
        )
        low, high = max(math.floor(low), 0), min(math.ceil(high), 2 * HALF - 1)
        share = min(max((i - low) / max(high - low, 0.001), 0), 1)
        frequencies.append(plain * (1 - share) + plain / 4 * share)
    return np.array(frequencies)


SCALED: dict[str, tuple[Callable[[GGUFWriter], object] | None, np.ndarray, float]] = {
    "nothing": (None, PLAIN, 1.0),
    "rope_freqs": (factors, PLAIN / FACTORS, 1.0),
    "linear": (linear, PLAIN / 8, 1.0),
    "linear and rope_freqs": (linear_and_factors, PLAIN / FACTORS / 8, 1.0),
    "scale_linear of old files": (old_linear, PLAIN / 4, 1.0),
    "a factor without a type": (without_type, PLAIN / 2, 1.0),
    "none": (none, PLAIN, 1.0),
    "yarn": (yarn, by_yarn(32, 1), 1 + 0.1 * math.log(4)),
    "yarn with options": (yarn_with_options, by_yarn(4, 0.25), 0.9 * (1 + 0.1 * math.log(4))),
    "longrope": (longrope, PLAIN / FACTORS, 1.1),
}


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("kind", SCALED)
def test_logits_are_those_of_the_files_own_frequencies(tmp_path: Path, kind: str, architecture: str) -> None:
    also, frequencies, amplitude = SCALED[kind]
    model = loaded(tmp_path, also, architecture)
    rotary = model.bridge.original_model.model.rotary_emb
    np.testing.assert_allclose(rotary.inv_freq.numpy(), frequencies, rtol=1e-5)
    assert rotary.attention_scaling == pytest.approx(amplitude)
    (folder,) = (cache_folder() / "gguf").iterdir()
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    plain.config.rope_parameters = {"rope_type": "default", "rope_theta": ROPE_BASE}
    embedding = type(plain.model.rotary_emb)(plain.config)
    embedding.inv_freq.copy_(torch.from_numpy(frequencies))
    embedding.attention_scaling = amplitude
    plain.model.rotary_emb = embedding  # of plain frequencies, replaced by hand
    with torch.no_grad():
        torch.testing.assert_close(model.logits(IDS, LAST), plain(IDS).logits[:, -1], rtol=1e-4, atol=1e-4)


def test_longrope_takes_its_long_factors_beyond_the_original_context(tmp_path: Path) -> None:
    def shorter(writer: GGUFWriter) -> None:
        writer.add_rope_scaling_type(RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(8)
        factors(writer, "rope_factors_short", FACTORS)
        factors(writer, "rope_factors_long", 2 * FACTORS)

    model = loaded(tmp_path, shorter)
    with torch.no_grad():
        model.bridge.original_model(IDS)
    np.testing.assert_allclose(model.bridge.original_model.model.rotary_emb.inv_freq, PLAIN / FACTORS / 2, rtol=1e-5)


def two_ways(writer: GGUFWriter) -> None:
    yarn(writer)
    factors(writer)


def unknown_type(writer: GGUFWriter) -> None:
    writer.add_string(f"{writer.arch}.rope.scaling.type", "dynamic")


def unknown_key(writer: GGUFWriter) -> None:
    yarn(writer)
    writer.add_rope_scaling_yarn_log_mul(0.1)


def partly_extrapolated(writer: GGUFWriter) -> None:
    yarn(writer)
    writer.add_rope_scaling_yarn_ext_factor(0.5)


def too_few_factors(writer: GGUFWriter) -> None:
    factors(writer, values=FACTORS[:2])


def no_factors(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.LONGROPE)


def biases(writer: GGUFWriter) -> None:
    writer.add_tensor("blk.0.attn_q.bias", np.ones(D_MODEL, dtype=np.float32))


def another_layer(writer: GGUFWriter) -> None:
    writer.add_tensor("blk.2.attn_norm.weight", np.ones(D_MODEL, dtype=np.float32))


@pytest.mark.parametrize(
    ("also", "words"),
    [
        (two_ways, r"by yarn and by rope_freqs\.weight"),
        (unknown_type, "the type 'dynamic', which is not supported"),
        (unknown_key, r"the key llama\.rope\.scaling\.yarn_log_multiplier, which is not supported"),
        (partly_extrapolated, "by yarn in a way that is not supported"),
        (too_few_factors, r"rope_freqs\.weight of tiny\.gguf must hold 4 factors"),
        (no_factors, "asks for longrope, and lacks the tensors"),
        (biases, r"holds [\d,]+ weights, and the model that transformers makes of it has .*such as biases"),
        (another_layer, r"some would be left out"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(
    tmp_path: Path, also: Callable[[GGUFWriter], object], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        loaded(tmp_path, also)
    assert list((cache_folder() / "gguf").iterdir()) == []


def test_a_model_with_other_frequencies_than_the_file_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("circuit.models.gguf_file._by_factors", lambda *args: {"rope_type": "linear", "factor": 8.0})
    with pytest.raises(ModelError, match=r"that transformers makes of tiny\.gguf is not the file's own"):
        loaded(tmp_path, factors)


@pytest.mark.parametrize("adds", [True, False, None])
def test_the_bos_token_is_put_where_the_file_says_so(tmp_path: Path, adds: bool | None) -> None:
    write_gguf(tmp_path / "tiny.gguf", also=lambda writer: None if adds is None else writer.add_add_bos_token(adds))
    words = load_tokenizer(tmp_path / "tiny.gguf")
    assert words.bos == 0
    assert words.prepend_bos == bool(adds)
