"""One user at a time: while a model runs its parts are moved and its layers' `forward` replaced.

in_use            the model to this thread alone; others wait
one_pass          a pass of it, in which no other may begin
own_precision     no autocast and no shorter products: what runs has the precision that the model was loaded in
evaluation_mode   no dropout; every module's own mode comes back
attention_by      another implementation of attention
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch

from circuit.common.errors import ModelError


@dataclass
class Use:
    """Of a Hugging Face model: the lock of the one thread that has it, and what that thread is doing with it."""

    lock: Any = field(default_factory=RLock)
    running: bool = False
    passing: bool = False


_USES: WeakKeyDictionary[Any, Use] = WeakKeyDictionary()  # beside the models, which can so be copied and pickled
_FINDING = Lock()


@contextmanager
def in_use(model: Any) -> Iterator[Use]:
    """Keep a Hugging Face model, and all that is wrapped around it, to this thread; another thread waits here."""
    with _FINDING:
        use = _USES.setdefault(model, Use())
    with use.lock:
        yield use


@contextmanager
def one_pass(model: Any) -> Iterator[None]:
    """A pass of the model, whose hooks may not begin another: hooks of the first would be called in the second.

    Raises:
        ModelError: In a hook of a pass of this model.
    """
    with in_use(model) as use:
        if use.passing:
            raise ModelError("A hook ran the model that was calling it: keep what it needs, and run the model after.")
        use.passing = True
        try:
            yield
        finally:
            use.passing = False


@contextmanager
def own_precision(device: torch.device) -> Iterator[None]:
    """Let a run have the model's own precision, whatever `torch.autocast` is around it, and whatever the products of
    float32 matrices are rounded to (`torch.set_float32_matmul_precision`)."""
    with _EXACT, ExitStack() as off:
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                off.enter_context(torch.autocast(kind, enabled=False))
        yield


class _ExactProducts:
    """Products of float32 matrices in float32, while any thread is within. PyTorch has one setting for all threads."""

    _BACKENDS: tuple[Any, ...] = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul"))  # noqa: B009

    def __init__(self) -> None:
        self._lock, self._within, self._before = Lock(), 0, ["none"] * len(self._BACKENDS)

    def __enter__(self) -> None:
        with self._lock:
            if not self._within:
                self._before = [backend.fp32_precision for backend in self._BACKENDS]
                self._set(["ieee" if before in ("tf32", "bf16") else before for before in self._before])
            self._within += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within:
                self._set(self._before)

    def _set(self, precisions: Sequence[str]) -> None:
        for backend, precision in zip(self._BACKENDS, precisions, strict=True):
            if backend.fp32_precision != precision:
                backend.fp32_precision = precision


_EXACT = _ExactProducts()


@contextmanager
def evaluation_mode(modules: Iterable[Any]) -> Iterator[None]:
    """Let modules run without dropout, and be in the mode that each was in on leaving."""
    training = [module for module in modules if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def attention_by(model: Any, implementation: str) -> Iterator[None]:
    """Let a Hugging Face model compute attention by an implementation, and by its own on leaving."""
    before = model.config._attn_implementation
    try:
        model.config._attn_implementation = implementation
        yield
    finally:
        model.config._attn_implementation = before
