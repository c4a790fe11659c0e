"""Sweeps: every model on every prompt set by every method, each run saved, failures in their own row."""

from __future__ import annotations

import csv
import errno
import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuit.common.errors import JobError, OptionError, PromptError, RunFileError
from circuit.common.files import write_whole
from circuit.edges.graph import EdgeGraph
from circuit.edges.method import AblationType, Method
from circuit.edges.subgraph import connecting_size
from circuit.jobs.attribute import attribute
from circuit.jobs.measure import MeasureRequest, measure
from circuit.jobs.sweep import MOST_RUNS, OneRun, Row, Sweep, Table, run_one, start, table_file
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.prompts.presets import PRESETS
from circuit.runs.faithfulness import Curve, Measured
from circuit.runs.library import RunLibrary
from circuit.runs.run import Baseline, Run
from circuit.workers.job import Job
from circuit.workers.server import JobServer
from tests.job_functions import LONG, count, until

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
        run.config, expected.scores, (n,), drop_dead_ends=True, ablation_type=AblationType.ZERO,
        rows=tuple(expected.held_out_rows),
    )  # fmt: skip
    np.testing.assert_allclose(curve.faithfulness, measure(measured).faithfulness, rtol=1e-4)


def test_runs_are_saved_and_one_that_fails_leaves_the_others_alone(server: JobServer, tmp_path: Path) -> None:
    table = start(server, Sweep(("teaching",), (IOI, BAD), (Method(), IG)), tmp_path, "four")
    job = server.get(table.job)
    assert job is not None
    assert job.wait(300)
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


def measured(n_edges: int, *values: float) -> Measured:
    column = np.array(values, dtype=np.float32)
    return Measured(n_edges, column, (column > 0).astype(np.float32), column, column)


def filled(scores: np.ndarray, whole: float) -> Row:
    """The row of a run with these scores, whose circuit of five edges keeps most of what the whole model does."""
    (request,) = Sweep(("teaching",), (IOI,), (Method(),)).requests()
    run = Run(request.config, EdgeGraph(3, 4, 4), scores, Baseline(whole, 0, 1), [0, 1, 2], {"seconds": 1.0})
    row = Row.of(request)
    spread = np.array([-0.1, 0.0, 0.1])
    row.fill(
        run, Curve((measured(5, *(0.9 * whole + spread)),), measured(262, *(whole + spread)), measured(0, 0, 0, 0))
    )
    return row


def test_a_row_says_whether_the_circuit_still_does_the_task() -> None:
    direct = np.zeros(262, np.float32)
    direct[[EdgeGraph(3, 4, 4).edge_name(edge) == "Resid Start->Resid End" for edge in range(262)]] = 1
    row = filled(direct, 2.0)
    assert (row.verdict, row.faithfulness) == ("Largely yes", pytest.approx(0.9))
    row = filled(direct, -2.0)
    assert row.verdict == "No task"
    assert "The whole model (-2) does worse on these prompts than the fully ablated one" in row.note


def test_a_row_of_dead_ends_has_no_faithfulness_and_names_the_smallest_circuit() -> None:
    lonely = np.zeros(262, np.float32)
    lonely[:7] = np.arange(7, 0, -1)  # into queries of the first layer
    row = filled(lonely, 2.0)
    assert (row.verdict, row.faithfulness) == ("No path", None)
    order = np.argsort(-lonely, kind="stable")
    assert f"The smallest that connects has {connecting_size(EdgeGraph(3, 4, 4), order)} edges." in row.note


def rows(request: OneRun) -> Any:
    row = Row.of(request)
    row.fill(*run_one(request))
    return row


def test_a_cell_that_a_spreadsheet_would_compute_stays_text() -> None:
    row = Row("teaching", '=HYPERLINK("http://elsewhere")', "EAP", accuracy=-0.5, note="@SUM(1)", top_edges="+1 → -2")
    (line,) = csv.DictReader(io.StringIO(Table("one", [row]).to_csv()))
    assert line["prompts"] == '\'=HYPERLINK("http://elsewhere")'
    assert (line["note"], line["top_edges"], line["model"]) == ("'@SUM(1)", "'+1 → -2", "teaching")
    assert float(line["accuracy"]) == -0.5


def end(server: JobServer, table: Table) -> Job:
    job = server.get(table.job)
    assert job is not None
    assert job.wait(300)
    return job


