"""A model's tokenizer without the model: what prompts are checked with, in the worker and in the web process.

    PromptTokenizer      texts to tokens and back; plain, picklable, and without torch
    adds_bos             whether a tokenizer starts every text with a BOS token by itself
    visible              text with its spaces made visible

    tokenizer = PromptTokenizer.of(model.tokenizer, n_ctx=model.n_ctx)     # in the worker, where models are
    tokenizer.encode(" Mary")                                              # anywhere: [10554]

The worker reads a tokenizer once and hands it over; from then on the web process answers each edit of the prompt table
by itself. Both cut texts with the same code, so the check on the page and the run agree on every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from circuit.common.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


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

    @classmethod
    def of(cls, tokenizer: Any, n_ctx: int | None = None) -> PromptTokenizer:
        """From a Hugging Face tokenizer; a `PromptTokenizer` is returned as it is.

        Raises:
            ModelError: When the tokenizer is not one of the `tokenizers` library.
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
        return cls(backend, tokenizer.bos_token_id, tokenizer.unk_token_id, adds_bos(tokenizer), n_ctx)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without special tokens around it."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def piece(self, token: int) -> str:
        """What a token stands for, with the space that it begins with."""
        text = self.backend.decode([token], skip_special_tokens=False)
        # SentencePiece tokenizers take the first space of what they decode for their own.
        return f" {text}" if self.raw(token).startswith("▁") and not text.startswith(" ") else text

    def raw(self, token: int) -> str:
        """What the vocabulary calls a token."""
        return self.backend.id_to_token(token) or ""


def adds_bos(tokenizer: Any) -> bool:
    """Whether a Hugging Face tokenizer starts every text with its BOS token."""
    plain, special = (tokenizer("a", add_special_tokens=add).input_ids for add in (False, True))
    return len(special) > len(plain) and special[0] == tokenizer.bos_token_id


def visible(text: str) -> str:
    """Text with spaces as middle dots and line ends as arrows, so that a leading space can be seen."""
    return text.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")
