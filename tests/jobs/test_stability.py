"""Which edges other draws of the prompts would choose too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import circuit.jobs.stability as module
from circuit.common.errors import OptionError, PromptError
from circuit.common.progress import never, silent
from circuit.edges.method import AblationType, Method
from circuit.edges.ranking import top_edges
from circuit.edges.stable import certify_edges, sign_shares
from circuit.engine.dataset import PromptDataLoader
from circuit.engine.mask_gradient import prompt_scores
from circuit.jobs.attribute import attribute
from circuit.jobs.prepare import prepared
from circuit.jobs.stability import StabilityRequest, edge_stability
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.run import Run

PROMPTS = replace(PRESETS["teaching-ioi"].prompts, pairs=PRESETS["teaching-ioi"].prompts.pairs[:16])


@pytest.fixture(scope="module")
def run() -> Run:
    return attribute(RunConfig("teaching", PROMPTS, held_out=0.5, split_seed=3))


@pytest.fixture(scope="module")
def per_prompt(run: Run) -> np.ndarray:
    with prepared(run.config, silent, never) as (model, _, dataset):
        scores = prompt_scores(model, PromptDataLoader(dataset, 8), run.config.method)
        return model.graph.flatten(scores, per_prompt=True)


def test_stability_is_how_often_an_edge_is_among_the_strongest_of_a_draw(run: Run) -> None:
    stability = edge_stability(StabilityRequest(run.config, 262, n_draws=40))
    found = {n: stability.among(n) for n in (10, 11, 262)}
    assert sum(found[10].values()) == pytest.approx(10)
    assert sum(found[11].values()) == pytest.approx(11)  # any size, from the same draws
    assert set(found[262].values()) == {1.0}
    assert len(found[262]) == 262
    assert all(found[10][edge] > 0.9 for edge in top_edges(run.scores, 3).tolist())
    assert not set(found[10]) & set(top_edges(run.scores, 200)[-50:].tolist())
    positive = edge_stability(StabilityRequest(run.config, 262, "positive", n_draws=5)).among(262)
    assert all(edge >= 0 for edge in positive)
    assert len(positive) < 262


def test_halves_and_signs_are_those_of_the_scores_of_each_prompt(run: Run, per_prompt: np.ndarray) -> None:
    np.testing.assert_allclose(per_prompt.mean(axis=0), run.scores, rtol=1e-4, atol=1e-6)
    found = edge_stability(StabilityRequest(run.config, 100, "signed", "connected", n_draws=60, seed=3))
    np.testing.assert_allclose(found.signs, sign_shares(per_prompt, 60, seed=3), atol=0.02)
    assert found.signs.min() < 0.9 < found.signs.max()
    for n in (12, 25):  # of one job
        alone = certify_edges(run.graph, per_prompt, n, "signed", "connected", n_subsets=60, seed=3)
        counts = found.halved.counts(n)
        assert {edge: counts.get(edge, 0) for edge in alone.edges.tolist()} == dict(
            zip(alone.edges.tolist(), alone.held.tolist(), strict=True)
        )


def test_many_prompts_are_scored_some_after_the_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    mean = Method(mask_val=0.0, ablation_type=AblationType.TOKENWISE_MEAN_CORRUPT)  # over all prompts, not over some
    one_length = tuple(pair for pair in PROMPTS.pairs if len(pair.clean.split()) == len(PROMPTS.pairs[0].clean.split()))
    config = replace(run.config, method=mean, prompts=replace(PROMPTS, pairs=one_length), held_out=0.0)
    request = StabilityRequest(config, 20, n_draws=10)
    together = edge_stability(request)
    monkeypatch.setattr(module, "_AT_ONCE", 3 * 262)
    apart = edge_stability(request)
    assert len(one_length) > 5
    assert apart.among(20) == together.among(20)
    np.testing.assert_allclose(apart.signs, together.signs, atol=0.11)


def test_few_prompts_and_too_many_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    few = RunConfig("teaching", replace(PROMPTS, pairs=PROMPTS.pairs[:4]), Method(mask_val=0.0))
    with pytest.raises(PromptError, match="4 prompt pairs: too few"):
        edge_stability(StabilityRequest(few, 20, n_draws=5))
    monkeypatch.setattr(module, "MOST_SCORES", 7 * 262)
    with pytest.raises(OptionError, match="8 prompt pairs and 262 edges: scores are kept apart for up to 7 pairs"):
        edge_stability(StabilityRequest(run.config, 20, n_draws=5))
