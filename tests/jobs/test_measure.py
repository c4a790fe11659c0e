"""Jobs that measure circuits: against the circuits' logits, and what must hold of any curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from circuit.common.errors import (
    JobCancelled,
    NumericalError,
    PromptError,
)
from circuit.edges.choose import rank_edges
from circuit.edges.method import AblationType, PatchType
from circuit.edges.ranking import top_edges
from circuit.edges.subgraph import live_edges
from circuit.engine.dataset import PromptDataLoader
from circuit.engine.patching import run_circuits
from circuit.jobs.attribute import attribute
from circuit.jobs.load import models
from circuit.jobs.measure import MeasureRequest, find_smallest, measure, measure_all
from circuit.models import teaching
from circuit.prompts.encode import encode
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.faithfulness import curve_sizes
from circuit.runs.run import Run
from tests.number_pairs import PAIRS, difference, plain_logits
from tests.small_memory import ERRORS, N_TOKENS, SEVEN_TOKENS, SmallMemory

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


class Plain:
    """The teaching model as Hugging Face loads it: nothing of ours is between its weights and these logits."""

    def __init__(self, prompts: PromptSet) -> None:
        self.hf = AutoModelForCausalLM.from_pretrained(teaching.FOLDER, dtype=torch.float32).eval()
        with models().use("teaching", "cpu", "float32") as model:
            self.prompts = encode(prompts, model.tokenizer, model.prepend_bos, model.n_ctx)

    @torch.no_grad()
    def streams(self, side: str, row: int) -> torch.Tensor:
        """What the final norm reads, at every position of a prompt: [pos, d_model]."""
        found: list[torch.Tensor] = []
        hook = self.hf.transformer.ln_f.register_forward_pre_hook(lambda module, args: found.append(args[0][0]))
        self.hf(input_ids=torch.tensor([getattr(self.prompts, side)[row]]))
        hook.remove()
        return found[0]

    @torch.no_grad()
    def values(self, rows: Sequence[int], streams: Sequence[torch.Tensor]) -> list[float]:
        """Right minus wrong logits of the rows, from the stream at each one's last token."""
        logits = [self.hf.lm_head(self.hf.transformer.ln_f(stream)) for stream in streams]
        answers, wrong = self.prompts.answers, self.prompts.wrong_answers
        return [float(of[answers[row]].mean() - of[wrong[row]].mean()) for of, row in zip(logits, rows, strict=True)]

    def whole(self, rows: Sequence[int]) -> list[float]:
        return self.values(rows, [self.streams("clean", row)[-1] for row in rows])

    def ablated(self, rows: Sequence[int], ablation: AblationType, scored: Sequence[int], batch: int) -> list[float]:
        """With every edge ablated the final norm reads the ablation of what it reads in the plain model."""
        return self.values(rows, self._replaced(rows, ablation, scored, batch))

    def _replaced(
        self, rows: Sequence[int], ablation: AblationType, scored: Sequence[int], batch: int
    ) -> list[torch.Tensor]:
        corrupt = [self.streams("corrupt", row) for row in rows]
        if ablation is AblationType.RESAMPLE:
            return [stream[-1] for stream in corrupt]
        if ablation is AblationType.ZERO:  # what no source writes is left: the attention's output biases
            return [torch.stack([block.attn.c_proj.bias for block in self.hf.transformer.h]).sum(0)] * len(rows)
        if ablation.averages_dataset:
            sides = [side for side in ("clean", "corrupt") if side.upper() in ablation.name.split("_")]
            return [torch.stack([self.streams(side, row)[-1] for side in sides for row in scored]).mean(0)] * len(rows)
        batches = [corrupt[start : start + batch] for start in range(0, len(rows), batch)]
        if ablation is AblationType.BATCH_TOKENWISE_MEAN:
            return [torch.stack([stream[-1] for stream in some]).mean(0) for some in batches for _ in some]
        return [torch.cat(some).mean(0) for some in batches for _ in some]


