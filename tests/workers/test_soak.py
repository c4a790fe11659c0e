"""Two hundred jobs later, neither the web process nor the worker holds more memory than after the first sixty."""

from __future__ import annotations

import gc

import psutil
import pytest

from circuit.jobs.attribute import attribute
from circuit.prompts.pairs import PromptSet
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.workers.server import JobServer
from tests.job_functions import unlimited

PROMPTS = PRESETS["teaching-ioi"].prompts
N_WARM_UP, N = 60, 200  # as many results as the server keeps, and more, are in memory after the warm-up


def test_memory_is_flat_over_two_hundred_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    server = JobServer(warm_up=[])
    try:
        where = server.submit(unlimited, None)
        assert where.wait(300)
        processes = {"web process": psutil.Process(), "worker": psutil.Process(where.result())}
        held: list[dict[str, float]] = []
        for number in range(N):
            config = RunConfig("teaching", PromptSet(f"set {number}", PROMPTS.pairs[number % 10 : number % 10 + 2]))
            job = server.submit(attribute, config, owner=f"session {number % 8}")
            assert job.wait(300)
            assert job.result().scores.any(), job.error
            if number + 1 in (N_WARM_UP, N):
                gc.collect()
                held.append({name: process.memory_info().rss / 1e6 for name, process in processes.items()})
        with capsys.disabled():
            print(f"\nMB after {N_WARM_UP} and after {N} jobs: {held}")
        before, after = held
        for name in processes:
            assert after[name] - before[name] < 20, name  # MB; a run's activations alone are several
    finally:
        server.close()
