"""Attribution as the app's job: its numbers are the engine's and the plain model's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuit import (
    PatchableModel,
    mask_gradient_prune_scores,
)
from circuit.common.errors import CircuitError, ModelError, OptionError, PromptError
from circuit.edges.method import AblationType, Method
from circuit.engine.dataset import PromptDataLoader
from circuit.jobs.attribute import attribute
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.runs.config import RunConfig
from circuit.runs.run import Run
from tests.number_pairs import BAD, PAIRS, PROMPTS, dataset, difference, plain_logits
from tests.small_memory import ERRORS, N_TOKENS, SEVEN_TOKENS, SmallMemory, assert_close
from tests.small_models import random_hf_model


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
def test_scores_are_those_of_the_engine(small: str, small_model: PatchableModel, method: Method) -> None:
    run = attribute(RunConfig(small, PROMPTS, method, batch_size=2))
    expected = mask_gradient_prune_scores(
        small_model,
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
    np.testing.assert_array_equal(run.scores, small_model.graph.flatten(expected))
    assert run.graph == small_model.graph


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


def test_a_run_says_where_it_comes_from(small: str, small_model: PatchableModel) -> None:
    provenance = attribute(RunConfig(small, PROMPTS, device="cpu")).provenance
    assert provenance["model"] == "small"
    assert provenance["parameters"] == sum(p.numel() for p in random_hf_model("llama").parameters())
    assert provenance["d_model"] == 32
    assert provenance["device"] == "cpu"
    versions = provenance["versions"]
    assert versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]  # without the kind of build


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


def test_with_positions_apart_a_run_knows_its_tokens(small: str) -> None:
    config = RunConfig(small, PromptSet("numbers", PAIRS[:1]), keep_positions=True)
    assert attribute(config).tokens == ["1", "2", "3", "4"]
    assert attribute(replace(config, keep_positions=False)).tokens == []


def test_a_run_says_that_its_batch_was_halved(small: str, tmp_path: Path) -> None:
    config = RunConfig(small, SEVEN_TOKENS, batch_size=8)
    whole = attribute(config)
    with SmallMemory(2, N_TOKENS, ERRORS["cpu"]):
        run = attribute(config)
    assert_close(run.scores, whole.scores)
    assert run.baseline.clean == pytest.approx(whole.baseline.clean, rel=1e-5)
    assert whole.notes == []
    assert any("halved to 2 prompts, because 4" in note for note in run.notes)
    run.save(tmp_path / "run.safetensors")
    assert Run.load(tmp_path / "run.safetensors").notes == run.notes
