"""Scores that are learned: circuits of the strongest edges come closer to the model, whatever learning begins with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuit.common.errors import JobCancelled, NumericalError, OptionError, PromptError
from circuit.common.progress import collected
from circuit.edges.method import AblationType, Method
from circuit.edges.ranking import edge_mask, top_edges
from circuit.engine.dataset import PromptDataLoader, PromptDataset
from circuit.engine.learned_masks import learn_scores
from circuit.engine.loss import prompt_values
from circuit.engine.mask_gradient import score_edges
from circuit.engine.model import PatchableModel, PruneScores
from circuit.engine.patching import run_edge_masks
from circuit.jobs.load import models
from circuit.prompts.encode import encode
from circuit.prompts.pairs import PromptSet
from circuit.prompts.presets import PRESETS
from tests.small_models import shared_model
from tests.small_prompts import loader, prompts, ragged
from tests.traces import StopAfter, traces

SIZES = (5, 100)


def learned(steps: int, seed: int = 0, **changes: object) -> Method:
    return Method(path="learned", mask_val=None, learning_steps=steps, learning_seed=seed, **changes)  # type: ignore[arg-type]


def at_random(model: PatchableModel, seed: int = 0) -> PruneScores:
    flat = torch.randn(model.graph.n_edges, generator=torch.Generator().manual_seed(seed))
    return dict(model.graph.unflatten(flat))


def distance(model: PatchableModel, scores: PruneScores, of: PromptDataset) -> float:
    """Of circuits of some sizes, by absolute score, from the model: a share of that of the fully ablated model."""
    flat, n = model.graph.flatten(scores), model.graph.n_edges
    circuits = [edge_mask(model.graph, top_edges(flat, size)) for size in (10, 20, 40, 80)]
    circuits = [np.ones(n, dtype=bool), np.zeros(n, dtype=bool), *circuits]
    batch = of.batch(range(len(of)))
    outputs = run_edge_masks(model, PromptDataLoader(of), circuits)
    whole, ablated, *found = (float(prompt_values(logits, batch, Method()).mean()) for logits in outputs)
    return float(np.mean([abs(value - whole) for value in found])) / abs(whole - ablated)


def test_circuits_of_learned_scores_are_closer_to_the_model() -> None:
    pairs = PRESETS["teaching-ioi"].prompts.pairs[:16]
    figures: list[tuple[int, float]] = []
    with models().use("teaching", "cpu", "float32") as model:
        encoded = encode(PromptSet("some", pairs), model.tokenizer, model.prepend_bos, model.n_ctx)
        of = encoded.dataset(encoded.usable)
        start = score_edges(model, PromptDataLoader(of), Method())
        scores = learn_scores(
            model,
            PromptDataLoader(of),
            learned(30),
            start,
            sizes=(3, 60),
            plot=lambda step, figure: figures.append((step, figure)),
        )
        before, after = distance(model, start, of), distance(model, scores, of)
    assert after < 0.75 * before  # 0.068 and 0.108
    assert [step for step, _ in figures] == list(range(1, 31))


def test_a_score_is_one_over_a_size_with_the_sign_of_the_score_at_first() -> None:
    model = shared_model("llama")
    start = model.graph.flatten(at_random(model))
    flat = model.graph.flatten(learn_scores(model, loader(prompts()), learned(1), at_random(model), sizes=SIZES))
    assert (np.sign(flat) == np.sign(start)).all()
    ranks = np.argsort(np.argsort(-np.abs(start))) + 1
    np.testing.assert_allclose(np.abs(flat) * ranks, 1, atol=0.15)


def test_the_same_seed_learns_the_same_and_another_learns_otherwise() -> None:
    model, of = shared_model("gpt2"), PromptDataLoader(ragged(), 2)
    found = [
        model.graph.flatten(learn_scores(model, of, learned(6, seed), at_random(model), sizes=SIZES))
        for seed in (3, 3, 4)
    ]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


@pytest.mark.parametrize("ablation", [AblationType.ZERO, AblationType.TOKENWISE_MEAN_CORRUPT])
def test_masks_are_learned_for_other_ablations(ablation: AblationType) -> None:
    model = shared_model("gpt_neox")
    method = learned(3, ablation_type=ablation, clean_corrupt=None)
    scores = model.graph.flatten(learn_scores(model, loader(prompts()), method, at_random(model), sizes=SIZES))
    assert np.isfinite(scores).all()


def test_learning_can_be_ended_early_and_keeps_what_it_has() -> None:
    model = shared_model("gpt2")
    figures: list[tuple[int, float]] = []
    with collected() as notes:
        scores = learn_scores(
            model,
            loader(prompts()),
            learned(1000),
            at_random(model),
            sizes=SIZES,
            plot=lambda step, figure: figures.append((step, figure)),
            enough=lambda: len(figures) == 4,
        )
    assert len(figures) == 4
    assert notes == ["Learning was ended after 4 of 1,000 steps."]
    with pytest.warns(UserWarning, match="ended after 0 of 1,000 steps"):
        same = learn_scores(model, loader(prompts()), learned(1000), at_random(model), sizes=SIZES, enough=lambda: True)
    assert not np.array_equal(model.graph.flatten(scores), model.graph.flatten(same))


def test_progress_counts_every_step_and_a_cancel_leaves_nothing_behind() -> None:
    model = shared_model("gpt2")
    seen: list[tuple[int, int, str]] = []
    before = traces(model)
    learn_scores(
        model, loader(prompts(), 2), learned(5), at_random(model), lambda *each: seen.append(each), sizes=SIZES
    )
    assert [step for step, *_ in seen] == list(range(1, seen[-1][1] + 1))
    stop = StopAfter(8)
    with pytest.raises(JobCancelled):
        learn_scores(model, loader(prompts(), 2), learned(5), at_random(model), stop.report, stop, sizes=SIZES)
    assert stop.done == 8
    assert traces(model) == before


def test_what_cannot_be_learned_is_refused() -> None:
    model, of = shared_model("gpt2"), loader(prompts())
    start = at_random(model)
    with pytest.raises(OptionError, match="the method's is 'masks'"):
        learn_scores(model, of, Method(), start)
    with pytest.raises(OptionError, match="turn 'Positions apart' off"):
        learn_scores(model.with_seq_len(9), of, learned(3), start)
    with pytest.raises(OptionError, match="which takes scores to begin with"):
        score_edges(model, of, learned(3))
    with pytest.raises(OptionError, match="a smallest and a largest"):
        learn_scores(model, of, learned(3), start, sizes=(10, 5))
    same = replace(prompts(), corrupt=prompts().clean)
    with pytest.raises(NumericalError, match="nothing to learn"):
        learn_scores(model, loader(same), learned(3), start)
    without = PromptDataset(same.clean, same.corrupt, same.answers)
    with pytest.raises(PromptError, match="no wrong answer"):
        learn_scores(model, PromptDataLoader(without), learned(3), start)
