"""The models that a process holds, shared by all its jobs, within a memory budget.

store = ModelStore(budget=4_000_000_000)
with store.use("smollm2-135m", "auto", "auto") as model:
    ...                                  # cannot be dropped in here
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from circuit.common.errors import NotEnoughMemoryError
from circuit.common.progress import Cancelled, Report, collected, note
from circuit.common.settings import settings
from circuit.edges.method import Precision
from circuit.models.load import load_model

if TYPE_CHECKING:
    from circuit.engine.model import PatchableModel


class ModelStore:
    """Models by name, device and precision: the least recently used go when memory runs short.

    Args:
        budget: Bytes of weights to hold, on all devices together. One model is held even where it is larger. None:
            The owner's `model_memory`, or half of this machine's memory.
    """

    def __init__(self, budget: int | None = None) -> None:
        self.budget = _default_budget() if budget is None else budget
        self._models: OrderedDict[tuple[str, str, str], PatchableModel] = OrderedDict()
        self._notes: dict[tuple[str, str, str], list[str]] = {}
        self._in_use: dict[tuple[str, str, str], int] = {}

    @contextmanager
    def use(
        self,
        name: str,
        device: str,
        dtype: Precision,
        progress: Report | None = None,
        cancelled: Cancelled | None = None,
    ) -> Iterator[PatchableModel]:
        """The model, loaded if it is not held. A model that cannot be loaded leaves the others where they are.

        What was noted when it was loaded is noted again at each use.

        Raises:
            ModelError, OptionError, JobCancelled: As `load_model`.
        """
        key = (name, device, dtype)
        if key not in self._models:
            with collected() as notes:
                try:
                    model = load_model(name, device, dtype, progress=progress, cancelled=cancelled)
                except NotEnoughMemoryError:
                    if not self._drop_idle():
                        raise
                    model = load_model(name, device, dtype, progress=progress, cancelled=cancelled)
            self._models[key] = model
            self._notes[key] = notes
        for sentence in self._notes[key]:  # of every run with the model, and not of the first alone
            note(sentence)
        self._models.move_to_end(key)
        self._in_use[key] = self._in_use.get(key, 0) + 1
        try:
            self._shrink()
            yield self._models[key]
        finally:
            self._in_use[key] -= 1

    @property
    def held(self) -> list[tuple[str, str, str]]:
        """Name, device and precision of the models held, least recently used first."""
        return list(self._models)

    def _drop_idle(self) -> bool:
        """Drop every model that is not in use; says whether there was one."""
        idle = [key for key in self._models if not self._in_use.get(key)]
        for key in idle:
            del self._models[key]
        return bool(idle)

    def _shrink(self) -> None:
        for key in list(self._models):
            if sum(model.n_bytes for model in self._models.values()) <= self.budget:
                return
            if not self._in_use.get(key):
                del self._models[key]


def _default_budget() -> int:
    import psutil

    return int(settings().model_memory * 1e9) or psutil.virtual_memory().total // 2
