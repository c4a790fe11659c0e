"""Jobs in shards: on real workers, their parts add up to what the whole job gives."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuit.common.errors import CircuitError, JobCancelled, JobError, PromptError
from circuit.common.progress import Report, note
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
from circuit.workers.group import Cut, JobGroup
from circuit.workers.server import JobServer
from tests.job_functions import LONG, count, running, square, until

pytestmark = pytest.mark.timeout(120)
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
    assert job.wait(90)
    return job.result()


def assert_same_run(cut: Run, whole: Run) -> None:
    assert np.abs(whole.scores).max() > 0
    assert np.abs(cut.scores - whole.scores).max() <= 1e-6 * np.abs(whole.scores).max()
    for name in ("clean", "corrupt", "accuracy", "judged"):
        assert getattr(cut.baseline, name) == pytest.approx(getattr(whole.baseline, name), rel=1e-6)
    assert (cut.used_rows, cut.held_out_rows, cut.graph) == (whole.used_rows, whole.held_out_rows, whole.graph)
    assert cut.config == whole.config


# --- shards add up ---------------------------------------------------------------------------------------------


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


# --- when to cut -----------------------------------------------------------------------------------------------


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


# --- a group is a job ------------------------------------------------------------------------------------------


def slow(request: tuple[int, Path], *, progress: Report, cancelled: Cancelled) -> int:
    """Ten steps; writes down who has begun."""
    number, folder = request
    with (folder / str(number)).open("a") as file:
        file.write(f"{os.getpid()}\n")
    for step in range(10):
        if cancelled():
            raise JobCancelled("Stopped.")
        progress(step, 10, f"step {step}")
        time.sleep(0.05)
    progress(10, 10, "done")
    return number


def deadly(request: tuple[int, Path], *, progress: Report, cancelled: Cancelled) -> int:
    slow(request, progress=progress, cancelled=lambda: False)
    if request[0] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return request[0]


def wrong(request: tuple[int, Path], *, progress: Report, cancelled: Cancelled) -> int:
    if request[0] == 1:
        raise PromptError("Row 7 has no answer.")
    return slow(request, progress=progress, cancelled=cancelled)


def group(server: JobServer, function: Any, folder: Path, n: int = 4, **options: Any) -> JobGroup:
    cut = Cut(function, [(number, folder) for number in range(n)], lambda results, seconds: results)
    return JobGroup(server, cut, "numbers", **options)


def begun(folder: Path) -> dict[int, list[int]]:
    """Which processes have begun each shard."""
    return {int(path.name): [int(pid) for pid in path.read_text().split()] for path in folder.iterdir()}


def test_a_group_is_found_adds_up_progress_and_runs_on_all_workers(server: JobServer, tmp_path: Path) -> None:
    job = group(server, slow, tmp_path)
    assert server.get(job.id) is job
    assert job.state in ("queued", "starting", "running")
    until(lambda: job.step >= 5)
    assert job.total == 40
    assert not job.over
    assert job.wait(60)
    assert (job.state, job.step, job.error, job.position) == ("finished", 40, None, None)
    assert job.result() == [0, 1, 2, 3]
    assert len({pid for pids in begun(tmp_path).values() for pid in pids}) == 2


def test_a_killed_worker_costs_its_shard_only(server: JobServer, tmp_path: Path) -> None:
    job = group(server, slow, tmp_path)
    until(lambda: len(begun(tmp_path)) == 2)
    (pid,) = begun(tmp_path)[0]
    os.kill(pid, signal.SIGKILL)
    assert job.wait(60)
    assert job.result() == [0, 1, 2, 3]
    assert {number: len(pids) for number, pids in begun(tmp_path).items()} == {0: 2, 1: 1, 2: 1, 3: 1}


def test_a_killed_worker_leaves_the_scores_as_they_are(server: JobServer) -> None:
    run = config(n=130, method={"mask_val": None, "integrated_grad_samples": 8})
    job = submit(server, attribute, run)
    assert isinstance(job, JobGroup)
    until(lambda: job.step > 3)
    worker = next(shard._worker for shard in list(job._shards.values()) if shard._worker is not None)
    pids = server._client.run(os.getpid)
    os.kill(pids[worker], signal.SIGKILL)
    assert job.wait(90)
    assert_same_run(job.result(), attribute(run))


def test_a_shard_that_kills_every_worker_ends_the_group_with_a_sentence(server: JobServer, tmp_path: Path) -> None:
    job = group(server, deadly, tmp_path, n=2)
    assert job.wait(90)
    assert job.state == "failed"
    assert job.error is not None
    assert "stopped from outside" in job.error
    assert len(begun(tmp_path)[1]) == 3


def test_another_failure_ends_the_group_with_the_shards_sentence(server: JobServer, tmp_path: Path) -> None:
    job = group(server, wrong, tmp_path, n=40)
    assert job.wait(60)
    assert (job.state, job.error) == ("failed", "Row 7 has no answer.")
    with pytest.raises(PromptError):
        job.result()
    assert len(begun(tmp_path)) < 40  # the others were called off


def test_failures_can_be_borne(server: JobServer, tmp_path: Path) -> None:
    told: list[tuple[int, str]] = []
    done: list[int] = []
    job = group(
        server, wrong, tmp_path, at_once=lambda: 1,
        failed=lambda number, why: told.append((number, why)), done=lambda number, value, told: done.append(value),
    )  # fmt: skip
    assert job.wait(60)
    assert job.result() == [0, None, 2, 3]
    assert told == [(1, "Row 7 has no answer.")]
    assert done == [0, 2, 3]


def test_cancelling_a_group_cancels_all(server: JobServer, tmp_path: Path) -> None:
    job = group(server, slow, tmp_path, n=8)
    until(lambda: len(begun(tmp_path)) == 2)
    job.cancel()
    assert job.wait(30)
    assert job.state == "cancelled"
    with pytest.raises(CircuitError, match="was cancelled"):
        job.result()
    time.sleep(0.3)
    assert len(begun(tmp_path)) == 2


def test_shards_do_not_push_results_out_of_the_server(server: JobServer, tmp_path: Path) -> None:
    before = set(server._jobs)
    job = group(server, slow, tmp_path)
    assert job.wait(60)
    until(lambda: set(server._jobs) - before == {job.id})


def noted(number: int, *, progress: Report, cancelled: Cancelled) -> int:
    """What a step does that has to take smaller batches."""
    note("The batch was halved.")
    note(f"Part {number} was odd.")
    return number


def test_what_was_done_otherwise_than_asked_comes_with_the_job_and_once_with_a_group(server: JobServer) -> None:
    job = submit(server, noted, 7)
    assert job.wait(60)
    assert (job.result(), job.told) == (7, ["The batch was halved.", "Part 7 was odd."])
    told: dict[int, list[str]] = {}
    cut = Cut(noted, [0, 1], lambda results, seconds: results)
    both = JobGroup(server, cut, at_once=lambda: 1, done=lambda number, value, notes: told.update({number: notes}))
    assert both.wait(60)
    assert both.told == ["The batch was halved.", "Part 0 was odd.", "Part 1 was odd."]
    assert told == {n: ["The batch was halved.", f"Part {n} was odd."] for n in (0, 1)}


def test_a_bug_in_what_puts_the_parts_together_is_told_with_a_reference(
    server: JobServer, caplog: pytest.LogCaptureFixture
) -> None:
    wrongs: list[tuple[Any, Any]] = [
        (lambda results, seconds: results[7], None),
        (lambda results, seconds: results, lambda number, value, told: told[7]),
    ]
    for combine, done in wrongs:
        group = JobGroup(server, Cut(noted, [0, 1], combine), done=done)
        assert group.wait(60)
        assert group.state == "failed"
        found = re.search(r"could not be put together\..* under reference (\w+)\.", group.error or "")
        assert found is not None
        assert f"reference {found[1]}" in caplog.text
        assert "IndexError" in caplog.text


def test_as_many_parts_run_as_there_are_workers_now(server: JobServer, tmp_path: Path) -> None:
    workers = 1
    job = group(server, slow, tmp_path, n=6, at_once=lambda: workers)
    until(lambda: len(begun(tmp_path)) == 1)
    assert len(job._shards) == 1
    workers = 2
    until(lambda: len(job._shards) == 2)
    job.cancel()
    assert job.wait(30)


# --- the limits are asked once ---------------------------------------------------------------------------------------


@pytest.fixture
def narrow() -> Iterator[JobServer]:
    """Two jobs an owner, and three that wait."""
    server = JobServer(warm_up=[], grace=1.0, jobs_per_owner=2, jobs_in_queue=3)
    yield server
    server.close()


def test_a_group_that_has_been_let_in_goes_on_while_its_owner_fills_the_queue(
    narrow: JobServer, tmp_path: Path
) -> None:
    """Between two parts, and before one is tried again, nothing of the group waits or runs."""
    begin = threading.Event()
    filled = False

    def fill(number: int, value: Any, told: list[str]) -> None:
        nonlocal filled
        if not filled:
            filled = True
            narrow.submit(count, {"steps": 1, "seconds": 0}, owner="ann")
            with pytest.raises(JobError, match="You have 2 jobs"):  # the group is one, though nothing of it is queued
                narrow.submit(square, 3, owner="ann")
            for n in range(3):
                with contextlib.suppress(JobError):
                    narrow.submit(square, 3, owner=f"owner {n}")
        begin.set()

    job = group(narrow, deadly_once, tmp_path, n=3, at_once=lambda: 1, done=fill, owner="ann")
    assert job.wait(90)
    assert begin.is_set()
    assert job.error is None
    assert job.result() == [0, 1, 2]
    other = narrow.submit(square, 3, owner="ann")  # and it is let go once it is over
    assert other.wait(30)


def deadly_once(request: tuple[int, Path], *, progress: Report, cancelled: Cancelled) -> int:
    number, folder = request
    with (folder / str(number)).open("a") as file:
        file.write(f"{os.getpid()}\n")
    if number == 1 and len((folder / "1").read_text().split()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_group_that_is_too_much_is_refused_at_once(narrow: JobServer, tmp_path: Path) -> None:
    jobs = [narrow.submit(count, LONG, owner="ann") for _ in range(2)]
    with pytest.raises(JobError, match="You have 2 jobs waiting or running"):
        group(narrow, slow, tmp_path, owner="ann")
    running(jobs[0])
    for n in range(2):
        narrow.submit(square, 3, owner=f"owner {n}")
    with pytest.raises(JobError, match="3 jobs are waiting already"):
        group(narrow, slow, tmp_path, owner="bob")
    assert not begun(tmp_path)
    for job in jobs:
        job.cancel()


def test_every_request_is_checked_that_of_a_group_before_any_of_it_runs(tmp_path: Path) -> None:
    def check(request: Any) -> None:
        if request == "bad" or (isinstance(request, list) and "bad" in request):
            raise PromptError("Too many prompts.")

    server = JobServer(warm_up=[], check=check)
    try:
        with pytest.raises(PromptError, match="Too many"):
            submit(server, square, "bad")
        with pytest.raises(PromptError, match="Too many"):
            JobGroup(server, Cut(square, [1, "bad"], lambda results, seconds: results))
        assert not server._jobs
    finally:
        server.close()
