"""A model's tokenizer without the model: what prompts are checked with, in the worker and in the web process.

    PromptTokenizer      texts to tokens and back; plain, picklable, and without torch
    adds_bos             whether a tokenizer starts every text with a BOS token by itself
    cuts                 whether a tokenizer can cut a text at all
    visible              text with its spaces made visible

    tokenizer = PromptTokenizer.of(model.tokenizer, model.n_ctx, model.d_vocab)     # in the worker, where models are
    tokenizer.encode(" Mary")                                                       # anywhere: [10554]

The worker reads a tokenizer once and hands it over; from then on the web process answers each edit of the prompt table
by itself. Both cut texts with the same code, so the check on the page and the run agree on every row.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from circuit.common.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer

_ANCHORS = ("\n", ".", ",", ":", "a", "1")
"""Texts to put before one that is to be cut as the continuation of another: at least one merges with nothing."""


@dataclass(frozen=True)
class PromptTokenizer:
    """The part of a Hugging Face tokenizer that prompts need."""

    backend: Tokenizer
    bos: int | None
    """The BOS token, if there is one."""
    unknown: int | None
    """The token that stands for every word that the tokenizer does not know, if there is one."""
    prepend_bos: bool = False
    """Whether the tokenizer starts every text with a BOS token by itself."""
    n_ctx: int | None = None
    """The model's context length, in tokens."""
    n_rows: int | None = None
    """The rows of the model's embedding: it has none for tokens of this number or above."""
    memory: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """What has been worked out with this tokenizer. It stays in its process."""

    @classmethod
    def of(cls, tokenizer: Any, n_ctx: int | None = None, n_rows: int | None = None) -> PromptTokenizer:
        """From a Hugging Face tokenizer; a `PromptTokenizer` is returned as it is.

        The BOS token is the one that the tokenizer puts before every text, whether or not it has a name; else the one
        that is named.

        Raises:
            ModelError: When the tokenizer is not one of the `tokenizers` library, or puts several tokens before a text.
        """
        if isinstance(tokenizer, cls):
            return tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError(
                f"The tokenizer {type(tokenizer).__name__} is written in Python, and only those of the tokenizers "
                "library are supported: save the model with a tokenizer.json."
            )
        backend.no_truncation()  # as its Hugging Face wrapper does at each call
        backend.no_padding()
        before = _put_before(backend)
        if len(before) > 1:
            pieces = " ".join(str(backend.id_to_token(token)) for token in before)
            raise ModelError(
                f"This model's tokenizer puts {len(before)} tokens before every text ({pieces}), and only a single BOS "
                "token is supported."
            )
        bos = before[0] if before else tokenizer.bos_token_id
        return cls(backend, bos, _unknown(tokenizer), bool(before), n_ctx, n_rows)

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)} | {"memory": {}}

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without special tokens around it."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_after(self, prompt: str, tokens: Sequence[int], texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each of some texts that goes on from a prompt, whose own tokens are `tokens`.

        They are those that follow the prompt's in the tokens of both together. Where the two together are cut so that
        the prompt's own tokens change ('cat' and 's' may be one word), they are those of the text after something that
        it does not merge with: what the model has to write for the text to be there.
        """
        start, before = self._end_of(prompt, tokens)
        n = len(before)
        return [
            together[n:] if together[:n] == before else self._encode_amid(text)
            for text, together in zip(texts, self._encode_each([start + text for text in texts]), strict=True)
        ]

    def _encode_each(self, texts: list[str]) -> list[list[int]]:
        """As `encode`, of many texts at once."""
        return [found.ids for found in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    @cached_property
    def spaces_texts(self) -> bool:
        """Whether a text is cut as if a space stood before it, as SentencePiece tokenizers do."""
        first = self.encode(_any_text(self.backend))[:1]
        return bool(first) and self.piece(first[0]).startswith(" ")

    @cached_property
    def knows_words_only(self) -> bool:
        """Whether there are texts that the tokenizer cannot cut."""
        return not cuts(self.backend, "a \u2603")

    def piece(self, token: int) -> str:
        """What a token stands for, with the space that it begins with."""
        pieces: dict[int, str] = self.memory.setdefault("pieces", {})
        if token not in pieces:
            raw = self.raw(token)
            # SentencePiece tokenizers take the first space of what they decode for their own.
            spaced = raw.startswith("▁")
            pieces[token] = raw.replace("▁", " ") if spaced else self.backend.decode([token], skip_special_tokens=False)
        return pieces[token]

    def raw(self, token: int) -> str:
        """What the vocabulary calls a token."""
        return self.backend.id_to_token(token) or ""

    def _end_of(self, prompt: str, tokens: Sequence[int]) -> tuple[str, list[int]]:
        """The end of a prompt, and its tokens: that of its last two where these are cut alike without the others, so
        that prompts which end alike need only be looked at once; else all of it."""
        key = ("end", *tokens[-2:])
        if key not in self.memory:
            end = self.backend.decode(list(tokens[-2:]), skip_special_tokens=False)
            self.memory[key] = end, self.encode(end)
        end, ids = self.memory[key]
        alike = prompt.endswith(end) and ids[-1:] == list(tokens[-1:])
        return (end, ids) if alike else (prompt, list(tokens))

    def _encode_amid(self, text: str) -> list[int]:
        """The tokens of a text in the middle of another, without the space that is put before a whole text."""
        if not self.spaces_texts:
            return self.encode(text)
        for anchor in _ANCHORS:
            before, both = self.encode(anchor), self.encode(anchor + text)
            if both[: len(before)] == before:
                return both[len(before) :]
        return self.encode(text)


def adds_bos(tokenizer: Any) -> bool:
    """Whether a Hugging Face tokenizer starts every text with a BOS token, named or not."""
    return hasattr(tokenizer, "backend_tokenizer") and PromptTokenizer.of(tokenizer).prepend_bos


def _unknown(tokenizer: Any) -> int | None:
    """The token for unknown words: that of the tokenizer's own model, also where its configuration names none."""
    if tokenizer.unk_token_id is not None:
        return int(tokenizer.unk_token_id)
    mark = getattr(tokenizer.backend_tokenizer.model, "unk_token", None)
    return tokenizer.backend_tokenizer.token_to_id(mark) if mark else None


def _put_before(backend: Tokenizer) -> list[int]:
    """The tokens that a tokenizer puts before every text."""
    encoded = backend.encode(_any_text(backend), add_special_tokens=True)
    return encoded.ids[: [*encoded.special_tokens_mask, 0].index(0)]


def cuts(backend: Tokenizer, text: str) -> bool:
    """Whether a tokenizer can cut a text at all. One of whole words, without a token for unknown ones, may not."""
    try:
        backend.encode(text, add_special_tokens=False)
    except Exception:  # the library raises no class of its own
        return False
    return True


def _any_text(backend: Tokenizer) -> str:
    """A text that a tokenizer can cut, and that begins with no space."""
    return "a" if cuts(backend, "a") else next((word for word in backend.get_vocab() if cuts(backend, word)), "")


def visible(text: str) -> str:
    """Text with spaces as middle dots and line ends as arrows, so that a leading space can be seen."""
    return text.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")
