"""Jobs run in real Dask processes."""

import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from circuit.common.errors import JobCancelled, JobError, ModelError, PromptError
from circuit.edges.method import Method
from circuit.jobs.attribute import attribute
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.workers import worker
from circuit.workers.cluster import LocalCluster
from circuit.workers.server import JobServer
from tests.job_functions import (
    LONG,
    awkward_error,
    bad_prompt,
    bug,
    count,
    deaf,
    die,
    eat_memory,
    improve,
    leave,
    lives,
    names_folders,
    running,
    spared_by_collector,
    square,
    torch_eats_memory,
    unlimited,
    unpicklable,
    until,
    works,
)


@pytest.fixture(scope="module")
def server() -> Iterator[JobServer]:
    server = JobServer(warm_up=[], grace=1.0)
    yield server
    server.close()


def test_a_job_can_be_submitted_before_the_workers_are_up() -> None:
    server = JobServer(warm_up=["fractions"])
    try:
        job = server.submit(square, [1, 2])
        assert not server.ready
        assert job.state == "starting"
        assert job.wait(300)
        assert server.ready
        np.testing.assert_array_equal(job.result()["square"], [1, 4])
    finally:
        server.close()


def test_importing_jobs_is_cheap() -> None:
    code = "import sys, circuit.workers.server; print({'distributed', 'torch', 'streamlit'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert printed.stdout.strip() == "set()"


def test_the_result_comes_back(server: JobServer) -> None:
    job = server.submit(square, [1, 2, 3], title="squares")
    assert job.title == "squares"
    assert job.wait(300)
    assert job.state == "finished"
    assert job.error is None
    np.testing.assert_array_equal(job.result()["square"], [1, 4, 9])


def test_python_does_not_look_for_garbage_in_what_a_worker_imported(server: JobServer) -> None:
    job = server.submit(spared_by_collector, None)
    assert job.wait(300)
    assert job.result() > 10_000


def test_the_same_function_runs_without_a_server() -> None:
    seen = []
    count({"steps": 2, "seconds": 0}, progress=lambda *report: seen.append(report), cancelled=lambda: False)
    assert seen == [(0, 2, "step 0"), (1, 2, "step 1"), (2, 2, "done")]


def test_a_job_gets_the_request_as_it_was_submitted(server: JobServer) -> None:
    request = [1]
    job = server.submit(square, request)
    request.append(2)
    job.wait(300)
    assert len(job.result()["square"]) == 1


def test_a_request_that_cannot_be_sent_is_refused_at_once(server: JobServer) -> None:
    with pytest.raises(TypeError):
        server.submit(square, (number for number in range(3)))


def test_progress_is_seen_while_the_job_runs(server: JobServer) -> None:
    job = server.submit(count, {"steps": 40, "seconds": 0.05})
    until(lambda: 0 < (job.remaining or 0) < 30)
    until(lambda: job.message == f"step {job.step}")
    assert 0 < job.step < job.total == 40
    assert 0 < job.elapsed < 30
    assert job.wait(300)
    assert (job.step, job.total, job.message, job.remaining) == (40, 40, "done", None)


def test_the_last_progress_of_a_quick_job_arrives(server: JobServer) -> None:
    job = server.submit(count, {"steps": 1000, "seconds": 0})
    job.wait(300)
    assert (job.step, job.message) == (1000, "done")


def test_there_is_no_result_before_the_end(server: JobServer) -> None:
    job = running(server.submit(count, LONG))
    with pytest.raises(JobError, match="no result yet"):
        job.result()
    assert not job.wait(0.01)
    job.cancel()
    assert job.wait(300)


def test_our_own_errors_reach_the_owner_as_they_are(server: JobServer) -> None:
    job = server.submit(bad_prompt, 7)
    job.wait(300)
    assert job.state == "failed"
    assert job.error == "Row 7 has no answer. Add one."
    with pytest.raises(PromptError, match="Row 7"):
        job.result()


def test_an_error_that_cannot_travel_arrives_as_its_sentence(server: JobServer) -> None:
    job = server.submit(awkward_error, None)
    job.wait(300)
    assert (job.state, job.error) == ("failed", "Row 3 is empty.")


def test_an_error_names_no_folder_of_the_server(server: JobServer, tmp_path: Path) -> None:
    job = server.submit(names_folders, tmp_path)
    assert job.wait(300)
    assert job.error == "The model small could not be loaded: no file config.json."
    with pytest.raises(ModelError):
        job.result()


