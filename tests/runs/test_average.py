"""The mean of several runs: of what is normalised, and only where the runs are about the same."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuit.common.errors import OptionError
from circuit.edges.graph import EdgeGraph
from circuit.edges.method import AblationType, Method
from circuit.runs.average import average, why_not_average
from circuit.runs.export import python_snippet
from circuit.runs.run import Run
from tests.runs_made import run_with

ROOT = Path(__file__).resolve().parents[2]


def of(seed: int, method: Method | None = None, **config: Any) -> Run:
    run = run_with(seed)
    method = method or Method(backward="gim", mask_val=seed / 10)
    return replace(run, config=replace(run.config, method=method, **config))


def test_a_mean_is_of_shares_of_each_runs_total() -> None:
    one, other = of(1), of(2)
    larger = replace(other, scores=1000 * other.scores)
    found = average([one, larger])
    expected = one.scores / np.abs(one.scores).sum() / 2 + other.scores / np.abs(other.scores).sum() / 2
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)
    assert found.scores.dtype == np.float32
    np.testing.assert_allclose(average([one, one]).scores, one.scores / np.abs(one.scores).sum(), rtol=1e-6)


def test_a_mean_says_what_it_is_a_mean_of_and_is_a_run_of_its_own(tmp_path: Path) -> None:
    runs = [of(1), of(2), of(3)]
    found = average(runs)
    assert "mean of several runs' normalised scores; logit avg_diff; resample ablation" in found.caption
    assert found.notes[0].startswith(
        "The scores are the mean of 3 runs' normalised scores: mask gradient at m = 0.1, gim"
    )
    assert all(run.id[:8] in found.notes[0] for run in runs)
    assert found.id not in {run.id for run in runs}
    assert found.provenance["mean_of"] == [run.id for run in runs]
    found.save(tmp_path / f"{found.id[:8]}.safetensors")
    again = Run.load(tmp_path / f"{found.id[:8]}.safetensors")
    assert again.caption == found.caption
    assert again.notes == found.notes
    assert np.array_equal(again.scores, found.scores)
    assert average([again, runs[0]]).notes[0].startswith("The scores are the mean of 2 runs'")


def test_its_script_reads_the_runs_file(tmp_path: Path) -> None:
    found = average([of(1), of(2)])
    found.save(tmp_path / f"{found.id[:8]}.safetensors")
    (tmp_path / "circuit_of_mean.py").write_text(python_snippet(found, 3))
    command = [sys.executable, "circuit_of_mean.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "mean of several runs' normalised scores" in done.stdout


ZERO = Method(ablation_type=AblationType.ZERO, clean_corrupt=None)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            lambda run: replace(run, config=replace(run.config, prompts=replace(run.config.prompts, pairs=()))),
            "prompts",
        ),
        (lambda run: replace(run, used_rows=[0]), "scored and held-out pairs"),
        (lambda run: replace(run, config=replace(run.config, prepend_bos=not run.config.prepend_bos)), "BOS tokens"),
        (lambda run: replace(run, config=replace(run.config, method=Method("prob"))), "losses"),
        (lambda run: replace(run, config=replace(run.config, method=ZERO)), "ablations"),
        (lambda run: replace(run, scores=np.zeros_like(run.scores)), "all scores of one of them are zero"),
        (lambda run: replace(run, graph=EdgeGraph(3, 4, 2)), "the numbers of layers differ"),
        (
            lambda run: replace(run, provenance={**run.provenance, "weights": {"sha256": "0"}}),
            "their models' weights differ",
        ),
    ],
    ids=["prompts", "rows", "bos", "loss", "ablation", "zero", "shape", "weights"],
)
def test_runs_that_differ_in_more_than_the_method_are_refused(changed: Any, words: str) -> None:
    one = of(1)
    one.provenance |= {"model": "Small", "weights": {"sha256": "1"}}
    other = changed(replace(of(2), provenance=dict(one.provenance)))
    assert words in (why_not_average([one, other]) or "")
    with pytest.raises(OptionError, match=r"differ|zero"):
        average([one, other])


def test_one_run_has_no_mean() -> None:
    assert "two runs or more" in (why_not_average([of(1)]) or "")
