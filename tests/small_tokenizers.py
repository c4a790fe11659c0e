"""Small tokenizers for the tests, of the kinds that published models have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA_WORDS = [
    "▁", "▁a", "▁b", "a", "b", "(", "▁(", ")", "▁)", "s", "▁s", "ed", "▁ed", "▁cat", "▁dog", "▁the", "▁walk", "▁years",
    "1", "2", "3", "7", "▁year", "▁=", "▁x", "x", "=", "▁f", "f", "▁1", "'s", ",", "▁,", "▁is",
]  # fmt: skip


def llama_tokenizer() -> Tokenizer:
    """SentencePiece's BPE, with the normalizer, decoder and template of Llama 2's tokenizer.json, and a few words."""
    special = ["<unk>", "<s>", "</s>"]
    vocabulary = {piece: i for i, piece in enumerate([*special, *(f"<0x{i:02X}>" for i in range(256)), *LLAMA_WORDS])}
    merges: dict[tuple[str, str], None] = {}
    for word in LLAMA_WORDS:
        for piece in word:
            vocabulary.setdefault(piece, len(vocabulary))
        for end in range(1, len(word)):
            merges[word[:end], word[end]] = None
            vocabulary.setdefault(word[: end + 1], len(vocabulary))
    bpe = models.BPE(vocab=vocabulary, merges=list(merges), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens(special)
    return tokenizer


TRAINING = [
    "When Mary and John went to the store, John gave a drink to Mary",
    "The war lasted from the year 1732 to the year 1745, didn't it?  They'll\n\n  say: (it's 12345)",
]
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS: dict[str, Any] = {
    "GPT-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "SmolLM2": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "Llama 3": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
    "Qwen2": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}
"""How the byte-level tokenizers of these models cut a text into words, before they cut words into tokens."""


def byte_level_tokenizer(pre_tokenizer: str) -> Tokenizer:
    """Byte-level BPE of 600 tokens, trained on two sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre_tokenizer]
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING * 20, trainer)
    return tokenizer


def number_tokenizer(n: int = 97, unknown: str | None = "0") -> Tokenizer:
    """Whose words are the numbers from 0 to n - 1."""
    vocabulary = {str(i): i for i in range(n)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown) if unknown else models.WordLevel(vocabulary))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return words


def save_tokenizer(tokenizer: Tokenizer, folder: Path, **config: Any) -> None:
    """A folder's tokenizer.json, and the tokenizer_config.json that says `config`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
