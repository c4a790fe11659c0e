"""How much memory a piece of work takes on the CPU.

    with ResidentSet() as resident:
        work()
    resident.growth

Nothing but psutil is needed, so that other environments can import it.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading

import psutil


class ResidentSet:
    """Peak growth of this process's resident set within a `with` block, in bytes, sampled every millisecond."""

    def __enter__(self) -> ResidentSet:
        gc.collect()
        give_back_freed_memory()
        self._process = psutil.Process()
        self._before = self._peak = self._process.memory_info().rss
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.001):
            self._peak = max(self._peak, self._process.memory_info().rss)

    @property
    def growth(self) -> int:
        return self._peak - self._before


def give_back_freed_memory() -> None:
    """What loading has freed would otherwise hide what the run takes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
