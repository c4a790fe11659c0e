"""Jobs that are cut into shards: the parts add up to the whole, and only what is large is cut."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from circuit.edges.method import AblationType, Method
from circuit.jobs.attribute import attribute
from circuit.jobs.check import check_prompts
from circuit.jobs.inspect import EffectsRequest, measure_effects
from circuit.jobs.measure import MeasureRequest, measure, measure_all
from circuit.jobs.prepare import Part
from circuit.jobs.shards import shards, submit
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.run import Run
from circuit.workers.group import JobGroup
from circuit.workers.server import JobServer
from tests.job_functions import until

Cancelled = Callable[[], bool]

ALL = PRESETS["teaching-ioi"].prompts.pairs
PAIRS = [pair for pair in ALL if len(pair.clean.split()) == len(ALL[0].clean.split())]  # the means need one length
BAD = PromptPair(PAIRS[0].clean, PAIRS[0].corrupt.split()[0], PAIRS[0].answers, PAIRS[0].wrong_answers)


def prompts(n: int, *, bad: bool = False) -> PromptSet:
    pairs = tuple(PAIRS[i % len(PAIRS)] for i in range(n))
    return PromptSet("many", (BAD, *pairs[:5], BAD, *pairs[5:]) if bad else pairs)


UNJUDGED = tuple(replace(pair, wrong_answers=()) for pair in prompts(140).pairs)


def config(ablation: AblationType = AblationType.RESAMPLE, n: int = 130, **options: Any) -> RunConfig:
    method = Method(ablation_type=ablation, clean_corrupt="corrupt" if ablation.reads_batch else None)
    method = replace(method, **options.pop("method", {}))
    return RunConfig("teaching", options.pop("prompts", None) or prompts(n), method, batch_size=20, **options)


@pytest.fixture(scope="module")
def server() -> Iterator[JobServer]:
    server = JobServer(cpu_workers=2, grace=1.0)
    yield server
    server.close()


def finished(server: JobServer, function: Any, request: Any) -> Any:
    """The result of a job that is cut into shards."""
    job = submit(server, function, request, title="large")
    assert isinstance(job, JobGroup)
    assert job.wait(300)
    return job.result()


def assert_same_run(cut: Run, whole: Run) -> None:
    assert np.abs(whole.scores).max() > 0
    assert np.abs(cut.scores - whole.scores).max() <= 1e-6 * np.abs(whole.scores).max()
    for name in ("clean", "corrupt", "accuracy", "judged"):
        assert getattr(cut.baseline, name) == pytest.approx(getattr(whole.baseline, name), rel=1e-6)
    assert (cut.used_rows, cut.held_out_rows, cut.graph) == (whole.used_rows, whole.held_out_rows, whole.graph)
    assert cut.config == whole.config


@pytest.mark.parametrize("ablation", list(AblationType), ids=str)
def test_shards_add_up_for_every_ablation(server: JobServer, ablation: AblationType) -> None:
    assert_same_run(finished(server, attribute, config(ablation)), attribute(config(ablation)))


@pytest.mark.parametrize(
    "options",
    [
        {"method": {"grad_function": "logprob", "answer_function": "avg_val", "mask_val": 0.4}},
        {"method": {"mask_val": None, "integrated_grad_samples": 3}},
        {"method": {"mask_val": None, "integrated_grad_samples": 3, "integration_rule": "trapezoid"}},
        {"held_out": 0.25, "n": 180},
        {"keep_positions": True, "prompts": PromptSet("equal", (PAIRS[0],) * 64 + (PAIRS[1],) * 66)},
        {"prompts": prompts(270, bad=True), "held_out": 0.5},
        {"prompts": PromptSet("some judged", (*UNJUDGED, *PAIRS)), "method": {"answer_function": "avg_val"}},
    ],
    ids=["one point", "reference", "trapezoid", "held out", "positions apart", "rows with problems", "some judged"],
)
def test_shards_add_up_with_every_option(server: JobServer, options: dict[str, Any]) -> None:
    run = config(**options)
    assert_same_run(finished(server, attribute, run), attribute(run))


@pytest.mark.parametrize("rule", ["reference", "trapezoid", "midpoint"])
def test_many_points_on_few_prompts_are_cut_between_points(server: JobServer, rule: str) -> None:
    run = config(n=1, method={"mask_val": None, "integrated_grad_samples": 130, "integration_rule": rule})
    cut = shards(attribute, run, 2)
    assert cut is not None
    assert {request.prompts for request in cut.requests} == {Part()}
    assert_same_run(finished(server, attribute, run), attribute(run))


def test_batches_that_are_averaged_over_stay_whole() -> None:
    cut = shards(attribute, replace(config(AblationType.BATCH_TOKENWISE_MEAN, 200), batch_size=90), 4)
    assert cut is not None
    sizes = [len(request.prompts.among(range(200), 90)) for request in cut.requests]
    assert sorted(sizes) == [20, 90, 90]


def test_curves_and_effects_are_cut_too(server: JobServer) -> None:
    run = attribute(config())
    request = MeasureRequest(run.config, run.scores, (10, 50), rows=tuple(run.used_rows))
    assert_same_curve(finished(server, measure, request), measure(request))
    shuffled = replace(request, shuffled=1)
    for cut, whole in zip(
        finished(server, measure_all, [request, shuffled]), measure_all([request, shuffled]), strict=True
    ):
        assert_same_curve(cut, whole)
    effects = EffectsRequest(run.config, tuple(run.order[:3].tolist()))
    found, expected = finished(server, measure_effects, effects), measure_effects(effects)
    assert found == pytest.approx(expected, rel=1e-5)


def assert_same_curve(cut: Any, whole: Any) -> None:
    assert cut.sizes == whole.sizes
    for a, b in zip((*cut.points, cut.whole, cut.ablated), (*whole.points, whole.whole, whole.ablated), strict=True):
        np.testing.assert_allclose(a.values, b.values, atol=2e-5)
        np.testing.assert_array_equal(a.right, b.right)
        np.testing.assert_allclose(a.probability, b.probability, atol=1e-5)


def test_small_jobs_and_single_workers_are_not_cut() -> None:
    assert shards(attribute, config(n=24), 4) is None
    assert shards(attribute, config(n=500), 1) is None
    assert shards(check_prompts, None, 4) is None


@pytest.mark.parametrize("n", [1, 5, 64, 127])
def test_parts_hold_everything_once(n: int) -> None:
    for of in (1, 2, 3, 7):
        for unit in (1, 4):
            parts = [Part(number, of).among(range(n), unit) for number in range(of)]
            assert [row for part in parts for row in part] == list(range(n))
            assert all(part[0] % unit == 0 for part in parts if part)


def test_a_killed_worker_leaves_the_scores_as_they_are(server: JobServer) -> None:
    run = config(n=130, method={"mask_val": None, "integrated_grad_samples": 8})
    job = submit(server, attribute, run)
    assert isinstance(job, JobGroup)
    until(lambda: job.step > 3)
    worker = next(shard._worker for shard in list(job._shards.values()) if shard._worker is not None)
    pids = server._client.run(os.getpid)
    os.kill(pids[worker], signal.SIGKILL)
    assert job.wait(300)
    assert_same_run(job.result(), attribute(run))
