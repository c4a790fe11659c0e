"""How long attribution takes, and how much memory, beside the passes that nobody can avoid.

    python -m benchmarks.attribution                                    SmolLM2-135M and a GPT-2-small shape, on the CPU
    python -m benchmarks.attribution --case smollm2-8x128 --repeats 5
    python -m benchmarks.attribution --markdown >> benchmarks/RESULTS.md

The floor of n sample points is, on the same batch and the same weights,

    one forward pass on the corrupt prompts, and per point one forward pass on the clean ones and one backward pass
    from the answer difference to the embedding, without gradients of weights

through the plain Hugging Face model with its default attention (sdpa), no cache, and only the last position's logits.
These are read off the last hidden states cut to one position first: with `logits_to_keep=1`, Hugging Face multiplies a
strided slice, for which PyTorch copies the whole unembedding, and a floor with that copy would flatter the engine.
TransformerLens has no part in it. Edge attribution patching (EAP) has one point, integrated gradients (IG) has five.
EAP is also measured with token positions kept apart, with scores a prompt, and by other backward rules; IG also over
the model's inputs instead of masks.

Clean and corrupt prompts are random tokens, different from the first on: the most work there can be. Where a case says
"same up to 9", they are the same before position 9, as prompts of the IOI preset are, and nothing can score there.

Where the engine's matrix products are not PyTorch's own (see `circuit.engine.matmul`), the plain model's passes are
also timed with the engine's products: a second floor, which shows what attribution itself costs beside the passes.

Floors and engine alternate in one process, and ratios are taken of each neighbouring pair, so that whatever else the
machine does falls on all. Memory is measured apart, in a fresh process each: on the CPU the growth of the resident set
over its size with the model loaded, sampled every millisecond; on a GPU the growth of what PyTorch has allocated.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import gc
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, get_args

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from benchmarks.resident_set import ResidentSet
from circuit.edges.method import Method
from circuit.engine.dataset import PromptDataLoader, PromptDataset
from circuit.engine.mask_gradient import prompt_scores, score_edges
from circuit.engine.matmul import linear_layers, quick_linears
from circuit.engine.model import PatchableModel
from circuit.engine.score_product import precision
from circuit.models.load import load_model, wrap

Precision = Literal["float32", "bfloat16", "float16"]
METHODS = {
    "EAP": Method(),
    "IG, 5 points": Method(mask_val=None, integrated_grad_samples=4),  # the reference rule takes 0/4, 1/4, ..., 4/4
    "EAP, positions apart": Method(),
    "EAP, per prompt": Method(),
    "EAP, RelP": Method(backward="relp"),
    "EAP, GIM": Method(backward="gim"),
    "EAP, linear MLPs, GIM attention": Method(backward="linear-mlp+gim-attention"),
    "Inputs, 5 points": Method(mask_val=None, integrated_grad_samples=5, integration_rule="midpoint", path="inputs"),
}
SHAPES = {
    "GPT-2-small shape": GPT2Config(),
    "1B Llama shape": LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        vocab_size=128256,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    ),
}
"""Models with random weights, since no time depends on them."""


@dataclass(frozen=True)
class Case:
    """A model and a size of batch. The pairs are random tokens, the same before position `same_up_to`."""

    model: str
    n_pairs: int
    n_tokens: int
    same_up_to: int = 0

    def __str__(self) -> str:
        same = f", same up to {self.same_up_to}" if self.same_up_to else ""
        return f"{self.model}, {self.n_pairs} x {self.n_tokens}{same}"

    def load(self, device: str, dtype: Precision) -> PatchableModel:
        if self.model == "SmolLM2-135M":
            return load_model("smollm2-135m", device=device, dtype=dtype)
        torch.manual_seed(0)
        hf_model = AutoModelForCausalLM.from_config(
            SHAPES[self.model], attn_implementation="eager", dtype=getattr(torch, dtype)
        )
        with tempfile.TemporaryDirectory() as folder:  # TransformerLens reads a tokenizer from a folder
            words = Tokenizer(WordLevel({"word": 0}, unk_token="word"))
            PreTrainedTokenizerFast(tokenizer_object=words, bos_token="word").save_pretrained(folder)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
            return wrap(hf_model.eval().to(device), tokenizer)

    def prompts(self, d_vocab: int) -> PromptDataset:
        generator = torch.Generator().manual_seed(0)

        def tokens(*shape: int) -> torch.Tensor:
            return torch.randint(d_vocab, shape, generator=generator)

        clean, corrupt = tokens(2, self.n_pairs, self.n_tokens)
        corrupt[:, : self.same_up_to] = clean[:, : self.same_up_to]
        return PromptDataset(clean, corrupt, tokens(self.n_pairs, 1), tokens(self.n_pairs, 1))


CASES = {
    "smollm2": Case("SmolLM2-135M", 8, 14),
    "smollm2-ioi": Case("SmolLM2-135M", 8, 14, same_up_to=9),
    "gpt2": Case("GPT-2-small shape", 8, 15),
    "smollm2-32x14": Case("SmolLM2-135M", 32, 14),
    "smollm2-8x128": Case("SmolLM2-135M", 8, 128),
    "smollm2-1x1024": Case("SmolLM2-135M", 1, 1024),
    "llama-1b": Case("1B Llama shape", 8, 14),
}


def engine(model: PatchableModel, prompts: PromptDataset, method: str) -> None:
    """The engine's scores of every edge."""
    if method == "EAP, positions apart":
        model = model.with_seq_len(prompts.lengths[0])
    score = prompt_scores if method == "EAP, per prompt" else score_edges
    loader = PromptDataLoader(prompts, batch_size=len(prompts))
    score(model, loader, METHODS[method])


