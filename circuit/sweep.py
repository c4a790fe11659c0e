"""Sweeps: several methods, models and prompt sets as one submission, with one table of results.

    Sweep         what is combined with what
    Row, Table    a line a run; the table is a file that fills up while the runs finish
    start         queue the runs; each is saved as it finishes, and one that fails leaves a sentence in its row
    run_one       the job of one run: attribution, and the faithfulness of a circuit of the chosen size

    group = start(server, Sweep(models=("teaching",), prompts=(ioi,), methods=(Method(),)), folder)
    Table.load(table_file(folder, table_id)).to_csv()

Nothing here imports torch.
"""

from __future__ import annotations

import csv
import io
import json
import threading
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from circuit.catalogue import title_of
from circuit.errors import CircuitError, OptionError, RunFileError
from circuit.faithfulness import Curve
from circuit.files import write_whole
from circuit.jobs import JobServer
from circuit.measuring import MeasureRequest, measure
from circuit.method import AblationType, Method
from circuit.progress import Cancelled, Report
from circuit.prompts import PromptSet
from circuit.pruning import edge_table, top_edges
from circuit.runs import Run, RunConfig
from circuit.sharding import Cut, JobGroup
from circuit.tasks import attribute, never, silent

MOST_RUNS = 48
_TOP = 3
_FORMAT = "edgescope-sweep-1"


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
    state: str = "waiting"
    seconds: float | None = None
    top_edges: str = ""
    accuracy: float | None = None
    n_edges: int | None = None
    faithfulness: float | None = None
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

    def fill(self, run: Run, curve: Curve) -> None:
        """Take over what came out."""
        strongest = edge_table(run.graph, run.scores, top_edges(run.scores, _TOP))
        self.state = "done"
        self.seconds = run.provenance["seconds"]
        self.top_edges = ", ".join(
            f"{edge.source} → {edge.destination} ({edge.score:+.3g})" for edge in strongest.itertuples()
        )
        right = run.baseline.accuracy
        self.accuracy = None if right != right else right
        self.n_edges = curve.points[0].n_edges
        self.pairs = f"{curve.n_prompts} {'held out' if run.held_out_rows else 'scored'}"
        notes = list(run.notes)
        try:
            self.faithfulness = float(curve.faithfulness[0])
        except CircuitError as error:
            notes.append(str(error))
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
            write_whole(table_file(folder, self.id), lambda part: part.write_text(text))
        except OSError as error:
            raise RunFileError(f"The table could not be saved: {error}.") from error

    @classmethod
    def load(cls, path: Path) -> Table:
        """Read a table.

        Raises:
            RunFileError: When there is none, or it is damaged.
        """
        try:
            values = json.loads(path.read_text())
            if values.pop("format") != _FORMAT:
                raise ValueError
            return cls(**{**values, "rows": [Row(**row) for row in values["rows"]]})
        except FileNotFoundError as error:
            raise RunFileError("There is no sweep with that id on this server.") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunFileError("The table of that sweep is damaged.") from error

    def to_csv(self) -> str:
        """A line a run, under a line of names."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(Row.__dataclass_fields__))
        writer.writeheader()
        for row in self.rows:
            writer.writerow(asdict(row))
        return text.getvalue()


def table_file(folder: Path, table_id: str) -> Path:
    """Where the table with this id is kept."""
    return folder / f"{table_id}.sweep.json"


# --- running it ------------------------------------------------------------------------------------------------


def start(server: JobServer, sweep: Sweep, folder: Path, title: str, owner: str = "") -> Table:
    """Queue the runs of a sweep, as many at a time as there are workers.

    Returns the table as it is now. Its file in `folder` fills up whether or not anybody looks.

    Raises:
        OptionError: As `Sweep.requests`.
        RunFileError: When nothing can be saved there.
    """
    requests = sweep.requests()
    table = Table(title, [Row.of(request) for request in requests])
    table.save(folder)
    known = threading.Event()  # the table has the job's id

    def change(number: int, **values: Any) -> None:
        known.wait()
        table.rows[number] = replace(table.rows[number], **values)
        table.save(folder)

    def done(number: int, result: tuple[Run, Curve]) -> None:
        run, curve = result
        row = replace(table.rows[number])
        row.fill(run, curve)
        try:
            run.save(folder / f"{run.id}.safetensors")
            row.run = run.id
        except RunFileError as error:
            row.note = f"{row.note} {error}".strip()
        change(number, **asdict(row))

    def failed(number: int, why: str) -> None:
        change(number, state="failed", note=why)

    cut = Cut(run_one, requests, _nothing)
    group = JobGroup(server, cut, title, at_once=server.workers, done=done, failed=failed, owner=owner)
    table.job = group.id
    table.save(folder)
    known.set()
    return table


def _nothing(results: Sequence[Any], seconds: float) -> str:
    """The runs are on disk and in the table: they need not be kept beside it."""
    finished = sum(result is not None for result in results)
    return f"{finished} of {len(results)} runs finished."
