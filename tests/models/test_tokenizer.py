"""What the page says of a tokenizer is what runs: for every choice of a BOS token, and for tokens beyond the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from circuit.common.errors import PromptError
from circuit.engine.model import PatchableModel
from circuit.jobs import load
from circuit.jobs.attribute import attribute
from circuit.jobs.check import CheckRequest, check_prompts
from circuit.jobs.load import ModelRequest, describe_model
from circuit.models.load import load_model, load_tokenizer, wrap
from circuit.models.tokenizer import visible
from circuit.prompts.checks import check_bos
from circuit.prompts.encode import encode
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.runs.config import RunConfig
from tests.small_models import random_hf_model, tokenizer
from tests.small_tokenizers import number_tokenizer, save_tokenizer

if TYPE_CHECKING:
    from circuit.engine.model import PatchableModel

import pickle

from circuit.common.errors import ModelError
from circuit.models.tokenizer import PromptTokenizer
from circuit.prompts.checks import check_pair

PAIR = PromptPair("3 4 5 6 7", "3 4 9 6 7", ("1",), ("2",))
PROMPTS = PromptSet("p", (PAIR,))
EOS, BOS = 96, 95


def template(puts: str) -> TemplateProcessing:
    return TemplateProcessing(single=f"{puts} $A", special_tokens=[(puts, int(puts))])


KINDS: dict[str, tuple[dict[str, str], str | None, int | None, bool]] = {
    "BOS that is put before texts": ({"bos_token": "95", "eos_token": "96"}, "95", BOS, True),
    "BOS that is not": ({"bos_token": "95", "eos_token": "96"}, None, BOS, False),
    "EOS only": ({"eos_token": "96"}, None, None, False),
    "BOS by the template only": ({}, "95", BOS, True),
    "BOS by the template, EOS by name": ({"eos_token": "96"}, "95", BOS, True),
    "neither": ({}, None, None, False),
    "EOS as BOS": ({"bos_token": "96", "eos_token": "96"}, None, EOS, False),
    "EOS as BOS that is put before texts": ({"bos_token": "96", "eos_token": "96"}, "96", EOS, True),
}
"""What a tokenizer's files name, and what its template puts; then the BOS token, and whether it is put."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[("llama", "0"), ("qwen2", "0"), ("qwen2", None)])
def folder(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> Path:
    named, puts, _, _ = KINDS[kind]
    architecture, unknown = request.param
    random_hf_model(architecture, bos_token_id=None, eos_token_id=EOS).save_pretrained(tmp_path / "model")
    words = number_tokenizer(unknown=unknown)
    if puts:
        words.post_processor = template(puts)
    save_tokenizer(words, tmp_path / "model", tokenizer_class="PreTrainedTokenizerFast", **named)
    return tmp_path / "model"


@pytest.mark.parametrize("choice", [None, True, False])
def test_the_engine_is_given_the_tokens_that_the_page_shows(
    folder: Path, kind: str, choice: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, bos, habit = KINDS[kind]
    page = load_tokenizer(folder)
    assert (page.bos, page.prepend_bos) == (bos, habit)
    puts = habit if choice is None else choice
    shown = encode(PROMPTS, page, puts, page.n_ctx)
    given: list[list[int]] = []
    logits = PatchableModel.logits

    def spy(model: PatchableModel, tokens: torch.Tensor, *rest: Any, **options: Any) -> Any:
        given.extend(tokens.tolist())
        return logits(model, tokens, *rest, **options)

    monkeypatch.setattr(PatchableModel, "logits", spy)
    config, request = (
        RunConfig(str(folder), PROMPTS, prepend_bos=choice, device="cpu"),
        CheckRequest(str(folder), PROMPTS, prepend_bos=choice, device="cpu"),
    )
    if puts and bos is None:
        assert "has no BOS token, so none can be put" in str(check_bos(page, choice, [PAIR.clean]))
        assert shown.usable == []
        assert check_prompts(request).problems == shown.problems
        with pytest.raises(PromptError, match="has no BOS token, so none can be put"):
            attribute(config)
        return
    assert shown.clean == [[*([bos] if puts else []), 3, 4, 5, 6, 7]]
    load.models.cache_clear()
    assert describe_model(ModelRequest(str(folder), device="cpu")).prepend_bos == habit
    given.clear()  # what loading looks at
    run, report = attribute(config), check_prompts(request)
    assert {tuple(tokens) for tokens in given} == {tuple(shown.clean[0]), tuple(shown.corrupt[0])}
    assert report.clean_tokens == [[page.piece(token) for token in shown.clean[0]]]
    with torch.no_grad():  # what Hugging Face says of these tokens
        hf_model = random_hf_model(json.loads((folder / "config.json").read_text())["model_type"])
        last = hf_model(torch.tensor(shown.clean)).logits[0, -1]
    np.testing.assert_allclose([run.baseline.clean, report.difference_clean[0]], float(last[1] - last[2]), atol=1e-4)


def test_a_loaded_model_keeps_its_tokenizer_as_it_is(folder: Path, kind: str) -> None:
    named, _, _, _ = KINDS[kind]
    model = load_model(folder, device="cpu")
    assert model.tokenizer.bos_token == named.get("bos_token")
    assert model.tokenizer.eos_token == named.get("eos_token")
    assert len(model.tokenizer) == 97


def test_a_tokenizer_made_in_memory_need_not_be_saved_and_stays_as_it_is() -> None:
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=number_tokenizer(), eos_token="96")
    model = wrap(random_hf_model("llama"), words)
    assert model.tokenizer is words
    assert (words.bos_token, words.pad_token) == (None, None)


# --- tokens that the model has no row for --------------------------------------------------------------------------


@pytest.fixture
def enlarged(tmp_path: Path) -> str:
    """A special token was added to the tokenizer, and the model's embedding was not enlarged."""
    random_hf_model("llama").save_pretrained(tmp_path)
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    words.save_pretrained(tmp_path)
    return str(tmp_path)


BEYOND = [
    PromptPair("<|im_start|> 4 5", "<|im_start|> 9 5", ("11",), ("12",)),
    PromptPair("3 4 5", "3 <|im_start|> 5", ("11",), ("12",)),
    PromptPair("3 4 5", "3 9 5", ("<|im_start|>",), ("12",)),
    PromptPair("3 4 5", "3 9 5", ("11",), ("12", "<|im_start|>")),
]


@pytest.mark.parametrize("pair", BEYOND)
def test_a_row_with_a_token_beyond_the_model_is_marked_and_nothing_is_run_with_it(
    enlarged: str, pair: PromptPair
) -> None:
    good = PromptPair("3 4 5", "3 9 5", ("11",), ("12",))
    mixed, alone = PromptSet("mixed", (pair, good)), PromptSet("alone", (pair,))
    page = load_tokenizer(enlarged)
    said = encode(mixed, page, page.prepend_bos, page.n_ctx).problems
    assert list(said) == [0]
    assert "'<|im_start|>' is token 97, and this model's embedding has rows for 0 to 96 only" in said[0][0]
    assert check_prompts(CheckRequest(enlarged, mixed, device="cpu")).problems == said
    assert attribute(RunConfig(enlarged, mixed, device="cpu")).used_rows == [1]
    assert check_prompts(CheckRequest(enlarged, alone, device="cpu")).problems.keys() == {0}
    with pytest.raises(PromptError, match=r"Row 1: '<\|im_start\|>' is token 97"):
        attribute(RunConfig(enlarged, alone, device="cpu"))


def test_a_bos_token_beyond_the_model_is_marked_too(tmp_path: Path) -> None:
    random_hf_model("llama").save_pretrained(tmp_path)
    words = number_tokenizer()
    words.add_special_tokens(["<bos>"])
    save_tokenizer(words, tmp_path, tokenizer_class="PreTrainedTokenizerFast", bos_token="<bos>")
    page = load_tokenizer(tmp_path)
    assert encode(PROMPTS, page, prepend_bos=False).usable == [0]
    (problem,) = encode(PROMPTS, page, prepend_bos=True).problems[0]
    assert problem.startswith("'<bos>' is token 97")


def test_spaces_and_line_ends_can_be_seen() -> None:
    assert visible(" Mary\n\tsat") == "·Mary↵⇥sat"


@given(st.text())
def test_texts_are_cut_as_by_the_hugging_face_tokenizer(spaced_tokenizer: Any, text: str) -> None:
    words = PromptTokenizer.of(spaced_tokenizer)
    assert words.encode(text) == spaced_tokenizer(text, add_special_tokens=False).input_ids
    for token in words.encode(text):
        assert words.piece(token) == spaced_tokenizer.decode([token])


def test_a_tokenizer_survives_the_way_from_the_worker(spaced_tokenizer: Any) -> None:
    words = PromptTokenizer.of(spaced_tokenizer, n_ctx=7)
    size = len(pickle.dumps(words))
    check_pair(PromptPair(" the cat", " the dog", (" sat",), (" is",)), words, False, None)
    assert len(pickle.dumps(words)) == size  # what it remembers stays where it is
    other = pickle.loads(pickle.dumps(words))
    assert other.encode(" the cat sat") == words.encode(" the cat sat")
    assert (other.bos, other.unknown, other.prepend_bos, other.n_ctx) == (words.bos, None, False, 7)


def test_a_space_that_sentencepiece_swallows_is_shown() -> None:
    from tokenizers import Tokenizer, decoders, models

    backend = Tokenizer(models.WordLevel({"▁cat": 0, "cat": 1}, unk_token="cat"))
    backend.decoder = decoders.Metaspace()
    words = PromptTokenizer(backend, None, None)
    assert (words.piece(0), words.piece(1)) == (" cat", "cat")


def test_a_tokenizer_written_in_python_is_refused_with_a_sentence() -> None:
    with pytest.raises(ModelError, match="written in Python"):
        PromptTokenizer.of(object())


def test_the_smollm2_tokenizer_is_read_as_the_loaded_model_has_it(smollm2: Any) -> None:
    from circuit.models.load import load_tokenizer

    words = load_tokenizer("smollm2-135m")
    assert (words.n_ctx, words.prepend_bos) == (smollm2.n_ctx, smollm2.prepend_bos)
    assert words.bos == smollm2.tokenizer.bos_token_id
    for text in (" Mary", "Mary", "数 · é 🔬\n\t x", "<|im_start|>user"):
        assert words.encode(text) == smollm2.tokenizer(text, add_special_tokens=False).input_ids
    pair = PromptPair("Tom gave a ring to", "Paul gave a ring to", ("Jack",), (" Tom",))
    (finding,) = check_pair(pair, words, words.prepend_bos, words.n_ctx).findings
    assert (finding.kind, finding.mended) == ("space", PromptPair(pair.clean, pair.corrupt, (" Jack",), (" Tom",)))
