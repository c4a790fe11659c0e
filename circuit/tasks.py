"""The app's jobs: functions of plain settings that run where the models are.

    describe_model    load a model -> what it is
    check_prompts     tokens, problems, and how the model does on every pair
    attribute         scores of every edge -> Run
    measure_circuits  what is left of the task when only a circuit's edges are kept

    run = attribute(RunConfig("smollm2-135m", PRESETS["ioi"].prompts), progress=print)

Each takes a request, a `progress(step, total, message)` callback and a `cancelled()` check, and knows neither Streamlit
nor Dask: the same function runs in a test, in a script, and on a worker. The web process imports this file to name the
functions, so everything that needs torch is imported inside them.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from circuit.errors import CircuitError, PromptError
from circuit.method import AblationType, PatchType, Precision
from circuit.model_store import ModelStore
from circuit.models import ModelCard, model_card
from circuit.progress import Cancelled, Progress, Report
from circuit.prompts import Encoded, PromptSet, encode
from circuit.runs import Baseline, Run, RunConfig

if TYPE_CHECKING:
    from torch import Tensor

    from circuit.dataset import PromptDataset, PromptPairBatch
    from circuit.patchable import PatchableModel


@cache
def models() -> ModelStore:
    """The models of this process, shared by all jobs that run in it."""
    return ModelStore()


def _silent(step: int, total: int, message: str = "") -> None: ...


def _never() -> bool:
    return False


# --- models --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelRequest:
    """A model to load."""

    model: str
    dtype: Precision = "auto"
    device: str = "auto"


def describe_model(request: ModelRequest, *, progress: Report = _silent, cancelled: Cancelled = _never) -> ModelCard:
    """Load a model, so that it is there for the next job, and say what it is."""
    with models().use(request.model, request.device, request.dtype, progress, cancelled) as model:
        return model_card(request.model, model)


# --- prompts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CheckRequest:
    """Prompts to check against a model."""

    model: str
    prompts: PromptSet
    dtype: Precision = "auto"
    device: str = "auto"
    prepend_bos: bool | None = None


@dataclass
class PromptReport:
    """What a model makes of a prompt set: one entry a row, in the prompt set's order.

    Numbers are NaN in rows with problems. `difference` is the mean logit of the right answers minus that of the wrong
    ones; `rank` is that of the best right answer among all tokens, 1 being the model's own choice.
    """

    problems: dict[int, list[str]]
    adapted: dict[str, str]
    clean_tokens: list[list[str]]
    corrupt_tokens: list[list[str]]
    probability: Float32[np.ndarray, " n"]
    difference_clean: Float32[np.ndarray, " n"]
    difference_corrupt: Float32[np.ndarray, " n"]
    rank: Float32[np.ndarray, " n"]
    top_tokens: list[list[tuple[str, float]]]
    prepend_bos: bool
    card: ModelCard


def check_prompts(request: CheckRequest, *, progress: Report = _silent, cancelled: Cancelled = _never) -> PromptReport:
    """Tokenize the prompts, say what is wrong in which row, and run the model once over the good ones."""
    with models().use(request.model, request.device, request.dtype, progress, cancelled) as model:
        return _report(model, request, progress, cancelled)


def _report(model: PatchableModel, request: CheckRequest, progress: Report, cancelled: Cancelled) -> PromptReport:
    import torch

    from circuit.dataset import AnswerTokens, PromptDataLoader

    bos = _bos(model, request)
    encoded = encode(request.prompts, model.tokenizer, bos, model.n_ctx)
    n = len(request.prompts)
    columns = {name: np.full(n, np.nan, dtype=np.float32) for name in ("probability", "clean", "corrupt", "rank")}
    top: list[list[tuple[str, float]]] = [[] for _ in range(n)]
    if encoded.usable:
        loader = PromptDataLoader(encoded.dataset(), batch_size=16)
        steps = Progress(len(loader), progress, cancelled)
        for batch in loader:
            steps.check()
            batch = batch.to(model.device)
            rows = [encoded.usable[row] for row in batch.rows]
            with torch.no_grad():
                clean = model.logits(batch.clean, batch.last).float()
                corrupt = model.logits(batch.corrupt, batch.last).float()
            probabilities = clean.softmax(-1)
            answers = batch.answers
            assert isinstance(answers, AnswerTokens)
            best = clean.gather(-1, answers.tokens).masked_fill(~answers.real, -torch.inf).amax(-1, keepdim=True)
            total = probabilities.gather(-1, answers.tokens).masked_fill(~answers.real, 0).sum(-1)
            columns["probability"][rows] = total.cpu().numpy()
            columns["rank"][rows] = ((clean > best).sum(-1) + 1).cpu().numpy()
            for name, logits in (("clean", clean), ("corrupt", corrupt)):
                columns[name][rows] = (answers.mean(logits) - batch.wrong_answers.mean(logits)).cpu().numpy()
            values, tokens = probabilities.topk(5)
            for row, ids, shares in zip(rows, tokens.tolist(), values.tolist(), strict=True):
                top[row] = [(model.tokenizer.decode([i]), share) for i, share in zip(ids, shares, strict=True)]
            steps.advance(f"{batch.rows.stop} of {len(encoded.usable)} pairs")
    return PromptReport(
        encoded.problems,
        encoded.adapted,
        _pieces(model, encoded.clean),
        _pieces(model, encoded.corrupt),
        columns["probability"],
        columns["clean"],
        columns["corrupt"],
        columns["rank"],
        top,
        bos,
        model_card(request.model, model),
    )


def _pieces(model: PatchableModel, rows: list[list[int]]) -> list[list[str]]:
    return [[model.tokenizer.decode([token]) for token in row] for row in rows]


# --- attribution ---------------------------------------------------------------------------------------------------


def attribute(config: RunConfig, *, progress: Report = _silent, cancelled: Cancelled = _never) -> Run:
    """Score every edge.

    Raises:
        CircuitError: One of its kinds, with a sentence, when the model, the prompts or the options cannot be used.
    """
    from circuit.dataset import PromptDataLoader
    from circuit.mask_gradient import score_edges

    began = time.perf_counter()
    with _prepared(config, progress, cancelled) as (model, encoded, dataset):
        loaded = time.perf_counter()
        loader = PromptDataLoader(dataset, config.batch_size)
        baseline = _baseline(model, config, dataset)
        scores = score_edges(model, loader, config.method, progress, cancelled)
        card = model_card(config.model, model)
    finished = time.perf_counter()
    return Run(
        config,
        model.graph,
        model.graph.flatten(scores),
        baseline,
        encoded.usable,
        {
            "model": card.title,
            "parameters": card.parameters,
            "dtype": card.dtype,
            "device": card.device,
            "prepend_bos": _bos(model, config),
            "seconds_loading": round(loaded - began, 3),
            "seconds": round(finished - loaded, 3),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "transformers", "transformer-lens")},
            },
        },
    )


@contextmanager
def _prepared(
    config: RunConfig, progress: Report, cancelled: Cancelled
) -> Iterator[tuple[PatchableModel, Encoded, PromptDataset]]:
    """The model of a run, held while it is used, and the run's prompts as its tokens."""
    from circuit.objective import check_answers

    with models().use(config.model, config.device, config.dtype, progress, cancelled) as model, _readable_memory():
        encoded = encode(config.prompts, model.tokenizer, _bos(model, config), model.n_ctx)
        dataset = encoded.dataset()
        check_answers(dataset, config.method.answer_function)
        if config.keep_positions:
            lengths = dataset.lengths
            for row, length in zip(dataset.numbers, lengths, strict=True):
                if length != lengths[0]:
                    raise PromptError(
                        f"Row {row} has {length} tokens and row {dataset.numbers[0]} has {lengths[0]}: token "
                        "positions can be kept apart only where all prompts have the same number of tokens."
                    )
            model = model.with_seq_len(lengths[0])
        yield model, encoded, dataset


