"""A group of jobs is a job: it is found, cancelled and limited as one."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from circuit.common.errors import CircuitError, JobCancelled, JobError, PromptError
from circuit.common.progress import Report, note
from circuit.jobs.shards import submit
from circuit.workers.group import Cut, JobGroup
from circuit.workers.server import JobServer
from tests.job_functions import LONG, count, running, square, until

Cancelled = Callable[[], bool]


@pytest.fixture(scope="module")
def server() -> Iterator[JobServer]:
    server = JobServer(cpu_workers=2, grace=1.0)
    yield server
    server.close()


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
    assert job.wait(300)
    assert (job.state, job.step, job.error, job.position) == ("finished", 40, None, None)
    assert job.result() == [0, 1, 2, 3]
    assert len({pid for pids in begun(tmp_path).values() for pid in pids}) == 2


def test_a_killed_worker_costs_its_shard_only(server: JobServer, tmp_path: Path) -> None:
    job = group(server, slow, tmp_path)
    until(lambda: len(begun(tmp_path)) == 2)
    (pid,) = begun(tmp_path)[0]
    os.kill(pid, signal.SIGKILL)
    assert job.wait(300)
    assert job.result() == [0, 1, 2, 3]
    assert {number: len(pids) for number, pids in begun(tmp_path).items()} == {0: 2, 1: 1, 2: 1, 3: 1}


def test_a_shard_that_kills_every_worker_ends_the_group_with_a_sentence(server: JobServer, tmp_path: Path) -> None:
    job = group(server, deadly, tmp_path, n=2)
    assert job.wait(300)
    assert job.state == "failed"
    assert job.error is not None
    assert "stopped from outside" in job.error
    assert len(begun(tmp_path)[1]) == 3


def test_another_failure_ends_the_group_with_the_shards_sentence(server: JobServer, tmp_path: Path) -> None:
    job = group(server, wrong, tmp_path, n=40)
    assert job.wait(300)
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
    assert job.wait(300)
    assert job.result() == [0, None, 2, 3]
    assert told == [(1, "Row 7 has no answer.")]
    assert done == [0, 2, 3]


def test_cancelling_a_group_cancels_all(server: JobServer, tmp_path: Path) -> None:
    job = group(server, slow, tmp_path, n=8)
    until(lambda: len(begun(tmp_path)) == 2)
    job.cancel()
    assert job.wait(300)
    assert job.state == "cancelled"
    with pytest.raises(CircuitError, match="was cancelled"):
        job.result()
    time.sleep(0.3)
    assert len(begun(tmp_path)) == 2


def test_shards_do_not_push_results_out_of_the_server(server: JobServer, tmp_path: Path) -> None:
    before = set(server._jobs)
    job = group(server, slow, tmp_path)
    assert job.wait(300)
    until(lambda: set(server._jobs) - before == {job.id})


def noted(number: int, *, progress: Report, cancelled: Cancelled) -> int:
    """What a step does that has to take smaller batches."""
    note("The batch was halved.")
    note(f"Part {number} was odd.")
    return number


def test_what_was_done_otherwise_than_asked_comes_with_the_job_and_once_with_a_group(server: JobServer) -> None:
    job = submit(server, noted, 7)
    assert job.wait(300)
    assert (job.result(), job.told) == (7, ["The batch was halved.", "Part 7 was odd."])
    told: dict[int, list[str]] = {}
    cut = Cut(noted, [0, 1], lambda results, seconds: results)
    both = JobGroup(server, cut, at_once=lambda: 1, done=lambda number, value, notes: told.update({number: notes}))
    assert both.wait(300)
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
        assert group.wait(300)
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
    assert job.wait(300)


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
    assert job.wait(300)
    assert begin.is_set()
    assert job.error is None
    assert job.result() == [0, 1, 2]
    other = narrow.submit(square, 3, owner="ann")  # and it is let go once it is over
    assert other.wait(300)


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
