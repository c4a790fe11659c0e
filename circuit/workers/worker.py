"""What runs in a Dask worker: the warm-up, and one job at a time.

``JobFunction``  what a job is: ``function(request, *, progress, cancelled)``
``work``         run one: report its progress, catch whatever it raises
``ask_to_stop``  called in the worker beside the job: ``cancelled()`` is true from now on
``ask_to_settle``  the same: ``circuit.common.progress.enough()`` is true from now on
``end_worker``   called in the nanny: end the worker, whatever it is busy with
``end_stopped_worker``  called there where a worker has not been heard of: end it if it has been stopped
``dask_setup``   what Dask calls when a worker starts (``--preload circuit.workers.worker``): import what jobs need, and
                 tell the scheduler which device this worker has

    def attribute(request, *, progress, cancelled):
        for step, batch in enumerate(request.batches):
            if cancelled():
                raise JobCancelled("The run was cancelled.")
            progress(step, len(request.batches), "scoring edges")
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Protocol

import cloudpickle

from circuit.common.errors import CircuitError, JobCancelled, JobError
from circuit.common.paths import without_folders
from circuit.common.progress import Report, collected, followed
from circuit.common.settings import MEMORY_LIMIT, cuda_devices, serving

WARM_UP = "EDGESCOPE_WARM_UP"  # environment variable: modules to import, separated by commas
MODULES = (
    "torch",
    "transformer_lens",
    "circuit.engine.mask_gradient",
    "circuit.engine.patched_pass",
    "transformers.masking_utils",
)
"""All that a job imports: the worker does it while the visitor reads, so that the first click need not wait for it."""
DEVICE = "EDGESCOPE_DEVICE"  # environment variable: what the worker's device is called, "cuda:1"
INTERVAL = 0.1  # seconds between two progress events
SMALLER = "Try fewer prompts at once, or a smaller model."
Step = tuple[int, int, str]  # step, total, message
Figure = tuple[int, float]  # step, and what it came to
_log = logging.getLogger(__name__)
_asked_to_stop: dict[str, None] = {}  # ids of jobs, in the order in which they were asked
_asked_to_settle: dict[str, None] = {}  # the same of those that should make do with what they have
_MOST_ASKED = 100  # more than jobs that may be about to begin here: those that ran elsewhere, or are over, leave an id
_warm_up: threading.Thread | None = None


class JobFunction(Protocol):
    """A module-level function. It raises ``JobCancelled`` when ``cancelled()`` says so, and returns plain objects:
    the web process that gets them has no torch."""

    def __call__(self, request: Any, /, *, progress: Report, cancelled: Callable[[], bool]) -> Any: ...


def work(payload: bytes, job_id: str, topic: str) -> tuple[str, Any, Step | None, list[str]]:
    """Run one pickled (function, request). Returns the job's last state, what goes with it, its last progress, and the
    notes that nothing in it has collected.

    With "finished" goes the pickled result, with "cancelled" and "failed" the pickled exception, with "unexpected"
    a traceback. All as bytes or text: a result that cannot be pickled is then this job's error, not Dask's.
    """
    from distributed import get_worker

    worker = get_worker()

    def send(progress: Step | None, figures: list[Figure] | None = None) -> None:
        event = {"id": job_id, "worker": worker.address, "progress": progress, "figures": figures or []}
        worker.log_event(topic, event)

    def cancelled() -> bool:
        return job_id in _asked_to_stop

    def enough() -> bool:
        return job_id in _asked_to_settle

    reporter = _Reporter(send)
    state: str
    outcome: bytes | str
    notes: list[str] = []
    try:
        while _warm_up is not None and _warm_up.is_alive():  # two threads in one import can meet half a module
            if cancelled():
                raise JobCancelled("The job was cancelled.")
            time.sleep(0.05)
        send(None)  # the job begins
        with reporter, serving(), followed(reporter.plot, enough), collected() as notes:
            function, request = pickle.loads(payload)
            value = function(request, progress=reporter.progress, cancelled=cancelled)
        state, outcome = "finished", cloudpickle.dumps(value)
    except JobCancelled as error:
        state, outcome = "cancelled", _pickled(error)
    except CircuitError as error:
        state, outcome = "failed", _pickled(error)
    except MemoryError:  # the traceback, and with it all that the job held, goes at the end of this clause
        state, outcome = "failed", _pickled(JobError(f"The job ran out of memory. {SMALLER}"))
    except BaseException:  # SystemExit too: a job must not end a thread of Dask's
        state, outcome = "unexpected", traceback.format_exc()
    finally:
        _asked_to_stop.pop(job_id, None)
        _asked_to_settle.pop(job_id, None)
    return state, outcome, reporter.latest, notes


class _Reporter:
    """Sends the latest progress, if there is news, ten times a second: reporting costs the job an assignment."""

    def __init__(self, send: Callable[[Step, list[Figure]], None]) -> None:
        self.latest: Step | None = None
        self._figures: list[Figure] = []
        self._send = send
        self._over = threading.Event()

    def progress(self, step: int, total: int, message: str = "") -> None:
        self.latest = (int(step), int(total), str(message))

    def plot(self, step: int, figure: float) -> None:
        self._figures.append((int(step), float(figure)))

    def __enter__(self) -> None:
        threading.Thread(target=self._loop, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _loop(self) -> None:
        sent = None
        while not self._over.wait(INTERVAL):
            latest = self.latest
            if latest is not None and latest is not sent:
                figures, self._figures = self._figures, []
                self._send(latest, figures)
                sent = latest


def _pickled(error: CircuitError) -> bytes:
    """The exception itself if it survives the trip (not every constructor allows it), else its sentence. Its owner does
    not read folders of the server; the log does."""
    if (shown := without_folders(said := str(error))) != said:
        _log.warning("%s", said)
        error.args = (shown,)
        if str(error) != shown:
            error = JobCancelled(shown) if isinstance(error, JobCancelled) else JobError(shown)
    try:
        data = cloudpickle.dumps(error)
        pickle.loads(data)
    except Exception:
        kind = JobCancelled if isinstance(error, JobCancelled) else JobError
        data = pickle.dumps(kind(str(error)))
    return bytes(data)


def ask_to_stop(job_id: str) -> None:
    """Dask calls it on the worker's own thread, while the job runs on another."""
    _remember(_asked_to_stop, job_id)