def test_the_ends_of_a_curve_are_the_whole_and_the_ablated_model(run: Run, request_: MeasureRequest) -> None:
    n_edges, plain = run.graph.n_edges, Plain(PROMPTS)
    curve = measure(replace(request_, sizes=(0, n_edges)))
    np.testing.assert_allclose(curve.whole.values, plain.whole(run.held_out_rows), atol=1e-4)
    fully_ablated = plain.ablated(run.held_out_rows, AblationType.RESAMPLE, run.used_rows, 1)
    np.testing.assert_allclose(curve.ablated.values, fully_ablated, atol=1e-4)
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


def test_removing_a_circuit_is_patching_corrupt_activations_onto_its_edges(run: Run, request_: MeasureRequest) -> None:
    removed = measure(replace(request_, sizes=(30,), direction="remove")).points[0]
    with models().use("teaching", "cpu", "float32") as model:
        dataset = encode(PROMPTS, model.tokenizer, model.prepend_bos, model.n_ctx).dataset(run.held_out_rows)
        scores = {name: torch.from_numpy(part) for name, part in model.graph.unflatten(run.scores).items()}
        patched, restored = (
            run_circuits(
                model, PromptDataLoader(dataset, 3), [30], scores, PatchType.EDGE_PATCH, reverse_clean_corrupt=swapped
            )[30]
            for swapped in (True, False)
        )
    values = {
        name: [
            float(logits[i, right].mean() - logits[i, wrong].mean())
            for i, (right, wrong) in enumerate(zip(dataset.answers, dataset.wrong_answers, strict=True))
        ]
        for name, logits in (("patched", patched), ("restored", restored))
    }
    np.testing.assert_allclose(removed.values, values["patched"], atol=1e-4)
    assert not np.allclose(removed.values, values["restored"], atol=0.5)


def test_dead_ends_change_nothing_under_resample_ablation(request_: MeasureRequest) -> None:
    some = replace(request_, sizes=(13, 40))
    with_ends, without = measure(some), measure(replace(some, drop_dead_ends=True))
    np.testing.assert_allclose(with_ends.values, without.values, atol=1e-4)


def test_removing_a_circuit_removes_its_dead_ends_too_for_random_edges_as_well(request_: MeasureRequest) -> None:
    """An edge that leads nowhere within the circuit may be the middle of a path through all that is left."""
    removed = replace(request_, sizes=(1, 3, 8), direction="remove")
    for request in (removed, replace(removed, shuffled=0)):
        as_ranked, asked_to_drop = measure(request), measure(replace(request, drop_dead_ends=True))
        np.testing.assert_array_equal(as_ranked.values, asked_to_drop.values)
    assert measure(replace(removed, drop_dead_ends=True)).faithfulness[1] < 0.2


def test_dead_ends_change_something_under_zero_ablation(run: Run, request_: MeasureRequest) -> None:
    """Of an MLP that reads only zeros there is still what it makes of them, which the final residual reads."""
    names = [run.graph.edge_name(edge) for edge in range(run.graph.n_edges)]
    scores = np.zeros(run.graph.n_edges, dtype=np.float32)
    scores[names.index("Resid Start->Resid End")], scores[names.index("MLP 1->Resid End")] = 2, 1
    two = replace(request_, scores=scores, sizes=(2,), ablation_type=AblationType.ZERO)
    with_end, without = measure(two), measure(replace(two, drop_dead_ends=True))
    assert np.abs(with_end.values - without.values).max() > 0.01


@pytest.fixture(scope="module")
def of_one_length() -> Run:
    """A run on pairs of one length, half of them held out."""
    lengths = [len(pair.clean.split()) for pair in PROMPTS.pairs]
    pairs = tuple(pair for pair, length in zip(PROMPTS.pairs, lengths, strict=True) if length == 13)
    return attribute(RunConfig("teaching", replace(PROMPTS, pairs=pairs), held_out=0.5))


