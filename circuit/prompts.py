"""Prompt pairs: as the text that a person enters, and as tokens of one model.

    PromptPair    a clean and a corrupt prompt, with right and wrong answers
    PromptSet     a named list of them; JSON in AutoCircuit's format
    encode        a prompt set as tokens of one model, with what is wrong in which row
    mended        a prompt set with what is wrong put right, where that is clear

    prompts = PRESETS["ioi"].prompts                    # circuit.presets
    encoded = encode(prompts, model.tokenizer, prepend_bos=model.prepend_bos)
    encoded.problems                      # {3: ["The clean prompt has 14 tokens and the corrupt one 15: ..."]}
    dataset = encoded.dataset()           # the rows without problems

Nothing here imports torch but `Encoded.dataset`, so the web process can hold prompts without holding a model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeGuard

from circuit.errors import PromptError
from circuit.prompt_checks import Finding, PairTokens, check_pair, duplicates
from circuit.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from circuit.dataset import PromptDataset


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
        data = json_of(text)
        if not isinstance(data, dict) or not isinstance(data.get("prompts"), list):
            raise PromptError('The JSON must hold {"prompts": [...]}: a list of prompt pairs.')
        pairs = tuple(pair_of(f"Prompt {row}", entry) for row, entry in enumerate(data["prompts"], start=1))
        given = data.get("name")
        return cls(given if is_text(given) else name, pairs, *labels_of(data))

    def labels(self) -> dict[str, Any]:
        """The labels that the set has, as plain values for JSON."""
        given = {"seq_labels": list(self.seq_labels), "word_idxs": dict(self.word_idxs)}
        return {key: value for key, value in given.items() if value}


# --- reading and writing one entry ---------------------------------------------------------------------------------


def json_of(text: str, line: int = 1) -> Any:
    """The value of a JSON text that begins at this line of its file.

    Raises:
        PromptError: When it is not JSON; names the line.
    """
    try:
        return json.loads(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise PromptError(
            f"Line {line + error.lineno - 1} is not JSON: {error.msg} at column {error.colno}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise PromptError(f"Line {line}: this is not JSON that can be read: {error}.") from error


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


# --- tokens --------------------------------------------------------------------------------------------------------


@dataclass
class Encoded:
    """A prompt set as tokens of one model. Lists have one entry a row; rows with problems are not used."""

    rows: list[PairTokens] = field(default_factory=list)
    findings: list[list[Finding]] = field(default_factory=list)
    """What each row's checks found, that of `duplicates` included."""

    @property
    def clean(self) -> list[list[int]]:
        return [row.clean for row in self.rows]

    @property
    def corrupt(self) -> list[list[int]]:
        return [row.corrupt for row in self.rows]

    @property
    def answers(self) -> list[list[int]]:
        return [row.answers for row in self.rows]

    @property
    def wrong_answers(self) -> list[list[int]]:
        return [row.wrong_answers for row in self.rows]

    @property
    def adapted(self) -> dict[str, str]:
        """Answers that were read without their leading space, since only so they are one token of this model."""
        return {text: bare for row in self.rows for text, bare in row.adapted.items()}

    @property
    def problems(self) -> dict[int, list[str]]:
        """Why rows cannot be used: sentences by row, counted from 0."""
        words = ([finding.words for finding in found if finding.broken] for found in self.findings)
        return {row: said for row, said in enumerate(words) if said}

    @property
    def usable(self) -> list[int]:
        """The rows without problems, counted from 0."""
        problems = self.problems
        return [row for row in range(len(self.rows)) if row not in problems]

    def dataset(self, rows: Sequence[int] | None = None) -> PromptDataset:
        """The usable rows as a dataset, or those of `rows` (counted from 0) that are.

        Raises:
            PromptError: When there is none; the sentence says what is wrong in the first of them.
        """
        from circuit.dataset import PromptDataset

        asked = range(len(self.rows)) if rows is None else sorted({*rows} & {*range(len(self.rows))})
        problems = self.problems
        usable = [row for row in asked if row not in problems]
        if not usable:
            among = asked or range(len(self.rows))  # none are asked for where none could be
            why = next((f" Row {row + 1}: {problems[row][0]}" for row in among if row in problems), "")
            raise PromptError(f"None of the {len(among)} prompt pairs can be used.{why}")

        def pick(lists: list[list[int]]) -> list[Any]:
            return [lists[row] for row in usable]

        dataset = PromptDataset(pick(self.clean), pick(self.corrupt), pick(self.answers), pick(self.wrong_answers))
        dataset.numbers = [row + 1 for row in usable]
        return dataset


def encode(
    prompts: PromptSet,
    tokenizer: Any,
    prepend_bos: bool,
    n_ctx: int | None = None,
    check: Callable[[PromptPair, PromptTokenizer, bool, int | None], PairTokens] = check_pair,
) -> Encoded:
    """Tokenize a prompt set, and say in words what is wrong in which row.

    Args:
        prompts: The prompts.
        tokenizer: A Hugging Face tokenizer, or a `PromptTokenizer`.
        prepend_bos: Start each prompt with the tokenizer's BOS token.
        n_ctx: The model's context length, in tokens.
        check: `check_pair`, or the same with a memory.
    """
    words = PromptTokenizer.of(tokenizer)
    rows = [check(pair, words, prepend_bos, n_ctx) for pair in prompts.pairs]
    again = duplicates(prompts.pairs)
    return Encoded(
        rows, [[*tokens.findings, *([again[row]] if row in again else [])] for row, tokens in enumerate(rows)]
    )


def mended(prompts: PromptSet, findings: Sequence[Sequence[Finding]], kind: str) -> PromptSet:
    """The set with every finding of this kind mended, where it can be; duplicates are left out."""
    pairs = []
    for pair, found in zip(prompts.pairs, findings, strict=True):
        mine = [finding for finding in found if finding.kind == kind]
        if kind != "duplicate" or not mine:
            pairs.append(next((finding.mended for finding in mine if finding.mended is not None), pair))
    return replace(prompts, pairs=tuple(pairs))
