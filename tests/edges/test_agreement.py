"""Measured effects beside the scores that estimate them."""

from __future__ import annotations

import numpy as np
import pytest

from circuit.edges.agreement import by_disagreement, contradictions, contradicts, disagreements, with_effects
from circuit.edges.ranking import edge_table
from tests.graphs import SMOL, random_scores


@pytest.mark.parametrize(
    ("score", "effect", "noise", "opposite"),
    [
        (-0.87, 5.7, 0.0, True),
        (0.43, 0.39, 0.0, False),
        (0.43, -0.39, 0.0, True),
        (0.43, -1e-4, 0.0, False),  # a thousandth of the score has no sign to speak of
        (1e-9, -1e-8, 0.0, False),  # rounding of the loss
        (0.01, -0.02, 0.05, False),  # a precision that leaves as much of nothing
        (0.0, -0.2, 0.0, False),  # a score of zero claims nothing
    ],
)
def test_an_effect_contradicts_its_score_by_its_sign_beyond_noise(
    score: float, effect: float, noise: float, opposite: bool
) -> None:
    assert contradicts(score, effect, noise) == opposite


def test_the_largest_disagreements_come_first_and_the_opposite_is_marked() -> None:
    scores = np.zeros(SMOL.n_edges, np.float32)
    scores[:4] = [1.0, -0.87, 2.0, 0.5]
    effects = {0: 1.1, 1: 5.7, 2: 0.1, 3: 0.5}
    assert by_disagreement(scores, effects) == [1, 2, 0, 3]
    assert contradictions(scores, effects) == {1}
    words = disagreements(SMOL, scores, effects, most=2)
    first, second = words.split("; ")
    assert first.endswith(f"{SMOL.edge_label(1)} (score -0.87, measured +5.7, ≠ the opposite)")
    assert second == f"{SMOL.edge_label(2)} (score +2, measured +0.1)."
    assert disagreements(SMOL, scores, {}) == ""


def test_a_table_shows_what_was_measured_and_whether_it_agrees() -> None:
    scores = random_scores(SMOL)
    plain = edge_table(SMOL, scores, np.array([5, 6, 7]))
    assert with_effects(plain, {9: 1.0}) is plain
    table = with_effects(plain, {5: float(scores[5]), 7: -float(scores[7])})
    assert table["agrees"].tolist() == ["yes", "", "≠ opposite"]
    np.testing.assert_allclose(table["measured effect"], [scores[5], np.nan, -scores[7]])
    assert list(table.columns[:2]) == list(plain.columns[:2])
