"""The loss whose gradient scores the edges: a function of the logits, then a function of the answers.

    token_values    logit | prob | logprob | logit_exp
    answer_values   avg_diff | avg_val | mse: one number per prompt, larger is better at the task
    prompt_values   both, as a method has them: logits in, one number per prompt out
    loss            minus the sum of these, so that a positive score means that ablating the edge hurts
    check_answers   whether every prompt has the answers that a method needs
    is_right        whether the right answers come out ahead, per prompt
    probability     of the right answers together, per prompt

    values = prompt_values(model.logits(batch.clean, batch.last), batch, Method())   # right minus wrong logits: [batch]

Names and formulas are AutoCircuit's (https://github.com/UFO-101/auto-circuit). As there, `logit_exp` divides by the sum
of exponentials held constant, so its gradient does not vanish where the answer's probability is near 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from circuit.common.errors import OptionError, PromptError
from circuit.edges.method import AnswerFunction, GradFunction, Method
from circuit.engine.dataset import AnswerTokens, PromptDataset, PromptPairBatch

Name = TypeVar("Name", bound=str)
Function = TypeVar("Function", bound=Callable)


def _logit(logits: Tensor) -> Tensor:
    return logits


def _prob(logits: Tensor) -> Tensor:
    return logits.softmax(-1)


def _logprob(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1)


def _logit_exp(logits: Tensor) -> Tensor:
    # exp(l) / sum(exp(l)).detach(), shifted so that nothing overflows
    exponentials = (logits - logits.amax(-1, keepdim=True).detach()).exp()
    return exponentials / exponentials.sum(-1, keepdim=True).detach()


def _avg_diff(values: Tensor, batch: PromptPairBatch) -> Tensor:
    right = _tokens_for("avg_diff", batch)
    _check_wrong_answers((row + 1 for row in batch.rows), batch.wrong_answers.real.any(-1).tolist())
    return right.mean(values) - batch.wrong_answers.mean(values)


def _avg_val(values: Tensor, batch: PromptPairBatch) -> Tensor:
    return _tokens_for("avg_val", batch).mean(values)


def _mse(values: Tensor, batch: PromptPairBatch) -> Tensor:
    answers = batch.answers
    target = _uniform(answers, values) if isinstance(answers, AnswerTokens) else answers
    return -F.mse_loss(values, target.to(values), reduction="none").mean(-1)


GRAD_FUNCTIONS: dict[GradFunction, Callable[[Tensor], Tensor]] = {
    "logit": _logit,
    "prob": _prob,
    "logprob": _logprob,
    "logit_exp": _logit_exp,
}
"""What a grad function makes of float32 logits [batch, d_vocab]: values of the same shape."""
ANSWER_FUNCTIONS: dict[AnswerFunction, Callable[[Tensor, PromptPairBatch], Tensor]] = {
    "avg_diff": _avg_diff,
    "avg_val": _avg_val,
    "mse": _mse,
}
"""What an answer function makes of values [batch, d_vocab] and the answers of a batch: one number per prompt."""


def token_values(logits: Float[Tensor, "batch d_vocab"], grad_function: GradFunction) -> Float[Tensor, "batch d_vocab"]:
    """What is read off at the answer tokens, in float32: logits, probabilities, or natural logarithms of these.

    Raises:
        OptionError: A grad function that does not exist.
    """
    return _chosen(GRAD_FUNCTIONS, "grad_function", grad_function)(logits.float())


def answer_values(
    values: Float[Tensor, "batch d_vocab"], batch: PromptPairBatch, answer_function: AnswerFunction
) -> Float[Tensor, " batch"]:
    """One number per prompt, in the unit of `values` (squared for `mse`); larger is better.

    - `avg_diff`: mean over the right answers minus mean over the wrong ones
    - `avg_val`: mean over the right answers
    - `mse`: minus the mean squared distance, over the vocabulary, from the target: the one given, or the uniform
      distribution over the right answers

    Raises:
        PromptError: `avg_diff` on a prompt without wrong answers, or a target where answer tokens are needed.
        OptionError: An answer function that does not exist.
    """
    return _chosen(ANSWER_FUNCTIONS, "answer_function", answer_function)(values, batch)


def _chosen(functions: Mapping[Name, Function], option: str, name: str) -> Function:
    for known, function in functions.items():
        if known == name:
            return function
    raise OptionError(f"{option} must be one of {', '.join(map(repr, functions))}, and is {name!r}.")


def prompt_values(
    logits: Float[Tensor, "batch d_vocab"], batch: PromptPairBatch, method: Method
) -> Float[Tensor, " batch"]:
    """The answer value of every prompt, from its logits, by the method's grad and answer function.

    Raises:
        PromptError: As `answer_values`.
    """
    return answer_values(token_values(logits, method.grad_function), batch, method.answer_function)


def loss(logits: Float[Tensor, "batch d_vocab"], batch: PromptPairBatch, method: Method) -> Float[Tensor, ""]:
    """The sum over prompts of minus the answer value, so that each prompt's gradient stands for itself.

    Raises:
        PromptError: As `answer_values`.
    """
    return -prompt_values(logits, batch, method).sum()


def is_right(logits: Float[Tensor, "batch d_vocab"], batch: PromptPairBatch) -> Float[Tensor, " batch"]:
    """1 where every right answer is above every wrong one, 0 where not, NaN where there is no wrong answer.

    Raises:
        PromptError: Answers that are a target over the vocabulary.
    """
    right, wrong = _right_answers(batch), batch.wrong_answers
    if wrong.tokens.shape[1] == 0:
        return torch.full((len(batch),), torch.nan, device=logits.device)
    logits = logits.float()
    ahead = right.smallest(logits) > wrong.largest(logits)
    return ahead.float().masked_fill(~wrong.real.any(-1), torch.nan)


def probability(logits: Float[Tensor, "batch d_vocab"], batch: PromptPairBatch) -> Float[Tensor, " batch"]:
    """The probability of the right answers together, in [0, 1].

    Raises:
        PromptError: Answers that are a target over the vocabulary.
    """
    return _right_answers(batch).sum(logits.float().softmax(-1))


def _right_answers(batch: PromptPairBatch) -> AnswerTokens:
    if not isinstance(batch.answers, AnswerTokens):
        raise PromptError("The answers are a target over the vocabulary, so none is right: give answer tokens.")
    return batch.answers


def check_answers(dataset: PromptDataset, method: Method) -> None:
    """Find prompts that lack what the method's answer function needs before any work is done, not when their batch
    comes up.

    Raises:
        PromptError: As `answer_values`.
    """
    if method.answer_function == "mse":
        return
    if dataset.target is not None:
        raise _target_error(method.answer_function)
    if method.answer_function == "avg_diff":
        _check_wrong_answers(dataset.numbers, [len(wrong) > 0 for wrong in dataset.wrong_answers])


def _check_wrong_answers(numbers: Iterable[int], present: list[bool]) -> None:
    for number, is_there in zip(numbers, present, strict=True):
        if not is_there:
            raise PromptError(
                f"Row {number}: there is no wrong answer, and 'avg_diff' compares right with wrong ones. "
                "Add a wrong answer, or choose 'avg_val'."
            )


def _tokens_for(answer_function: AnswerFunction, batch: PromptPairBatch) -> AnswerTokens:
    if not isinstance(batch.answers, AnswerTokens):
        raise _target_error(answer_function)
    return batch.answers


def _target_error(answer_function: AnswerFunction) -> PromptError:
    return PromptError(
        f"The answers are a target over the vocabulary, and '{answer_function}' needs answer tokens. "
        "Give tokens, or choose 'mse'."
    )


def _uniform(answers: AnswerTokens, like: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, "batch d_vocab"]:
    share = answers.real.float() / answers.real.sum(-1, keepdim=True)
    return like.new_zeros(like.shape).scatter_add_(-1, answers.tokens, share.to(like))