def _bos(model: PatchableModel, request: CheckRequest | RunConfig) -> bool:
    return model.prepend_bos if request.prepend_bos is None else request.prepend_bos


def _baseline(model: PatchableModel, config: RunConfig, dataset: PromptDataset) -> Baseline:
    """Two plain forward passes over the prompts."""
    import torch

    from circuit.dataset import PromptDataLoader

    values: dict[str, list[np.ndarray]] = {"clean": [], "corrupt": []}
    right: list[np.ndarray] = []
    for batch in PromptDataLoader(dataset, batch_size=16):
        batch = batch.to(model.device)
        with torch.no_grad():
            clean = model.logits(batch.clean, batch.last)
            corrupt = model.logits(batch.corrupt, batch.last)
        values["clean"].append(_answer_values(clean, batch, config))
        values["corrupt"].append(_answer_values(corrupt, batch, config))
        right.append(_is_right(clean, batch))
    means = {name: float(np.concatenate(parts).mean()) for name, parts in values.items()}
    return Baseline(means["clean"], means["corrupt"], float(np.concatenate(right).mean()))


def _answer_values(logits: Tensor, batch: PromptPairBatch, config: RunConfig) -> np.ndarray:
    from circuit.objective import answer_values, token_values

    values = token_values(logits, config.method.grad_function)
    return answer_values(values, batch, config.method.answer_function).cpu().numpy()


