"""Sweeps: several methods, models and prompt sets as one submission, with one table of results.

    Sweep         what is combined with what
    Row, Table    one line per run; the table is a file that fills up while the runs finish
    start         queue the runs; each is saved as it finishes, and one that fails leaves a sentence in its row
    run_one       the job of one run: attribution, and the faithfulness of a circuit of the chosen size

    table = start(server, Sweep(models=("teaching",), prompts=(ioi,), methods=(Method(),)), folder)
    Table.load(table_file(folder, table.id)).to_csv()

Nothing here imports torch.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from circuit.common.errors import CircuitError, JobCancelled, OptionError, RunFileError
from circuit.common.files import own_folder, read_json, write_whole
from circuit.common.progress import Cancelled, Report, never, silent
from circuit.common.words import MB
from circuit.edges.method import AblationType, Method
from circuit.edges.ranking import top_edges
from circuit.edges.subgraph import connecting_size, live_edges
from circuit.jobs.attribute import attribute
from circuit.jobs.measure import MeasureRequest, measure
from circuit.models.catalogue import title_of
from circuit.prompts.pairs import PromptSet
from circuit.runs.config import RunConfig
from circuit.runs.faithfulness import Curve
from circuit.runs.library import RunLibrary
from circuit.runs.run import Run
from circuit.runs.verdict import judge
from circuit.workers.group import Cut, JobGroup
from circuit.workers.server import JobServer

MOST_RUNS = 48
_TOP = 3
_FORMAT = "edgescope-sweep-1"
_LARGEST = 50 * MB  # bytes of a table
_WAITING, _DONE, _FAILED, _CANCELLED, _NOT_RUN = "waiting", "done", "failed", "cancelled", "not run"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """Every model on every prompt set by every method.

    Attributes:
        models: Keys of models.
        prompts: Prompt sets.
        methods: Methods.
        share: The size of the circuit whose faithfulness is measured, as a share of the model's edges.
        measured_with: What replaces activations outside that circuit; None: what the run's method says.
        batch_size: As in `RunConfig`.
        held_out: As in `RunConfig`; where pairs are held out, faithfulness is measured on them.
    """

    models: tuple[str, ...]
    prompts: tuple[PromptSet, ...]
    methods: tuple[Method, ...]
    share: float = 0.1
    measured_with: AblationType | None = None
    batch_size: int | None = None
    held_out: float = 0.0

    def __len__(self) -> int:
        return len(self.models) * len(self.prompts) * len(self.methods)

    def requests(self) -> list[OneRun]:
        """The runs, in the table's order: those of a model stand together, so that it is loaded once.

        Raises:
            OptionError: None or too many, or a method that needs a batch size.
        """
        if not len(self):
            raise OptionError("Choose at least one model, one prompt set and one method.")
        if len(self) > MOST_RUNS:
            raise OptionError(f"These are {len(self)} runs, and a sweep has at most {MOST_RUNS}: choose fewer.")
        ablations = {method.ablation_type for method in self.methods} | {self.measured_with}
        for ablation in ablations - {None}:
            if ablation is not None and ablation.needs_batch_size and self.batch_size is None:
                raise OptionError(f"'{ablation}' depends on the batch size: choose one.")
        return [
            OneRun(
                RunConfig(model, prompts, method, batch_size=self.batch_size, held_out=self.held_out),
                self.share,
                self.measured_with,
            )
            for model, prompts, method in product(self.models, self.prompts, self.methods)
        ]


@dataclass(frozen=True)
class OneRun:
    """One run of a sweep."""

    config: RunConfig
    share: float
    measured_with: AblationType | None

    @property
    def ablation(self) -> AblationType:
        return self.measured_with or self.config.method.ablation_type


def run_one(request: OneRun, *, progress: Report = silent, cancelled: Cancelled = never) -> tuple[Run, Curve]:
    """Score every edge, then measure the circuit."""
    run = attribute(request.config, progress=progress, cancelled=cancelled)
    size = max(round(request.share * run.graph.n_edges), 1)
    rows = tuple(run.held_out_rows or run.used_rows)
    circuit = MeasureRequest(
        run.config, run.scores, (size,), drop_dead_ends=True, ablation_type=request.ablation, rows=rows
    )
    return run, measure(circuit, progress=silent, cancelled=cancelled)


# --- the table -------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """A run of the sweep: what was asked for, and what came out. Numbers are None until there are any."""

    model: str
    prompts: str
    method: str
    state: str = _WAITING
    """"waiting" until it is "done", "failed", "cancelled", or "not run" because the sweep ended before its turn."""
    seconds: float | None = None
    top_edges: str = ""
    accuracy: float | None = None
    n_edges: int | None = None
    faithfulness: float | None = None
    verdict: str = ""
    """Whether the circuit still does the task: the answer of `circuit.runs.verdict.judge`."""
    ablation: str = ""
    pairs: str = ""
    note: str = ""
    run: str = ""
    """The run's id, once it is saved."""

    @classmethod
    def of(cls, request: OneRun) -> Row:
        config = request.config
        return cls(
            title_of(config.model), config.prompts.name, config.method.describe(), ablation=str(request.ablation)
        )

    def fill(self, run: Run, curve: Curve, told: Sequence[str] = ()) -> None:
        """Keep what came out, and what was done differently from what was asked."""
        self.state = _DONE
        self.seconds = run.provenance["seconds"]
        self.top_edges = ", ".join(
            f"{run.graph.edge_label(edge)} ({run.scores[edge]:+.3g})" for edge in top_edges(run.scores, _TOP).tolist()
        )
        right = run.baseline.accuracy
        self.accuracy = None if right != right else right
        self.n_edges = curve.points[0].n_edges
        self.pairs = f"{curve.n_prompts} {'held out' if run.held_out_rows else 'scored'}"
        notes = list(dict.fromkeys([*run.notes, *told]))
        circuit = curve.points[0]
        n_live = len(live_edges(run.graph, top_edges(run.scores, circuit.n_edges)))
        found = judge(circuit, curve, n_live=n_live)
        self.verdict = found.answer
        if found.answer == "No path":
            connects = connecting_size(run.graph, run.order)
            notes.append(
                f"The {circuit.n_edges:,} strongest edges are no circuit: {found.why}."
                + (f" The smallest that connects has {connects:,} edges." if connects else "")
            )
        elif found.answer == "Too close":
            notes.append(found.why)
        else:
            self.faithfulness = float(curve.faithfulness[0])
            if found.answer == "No task":
                notes.append(f"{found.why[0].upper()}{found.why[1:]}.")
            elif curve.uncertain:
                notes.append(curve.uncertain)
        self.note = " ".join(notes)


