"""The Dask processes that carry the jobs, started by command line and gone when their parent is.

    web process --stdin pipe--> scheduler
                --stdin pipe--> nanny ----> worker, one thread: torch, the loaded models     (one pair per device)

``LocalCluster``     starts a scheduler and the nannies on the loopback, encrypted with a temporary certificate
``default_devices``  what to compute on by default
``places``           which workers a list of devices means, and what CUDA_VISIBLE_DEVICES is in each
``dask_setup``       what Dask runs in scheduler and nanny (``--preload circuit.workers.cluster``): end with the parent

    cluster = LocalCluster(devices=["cuda:0", "cuda:1"], warm_up=["torch"])
    while (address := cluster.address()) is None and cluster.alive():
        time.sleep(0.05)
    client = distributed.Client(address, security=cluster.security)
    ...
    cluster.close()

Command lines, because ``multiprocessing`` (and so ``distributed.LocalCluster``) runs a Streamlit page again in
the child. Nothing here imports Dask before it is used: importing it takes half a second.
"""

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from circuit.common.errors import SettingsError
from circuit.common.settings import cuda_devices
from circuit.workers import worker

STOPPED = 3.0
"""Seconds after which a process that has been stopped, and neither ended nor continued, is given up."""
_FOLDER = "EDGESCOPE_CLUSTER_FOLDER"  # set in our own processes only: the folder to remove at the end


