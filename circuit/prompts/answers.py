"""How answers are read: each as what follows its prompt, not as a text of its own.

Reading         an answer as tokens, and what is odd about it
read_answers    the answers of one prompt

After 'f(x' the answer ')' is the token of that bracket, also where a tokenizer begins every text with a space, and cuts
')' alone as ' )'. Most prompts of a set end alike, and many sets ask for the same answers again and again: readings are
kept by the prompt's last tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from circuit.models.tokenizer import PromptTokenizer

_MOST = 200_000


class Reading(NamedTuple):
    """An answer as the tokens that follow its prompt."""

    tokens: tuple[int, ...]
    bare: str | None = None
    """The answer without its leading space, where only so it is one token: tokenizers that know whole words only."""
    lacks_space: bool = False
    """Whether the prompt calls for a leading space, with which the answer would be another token."""
    needs_space: bool = False
    """Whether the answer is one token only with a leading space."""
    space_apart: bool = False
    """Whether its leading space is a token of its own, as before digits in many tokenizers."""
    unknown: bool = False
    """Whether the tokenizer does not know a word of it."""


def read_answers(prompt: str, tokens: Sequence[int], texts: Sequence[str], words: PromptTokenizer) -> list[Reading]:
    """The readings of the answers after a prompt, whose tokens (special ones apart) are given."""
    memory = words.memory
    if len(memory) > _MOST:
        memory.clear()
    kept: dict[str, Reading] = memory.setdefault(("answers", prompt[-1:], *tokens[-2:]), {})
    if len(kept) > _MOST:
        kept.clear()
    if new := [text for text in dict.fromkeys(texts) if text not in kept]:
        kept.update(zip(new, _read(prompt, tokens, new, words), strict=True))
    return [kept[text] for text in texts]


def _read(prompt: str, tokens: Sequence[int], texts: Sequence[str], words: PromptTokenizer) -> list[Reading]:
    cuts = words.encode_after(prompt, tokens, texts)
    others = {text: other for text, ids in zip(texts, cuts, strict=True) if (other := _otherwise(text, ids, words))}
    other_cuts = dict(zip(others, words.encode_after(prompt, tokens, [*others.values()]), strict=True))
    return [
        _reading(prompt, text, tuple(ids), tuple(other_cuts.get(text, ())), words)
        for text, ids in zip(texts, cuts, strict=True)
    ]


def _otherwise(text: str, ids: Sequence[int], words: PromptTokenizer) -> str:
    """The answer with the leading space that it lacks, or without the one that its tokenizer does not know: whose words
    are whole ones, and which makes of the space something else. Empty where neither needs to be looked at."""
    if not text.startswith(" "):
        return f" {text}" if text else ""
    lost = len(ids) > 1 and not words.spaces_texts and "".join(map(words.piece, ids)) != text
    return text[1:] if lost else ""


def _is_apart(text: str, ids: Sequence[int], words: PromptTokenizer) -> bool:
    return text.startswith(" ") and len(ids) == 2 and words.piece(ids[0]) == " "


def _reading(prompt: str, text: str, ids: tuple[int, ...], other: tuple[int, ...], words: PromptTokenizer) -> Reading:
    """`other`: the tokens of `_otherwise`."""
    spaced = text.startswith(" ")
    bare = text[1:] if spaced and len(other) == 1 else None
    lacks = not spaced and len(ids) == len(other) == 1 and ids != other and _calls_for_space(prompt, text)
    needs = not spaced and len(ids) > 1 and len(other) == 1
    read = ids if bare is None else other
    unknown = words.unknown
    strange = unknown is not None and unknown in read and words.raw(unknown) not in text
    return Reading(read, bare, lacks, needs, _is_apart(text, ids, words), strange)


def _calls_for_space(prompt: str, answer: str) -> bool:
    """Whether a word begins with a space after this prompt. Digits may go on from digits, and nothing is said of a
    prompt that ends with a space, a hyphen, an opening bracket or a quote."""
    end = prompt[-1:]
    if not answer[0].isalnum() or not (end.isalnum() or end in ",.;:!?)]}"):
        return False
    return not (end.isdigit() and answer[0].isdigit())