@pytest.fixture
def busy(server: JobServer) -> Iterator[None]:
    """Both workers have something else to do."""
    jobs = [server.submit(count, LONG, owner="somebody") for _ in range(2)]
    until(lambda: all(job.state == "running" for job in jobs))
    yield
    for job in jobs:
        job.cancel()
        assert job.wait(300)


def test_rows_that_were_cancelled_say_so(server: JobServer, tmp_path: Path, busy: None) -> None:
    table = start(server, Sweep(("teaching",), (IOI,), (Method(), IG)), tmp_path, "two")
    job = server.get(table.job)
    assert job is not None
    job.cancel()
    assert end(server, table).state == "cancelled"
    rows = Table.load(table_file(tmp_path, table.id)).rows
    assert [(row.state, row.note) for row in rows] == [("cancelled", "The job was cancelled.")] * 2


def test_rows_say_why_the_sweep_ended_before_their_turn(server: JobServer, tmp_path: Path, busy: None) -> None:
    table = start(server, Sweep(("teaching",), (IOI,), (Method(), IG)), tmp_path, "two")
    job = server.get(table.job)
    assert job is not None
    server.stop(job, JobError("The job was stopped after 1 minutes."))
    assert end(server, table).state == "failed"
    rows = Table.load(table_file(tmp_path, table.id)).rows
    assert [(row.state, row.note) for row in rows] == [("not run", "The job was stopped after 1 minutes.")] * 2


def test_a_table_whose_job_is_gone_does_not_go_on_waiting(tmp_path: Path) -> None:
    Table("two", [Row("m", "p", "EAP", state="done"), Row("m", "p", "IG")], id="a").save(tmp_path)
    path = table_file(tmp_path, "a")
    assert [row.state for row in Table.load(path).seen(goes_on=True).rows] == ["done", "waiting"]
    seen = Table.load(path).seen(goes_on=False)
    assert [row.state for row in seen.rows] == ["done", "not run"]
    assert "started again" in seen.rows[1].note


def test_a_disk_that_fails_meanwhile_costs_no_run_its_turn(
    server: JobServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table can be written before anything runs, and again when all is over."""
    written: list[Path] = []

    def failing(path: Path, write: Any) -> None:
        written.append(path)
        if len(written) in (2, 3):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_whole(path, write)

    def keep(run: Run) -> None:
        if run.config.method == IG:
            raise RunFileError("The run could not be saved in the runs directory: No space left on device.")
        RunLibrary(tmp_path).save(run)

    monkeypatch.setattr("circuit.jobs.sweep.write_whole", failing)
    sweep = Sweep(("teaching",), (IOI,), (Method(), IG))
    table = start(server, sweep, tmp_path, "two", keep=keep)
    assert end(server, table).result() == "2 of 2 runs finished."
    first, second = Table.load(table_file(tmp_path, table.id)).rows
    assert (first.state, second.state) == ("done", "done")
    assert first.run
    assert (second.run, second.note) == (
        "", "The run could not be saved in the runs directory: No space left on device.",
    )  # fmt: skip


def test_a_disk_that_stays_full_is_said_without_its_path(
    server: JobServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, write: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    table = start(server, Sweep(("teaching",), (IOI,), (Method(),)), tmp_path, "one")
    monkeypatch.setattr("circuit.jobs.sweep.write_whole", full)
    assert end(server, table).result() == (
        "1 of 1 runs finished. The table could not be saved: No space left on device."
    )
    with pytest.raises(RunFileError, match=r"^The table could not be saved: No space left on device\.$"):
        start(server, Sweep(("teaching",), (IOI,), (Method(),)), tmp_path, "one")


def test_a_sweep_that_the_server_does_not_take_leaves_nothing(tmp_path: Path) -> None:
    server = JobServer(warm_up=[], check=refuse)
    try:
        with pytest.raises(PromptError, match="too many"):
            start(server, Sweep(("teaching",), (IOI,), (Method(),)), tmp_path, "one")
        assert not server._jobs
        assert list(tmp_path.iterdir()) == []
    finally:
        server.close()


def refuse(request: Any) -> None:
    raise PromptError("These are too many.")


@pytest.mark.parametrize("content", ["", "{}", '{"format": "other"}', '{"format": "edgescope-sweep-1", "rows": [1]}'])
def test_a_damaged_table_is_a_sentence(tmp_path: Path, content: str) -> None:
    table_file(tmp_path, "x").write_text(content)
    with pytest.raises(RunFileError, match="damaged"):
        Table.load(table_file(tmp_path, "x"))
    with pytest.raises(RunFileError, match="no sweep"):
        Table.load(table_file(tmp_path, "y"))