def _is_right(logits: Tensor, batch: PromptPairBatch) -> np.ndarray:
    """1.0 where every right answer is above every wrong one, 0.0 where not, NaN where there is no wrong answer."""
    import torch

    from circuit.dataset import AnswerTokens

    answers, wrong = batch.answers, batch.wrong_answers
    assert isinstance(answers, AnswerTokens)
    if not wrong.real.any(-1).all():
        return np.full(len(batch), np.nan)
    logits = logits.float()
    lowest = logits.gather(-1, answers.tokens).masked_fill(~answers.real, torch.inf).amin(-1)
    highest = logits.gather(-1, wrong.tokens).masked_fill(~wrong.real, -torch.inf).amax(-1)
    return (lowest > highest).float().cpu().numpy()


# --- circuits ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeasureRequest:
    """Circuits of a run to measure: the `sizes[i]` edges of largest absolute score, everything else ablated.

    Corrupt activations replace what is ablated, where the ablation reads the batch.
    """

    config: RunConfig
    scores: Float32[np.ndarray, " n_edges"]
    sizes: tuple[int, ...]
    ablation_type: AblationType = AblationType.RESAMPLE


@dataclass
class CircuitMeasurement:
    """One circuit on the run's prompts: answer value (the method's grad and answer function) and accuracy a prompt."""

    n_edges: int
    values: Float32[np.ndarray, " n"]
    right: Float32[np.ndarray, " n"]

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


def measure_circuits(
    request: MeasureRequest, *, progress: Report = _silent, cancelled: Cancelled = _never
) -> dict[int, CircuitMeasurement]:
    """Run circuits of several sizes over the run's prompts; 0 is the fully ablated model, n_edges the whole one."""
    from circuit.dataset import PromptDataLoader
    from circuit.faithfulness import run_circuits

    config = request.config
    with _prepared(config, progress, cancelled) as (model, _, dataset):
        loader = PromptDataLoader(dataset, config.batch_size)
        scores: dict[str, Any] = model.graph.unflatten(request.scores)
        outputs = run_circuits(
            model,
            loader,
            request.sizes,
            scores,
            PatchType.TREE_PATCH,
            request.ablation_type,
            progress=progress,
            cancelled=cancelled,
        )
    whole = dataset.batch(range(len(dataset)))
    return {
        size: CircuitMeasurement(size, _answer_values(logits, whole, config), _is_right(logits, whole))
        for size, logits in outputs.items()
    }


@contextmanager
def _readable_memory() -> Iterator[None]:
    """Turn running out of memory into a sentence, and give back what was held."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise CircuitError(
            "The device ran out of memory. Choose a smaller batch size, shorter prompts, or a smaller model."
        ) from error
