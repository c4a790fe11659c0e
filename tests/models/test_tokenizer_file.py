"""What a folder's tokenizer.json says is what counts, whatever classes its other files name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.processors import ByteLevel, TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from circuit.common.errors import ModelError
from circuit.models.load import load_model, load_tokenizer
from circuit.models.tokenizer_file import TELLING, read_tokenizer
from tests.small_models import random_hf_model
from tests.small_tokenizers import PRE_TOKENIZERS, byte_level_tokenizer, save_tokenizer

CLASSES = ["PreTrainedTokenizerFast", "LlamaTokenizerFast", "GPT2Tokenizer", "Qwen2Tokenizer", "CodeGenTokenizer", None]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.fixture(scope="module", params=["llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox", "phi", "opt"])
def model_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    random_hf_model(request.param, vocab_size=600).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pre_tokenizer", PRE_TOKENIZERS)
@pytest.mark.parametrize("named", CLASSES)
def test_texts_are_cut_as_tokenizer_json_says(model_folder: Path, named: str | None, pre_tokenizer: str) -> None:
    config = {"tokenizer_class": named} if named else {}
    save_tokenizer(byte_level_tokenizer(pre_tokenizer), model_folder, **config, **SPECIAL)
    wanted = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    words = load_tokenizer(model_folder)
    for text in (*TELLING, "the year 1732", "</s> a<s>b"):
        assert words.encode(text) == wanted.encode(text, add_special_tokens=False).ids
    assert (words.bos, words.prepend_bos) == (0, False)


def test_the_rules_differ_on_these_texts() -> None:
    cut = {json.dumps([rule.pre_tokenize_str(text) for text in TELLING]) for rule in PRE_TOKENIZERS.values()}
    assert len(cut) == len(PRE_TOKENIZERS)


def test_the_loaded_model_has_the_same_tokenizer(tmp_path: Path) -> None:
    random_hf_model("qwen2", vocab_size=600).save_pretrained(tmp_path)
    save_tokenizer(byte_level_tokenizer("Llama 3"), tmp_path, tokenizer_class="Qwen2Tokenizer", **SPECIAL)
    text = "from the year 1732"
    wanted = byte_level_tokenizer("Llama 3").encode(text).ids
    assert AutoTokenizer.from_pretrained(tmp_path)(text).input_ids != wanted  # why this is read otherwise here
    assert load_model(tmp_path, device="cpu").tokenizer(text, add_special_tokens=False).input_ids == wanted


@pytest.mark.parametrize("named", CLASSES)
@pytest.mark.parametrize(
    "config", [{}, {"add_eos_token": False}, {"add_prefix_space": False}, {"add_bos_token": False}]
)
def test_a_bos_token_of_the_template_is_not_lost(tmp_path: Path, named: str | None, config: dict[str, Any]) -> None:
    random_hf_model("qwen2", vocab_size=600).save_pretrained(tmp_path)
    words = byte_level_tokenizer("GPT-2")
    words.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    save_tokenizer(words, tmp_path, **({"tokenizer_class": named} if named else {}), **config)
    read = load_tokenizer(tmp_path)
    assert (read.bos, read.prepend_bos) == (0, True)


@pytest.mark.parametrize("named", CLASSES)
@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("post_processor", [None, ByteLevel(trim_offsets=False)])
def test_without_a_template_none_is_put(tmp_path: Path, named: str | None, asked: bool, post_processor: Any) -> None:
    random_hf_model("llama", vocab_size=600).save_pretrained(tmp_path)
    words = byte_level_tokenizer("GPT-2")
    if post_processor is not None:
        words.post_processor = post_processor
    config = {"tokenizer_class": named} if named else {}
    save_tokenizer(words, tmp_path, **config, add_bos_token=asked, **SPECIAL)
    read = load_tokenizer(tmp_path)
    assert (read.bos, read.prepend_bos) == (0, False)


def test_special_tokens_that_only_the_class_names_are_kept(tmp_path: Path) -> None:
    words = byte_level_tokenizer("GPT-2")
    words.add_special_tokens(["<|endoftext|>"])
    random_hf_model("gpt2", vocab_size=700).save_pretrained(tmp_path)
    save_tokenizer(words, tmp_path, model_max_length=1024)  # all that GPT-2's own folder says
    read = read_tokenizer(tmp_path)
    assert (read.bos_token, read.eos_token) == ("<|endoftext|>", "<|endoftext|>")
    assert len(read) == words.get_vocab_size()  # no token was added


def test_tokens_of_the_configuration_are_added(tmp_path: Path) -> None:
    random_hf_model("llama", vocab_size=600).save_pretrained(tmp_path)
    save_tokenizer(
        byte_level_tokenizer("GPT-2"), tmp_path, tokenizer_class="PreTrainedTokenizerFast", pad_token="<pad>", **SPECIAL
    )
    words = load_tokenizer(tmp_path)
    assert words.encode("<pad>") == [byte_level_tokenizer("GPT-2").get_vocab_size()]


def test_a_tokenizer_that_cannot_be_read_as_its_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_hf_model("llama", vocab_size=600).save_pretrained(tmp_path)
    save_tokenizer(byte_level_tokenizer("GPT-2"), tmp_path, tokenizer_class="PreTrainedTokenizerFast", **SPECIAL)
    other = byte_level_tokenizer("GPT-2")
    other.add_tokens(["Mary"])
    other.pre_tokenizer = pre_tokenizers.Whitespace()
    broken = PreTrainedTokenizerFast(tokenizer_object=other, **SPECIAL)
    monkeypatch.setattr(PreTrainedTokenizerFast, "from_pretrained", lambda *args, **options: broken)
    with pytest.raises(ModelError, match=r"otherwise than this model's tokenizer\.json says.*Save the tokenizer again"):
        load_tokenizer(tmp_path)
