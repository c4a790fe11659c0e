"""On a real CUDA device. Where there is none, these tests are skipped, and said to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuit.edges.method import AblationType, Method
from circuit.edges.shape import peak_bytes
from circuit.engine.batches import shape_of
from circuit.engine.memory import release
from circuit.jobs.attribute import attribute
from circuit.jobs.load import models
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.workers.cluster import default_devices
from circuit.workers.server import JobServer
from tests.job_functions import environment, until

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

IOI = PRESETS["teaching-ioi"].prompts
METHODS = [
    Method(),
    Method(mask_val=None, integrated_grad_samples=3),
    Method(ablation_type=AblationType.TOKENWISE_MEAN_CORRUPT, clean_corrupt=None),
]


@pytest.mark.parametrize("method", METHODS, ids=["EAP", "integrated", "mean ablation"])
def test_scores_are_those_of_the_cpu(method: Method) -> None:
    first = len(IOI.pairs[0].clean.split())
    prompts = replace(IOI, pairs=tuple(pair for pair in IOI.pairs if len(pair.clean.split()) == first))
    on_cpu, on_gpu = (
        attribute(RunConfig("teaching", prompts, method, device=device, dtype="float32")) for device in ("cpu", "cuda")
    )
    assert on_gpu.provenance["device"].startswith("cuda")
    assert np.abs(on_gpu.scores - on_cpu.scores).max() <= 1e-4 * np.abs(on_cpu.scores).max()
    assert on_gpu.baseline.clean == pytest.approx(on_cpu.baseline.clean, rel=1e-4)


def test_where_memory_runs_out_the_batch_is_halved_and_memory_is_left_as_it_was() -> None:
    prompts = replace(IOI, pairs=tuple(IOI.pairs[i % len(IOI.pairs)] for i in range(4096)))
    config = RunConfig("teaching", prompts, device="cuda", dtype="float32", batch_size=64)
    expected = attribute(config)
    device = torch.device("cuda")
    with models().use("teaching", "cuda", "float32") as model:
        room = peak_bytes(shape_of(model), 512, 20)
    release(device)
    before = torch.cuda.memory_allocated(device)
    _, total = torch.cuda.mem_get_info(device)
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + room) / total, device)
    try:
        found = attribute(replace(config, batch_size=4096))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert any("The batch was halved" in note for note in found.notes)
    assert np.abs(found.scores - expected.scores).max() <= 1e-4 * np.abs(expected.scores).max()
    release(device)
    assert torch.cuda.memory_allocated(device) == before


def test_every_device_has_a_worker_of_its_own() -> None:
    server = JobServer(devices=default_devices(), warm_up=[])
    try:
        assert len(server.devices) == torch.cuda.device_count()
        jobs = [server.submit(environment, 3.0, owner=device) for device in server.devices]
        until(lambda: all(job.state == "running" for job in jobs))
        assert all(job.wait(300) for job in jobs)
        assert len({job.result()["CUDA_VISIBLE_DEVICES"] for job in jobs}) == len(jobs)
        assert len({job.result()["pid"] for job in jobs}) == len(jobs)
    finally:
        server.close()
