"""Prompts and answers as tokens: what is accepted, what is padded, and what is refused in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from circuit.common.errors import OptionError, PromptError
from circuit.engine.dataset import AnswerTokens, PromptDataLoader, PromptDataset

A, B, C = torch.tensor([1, 2, 3]), torch.tensor([4, 5]), torch.tensor([6, 7, 8, 9])


def pairs(**changes: Any) -> PromptDataset:
    parts: dict[str, Any] = {
        "clean": [A, B, C],
        "corrupt": [A + 10, B + 10, C + 10],
        "answers": [torch.tensor([1]), torch.tensor([2, 3]), torch.tensor([4])],
        "wrong_answers": [torch.tensor([5, 6, 7]), torch.tensor([8]), torch.tensor([9])],
    }
    return PromptDataset(**{**parts, **changes})


def test_a_batch_is_padded_on_the_right_and_knows_its_last_tokens() -> None:
    first, second = PromptDataLoader(pairs(), batch_size=2)
    assert first.clean.tolist() == [[1, 2, 3], [4, 5, 0]]
    assert first.corrupt.tolist() == [[11, 12, 13], [14, 15, 0]]
    assert first.last.tolist() == [2, 1]
    assert first.real_positions.tolist() == [[True, True, True], [True, True, False]]
    assert (list(first.rows), list(second.rows)) == ([0, 1], [2])
    assert second.clean.tolist() == [[6, 7, 8, 9]]
    assert (len(first), len(second)) == (2, 1)
    assert torch.equal(first.prompts("clean"), first.clean)
    assert torch.equal(first.prompts("corrupt"), first.corrupt)


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1, 1, 1]), (2, [2, 1]), (3, [3]), (10, [3]), (None, [3])])
def test_no_prompt_is_left_out(batch_size: int | None, sizes: list[int]) -> None:
    loader = PromptDataLoader(pairs(), batch_size)
    assert [len(batch) for batch in loader] == sizes
    assert len(loader) == len(sizes)
    assert [row for batch in loader for row in batch.rows] == [0, 1, 2]


def test_answers_are_averaged_over_the_real_ones_only() -> None:
    answers = AnswerTokens.of([torch.tensor([3]), torch.tensor([1, 2])])
    values = torch.tensor([[100.0, 1.0, 2.0, 3.0], [100.0, 10.0, 20.0, 30.0]])
    assert answers.mean(values).tolist() == [3.0, 15.0]
    values[0, 0] = torch.inf  # token 0 is only padding
    assert answers.mean(values).tolist() == [3.0, 15.0]


def test_tensors_lists_and_arrays_are_the_same_prompts() -> None:
    tokens = torch.randint(0, 90, (4, 6))
    answers = torch.randint(0, 90, (4, 2))
    forms = [
        PromptDataset(tokens, tokens, answers, answers),
        PromptDataset(list(tokens), list(tokens), list(answers), list(answers)),
        PromptDataset(tokens.int(), tokens.int(), answers.int(), answers.int()),
        PromptDataset(tokens.tolist(), tokens.tolist(), answers.tolist(), answers.tolist()),
    ]
    for dataset in forms:
        batch = dataset.batch(range(4))
        assert torch.equal(batch.clean, tokens)
        assert isinstance(batch.answers, AnswerTokens)
        assert torch.equal(batch.answers.tokens, answers)
        assert batch.clean.dtype == torch.long


def test_wrong_answers_may_be_left_out() -> None:
    for wrong in (None, [torch.empty(0), torch.tensor([1]), torch.tensor([], dtype=torch.long)]):
        dataset = pairs(wrong_answers=wrong)
        assert dataset.batch(range(3)).wrong_answers.real[0].sum() == 0


def test_a_target_over_the_vocabulary_goes_with_its_prompt() -> None:
    target = torch.rand(3, 12, dtype=torch.float64)
    batches = list(PromptDataLoader(pairs(answers=target), 2))
    assert torch.equal(torch.cat([batch.answers for batch in batches]), target.float())  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corrupt": [A, torch.tensor([1, 2, 3]), C]}, "Row 2: the clean prompt has 2 tokens and the corrupt one 3"),
        ({"corrupt": [A, B]}, "3 clean prompts and 2 corrupt: give one each"),
        ({"wrong_answers": [A, B]}, "3 clean prompts and 2 wrong_answers"),
        ({"answers": [A, B]}, "3 clean prompts and 2 answers"),
        ({"answers": torch.rand(2, 12)}, "3 clean prompts and 2 answers"),
        ({"answers": [A, B, torch.tensor([], dtype=torch.long)]}, "Row 3: there is no right answer"),
        ({"clean": [A, B, torch.empty(0)], "corrupt": [A, B, torch.empty(0)]}, "Row 3: the prompt has no tokens"),
        ({"answers": torch.rand(3)}, r"shape \[n, d_vocab\], and has \[3\]"),
        ({"clean": [A, B.float(), C]}, r"clean, row 2: expected a one-dimensional tensor of token ids.*float32"),
        ({"clean": [A, B, C[None]]}, r"clean, row 3: .* of shape \[1, 4\]"),
        ({"answers": torch.tensor([1, 2, 3])}, r"answers, row 1: expected a one-dimensional tensor"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_the_row(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PromptError, match=words):
        pairs(**changes)


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(PromptError, match="no prompts: enter at least one pair"):
        PromptDataLoader(PromptDataset([], [], [], []))


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, 2.0, True, "3", float("nan")])
def test_a_batch_size_that_is_none_is_refused(batch_size: Any) -> None:
    with pytest.raises(OptionError, match="whole number of 1 or more"):
        PromptDataLoader(pairs(), batch_size)


def test_a_numpy_integer_is_a_batch_size() -> None:
    assert [len(batch) for batch in PromptDataLoader(pairs(), np.int64(2))] == [2, 1]  # type: ignore[arg-type]
