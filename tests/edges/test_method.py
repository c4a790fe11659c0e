"""Options: which go together, what they average over, and that they need no torch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from circuit.common.errors import OptionError
from circuit.edges.method import AblationType, Method, PatchType, sample_points


def test_sample_points_of_each_rule() -> None:
    assert sample_points(0.3, None) == [(0.3, 1.0)]
    assert sample_points(None, 4) == [(m, pytest.approx(1 / 5)) for m in (0, 0.25, 0.5, 0.75, 1.0)]
    assert sample_points(None, 4, "trapezoid") == [
        (0, 1 / 8),
        (0.25, 1 / 4),
        (0.5, 1 / 4),
        (0.75, 1 / 4),
        (1.0, 1 / 8),
    ]
    assert sample_points(None, 4, "midpoint") == [(m, 1 / 4) for m in (1 / 8, 3 / 8, 5 / 8, 7 / 8)]


def test_published_points_of_each_path() -> None:
    assert sample_points(None, 4, path="inputs") == [(m, 1 / 4) for m in (0.25, 0.5, 0.75, 1.0)]
    assert sample_points(None, 4, path="activations") == [(m, 1 / 4) for m in (0, 0.25, 0.5, 0.75)]
    assert sample_points(None, None, path="ends") == [(0, 1 / 2), (1, 1 / 2)]
    assert sample_points(0.0, None, path="inputs") == [(0, 1)]
    for path in ("inputs", "activations"):  # the other rules are the same on every path
        assert sample_points(None, 4, "midpoint", path) == sample_points(None, 4, "midpoint")


def test_activations_go_through_their_points_once_a_group() -> None:
    method = Method(mask_val=None, integrated_grad_samples=3, path="activations")
    assert (method.n_passes(n_layers=2), len(method.points)) == (15, 3)
    assert Method(path="ends", mask_val=None).n_passes(2) == 2


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("rule", ["reference", "trapezoid", "midpoint"])
def test_weights_sum_to_one_and_straight_lines_are_integrated_exactly(n: int, rule: Any) -> None:
    points = sample_points(None, n, rule)
    assert sum(weight for _, weight in points) == pytest.approx(1)
    assert sum(weight * (3 * m + 1) for m, weight in points) == pytest.approx(2.5)
    assert all(0 <= m <= 1 for m, _ in points)


@pytest.mark.parametrize("rule", ["trapezoid", "midpoint"])
def test_the_two_other_rules_are_second_order(rule: Any) -> None:
    def error(n: int) -> float:
        return abs(sum(weight * m**3 for m, weight in sample_points(None, n, rule)) - 1 / 4)

    assert error(10) / error(20) == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mask_val": None}, "neither was given"),
        ({"mask_val": 0.0, "integrated_grad_samples": 5}, "both was given"),
        ({"mask_val": -0.1}, "mask_val must lie between 0 and 1, and is -0.1"),
        ({"mask_val": 1.01}, "between 0 and 1"),
        ({"mask_val": float("nan")}, "between 0 and 1"),
        ({"mask_val": None, "integrated_grad_samples": 0}, "whole number of 1 or more, and is 0"),
        ({"mask_val": None, "integrated_grad_samples": 2.5}, "whole number of 1 or more"),
        ({"mask_val": None, "integrated_grad_samples": True}, "whole number of 1 or more"),
        ({"grad_function": "logits"}, "grad_function must be one of 'logit', 'prob', 'logprob', 'logit_exp'"),
        ({"answer_function": "max"}, "answer_function must be one of 'avg_diff', 'avg_val', 'mse', and is 'max'"),
        ({"integration_rule": "simpson"}, "integration_rule must be one of 'reference', 'trapezoid', 'midpoint'"),
        (
            {"path": "edges"},
            "path must be one of 'masks', 'inputs', 'ends', 'activations', 'learned', 'averaged', and is 'edges'",
        ),
        ({"backward": "lrp"}, "backward must be one of 'gradient', 'relp'"),
        ({"path": "ends"}, "set mask_val to None"),
        ({"path": "ends", "mask_val": None, "integrated_grad_samples": 5}, "leave integrated_grad_samples out"),
        ({"path": "learned", "learning_steps": 5}, "set mask_val to None"),
        ({"path": "learned", "mask_val": None}, "learning_steps must be a whole number from 1 to 100,000, and is None"),
        ({"path": "learned", "mask_val": None, "learning_steps": 0}, "whole number from 1 to"),
        ({"path": "learned", "mask_val": None, "learning_steps": 2.0}, "and is 2.0"),
        ({"learning_steps": 5}, "belong to the path 'learned', and the path is 'masks'"),
        ({"learning_seed": -1}, "learning_seed must be a whole number of 0 or more"),
        ({"learning_seed": "1"}, "and is '1'"),
        ({"path": "learned", "mask_val": None, "learning_steps": 5, "backward": "gim"}, "learned by the gradient"),
        (
            {
                "path": "learned",
                "mask_val": None,
                "learning_steps": 5,
                "ablation_type": AblationType.BATCH_ALL_TOK_MEAN,
            },
            "choose another ablation",
        ),
        ({"ablation_type": "ZERO"}, "must be an AblationType, and is 'ZERO'"),
        ({"clean_corrupt": "both"}, "clean_corrupt must be one of 'clean', 'corrupt'"),
        ({"clean_corrupt": None}, "set clean_corrupt to 'clean' or 'corrupt' to say which of the pair"),
        ({"clean_corrupt": None, "ablation_type": AblationType.BATCH_ALL_TOK_MEAN}, "set clean_corrupt"),
    ],
)
def test_options_without_meaning_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Method(**options)


def test_clean_corrupt_is_not_needed_where_the_batch_is_not_read() -> None:
    for ablation in AblationType:
        if not ablation.reads_batch:
            assert Method(ablation_type=ablation, clean_corrupt=None).clean_corrupt is None


@pytest.mark.parametrize("ablation", list(AblationType))
def test_a_method_survives_json(ablation: AblationType) -> None:
    for mask_val, samples in ((0.25, None), (None, 7)):
        method = Method("prob", "mse", mask_val, samples, ablation, "clean", "midpoint")
        assert Method.from_dict(json.loads(json.dumps(method.to_dict()))) == method


def test_learning_is_written_down_only_where_masks_are_learned() -> None:
    learned = Method(path="learned", mask_val=None, learning_steps=30, learning_seed=4)
    assert Method.from_dict(json.loads(json.dumps(learned.to_dict()))) == learned
    assert not {"learning_steps", "learning_seed"} & set(Method().to_dict())
    assert (learned.n_points(16), learned.n_passes(3)) == (5 + 15, 30)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mask_value": 0.0}, "Unknown method option 'mask_value'"),
        ({"ablation_type": "MEAN"}, "ablation_type must be one of RESAMPLE, ZERO"),
        ({"mask_val": "0"}, "mask_val must be a number or empty, and is '0'"),
        ({"mask_val": float("inf")}, "mask_val must be a number"),
    ],
)
def test_a_saved_method_that_is_not_ours_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Method.from_dict(values)


def test_descriptions_say_what_scores_are_scores_of() -> None:
    assert Method().describe() == "edge attribution patching; logit avg_diff; resample ablation from corrupt prompts"
    described = Method(mask_val=None, integrated_grad_samples=5, ablation_type=AblationType.ZERO).describe()
    assert described == "integrated gradients, 6 points (reference rule); logit avg_diff; zero ablation"
    assert Method("prob", mask_val=0.0).describe().startswith("mask gradient at m = 0; prob")


def test_numbers_are_autocircuits() -> None:
    assert [ablation.value for ablation in AblationType] == [1, 2, 3, 4, 5, 6, 7]
    assert [patch.name for patch in PatchType] == ["EDGE_PATCH", "TREE_PATCH"]
