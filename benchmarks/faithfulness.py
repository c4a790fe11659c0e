"""What a faithfulness curve costs, and what the curves of several methods are.

    python -m benchmarks.faithfulness                cost, in plain forward passes of the same prompts
    python -m benchmarks.faithfulness --methods      CPR, CMD and the edges needed for 90 %, for EAP, integrated
                                                     gradients by three rules, and random edges
    python -m benchmarks.faithfulness --methods --exact          and the exact number of edges, by bisection

Prompts are the preset `ioi-many` on SmolLM2-135M, half of them held out from the scores and measured on; with
`--model teaching`, the teaching model's. A plain forward pass is that of the Hugging Face model with its default
attention on the clean prompts measured, in the same batches, with only the last logits. Curve and pass alternate, and
the ratio is of neighbours.

The Mechanistic Interpretability Benchmark takes CPR of circuits by signed score and CMD of circuits by absolute score:
they stand beside each other, and all else is by absolute score. Random edges are the mean of five draws.

On two CPU cores `--methods` should take about half an hour: each method costs two ten-point curves, of some 20 plain
forward passes each, and its attribution (at most 11 points), and the draws five more curves. `--exact` adds about four
curves a line. A line is printed when it is there, so that what was measured is not lost where it is stopped.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks.attribution import last_logits, machine, plain_model, quartiles
from circuit.edges.method import AblationType, Method
from circuit.engine.batches import ready
from circuit.engine.dataset import PromptDataLoader
from circuit.jobs.attribute import attribute
from circuit.jobs.load import models
from circuit.jobs.measure import MeasureRequest, find_smallest, measure, measure_all
from circuit.prompts.encode import encode
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.faithfulness import Curve, curve_sizes
from circuit.runs.run import Run

PROMPTS = {"smollm2-135m": "ioi-many", "teaching": "teaching-ioi"}
METHODS = {
    "EAP": Method(),
    "IG, 5-point midpoint": Method(mask_val=None, integrated_grad_samples=5, integration_rule="midpoint"),
    "IG, 11-point trapezoid": Method(mask_val=None, integrated_grad_samples=10, integration_rule="trapezoid"),
    "IG, reference rule, 5 samples (6 points)": Method(mask_val=None, integrated_grad_samples=5),
}
RANDOM_SEEDS = range(5)
TARGET = 0.9


def config(model: str, method: Method, n_pairs: int) -> RunConfig:
    prompts = PRESETS[PROMPTS[model]].prompts
    some = replace(prompts, pairs=prompts.pairs[:n_pairs])
    return RunConfig(model, some, method, device="cpu", dtype="float32", held_out=0.5)


def request(run: Run) -> MeasureRequest:
    sizes = curve_sizes(run.graph.n_edges)
    return MeasureRequest(run.config, run.scores, sizes, rows=tuple(run.held_out_rows))


def cost(name: str, n_pairs: int, repeats: int) -> str:
    """Ratios of a ten-point curve to one plain forward pass over the same prompts."""
    run = attribute(config(name, Method(), n_pairs))
    curve = request(run)
    with models().use(name, "cpu", "float32") as model:
        plain = plain_model(model)
        encoded = encode(run.config.prompts, model.tokenizer, model.prepend_bos, model.n_ctx)
        dataset = encoded.dataset(run.held_out_rows)
        loader = ready(model, PromptDataLoader(dataset), AblationType.RESAMPLE)
    passes, curves = [], []
    for repeat in range(repeats + 1):
        pair = seconds(forward, plain, loader), seconds(measure, curve)
        if repeat > 0:  # the first warms up
            passes.append(pair[0])
            curves.append(pair[1])
    low, middle, high = quartiles([c / p for c, p in zip(curves, passes, strict=True)])
    return (
        f"| {len(dataset)} pairs, batches of {loader.batch_size} | {statistics.median(passes):.2f} s "
        f"| {statistics.median(curves):.2f} s | {middle:.1f} ({low:.1f} - {high:.1f}) |"
    )


@torch.no_grad()
def forward(plain: Any, loader: PromptDataLoader) -> None:
    for batch in loader:
        last_logits(plain, input_ids=batch.clean)


def seconds(run: Any, *arguments: Any) -> float:
    start = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - start


HEAD = """\
| edges by | CPR, signed | CMD, absolute | CPR, absolute | edges for 90 % | f at 0.1 %, 0.5 %, 2 % |
| --- | --- | --- | --- | --- | --- |"""


def table_of_methods(model: str, n_pairs: int, exact: bool) -> Iterator[str]:
    """One line a method, and one for random edges."""
    yield HEAD
    first: MeasureRequest | None = None
    for name, method in METHODS.items():
        absolute = request(attribute(config(model, method, n_pairs)))
        first = first or absolute
        by_absolute, by_signed = measure_all([absolute, replace(absolute, importance="signed")])
        yield line(name, [by_signed], [by_absolute], smallest(absolute, by_absolute, exact))
    assert first is not None
    random = measure_all([replace(first, shuffled=seed) for seed in RANDOM_SEEDS])
    for_most = smallest(replace(first, shuffled=RANDOM_SEEDS[0]), random[0], exact)
    yield line(f"random, mean of {len(random)} draws", random, random, f"{for_most} (one draw)")


def smallest(of: MeasureRequest, curve: Curve, exact: bool) -> str:
    """The edges that keep enough: the exact number, or the first of the ten sizes."""
    n = (find_smallest(of, TARGET) if exact else curve).smallest(TARGET)
    assert n is not None  # the whole model keeps all
    return f"{n:,}" if exact else f"{n:,} of the ten sizes"


def line(name: str, signed: Sequence[Curve], absolute: Sequence[Curve], edges: str) -> str:
    cpr_signed, cpr = (np.mean([curve.cpr for curve in curves]) for curves in (signed, absolute))
    cmd = np.mean([curve.cmd for curve in absolute])
    at_share = [np.mean([at(curve, share) for curve in absolute]) for share in (0.001, 0.005, 0.02)]
    shares = ", ".join(f"{value:.2f}" for value in at_share)
    return f"| {name} | {cpr_signed:.3f} | {cmd:.3f} | {cpr:.3f} | {edges} | {shares} |"


def at(curve: Curve, share: float) -> float:
    return float(curve.faithfulness[curve.sizes.index(int(share * curve.whole.n_edges))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", action="store_true", help="compare methods instead of measuring the cost")
    parser.add_argument("--exact", action="store_true", help="search for the number of edges that keeps 90 %%")
    parser.add_argument("--model", choices=PROMPTS, default="smollm2-135m")
    parser.add_argument("--pairs", type=int, default=64, help="of which half are held out")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    disable_progress_bar()
    model, n_pairs = arguments.model, arguments.pairs
    print(f"{machine('cpu', 'float32')}; {model}, {n_pairs} pairs of {PROMPTS[model]}, half held out.\n")
    if arguments.methods:
        for row in table_of_methods(model, n_pairs, arguments.exact):
            print(row, flush=True)
        return
    print("| measured on | plain forward pass | ten-point curve | ratio (quartiles) |\n| --- | --- | --- | --- |")
    print(cost(model, n_pairs, arguments.repeats))


if __name__ == "__main__":
    main()
