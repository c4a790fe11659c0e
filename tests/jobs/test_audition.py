"""Trying methods on a prompt set: every number against the computation that it stands for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from circuit.common.errors import JobCancelled, OptionError
from circuit.edges.method import DEFAULT_METHOD, AblationType, Method
from circuit.jobs.attribute import attribute
from circuit.jobs.audition import METHODS, Audition, AuditionRequest, audition, spread
from circuit.jobs.inspect import EffectsRequest, measure_effects
from circuit.jobs.measure import MeasureRequest, find_smallest, measure
from circuit.prompts.presets import PRESETS
from circuit.runs.comparison import spearman
from circuit.runs.config import RunConfig
from circuit.runs.faithfulness import curve_sizes

PROMPTS = PRESETS["teaching-ioi"].prompts
CONFIG = RunConfig("teaching", replace(PROMPTS, pairs=PROMPTS.pairs[:12]), DEFAULT_METHOD, held_out=0.5)
TRIED = (Method(), DEFAULT_METHOD, Method(backward="gim"))


@pytest.fixture(scope="module")
def found() -> Audition:
    return audition(AuditionRequest(CONFIG, 12, TRIED))


def test_every_method_scores_as_a_run_of_its_own(found: Audition) -> None:
    for each, method in zip(found.tried, TRIED, strict=True):
        alone = attribute(replace(CONFIG, method=method))
        assert each.run.config == alone.config
        np.testing.assert_allclose(each.run.scores, alone.scores, rtol=1e-5, atol=1e-6)
        assert each.run.held_out_rows == alone.held_out_rows


def test_scores_are_held_against_edges_that_were_really_ablated(found: Audition) -> None:
    effects = measure_effects(EffectsRequest(CONFIG, tuple(found.effects)))
    assert found.effects == pytest.approx(effects, rel=1e-4, abs=1e-6)
    for each in found.tried:
        scores, measured = each.run.scores[list(effects)], np.array(list(effects.values()))
        assert each.correlation == pytest.approx(spearman(scores, measured))
        clear = np.abs(measured) > 0.05
        if np.all(scores[clear] * measured[clear] > 0) and clear.all():
            assert each.same_sign == 1
        assert 0 <= each.same_sign <= 1


def test_circuits_are_measured_on_the_pairs_that_were_held_out(found: Audition) -> None:
    assert (found.n_pairs, found.held_out) == (6, True)
    for each in found.tried:
        run = each.run
        request = MeasureRequest(run.config, run.scores, curve_sizes(run.graph.n_edges), rows=tuple(run.held_out_rows))
        curve = measure(request)
        assert each.cmd == pytest.approx(curve.cmd, rel=1e-4)
        connected = replace(request, importance="signed", rule="connected")
        assert each.smallest == find_smallest(connected).smallest(0.9)
        assert 0 < each.accuracy_area <= 1


def test_the_best_needs_the_fewest_edges_and_is_recommended_by_name(found: Audition) -> None:
    fewest = min(each.smallest for each in found.tried if each.smallest is not None)
    assert found.best.smallest == fewest
    assert found.recommendation.startswith(f"{found.best.run.config.method.title}: {fewest} connected edges")
    assert "6 held-out pairs" in found.recommendation
    none = replace(found, tried=tuple(replace(each, smallest=None) for each in found.tried))
    best = max(found.tried, key=lambda each: each.correlation)
    assert none.best.run.config.method == best.run.config.method
    assert none.recommendation.startswith("No method's connected circuit keeps 90%")


def test_the_loss_and_the_ablation_are_those_asked_for() -> None:
    method = Method("logprob", "avg_val", ablation_type=AblationType.ZERO, clean_corrupt=None)
    configs = AuditionRequest(replace(CONFIG, method=method)).configs()
    assert {config.method.grad_function for config in configs} == {"logprob"}
    assert {config.method.path for config in configs} == {"masks"}  # the others go between the two prompts
    assert len(AuditionRequest(CONFIG).configs()) == len(METHODS)
    only_between = AuditionRequest(replace(CONFIG, method=method), methods=METHODS[-1:])
    with pytest.raises(OptionError, match="None of these methods goes with this ablation"):
        only_between.configs()


def test_edges_are_spread_over_the_whole_range_and_chosen_by_no_method_alone() -> None:
    generator = np.random.default_rng(0)
    one, other = (generator.normal(size=1000).astype(np.float32) for _ in range(2))
    edges = spread([one, other], 40)
    assert len(set(edges)) == len(edges) == 40
    ranks = np.argsort(np.argsort(-np.abs(one)))[list(edges)]
    assert ranks.min() < 100
    assert ranks.max() > 700
    assert spread([one, other], 40) == spread([other, one], 40)
    assert sorted(spread([one], 5000)) == list(range(1000))


def test_progress_rises_to_its_end_and_cancelling_stops_it() -> None:
    seen: list[tuple[int, int]] = []
    request = AuditionRequest(CONFIG, 3, TRIED[:1])
    audition(request, progress=lambda step, total, message: seen.append((step, total)))
    stages = [step // 100 for step, _ in seen]
    assert stages == sorted(stages)
    assert seen[-1][0] == seen[-1][1]
    with pytest.raises(JobCancelled):
        audition(request, cancelled=lambda: True)
