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
    readings = []
    for text in texts:
        if (reading := kept.get(text)) is None:
            reading = kept[text] = _read(prompt, tokens, text, words)
        readings.append(reading)
    return readings


def _read(prompt: str, tokens: Sequence[int], text: str, words: PromptTokenizer) -> Reading:
    def cut(answer: str) -> tuple[int, ...]:
        return tuple(words.encode_after(prompt, tokens, answer))

    ids = cut(text)
    bare = None
    apart = text.startswith(" ") and len(ids) == 2 and words.piece(ids[0]) == " "
    if (
        not apart
        and len(ids) != 1
        and text.startswith(" ")
        and not words.spaces_texts
        and len(short := cut(text[1:])) == 1
    ):
        ids, bare = short, text[1:]
    lacks = needs = False
    if text and not text.startswith(" "):
        spaced = cut(f" {text}")
        lacks = len(ids) == len(spaced) == 1 and ids != spaced and _calls_for_space(prompt, text)
        needs = len(ids) > 1 and len(spaced) == 1
    unknown = words.unknown
    strange = unknown is not None and unknown in ids and words.raw(unknown) not in text
    return Reading(ids, bare, lacks, needs, apart, strange)


def _calls_for_space(prompt: str, answer: str) -> bool:
    """Whether a word begins with a space after this prompt. Digits may go on from digits, and nothing is said of a
    prompt that ends with a space, a hyphen, an opening bracket or a quote."""
    end = prompt[-1:]
    if not answer[0].isalnum() or not (end.isalnum() or end in ",.;:!?)]}"):
        return False
    return not (end.isdigit() and answer[0].isdigit())
