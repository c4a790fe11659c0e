"""The app's jobs, called as plain functions: their numbers are the engine's and the plain model's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuit import (
    AblationType,
    CircuitError,
    Method,
    PatchableModel,
    PromptDataLoader,
    PromptDataset,
    load_model,
    mask_gradient_prune_scores,
)
from circuit.common.errors import JobCancelled, ModelError, OptionError, PromptError
from circuit.engine.attention import attention_patterns
from circuit.engine.patching import run_edge_masks
from circuit.jobs.attribute import attribute
from circuit.jobs.check import CheckRequest, check_prompts
from circuit.jobs.inspect import AttentionRequest, EffectsRequest, measure_effects, read_attention
from circuit.jobs.measure import MeasureRequest, measure
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.runs.config import RunConfig
from circuit.runs.run import Run
from tests.small_models import random_hf_model

# The tokenizer's words are numbers; those with a zero are split at it, since 0 is its BOS token.
PAIRS = (
    PromptPair("1 2 3 4", "1 2 9 4", ("5", "6"), ("7",)),
    PromptPair("8 9 17 11 12 13", "8 9 3 11 12 13", ("14",), ("15", "16")),
    PromptPair("27 21", "22 21", ("23",), ("24",)),
)
BAD = PromptPair("1 2 3", "1 2", ("4",), ("5",))  # different lengths
PROMPTS = PromptSet("numbers", PAIRS)


@pytest.fixture(scope="module")
def model(small: str) -> PatchableModel:
    return load_model(small, device="cpu")


def tokens(text: str) -> torch.Tensor:
    return torch.tensor([int(word) for word in text.split()])


def dataset(pairs: tuple[PromptPair, ...]) -> PromptDataset:
    """The pairs as tokens, made without the app's own encoding."""
    return PromptDataset(
        [tokens(pair.clean) for pair in pairs],
        [tokens(pair.corrupt) for pair in pairs],
        [tokens(" ".join(pair.answers)) for pair in pairs],
        [tokens(" ".join(pair.wrong_answers)) for pair in pairs],
    )


def plain_logits(text: str) -> np.ndarray:
    """The logits after a prompt, from the Hugging Face model alone."""
    with torch.no_grad():
        return np.asarray(random_hf_model("llama")(tokens(text)[None]).logits[0, -1])


def difference(logits: np.ndarray, pair: PromptPair) -> float:
    right, wrong = ([logits[int(word)] for word in words] for words in (pair.answers, pair.wrong_answers))
    return float(np.mean(right) - np.mean(wrong))


# --- checking prompts ----------------------------------------------------------------------------------------------


def test_a_check_reports_what_the_plain_model_does(small: str, model: PatchableModel) -> None:
    report = check_prompts(CheckRequest(small, PromptSet("mixed", (PAIRS[0], BAD, PAIRS[1]))))
    assert list(report.problems) == [1]
    assert report.clean_tokens[0] == ["1", "2", "3", "4"]
    assert report.corrupt_tokens[0] == ["1", "2", "9", "4"]
    assert (report.card.n_edges, report.card.title) == (model.graph.n_edges, "small")
    assert not report.prepend_bos
    for row, pair in ((0, PAIRS[0]), (2, PAIRS[1])):
        clean, corrupt = plain_logits(pair.clean), plain_logits(pair.corrupt)
        shares = np.exp(clean - clean.max()) / np.exp(clean - clean.max()).sum()
        right = [int(word) for word in pair.answers]
        assert report.difference_clean[row] == pytest.approx(difference(clean, pair), rel=1e-4)
        assert report.difference_corrupt[row] == pytest.approx(difference(corrupt, pair), rel=1e-4)
        assert report.probability[row] == pytest.approx(shares[right].sum(), rel=1e-4)
        assert report.rank[row] == 1 + (clean > clean[right].max()).sum()
        best = np.argsort(-clean)[:5]
        assert [token for token, _ in report.top_tokens[row]] == [str(token) for token in best]
        np.testing.assert_allclose([share for _, share in report.top_tokens[row]], shares[best], rtol=1e-4)


def test_a_check_leaves_rows_with_problems_empty(small: str) -> None:
    report = check_prompts(CheckRequest(small, PromptSet("mixed", (BAD, PAIRS[0]))))
    for column in (report.probability, report.difference_clean, report.difference_corrupt, report.rank):
        assert np.isnan(column).tolist() == [True, False]
    assert report.top_tokens[0] == []


def test_a_check_of_bad_prompts_only_is_still_a_report(small: str) -> None:
    report = check_prompts(CheckRequest(small, PromptSet("bad", (BAD, BAD))))
    assert list(report.problems) == [0, 1]
    assert np.isnan(report.probability).all()


