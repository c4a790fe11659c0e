"""Visitors and runs that the tests of several pages start from."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from circuit.jobs.attribute import attribute
from circuit.prompts.pairs import PromptSet
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.run import Run
from circuit.ui.frame.server import job_server
from circuit.workers.job import Job
from tests.job_functions import LONG, count, until
from tests.visitor import ATTRIBUTE, NUMBERS, Visitor


@pytest.fixture(autouse=True)
def own_jobs(pages_worker: None) -> None:
    """Every test starts with no jobs on the server of the pages."""


@pytest.fixture
def busy(own_jobs: None) -> Iterator[Job]:
    """The one worker works for somebody else, whose job this is, so that jobs wait until it is cancelled."""
    job = job_server().submit(count, LONG, owner="somebody else")
    until(lambda: job.state == "running")
    job._asked = math.inf  # they have its page open
    yield job
    job.cancel()
    assert job.wait(300)


@pytest.fixture
def visitor(small: str) -> Visitor:
    """A session on 2 · Attribute that works with the small model."""
    visitor = Visitor()
    visitor.work_on(small, NUMBERS)
    visitor.go(ATTRIBUTE)
    return visitor


@pytest.fixture(scope="module")
def stored(small: str) -> Run:
    """A finished run in the runs folder, as an earlier session left it."""
    run = attribute(RunConfig(small, NUMBERS))
    run.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{run.id}.safetensors")
    return run


@pytest.fixture(scope="module")
def halved() -> Run:
    """A run of the teaching model with half of its pairs held out."""
    prompts = PRESETS["teaching-ioi"].prompts
    run = attribute(RunConfig("teaching", PromptSet("IOI", prompts.pairs[:12]), held_out=0.5))
    run.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{run.id}.safetensors")
    return run
