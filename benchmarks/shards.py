"""What a second worker is worth: one large attribution by one worker, and in shards by two.

    python -m benchmarks.shards
    python -m benchmarks.shards --pairs 512 --repeats 5 --markdown >> benchmarks/RESULTS.md

Workers have one torch thread each, and have loaded the model before the clock runs. One and two workers alternate, so
that whatever else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import replace

import numpy as np

from circuit.edges.method import AblationType, Method
from circuit.jobs.attribute import attribute
from circuit.jobs.load import ModelRequest, describe_model
from circuit.jobs.shards import submit
from circuit.prompts.pairs import PromptSet
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.run import Run
from circuit.workers.server import JobServer

METHODS = {
    "EAP": Method(),
    "IG, N = 5": Method(mask_val=None, integrated_grad_samples=5),
    "EAP, mean ablation": Method(ablation_type=AblationType.TOKENWISE_MEAN_CORRUPT, clean_corrupt=None),
}


def config(model: str, n_pairs: int, method: Method) -> RunConfig:
    preset = PRESETS["teaching-ioi" if model == "teaching" else "ioi-many"].prompts.pairs
    same = [pair for pair in preset if len(pair.clean.split()) == len(preset[0].clean.split())]
    pairs = tuple(same[i % len(same)] for i in range(n_pairs))
    return RunConfig(model, PromptSet("many", pairs), method, device="cpu")


def ready(server: JobServer, model: str) -> None:
    """Load the model in every worker: each takes one of the jobs, which begin together."""
    jobs = [server.submit(describe_model, ModelRequest(model, device="cpu")) for _ in range(server.workers)]
    for job in jobs:
        job.wait()
    warm = config(model, 8, Method())
    for job in [server.submit(attribute, warm) for _ in range(3 * server.workers)]:
        job.wait()


def timed(server: JobServer, request: RunConfig) -> tuple[float, Run]:
    began = time.perf_counter()
    job = submit(server, attribute, request)
    job._over.wait()
    seconds = time.perf_counter() - began
    return seconds, job.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="teaching", choices=["teaching", "smollm2-135m"])
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    one, two = (JobServer(cpu_workers=n, abandon_after=3600) for n in (1, 2))
    try:
        for server in (one, two):
            ready(server, options.model)
        print(f"{options.model}, {options.pairs} pairs, load {os.getloadavg()[0]:.1f}\n")
        if options.markdown:
            print("| method | one worker | two workers | speed-up (least - most) | largest difference |")
            print("| --- | ---: | ---: | ---: | ---: |")
        for name, method in METHODS.items():
            request = replace(config(options.model, options.pairs, method))
            pairs = [(timed(one, request), timed(two, request)) for _ in range(options.repeats)]
            ratios = [a / b for (a, _), (b, _) in pairs]
            first, second = (statistics.median(pair[i][0] for pair in pairs) for i in (0, 1))
            whole, cut = pairs[0][0][1].scores, pairs[0][1][1].scores
            off = np.abs(cut - whole).max() / np.abs(whole).max()
            cells = [
                name, f"{first:.2f} s", f"{second:.2f} s",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})", f"{off:.1e}",
            ]  # fmt: skip
            print("| " + " | ".join(cells) + " |" if options.markdown else "  ".join(cells), flush=True)
    finally:
        one.close()
        two.close()


if __name__ == "__main__":
    main()
