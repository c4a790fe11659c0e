"""How many models are held in memory, and which goes first."""

from __future__ import annotations

from pathlib import Path

import pytest

from circuit.common.errors import ModelError
from circuit.models.store import ModelStore


def held_names(store: ModelStore) -> list[str]:
    return [name for name, _, _ in store.held]


def test_a_model_is_loaded_once_and_shared(small: str) -> None:
    store = ModelStore(budget=10**9)
    with store.use(small, "cpu", "auto") as first, store.use(small, "cpu", "auto") as second:
        assert first is second
    with store.use(small, "cpu", "auto") as third:
        assert third is first


def test_the_least_recently_used_model_goes_first(small_folder: Path) -> None:
    a, b, c = (f"{small_folder}{'/' * i}" for i in range(3))
    with ModelStore(budget=10**9).use(a, "cpu", "auto") as model:
        two = 2 * model.n_bytes
    store = ModelStore(budget=two)
    for name in (a, b, a, c):
        with store.use(name, "cpu", "auto"):
            pass
    assert held_names(store) == [a, c]


def test_a_model_in_use_stays_even_over_the_budget(small_folder: Path) -> None:
    a, b = str(small_folder), f"{small_folder}/"
    store = ModelStore(budget=1)
    with store.use(a, "cpu", "auto"), store.use(b, "cpu", "auto"):
        assert held_names(store) == [a, b]


def test_idle_models_make_room_for_one_that_does_not_fit(small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = str(small_folder), f"{small_folder}/"
    store = ModelStore(budget=10**9)
    with store.use(a, "cpu", "auto"):
        pass
    monkeypatch.setattr("circuit.engine.memory.free_memory", lambda device: 10**9 if not store.held else 0)
    with store.use(b, "cpu", "auto"):
        assert held_names(store) == [b]


def test_a_model_that_cannot_be_loaded_leaves_the_others(small: str) -> None:
    store = ModelStore(budget=10**9)
    with store.use(small, "cpu", "auto"):
        pass
    with pytest.raises(ModelError), store.use("/nowhere", "cpu", "auto"):
        pass
    assert held_names(store) == [small]
