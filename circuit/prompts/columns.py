"""Which column of a prompt file holds what, whatever it is called, and what its values mean.

    Columns     which columns are read, by their names
    pairs_of    rows of values by column -> prompt pairs, with sentences on how they were read

    pairs, notes = pairs_of([("Line 2", {"prompt": "a", "counterfactual": "b", "answer": " c"})], tokenizer=None)

The names are those in the published files of AutoCircuit, EAP-IG and CircuitKIT. Where these hold token ids, they are
read with the tokenizer of the model that the pairs are for. What cannot be read is refused, since a wrong answer is a
wrong number later.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circuit.common.errors import PromptError
from circuit.common.words import counted
from circuit.models.tokenizer import PromptTokenizer, visible
from circuit.prompts.cells import answers_of
from circuit.prompts.pairs import LABELS, PromptPair, check_rows, is_text

Row = tuple[str, Mapping[str, Any]]
"""Where a row stands, as "Line 3", and its values by column."""

_NAMES = {
    "clean": ("clean", "clean_prompt", "clean_text", "prompt", "question"),
    "corrupt": (
        "corrupt", "corrupted", "corrupt_prompt", "corrupted_prompt", "counterfactual", "counterfactual_prompt",
    ),
    "answers": (
        "answers", "answer", "right_answers", "right_answer", "right", "correct_answers", "correct_answer", "correct",
        "clean_answers", "clean_answer", "clean_ans", "label",
    ),
    "wrong_answers": (
        "wrong_answers", "wrong_answer", "wrong", "incorrect_answers", "incorrect_answer", "incorrect",
        "corrupt_answers", "corrupt_answer", "corrupt_ans", "corrupted_answers", "corrupted_answer",
        "counterfactual_answer",
    ),
}  # fmt: skip
"""What columns are called; of several of one kind, the first is read."""
_RIGHT_IDS = ("correct_idx", "answers_idx", "answer_idx", "clean_answer_idx")
_WRONG_IDS = ("incorrect_idx", "wrong_answers_idx", "wrong_idx", "corrupted_answers_idx", "corrupted_answer_idx")
"""The same for columns of token ids."""
_SURE = {"clean", "corrupt", "clean_prompt", "corrupt_prompt", "corrupted", "corrupted_prompt"}
"""Names that one of alone makes a line of names: the others may well be words of a prompt."""


@dataclass(frozen=True)
class Columns:
    """The columns that are read, by their names in the file; None where there is none of a kind."""

    clean: str
    corrupt: str
    answers: str | None = None
    wrong_answers: str | None = None
    right_ids: str | None = None
    wrong_ids: str | None = None
    others: tuple[str, ...] = ()
    """The columns that are not read."""

    @classmethod
    def of(cls, names: Sequence[str], where: str) -> Columns:
        """The columns among these.

        Raises:
            PromptError: When there are none of clean or of corrupt prompts, or others but none of right answers.
        """
        plain = {_plain(name): name for name in reversed(names)}

        def first(wanted: Sequence[str]) -> str | None:
            return next((plain[name] for name in wanted if name in plain), None)

        clean, corrupt, answers, wrong = (first(wanted) for wanted in _NAMES.values())
        if clean is None or corrupt is None:
            what = "clean" if clean is None else "corrupt"
            raise PromptError(
                f"{where}: there is no column '{what}' among {_listed(names)}. Call the one of {what} prompts so."
            )
        right_ids, wrong_ids = first(_RIGHT_IDS), first(_WRONG_IDS)
        if right_ids is None:  # as country_idx and corrupted_country_idx
            stems = (name.removesuffix("_idx") for name in plain if name.endswith("_idx"))
            stem = next((stem for stem in stems if f"corrupted_{stem}_idx" in plain), None)
            if stem is not None:
                right_ids, wrong_ids = plain[f"{stem}_idx"], plain[f"corrupted_{stem}_idx"]
        if right_ids is not None and answers is not None and _plain(answers) == "label":
            answers = None  # a number of the answers
        if answers is not None:
            right_ids = wrong_ids = None
        elif right_ids is not None and wrong_ids is not None:
            wrong = None
        read = (clean, corrupt, answers, wrong, right_ids, wrong_ids)
        others = tuple(name for name in names if name not in read and _plain(name) not in LABELS)
        if answers is None and right_ids is None and others:
            raise _no_answers(names, where)
        return cls(clean, corrupt, answers, wrong, right_ids, wrong_ids, others)


def are_names(cells: Sequence[str]) -> bool:
    """Whether the cells of a first line are names of columns rather than a pair."""
    plain = {_plain(cell) for cell in cells}
    return bool(plain & _SURE) or sum(bool(plain & {*names}) for names in _NAMES.values()) > 1


def are_only_names(cells: Sequence[str]) -> bool:
    """Whether every cell is the name of a column that is read, or empty."""
    known = {"", *(name for names in _NAMES.values() for name in names), *_RIGHT_IDS, *_WRONG_IDS}
    return are_names(cells) and {_plain(cell) for cell in cells} <= known


def pairs_of(rows: Sequence[Row], tokenizer: PromptTokenizer | None) -> tuple[tuple[PromptPair, ...], tuple[str, ...]]:
    """The rows as pairs, and sentences on how they were read.

    Args:
        rows: Where each stands, and its values by column.
        tokenizer: That of the model which the pairs are for, if it is known: it reads token ids.

    Raises:
        PromptError: Names the row and the column.
    """
    check_rows(len(rows))
    if not rows:
        return (), ()
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    columns = Columns.of(names, rows[0][0])
    notes = []
    if (pairs := _years(rows, columns)) is not None:
        notes.append(
            f"'{columns.right_ids or columns.answers}' is the end of a year here, not a token: every two-digit number "
            "above it is a right answer, the others are wrong ones."
        )
    else:
        if columns.answers is not None and _are_marks(rows, columns.answers):
            raise _no_answers(names, rows[0][0])
        ids = _TokenIds(tokenizer)
        pairs = [_pair(where, row, columns, ids) for where, row in rows]
        if ids.read:
            _check_ids(rows, pairs, columns)
            some = ", ".join(f"{token} is '{visible(text)}'" for token, text in list(ids.read.items())[:4])
            notes.append(
                f"Token ids were read with the chosen model's tokenizer: {some}. If that is not what was meant, the "
                "file was made for another model: choose that one, and take in the file again."
            )
    if columns.others:
        called = "column was" if len(columns.others) == 1 else "columns were"
        notes.append(f"{len(columns.others)} {called} not read: {_listed(columns.others)}.")
    return tuple(pairs), tuple(notes)


def _pair(where: str, row: Mapping[str, Any], columns: Columns, ids: _TokenIds) -> PromptPair:
    for name in (columns.clean, columns.corrupt):  # before any advice on token ids
        if not is_text(value := row.get(name)) and not _are_ids(value):
            raise PromptError(f"{where}: '{name}' must be text, and is {_shown(value)}.")

    def answers(name: str | None, of_ids: str | None) -> tuple[str, ...]:
        texts = _answers(where, name, row.get(name), ids) if name is not None else ()
        if of_ids is not None:
            texts += tuple(ids.answer(where, of_ids, token) for token in _numbers(where, of_ids, row.get(of_ids)))
        return texts

    def prompt(name: str) -> str:
        value = row[name]
        return value if is_text(value) else ids.prompt(where, name, value)

    right, wrong = (
        answers(columns.answers, columns.right_ids),
        answers(columns.wrong_answers, columns.wrong_ids),
    )
    return PromptPair(prompt(columns.clean), prompt(columns.corrupt), right, wrong)


def _answers(where: str, name: str, value: Any, ids: _TokenIds) -> tuple[str, ...]:
    """The answers in a value: a text of one or several, a list of texts, or token ids."""
    if _is_missing(value):
        return ()
    if is_text(value):
        return answers_of(value) or ((value,) if value == "|" else ())
    if type(value) is int:
        value = [value]
    if isinstance(value, list) and all(is_text(answer) for answer in value):
        return tuple(value)
    if _are_ids(value):
        return tuple(ids.answer(where, name, token) for token in value)
    raise PromptError(f"{where}: '{name}' must be a list of texts, and is {_shown(value)}.")


# --- token ids -----------------------------------------------------------------------------------------------------


class _TokenIds:
    """Token ids as text, with a memory of what they were read as."""

    def __init__(self, tokenizer: PromptTokenizer | None) -> None:
        self._tokenizer = tokenizer
        self.read: dict[int, str] = {}

    def answer(self, where: str, name: str, token: int) -> str:
        if token not in self.read:
            words = self._known(where, name)
            text = words.piece(token) if 0 <= token < 2**31 and words.raw(token) else ""
            if not text or "\ufffd" in text:
                raise PromptError(
                    f"{where}: '{name}' holds the token id {token}, which is no text in the chosen model's vocabulary: "
                    "the file was made for another model. Choose that one, or write answers as text."
                )
            self.read[token] = text
        return self.read[token]

    def prompt(self, where: str, name: str, tokens: list[int]) -> str:
        words = self._known(where, name)
        text = ""
        if all(0 <= token < 2**31 and words.raw(token) for token in tokens):
            body = tokens[1:] if tokens[0] == words.bos else tokens
            text = words.backend.decode(body, skip_special_tokens=False)
            if words.encode(text) != body:
                text = ""
        if not text:
            raise PromptError(
                f"{where}: '{name}' holds token ids ({_shown(tokens)}) that the chosen model's tokenizer never makes "
                "of a text: the file was made for another model. Choose that one, or write prompts as text."
            )
        return text

    def _known(self, where: str, name: str) -> PromptTokenizer:
        if self._tokenizer is None:
            raise PromptError(
                f"{where}: '{name}' holds token ids, which only the tokenizer of their own model can read. Choose that "
                "model on 1 · Prompts and load it, then take in the file again; or write text."
            )
        return self._tokenizer


def _check_ids(rows: Sequence[Row], pairs: Sequence[PromptPair], columns: Columns) -> None:
    """Refuse token ids that another model's tokenizer has made, as far as can be told.

    Their texts tell it: where a column says in words what the ids stand for, and where many would go on in the midst of
    a word ("gave a ring to" "edience").
    """
    stem = (columns.right_ids or "").removesuffix("_idx")
    within = []
    for (where, row), pair in zip(rows, pairs, strict=True):
        said = row.get(stem) if stem in columns.others else None
        if is_text(said) and not all(said.strip().startswith(text.strip()) for text in pair.answers):
            raise _of_another_model(where, f"would stand for '{visible(pair.answers[0])}' where '{stem}' says '{said}'")
        within += [text for text in pair.answers if _is_letter(text[:1]) and _is_letter(pair.clean[-1:])]
    if len(within) > len(pairs) / 10:
        some = ", ".join(f"'{visible(text)}'" for text in list(dict.fromkeys(within))[:3])
        raise _of_another_model(rows[0][0], f"would stand for parts of words such as {some}")


def _is_letter(character: str) -> bool:
    """Whether it is a letter of a script that parts words by spaces, as far as ASCII goes."""
    return character.isascii() and character.isalpha()


def _of_another_model(where: str, why: str) -> PromptError:
    return PromptError(
        f"{where}: the token ids are not those of the chosen model, where they {why}: the file was made for another "
        "model. Choose that one and take in the file again, or write answers as text."
    )


# --- years ---------------------------------------------------------------------------------------------------------


def _years(rows: Sequence[Row], columns: Columns) -> list[PromptPair] | None:
    """The pairs of a greater-than task as EAP-IG writes it ("from the year 1352 to the year 13", 52); None for others.

    Right are all two-digit numbers above that of the prompt, wrong the others, as in the task's metric (Hanna et al.
    2023, https://arxiv.org/abs/2305.00586).
    """
    name = columns.right_ids or columns.answers
    if name is None or columns.wrong_ids or columns.wrong_answers:
        return None
    pairs = []
    for _, row in rows:
        clean, corrupt, end = row.get(columns.clean), row.get(columns.corrupt), str(row.get(name))
        if not is_text(clean) or not is_text(corrupt) or not re.fullmatch(r"[0-9]{1,2}", end, re.ASCII):
            return None
        century = clean[-2:]
        if not re.fullmatch(r"[0-9]{2}", century) or f"{century}{int(end):02}" not in clean[:-2]:
            return None
        numbers = [f"{number:02}" for number in range(100)]
        pairs.append(PromptPair(clean, corrupt, tuple(numbers[int(end) + 1 :]), tuple(numbers[: int(end) + 1])))
    return pairs


# --- values --------------------------------------------------------------------------------------------------------


def _plain(name: str) -> str:
    """A column's name as names are compared."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _numbers(where: str, name: str, value: Any) -> list[int]:
    """The whole numbers in a value of a column of token ids: one, or a list, also as text."""
    if _is_missing(value):
        return []
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if is_text(value):
        if not re.fullmatch(r"\s*\[?[0-9,\s]*(\.0)?\]?\s*", value[:10_000]):
            raise PromptError(f"{where}: '{name}' must hold token ids, and is {_shown(value)}.")
        value = [int(digits) for digits in re.findall(r"[0-9]{1,10}", value.replace(".0", ""))]
    found = value if isinstance(value, list) else [value]
    if not all(type(token) is int for token in found):
        raise PromptError(f"{where}: '{name}' must hold token ids, and is {_shown(value)}.")
    return found


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def _are_numbers(rows: Sequence[Row], name: str) -> bool:
    return all(re.fullmatch(r"[0-9]+", str(row.get(name, ""))) for _, row in rows)


def _are_marks(rows: Sequence[Row], name: str) -> bool:
    """Whether a column of labels, or of what is correct, holds numbers or marks of the answers instead of these."""
    if _plain(name) == "label" and _are_numbers(rows, name):
        return True
    values = {str(row.get(name, "")).strip().lower() for _, row in rows}
    return _plain(name) in ("label", "correct", "right") and values <= {"0", "1", "true", "false"}


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _shown(value: Any) -> str:
    if _is_missing(value):
        return "empty"
    try:
        text = repr(value)
    except RecursionError:
        return "lists in lists"
    return text if len(text) <= 60 else f"{text[:58]} …"


def _listed(names: Sequence[str]) -> str:
    """Names of columns, the first dozen."""
    shown = [name.strip()[:40] or "one without a name" for name in names[:12]]
    more = [f"{counted(len(names) - 12, 'other')}"] if len(names) > 12 else []
    return ", ".join([*shown, *more])


def _no_answers(names: Sequence[str], where: str) -> PromptError:
    return PromptError(
        f"{where}: none of the columns {_listed(names)} is known to hold the right answers. Call the one that does "
        "'answers', or add one of that name."
    )
