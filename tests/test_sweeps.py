"""Sweeps: every model on every prompt set by every method, each run saved, failures in their own row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from circuit.errors import OptionError, RunFileError
from circuit.jobs import JobServer
from circuit.measuring import MeasureRequest, measure
from circuit.method import AblationType, Method
from circuit.presets import PRESETS
from circuit.prompts import PromptPair, PromptSet
from circuit.runs import Run
from circuit.sweep import MOST_RUNS, OneRun, Sweep, Table, run_one, start, table_file
from circuit.tasks import attribute
from circuit.ui.server import job_server
from tests.test_pages import Visitor

pytestmark = pytest.mark.timeout(120)

IOI = replace(PRESETS["teaching-ioi"].prompts, pairs=PRESETS["teaching-ioi"].prompts.pairs[:8])
BAD = PromptSet("bad", (PromptPair("Mary", "Mary met John", (" Mary",), (" John",)),))
ZERO = Method(ablation_type=AblationType.ZERO, clean_corrupt=None)
IG = Method(mask_val=None, integrated_grad_samples=2)


@pytest.fixture(scope="module")
def server() -> Iterator[JobServer]:
    server = JobServer(cpu_workers=2)
    yield server
    server.close()


def test_a_sweep_is_the_product_of_its_parts() -> None:
    requests = Sweep(("teaching", "smollm2-135m"), (IOI, BAD), (Method(), ZERO), held_out=0.25).requests()
    assert len(requests) == 8
    assert [request.config.model for request in requests] == ["teaching"] * 4 + ["smollm2-135m"] * 4
    assert {request.config.held_out for request in requests} == {0.25}
    assert len({(request.config.prompts.name, request.config.method) for request in requests}) == 4


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        (Sweep((), (IOI,), (Method(),)), "at least one"),
        (Sweep(("teaching",) * (MOST_RUNS + 1), (IOI,), (Method(),)), f"at most {MOST_RUNS}"),
        (Sweep(("teaching",), (IOI,), (Method(ablation_type=AblationType.BATCH_ALL_TOK_MEAN),)), "batch size"),
    ],
)
def test_what_cannot_be_run_is_refused_before(sweep: Sweep, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        sweep.requests()


def test_one_run_is_the_attribution_and_the_measured_circuit() -> None:
    (request,) = Sweep(("teaching",), (IOI,), (Method(),), 0.2, AblationType.ZERO, held_out=0.25).requests()
    run, curve = run_one(request)
    expected = attribute(request.config)
    np.testing.assert_allclose(run.scores, expected.scores, atol=1e-6)
    n = round(0.2 * run.graph.n_edges)
    measured = MeasureRequest(
        run.config, expected.scores, (n,), ablation_type=AblationType.ZERO, rows=tuple(expected.held_out_rows)
    )
    np.testing.assert_allclose(curve.faithfulness, measure(measured).faithfulness, rtol=1e-4)


def test_runs_are_saved_and_one_that_fails_leaves_the_others_alone(server: JobServer, tmp_path: Path) -> None:
    table = start(server, Sweep(("teaching",), (IOI, BAD), (Method(), IG)), tmp_path, "four")
    job = server.get(table.job)
    assert job is not None
    assert job.wait(100)
    assert job.result() == "2 of 4 runs finished."
    table = Table.load(table_file(tmp_path, table.id))
    assert [row.state for row in table.rows] == ["done", "done", "failed", "failed"]
    for row, method in zip(table.rows[:2], (Method(), IG), strict=True):
        run = Run.load(tmp_path / f"{row.run}.safetensors")
        assert run.config.method == method
        assert row.method == method.describe()
        assert row.seconds == run.provenance["seconds"]
        assert row.accuracy == run.baseline.accuracy
        assert row.top_edges.startswith(run.graph.edge_name(int(run.order[0])).replace("->", " → "))
        assert row.faithfulness is not None
        assert (row.n_edges, row.ablation, row.pairs) == (26, "resample", "8 scored")
    for row in table.rows[2:]:
        assert "None of the 1 prompt pairs can be used" in row.note
        assert (row.run, row.faithfulness) == ("", None)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_table_survives_its_file_and_becomes_csv(tmp_path: Path) -> None:
    (request,) = Sweep(("teaching",), (IOI,), (Method(),)).requests()
    table = Table("one", [rows(request)], job="abc")
    table.save(tmp_path)
    assert Table.load(table_file(tmp_path, table.id)) == table
    (line,) = csv.DictReader(io.StringIO(table.to_csv()))
    assert line["prompts"] == IOI.name
    assert float(line["faithfulness"]) == table.rows[0].faithfulness


def rows(request: OneRun) -> Any:
    from circuit.sweep import Row

    row = Row.of(request)
    row.fill(*run_one(request))
    return row


@pytest.mark.parametrize("content", ["", "{}", '{"format": "other"}', '{"format": "edgescope-sweep-1", "rows": [1]}'])
def test_a_damaged_table_is_a_sentence(tmp_path: Path, content: str) -> None:
    table_file(tmp_path, "x").write_text(content)
    with pytest.raises(RunFileError, match="damaged"):
        Table.load(table_file(tmp_path, "x"))
    with pytest.raises(RunFileError, match="no sweep"):
        Table.load(table_file(tmp_path, "y"))


# --- the page --------------------------------------------------------------------------------------------------


@pytest.fixture
def visitor() -> Iterator[Visitor]:
    visitor = Visitor("pages/7_Sweep.py")
    visitor.work_on("teaching", IOI)
    visitor.go("pages/7_Sweep.py")
    yield visitor
    job_server.clear()


def pick(at: AppTest, key: str, values: list[Any]) -> None:
    (widget,) = [widget for widget in at.multiselect if widget.key == key]
    widget.set_value(values)
    at.run()


def test_the_page_counts_runs_runs_them_and_fills_the_table(visitor: Visitor) -> None:
    pick(visitor.at, "sweep_models", ["teaching"])
    pick(visitor.at, "sweep_ablations", [AblationType.RESAMPLE, AblationType.ZERO])
    assert "1 model × 1 prompt set × 4 methods = 4 runs" in visitor.words()
    visitor.click("Run the sweep")
    visitor.wait(lambda: "4 of 4 runs are done" in visitor.words(), 90)
    frame = visitor.at.dataframe[0].value
    assert list(frame["State"]) == ["done"] * 4
    assert all(link.startswith("Scores?run=") for link in frame["Open"])
    table = visitor.query()["table"]
    again = Visitor("pages/7_Sweep.py", table=table)
    assert "4 of 4 runs are done" in again.words()
    run_id = frame["Open"][0].split("=")[1]
    reader = Visitor("pages/3_Scores.py", run=run_id)
    assert "Teaching model" in reader.words()


def test_the_page_says_how_many_pairs_of_each_set_will_be_used(visitor: Visitor) -> None:
    mixed = PromptSet("mixed *up*", (*IOI.pairs[:2], PromptPair("", "a", (" Mary",))))
    visitor.work_on("teaching", mixed)
    visitor.run()
    pick(visitor.at, "sweep_models", ["teaching"])
    pick(visitor.at, "sweep_prompts", ["current", "teaching-ioi"])
    visitor.wait(lambda: "will be used" in visitor.words())
    assert "2 of 3 pairs of mixed *up* will be used with Teaching model: row 3 has problems." in visitor.words()
    assert "48 of 48 pairs of Indirect object identification will be used with Teaching model." in visitor.words()
    assert "(Glossary?term=prompt-check)" in visitor.at.warning[0].value


def test_the_page_says_why_nothing_can_be_run(visitor: Visitor) -> None:
    pick(visitor.at, "sweep_models", [])
    assert "at least one model" in visitor.errors()
    assert visitor.button("Run the sweep").disabled
