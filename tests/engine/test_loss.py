"""The loss, from numbers worked out by hand. `test_mask_gradient` compares every combination with a slow one."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from circuit.common.errors import OptionError, PromptError
from circuit.edges.method import AnswerFunction, GradFunction, Method
from circuit.engine.dataset import PromptDataLoader, PromptDataset, PromptPairBatch
from circuit.engine.loss import ANSWER_FUNCTIONS, GRAD_FUNCTIONS, answer_values, check_answers, loss, token_values
from tests.slow_model import (
    Prompts,
    slow_loss,
)
from tests.small_models import (
    D_VOCAB,
)
from tests.small_prompts import ragged

ZERO = torch.zeros(2, 1, dtype=torch.long)
LOG2, LOG3 = torch.log(torch.tensor(2.0)).item(), torch.log(torch.tensor(3.0)).item()
LOGITS = torch.tensor([[0.0, LOG2, LOG3], [LOG3, 0.0, 0.0]])  # probabilities: 1/6, 2/6, 3/6 and 3/5, 1/5, 1/5


def batch(answers: Any, wrong: Any = None, first_row: int = 0) -> PromptPairBatch:
    made = PromptDataset(ZERO, ZERO, answers, wrong).batch(range(2))
    return PromptPairBatch(
        range(first_row, first_row + 2), made.clean, made.corrupt, made.last, made.answers, made.wrong_answers
    )


def test_token_values() -> None:
    assert token_values(LOGITS, "logit").equal(LOGITS)
    probabilities = torch.tensor([[1 / 6, 2 / 6, 3 / 6], [3 / 5, 1 / 5, 1 / 5]])
    torch.testing.assert_close(token_values(LOGITS, "prob"), probabilities)
    torch.testing.assert_close(token_values(LOGITS, "logprob"), probabilities.log())
    torch.testing.assert_close(token_values(LOGITS, "logit_exp"), probabilities)


def test_logit_exp_differs_from_prob_in_its_gradient_only() -> None:
    """The denominator is held constant: the gradient at the answer is p, not p (1 - p), and 0 elsewhere."""
    gradients = {}
    for grad_function in ("prob", "logit_exp"):
        logits = LOGITS.clone().requires_grad_()
        token_values(logits, grad_function)[0, 2].backward()
        assert logits.grad is not None
        gradients[grad_function] = logits.grad[0]
    torch.testing.assert_close(gradients["logit_exp"], torch.tensor([0.0, 0.0, 1 / 2]))
    torch.testing.assert_close(gradients["prob"], torch.tensor([-1 / 12, -2 / 12, 3 / 12]))


@pytest.mark.parametrize("grad_function", ["prob", "logprob", "logit_exp"])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_logits_do_not_overflow(grad_function: Any, size: float) -> None:
    logits = torch.tensor([[size, size - 1.0, 0.0]], requires_grad=True)
    values = token_values(logits, grad_function)
    (gradient,) = torch.autograd.grad(values[0, 0], logits)
    assert bool(values.isfinite().all())
    assert bool(gradient.isfinite().all())
    if grad_function == "logit_exp" and size > 0:
        e = torch.tensor(1.0).exp()
        torch.testing.assert_close(gradient[0], torch.tensor([float(e / (1 + e)), 0.0, 0.0]))


def test_half_precision_logits_are_read_in_float32() -> None:
    assert token_values(LOGITS.half(), "logprob").dtype == torch.float32


def test_answer_values() -> None:
    right, wrong = [torch.tensor([1, 2]), torch.tensor([0])], [torch.tensor([0]), torch.tensor([1, 2])]
    values = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    of = batch(right, wrong)
    assert answer_values(values, of, "avg_val").tolist() == [3.0, 8.0]
    assert answer_values(values, of, "avg_diff").tolist() == [2.0, -16.0]
    assert float(loss(values, of, Method())) == 14.0  # minus the sum: a better model has a lower loss
    # squared distances from (0, 1/2, 1/2) and (1, 0, 0), averaged over the vocabulary
    expected = [-(1 + 1.5**2 + 3.5**2) / 3, -(7**2 + 16**2 + 32**2) / 3]
    assert answer_values(values, of, "mse").tolist() == pytest.approx(expected)


def test_a_target_is_a_distance_over_the_vocabulary() -> None:
    values = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    target = values + torch.tensor([[3.0], [-1.0]])
    assert answer_values(values, batch(target), "mse").tolist() == [-9.0, -1.0]


def test_what_is_missing_is_named_with_its_row_of_the_dataset() -> None:
    of = batch([torch.tensor([1]), torch.tensor([1])], [torch.tensor([2]), torch.empty(0)], first_row=6)
    with pytest.raises(
        PromptError, match=r"Row 8: there is no wrong answer, .* Add a wrong answer, or choose 'avg_val'"
    ):
        answer_values(LOGITS, of, "avg_diff")
    for answer_function in ("avg_diff", "avg_val"):
        with pytest.raises(PromptError, match=f"'{answer_function}' needs answer tokens"):
            answer_values(LOGITS, batch(torch.rand(2, 3)), answer_function)


def test_a_dataset_is_checked_before_it_is_run() -> None:
    tokens = [torch.tensor([1]), torch.tensor([1])]
    dataset = PromptDataset(ZERO, ZERO, tokens, [torch.tensor([2]), torch.empty(0)])
    with pytest.raises(PromptError, match="Row 2: there is no wrong answer"):
        check_answers(dataset, Method())
    check_answers(dataset, Method(answer_function="avg_val"))
    check_answers(dataset, Method(answer_function="mse"))
    with pytest.raises(PromptError, match="'avg_val' needs answer tokens"):
        check_answers(PromptDataset(ZERO, ZERO, torch.rand(2, 3)), Method(answer_function="avg_val"))
    check_answers(PromptDataset(ZERO, ZERO, torch.rand(2, 3)), Method(answer_function="mse"))


def test_the_tables_hold_every_function_that_a_method_can_name() -> None:
    assert tuple(GRAD_FUNCTIONS) == get_args(GradFunction)
    assert tuple(ANSWER_FUNCTIONS) == get_args(AnswerFunction)


@pytest.mark.parametrize("name", ["logit_exq", "", "Logit", None, ["logit"]])
def test_a_function_that_does_not_exist_is_refused_by_name(name: Any) -> None:
    with pytest.raises(OptionError, match=r"grad_function must be one of 'logit', .*'logit_exp', and is "):
        token_values(LOGITS, name)
    with pytest.raises(OptionError, match=r"answer_function must be one of 'avg_diff', 'avg_val', 'mse', and is "):
        answer_values(LOGITS, batch([torch.tensor([1])] * 2), name)


def test_the_engines_loss_is_the_slow_loss() -> None:
    """Value, not only gradient, with answers of different numbers."""
    (batch,) = PromptDataLoader(ragged(), 5)
    logits = torch.randn(5, D_VOCAB, generator=torch.Generator().manual_seed(0)) * 3
    pairs = Prompts(batch.clean, batch.corrupt, ragged().answers, ragged().wrong_answers)
    for grad_function in GRAD_FUNCTIONS:
        for answer_function in ANSWER_FUNCTIONS:
            method = Method(grad_function, answer_function)
            ours = loss(logits, batch, method)
            theirs = slow_loss(logits.double(), pairs, grad_function, answer_function)
            assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