def floor(plain: Any, prompts: PromptDataset, method: str) -> None:
    """The passes that nobody can avoid."""
    batch = prompts.batch(range(len(prompts))).to(plain.device)
    with torch.no_grad():
        last_logits(plain, input_ids=batch.corrupt)
    for _ in METHODS[method].points:
        embedding = plain.get_input_embeddings()(batch.clean).detach().requires_grad_()
        logits = last_logits(plain, inputs_embeds=embedding)
        difference = batch.answers.mean(logits) - batch.wrong_answers.mean(logits)
        torch.autograd.grad(-difference.mean(), embedding)


def last_logits(plain: Any, **inputs: torch.Tensor) -> Any:
    """Logits after the last token, [batch, d_vocab], as quickly as the plain model has them."""
    hidden = plain.base_model(**inputs, use_cache=False).last_hidden_state
    return plain.get_output_embeddings()(hidden[:, -1])


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
        theirs = last_logits(plain, input_ids=batch.clean)
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    if (ours - theirs).abs().max() > tolerance * theirs.abs().max():
        raise SystemExit("The plain model and the engine's model differ: nothing was measured.")


@dataclass
class Row:
    """One line of the table. Seconds are medians; ratios are quartiles over the pairs; memory is in bytes.

    `same_...` is the floor by the engine's matrix products."""

    case: Case
    method: str
    floor_seconds: float
    engine_seconds: float
    ratios: list[float]
    same_seconds: float
    same_ratios: list[float]
    floor_bytes: int
    engine_bytes: int
    differences_bytes: int

    HEADER = (
        "case", "method", "floor", "engine", "ratio (quartiles)", "floor, engine's products", "ratio to it",
        "floor's memory", "engine's memory", "of it source differences",
    )  # fmt: skip

    def cells(self) -> list[str]:
        floor, engine, same = (f"{n:.3f} s" for n in (self.floor_seconds, self.engine_seconds, self.same_seconds))
        ratio, same_ratio = (f"{x[1]:.2f} ({x[0]:.2f} - {x[2]:.2f})" for x in (self.ratios, self.same_ratios))
        megabytes = [f"{n / 1e6:.0f} MB" for n in (self.floor_bytes, self.engine_bytes, self.differences_bytes)]
        return [str(self.case), self.method, floor, engine, ratio, same, same_ratio, *megabytes]


def measure(case: Case, methods: Sequence[str], repeats: int, device: str, dtype: Precision) -> list[Row]:
    """A row for each method."""
    model = case.load(device, dtype)
    prompts = case.prompts(model.d_vocab)
    plain = plain_model(model)
    check_same(model, plain, prompts)
    differences = precision(model).itemsize * model.graph.n_sources * model.d_model * case.n_pairs * case.n_tokens
    layers = linear_layers(plain)
    times: dict[str, list[tuple[float, float, float]]] = {method: [] for method in methods}
    for repeat in range(repeats + 1):
        for method in methods:
            of_floor = seconds(floor, plain, prompts, method)
            of_engine = seconds(engine, model, prompts, method)
            with quick_linears(layers):
                of_same = seconds(floor, plain, prompts, method)
            if repeat > 0:  # the first warms up
                times[method].append((of_floor, of_engine, of_same))
    del model, plain, layers
    rows = []
    for method, runs in times.items():
        floors, engines, same = zip(*runs, strict=True)
        row = Row(
            case,
            method,
            floor_seconds=statistics.median(floors),
            engine_seconds=statistics.median(engines),
            ratios=quartiles([engine / floor for floor, engine, _ in runs]),
            same_seconds=statistics.median(same),
            same_ratios=quartiles([engine / same for _, engine, same in runs]),
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
    run(model, Case(case.model, 1, 2).prompts(d_vocab), "EAP")  # warms up
    if device == "cuda":
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(model, prompts, method)
        return torch.cuda.max_memory_allocated() - before
    with ResidentSet() as resident:
        run(model, prompts, method)
    return resident.growth


def machine(device: str, dtype: Precision) -> str:
    """One line that says what the numbers belong to."""
    where = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, no GPU used"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "transformer-lens"))
    return (
        f"{datetime.date.today()}: {os.cpu_count()} CPU cores, {torch.get_num_threads()} torch threads, {where}, "
        f"{dtype}; {versions}"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    lines = [header, *rows]
    if markdown:
        lines.insert(1, ["---"] * len(header))
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=[*CASES, "all"], default=["smollm2", "gpt2"])
    parser.add_argument("--method", nargs="+", choices=list(METHODS), default=list(METHODS)[:2])
    parser.add_argument("--repeats", type=int, default=11, help="pairs of runs each ratio is the median of")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=get_args(Precision), default="float32")
    parser.add_argument("--markdown", action="store_true", help="print rows for RESULTS.md")
    arguments = parser.parse_args()
    disable_progress_bar()
    names = list(CASES) if "all" in arguments.case else arguments.case
    options = arguments.method, arguments.repeats, arguments.device, arguments.dtype
    rows = [row for name in names for row in measure(CASES[name], *options)]
    note = "Memory: peak growth of the resident set in a process of its own, the model not counted."
    if arguments.device == "cuda":
        note = "Memory: peak growth of what PyTorch allocated on the GPU, the model not counted."
    print(f"{machine(arguments.device, arguments.dtype)}; {arguments.repeats} pairs of runs.\n{note}\n")
    print(table(Row.HEADER, [row.cells() for row in rows], arguments.markdown))


if __name__ == "__main__":
    main()
