"""An answer is a continuation of its prompt, not a text of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from circuit.jobs.check import CheckRequest, check_prompts
from circuit.models.tokenizer import PromptTokenizer
from circuit.prompts.answers import read_answers
from circuit.prompts.encode import encode, mended
from circuit.prompts.pairs import PromptPair, PromptSet
from tests.small_models import random_hf_model
from tests.small_tokenizers import byte_level_tokenizer, llama_tokenizer, save_tokenizer

LLAMA = PromptTokenizer(llama_tokenizer(), 1, 0, prepend_bos=True)


def pieces(prompt: str, answer: str, words: PromptTokenizer = LLAMA) -> list[str]:
    (reading,) = read_answers(prompt, words.encode(prompt), [answer], words)
    return [words.raw(token) for token in reading.tokens]


@pytest.mark.parametrize(
    ("prompt", "answer", "wanted"),
    [
        ("f(x", ")", [")"]),
        ("f(x", " )", ["▁)"]),
        ("the cat", "s", ["s"]),
        ("the cat", " s", ["▁s"]),
        ("the year 1", "7", ["7"]),
        ("the year 1", " 7", ["▁", "7"]),
        ("the cat", "'s", ["'s"]),
        ("the cat", " is", ["▁is"]),
        ("the cat is", " a", ["▁a"]),
        ("the cat", ",", [","]),
        ("a", "\n", ["<0x0A>"]),
    ],
)
def test_sentencepiece_reads_an_answer_as_what_follows_the_prompt(prompt: str, answer: str, wanted: list[str]) -> None:
    together, alone = LLAMA.encode(prompt + answer), LLAMA.encode(prompt)
    assert [LLAMA.raw(token) for token in together[len(alone) :]] == wanted  # as the tokenizer itself says
    assert together[: len(alone)] == alone
    assert pieces(prompt, answer) == wanted


def test_an_answer_that_would_merge_with_the_prompt_is_read_without_a_space_all_the_same() -> None:
    assert LLAMA.encode("the years")[-1] == LLAMA.backend.token_to_id("▁years")
    assert pieces("the year", "s") == ["s"]
    assert pieces("the cat is ", "a") == ["a"]


def test_a_piece_is_shown_with_the_space_that_it_has() -> None:
    shown = {raw: LLAMA.piece(i) for raw, i in LLAMA.backend.get_vocab().items() if raw in (")", "▁)", "▁", "s", "▁is")}
    assert shown == {")": ")", "▁)": " )", "▁": " ", "s": "s", "▁is": " is"}


def test_answers_with_and_without_a_space_are_two_answers_in_sentencepiece() -> None:
    pair = PromptPair("f(x", "f(a", (")",), (" )",))
    encoded = encode(PromptSet("p", (pair,)), LLAMA, prepend_bos=True)
    assert encoded.problems == {}
    assert encoded.adapted == {}
    assert encoded.answers[0] != encoded.wrong_answers[0]


def test_the_missing_space_of_a_word_is_said_of_sentencepiece_too() -> None:
    pair = PromptPair("the cat", "the dog", ("is",), (" s",))
    pair_of_words = PromptPair("the cat", "the dog", ("s",), (" is",))
    encoded = encode(PromptSet("p", (pair, pair_of_words)), LLAMA, prepend_bos=True)
    assert [finding.kind for finding in encoded.findings[0]] == ["split"]
    assert encoded.findings[0][0].mended == PromptPair("the cat", "the dog", (" is",), (" s",))
    (finding,) = encoded.findings[1]
    assert (finding.kind, finding.mended) == ("space", PromptPair("the cat", "the dog", (" s",), (" is",)))


def test_the_difference_of_logits_is_that_of_the_tokens_that_follow(tmp_path: Path) -> None:
    hf_model = random_hf_model("llama", vocab_size=LLAMA.backend.get_vocab_size(), bos_token_id=1, eos_token_id=2)
    hf_model.save_pretrained(tmp_path)
    options: dict[str, Any] = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "add_bos_token": True}
    save_tokenizer(llama_tokenizer(), tmp_path, **options, eos_token="</s>", unk_token="<unk>", legacy=True)
    prompts = PromptSet("p", (PromptPair("f(x", "f(a", (")",), (",",)),))
    report = check_prompts(CheckRequest(str(tmp_path), prompts, device="cpu"))
    ids = llama_tokenizer().encode("f(x").ids  # with the BOS token
    with torch.no_grad():
        logits = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()(torch.tensor([ids])).logits[0, -1]
    bracket, comma = (llama_tokenizer().token_to_id(piece) for piece in (")", ","))
    assert report.difference_clean[0] == pytest.approx(float(logits[bracket] - logits[comma]), abs=1e-4)
    assert report.probability[0] == pytest.approx(float(logits.softmax(-1)[bracket]), abs=1e-5)
    assert report.clean_tokens[0] == ["<s>", " f", "(", "x"]


WORDS = st.lists(
    st.sampled_from(
        ["the", " cat", " dogs", " 17", "32", ",", ")", "(", "\n", "  ", "a", "'s", "数", "é", "?", " Mary"]
    ),
    min_size=1,
    max_size=6,
).map("".join)
BYTE_LEVEL = [PromptTokenizer(byte_level_tokenizer(name), None, None) for name in ("GPT-2", "SmolLM2", "Llama 3")]


@given(WORDS, WORDS, st.sampled_from([LLAMA, *BYTE_LEVEL]))
def test_where_the_prompt_keeps_its_tokens_the_answer_is_the_rest_of_both(
    prompt: str, answer: str, words: PromptTokenizer
) -> None:
    alone, together = words.encode(prompt), words.encode(prompt + answer)
    if together[: len(alone)] == alone:
        assert words.encode_after(prompt, alone, [answer]) == [together[len(alone) :]]


def test_readings_are_kept_for_prompts_that_end_alike() -> None:
    words = PromptTokenizer(llama_tokenizer(), 1, 0)
    for prompt in ("the cat is", "a dog is", "the walk, the cat is"):
        assert read_answers(prompt, words.encode(prompt), [" a", ")"], words)[0].tokens == (words.encode("a")[0],)
    kept = [value for key, value in words.memory.items() if isinstance(key, tuple) and key[0] == "answers"]
    assert [list(readings) for readings in kept] == [[" a", ")"]] * len(kept)


def test_a_digit_after_a_space_of_its_own_is_not_read_as_the_digit_without_it() -> None:
    """In SmolLM2, Qwen and Llama 3 the digits stand alone: after '3 + 4 =' comes a space, and then '7'."""
    words = PromptTokenizer(byte_level_tokenizer("Llama 3"), None, None)
    pair = PromptPair("3 + 4 =", "3 + 1 =", (" 7",), (" 4",))
    assert [words.piece(token) for token in words.encode(" 7")] == [" ", "7"]
    encoded = encode(PromptSet("sums", (pair,)), words, prepend_bos=False)
    assert (encoded.adapted, encoded.usable) == ({}, [])
    assert encoded.problems[0][0] == (
        "The right answer '·7' is two tokens for this model: the space is one of its own. End both prompts with the "
        "space, and enter '7'."
    )
    better = mended(PromptSet("sums", (pair,)), encoded.findings, "apart")
    assert better.pairs == (PromptPair("3 + 4 = ", "3 + 1 = ", ("7",), ("4",)),)
    again = encode(better, words, prepend_bos=False)
    assert again.findings == [[]]
    assert [words.piece(token) for token in (again.clean[0][-1], *again.answers[0])] == [" ", "7"]


def test_a_pair_with_other_answers_too_is_not_mended_by_half() -> None:
    words = PromptTokenizer(byte_level_tokenizer("Llama 3"), None, None)
    pair = PromptPair("3 + 4 =", "3 + 1 =", (" 7",), ("x",))
    (found,) = encode(PromptSet("sums", (pair,)), words, prepend_bos=False).findings
    assert [finding.mended for finding in found if finding.kind == "apart"] == [None]


def test_a_word_that_is_one_token_only_without_its_space_is_not_read_so_where_the_space_counts() -> None:
    """After 'the' comes ' cats', which is a token for ' cat' and one for 's'; 'cats' alone would be 'thecats'."""
    words = PromptTokenizer(byte_level_tokenizer("GPT-2"), None, None)
    one = next(
        raw for raw in words.backend.get_vocab() if raw.isalpha() and len(words.encode(f" {raw}")) > 1 < len(raw)
    )
    encoded = encode(PromptSet("words", (PromptPair("of the,", "of a,", (f" {one}",)),)), words, prepend_bos=False)
    assert encoded.adapted == {}
    assert any(finding.kind in ("split", "apart") for finding in encoded.findings[0])
