"""6 · Compare, driven without a browser, with real jobs on a small random model."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuit.edges.method import AblationType, Method
from circuit.jobs.attribute import attribute
from circuit.jobs.measure import MeasureRequest, measure
from circuit.runs.comparison import overlap, spearman
from circuit.runs.config import RunConfig
from circuit.runs.faithfulness import curve_sizes
from circuit.runs.library import RunLibrary
from circuit.runs.run import Run
from circuit.runs.verdict import judge
from tests.visitor import CIRCUIT, NUMBERS, SCORES, Visitor

COMPARE = "pages/6_Compare.py"


@pytest.fixture(scope="module")
def computed(small: str) -> list[Run]:
    zero = Method(ablation_type=AblationType.ZERO, clean_corrupt=None)
    fewer = replace(NUMBERS, pairs=NUMBERS.pairs[:2])
    configs = [RunConfig(small, NUMBERS), RunConfig(small, NUMBERS, zero), RunConfig(small, fewer)]
    return [attribute(config) for config in configs]


@pytest.fixture
def runs(computed: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    monkeypatch.setenv("EDGESCOPE_RUNS", str(tmp_path / "runs"))
    for run in computed:
        RunLibrary(tmp_path / "runs").save(run)
    return computed


def comparing(*runs: Run, **query: str) -> Visitor:
    return Visitor(COMPARE, runs=",".join(run.id for run in runs), **query)


def charts(visitor: Visitor) -> list[Any]:
    return [json.loads(chart.proto.spec) for chart in visitor.at.get("plotly_chart")]


def test_runs_are_averaged_into_a_new_one_where_they_differ_in_the_method_alone(small: str, runs: list[Run]) -> None:
    visitor = comparing(*runs[:2])
    assert visitor.button("Average their scores").disabled
    assert "their ablations differ" in visitor.button("Average their scores").help
    gim = attribute(RunConfig(small, NUMBERS, Method(backward="gim")))
    RunLibrary(Path(os.environ["EDGESCOPE_RUNS"])).save(gim)
    visitor = comparing(runs[0], gim)
    visitor.click("Average their scores")
    assert visitor.at.header[0].value == "4 · Circuit"
    mean = visitor.result()
    assert mean is not None
    assert mean.provenance["mean_of"] == [runs[0].id, gim.id]
    visitor = Visitor(CIRCUIT, run=mean.id)
    assert "mean of several runs' normalised scores" in visitor.words()
    assert "Not where scores do not come from single prompts" in visitor.at.segmented_control("stable").help
    visitor.wait(lambda: "Measured" in visitor.words())
    assert not visitor.errors()
    visitor = comparing(runs[0], mean)
    assert "method" in visitor.words()


def test_without_two_runs_the_page_says_what_to_do(runs: list[Run]) -> None:
    for visitor in (Visitor(COMPARE), comparing(runs[0])):
        assert "Choose two or more runs above" in visitor.words()
    visitor = Visitor(SCORES, run=runs[1].id)
    visitor.go(COMPARE)
    assert visitor.at.multiselect[0].value == [runs[1].id]  # the one that is shown is a start
    visitor.at.multiselect[0].set_value([runs[1].id, runs[0].id])
    visitor.run()
    assert visitor.query()["runs"] == f"{runs[1].id},{runs[0].id}"
    assert "They differ in" in visitor.words()


def test_numbers_tables_and_figures_are_those_of_the_runs(runs: list[Run]) -> None:
    first, second, _ = runs
    visitor = comparing(first, second, n="21")
    assert "**They differ in ablation, activations taken from.**" in visitor.words()
    assert first.caption in visitor.words()
    settings, numbers, only_first, only_second = (frame.value for frame in visitor.at.dataframe)
    assert list(settings.loc["ablation"]) == ["resample", "zero"]
    assert numbers["Spearman of scores"].iloc[0] == pytest.approx(spearman(first.scores, second.scores))
    absolute = spearman(np.abs(first.scores), np.abs(second.scores))
    assert numbers["Spearman of |scores|"].iloc[0] == pytest.approx(absolute)
    shared = overlap(first.ranks, second.ranks)[20]
    assert numbers["In both, of the 21 strongest"].iloc[0] == shared
    assert len(only_first) == len(only_second) == round(21 * (1 - shared))
    assert f"{len(only_first)} of the 21 strongest edges are in A and not in B" in visitor.words()
    scatter, curves = charts(visitor)
    assert sum("customdata" in trace for trace in scatter["data"]) >= 3
    assert [trace["name"] for trace in curves["data"]] == ["A and B", "drawn at random"]


def test_of_three_runs_two_are_shown_in_detail(runs: list[Run]) -> None:
    visitor = comparing(*runs, pair="B and C")
    assert "are in B and not in C" in visitor.words()
    assert len(visitor.at.dataframe[1].value) == 3
    assert {"prompts", "pairs scored", "ablation"} <= set(visitor.at.dataframe[0].value.index)


def test_a_run_that_leaves_takes_its_pairs_along(runs: list[Run]) -> None:
    fourth = attribute(replace(runs[2].config, method=Method("prob")))
    RunLibrary(Path(os.environ["EDGESCOPE_RUNS"])).save(fourth)
    visitor = comparing(*runs, fourth, pair="C and D", n="190")
    assert "are in C and not in D" in visitor.words()
    visitor.at.multiselect[0].set_value([run.id for run in runs])
    visitor.run()
    assert "are in A and not in B" in visitor.words()
    assert "0 of the 190 strongest" in visitor.words()


def test_the_same_run_made_twice_agrees_with_itself(runs: list[Run]) -> None:
    again = attribute(runs[0].config)
    RunLibrary(Path(os.environ["EDGESCOPE_RUNS"])).save(again)
    visitor = comparing(runs[0], again, n="10")
    assert "These runs have the same settings and prompts." in visitor.words()
    assert visitor.at.dataframe[0].value["Spearman of scores"].iloc[0] == pytest.approx(1)


def request_for(run: Run, *sizes: int) -> MeasureRequest:
    return MeasureRequest(
        run.config, run.scores, sizes, drop_dead_ends=True, ablation_type=run.config.method.ablation_type,
        rows=tuple(run.used_rows),
    )  # fmt: skip


def test_faithfulness_is_measured_at_a_click_and_kept_with_the_runs(runs: list[Run]) -> None:
    visitor = comparing(*runs[:2])
    assert "Not measured yet: A, B." in visitor.words()
    visitor.click("Measure 2 curves")
    visitor.wait(lambda: "Not measured yet" not in visitor.words(), seconds=60)
    lines = [trace for trace in charts(visitor)[2]["data"] if trace.get("mode") == "lines+markers"]
    for line, run in zip(lines, runs[:2], strict=True):
        request = MeasureRequest(
            run.config, run.scores, curve_sizes(run.graph.n_edges), drop_dead_ends=True,
            ablation_type=run.config.method.ablation_type, rows=tuple(run.used_rows),
        )  # fmt: skip
        curve = measure(request)
        expected = [value for n, value in zip(curve.sizes, curve.faithfulness, strict=True) if n]
        np.testing.assert_allclose(line["y"], expected, rtol=1e-4, atol=1e-4)
    again = comparing(*runs[:2], n="26")
    for letter, run in zip("AB", runs[:2], strict=True):
        size = min(curve_sizes(run.graph.n_edges)[1:], key=lambda size: abs(np.log(size / 26)))
        curve = measure(request_for(run, size))
        found = judge(curve.points[0], curve)
        (line,) = [line for line in again.words().splitlines() if line.startswith(f"{letter}: ")]
        assert line.startswith(f"{letter}: **{found.answer}**: ")
        assert (f"the {size} strongest edges" in line) == (found.answer != "No task")
    assert len(charts(again)) == 3
    assert "Not measured yet" not in again.words()


def test_runs_of_other_graphs_are_refused_with_what_differs(runs: list[Run], small: str) -> None:
    apart = attribute(RunConfig(small, NUMBERS, keep_positions=True))
    RunLibrary(Path(os.environ["EDGESCOPE_RUNS"])).save(apart)
    visitor = comparing(runs[0], apart)
    assert "cannot be compared edge by edge: the token positions kept apart differ (none, " in visitor.errors()
    assert not charts(visitor)


@pytest.mark.parametrize("wanted", ["", ",,,", "../../etc/passwd", "0" * 32, "x" * 5000])
def test_an_address_with_unknown_runs_is_met_with_a_word(runs: list[Run], wanted: str) -> None:
    visitor = Visitor(COMPARE, runs=f"{runs[0].id},{wanted},{runs[1].id}", n="-5", pair="?")
    if wanted.strip(","):
        assert "A run is left out." in visitor.words()
    assert "They differ in" in visitor.words()
    assert visitor.at.multiselect[0].value == [runs[0].id, runs[1].id]


def test_a_link_shares_the_comparison(runs: list[Run]) -> None:
    visitor = comparing(*runs, n="33", draft="a" * 32)
    (code,) = visitor.at.code
    assert "n=33" in code.value
    assert "draft" not in code.value
    for run in runs:
        assert run.id in code.value
