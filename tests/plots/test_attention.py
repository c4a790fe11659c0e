"""Attention patterns, drawn."""

from __future__ import annotations

import numpy as np

from circuit.plots.attention import attention_heatmaps
from tests.plots.by_loops import CAPTION


def test_attention_is_drawn_for_both_prompts_and_nothing_for_what_lies_ahead() -> None:
    pattern = np.full((3, 3), 1 / 3)
    figure = attention_heatmaps(pattern, pattern, ["a", "b", "a"], ["a", "c", "a"], caption=CAPTION)
    clean, corrupt = figure.data
    assert list(clean.x) == ["0 a", "1 b", "2 a"]
    assert list(corrupt.y) == ["0 a", "1 c", "2 a"]
    assert np.isfinite(np.asarray(clean.z)).tolist() == np.tri(3, dtype=bool).tolist()
    assert [title.text for title in figure.layout.annotations[:2]] == ["clean", "corrupt"]
