"""How long attribution takes, and how much memory, beside the passes that nobody can avoid.

    python -m benchmarks.attribution                                    SmolLM2-135M and a GPT-2-small shape, on the CPU
    python -m benchmarks.attribution --case smollm2-8x128 --repeats 5
    python -m benchmarks.attribution --markdown >> benchmarks/RESULTS.md

The floor of n sample points is, on the same batch and the same weights,

    one forward pass on the corrupt prompts, and per point one forward pass on the clean ones and one backward pass
    from the answer difference to the embedding, without gradients of weights

through the plain Hugging Face model with its default attention (sdpa), no cache, and only the last position's logits.
TransformerLens has no part in it. Edge attribution patching (EAP) has one point, integrated gradients (IG) has five.

Floor and engine alternate in one process, and the ratio is taken of each neighbouring pair, so that whatever else the
machine does falls on both. Memory is measured apart, in a fresh process each: on the CPU the growth of the resident set
over its size with the model loaded, sampled every millisecond; on a GPU the growth of what PyTorch has allocated.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import datetime
import gc
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, get_args

import psutil
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from circuit.dataset import PromptDataLoader, PromptDataset
from circuit.mask_gradient import mask_gradient_prune_scores
from circuit.models import load_model, wrap
from circuit.patchable import PatchableModel

Precision = Literal["float32", "bfloat16", "float16"]
IG_SAMPLES = 4  # the reference rule takes 0/4, 1/4, ..., 4/4
POINTS = {"EAP": 1, "IG": IG_SAMPLES + 1}


@dataclass(frozen=True)
class Case:
    """A model and a size of batch. Prompts are random tokens, since no time here depends on them."""

    model: str
    n_pairs: int
    n_tokens: int

    def __str__(self) -> str:
        return f"{self.model}, {self.n_pairs} x {self.n_tokens}"

    def load(self, device: str, dtype: Precision) -> PatchableModel:
        if self.model == "SmolLM2-135M":
            return load_model("smollm2-135m", device=device, dtype=dtype)
        torch.manual_seed(0)
        hf_model = AutoModelForCausalLM.from_config(GPT2Config(), attn_implementation="eager")
        with tempfile.TemporaryDirectory() as folder:  # TransformerLens reads a tokenizer from a folder
            words = Tokenizer(WordLevel({"word": 0}, unk_token="word"))
            PreTrainedTokenizerFast(tokenizer_object=words, bos_token="word").save_pretrained(folder)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
            return wrap(hf_model.eval().to(device, getattr(torch, dtype)), tokenizer)

    def prompts(self, d_vocab: int) -> PromptDataset:
        generator = torch.Generator().manual_seed(0)

        def tokens(*shape: int) -> torch.Tensor:
            return torch.randint(d_vocab, shape, generator=generator)

        shape = (self.n_pairs, self.n_tokens)
        return PromptDataset(tokens(*shape), tokens(*shape), tokens(self.n_pairs, 1), tokens(self.n_pairs, 1))


CASES = {
    "smollm2": Case("SmolLM2-135M", 8, 14),
    "gpt2": Case("GPT-2-small shape", 8, 15),
    "smollm2-32x14": Case("SmolLM2-135M", 32, 14),
    "smollm2-8x128": Case("SmolLM2-135M", 8, 128),
}


def engine(model: PatchableModel, prompts: PromptDataset, n_points: int) -> None:
    """The engine's scores of every edge, at one point or at five."""
    mask_val, samples = (0.0, None) if n_points == 1 else (None, IG_SAMPLES)
    loader = PromptDataLoader(prompts, batch_size=len(prompts))
    mask_gradient_prune_scores(model, loader, mask_val=mask_val, integrated_grad_samples=samples)


def floor(plain: Any, prompts: PromptDataset, n_points: int) -> None:
    """The passes that nobody can avoid."""
    batch = prompts.batch(range(len(prompts))).to(plain.device)
    with torch.no_grad():
        plain(input_ids=batch.corrupt, use_cache=False, logits_to_keep=1)
    for _ in range(n_points):
        embedding = plain.get_input_embeddings()(batch.clean).detach().requires_grad_()
        logits = plain(inputs_embeds=embedding, use_cache=False, logits_to_keep=1).logits[:, -1]
        difference = batch.answers.mean(logits) - batch.wrong_answers.mean(logits)
        torch.autograd.grad(-difference.mean(), embedding)


def plain_model(model: PatchableModel) -> Any:
    """The Hugging Face model under a PatchableModel, built anew with the same weights and no hooks."""
    wrapped = model.bridge.original_model
    plain = AutoModelForCausalLM.from_config(copy.deepcopy(wrapped.config), attn_implementation="sdpa")
    weights = {name.replace("._original_component", ""): value for name, value in wrapped.state_dict().items()}
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    return plain.eval().requires_grad_(False).to(model.device, model.dtype)


def check_same(model: PatchableModel, plain: Any, prompts: PromptDataset) -> None:
    """Stop where the floor is another model's."""
    batch = prompts.batch(range(1)).to(model.device)
    with torch.no_grad():
        ours = model.logits(batch.clean, batch.last)
        theirs = plain(input_ids=batch.clean, use_cache=False, logits_to_keep=1).logits[:, -1]
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    if (ours - theirs).abs().max() > tolerance * theirs.abs().max():
        raise SystemExit("The plain model and the engine's model differ: nothing was measured.")