@pytest.mark.parametrize(
    ("function", "detail"), [(bug, "a secret detail"), (unpicklable, "pickle"), (leave, "SystemExit")]
)
def test_a_bug_becomes_a_reference_to_the_log(
    server: JobServer, caplog: pytest.LogCaptureFixture, function: Callable[..., Any], detail: str
) -> None:
    with caplog.at_level(logging.ERROR, logger="circuit.workers.job"):
        job = server.submit(function, None)
        job.wait(300)
    assert job.state == "failed"
    assert job.error is not None
    assert detail not in job.error
    reference = re.search(r"reference ([0-9a-f]{8})", job.error)
    assert reference is not None
    assert reference[1] in caplog.text
    assert detail in caplog.text
    with pytest.raises(JobError):
        job.result()


def test_jobs_run_first_come_first_served(server: JobServer) -> None:
    first = running(server.submit(count, LONG))
    second, third, fourth = (server.submit(square, number) for number in range(3))
    assert [job.position for job in (first, second, third, fourth)] == [None, 1, 2, 3]
    assert (third.state, third.elapsed, third.remaining) == ("queued", 0.0, None)
    third.cancel()
    assert third.state == "cancelled"
    assert [job.position for job in (second, third, fourth)] == [1, None, 2]
    first.cancel()
    assert fourth.wait(300)
    assert second.state == fourth.state == "finished"
    assert third.state == "cancelled"


def test_a_running_job_that_checks_stops_and_leaves_its_worker_alone(server: JobServer) -> None:
    before = server.submit(count, {"steps": 0, "seconds": 0})
    job = running(server.submit(count, LONG))
    job.cancel()
    assert job.wait(300)
    assert job.state == "cancelled"
    assert not job.cancelling
    with pytest.raises(JobCancelled):
        job.result()
    after = server.submit(count, {"steps": 0, "seconds": 0})
    after.wait(300)
    assert after.result() == before.result()  # the process


def test_a_running_job_that_does_not_check_is_ended_and_the_queue_goes_on(server: JobServer) -> None:
    job = running(server.submit(deaf, 600.0))
    waiting = [server.submit(square, number) for number in range(3)]
    job.cancel()
    assert job.cancelling
    assert job.wait(300)
    assert job.state == "cancelled"
    assert [other.wait(300) and other.result()["square"] for other in waiting] == [0, 1, 4]


