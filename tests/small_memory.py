"""Memory that runs out when a batch is too large, and prompts of a length by which its tensors are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from circuit.engine.dataset import PromptDataset
from circuit.prompts.pairs import PromptPair, PromptSet
from tests.small_models import D_VOCAB

CPU_WORDS = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate"
ERRORS: dict[str, Callable[[], Exception]] = {
    "cpu": lambda: RuntimeError(CPU_WORDS),
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "numpy": lambda: MemoryError("Unable to allocate 2.00 GiB"),
}


class SmallMemory(TorchDispatchMode):
    """Every operation of PyTorch whose batch has more than `most` prompts fails, as it does without memory."""

    def __init__(self, most: int, n_tokens: int, error: Callable[[], Exception], after: int = 0) -> None:
        super().__init__()
        self.most, self.n_tokens, self.error, self.after = most, n_tokens, error, after
        self.failures = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.shape[1:] == (self.n_tokens, D_MODEL) and out.shape[0] > self.most:
            self.after -= 1
            if self.after < 0:
                self.failures += 1
                raise self.error()
        return out


N_TOKENS, D_MODEL = 7, 32


def dataset(n: int = 12) -> PromptDataset:
    clean, corrupt = torch.randint(1, D_VOCAB, (2, n, N_TOKENS), generator=torch.Generator().manual_seed(1))
    answers = torch.arange(n)[:, None] % 20
    return PromptDataset(clean, corrupt, answers, answers + 20)


def flat(scores: dict[str, Tensor]) -> np.ndarray:
    return np.concatenate([part.numpy().ravel() for part in scores.values()])


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


SEVEN_TOKENS = PromptSet(
    "numbers", tuple(PromptPair(f"{i} 2 3 4 5 6 7", f"{i} 9 3 4 5 6 7", ("5",), ("7",)) for i in range(11, 19))
)