class LocalCluster:
    """A Dask scheduler and its workers as child processes; the constructor does not wait for them.

    ``devices`` and ``cpu_workers`` are those of ``places``. ``memory_limit`` is for each worker, as Dask takes it: a
    share of the machine's memory (0.5) or a size ("8 GB"); a worker above 95 % of it is ended and started again.
    """

    def __init__(
        self,
        *,
        devices: Sequence[str] = ("cpu",),
        cpu_workers: int = 1,
        memory_limit: float | str | None = None,
        warm_up: Sequence[str] = (),
    ) -> None:
        from dask.system import CPU_COUNT
        from distributed.security import Security

        workers = places(devices, cpu_workers)
        self.security = Security.temporary()
        self._folder = Path(tempfile.mkdtemp(prefix="edgescope-"))  # mode 0700
        self._stopped: dict[psutil.Process, float] = {}  # since when
        self._scheduler_file = self._folder / "scheduler.json"
        tls = []
        for option, pem in (
            ("--tls-ca-file", self.security.tls_ca_file),
            ("--tls-cert", self.security.tls_scheduler_cert),
            ("--tls-key", self.security.tls_scheduler_key),
        ):
            path = self._folder / f"{option.removeprefix('--tls-')}.pem"
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(pem)
            tls += [option, str(path)]

        common = ["--protocol", "tls", *tls, "--scheduler-file", str(self._scheduler_file)]
        common += ["--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
        nanny = ["--nthreads", "1", "--nworkers", "1", "--death-timeout", "120"]
        nanny += ["--memory-limit", str(memory_limit or 0.8 / len(workers))]
        nanny += ["--preload", worker.__name__, "--preload-nanny", __name__]

        # A core is left to the web server, unless whoever started us has said how many threads to use.
        threads = str(max(1, (CPU_COUNT - 1) // len(workers)))
        env = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **_FEW_KERNELS} | os.environ
        env |= _DASK_SETTINGS
        env |= {
            "PYTHONPATH": os.pathsep.join(_import_path()),
            "DASK_TEMPORARY_DIRECTORY": str(self._folder),
            _FOLDER: str(self._folder),
            worker.WARM_UP: ",".join(warm_up),
        }
        # All at once: a nanny waits for the scheduler's file while it imports.
        self._processes = [
            _spawn("distributed.cli.dask_scheduler", [*common, "--port", "0", "--preload", __name__], env),
            *(_spawn("distributed.cli.dask_worker", [*common, *nanny], env | of_its_own) for of_its_own in workers),
        ]

    def address(self) -> str | None:
        """The scheduler's address once it listens, else None."""
        try:
            return str(json.loads(self._scheduler_file.read_text())["address"])
        except (OSError, ValueError, KeyError):  # not written yet, or half written
            return None

    def alive(self) -> bool:
        """Whether scheduler and nannies run. A worker that died is the nanny's business."""
        return all(process.poll() is None for process in self._processes)

    def end_stopped(self) -> None:
        """End processes that have been stopped without ending (SIGSTOP) for `STOPPED` seconds: they would never say so.

        A nanny starts its worker again; without the scheduler or a nanny the cluster is no longer alive.
        """
        now, stopped = time.monotonic(), {}
        for process in self._family():
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_STOPPED:
                    stopped[process] = self._stopped.get(process, now)
                    if now - stopped[process] > STOPPED:
                        process.kill()
        self._stopped = stopped

    def _family(self) -> list[psutil.Process]:
        """The processes that we have started, and those that they have."""
        family = []
        for started in self._processes:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(started.pid)
                family += [process, *process.children(recursive=True)]
        return family

    def close(self) -> None:
        """End all processes at once and remove their folder. There is nothing in them worth saving."""
        for process in self._processes:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes:
            if process.stdin:
                process.stdin.close()
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def places(devices: Sequence[str], cpu_workers: int = 1, cuda: Sequence[str] | None = None) -> list[dict[str, str]]:
    """The environment variables that each worker has for itself: one worker per device, `cpu_workers` for "cpu".

    A worker sees its own CUDA device and no other, whatever number that has outside, and a worker on the CPU sees none.
    ``cuda`` is what ``circuit.common.settings.cuda_devices`` finds.

    Raises:
        SettingsError: A CUDA device that this machine does not have.
    """
    found = []
    for device in devices:
        visible = ""
        if device.startswith("cuda:"):
            cuda = cuda_devices() if cuda is None else cuda
            number = int(device.removeprefix("cuda:"))
            if number >= len(cuda):
                raise SettingsError(
                    f"The setting 'devices' names {device}, and this machine has {len(cuda)} CUDA devices that can be "
                    "seen: name others, or leave the list empty."
                )
            visible = cuda[number]
        variables = {worker.DEVICE: device, "CUDA_VISIBLE_DEVICES": visible}
        if visible and "CUDA_VISIBLE_DEVICES" not in os.environ:
            variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # nvidia-smi's, which has numbered them
        found += [variables] * (cpu_workers if device == "cpu" else 1)
    return found


def default_devices() -> list[str]:
    """Every CUDA device that can be seen, else Apple's, else one CPU."""
    if cuda := [f"cuda:{number}" for number in range(len(cuda_devices()))]:
        return cuda
    return ["mps" if sys.platform == "darwin" and platform.machine() == "arm64" else "cpu"]


_FEW_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "128"}
"""oneDNN and PyTorch keep a compiled kernel for each shape of a product, 0.6 MB each, up to a thousand by default. A
batch of prompts needs about thirty."""
_DASK_SETTINGS = {
    # A job that kills its worker fails at once instead of killing three more.
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    # Models stay in the worker between jobs: it must not pause or spill because of them, only end.
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
    # Dask's profiler looks at every worker a hundred times a second.
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    # Pages about the cluster (call stacks, logs) that any local user could read: none.
    "DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": "[]",
    "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "[]",
    "DASK_LOGGING__DISTRIBUTED": "warning",
}


def _import_path() -> list[str]:
    """What the web process can import, its workers can: job functions are sent by name."""
    here = str(Path(__file__).resolve().parents[2])
    return list(dict.fromkeys(path for path in [here, *sys.path] if path))


def _spawn(module: str, arguments: list[str], env: dict[str, str]) -> "subprocess.Popen[bytes]":
    # -P: a file of the current folder must not shadow the standard library.
    # Its own session: Ctrl-C in the terminal is the web process's to handle, and one signal ends the family.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        env=env,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def dask_setup(service: Any) -> None:
    """Dask calls this in the scheduler and in the nanny."""
    if folder := os.environ.get(_FOLDER):
        threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()


def _end_with_parent(folder: str) -> None:
    """Wait for the end of stdin, which the parent never writes to: it comes however the parent ended.

    (Linux's PR_SET_PDEATHSIG would come when the *thread* that started the process ends.)
    """
    while os.read(0, 4096):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)  # and with this process the workers under it
