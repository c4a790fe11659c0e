"""The job that checks prompts: tokens, problems, and how the model does on every pair.

report = check_prompts(CheckRequest("smollm2-135m", PRESETS["ioi"].prompts))
report.problems         # {3: ["The clean prompt has 14 tokens and the corrupt one 15: ..."]}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from circuit.common.progress import Cancelled, Progress, Report, never, silent
from circuit.edges.method import GradFunction, Precision
from circuit.jobs.load import models
from circuit.jobs.prepare import bos_of, within_memory, words_of
from circuit.models.load import ModelCard, model_card
from circuit.prompts.encode import encode
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.prompts.verdicts import PairResult

if TYPE_CHECKING:
    from torch import Tensor

    from circuit.engine.dataset import PromptPairBatch
    from circuit.engine.model import PatchableModel


@dataclass(frozen=True)
class CheckRequest:
    """Prompts to check against a model."""

    model: str
    prompts: PromptSet
    dtype: Precision = "auto"
    device: str = "auto"
    prepend_bos: bool | None = None
    grad_function: GradFunction = "logit"


@dataclass
class PromptReport:
    """What a model makes of a prompt set: one entry per row, in the prompt set's order.

    Numbers are NaN in rows with problems; `PairResult` says what they are. A difference is that of the right and the
    wrong answers' means, of what the request's grad function reads off the logits.
    """

    request: CheckRequest
    problems: dict[int, list[str]]
    adapted: dict[str, str]
    clean_tokens: list[list[str]]
    corrupt_tokens: list[list[str]]
    probability: Float32[np.ndarray, " n"]
    difference_clean: Float32[np.ndarray, " n"]
    difference_corrupt: Float32[np.ndarray, " n"]
    rank: Float32[np.ndarray, " n"]
    right: Float32[np.ndarray, " n"]
    top_tokens: list[list[tuple[str, float]]]
    prepend_bos: bool
    card: ModelCard

    @property
    def results(self) -> dict[PromptPair, PairResult]:
        """The usable pairs with their numbers."""
        return {
            pair: PairResult(
                float(self.probability[row]),
                int(self.rank[row]),
                float(self.difference_clean[row]),
                float(self.difference_corrupt[row]),
                float(self.right[row]),
                tuple(self.top_tokens[row]),
            )
            for row, pair in enumerate(self.request.prompts.pairs)
            if row not in self.problems
        }


def check_prompts(request: CheckRequest, *, progress: Report = silent, cancelled: Cancelled = never) -> PromptReport:
    """Tokenize the prompts, say what is wrong in which row, and run the model once over the good ones."""
    with (
        models().use(request.model, request.device, request.dtype, progress, cancelled) as model,
        within_memory(model.device),
    ):
        return _report(model, request, progress, cancelled)


def _report(model: PatchableModel, request: CheckRequest, progress: Report, cancelled: Cancelled) -> PromptReport:
    import torch

    from circuit.engine.batches import by_batch
    from circuit.engine.dataset import AnswerTokens, PromptDataLoader
    from circuit.engine.loss import is_right, token_values

    bos = bos_of(model, request.prepend_bos)
    words = words_of(model)
    encoded = encode(request.prompts, words, bos, model.n_ctx)
    n = len(request.prompts)
    columns = {
        name: np.full(n, np.nan, dtype=np.float32) for name in ("probability", "clean", "corrupt", "rank", "right")
    }
    top: list[list[tuple[str, float]]] = [[] for _ in range(n)]
    if encoded.usable:
        # Small on a CPU, which gains nothing by more, so that a cancel is quick.
        loader = PromptDataLoader(encoded.dataset(), batch_size=8 if model.device.type == "cpu" else 64)
        steps = Progress(len(loader), progress, cancelled)

        @torch.no_grad()
        def look(batch: PromptPairBatch) -> tuple[dict[str, Tensor], list[tuple[list[int], list[float]]]]:
            """The batch's numbers, and for each prompt the likeliest tokens with their probabilities."""
            steps.check()
            clean = model.logits(batch.clean, batch.last).float()
            corrupt = model.logits(batch.corrupt, batch.last).float()
            probabilities = clean.softmax(-1)
            answers = batch.answers
            assert isinstance(answers, AnswerTokens)
            found = {
                "probability": answers.sum(probabilities),
                "rank": (clean > answers.largest(clean)[:, None]).sum(-1) + 1,
                "right": is_right(clean, batch),
            }
            for name, logits in (("clean", clean), ("corrupt", corrupt)):
                values = token_values(logits, request.grad_function)
                found[name] = answers.mean(values) - batch.wrong_answers.mean(values)
            likeliest, tokens = probabilities.topk(min(5, probabilities.shape[-1]))
            return found, list(zip(tokens.tolist(), likeliest.tolist(), strict=True))

        for batch, (found, likeliest) in by_batch(model, loader, look, steps, steps_a_batch=1):
            rows = [encoded.usable[row] for row in batch.rows]
            for name, values in found.items():
                columns[name][rows] = values.cpu().numpy()
            for row, (ids, shares) in zip(rows, likeliest, strict=True):
                top[row] = [(words.piece(i), share) for i, share in zip(ids, shares, strict=True)]
            steps.advance(f"{batch.rows.stop} of {len(encoded.usable)} pairs")
    return PromptReport(
        request,
        encoded.problems,
        encoded.adapted,
        [[words.piece(token) for token in row] for row in encoded.clean],
        [[words.piece(token) for token in row] for row in encoded.corrupt],
        columns["probability"],
        columns["clean"],
        columns["corrupt"],
        columns["rank"],
        columns["right"],
        top,
        bos,
        model_card(request.model, model),
    )