@dataclass
class Table:
    """The results of a sweep, as far as there are any."""

    title: str
    rows: list[Row]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    job: str = ""
    """The id of the job that fills it."""

    def save(self, folder: Path) -> None:
        """Write it to its file in the folder of runs, at once.

        Raises:
            RunFileError: When it cannot be written.
        """
        text = json.dumps({"format": _FORMAT, **asdict(self)})
        try:
            own_folder(folder)
            write_whole(table_file(folder, self.id), lambda part: part.write_text(text))
        except OSError as error:
            why = error.strerror or "the disk did not take it"  # not the file's path, which is the server's business
            raise RunFileError(f"The table could not be saved: {why}.") from error

    @classmethod
    def load(cls, path: Path) -> Table:
        """Read a table.

        Raises:
            RunFileError: When there is none, or it is damaged.
        """
        try:
            values = read_json(path, _LARGEST)
            if values.pop("format") != _FORMAT:
                raise ValueError
            return cls(**{**values, "rows": [Row(**row) for row in values["rows"]]})
        except FileNotFoundError as error:
            raise RunFileError("There is no sweep with that id on this server.") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunFileError("The table of that sweep is damaged.") from error

    def end(self, state: str, why: str) -> None:
        """Say of the rows that still wait what has become of them."""
        for row in self.rows:
            if row.state == _WAITING:
                row.state, row.note = state, why

    def seen(self, *, goes_on: bool) -> Table:
        """The table as a reader should see it, who knows whether its job goes on."""
        if not goes_on:
            self.end(_NOT_RUN, "The sweep ended before this run's turn: the server was stopped, or started again.")
        return self

    def to_csv(self) -> str:
        """A line a run, under a line of names. A text that a spreadsheet would compute stands behind an apostrophe."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(Row.__dataclass_fields__))
        writer.writeheader()
        for row in self.rows:
            writer.writerow({name: _inert(value) for name, value in asdict(row).items()})
        return text.getvalue()


def _inert(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def table_file(folder: Path, table_id: str) -> Path:
    """Where the table with this id is kept."""
    return folder / f"{table_id}.sweep.json"


# --- running it ------------------------------------------------------------------------------------------------


def start(
    server: JobServer,
    sweep: Sweep,
    folder: Path,
    title: str,
    owner: str = "",
    note: Any = None,
    keep: Callable[[Run], object] | None = None,
) -> Table:
    """Queue the runs of a sweep, as many at a time as there are workers.

    Returns the table as it is now. Its file in `folder` fills up whether or not anybody looks. `keep` saves a run, or
    raises `RunFileError`; without it, runs are saved in `folder`.

    Raises:
        OptionError: As `Sweep.requests`.
        RunFileError: When nothing can be saved there.
        CircuitError: When the server does not take the sweep.
    """
    requests = sweep.requests()
    table = Table(title, [Row.of(request) for request in requests], job=uuid.uuid4().hex)
    table.save(folder)
    filling = _Filling(table, folder, keep or RunLibrary(folder).save)
    try:
        JobGroup(
            server, Cut(run_one, requests, filling.summary), title, at_once=lambda: server.workers, done=filling.done,
            failed=filling.failed, ended=filling.ended, owner=owner, note=note, job_id=table.job,
        )  # fmt: skip
    except CircuitError:
        table_file(folder, table.id).unlink(missing_ok=True)
        raise
    return table


class _Filling:
    """Writes down what becomes of the runs. A disk that does not take it costs no run its turn: the table is written
    again with the next one."""

    def __init__(self, table: Table, folder: Path, keep: Callable[[Run], object]) -> None:
        self.table = replace(table, rows=[replace(row) for row in table.rows])
        self.folder = folder
        self.keep = keep
        self.problem = ""

    def done(self, number: int, result: tuple[Run, Curve], told: list[str]) -> None:
        run, curve = result
        row = self.table.rows[number]
        row.fill(run, curve, told)
        try:
            self.keep(run)
            row.run = run.id
        except RunFileError as error:
            row.note = f"{row.note} {error}".strip()
        self.write()

    def failed(self, number: int, why: str) -> None:
        row = self.table.rows[number]
        row.state, row.note = _FAILED, why
        self.write()

    def ended(self, error: CircuitError) -> None:
        self.table.end(_CANCELLED if isinstance(error, JobCancelled) else _NOT_RUN, str(error))
        self.write()

    def summary(self, results: Sequence[Any], seconds: float) -> str:
        """All there is to hand over: the runs are on disk and in the table, and need not be kept beside it."""
        finished = sum(result is not None for result in results)
        if self.problem:
            self.write()
        return f"{finished} of {len(results)} runs finished. {self.problem}".strip()

    def write(self) -> None:
        try:
            self.table.save(self.folder)
            self.problem = ""
        except RunFileError as error:
            if not self.problem:  # once, not for every run
                _log.warning("The table of a sweep could not be written.", exc_info=True)
            self.problem = str(error)
