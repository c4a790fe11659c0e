"""How near the estimates before a run come to what it takes.

    python -m benchmarks.estimates
    python -m benchmarks.estimates --markdown >> benchmarks/RESULTS.md

For each model, in a process of its own: the pace is measured as the app does it, then every case is estimated and run,
and memory is the growth of the resident set over its size with the model loaded.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import torch

from benchmarks.resident_set import ResidentSet
from circuit.edges.method import Method
from circuit.jobs.attribute import attribute
from circuit.jobs.calibrate import measure_pace
from circuit.jobs.estimate import Work
from circuit.jobs.load import models
from circuit.prompts.encode import encode
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig

METHODS = {"EAP": Method(), "IG, N = 5": Method(mask_val=None, integrated_grad_samples=5)}
PROMPTS = {"teaching": "teaching-ioi", "smollm2-135m": "ioi-many"}
Row = tuple[str, int, str, float, float, float, float]


def rows(model: str, sizes: list[int]) -> list[Row]:
    """Model, prompts, method, then seconds and megabytes, estimated and taken."""
    torch.set_num_threads(1)
    pairs = PRESETS[PROMPTS[model]].prompts.pairs
    found: list[Row] = []
    with models().use(model, "cpu", "auto") as loaded:
        pace = measure_pace(loaded)
        for n in sizes:
            prompts = replace(PRESETS[PROMPTS[model]].prompts, pairs=tuple(pairs[i % len(pairs)] for i in range(n)))
            encoded = encode(prompts, loaded.tokenizer, loaded.prepend_bos, loaded.n_ctx)
            for name, method in METHODS.items():
                config = RunConfig(model, prompts, method, device="cpu")
                estimate = pace.estimate(Work.of(config, [len(encoded.clean[row]) for row in encoded.usable]))
                with ResidentSet() as resident:
                    run = attribute(replace(config, dtype="auto"))
                taken = run.provenance["seconds"]
                found.append((model, n, name, estimate.seconds, taken, estimate.peak / 1e6, resident.growth / 1e6))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=list(PROMPTS), choices=list(PROMPTS))
    parser.add_argument("--prompts", nargs="*", type=int, default=[8, 64])
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}, one torch thread\n")
    if options.markdown:
        print("| model | prompts | method | estimated | taken | ratio | memory estimated | taken |")
        print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for model in options.model:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            for name, n, method, seconds, taken, peak, growth in pool.submit(rows, model, options.prompts).result():
                cells = [
                    name, str(n), method, f"{seconds:.2f} s", f"{taken:.2f} s", f"{seconds / taken:.2f}",
                    f"{peak:.0f} MB", f"{growth:.0f} MB",
                ]  # fmt: skip
                print("| " + " | ".join(cells) + " |" if options.markdown else "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
