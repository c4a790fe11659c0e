"""Jobs of several owners: turns, limits, groups, and jobs that nobody waits for or that take too long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuit.common.errors import JobError
from circuit.workers import worker
from circuit.workers.job import FRESH, Job
from circuit.workers.server import JobServer
from tests.job_functions import LONG, count, deaf, running, square, until, works, write_down


@pytest.fixture
def server() -> Iterator[JobServer]:
    server = JobServer(warm_up=[], jobs_per_owner=4, jobs_in_queue=8)
    yield server
    server.close()


def stop(*jobs: Job) -> None:
    for job in jobs:
        job.cancel()
    for job in jobs:
        assert job.wait(300)


def test_owners_take_turns_and_positions_tell_the_order(server: JobServer, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    first = running(server.submit(count, LONG, owner="ann"))
    words = ["ann1", "ann2", "ann3", "bob1", "bob2", "cat1"]
    jobs = [server.submit(write_down, (diary, word), owner=word[:3]) for word in words]
    assert [job.position for job in jobs] == [3, 5, 6, 1, 4, 2]
    first.cancel()
    assert all(job.wait(300) for job in jobs)
    assert diary.read_text().split() == ["bob1", "cat1", "ann1", "bob2", "ann2", "ann3"]


def test_an_owner_may_have_so_many_jobs_and_others_are_not_touched(server: JobServer) -> None:
    jobs = [server.submit(count, LONG, owner="ann") for _ in range(4)]
    running(jobs[0])  # a running one counts
    with pytest.raises(JobError, match="You have 4 jobs waiting or running"):
        server.submit(square, 3, owner="ann")
    other = server.submit(square, 3, owner="bob")
    jobs[1].cancel()
    again = server.submit(square, 3, owner="ann")
    stop(*jobs)
    assert other.wait(300)
    assert again.wait(300)
    assert other.state == again.state == "finished"


def test_the_queue_takes_so_many_jobs(server: JobServer) -> None:
    first = running(server.submit(count, LONG, owner="somebody"))
    jobs = [server.submit(square, 3, owner=f"owner {n}") for n in range(8)]
    with pytest.raises(JobError, match="8 jobs are waiting already"):
        server.submit(square, 3, owner="late")
    stop(first)
    assert all(job.wait(300) for job in jobs)
    assert works(server)


def test_a_group_counts_as_one_job_and_gets_one_owners_share(server: JobServer, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    first = running(server.submit(count, LONG, owner="ann", group="sweep"))
    sweep = [server.submit(write_down, (diary, "ann"), owner="ann", group="sweep") for _ in range(20)]
    others = [server.submit(write_down, (diary, "ann's"), owner="ann") for _ in range(3)]
    with pytest.raises(JobError, match="You have 4 jobs"):
        server.submit(square, 3, owner="ann")
    bobs = [server.submit(write_down, (diary, "bob"), owner="bob") for _ in range(3)]
    first.cancel()
    assert all(job.wait(300) for job in (*sweep, *others, *bobs))
    assert diary.read_text().split()[:6] == ["bob", "ann"] * 3


def test_ten_tabs_of_one_address_do_not_fill_the_queue() -> None:
    server = JobServer(warm_up=[], jobs_per_owner=10, jobs_per_place=20, jobs_in_queue=100)
    try:
        tabs = [f"10.0.0.1/tab {number}" for number in range(10)]
        jobs, refused = [], []
        for tab in tabs * 10:
            try:
                jobs.append(server.submit(count, LONG, owner=tab))
            except JobError as error:
                refused.append(str(error))
        assert (len(jobs), len(refused)) == (20, 80)
        assert "From your network address, 20 jobs are waiting or running" in refused[0]
        running(jobs[0])
        other = server.submit(square, 3, owner="10.0.0.2/tab")
        assert other.position == 1
        stop(*jobs)
        assert other.wait(300)
    finally:
        server.close()


class Group:
    """Somebody else's job that is let in with this many requests."""

    def __init__(self, server: JobServer, requests: int, owner: str = "ann") -> None:
        self.job = Job(server, b"", "sweep", owner, None, None)
        server.adopt(self.job, [None] * requests)