def test_means_are_those_of_the_prompts_that_were_scored(of_one_length: Run) -> None:
    """So what is measured of a pair does not depend on the other pairs measured."""
    run = of_one_length
    whole = MeasureRequest(
        run.config,
        run.scores,
        (0, 26),
        ablation_type=AblationType.TOKENWISE_MEAN_CORRUPT,
        rows=tuple(run.held_out_rows),
    )
    together = measure(whole)
    for i, row in enumerate(run.held_out_rows):
        alone = measure(replace(whole, rows=(row,)))
        np.testing.assert_allclose(alone.values[:, 0], together.values[:, i], atol=1e-4)


def test_pairs_that_are_not_as_long_as_those_scored_have_no_means(run: Run) -> None:
    pairs = tuple(PROMPTS.pairs[row] for row in (0, 2, 4, 5))
    config = RunConfig("teaching", replace(PROMPTS, pairs=pairs))
    request = MeasureRequest(config, run.scores, (5,), ablation_type=AblationType.TOKENWISE_MEAN_CLEAN, rows=(0,))
    with pytest.raises(
        PromptError, match=r"Row 4 has .* averages each token position over the prompts that were scored"
    ):
        measure(request)


def test_positions_kept_apart_need_held_out_pairs_of_the_same_length() -> None:
    pairs = tuple(PROMPTS.pairs[row] for row in (0, 2, 4, 6))
    config = RunConfig("teaching", replace(PROMPTS, pairs=pairs), held_out=0.25, keep_positions=True)
    (held_out,) = config.split(range(4))[1]
    longer = (*pairs[:held_out], PROMPTS.pairs[10], *pairs[held_out + 1 :])
    other = replace(config, prompts=replace(PROMPTS, pairs=longer))
    words = f"Row {held_out + 1} has .* held-out ones included"
    with pytest.raises(PromptError, match=words):
        attribute(other)
    run = attribute(config)
    with pytest.raises(PromptError, match=words):
        measure(MeasureRequest(other, run.scores, (10,), rows=(held_out,)))


def test_by_positive_score_only_no_edge_that_works_against_the_task_is_kept(run: Run, request_: MeasureRequest) -> None:
    positive = replace(request_, importance="positive")
    kept = positive.kept(run.graph, 200)
    assert (run.scores[kept] > 0).all()
    assert positive.kept(run.graph, run.graph.n_edges).all()


def test_by_positive_score_no_size_is_named_that_it_has_too_few_edges_for(run: Run, request_: MeasureRequest) -> None:
    few = np.where(np.arange(262) < 6, run.scores.max(), -1).astype(np.float32)
    positive = replace(request_, scores=few, importance="positive")
    assert measure(positive).sizes == [0, 1, 2, 5, 6, 262]
    assert measure(replace(positive, shuffled=0)).sizes == list(request_.sizes)
    found = find_smallest(positive)
    assert max(found.sizes) == 6
    assert found.smallest() is None


def test_by_signed_score_the_edges_that_hinder_most_come_last(run: Run, request_: MeasureRequest) -> None:
    signed = replace(request_, importance="signed")
    kept = signed.kept(run.graph, 200)
    assert kept.sum() == 200
    assert run.scores[kept].min() >= run.scores[~kept].max()
    assert measure(signed).sizes == list(request_.sizes)


def test_connected_circuits_are_measured_at_the_sizes_that_they_have(run: Run, request_: MeasureRequest) -> None:
    connected = replace(request_, importance="signed", rule="connected", drop_dead_ends=True)
    ranked = rank_edges(run.graph, run.scores, "signed", "connected")
    curve = measure(connected)
    assert set(curve.sizes) <= {*ranked.sizes.tolist(), run.graph.n_edges}
    assert curve.sizes == sorted({ranked.size_within(n) for n in request_.sizes})
    some = next(n for n in curve.sizes if 5 < n < 100)
    np.testing.assert_array_equal(np.flatnonzero(connected.kept(run.graph, some)), np.sort(ranked.edges[:some]))
    assert len(live_edges(run.graph, ranked.edges[:some])) == some


