"""Prompt pairs as tokens of one model.

encode    a prompt set as tokens, with what is wrong in which row
mended    a prompt set with what is wrong put right, where that is clear

encoded = encode(PRESETS["ioi"].prompts, model.tokenizer, prepend_bos=model.prepend_bos)
encoded.problems                      # {3: ["The clean prompt has 14 tokens and the corrupt one 15: ..."]}
dataset = encoded.dataset()           # the rows without problems
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from circuit.common.errors import PromptError
from circuit.models.tokenizer import PromptTokenizer
from circuit.prompts.checks import Finding, PairTokens, check_pair, duplicates
from circuit.prompts.pairs import PromptPair, PromptSet

if TYPE_CHECKING:
    from circuit.engine.dataset import PromptDataset


@dataclass
class Encoded:
    """A prompt set as tokens of one model. Lists have one entry per row; rows with problems are not used."""

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
        from circuit.engine.dataset import PromptDataset

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