def test_without_wrong_answers_only_the_difference_is_unknown(small: str) -> None:
    pairs = (PromptPair("1 2", "1 3", ("4",)), PAIRS[0])
    report = check_prompts(CheckRequest(small, PromptSet("half", pairs)))
    assert np.isnan(report.difference_clean).tolist() == [True, False]
    assert np.isfinite(report.probability).all()


def test_a_bos_token_can_be_asked_for(small: str) -> None:
    report = check_prompts(CheckRequest(small, PROMPTS, prepend_bos=True))
    assert report.prepend_bos
    assert report.clean_tokens[0] == ["0", "1", "2", "3", "4"]
    expected = difference(plain_logits("0 1 2 3 4"), PAIRS[0])
    assert report.difference_clean[0] == pytest.approx(expected, rel=1e-4)


# --- attribution ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        Method(),
        Method(grad_function="prob", answer_function="avg_val", mask_val=0.4),
        Method(mask_val=None, integrated_grad_samples=3, ablation_type=AblationType.ZERO, clean_corrupt=None),
        Method(ablation_type=AblationType.BATCH_ALL_TOK_MEAN, clean_corrupt="clean"),
        Method(answer_function="mse", mask_val=None, integrated_grad_samples=2, integration_rule="trapezoid"),
    ],
)
def test_scores_are_those_of_the_engine(small: str, model: PatchableModel, method: Method) -> None:
    run = attribute(RunConfig(small, PROMPTS, method, batch_size=2))
    expected = mask_gradient_prune_scores(
        model,
        PromptDataLoader(dataset(PAIRS), batch_size=2),
        None,
        method.grad_function,
        method.answer_function,
        mask_val=method.mask_val,
        integrated_grad_samples=method.integrated_grad_samples,
        ablation_type=method.ablation_type,
        clean_corrupt=method.clean_corrupt,
        integration_rule=method.integration_rule,
    )
    assert np.any(run.scores)
    np.testing.assert_array_equal(run.scores, model.graph.flatten(expected))
    assert run.graph == model.graph


def test_the_baseline_is_the_plain_model(small: str) -> None:
    baseline = attribute(RunConfig(small, PROMPTS)).baseline
    clean = [difference(plain_logits(pair.clean), pair) for pair in PAIRS]
    corrupt = [difference(plain_logits(pair.corrupt), pair) for pair in PAIRS]
    assert baseline.clean == pytest.approx(np.mean(clean), rel=1e-4)
    assert baseline.corrupt == pytest.approx(np.mean(corrupt), rel=1e-4)
    right = [
        min(logits[int(word)] for word in pair.answers) > max(logits[int(word)] for word in pair.wrong_answers)
        for pair in PAIRS
        for logits in [plain_logits(pair.clean)]
    ]
    assert baseline.accuracy == pytest.approx(np.mean(right))


def test_the_baseline_of_many_prompts_is_their_mean(small: str) -> None:
    pairs = tuple(PromptPair(f"{i} 2 3", f"{i} 9 3", ("5",), ("7",)) for i in range(1, 25) if i % 10)
    expected = np.mean([difference(plain_logits(pair.clean), pair) for pair in pairs])
    assert attribute(RunConfig(small, PromptSet("many", pairs))).baseline.clean == pytest.approx(expected, rel=1e-4)


def test_accuracy_is_over_the_prompts_that_have_wrong_answers(small: str) -> None:
    alone = attribute(RunConfig(small, PROMPTS)).baseline
    prompts = PromptSet("half", (*PAIRS, PromptPair("1 2", "1 3", ("4",))))
    run = attribute(RunConfig(small, prompts, Method(answer_function="avg_val")))
    assert run.baseline.accuracy == alone.accuracy
    assert (run.baseline.judged, alone.judged) == (len(PAIRS), len(PAIRS))
    assert np.isfinite(run.baseline.clean)
    none = PromptSet("none", tuple(replace(pair, wrong_answers=()) for pair in PAIRS))
    assert np.isnan(attribute(RunConfig(small, none, Method(answer_function="avg_val"))).baseline.accuracy)


def test_rows_with_problems_are_left_out_and_recorded(small: str) -> None:
    mixed = attribute(RunConfig(small, PromptSet("mixed", (BAD, *PAIRS[:2], BAD, PAIRS[2]))))
    alone = attribute(RunConfig(small, PROMPTS))
    assert mixed.used_rows == [1, 2, 4]
    np.testing.assert_array_equal(mixed.scores, alone.scores)
    assert mixed.baseline == alone.baseline
    assert "3 of 5 prompt pairs" in mixed.caption


