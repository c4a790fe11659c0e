"""The teaching model, and the small one with a run of it."""

from __future__ import annotations

import pytest

from circuit import PatchableModel, load_model
from circuit.jobs.attribute import attribute
from circuit.prompts.pairs import PromptSet
from circuit.runs.config import RunConfig
from circuit.runs.run import Run
from tests.number_pairs import BAD, PAIRS


@pytest.fixture(scope="module")
def model() -> PatchableModel:
    return load_model("teaching", device="cpu")


@pytest.fixture(scope="module")
def small_model(small: str) -> PatchableModel:
    return load_model(small, device="cpu")


@pytest.fixture(scope="module")
def mixed_run(small: str) -> Run:
    return attribute(RunConfig(small, PromptSet("mixed", (PAIRS[0], BAD, *PAIRS[1:]))))