@dataclass
class Row:
    """One line of the table. Seconds are medians; ratios are quartiles over the pairs; memory is in bytes."""

    case: Case
    method: str
    floor_seconds: float
    engine_seconds: float
    ratios: list[float]
    floor_bytes: int
    engine_bytes: int
    differences_bytes: int

    HEADER = (
        "case", "method", "floor", "engine", "ratio (quartiles)", "floor's memory", "engine's memory",
        "of it source differences",
    )  # fmt: skip

    def cells(self) -> list[str]:
        low, middle, high = self.ratios
        megabytes = [f"{n / 1e6:.0f} MB" for n in (self.floor_bytes, self.engine_bytes, self.differences_bytes)]
        seconds = [f"{self.floor_seconds:.3f} s", f"{self.engine_seconds:.3f} s"]
        points = POINTS[self.method]
        name = self.method if points == 1 else f"{self.method}, {points} points"
        return [str(self.case), name, *seconds, f"{middle:.2f} ({low:.2f} - {high:.2f})", *megabytes]


def measure(case: Case, repeats: int, device: str, dtype: Precision) -> list[Row]:
    """A row for each method."""
    model = case.load(device, dtype)
    prompts = case.prompts(model.d_vocab)
    plain = plain_model(model)
    check_same(model, plain, prompts)
    differences = 4 * model.graph.n_sources * model.d_model * case.n_pairs * case.n_tokens
    times: dict[str, list[tuple[float, float]]] = {method: [] for method in POINTS}
    for repeat in range(repeats + 1):
        for method, n_points in POINTS.items():
            pair = seconds(floor, plain, prompts, n_points), seconds(engine, model, prompts, n_points)
            if repeat > 0:  # the first warms up
                times[method].append(pair)
    del model, plain
    rows = []
    for method, pairs in times.items():
        floors, engines = zip(*pairs, strict=True)
        row = Row(
            case,
            method,
            floor_seconds=statistics.median(floors),
            engine_seconds=statistics.median(engines),
            ratios=quartiles([engine / floor for floor, engine in pairs]),
            floor_bytes=in_fresh_process(peak_memory, case, "floor", method, device, dtype),
            engine_bytes=in_fresh_process(peak_memory, case, "engine", method, device, dtype),
            differences_bytes=differences,
        )
        rows.append(row)
    return rows


def seconds(run: Callable[..., object], *arguments: Any) -> float:
    synchronize()
    start = time.perf_counter()
    run(*arguments)
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def in_fresh_process(function: Callable[..., int], *arguments: Any) -> int:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory(case: Case, name: str, method: str, device: str, dtype: Precision) -> int:
    """Bytes that one run of the floor or the engine takes at its peak, beside the model."""
    disable_progress_bar()
    model: Any = case.load(device, dtype)
    d_vocab = model.d_vocab
    prompts = case.prompts(d_vocab)
    if name == "floor":
        model = plain_model(model)
    run = floor if name == "floor" else engine
    run(model, Case(case.model, 1, 2).prompts(d_vocab), 1)  # warms up
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(model, prompts, POINTS[method])
        return torch.cuda.max_memory_allocated() - before
    give_back_freed_memory()
    with ResidentSet() as resident:
        run(model, prompts, POINTS[method])
    return resident.growth


def give_back_freed_memory() -> None:
    """What loading has freed would otherwise hide what the run takes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


class ResidentSet:
    """Peak growth of this process's resident set within a `with` block."""

    def __enter__(self) -> ResidentSet:
        self._process = psutil.Process()
        self._before = self._peak = self._process.memory_info().rss
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.001):
            self._peak = max(self._peak, self._process.memory_info().rss)

    @property
    def growth(self) -> int:
        return self._peak - self._before


def machine(device: str, dtype: Precision) -> str:
    """One line that says what the numbers belong to."""
    where = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, no GPU used"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "transformer-lens"))
    return (
        f"{datetime.date.today()}: {os.cpu_count()} CPU cores, {torch.get_num_threads()} torch threads, {where}, "
        f"{dtype}; {versions}"
    )


def table(rows: list[Row], markdown: bool) -> str:
    lines = [list(Row.HEADER), *(row.cells() for row in rows)]
    if markdown:
        lines.insert(1, ["---"] * len(Row.HEADER))
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    widths = [max(len(line[column]) for line in lines) for column in range(len(Row.HEADER))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=[*CASES, "all"], default=["smollm2", "gpt2"])
    parser.add_argument("--repeats", type=int, default=11, help="pairs of runs each ratio is the median of")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=get_args(Precision), default="float32")
    parser.add_argument("--markdown", action="store_true", help="print rows for RESULTS.md")
    arguments = parser.parse_args()
    disable_progress_bar()
    names = list(CASES) if "all" in arguments.case else arguments.case
    rows = [row for name in names for row in measure(CASES[name], arguments.repeats, arguments.device, arguments.dtype)]
    note = "Memory: peak growth of the resident set in a process of its own, the model not counted."
    if arguments.device == "cuda":
        note = "Memory: peak growth of what PyTorch allocated on the GPU, the model not counted."
    print(f"{machine(arguments.device, arguments.dtype)}; {arguments.repeats} pairs of runs.\n{note}\n")
    print(table(rows, arguments.markdown))


if __name__ == "__main__":
    main()
