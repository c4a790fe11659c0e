"""Prompt pairs as the text that a person enters.

PromptPair    a clean and a corrupt prompt, with right and wrong answers
PromptSet     a named list of them; JSON in AutoCircuit's format
check_size    refuse more than a page can hold
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from circuit.common.errors import PromptError
from circuit.common.text import one_line
from circuit.common.words import MB

MOST_ROWS = 10_000
MOST_BYTES = 5 * MB
"""Of a file; also the characters of all pairs together."""
MOST_CHARACTERS = 100_000
"""Of one prompt or answer: more than any context holds."""
MOST_ANSWERS = 1_000
"""Right and wrong ones of one pair."""
LONGEST_NAME = 300
LABELS = ("seq_labels", "word_idxs")
"""Of a set, beside its pairs."""


@dataclass(frozen=True)
class PromptPair:
    """A clean prompt, its minimal edit, and the next tokens that are right and wrong after the clean one."""

    clean: str
    corrupt: str
    answers: tuple[str, ...]
    wrong_answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptSet:
    """A named list of prompt pairs.

    `seq_labels` name the token positions and `word_idxs` the positions of words, where all prompts share one shape, as
    in AutoCircuit's files.
    """

    name: str
    pairs: tuple[PromptPair, ...]
    seq_labels: tuple[str, ...] = ()
    word_idxs: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def to_json(self) -> str:
        """AutoCircuit's format: `{"prompts": [{"clean", "corrupt", "answers", "wrong_answers"}]}`, and the name."""
        content = {"name": self.name, **self.labels(), "prompts": [entry_of(pair) for pair in self.pairs]}
        return json.dumps(content, ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str, name: str = "prompts") -> PromptSet:
        """Read AutoCircuit's format.

        Raises:
            PromptError: Says what is wrong, and in which line or prompt, counted from 1.
        """
        return cls.from_dict(json_of(text), name)

    @classmethod
    def from_dict(cls, data: Any, name: str = "prompts") -> PromptSet:
        """The same from the values of the JSON.

        Raises:
            PromptError: As `from_json`, and as `check_size`.
        """
        if not isinstance(data, dict) or not isinstance(data.get("prompts"), list):
            raise PromptError('The JSON must hold {"prompts": [...]}: a list of prompt pairs.')
        check_rows(len(data["prompts"]))
        pairs = tuple(pair_of(f"Prompt {row}", entry) for row, entry in enumerate(data["prompts"], start=1))
        given = data.get("name")
        prompts = cls(given if is_text(given) else name, pairs, *labels_of(data))
        check_size(prompts)
        return prompts

    def with_plain_name(self) -> PromptSet:
        """The same with a name of one line, not too long, without control characters."""
        return replace(self, name=one_line(self.name, LONGEST_NAME))

    def labels(self) -> dict[str, Any]:
        """The labels that the set has, as plain values for JSON."""
        given = {"seq_labels": list(self.seq_labels), "word_idxs": dict(self.word_idxs)}
        return {key: value for key, value in given.items() if value}


def check_rows(n: int) -> None:
    """Refuse more pairs than a page can hold."""
    if n > MOST_ROWS:
        raise PromptError(f"There are {n:,} prompt pairs, and {MOST_ROWS:,} are the most.")


def check_size(prompts: PromptSet) -> None:
    """Refuse more than a page can hold.

    Raises:
        PromptError: When there are too many pairs or answers, or one is too long, or all of them are together.
    """
    check_rows(len(prompts))
    characters = 0
    for row, pair in enumerate(prompts.pairs, start=1):
        lengths = [*map(len, (pair.clean, pair.corrupt, *pair.answers, *pair.wrong_answers))]
        if max(lengths) > MOST_CHARACTERS:
            raise PromptError(f"Row {row}: a prompt has more than {MOST_CHARACTERS:,} characters.")
        if (n := len(lengths) - 2) > MOST_ANSWERS:
            raise PromptError(f"Row {row} has {n:,} answers, and {MOST_ANSWERS:,} are the most.")
        characters += sum(lengths)
    if characters > MOST_BYTES:
        raise PromptError(f"The pairs have {characters:,} characters together, and {MOST_BYTES:,} are the most.")


def json_of(text: str, line: int = 1) -> Any:
    """The value of a JSON text that begins at this line of its file.

    Raises:
        PromptError: When it is not JSON; names the line.
    """
    try:
        return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise PromptError(
            f"Line {line + error.lineno - 1} is not JSON: {error.msg} at column {error.colno}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise PromptError(f"Line {line}: this is not JSON that can be read: {error}.") from error


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these items; Python would keep the last of several of one name."""
    found = dict(items)
    if len(found) < len(items):
        names = [name for name, _ in items]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has two values called {twice[:40]!r}")
    return found


def is_text(value: Any) -> TypeGuard[str]:
    """Text that can be encoded: JSON can also name halves of a character, which no tokenizer or browser takes."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def entry_of(pair: PromptPair) -> dict[str, Any]:
    """A pair as plain values for JSON."""
    return {
        "clean": pair.clean,
        "corrupt": pair.corrupt,
        "answers": list(pair.answers),
        "wrong_answers": list(pair.wrong_answers),
    }


def pair_of(where: str, entry: Any) -> PromptPair:
    """The inverse of `entry_of`.

    Raises:
        PromptError: When it is not a pair; begins with `where`.
    """
    if not isinstance(entry, dict):
        raise PromptError(f"{where}: expected an object with clean, corrupt, answers and wrong_answers.")
    values: dict[str, Any] = {}
    for key in ("clean", "corrupt"):
        if not is_text(entry.get(key)):
            raise PromptError(f"{where}: '{key}' must be text.")
        values[key] = entry[key]
    for key in ("answers", "wrong_answers"):
        answers = entry.get(key, [])
        if not isinstance(answers, list) or not all(is_text(answer) for answer in answers):
            raise PromptError(f"{where}: '{key}' must be a list of texts.")
        values[key] = tuple(answers)
    return PromptPair(**values)


def labels_of(data: dict[str, Any]) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
    """`seq_labels` and `word_idxs` of a prompt set in JSON; both may be missing.

    Raises:
        PromptError: When one of them is there and is not what it should be.
    """
    labels, places = data.get("seq_labels") or [], data.get("word_idxs") or {}
    if not isinstance(labels, list) or not all(is_text(label) for label in labels):
        raise PromptError("'seq_labels' must be a list of texts, one a token position.")
    if not isinstance(places, dict) or not all(is_text(word) and type(place) is int for word, place in places.items()):
        raise PromptError("'word_idxs' must hold a position, a whole number, for every word.")
    return tuple(labels), tuple(places.items())
