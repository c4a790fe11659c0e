"""Job functions as a page would submit them, and what tests of jobs do with them. Workers import them by name."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from circuit.common.errors import CircuitError, JobCancelled, ModelError, PromptError
from circuit.common.progress import Report, enough, plot
from circuit.workers.job import Job
from circuit.workers.server import JobServer

Cancelled = Callable[[], bool]


def square(request: Any, *, progress: Report, cancelled: Cancelled) -> Any:
    return {"square": np.asarray(request) ** 2}


def count(request: dict[str, Any], *, progress: Report, cancelled: Cancelled) -> int:
    """Steps of a given length, as an attribution takes them."""
    for step in range(request["steps"]):
        if cancelled():
            raise JobCancelled("Stopped between two steps.")
        progress(step, request["steps"], f"step {step}")
        time.sleep(request["seconds"])
    progress(request["steps"], request["steps"], "done")
    return os.getpid()


def improve(request: dict[str, Any], *, progress: Report, cancelled: Cancelled) -> tuple[int, int]:
    """Steps that each come to half of the one before, until there are enough; says how many, and in which process."""
    for step in range(1, request["steps"] + 1):
        if cancelled():
            raise JobCancelled("Stopped between two steps.")
        if enough():
            return step - 1, os.getpid()
        plot(step, 0.5**step)
        progress(step, request["steps"], f"step {step}")
        time.sleep(request["seconds"])
    return request["steps"], os.getpid()


def deaf(seconds: float, *, progress: Report, cancelled: Cancelled) -> None:
    """Never asks whether it should stop."""
    time.sleep(seconds)


def bad_prompt(row: int, *, progress: Report, cancelled: Cancelled) -> None:
    raise PromptError(f"Row {row} has no answer. Add one.")


def names_folders(folder: Path, *, progress: Report, cancelled: Cancelled) -> None:
    raise ModelError(f"The model small could not be loaded: no file {folder}/small/config.json.")


class TwoArgumentError(CircuitError):
    """Cannot be unpickled: its constructor takes something else than its message."""

    def __init__(self, row: int, what: str) -> None:
        super().__init__(f"Row {row} is {what}.")


def awkward_error(request: None, *, progress: Report, cancelled: Cancelled) -> None:
    raise TwoArgumentError(3, "empty")


def bug(request: None, *, progress: Report, cancelled: Cancelled) -> None:
    raise KeyError("a secret detail")


def unpicklable(request: None, *, progress: Report, cancelled: Cancelled) -> Any:
    return (number for number in range(3))


def leave(request: None, *, progress: Report, cancelled: Cancelled) -> None:
    sys.exit(3)


def die(diary: Path, *, progress: Report, cancelled: Cancelled) -> None:
    with diary.open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


def eat_memory(limit: int | None, *, progress: Report, cancelled: Cancelled) -> None:
    """Take memory without end. With a limit, the operating system gives this process at most this many more bytes."""
    if limit is not None:
        held = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (held + limit, resource.RLIM_INFINITY))
    eaten = []
    while True:
        eaten.append(np.ones(2**22))  # 32 MB
        time.sleep(0.02)


def torch_eats_memory(limit: int, *, progress: Report, cancelled: Cancelled) -> None:
    """A tensor larger than what the operating system gives this process, in a context as the app's jobs have it."""
    import torch

    from circuit.jobs.prepare import within_memory

    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + limit, resource.RLIM_INFINITY))
    with within_memory(torch.device("cpu")):
        torch.ones(limit)


def unlimited(request: None, *, progress: Report, cancelled: Cancelled) -> int:
    """Take the limit away again; says which process this is."""
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return os.getpid()


def spared_by_collector(request: None, *, progress: Report, cancelled: Cancelled) -> int:
    """Objects in which Python does not look for garbage."""
    return gc.get_freeze_count()


def environment(seconds: float, *, progress: Report, cancelled: Cancelled) -> dict[str, str]:
    """What this worker was started with, and its process."""
    time.sleep(seconds)
    return {**os.environ, "pid": str(os.getpid())}


def write_down(request: tuple[Path, str], *, progress: Report, cancelled: Cancelled) -> None:
    """Put a word into a file, so that the order of jobs can be read there."""
    file, word = request
    with file.open("a") as out:
        out.write(f"{word} ")


LONG = {"steps": 1000, "seconds": 0.05}


def until(condition: Callable[[], Any], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # not every container's init reaps orphans
    except psutil.NoSuchProcess:
        return False


def running(job: Job) -> Job:
    until(lambda: job.state == "running")
    return job


def works(server: JobServer) -> bool:
    job = server.submit(square, 3)
    return job.wait(300) and job.result() == {"square": 9}