def test_the_smallest_connected_circuit_is_found_among_the_sizes_that_there_are(
    run: Run, request_: MeasureRequest
) -> None:
    connected = replace(request_, importance="signed", rule="connected")
    found = find_smallest(connected)
    n = found.smallest()
    assert n is not None
    sizes = rank_edges(run.graph, run.scores, "signed", "connected").sizes.tolist()
    before = sizes[sizes.index(n) - 1]
    keeps = dict(zip(found.sizes, found.faithfulness, strict=True))
    assert keeps[n] >= 0.9 > keeps[before]


@pytest.mark.parametrize("ablation", list(AblationType))
def test_every_ablation_can_be_measured(of_one_length: Run, ablation: AblationType) -> None:
    run = of_one_length
    config = replace(run.config, batch_size=2)
    request = MeasureRequest(config, run.scores, (0, 50, 262), ablation_type=ablation, rows=tuple(run.held_out_rows))
    curve = measure(request)
    assert np.isfinite(curve.values).all()
    plain = Plain(run.config.prompts)
    fully_ablated = plain.ablated(run.held_out_rows, ablation, run.used_rows, 2)
    np.testing.assert_allclose(curve.ablated.values, fully_ablated, atol=1e-4)
    np.testing.assert_allclose(curve.whole.values, plain.whole(run.held_out_rows), atol=1e-4)
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


def test_a_curve_is_measured_all_the_same(small: str) -> None:
    run = attribute(RunConfig(small, SEVEN_TOKENS, batch_size=8))
    request = MeasureRequest(run.config, run.scores, (10, 40))
    whole = measure(request)
    with SmallMemory(4, N_TOKENS, ERRORS["cpu"]), pytest.warns(UserWarning, match="halved"):
        found = measure(request)
    np.testing.assert_allclose(found.values, whole.values, atol=1e-4)


def test_all_edges_are_the_whole_model_and_none_the_corrupt_run(mixed_run: Run) -> None:
    everything = mixed_run.graph.n_edges
    curve = measure(MeasureRequest(mixed_run.config, mixed_run.scores, (0, everything)))
    assert curve.sizes == [0, everything]
    measured = dict(zip(curve.sizes, curve.points, strict=True))
    for size, prompt in ((everything, "clean"), (0, "corrupt")):
        expected = [difference(plain_logits(getattr(pair, prompt)), pair) for pair in PAIRS]
        np.testing.assert_allclose(measured[size].values, expected, rtol=1e-3, atol=1e-4)
        assert measured[size].n_edges == size
    assert measured[everything].mean == pytest.approx(mixed_run.baseline.clean, rel=1e-4)
    assert measured[everything].accuracy == pytest.approx(mixed_run.baseline.accuracy)
    assert measured[0].mean == pytest.approx(mixed_run.baseline.corrupt, rel=1e-4)


def test_a_circuit_in_between_is_neither(mixed_run: Run) -> None:
    sizes = (0, 60, mixed_run.graph.n_edges)
    none, some, whole = measure(MeasureRequest(mixed_run.config, mixed_run.scores, sizes)).points
    assert not np.allclose(some.values, none.values, atol=1e-3)
    assert not np.allclose(some.values, whole.values, atol=1e-3)


def test_another_ablation_gives_another_circuit(mixed_run: Run) -> None:
    resample, zero = (
        measure(MeasureRequest(mixed_run.config, mixed_run.scores, (60,), ablation_type=ablation)).points[0].values
        for ablation in (AblationType.RESAMPLE, AblationType.ZERO)
    )
    assert not np.allclose(resample, zero, atol=1e-3)


def test_circuits_can_keep_positions_apart(small: str) -> None:
    prompts = PromptSet("one length", (PAIRS[0], PromptPair("9 2 3 4", "9 9 3 4", ("5",), ("7",))))
    apart = attribute(RunConfig(small, prompts, keep_positions=True))
    sizes = (0, apart.graph.n_edges)
    none, whole = measure(MeasureRequest(apart.config, apart.scores, sizes)).points
    assert whole.mean == pytest.approx(apart.baseline.clean, rel=1e-4)
    assert none.mean == pytest.approx(apart.baseline.corrupt, rel=1e-4)
