"""Prompt pairs as tokens: what the engine reads.

    PromptDataset     clean and corrupt prompts, right and wrong answers, checked once
    PromptDataLoader  the dataset in batches
    PromptPairBatch   one batch, right-padded
    check_one_length  refuse prompts of different lengths, where positions must correspond

    dataset = PromptDataset(clean, corrupt, answers, wrong_answers)
    loader = PromptDataLoader(dataset, batch_size=8)

Prompts of different lengths are padded on the right. With causal attention that is exact and needs no attention mask:
padding comes after every position that is read, and nothing looks ahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuit.common.errors import OptionError, PromptError

TokenLists = Tensor | Sequence[Tensor] | Sequence[Sequence[int]]


@dataclass(frozen=True)
class AnswerTokens:
    """The answer tokens of every prompt, padded to the longest list.

    Prompts may have different numbers of answers: `real` says which entries count.
    """

    tokens: Int[Tensor, "batch n_answers"]
    real: Bool[Tensor, "batch n_answers"]

    @classmethod
    def of(cls, lists: Sequence[Tensor]) -> AnswerTokens:
        width = max((len(tokens) for tokens in lists), default=0)
        padded = torch.zeros(len(lists), width, dtype=torch.long)
        real = torch.zeros(len(lists), width, dtype=torch.bool)
        for row, tokens in enumerate(lists):
            padded[row, : len(tokens)] = tokens
            real[row, : len(tokens)] = True
        return cls(padded, real)

    def mean(self, values: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        """The mean of `values` over each prompt's answer tokens."""
        return self.sum(values) / self.real.sum(-1)

    def sum(self, values: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        """The sum of `values` over each prompt's answer tokens."""
        return self._pick(values, 0.0).sum(-1)

    def largest(self, values: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        """The largest of `values` among each prompt's answer tokens."""
        return self._pick(values, -torch.inf).amax(-1)

    def smallest(self, values: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        """The smallest of `values` among each prompt's answer tokens."""
        return self._pick(values, torch.inf).amin(-1)

    def _pick(self, values: Float[Tensor, "batch d_vocab"], padding: float) -> Float[Tensor, "batch n_answers"]:
        return values.gather(-1, self.tokens).masked_fill(~self.real, padding)

    def to(self, device: torch.device) -> AnswerTokens:
        return AnswerTokens(self.tokens.to(device), self.real.to(device))


@dataclass(frozen=True)
class PromptPairBatch:
    """Some prompt pairs, right-padded with token 0.

    `last` is the position of each prompt's last real token, where the logits are read. `answers` are tokens, or a
    target for `mse`; `rows` are the prompts' places in the dataset.
    """

    rows: range
    clean: Int[Tensor, "batch pos"]
    corrupt: Int[Tensor, "batch pos"]
    last: Int[Tensor, " batch"]
    answers: AnswerTokens | Float[Tensor, "batch d_vocab"]
    wrong_answers: AnswerTokens

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def real_positions(self) -> Bool[Tensor, "batch pos"]:
        """Which positions hold a token of the prompt, and not padding."""
        return torch.arange(self.clean.shape[1], device=self.last.device) <= self.last[:, None]

    def prompts(self, which: str) -> Int[Tensor, "batch pos"]:
        """The clean or the corrupt prompts."""
        return self.clean if which == "clean" else self.corrupt

    def to(self, device: torch.device) -> PromptPairBatch:
        return PromptPairBatch(
            self.rows,
            self.clean.to(device),
            self.corrupt.to(device),
            self.last.to(device),
            self.answers.to(device),
            self.wrong_answers.to(device),
        )


class PromptDataset:
    """Clean and corrupt prompts with right and wrong answers, as token ids.

    Args:
        clean: Prompts that show the behaviour: an integer [n, pos] tensor, or n one-dimensional tensors, which may
            differ in length.
        corrupt: Their minimal edits; each as long as its clean prompt.
        answers: The right next tokens: n one-dimensional integer tensors, which may differ in length (or an [n, k]
            tensor). For the answer function `mse` also a floating-point [n, d_vocab] target.
        wrong_answers: The wrong next tokens, given like the answers; may be left out, or empty for some prompts,
            where the answer function does not need them (`avg_val`, `mse`).

    Raises:
        PromptError: When the parts do not fit together; the sentence names the row, counted from 1.
    """

    def __init__(
        self,
        clean: TokenLists,
        corrupt: TokenLists,
        answers: TokenLists,
        wrong_answers: TokenLists | None = None,
    ) -> None:
        self.clean = _token_lists("clean", clean)
        self.corrupt = _token_lists("corrupt", corrupt)
        self.target: Float[Tensor, "n d_vocab"] | None = None
        if isinstance(answers, Tensor) and answers.is_floating_point():
            if answers.ndim != 2:
                raise PromptError(f"A target must have shape [n, d_vocab], and has {list(answers.shape)}.")
            self.target = answers.float()
            self.answers: list[Tensor] = []
        else:
            self.answers = _token_lists("answers", answers)
        none: list[Tensor] = [torch.empty(0, dtype=torch.long)] * len(self.clean)
        self.wrong_answers = none if wrong_answers is None else _token_lists("wrong_answers", wrong_answers)

        self.numbers = list(range(1, len(self.clean) + 1))
        """What each prompt's row is called in messages; a caller that left rows out says here what theirs were."""

        parts = {"corrupt": self.corrupt, "wrong_answers": self.wrong_answers}
        parts["answers"] = self.answers if self.target is None else self.target  # type: ignore[assignment]
        for name, part in parts.items():
            if len(part) != len(self.clean):
                raise PromptError(f"There are {len(self.clean)} clean prompts and {len(part)} {name}: give one each.")
        for row, (clean_row, corrupt_row) in enumerate(zip(self.clean, self.corrupt, strict=True), start=1):
            if len(clean_row) != len(corrupt_row):
                raise PromptError(
                    f"Row {row}: the clean prompt has {len(clean_row)} tokens and the corrupt one {len(corrupt_row)}. "
                    "Edges are compared position by position, so both must have the same number of tokens."
                )
            if len(clean_row) == 0:
                raise PromptError(f"Row {row}: the prompt has no tokens.")
            if self.target is None and len(self.answers[row - 1]) == 0:
                raise PromptError(f"Row {row}: there is no right answer.")

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each prompt."""
        return [len(tokens) for tokens in self.clean]

    def of_rows(self, rows: Sequence[int]) -> PromptDataset:
        """The prompts at these places of the dataset, in this order, each still called by its own row's number."""
        clean, corrupt, wrong = ([part[row] for row in rows] for part in (self.clean, self.corrupt, self.wrong_answers))
        answers = [self.answers[row] for row in rows] if self.target is None else self.target[list(rows)]
        found = PromptDataset(clean, corrupt, answers, wrong)
        found.numbers = [self.numbers[row] for row in rows]
        return found

    def batch(self, rows: range) -> PromptPairBatch:
        """The prompt pairs at `rows` (places in the dataset, from 0), as one batch on the CPU."""
        pick = slice(rows.start, rows.stop)
        clean = torch.nn.utils.rnn.pad_sequence(self.clean[pick], batch_first=True)
        corrupt = torch.nn.utils.rnn.pad_sequence(self.corrupt[pick], batch_first=True)
        last = torch.tensor([len(tokens) - 1 for tokens in self.clean[pick]])
        answers = AnswerTokens.of(self.answers[pick]) if self.target is None else self.target[pick]
        return PromptPairBatch(rows, clean, corrupt, last, answers, AnswerTokens.of(self.wrong_answers[pick]))


class PromptDataLoader:
    """A `PromptDataset` in batches, in the dataset's order. The last batch may be smaller; no prompt is left out.

    Args:
        dataset: The prompts.
        batch_size: Prompts per batch; None lets the model choose by the free memory of its device.
        rows: The prompts to go through, where others go through the rest: what is computed is then this part's share
            of the mean over the whole dataset, and the shares of all parts add up to it. None: all.

    Raises:
        PromptError: When the dataset is empty.
        OptionError: When the batch size is not a whole number of 1 or more.
    """

    def __init__(self, dataset: PromptDataset, batch_size: int | None = None, rows: range | None = None) -> None:
        if len(dataset) == 0:
            raise PromptError("There are no prompts: enter at least one pair.")
        whole = isinstance(batch_size, Integral) and not isinstance(batch_size, bool)
        if batch_size is not None and (not whole or batch_size < 1):
            raise OptionError(f"batch_size must be a whole number of 1 or more, and is {batch_size!r}.")
        self.dataset = dataset
        self.batch_size = batch_size
        self.rows = range(len(dataset)) if rows is None else rows

    def __len__(self) -> int:
        """The number of batches (1 where the batch size is left open)."""
        return -(-len(self.rows) // (self.batch_size or max(len(self.rows), 1)))

    def __iter__(self) -> Iterator[PromptPairBatch]:
        size = self.batch_size or max(len(self.rows), 1)
        for start in range(0, len(self.rows), size):
            yield self.dataset.batch(self.rows[start : start + size])

    def with_batch_size(self, batch_size: int) -> PromptDataLoader:
        """The same prompts in batches of another size."""
        return PromptDataLoader(self.dataset, batch_size, self.rows)

    def of_all_rows(self) -> PromptDataLoader:
        """All prompts of the dataset, in batches of this size."""
        return PromptDataLoader(self.dataset, self.batch_size)


def _token_lists(name: str, tokens: TokenLists) -> list[Tensor]:
    rows = []
    for row, ids in enumerate(tokens, start=1):
        ids = torch.as_tensor(ids)
        are_ids = not ids.is_floating_point() and ids.dtype != torch.bool
        if ids.ndim != 1 or not (are_ids or len(ids) == 0):  # an empty list has no integers to be seen
            raise PromptError(
                f"{name}, row {row}: expected a one-dimensional tensor of token ids, and got "
                f"{ids.dtype} of shape {list(ids.shape)}."
            )
        rows.append(ids.long().cpu())
    return rows


def check_one_length(datasets: Sequence[PromptDataset], why: str) -> None:
    """Check that all prompts of all the datasets have the same number of tokens.

    Raises:
        PromptError: Names the first row that differs, and says `why` that matters.
    """
    lengths = [pair for dataset in datasets for pair in zip(dataset.numbers, dataset.lengths, strict=True)]
    first, wanted = lengths[0]
    for row, length in lengths:
        if length != wanted:
            raise PromptError(f"Row {row} has {length} tokens and row {first} has {wanted}: {why}")
