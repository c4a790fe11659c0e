"""What can go wrong with prompts, and what scores come of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from circuit.edges.method import Method
from circuit.engine.dataset import PromptDataLoader
from circuit.engine.mask_gradient import score_edges
from circuit.engine.model import PatchableModel
from circuit.jobs.attribute import attribute
from circuit.jobs.careless import BROKEN, CarelessRequest, careless_dataset, careless_scores
from circuit.jobs.check import CheckRequest, check_prompts
from circuit.jobs.lessons import (
    LESSON,
)
from circuit.models.tokenizer import PromptTokenizer
from circuit.prompts.checks import KINDS
from circuit.prompts.encode import encode
from circuit.prompts.verdicts import verdicts

TEACHING = {key: broken for key, broken in BROKEN.items() if broken.model == "teaching"}


@pytest.mark.parametrize("key", TEACHING)
def test_every_broken_set_is_caught_by_its_check_and_the_right_one_by_none(key: str, model: PatchableModel) -> None:
    broken = BROKEN[key]
    words = PromptTokenizer.of(model.tokenizer)
    found = encode(broken.prompts, words, model.prepend_bos, model.n_ctx)
    if broken.caught_by in KINDS:
        assert any(finding.kind == broken.caught_by for row in found.findings for finding in row)
    else:
        results = check_prompts(CheckRequest(broken.model, broken.prompts)).results
        said = verdicts({row: results[pair] for row, pair in enumerate(broken.prompts.pairs)})
        assert any(broken.caught_by in verdict.words for verdict in said)
    assert not any(encode(broken.right, words, model.prepend_bos, model.n_ctx).findings)


def test_every_check_and_the_verdict_on_few_pairs_have_a_broken_set() -> None:
    caught_by = [broken.caught_by for broken in BROKEN.values()]
    of_the_model = {
        "beyond",
        "no-bos",
        "apart",
    }  # what its tokenizer lacks or has too much: no prompt set shows it elsewhere
    assert set(KINDS) - of_the_model <= set(caught_by)
    assert "drive 60 %" in caught_by


@pytest.mark.parametrize("kind", ["space", "trailing", "start"])
def test_spaces_are_caught_with_smollm2s_tokenizer(kind: str, smollm2: PatchableModel) -> None:
    broken = BROKEN[kind]
    found, right = (encode(each, smollm2.tokenizer, smollm2.prepend_bos) for each in (broken.prompts, broken.right))
    assert all(any(finding.kind == kind for finding in row) for row in found.findings)
    assert not any(right.findings)


def test_what_is_missing_is_read_as_padding_and_what_is_too_long_is_cut(model: PatchableModel) -> None:
    words = PromptTokenizer.of(model.tokenizer, model.n_ctx)
    none, blank = (careless_dataset(BROKEN[key].prompts, words, True) for key in ("unanswered", "blank"))
    assert none.answers[0].tolist() == [words.bos]
    assert blank.answers[0].tolist() == [words.bos, *words.encode(BROKEN["blank"].right.pairs[0].answers[0])]
    assert set(careless_dataset(BROKEN["context"].prompts, words, True).lengths) == {model.n_ctx}


def test_few_pairs_that_count_make_all_of_the_scores() -> None:
    found = careless_scores(CarelessRequest("teaching", BROKEN["few"].right, BROKEN["few"].prompts))
    assert np.abs(found.broken).sum() < 0.4 * np.abs(found.right).sum()


def test_without_its_space_an_answer_is_improbable_though_its_logit_moves_along() -> None:
    broken = BROKEN["space"]
    bare, spaced = (
        check_prompts(CheckRequest(broken.model, each)).probability for each in (broken.prompts, broken.right)
    )
    assert bare.max() < 1e-3 < 0.3 < spaced.min()
    found = careless_scores(CarelessRequest(broken.model, broken.right, broken.prompts))
    assert np.corrcoef(found.right, found.broken)[0, 1] > 0.9
    by_prob = careless_scores(CarelessRequest(broken.model, broken.right, broken.prompts, Method(grad_function="prob")))
    assert np.abs(by_prob.right).sum() > 1000 * np.abs(by_prob.broken).sum()


@pytest.mark.parametrize("key", ["split", "both", "same", "unknown", "context"])
def test_sets_whose_scores_are_said_to_be_zero_have_none(key: str) -> None:
    broken = BROKEN[key]
    found = careless_scores(CarelessRequest(broken.model, broken.right, broken.prompts))
    assert found.all_zero
    assert np.abs(found.right).max() > 0.1


def test_scores_of_a_swapped_set_change_sign_and_those_of_a_harmless_edit_are_small() -> None:
    swapped, other = (
        careless_scores(CarelessRequest(BROKEN[key].model, BROKEN[key].right, BROKEN[key].prompts))
        for key in ("swapped", "no-difference")
    )
    assert np.corrcoef(swapped.right, swapped.broken)[0, 1] < -0.8
    assert np.abs(other.broken).sum() < 0.1 * np.abs(other.right).sum()
    assert not other.all_zero


def test_careless_scores_of_a_sound_set_are_the_runs_scores() -> None:
    right = BROKEN["both"].right
    found = careless_scores(CarelessRequest("teaching", right, right))
    run = attribute(replace(LESSON, prompts=right, held_out=0.0))
    np.testing.assert_allclose(found.right, run.scores, rtol=1e-4, atol=1e-5)
    assert found.shared(10) == 10


def test_the_shorter_prompt_is_padded_at_its_front(model: PatchableModel) -> None:
    broken = BROKEN["length"]
    words = PromptTokenizer.of(model.tokenizer)
    dataset = careless_dataset(broken.prompts, words, model.prepend_bos)
    encoded = encode(broken.prompts, words, model.prepend_bos)
    assert dataset.clean[0].tolist() == [words.bos, *encoded.clean[0]]
    assert dataset.corrupt[0].tolist() == encoded.corrupt[0]
    loader = PromptDataLoader(dataset)
    assert all(bool(part.isfinite().all()) for part in score_edges(model, loader, Method()).values())
