"""What holds of every job: progress, cancelling, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from circuit.common.errors import JobCancelled
from circuit.edges.method import Method
from circuit.jobs.attribute import attribute
from circuit.jobs.check import CheckRequest, check_prompts
from circuit.jobs.measure import MeasureRequest, measure
from circuit.prompts.pairs import PromptSet
from circuit.runs.config import RunConfig
from circuit.runs.run import Run
from tests.number_pairs import PAIRS, PROMPTS

INTEGRATED = Method(mask_val=None, integrated_grad_samples=4)


def jobs(run: Run) -> dict[str, Callable[..., Any]]:
    config = RunConfig(run.config.model, PROMPTS, INTEGRATED, batch_size=1)
    many = PromptSet("many", PAIRS * 20)
    return {
        "check": lambda **options: check_prompts(CheckRequest(run.config.model, many), **options),
        "attribute": lambda **options: attribute(config, **options),
        "measure": lambda **options: measure(MeasureRequest(config, run.scores, (0, 10, 20)), **options),
    }


@pytest.mark.parametrize("name", ["check", "attribute", "measure"])
def test_progress_counts_up_to_its_total(mixed_run: Run, name: str) -> None:
    reports: list[tuple[int, int]] = []
    jobs(mixed_run)[name](progress=lambda step, total, message: reports.append((step, total)))
    steps, totals = zip(*reports, strict=True)
    assert len(steps) > 2
    assert list(steps) == sorted(steps)
    assert set(totals) == {steps[-1]}


@pytest.mark.parametrize("name", ["check", "attribute", "measure"])
@pytest.mark.parametrize("after", [0, 2])
def test_a_job_stops_when_asked_to(mixed_run: Run, name: str, after: int) -> None:
    reports: list[int] = []
    with pytest.raises(JobCancelled):
        jobs(mixed_run)[name](
            progress=lambda step, total, message: reports.append(step), cancelled=lambda: len(reports) >= after
        )
    assert len(reports) == after


def test_a_job_after_a_cancelled_one_gives_the_same_as_before(mixed_run: Run) -> None:
    with pytest.raises(JobCancelled):
        jobs(mixed_run)["attribute"](cancelled=lambda: True)
    np.testing.assert_array_equal(attribute(mixed_run.config).scores, mixed_run.scores)
