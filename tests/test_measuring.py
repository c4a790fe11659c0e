"""Jobs that measure circuits: against the circuits' logits, and what must hold of any curve."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuit.dataset import PromptDataLoader
from circuit.errors import JobCancelled, NumericalError
from circuit.faithfulness import curve_sizes
from circuit.measuring import (
    MeasureRequest,
    StabilityRequest,
    edge_stability,
    find_smallest,
    measure,
    measure_all,
)
from circuit.method import AblationType, Method, PatchType
from circuit.patching import run_circuits
from circuit.presets import PRESETS
from circuit.prompts import encode
from circuit.pruning import top_edges
from circuit.runs import Run, RunConfig
from circuit.tasks import attribute, models

PROMPTS = replace(PRESETS["teaching-ioi"].prompts, pairs=PRESETS["teaching-ioi"].prompts.pairs[:16])


@pytest.fixture(scope="module")
def run() -> Run:
    return attribute(RunConfig("teaching", PROMPTS, held_out=0.5, split_seed=3))


@pytest.fixture(scope="module")
def request_(run: Run) -> MeasureRequest:
    return MeasureRequest(run.config, run.scores, curve_sizes(run.graph.n_edges), rows=tuple(run.held_out_rows))


def logits_of(run: Run, rows: list[int], size: int) -> torch.Tensor:
    with models().use("teaching", "cpu", "float32") as model:
        dataset = encode(PROMPTS, model.tokenizer, model.prepend_bos, model.n_ctx).dataset(rows)
        scores = {name: torch.from_numpy(part) for name, part in model.graph.unflatten(run.scores).items()}
        return run_circuits(model, PromptDataLoader(dataset, 3), [size], scores, PatchType.TREE_PATCH)[size]


def test_half_the_pairs_are_held_out_the_same_for_the_same_seed(run: Run) -> None:
    assert len(run.used_rows) == len(run.held_out_rows) == 8
    assert sorted([*run.used_rows, *run.held_out_rows]) == list(range(16))
    assert run.config.split(range(16)) == (run.used_rows, run.held_out_rows)
    assert replace(run.config, split_seed=4).split(range(16)) != (run.used_rows, run.held_out_rows)
    assert replace(run.config, held_out=0.0).split(range(16)) == (list(range(16)), [])
    assert replace(run.config, held_out=1.0).split(range(3))[0]  # something is always scored


def test_scores_come_from_the_pairs_that_were_not_held_out(run: Run) -> None:
    alone = replace(PROMPTS, pairs=tuple(PROMPTS.pairs[row] for row in run.used_rows))
    np.testing.assert_allclose(attribute(RunConfig("teaching", alone)).scores, run.scores, atol=1e-5)


def test_a_point_is_what_the_circuits_logits_say(run: Run, request_: MeasureRequest) -> None:
    point = measure(replace(request_, sizes=(26,))).points[0]
    logits, whole = logits_of(run, run.held_out_rows, 26), logits_of(run, run.held_out_rows, run.graph.n_edges)
    with models().use("teaching", "cpu", "float32") as model:
        encoded = encode(PROMPTS, model.tokenizer, model.prepend_bos, model.n_ctx)
    for i, row in enumerate(run.held_out_rows):
        right, wrong = encoded.answers[row], encoded.wrong_answers[row]
        assert point.values[i] == pytest.approx(float(logits[i, right].mean() - logits[i, wrong].mean()), abs=1e-4)
        assert point.right[i] == float(logits[i, right].min() > logits[i, wrong].max())
        assert point.probability[i] == pytest.approx(float(logits[i].softmax(-1)[right].sum()), abs=1e-5)
        divergence = torch.nn.functional.kl_div(
            logits[i].log_softmax(-1), whole[i].log_softmax(-1), log_target=True, reduction="sum"
        )
        assert point.divergence[i] == pytest.approx(float(divergence), abs=1e-4)


def test_the_ends_of_a_curve_are_the_whole_and_the_ablated_model(run: Run, request_: MeasureRequest) -> None:
    n_edges = run.graph.n_edges
    curve = measure(replace(request_, sizes=(0, n_edges)))
    np.testing.assert_array_equal(curve.points[0].values, curve.ablated.values)
    np.testing.assert_array_equal(curve.points[1].values, curve.whole.values)
    np.testing.assert_allclose(curve.faithfulness, [0, 1])
    assert curve.whole.divergence.max() == 0
    removed = measure(replace(request_, sizes=(0, n_edges), direction="remove"))
    np.testing.assert_allclose(removed.faithfulness, [1, 0])


def test_what_is_left_without_a_circuit_is_the_circuit_of_all_other_edges(run: Run, request_: MeasureRequest) -> None:
    removed = measure(replace(request_, sizes=(30,), direction="remove")).points[0]
    others = np.ones(run.graph.n_edges, dtype=np.float32)
    others[top_edges(run.scores, 30)] = 0
    kept = measure(replace(request_, scores=others, sizes=(run.graph.n_edges - 30,))).points[0]
    np.testing.assert_allclose(removed.values, kept.values, atol=1e-4)


def test_on_this_model_the_strongest_edges_are_enough_and_needed_and_random_ones_are_not(
    request_: MeasureRequest,
) -> None:
    settings = [request_, replace(request_, direction="remove"), *(replace(request_, shuffled=i) for i in range(3))]
    kept, removed, *random = measure_all(settings)
    assert kept.sizes == list(request_.sizes)
    ten_percent = kept.sizes.index(26)
    assert kept.faithfulness[ten_percent] > 0.9
    assert removed.faithfulness[ten_percent] < 0.2
    assert all(curve.faithfulness[ten_percent] < 0.3 for curve in random)
    assert kept.cpr > max(curve.cpr for curve in random)
    assert kept.cmd < min(curve.cmd for curve in random)
    np.testing.assert_array_equal(kept.points[3].values, measure(replace(request_, sizes=(5,))).points[0].values)


def test_dead_ends_change_nothing_under_resample_ablation(request_: MeasureRequest) -> None:
    some = replace(request_, sizes=(13, 40))
    with_ends, without = measure(some), measure(replace(some, drop_dead_ends=True))
    np.testing.assert_allclose(with_ends.values, without.values, atol=1e-4)


def test_by_positive_score_only_no_edge_that_works_against_the_task_is_kept(run: Run, request_: MeasureRequest) -> None:
    positive = replace(request_, importance="positive")
    kept = positive.kept(run.graph, 200)
    assert (run.scores[kept] > 0).all()
    assert positive.kept(run.graph, run.graph.n_edges).all()


@pytest.mark.parametrize("ablation", list(AblationType))
def test_every_ablation_can_be_measured(request_: MeasureRequest, ablation: AblationType) -> None:
    if ablation.averages_positions_apart:
        lengths = [len(pair.clean.split()) for pair in PROMPTS.pairs]
        rows = tuple(row for row, length in enumerate(lengths) if length == lengths[0])
        request_ = replace(request_, rows=rows)
    request_ = replace(request_, config=replace(request_.config, batch_size=4))
    curve = measure(replace(request_, sizes=(0, 50, 262), ablation_type=ablation))
    assert np.isfinite(curve.values).all()
    np.testing.assert_allclose(curve.points[0].values, curve.ablated.values)
    assert not np.allclose(curve.whole.values, curve.ablated.values, atol=1e-2)


def test_the_smallest_circuit_keeps_enough_and_one_edge_less_does_not(request_: MeasureRequest) -> None:
    curve = find_smallest(request_, 0.9)
    smallest = curve.smallest(0.9)
    assert smallest is not None
    assert smallest - 1 in curve.sizes
    at, before = (measure(replace(request_, sizes=(size,))).faithfulness[0] for size in (smallest, smallest - 1))
    assert before < 0.9 <= at


def test_a_share_of_nothing_is_refused(request_: MeasureRequest) -> None:
    """A pair and the same pair swapped: what ablation takes from one it gives to the other."""
    pair = PROMPTS.pairs[0]
    swapped = replace(pair, clean=pair.corrupt, corrupt=pair.clean)
    config = RunConfig("teaching", replace(PROMPTS, pairs=(pair, swapped)))
    with pytest.raises(NumericalError, match="do equally well on average"):
        find_smallest(replace(request_, config=config, rows=None))


def test_measuring_can_be_stopped_and_counts_to_its_total(request_: MeasureRequest) -> None:
    reports: list[tuple[int, int]] = []
    measure(request_, progress=lambda step, total, message: reports.append((step, total)))
    assert reports[-1][0] == reports[-1][1] == len(reports)
    with pytest.raises(JobCancelled):
        measure(request_, cancelled=lambda: True)


# --- which edges are stable ----------------------------------------------------------------------------------------


def test_stability_is_how_often_an_edge_is_among_the_strongest_of_a_draw(run: Run) -> None:
    found = edge_stability(StabilityRequest(run.config, (10, 262), n_resamples=40))
    assert sum(found[10].values()) == pytest.approx(10)
    assert set(found[262].values()) == {1.0}
    assert len(found[262]) == 262
    assert all(found[10][edge] > 0.9 for edge in top_edges(run.scores, 3).tolist())
    assert not set(found[10]) & set(top_edges(run.scores, 200)[-50:].tolist())


def test_one_prompt_is_drawn_again_and_again_so_every_edge_is_stable() -> None:
    config = RunConfig("teaching", replace(PROMPTS, pairs=PROMPTS.pairs[:1]), Method())
    run = attribute(config)
    found = edge_stability(StabilityRequest(config, (20,), n_resamples=5))[20]
    assert found == dict.fromkeys(top_edges(run.scores, 20).tolist(), 1.0)
