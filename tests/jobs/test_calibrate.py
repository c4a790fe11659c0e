"""How fast a device is with a model."""

from __future__ import annotations

import pytest

from circuit.common.progress import collected
from circuit.jobs import calibrate as calibration
from circuit.jobs.calibrate import calibrate
from circuit.jobs.load import ModelRequest
from tests.small_memory import ERRORS, N_TOKENS, SmallMemory
from tests.small_models import shared_model


def test_a_device_is_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("circuit.jobs.calibrate._SIZES", {"cpu": ((1, N_TOKENS), (4, N_TOKENS))})
    with SmallMemory(2, N_TOKENS, ERRORS["cpu"]) as memory, collected():
        pace = calibration.measure_pace(shared_model("llama"))
    assert memory.failures
    assert pace.step.seconds(28) > 0


def test_a_device_is_measured_once() -> None:
    pace = calibrate(ModelRequest("teaching", device="cpu"))
    assert pace.step.seconds(128) > 0 < pace.forward.seconds(128)
    assert pace.free > 0
    assert calibrate(ModelRequest("teaching", device="cpu")) is pace
