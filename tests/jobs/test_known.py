"""Methods held against a circuit that is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from circuit.common.errors import JobCancelled, OptionError
from circuit.edges.kinds import OFFERED
from circuit.edges.method import DEFAULT_METHOD, AblationType, Method
from circuit.jobs.attribute import attribute
from circuit.jobs.audition import AuditionRequest, audition
from circuit.jobs.known import METHODS, JudgeRequest, judge, known_run, known_truth
from circuit.models.known import KEYS
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.truth import truth_of

EAP, GIM = Method(), Method(backward="gim")


def test_every_method_that_the_forms_offer_is_judged() -> None:
    assert {method.kind for method in METHODS} == set(OFFERED)
    assert len({method.title for method in METHODS}) == len(METHODS)


@pytest.mark.parametrize("key", KEYS)
def test_scores_are_those_of_a_run_and_are_held_against_the_circuit(key: str) -> None:
    config = known_run(key)
    (judged,) = judge(JudgeRequest(config, (DEFAULT_METHOD,)))
    run = attribute(replace(config, method=DEFAULT_METHOD))
    truth = truth_of(run)
    assert truth is not None
    np.testing.assert_array_equal(truth.inside, known_truth(key).inside)
    np.testing.assert_allclose(judged.scores, run.scores, rtol=1e-4, atol=1e-6)
    assert judged.auroc == pytest.approx(truth.auroc(run.scores))
    assert judged.auroc > 0.99
    assert (judged.hits, judged.size) == (len(truth.edges), len(truth.edges))


def test_one_gradient_misses_what_steers_saturated_attention_and_a_warmer_softmax_finds_it() -> None:
    eap, gim = judge(JudgeRequest(known_run("known-induction"), (EAP, GIM)))
    assert (eap.auroc, eap.hits) == (pytest.approx(0.7), 2)
    assert (gim.auroc, gim.hits) == (1, 5)


def test_progress_counts_methods_and_a_job_stops_when_asked_to() -> None:
    steps: list[tuple[int, int]] = []
    judge(
        JudgeRequest(known_run("known-induction"), (EAP, GIM)),
        progress=lambda step, total, message: steps.append((step, total)),
    )
    assert steps[-1] == (2, 2)
    with pytest.raises(JobCancelled):
        judge(JudgeRequest(known_run("known-induction")), cancelled=lambda: True)


def test_what_is_not_known_is_said() -> None:
    teaching = RunConfig("teaching", PRESETS["teaching-ioi"].prompts)
    with pytest.raises(OptionError, match="No circuit is known of the model 'teaching'"):
        judge(JudgeRequest(teaching, (EAP,)))
    zero = replace(known_run("known-induction"), method=Method(ablation_type=AblationType.ZERO, clean_corrupt=None))
    with pytest.raises(OptionError, match="known under the ablation 'resample', and this run used 'zero'"):
        judge(JudgeRequest(zero, (EAP,)))


def test_an_audition_has_auroc_where_the_circuit_is_known_and_none_elsewhere() -> None:
    prompts = PRESETS["known-induction"].prompts
    config = RunConfig("known-induction", replace(prompts, pairs=prompts.pairs[:8]), held_out=0.5)
    found = audition(AuditionRequest(config, 4, (EAP, GIM)))
    for each in found.tried:
        truth = truth_of(each.run)
        assert truth is not None
        assert each.auroc == truth.auroc(each.run.scores)
    teaching = PRESETS["teaching-ioi"].prompts
    config = RunConfig("teaching", replace(teaching, pairs=teaching.pairs[:4]))
    assert audition(AuditionRequest(config, 4, (EAP,))).tried[0].auroc is None
