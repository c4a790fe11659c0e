"""Workers of our own, one a device, and workers that somebody else has started."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from circuit.common.errors import SettingsError
from circuit.common.settings import cuda_devices
from circuit.workers.cluster import LocalCluster, default_devices, places
from circuit.workers.server import JobServer
from tests.job_functions import LONG, count, environment, running, square, until, works


def test_every_worker_sees_its_own_device_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = places(["cuda:0", "cuda:1", "cpu"], cpu_workers=2, cuda=["0", "1", "2"])
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["0", "1", "", ""]
    assert [each["EDGESCOPE_DEVICE"] for each in found] == ["cuda:0", "cuda:1", "cpu", "cpu"]
    assert [each.get("CUDA_DEVICE_ORDER") for each in found] == ["PCI_BUS_ID", "PCI_BUS_ID", None, None]


def test_devices_are_numbered_among_those_that_the_owner_left_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, MIG-abc")
    assert cuda_devices() == ["3", "MIG-abc"]
    assert default_devices() == ["cuda:0", "cuda:1"]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in places(["cuda:1", "cuda:0"])] == ["MIG-abc", "3"]
    with pytest.raises(SettingsError, match=r"names cuda:2, and this machine has 2 CUDA devices"):
        places(["cuda:2"])


def test_a_machine_without_cuda_gets_one_worker_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("sys.platform", "linux")
    assert default_devices() == ["cpu"]


def test_devices_are_found_by_what_the_driver_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cuda_devices() == []
    tool.write_text('#!/bin/sh\nif [ "$1" = --query-gpu=index ]; then echo 0; echo 1; fi\n')
    tool.chmod(0o755)
    assert cuda_devices() == ["0", "1"]
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert cuda_devices() == []


def test_the_command_lines_give_each_device_a_nanny_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    started: list[tuple[str, list[str], dict[str, str]]] = []

    def spawn(module: str, arguments: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        started.append((module, arguments, env))
        return subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE, start_new_session=True)

    monkeypatch.setattr("circuit.workers.cluster._spawn", spawn)
    LocalCluster(devices=["cuda:0", "cuda:1", "cpu"]).close()
    (scheduler, *_), *workers = started
    assert scheduler == "distributed.cli.dask_scheduler"
    assert [env["CUDA_VISIBLE_DEVICES"] for _, _, env in workers] == ["0", "1", ""]
    for module, arguments, _ in workers:
        assert module == "distributed.cli.dask_worker"
        options = dict(itertools.pairwise(arguments))
        assert (options["--nworkers"], options["--nthreads"], options["--preload"]) == (
            "1",
            "1",
            "circuit.workers.worker",
        )
        assert float(options["--memory-limit"]) == pytest.approx(0.8 / 3)


def test_two_workers_on_the_cpu_run_two_jobs_at_once() -> None:
    server = JobServer(cpu_workers=2, warm_up=[])
    try:
        assert server.devices == ("cpu", "cpu")
        until(lambda: server._client)
        server._client.wait_for_workers(2, timeout=300)
        jobs = [server.submit(environment, 3.0, owner=owner) for owner in ("ann", "bob")]
        until(lambda: [job.state for job in jobs] == ["running", "running"])
        assert all(job.wait(300) for job in jobs)
        found = [job.result() for job in jobs]
        assert found[0]["pid"] != found[1]["pid"]
        assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["", ""]
        assert {each["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] for each in found} == {"128"}
        assert {each["LRU_CACHE_CAPACITY"] for each in found} == {"128"}
    finally:
        server.close()


# --- a cluster that somebody else has started ----------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]


class Machines:
    """A scheduler and workers, started by command line as docs/server.md says."""

    def __init__(self, folder: Path) -> None:
        from distributed.security import Security

        security = Security.temporary()
        tls = {"ca-file": security.tls_ca_file, "cert": security.tls_worker_cert, "key": security.tls_worker_key}
        for name, pem in tls.items():
            (folder / f"{name}.pem").write_text(str(pem))
        pair = f"{{cert: {folder}/cert.pem, key: {folder}/key.pem}}"
        (folder / "dask.yaml").write_text(
            "distributed:\n"
            "  scheduler: {allowed-failures: 0}\n"
            "  comm:\n"
            "    require-encryption: true\n"
            f"    tls: {{ca-file: {folder}/ca-file.pem, scheduler: {pair}, worker: {pair}, client: {pair}}}\n"
        )
        self.folder = folder
        self.client = {  # what the same file says to a process that starts with it
            "distributed.comm.tls.ca-file": str(folder / "ca-file.pem"),
            "distributed.comm.tls.client.cert": str(folder / "cert.pem"),
            "distributed.comm.tls.client.key": str(folder / "key.pem"),
        }
        self.scheduler_file = folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.run("scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
                 "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(self.scheduler_file))  # fmt: skip
        until(lambda: self.scheduler_file.exists() and self.scheduler_file.read_text().endswith("}"))

    def run(self, what: str, *arguments: str) -> subprocess.Popen[bytes]:
        env = os.environ | {"DASK_CONFIG": str(self.folder / "dask.yaml"), "EDGESCOPE_WARM_UP": "fractions"}
        env |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([str(Path(sys.executable).parent / "dask"), what, *arguments], cwd=ROOT, env=env)
        self.processes.append(process)
        return process

    def worker(self) -> subprocess.Popen[bytes]:
        return self.run("worker", "--scheduler-file", str(self.scheduler_file), "--nthreads", "1", "--nworkers", "1",
                        "--preload", "circuit.workers.worker", "--host", "127.0.0.1", "--no-dashboard",
                        "--dashboard-address", "127.0.0.1:0", "--local-directory", str(self.folder))  # fmt: skip

    def close(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(300)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    machines = Machines(tmp_path)
    yield machines
    machines.close()


def test_workers_of_other_machines_are_used_as_they_come_and_go(machines: Machines) -> None:
    import dask

    address = json.loads(machines.scheduler_file.read_text())["address"]
    assert address.startswith("tls://")
    with dask.config.set(machines.client):
        server = JobServer(address, grace=0.5)
        try:
            early = server.submit(square, 3)
            until(lambda: server._client is not None)
            assert (early.state, server.devices) == ("starting", ())  # there is no worker yet
            first = machines.worker()
            assert early.wait(300)
            assert early.result() == {"square": 9}
            assert server.devices == ("cpu on 127.0.0.1",)

            machines.worker()
            until(lambda: len(server.devices) == 2)
            both = [server.submit(count, LONG, owner=owner) for owner in ("ann", "bob")]
            until(lambda: [job.state for job in both] == ["running", "running"])
            for job in both:
                job.cancel()
            assert all(job.wait(300) for job in both)

            first.terminate()
            until(lambda: len(server.devices) == 1)
            one, two = running(server.submit(count, LONG)), server.submit(square, 3)
            assert two.position == 1
            one.cancel()
            assert two.wait(300)
            assert works(server)
        finally:
            server.close()
        assert machines.processes[0].poll() is None  # the scheduler is not ours to end
