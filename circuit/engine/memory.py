"""Memory of a device: what is free, what running out looks like, and giving back what is not held.

free_memory        bytes that may be used on a device
within_budget      on the CPU, running out of memory is an error and not the end of the process
is_out_of_memory   whether an error says that memory ran out
release            give back what is no longer held
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import torch

from circuit.common.settings import MEMORY_LIMIT

_SHARE_OF_LIMIT = 0.9
"""Of a worker's limit, what a job may use: above 95 % the worker is ended."""
_SAYS_SO = (
    "can't allocate memory",  # PyTorch's allocator on the CPU
    "out of memory",  # CUDA, Apple's GPUs
    "bad_alloc",
    "ALLOC_FAILED",  # cuBLAS, cuDNN
    "could not create a primitive(?! descriptor)",  # oneDNN, which says no more
)


def free_memory(device: torch.device) -> int:
    """Free bytes on the device, as its driver or the operating system counts them, within the process's own limit."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    available = psutil.virtual_memory().available
    limit = _limit()
    return available if limit is None else max(min(available, limit - psutil.Process().memory_info().rss), 0)


def _limit() -> int | None:
    """Bytes that this process may use, where it is watched."""
    given = os.environ.get(MEMORY_LIMIT)
    return int(_SHARE_OF_LIMIT * int(given)) if given else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch, on any device, or numpy could not get memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(re.search(words, str(error)) for words in _SAYS_SO)


def release(device: torch.device) -> None:
    """Give back memory that is no longer held."""
    gc.collect()
    if device.type == "cpu" and sys.platform == "linux":
        with suppress(AttributeError):  # not every C library keeps what it was given back
            ctypes.CDLL(None).malloc_trim(0)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


@contextmanager
def within_budget(device: torch.device) -> Iterator[None]:
    """Let an allocation on the CPU that goes past the process's limit fail, so that the job can do with less.

    Linux grants any allocation and later ends the process; so what the process may still map is limited meanwhile.
    """
    limit = _limit()
    if device.type != "cpu" or limit is None or sys.platform != "linux":
        yield
        return
    import resource

    used = psutil.Process().memory_info()
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = used.vms + max(limit - used.rss, 0)
    if (before != resource.RLIM_INFINITY and before < allowed) or (hard != resource.RLIM_INFINITY and hard < allowed):
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))
