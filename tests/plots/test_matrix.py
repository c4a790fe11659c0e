"""The whole matrix of edges."""

from __future__ import annotations

import numpy as np

from circuit.plots.matrix import score_matrix
from tests.graphs import SMOL, random_scores
from tests.plots.by_loops import CAPTION


def test_the_whole_matrix_is_float32_blank_where_acausal_and_has_its_lines_in_one_shape() -> None:
    figure = score_matrix(SMOL, random_scores(SMOL), caption=CAPTION)
    z = np.asarray(figure.data[0].z)
    assert z.dtype == np.float32
    assert np.isfinite(z).sum() == SMOL.n_edges == 70_651
    assert len(figure.layout.shapes) == 1
    assert len(figure.to_json()) < 1_500_000
