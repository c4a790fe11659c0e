"""Where scores and measured effects of single edges disagree: an estimate beside a fact.

    contradicts        whether a measured effect has the opposite sign of its score, beyond noise
    contradictions     the edges where that is so
    by_disagreement    measured edges, the one whose score is furthest off first
    disagreements      the largest of them in words
    with_effects       a table of edges with what was measured, and whether it contradicts the score

Signs are those of `circuit.engine.effects`: positive, that ablating the edge hurts the task.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float

from circuit.edges.graph import EdgeGraph

OPPOSITE = "≠"
"""What marks an edge whose measured effect contradicts its score, in pictures and texts."""

_NO_CHANGE = 1e-3
"""Of the score: a smaller effect has no sign to speak of."""
_ROUNDING = 1e-6
"""An effect as small may be float32's rounding of the loss."""


def is_no_effect(score: float, effect: float, noise: float = 0.0) -> bool:
    """Whether a measured effect is too small to have a sign: beside the score, or beside `noise`, which is what the
    precision may leave of a loss that has not changed (`circuit.runs.run.Run.noise`)."""
    return abs(effect) < max(_ROUNDING, noise, _NO_CHANGE * abs(score))


def contradicts(score: float, effect: float, noise: float = 0.0) -> bool:
    """Whether ablating the edge really does the opposite of what its score estimates."""
    return score * effect < 0 and not is_no_effect(score, effect, noise)


def contradictions(
    scores: Float[np.ndarray, " n_edges"], effects: Mapping[int, float], noise: float = 0.0
) -> frozenset[int]:
    """The measured edges whose effect contradicts their score."""
    return frozenset(edge for edge, effect in effects.items() if contradicts(float(scores[edge]), effect, noise))


def by_disagreement(scores: Float[np.ndarray, " n_edges"], effects: Mapping[int, float]) -> list[int]:
    """The measured edges, the one whose effect lies furthest from its score first."""
    return sorted(effects, key=lambda edge: -abs(effects[edge] - float(scores[edge])))


def disagreements(
    graph: EdgeGraph,
    scores: Float[np.ndarray, " n_edges"],
    effects: Mapping[int, float],
    noise: float = 0.0,
    most: int = 3,
) -> str:
    """The edges whose measured effect lies furthest from their score, in a sentence; empty where there is none."""
    said = [
        f"{graph.edge_label(edge)} (score {scores[edge]:+.3g}, measured {effects[edge]:+.3g}"
        + (f", {OPPOSITE} the opposite)" if contradicts(float(scores[edge]), effects[edge], noise) else ")")
        for edge in by_disagreement(scores, effects)[:most]
    ]
    return f"Furthest from their scores: {'; '.join(said)}." if said else ""


def with_effects(table: pd.DataFrame, effects: Mapping[int, float], noise: float = 0.0) -> pd.DataFrame:
    """A table of `circuit.edges.ranking.edge_table` with the columns `measured effect` and `agrees`; the table itself
    where none of its edges was measured."""
    if not any(edge in effects for edge in table.index):
        return table
    measured = [effects.get(edge, float("nan")) for edge in table.index]
    agrees = [
        "" if np.isnan(effect) else f"{OPPOSITE} opposite" if contradicts(score, effect, noise) else "yes"
        for score, effect in zip(table["score"].tolist(), measured, strict=True)
    ]
    found = table.copy()
    place = found.columns.get_loc("score") + 1
    found.insert(place, "measured effect", measured)
    found.insert(place + 1, "agrees", agrees)
    return found
