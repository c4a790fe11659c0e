"""The app's jobs: functions of plain settings that run where the models are.

    describe_model    load a model -> what it is
    read_tokenizer    its tokenizer alone, for the web process to check prompts with
    check_prompts     tokens, problems, and how the model does on every pair
    attribute         scores of every edge -> Run
    attribute_part    the same of a part of the prompts or sample points: parts add up (`circuit.sharding`)
    measure_effects   what ablating some edges, one at a time, really does
    read_attention    the attention pattern of a head on one prompt pair

    run = attribute(RunConfig("smollm2-135m", PRESETS["ioi"].prompts), progress=print)    # circuit.presets

Each takes a request, a `progress(step, total, message)` callback and a `cancelled()` check, and knows neither Streamlit
nor Dask: the same function runs in a test, in a script, and on a worker. The web process imports this file to name the
functions, so everything that needs torch is imported inside them.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float32

from circuit.errors import CircuitError, PromptError
from circuit.estimate import BASELINE_BATCH
from circuit.method import AblationType, GradFunction, Precision
from circuit.model_identity import model_identity
from circuit.model_store import ModelStore
from circuit.models import ModelCard, load_tokenizer, model_card
from circuit.notes import collected
from circuit.progress import Cancelled, Progress, Report
from circuit.prompts import Encoded, PromptPair, PromptSet, encode
from circuit.runs import Baseline, Run, RunConfig
from circuit.sanity import PairResult
from circuit.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from torch import Tensor, device

    from circuit.dataset import PromptDataLoader, PromptDataset, PromptPairBatch
    from circuit.patchable import PatchableModel

T = TypeVar("T")


@cache
def models() -> ModelStore:
    """The models of this process, shared by all jobs that run in it."""
    return ModelStore()


def silent(step: int, total: int, message: str = "") -> None: ...


def never() -> bool:
    return False


# --- models --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelRequest:
    """A model to load."""

    model: str
    dtype: Precision = "auto"
    device: str = "auto"


def describe_model(request: ModelRequest, *, progress: Report = silent, cancelled: Cancelled = never) -> ModelCard:
    """Load a model, so that it is there for the next job, and say what it is."""
    with models().use(request.model, request.device, request.dtype, progress, cancelled) as model:
        return model_card(request.model, model)


def read_tokenizer(
    request: ModelRequest, *, progress: Report = silent, cancelled: Cancelled = never
) -> PromptTokenizer:
    """Read a model's tokenizer, without loading its weights."""
    return load_tokenizer(request.model, progress, cancelled)