def test_a_run_says_where_it_comes_from(small: str, model: PatchableModel) -> None:
    provenance = attribute(RunConfig(small, PROMPTS, device="cpu")).provenance
    assert provenance["model"] == "small"
    assert provenance["parameters"] == sum(p.numel() for p in random_hf_model("llama").parameters())
    assert provenance["device"] == "cpu"
    assert provenance["versions"]["torch"] == torch.__version__


def test_positions_kept_apart_add_up_to_positions_added_up(small: str) -> None:
    prompts = PromptSet("one length", tuple(PromptPair(f"{i} 2 3 4", f"{i} 9 3 4", ("5",), ("7",)) for i in (1, 2, 3)))
    apart = attribute(RunConfig(small, prompts, keep_positions=True))
    summed = attribute(RunConfig(small, prompts))
    assert apart.graph.seq_len == 4
    parts = apart.graph.unflatten(apart.scores)
    for name, whole in summed.graph.unflatten(summed.scores).items():
        np.testing.assert_allclose(parts[name].sum(0), whole, rtol=1e-4, atol=1e-6)
        assert not np.any(parts[name][0])  # nothing differs at the first token


def test_positions_of_prompts_of_different_lengths_are_refused_by_row(small: str) -> None:
    with pytest.raises(PromptError, match="Row 3 has 6 tokens and row 2 has 4"):
        attribute(RunConfig(small, PromptSet("mixed", (BAD, *PAIRS)), keep_positions=True))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": "local/gone"}, ModelError, "no model gone"),
        ({"device": "tpu"}, OptionError, "tpu"),
        ({"prompts": PromptSet("bad", (BAD,))}, PromptError, "None of the 1"),
        ({"prompts": PromptSet("none", ())}, PromptError, "None of the 0"),
        ({"prompts": PromptSet("half", (PromptPair("1", "2", ("3",)),))}, PromptError, "wrong answer"),
        ({"method": Method(ablation_type=AblationType.BATCH_ALL_TOK_MEAN)}, OptionError, "batch size"),
        ({"method": Method(ablation_type=AblationType.TOKENWISE_MEAN_CLEAN)}, PromptError, "tokens"),
        ({"batch_size": 0}, OptionError, "batch_size"),
    ],
)
def test_what_cannot_be_scored_is_said(
    small: str, change: dict[str, Any], error: type[CircuitError], words: str
) -> None:
    with pytest.raises(error, match=words):
        attribute(replace(RunConfig(small, PROMPTS), **change))


# --- circuits ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(small: str) -> Run:
    return attribute(RunConfig(small, PromptSet("mixed", (PAIRS[0], BAD, *PAIRS[1:]))))


def test_all_edges_are_the_whole_model_and_none_the_corrupt_run(run: Run) -> None:
    everything = run.graph.n_edges
    curve = measure(MeasureRequest(run.config, run.scores, (0, everything)))
    assert curve.sizes == [0, everything]
    measured = dict(zip(curve.sizes, curve.points, strict=True))
    for size, prompt in ((everything, "clean"), (0, "corrupt")):
        expected = [difference(plain_logits(getattr(pair, prompt)), pair) for pair in PAIRS]
        np.testing.assert_allclose(measured[size].values, expected, rtol=1e-3, atol=1e-4)
        assert measured[size].n_edges == size
    assert measured[everything].mean == pytest.approx(run.baseline.clean, rel=1e-4)
    assert measured[everything].accuracy == pytest.approx(run.baseline.accuracy)
    assert measured[0].mean == pytest.approx(run.baseline.corrupt, rel=1e-4)


def test_a_circuit_in_between_is_neither(run: Run) -> None:
    sizes = (0, 60, run.graph.n_edges)
    none, some, whole = measure(MeasureRequest(run.config, run.scores, sizes)).points
    assert not np.allclose(some.values, none.values, atol=1e-3)
    assert not np.allclose(some.values, whole.values, atol=1e-3)


