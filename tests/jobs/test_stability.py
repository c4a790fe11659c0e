"""Which edges other draws of the prompts would choose too."""

from __future__ import annotations

from dataclasses import replace

import pytest

from circuit.edges.method import Method
from circuit.edges.ranking import top_edges
from circuit.jobs.attribute import attribute
from circuit.jobs.stability import StabilityRequest, edge_stability
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.run import Run

PROMPTS = replace(PRESETS["teaching-ioi"].prompts, pairs=PRESETS["teaching-ioi"].prompts.pairs[:16])


@pytest.fixture(scope="module")
def run() -> Run:
    return attribute(RunConfig("teaching", PROMPTS, held_out=0.5, split_seed=3))


def test_stability_is_how_often_an_edge_is_among_the_strongest_of_a_draw(run: Run) -> None:
    stability = edge_stability(StabilityRequest(run.config, 262, n_resamples=40))
    found = {n: stability.among(n) for n in (10, 11, 262)}
    assert sum(found[10].values()) == pytest.approx(10)
    assert sum(found[11].values()) == pytest.approx(11)  # any size, from the same draws
    assert set(found[262].values()) == {1.0}
    assert len(found[262]) == 262
    assert all(found[10][edge] > 0.9 for edge in top_edges(run.scores, 3).tolist())
    assert not set(found[10]) & set(top_edges(run.scores, 200)[-50:].tolist())
    positive = edge_stability(StabilityRequest(run.config, 262, "positive", n_resamples=5)).among(262)
    assert all(edge >= 0 for edge in positive)
    assert len(positive) < 262


def test_one_prompt_is_drawn_again_and_again_so_every_edge_is_stable() -> None:
    config = RunConfig("teaching", replace(PROMPTS, pairs=PROMPTS.pairs[:1]), Method())
    run = attribute(config)
    found = edge_stability(StabilityRequest(config, 20, n_resamples=5)).among(20)
    assert found == dict.fromkeys(top_edges(run.scores, 20).tolist(), 1.0)