def test_a_sweep_counts_as_a_job_for_every_twelve_runs() -> None:
    server = JobServer(warm_up=[], jobs_per_owner=10)
    try:
        first = Group(server, 48)
        Group(server, 48)
        with pytest.raises(JobError, match="This counts as 4 jobs"):
            Group(server, 48)
        small = Group(server, 12)
        server.finish(small.job, value=None)
        server.finish(first.job, value=None)
        Group(server, 48)
        Group(server, 1000, owner="bob")  # one alone is let in whatever its size, and leaves room for a small job
        server.submit(square, 3, owner="bob")
        with pytest.raises(JobError, match="You have 10 jobs"):
            server.submit(square, 3, owner="bob")
    finally:
        server.close()


def test_a_short_job_does_not_wait_behind_long_ones(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    server = JobServer(warm_up=[], short=lambda function, request: "short" in request)
    try:
        first = running(server.submit(count, LONG))
        long = [server.submit(write_down, (diary, "long"), owner=f"owner {number}") for number in range(4)]
        short = server.submit(write_down, (diary, "short"), owner="late")
        assert short.position == 1
        assert [job.position for job in long] == [2, 3, 4, 5]
        first.cancel()
        assert all(job.wait(300) for job in (*long, short))
        assert diary.read_text().split() == ["short", "long", "long", "long", "long"]
    finally:
        server.close()


def test_a_job_whose_tab_is_closed_makes_room_and_runs_again_afterwards() -> None:
    here = {"closed later", "stays"}
    asking = [""]
    server = JobServer(warm_up=[], give_way_after=0.5, watcher=lambda: asking[0], present=lambda who: who in here)
    try:
        asking[0] = "closed later"
        left = running(server.submit(count, {"steps": 100, "seconds": 0.05}))
        behind = server.submit(count, LONG)
        here.remove("closed later")
        left._asked = behind._asked = time.monotonic() - FRESH  # as if some seconds had passed
        asking[0] = "stays"
        waiting = server.submit(square, 3)
        until(lambda: waiting.unasked_state == "finished")
        assert waiting.result() == {"square": 9}
        until(lambda: left.unasked_state == "running")  # again, as nobody else waits
        assert behind.unasked_state == "queued"
        asking[0] = "back"
        here.add("back")
        assert server.get(left.id) is left
        assert left.watched
        assert left.wait(300)
        assert left.state == "finished"
        behind.cancel()
    finally:
        server.close()


def test_a_job_that_somebody_watches_makes_no_room() -> None:
    here = {"tab"}
    server = JobServer(warm_up=[], give_way_after=0.1, watcher=lambda: "tab", present=lambda who: who in here)
    try:
        job = running(server.submit(count, {"steps": 60, "seconds": 0.05}))
        job._asked -= 60  # a hidden tab polls seldom
        waiting = server.submit(square, 3)
        until(lambda: waiting.over)
        assert (job.unasked_state, job._false_starts) == ("finished", 0)
    finally:
        server.close()


def test_a_job_that_makes_room_can_be_cancelled_meanwhile() -> None:
    server = JobServer(warm_up=[], give_way_after=0.1, grace=20.0)
    try:
        job = running(server.submit(deaf, 600.0))
        job._asked -= 60
        waiting = server.submit(square, 3)
        until(lambda: job.cancelling)
        job.cancel()
        server._grace = 0.1
        assert job.wait(300)
        assert job.state == "cancelled"
        assert waiting.wait(300)
    finally:
        server.close()


def test_what_a_job_waits_for_can_be_told(server: JobServer) -> None:
    first = running(server.submit(count, LONG, title="long", owner="ann"))
    second = server.submit(count, LONG, owner="bob")
    third = server.submit(count, LONG, owner="cat")
    until(lambda: first.remaining)
    assert first.ahead is None
    assert third.ahead is not None
    assert (third.ahead.running, third.ahead.waiting) == ((first,), 1)
    assert (third.ahead.seconds or 0) > 0
    stop(first, second, third)


def test_a_job_can_be_found_with_its_owner_and_note(server: JobServer) -> None:
    job = server.submit(square, 3, title="squares", owner="ann", group="g", note=("slot", 7))
    found = server.get(job.id)
    assert found is not None
    assert (found.title, found.owner, found.group, found.note) == ("squares", "ann", "g", ("slot", 7))


def test_a_job_that_takes_too_long_is_stopped_with_a_sentence() -> None:
    server = JobServer(warm_up=[], longest=1.0, grace=0.5)
    try:
        job = server.submit(deaf, 600.0)
        assert job.wait(300)
        assert job.state == "failed"
        assert "the longest that this server allows" in (job.error or "")
        assert works(server)
    finally:
        server.close()


def test_what_nobody_looks_at_is_cancelled_though_nobody_submits_either() -> None:
    server = JobServer(warm_up=[], abandon_after=1.5, forget_after=1.5)
    try:
        job = running(server.submit(count, LONG))
        waiting = server.submit(square, 3)
        watched = server.submit(square, 4)
        until(lambda: watched.state and job.over)  # `over` does not count as asking, `state` does
        assert job.state == "cancelled"
        assert "nobody had looked at it" in (job.error or "")
        until(lambda: watched.state == "finished" and waiting.over)
        assert waiting.state == "cancelled"
        until(lambda: not {job.id, waiting.id, watched.id} & set(server._jobs))  # forgotten, by itself
    finally:
        server.close()


def test_finished_jobs_are_kept_by_what_their_results_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("circuit.workers.server._MOST_KEPT", 1_000_000)
    server = JobServer(warm_up=[])
    try:
        jobs = [server.submit(square, np.arange(n, dtype=float)) for n in (50_000, 1_000, 1_000, 50_000)]
        assert all(job.wait(300) for job in jobs)
        assert [job.result_bytes > 400_000 for job in jobs] == [True, False, False, True]
        for age, job in zip((40.0, 30.0, 20.0, 10.0), jobs, strict=True):
            job._asked = time.monotonic() - age
        server._sweep()
        assert list(server._jobs) == [job.id for job in jobs]  # together just what they may take
        small = server.submit(square, np.arange(20_000, dtype=float))
        assert small.wait(300)
        server._sweep()
        assert jobs[0].id not in server._jobs
        assert small.id in server._jobs
        large = server.submit(square, np.arange(500_000, dtype=float))
        assert large.wait(300)
        until(lambda: list(server._jobs) == [large.id])  # by itself; the last one stays, however large
        assert len(large.result()["square"]) == 500_000
    finally:
        server.close()


@pytest.mark.parametrize("when", ["starting", "importing", "queued", "running", "cancelling", "over"])
def test_a_job_can_be_cancelled_in_every_state(when: str) -> None:
    slow = ["tests.slow_import"] if when == "importing" else []
    server = JobServer(warm_up=slow, grace=0.5)
    try:
        if when == "queued":
            first = running(server.submit(count, LONG))
        job = server.submit(count if when == "running" else deaf, LONG if when == "running" else 600.0)
        if when == "starting":
            assert job.state == "starting"
        elif when == "importing":
            until(lambda: server.ready and job._state == "starting")
            time.sleep(1.0)  # Dask has given it to the worker, which still imports
        elif when == "queued":
            until(lambda: job.state == "queued")
            assert job.position == 1
        else:
            running(job)
        if when in ("cancelling", "over"):
            job.cancel()
            assert job.cancelling
        if when == "over":
            assert job.wait(300)
        job.cancel()
        assert job.wait(300)
        assert job.state == "cancelled"
        assert job.error == "The job was cancelled."
        if when == "queued":
            assert first.state == "running"
            stop(first)
        assert works(server)
    finally:
        server.close()


def test_a_worker_that_does_not_hear_the_cancel_while_it_starts_does_not_begin_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = JobServer(warm_up=["tests.slow_import"], grace=0.3)
    send = server._send

    def busy(function: Any, *arguments: Any, **options: Any) -> None:
        if function is not worker.ask_to_stop:
            send(function, *arguments, **options)

    monkeypatch.setattr(server, "_send", busy)
    try:
        job = server.submit(deaf, 600.0)
        until(lambda: server.ready and job._state == "starting")
        until(lambda: any(server._client.processing().values()))  # Dask has given it to the worker, which still imports
        job.cancel()
        assert job.wait(300)
        assert works(server)
    finally:
        server.close()