def test_another_ablation_gives_another_circuit(run: Run) -> None:
    resample, zero = (
        measure(MeasureRequest(run.config, run.scores, (60,), ablation_type=ablation)).points[0].values
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


# --- progress and cancelling ---------------------------------------------------------------------------------------

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
def test_progress_counts_up_to_its_total(run: Run, name: str) -> None:
    reports: list[tuple[int, int]] = []
    jobs(run)[name](progress=lambda step, total, message: reports.append((step, total)))
    steps, totals = zip(*reports, strict=True)
    assert len(steps) > 2
    assert list(steps) == sorted(steps)
    assert set(totals) == {steps[-1]}


@pytest.mark.parametrize("name", ["check", "attribute", "measure"])
@pytest.mark.parametrize("after", [0, 2])
def test_a_job_stops_when_asked_to(run: Run, name: str, after: int) -> None:
    reports: list[int] = []
    with pytest.raises(JobCancelled):
        jobs(run)[name](
            progress=lambda step, total, message: reports.append(step), cancelled=lambda: len(reports) >= after
        )
    assert len(reports) == after


def test_a_job_after_a_cancelled_one_gives_the_same_as_before(run: Run) -> None:
    with pytest.raises(JobCancelled):
        jobs(run)["attribute"](cancelled=lambda: True)
    np.testing.assert_array_equal(attribute(run.config).scores, run.scores)


def test_loading_a_model_says_so(small_folder: Path) -> None:
    """A path no test has loaded before, so that it is not in memory yet."""
    told: list[str] = []
    name = str(small_folder / ".." / small_folder.name)
    check_prompts(CheckRequest(name, PROMPTS), progress=lambda step, total, message: told.append(message))
    assert told[0] == f"Loading {name}"


# --- imports -------------------------------------------------------------------------------------------------------


def test_messages_name_the_row_of_the_table_not_of_the_usable_prompts(small: str) -> None:
    unanswered = PromptPair("1 2", "1 3", ("4",), ())
    with pytest.raises(PromptError, match="Row 3: there is no wrong answer"):
        attribute(RunConfig(small, PromptSet("gaps", (BAD, PAIRS[0], unanswered))))
    longer = PromptPair("1 2 3 4 5", "1 2 9 4 5", ("6",), ("7",))
    with pytest.raises(PromptError, match="Row 3 has 5 tokens and row 2 has 4"):
        attribute(RunConfig(small, PromptSet("gaps", (BAD, PAIRS[0], longer)), keep_positions=True))
    mean = Method(ablation_type=AblationType.TOKENWISE_MEAN_CLEAN)
    with pytest.raises(PromptError, match="Row 3 has 5 tokens and row 2 has 4"):
        attribute(RunConfig(small, PromptSet("gaps", (BAD, PAIRS[0], longer)), mean))


# --- single edges and heads ----------------------------------------------------------------------------------------


def test_the_effect_of_an_edge_is_that_of_a_circuit_without_it(small: str) -> None:
    """`run_edge_masks` with all edges but one, and the answer differences taken from its logits."""
    config = RunConfig(small, PromptSet("numbers", (PAIRS[0], BAD, *PAIRS[1:])))
    model = load_model(small, device="cpu")
    edges = (3, 77, model.graph.n_edges - 2)
    effects = measure_effects(EffectsRequest(config, edges))
    whole = np.ones(model.graph.n_edges, dtype=bool)
    circuits = [whole]
    for edge in edges:
        circuits.append(whole.copy())
        circuits[-1][edge] = False
    outputs = run_edge_masks(model, PromptDataLoader(dataset(PAIRS)), circuits)

    def loss(logits: torch.Tensor) -> float:
        rows = zip(logits, PAIRS, strict=True)
        differences = [
            row[tokens(" ".join(pair.answers))].mean() - row[tokens(" ".join(pair.wrong_answers))].mean()
            for row, pair in rows
        ]
        return -float(torch.stack(differences).mean())

    for edge, logits in zip(edges, outputs[1:], strict=True):
        assert effects[edge] == pytest.approx(loss(logits) - loss(outputs[0]), rel=1e-3, abs=1e-5)


def test_attention_is_read_on_both_prompts_of_a_row(small: str, model: PatchableModel) -> None:
    config = RunConfig(small, PromptSet("numbers", (BAD, *PAIRS)))
    pair = read_attention(AttentionRequest(config, 2, layer=1, head=3))
    assert pair.clean_tokens == ["8", "9", "17", "11", "12", "13"]
    assert pair.corrupt_tokens == ["8", "9", "3", "11", "12", "13"]
    for pattern, text in ((pair.clean, PAIRS[1].clean), (pair.corrupt, PAIRS[1].corrupt)):
        expected = attention_patterns(model, tokens(text)[None], 1, 3)[0]
        np.testing.assert_allclose(pattern, expected, atol=1e-6)
        np.testing.assert_allclose(pattern.sum(axis=1), 1, atol=1e-5)
    assert np.abs(pair.clean - pair.corrupt).max() > 1e-4
    with pytest.raises(PromptError, match="Row 1 cannot be used"):
        read_attention(AttentionRequest(config, 0, layer=1, head=3))


def test_with_positions_apart_a_run_knows_its_tokens(small: str) -> None:
    config = RunConfig(small, PromptSet("numbers", PAIRS[:1]), keep_positions=True)
    assert attribute(config).tokens == ["1", "2", "3", "4"]
    assert attribute(replace(config, keep_positions=False)).tokens == []