# --- prompts -------------------------------------------------------------------------------------------------------


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
    """What a model makes of a prompt set: one entry a row, in the prompt set's order.

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

    from circuit.dataset import AnswerTokens, PromptDataLoader
    from circuit.memory import by_batch
    from circuit.objective import is_right, token_values

    bos = _bos(model, request)
    words = PromptTokenizer.of(model.tokenizer)
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


def _pieces(model: PatchableModel, rows: list[list[int]]) -> list[list[str]]:
    tokenizer = PromptTokenizer.of(model.tokenizer)
    return [[tokenizer.piece(token) for token in row] for row in rows]


# --- attribution ---------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """The part `number`, from 0, of `of` parts that are as equal as can be."""

    number: int = 0
    of: int = 1

    def among(self, things: Sequence[T], unit: int = 1) -> Sequence[T]:
        """This part of `things`, cut only between units of so many."""
        n = -(-len(things) // unit)
        start, stop = (n * end // self.of * unit for end in (self.number, self.number + 1))
        return things[start:stop]


WHOLE = Part()


@dataclass(frozen=True)
class RunPart:
    """A part of a run: of its scored prompts, or of its sample points."""

    config: RunConfig
    prompts: Part = WHOLE
    points: Part = WHOLE


def attribute(config: RunConfig, *, progress: Report = silent, cancelled: Cancelled = never) -> Run:
    """Score every edge.

    Raises:
        CircuitError: One of its kinds, with a sentence, when the model, the prompts or the options cannot be used.
    """
    return attribute_part(RunPart(config), progress=progress, cancelled=cancelled)


def attribute_part(request: RunPart, *, progress: Report = silent, cancelled: Cancelled = never) -> Run:
    """The part's share of a run: scores and baselines of all parts add up to the whole run's; all else is the same.

    A mean that an ablation takes over the prompts is over those of the whole run.
    """
    from circuit.mask_gradient import score_edges

    config = request.config
    began = time.perf_counter()
    with prepared(config, progress, cancelled) as (model, encoded, dataset), collected() as notes:
        loaded = time.perf_counter()
        loader = part_of(dataset, config, config.method.ablation_type, request.prompts)
        points = request.points.among(config.method.points)
        baseline = _baseline(model, config, loader).share(1 / request.points.of)
        scores = score_edges(model, loader, config.method, progress, cancelled, points=points)
        card = model_card(config.model, model)
        tokens = _pieces(model, [encoded.clean[encoded.usable[0]]])[0] if config.keep_positions else None
        scored, held_out = config.split(encoded.usable)
    finished = time.perf_counter()
    return Run(
        config,
        model.graph,
        model.graph.flatten(scores),
        baseline,
        scored,
        {
            "model": card.title,
            "weights": model_identity(config.model),
            "parameters": card.parameters,
            "dtype": card.dtype,
            "device": card.device,
            "device_name": _device_name(card.device),
            "prepend_bos": _bos(model, config),
            **({} if tokens is None else {"tokens": tokens}),
            **({} if not notes else {"notes": notes}),
            "seconds_loading": round(loaded - began, 3),
            "seconds": round(finished - loaded, 3),
            "date": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in _VERSIONS},
            },
        },
        held_out_rows=held_out,
    )


def part_of(dataset: PromptDataset, config: RunConfig, ablation_type: AblationType, part: Part) -> PromptDataLoader:
    """The part's prompts in batches of the run. Where results depend on the batches, these are not cut."""
    from circuit.dataset import PromptDataLoader

    unit = (config.batch_size or 1) if ablation_type.needs_batch_size else 1
    rows = part.among(range(len(dataset)), unit)
    assert isinstance(rows, range)
    return PromptDataLoader(dataset, config.batch_size, rows)


_VERSIONS = ("torch", "transformers", "transformer-lens", "tokenizers", "numpy", "safetensors")
"""Packages that scores can depend on."""


def _device_name(device: str) -> str:
    """The kind of GPU, or of processor."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()


@contextmanager
def prepared(
    config: RunConfig, progress: Report, cancelled: Cancelled, rows: Sequence[int] | None = None
) -> Iterator[tuple[PatchableModel, Encoded, PromptDataset]]:
    """The model of a run, held while it is used, and the run's prompts as its tokens: the scored ones, or `rows`."""
    from circuit.dataset import check_one_length
    from circuit.objective import check_answers

    with (
        models().use(config.model, config.device, config.dtype, progress, cancelled) as model,
        within_memory(model.device),
    ):
        encoded = encode(config.prompts, model.tokenizer, _bos(model, config), model.n_ctx)
        dataset = encoded.dataset(config.split(encoded.usable)[0] if rows is None else rows)
        check_answers(dataset, config.method.answer_function)
        if config.keep_positions:
            # Held-out pairs too: circuits are measured on them, edge by edge of the scored ones' positions.
            check_one_length(
                [encoded.dataset(some) for some in config.split(encoded.usable) if some],
                "token positions can be kept apart only where all prompts, held-out ones included, have the same "
                "number of tokens.",
            )
            model = model.with_seq_len(dataset.lengths[0])
        yield model, encoded, dataset