def ask_to_settle(job_id: str) -> None:
    """As `ask_to_stop`."""
    _remember(_asked_to_settle, job_id)


def _remember(asked: dict[str, None], job_id: str) -> None:
    asked[job_id] = None
    while len(asked) > _MOST_ASKED:
        del asked[next(iter(asked))]


def end_worker(dask_worker: Any) -> None:
    """End the worker of this nanny (which Dask calls ``dask_worker`` too) and what it started.

    The nanny answers whatever its worker is busy with, and starts the next one by itself.
    """
    import psutil

    if dask_worker.pid is None:  # gone already; to psutil, None is the nanny itself
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        worker = psutil.Process(dask_worker.pid)
        for process in [*worker.children(recursive=True), worker]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def end_stopped_worker(dask_worker: Any) -> None:
    """End the worker of this nanny if it has been stopped without ending (SIGSTOP)."""
    import psutil

    with contextlib.suppress(psutil.Error):
        if dask_worker.pid is not None and psutil.Process(dask_worker.pid).status() == psutil.STATUS_STOPPED:
            end_worker(dask_worker)


def dask_setup(dask_worker: Any) -> None:
    """Import what jobs need, in a thread of its own: the worker is there for Dask meanwhile."""
    global _warm_up
    if limit := getattr(getattr(dask_worker, "memory_manager", None), "memory_limit", None):
        os.environ[MEMORY_LIMIT] = str(int(limit))
    dask_worker.startup_information["device"] = _device
    modules = [name for name in os.environ.get(WARM_UP, ",".join(MODULES)).split(",") if name]
    _warm_up = threading.Thread(target=_import, args=(modules,), daemon=True)
    _warm_up.start()


def _device(_dask_worker: Any) -> str:
    """What the scheduler tells of this worker's device: as `circuit.workers.cluster` named it, or as CUDA sees it."""
    return os.environ.get(DEVICE) or ", ".join(f"CUDA device {name}" for name in cuda_devices()) or "cpu"


def _import(modules: list[str]) -> None:
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception:
            _log.warning("A worker could not import %s while warming up.", name, exc_info=True)
    # What was imported stays. Looking for garbage in it takes a fifth of a second, every ten passes or so.
    gc.collect()
    gc.freeze()
