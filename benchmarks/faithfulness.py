"""What a faithfulness curve costs, and what the curves of several methods are.

    python -m benchmarks.faithfulness                cost, in plain forward passes of the same prompts
    python -m benchmarks.faithfulness --methods      CPR, CMD and the edges needed for 90 %, for EAP, integrated
                                                     gradients by three rules, and random edges

Prompts are the preset `ioi-many` on SmolLM2-135M, half of them held out from the scores and measured on. A plain
forward pass is that of the Hugging Face model with its default attention on the clean prompts measured, in the same
batches, with only the last logits. Curve and pass alternate, and the ratio is of neighbours.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks.attribution import machine, plain_model, quartiles
from circuit.dataset import PromptDataLoader
from circuit.faithfulness import curve_sizes
from circuit.measuring import MeasureRequest, find_smallest, measure, measure_all
from circuit.memory import ready
from circuit.method import AblationType, Method
from circuit.presets import PRESETS
from circuit.prompts import encode
from circuit.runs import Run, RunConfig
from circuit.tasks import attribute, models

METHODS = {
    "EAP": Method(),
    "IG, 5-point midpoint": Method(mask_val=None, integrated_grad_samples=5, integration_rule="midpoint"),
    "IG, 11-point trapezoid": Method(mask_val=None, integrated_grad_samples=10, integration_rule="trapezoid"),
    "IG, reference rule, 6 points": Method(mask_val=None, integrated_grad_samples=5),
    "IG, reference rule, 11 points": Method(mask_val=None, integrated_grad_samples=10),
}
RANDOM_SEEDS = range(3)


def config(method: Method, n_pairs: int) -> RunConfig:
    prompts = PRESETS["ioi-many"].prompts
    some = replace(prompts, pairs=prompts.pairs[:n_pairs])
    return RunConfig("smollm2-135m", some, method, device="cpu", dtype="float32", held_out=0.5)


def request(run: Run) -> MeasureRequest:
    sizes = curve_sizes(run.graph.n_edges)
    return MeasureRequest(run.config, run.scores, sizes, rows=tuple(run.held_out_rows))


def cost(n_pairs: int, repeats: int) -> str:
    """Ratios of a ten-point curve to one plain forward pass over the same prompts."""
    run = attribute(config(Method(), n_pairs))
    curve = request(run)
    with models().use("smollm2-135m", "cpu", "float32") as model:
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
        plain(input_ids=batch.clean, use_cache=False, logits_to_keep=1)


def seconds(run: Any, *arguments: Any) -> float:
    start = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - start


def table_of_methods(n_pairs: int) -> list[str]:
    """One line a method."""
    lines = ["| edges by | CPR | CMD | edges for 90 % | f at 0.1 %, 0.5 %, 2 % |", "| --- | --- | --- | --- | --- |"]
    first: MeasureRequest | None = None
    for name, method in METHODS.items():
        of_run = request(attribute(config(method, n_pairs)))
        first = first or of_run
        curve = measure(of_run)
        smallest = find_smallest(of_run).smallest(0.9)
        lines.append(line(name, curve.cpr, curve.cmd, f"{smallest:,}", curve.faithfulness))
    assert first is not None
    random = measure_all([replace(first, shuffled=seed) for seed in RANDOM_SEEDS])
    smallest_random = find_smallest(replace(first, shuffled=0)).smallest(0.9)
    cpr, cmd = (float(np.mean([getattr(curve, name) for curve in random])) for name in ("cpr", "cmd"))
    at_sizes = np.mean([curve.faithfulness for curve in random], axis=0)
    lines.append(line(f"random, {len(random)} draws", cpr, cmd, f"{smallest_random:,}", at_sizes))
    return lines


def line(name: str, cpr: float, cmd: float, smallest: str, faithfulness: Any) -> str:
    at = ", ".join(f"{faithfulness[i]:.2f}" for i in (0, 2, 4))
    return f"| {name} | {cpr:.3f} | {cmd:.3f} | {smallest} | {at} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", action="store_true", help="compare methods instead of measuring the cost")
    parser.add_argument("--pairs", type=int, default=64, help="of which half are held out")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    disable_progress_bar()
    print(f"{machine('cpu', 'float32')}; SmolLM2-135M, {arguments.pairs} pairs of ioi-many, half held out.\n")
    if arguments.methods:
        print("\n".join(table_of_methods(arguments.pairs)))
        return
    print("| measured on | plain forward pass | ten-point curve | ratio (quartiles) |\n| --- | --- | --- | --- |")
    print(cost(arguments.pairs, arguments.repeats))


if __name__ == "__main__":
    main()