def _bos(model: PatchableModel, request: CheckRequest | RunConfig) -> bool:
    return model.prepend_bos if request.prepend_bos is None else request.prepend_bos


def _baseline(model: PatchableModel, config: RunConfig, loader: PromptDataLoader) -> Baseline:
    """Two plain forward passes over the loader's prompts: their share of the means over all prompts."""
    import torch

    from circuit.memory import by_batch
    from circuit.objective import is_right

    @torch.no_grad()
    def values(batch: PromptPairBatch) -> np.ndarray:
        clean = model.logits(batch.clean, batch.last)
        corrupt = model.logits(batch.corrupt, batch.last)
        right = is_right(clean, batch).cpu().numpy()
        return np.stack([_answer_values(clean, batch, config), _answer_values(corrupt, batch, config), right])

    parts = [found for _, found in by_batch(model, loader.with_batch_size(BASELINE_BATCH), values)]
    sums = np.concatenate([np.zeros((3, 0)), *parts], axis=1).sum(axis=1)
    return Baseline(*(sums / len(loader.dataset)).tolist())


def _answer_values(logits: Tensor, batch: PromptPairBatch, config: RunConfig) -> np.ndarray:
    from circuit.objective import prompt_values

    return prompt_values(logits, batch, config.method.grad_function, config.method.answer_function).cpu().numpy()


# --- single edges and heads ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EffectsRequest:
    """Edges of a run to ablate one at a time, by number; on a part of its prompts, the part's share of the effects."""

    config: RunConfig
    edges: tuple[int, ...]
    prompts: Part = WHOLE


def measure_effects(
    request: EffectsRequest, *, progress: Report = silent, cancelled: Cancelled = never
) -> dict[int, float]:
    """For every edge the rise of the run's loss, mean over its prompts, when that edge alone is ablated."""
    from circuit.effects import edge_effects

    config = request.config
    with prepared(config, progress, cancelled) as (model, _, dataset):
        loader = part_of(dataset, config, config.method.ablation_type, request.prompts)
        return edge_effects(model, loader, request.edges, config.method, progress=progress, cancelled=cancelled)


@dataclass(frozen=True)
class AttentionRequest:
    """A head, and a row of the run's prompt set, counted from 0."""

    config: RunConfig
    row: int
    layer: int
    head: int


@dataclass
class AttentionPair:
    """A head's attention on the clean and on the corrupt prompt: a row a query position, a column a key position."""

    clean_tokens: list[str]
    corrupt_tokens: list[str]
    clean: Float32[np.ndarray, "pos pos"]
    corrupt: Float32[np.ndarray, "pos pos"]


def read_attention(
    request: AttentionRequest, *, progress: Report = silent, cancelled: Cancelled = never
) -> AttentionPair:
    """The attention pattern of a head on one prompt pair."""
    import torch

    from circuit.attention import attention_patterns

    with prepared(request.config, progress, cancelled) as (model, encoded, _):
        if request.row not in encoded.usable:
            raise PromptError(f"Row {request.row + 1} cannot be used: choose another prompt.")
        pair = [encoded.clean[request.row], encoded.corrupt[request.row]]
        patterns = attention_patterns(model, torch.tensor(pair, device=model.device), request.layer, request.head)
        (clean_tokens, corrupt_tokens), (clean, corrupt) = _pieces(model, pair), patterns.numpy()
        return AttentionPair(clean_tokens, corrupt_tokens, clean, corrupt)


@contextmanager
def within_memory(target: device) -> Iterator[None]:
    """Keep within what this process may use; turn running out of memory, where nobody could do with less, into a
    sentence; and give back what was held."""
    from circuit.memory import is_out_of_memory, release, within_budget

    failed = False
    with within_budget(target):
        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failed = True
    if failed:  # past the error, whose frames hold what did not fit
        release(target)
        raise CircuitError(
            "The device ran out of memory. Choose a smaller batch size, shorter prompts, or a smaller model."
        )
