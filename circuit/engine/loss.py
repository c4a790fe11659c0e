"""The loss whose gradient scores the edges: a function of the logits, then a function of the answers.

    token_values    logit | prob | logprob | logit_exp
    answer_values   avg_diff | avg_val | mse: one number a prompt, larger is better at the task
    prompt_values   both: logits in, one number a prompt out
    loss            minus the answer value, so that a positive score means that ablating the edge hurts
    check_answers   whether every prompt has the answers that an answer function needs
    is_right        whether the right answers come out ahead, a prompt
    probability     of the right answers together, a prompt

As in AutoCircuit, `logit_exp` divides by the sum of exponentials held constant, so its gradient does not vanish where
the answer's probability is near 1.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from circuit.common.errors import PromptError
from circuit.edges.method import AnswerFunction, GradFunction
from circuit.engine.dataset import AnswerTokens, PromptDataset, PromptPairBatch


def token_values(logits: Float[Tensor, "batch d_vocab"], grad_function: GradFunction) -> Float[Tensor, "batch d_vocab"]:
    """What is read off at the answer tokens, in float32."""
    logits = logits.float()
    if grad_function == "logit":
        return logits
    if grad_function == "prob":
        return logits.softmax(-1)
    if grad_function == "logprob":
        return logits.log_softmax(-1)
    # exp(l) / sum(exp(l)).detach(), shifted so that nothing overflows
    exponentials = (logits - logits.amax(-1, keepdim=True).detach()).exp()
    return exponentials / exponentials.sum(-1, keepdim=True).detach()


def answer_values(
    values: Float[Tensor, "batch d_vocab"], batch: PromptPairBatch, answer_function: AnswerFunction
) -> Float[Tensor, " batch"]:
    """One number a prompt, larger being better.

    - `avg_diff`: mean over the right answers minus mean over the wrong ones
    - `avg_val`: mean over the right answers
    - `mse`: minus the mean squared distance, over the vocabulary, from the target: the one given, or the uniform
      distribution over the right answers

    Raises:
        PromptError: `avg_diff` on a prompt without wrong answers, or a target where answer tokens are needed.
    """
    answers = batch.answers
    if answer_function == "mse":
        target = _uniform(answers, values) if isinstance(answers, AnswerTokens) else answers
        return -F.mse_loss(values, target.to(values), reduction="none").mean(-1)
    if not isinstance(answers, AnswerTokens):
        raise _target_error(answer_function)
    if answer_function == "avg_val":
        return answers.mean(values)
    _check_wrong_answers((row + 1 for row in batch.rows), batch.wrong_answers.real.any(-1).tolist())
    return answers.mean(values) - batch.wrong_answers.mean(values)


def prompt_values(
    logits: Float[Tensor, "batch d_vocab"],
    batch: PromptPairBatch,
    grad_function: GradFunction,
    answer_function: AnswerFunction,
) -> Float[Tensor, " batch"]:
    """The answer value of every prompt, from its logits."""
    return answer_values(token_values(logits, grad_function), batch, answer_function)


def loss(
    logits: Float[Tensor, "batch d_vocab"],
    batch: PromptPairBatch,
    grad_function: GradFunction,
    answer_function: AnswerFunction,
) -> Float[Tensor, ""]:
    """The sum over prompts of minus the answer value, so that each prompt's gradient stands for itself."""
    return -prompt_values(logits, batch, grad_function, answer_function).sum()


def is_right(logits: Float[Tensor, "batch d_vocab"], batch: PromptPairBatch) -> Float[Tensor, " batch"]:
    """1 where every right answer is above every wrong one, 0 where not, NaN where there is no wrong answer."""
    answers, wrong = _answer_tokens(batch), batch.wrong_answers
    if wrong.tokens.shape[1] == 0:
        return torch.full((len(batch),), torch.nan, device=logits.device)
    logits = logits.float()
    ahead = answers.smallest(logits) > wrong.largest(logits)
    return ahead.float().masked_fill(~wrong.real.any(-1), torch.nan)


def probability(logits: Float[Tensor, "batch d_vocab"], batch: PromptPairBatch) -> Float[Tensor, " batch"]:
    """The probability of the right answers together."""
    return _answer_tokens(batch).sum(logits.float().softmax(-1))


def _answer_tokens(batch: PromptPairBatch) -> AnswerTokens:
    if not isinstance(batch.answers, AnswerTokens):
        raise PromptError("The answers are a target over the vocabulary, so none is right: give answer tokens.")
    return batch.answers


def check_answers(dataset: PromptDataset, answer_function: AnswerFunction) -> None:
    """Raise the `PromptError` of `answer_values` before any work is done, not when its batch comes up."""
    if answer_function == "mse":
        return
    if dataset.target is not None:
        raise _target_error(answer_function)
    if answer_function == "avg_diff":
        _check_wrong_answers(dataset.numbers, [len(wrong) > 0 for wrong in dataset.wrong_answers])


def _check_wrong_answers(numbers: Iterable[int], present: list[bool]) -> None:
    for number, is_there in zip(numbers, present, strict=True):
        if not is_there:
            raise PromptError(
                f"Row {number}: there is no wrong answer, and 'avg_diff' compares right with wrong ones. "
                "Add a wrong answer, or choose 'avg_val'."
            )


def _target_error(answer_function: AnswerFunction) -> PromptError:
    return PromptError(
        f"The answers are a target over the vocabulary, and '{answer_function}' needs answer tokens. "
        "Give tokens, or choose 'mse'."
    )


def _uniform(answers: AnswerTokens, like: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, "batch d_vocab"]:
    share = answers.real.float() / answers.real.sum(-1, keepdim=True)
    return like.new_zeros(like.shape).scatter_add_(-1, answers.tokens, share.to(like))