def test_a_job_whose_worker_is_ended_because_of_the_one_before_begins_again(
    server: JobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before ends by itself while the order to end its worker is on its way."""
    send = server._send
    on_its_way: list[Callable[[], None]] = []

    def late(function: Any, *arguments: Any, **options: Any) -> None:
        if function is worker.end_worker:
            on_its_way.append(lambda: send(function, *arguments, **options))
        else:
            send(function, *arguments, **options)

    monkeypatch.setattr(server, "_send", late)
    before = running(server.submit(deaf, 4.0))
    job = server.submit(count, {"steps": 20, "seconds": 0.1})
    before.cancel()
    assert before.wait(300)
    assert before.state == "cancelled"
    running(job)
    first = job._worker
    [end] = on_its_way
    end()
    assert job.wait(300)
    assert job.state == "finished", job.error
    assert job._worker != first


def test_jobs_go_on_when_the_clock_is_set_back() -> None:
    script = [sys.executable, "-m", "tests.workers.clock_set_back"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr


def test_a_job_that_improves_shows_its_figures_and_ends_with_what_it_has_when_asked(server: JobServer) -> None:
    job = server.submit(improve, LONG)
    until(lambda: len(job.figures) >= 3)
    assert job.figures[:3] == [(1, 0.5), (2, 0.25), (3, 0.125)]
    job.settle()
    assert job.wait(300)
    assert job.state == "finished"
    steps, process = job.result()
    assert 3 <= steps < LONG["steps"]
    after = server.submit(improve, {"steps": 4, "seconds": 0.05})
    assert after.wait(300)
    assert after.result() == (4, process)  # nobody has asked this one


def test_asking_a_job_that_waits_or_is_over_for_what_it_has_changes_nothing(server: JobServer) -> None:
    first = running(server.submit(count, LONG))
    waiting = server.submit(improve, {"steps": 3, "seconds": 0.01})
    waiting.settle()
    first.cancel()
    assert waiting.wait(300)
    assert waiting.result()[0] == 3
    waiting.settle()
    assert waiting.result()[0] == 3


def test_a_job_that_kills_its_process_fails_once_and_the_queue_goes_on(server: JobServer, tmp_path: Path) -> None:
    job = server.submit(die, tmp_path / "diary")
    waiting = server.submit(square, 3)
    assert job.wait(300)
    assert job.state == "failed"
    assert job.error is not None
    assert "stopped" in job.error
    assert (tmp_path / "diary").read_text() == "x"
    assert waiting.wait(300)
    assert waiting.state == "finished"


def test_cancelling_twice_or_too_late_changes_nothing(server: JobServer) -> None:
    job = server.submit(square, 3)
    job.wait(300)
    job.cancel()
    job.cancel()
    assert job.state == "finished"


def test_jobs_are_found_by_their_id_only(server: JobServer) -> None:
    job = server.submit(square, 3)
    assert server.get(job.id) is job
    assert re.fullmatch("[0-9a-f]{32}", job.id)
    assert server.get(job.id[:8]) is None
    assert server.get("") is None


def test_many_threads_may_submit_at_once(server: JobServer) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def run(number: int) -> int:
        job = server.submit(square, number)
        assert job.wait(300)
        return int(job.result()["square"])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(24))) == [number**2 for number in range(24)]


def test_a_dead_scheduler_is_replaced(server: JobServer) -> None:
    job = running(server.submit(deaf, 600.0))
    assert server._cluster is not None
    server._cluster._processes[0].kill()
    assert job.wait(300)
    assert job.state == "failed"
    assert works(server)


def test_a_cluster_that_somebody_else_started_is_used_and_left_alone() -> None:
    import dask

    theirs = LocalCluster()
    try:
        until(theirs.address)
        folder = Path(theirs._folder)
        tls = {
            "distributed.comm.tls.ca-file": str(folder / "ca-file.pem"),
            "distributed.comm.tls.client.cert": str(folder / "cert.pem"),
            "distributed.comm.tls.client.key": str(folder / "key.pem"),
        }
        with dask.config.set(tls):
            server = JobServer(theirs.address())
            assert works(server)
            job = running(server.submit(deaf, 600.0))
            server.close()
            assert job.state == "cancelled"
        assert theirs.alive()
    finally:
        theirs.close()


def test_too_much_memory_ends_the_job_only() -> None:
    server = JobServer(warm_up=[], memory_limit="600 MB")
    try:
        job = server.submit(eat_memory, None)
        assert job.wait(300)
        assert job.state == "failed"
        assert job.error is not None
        assert job.error.startswith("The worker ran out of memory")
        assert works(server)
    finally:
        server.close()


@pytest.mark.parametrize(
    ("function", "limit", "words"),
    [
        (eat_memory, 300_000_000, "The job ran out of memory"),
        (torch_eats_memory, 300_000_000, "The device ran out of memory"),
    ],
    ids=["numpy", "torch"],
)
def test_a_job_that_gets_no_more_memory_fails_and_leaves_its_worker_alone(
    function: Callable[..., Any], limit: int, words: str
) -> None:
    server = JobServer(warm_up=[])
    try:
        before = server.submit(unlimited, None)
        job = server.submit(function, limit)
        assert job.wait(300)
        assert job.state == "failed"
        assert (job.error or "").startswith(words)
        after = server.submit(unlimited, None)
        assert after.wait(300)
        assert after.result() == before.result()  # the process
        assert works(server)
    finally:
        server.close()


@pytest.mark.parametrize("what", ["worker", "nanny", "scheduler"])
def test_a_process_that_is_stopped_without_ending_is_replaced_and_its_job_told(what: str) -> None:
    server = JobServer(warm_up=[])
    try:
        job = running(server.submit(deaf, 600.0))
        cluster = server._cluster
        assert cluster is not None
        scheduler, nanny = (psutil.Process(started.pid) for started in cluster._processes)
        {"worker": nanny.children()[-1], "nanny": nanny, "scheduler": scheduler}[what].suspend()
        assert job.wait(300)
        assert job.state == "failed"
        assert "was stopped from outside" in (job.error or "")
        assert works(server)
    finally:
        server.close()


def test_a_worker_that_is_stopped_while_it_has_nothing_to_do_is_replaced() -> None:
    server = JobServer(warm_up=[])
    try:
        assert works(server)
        assert server._cluster is not None
        nanny = psutil.Process(server._cluster._processes[1].pid)
        stopped = nanny.children()[-1]
        before = {child.pid for child in nanny.children()}
        stopped.suspend()
        until(lambda: not lives(stopped.pid) and {child.pid for child in nanny.children()} - before)
        assert works(server)
    finally:
        server.close()


def test_two_servers_do_not_disturb_each_other(server: JobServer, tmp_path: Path) -> None:
    """The other is in a web process of its own, which is killed while its job runs."""
    job = running(server.submit(count, LONG))
    (tmp_path / "job_source.py").write_text(JOB_SOURCE)
    code = PARENT.format(root=str(ROOT), tests=str(tmp_path), ending="time.sleep(600)")
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    _, *family = other.stdout.readline().split()
    assert len(family) >= 3
    assert job.state == "running"
    other.kill()
    other.communicate(timeout=300)
    until(lambda: not any(lives(int(pid)) for pid in family))
    assert job.state == "running"
    job.cancel()
    assert job.wait(300)
    assert works(server)


def test_closing_ends_every_process_and_job() -> None:
    others = set(psutil.Process().children(recursive=True))
    server = JobServer(warm_up=[])
    job = running(server.submit(deaf, 600.0))
    queued = server.submit(square, 3)
    family = set(psutil.Process().children(recursive=True)) - others
    assert len(family) >= 3  # scheduler, nanny, worker
    server.close()
    server.close()
    assert job.state == queued.state == "cancelled"
    until(lambda: not any(lives(process.pid) for process in family))
    with pytest.raises(JobError, match="shutting down"):
        server.submit(square, 3)


ROOT = Path(__file__).resolve().parents[2]
JOB_SOURCE = "import time\ndef deaf(seconds, *, progress, cancelled):\n    time.sleep(seconds)\n"
PARENT = """
import psutil, sys, time
sys.path[:0] = [{root!r}, {tests!r}]
from circuit.workers.server import JobServer
from job_source import deaf
server = JobServer(warm_up=[])
job = server.submit(deaf, 600.0)
while job.state != "running":
    time.sleep(0.05)
print(server._cluster._folder, *(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
{ending}
"""


@pytest.mark.parametrize("ending", ["time.sleep(600)", "pass"], ids=["killed", "exits"])
def test_no_process_and_no_key_outlives_the_web_process(tmp_path: Path, ending: str) -> None:
    (tmp_path / "job_source.py").write_text(JOB_SOURCE)
    code = PARENT.format(root=str(ROOT), tests=str(tmp_path), ending=ending)
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    folder, *family = parent.stdout.readline().split()
    assert len(family) >= 3
    if ending != "pass":
        assert Path(folder).stat().st_mode & 0o077 == 0
        assert all(file.stat().st_mode & 0o077 == 0 for file in Path(folder).glob("*.pem"))
        parent.kill()
    parent.communicate(timeout=300)
    until(lambda: not any(lives(int(pid)) for pid in family))
    until(lambda: not Path(folder).exists())


def test_a_worker_does_not_remember_every_job_it_was_asked_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_asked_to_stop", {})
    for number in range(1000):
        worker.ask_to_stop(f"job {number}")
    assert len(worker._asked_to_stop) == 100
    assert "job 999" in worker._asked_to_stop


def test_only_the_worker_of_a_job_is_asked_to_stop_it(server: JobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    send = server._send

    def seen(function: Any, *arguments: Any, **options: Any) -> None:
        if function is worker.ask_to_stop:
            asked.append(options.get("workers"))
        send(function, *arguments, **options)

    monkeypatch.setattr(server, "_send", seen)
    job = running(server.submit(count, LONG))
    job.cancel()
    assert job.wait(300)
    assert asked == [[job._worker]]


def test_a_bundled_model_is_free_soon_after_a_cancel() -> None:
    server = JobServer()
    try:
        long = Method(mask_val=None, integrated_grad_samples=500)
        config = RunConfig("teaching", PRESETS["teaching-ioi"].prompts, long)
        job = server.submit(attribute, config)
        until(lambda: job.step > 2, 90)
        before = job.elapsed
        job.cancel()
        assert job.wait(300)
        assert job.state == "cancelled"
        assert job.elapsed - before < 10  # two, where the machine has nothing else to do
        assert works(server)
    finally:
        server.close()


def test_a_job_handed_over_while_the_workers_are_given_up_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    server = JobServer(warm_up=[])
    try:
        connect = server._connect

        def and_set_back() -> Any:
            monkeypatch.setattr(server, "_connect", connect)
            client = connect()
            server._start_again()
            return client

        assert works(server)
        monkeypatch.setattr(server, "_connect", and_set_back)
        job = server.submit(square, 3)
        assert job.wait(300)
        assert job.state == "finished", job.error
        assert job.result()["square"] == 9
    finally:
        server.close()
