"""A finished run: what was asked for, the scores, and where they come from.

    RunConfig   everything that decides the scores: model, prompts, method
    Baseline    how the whole model does on the prompts that were used
    Run         config, scores, baseline and provenance; saved as one safetensors file
    opened      a run's file with its header and graph, checked, without reading the scores

    run.save(folder / f"{run.id}.safetensors")
    run = Run.load(path)
    run.caption                       # one line for figures: what these numbers are numbers of

The file holds the score tensors under AutoCircuit's module names, and all the rest as JSON in its header, so it can be
read without this package. Nothing here imports torch.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from circuit.common.errors import RunFileError
from circuit.common.files import parse_json, write_whole
from circuit.common.text import one_line
from circuit.common.words import MB, counted
from circuit.edges.choose import Ranked, SelectionRule, rank_edges
from circuit.edges.graph import EdgeGraph
from circuit.edges.ranking import Importance, edge_ranks
from circuit.models.tokenizer import visible
from circuit.prompts.pairs import LONGEST_NAME
from circuit.runs.config import RunConfig

FORMAT = "edgescope-run-1"
_ROUNDING = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""The relative spacing of numbers, by precision."""
RUN_ID = re.compile(r"[0-9a-f]{32}")
LARGEST_HEADER = 64 * MB
"""Bytes: more than the prompts of a run can take."""


@dataclass(frozen=True)
class Baseline:
    """The whole model on the prompts that were used: means over them, in the method's grad and answer function."""

    clean: float
    corrupt: float
    accuracy: float
    """The share of clean prompts on which every right answer's logit is above every wrong one's, of those that have
    wrong answers; NaN where none has."""
    judged: float | None = None
    """How many prompts have wrong answers; None in runs that were saved before this was counted."""

    def share(self, weight: float) -> Baseline:
        """What a part that weighs this much of its prompts adds to the whole."""
        judged = None if self.judged is None else self.judged * weight
        return Baseline(self.clean * weight, self.corrupt * weight, self.accuracy, judged)

    def __add__(self, other: Baseline) -> Baseline:
        """Two shares together: means add up, and accuracies count by how many prompts they are of."""
        judged = (self.judged or 0.0) + (other.judged or 0.0)
        right = sum(part.accuracy * part.judged for part in (self, other) if part.judged)
        accuracy = right / judged if judged else math.nan
        return Baseline(self.clean + other.clean, self.corrupt + other.corrupt, accuracy, judged)


@dataclass
class Run:
    """Scores of every edge, and where they come from."""

    config: RunConfig
    graph: EdgeGraph
    scores: Float32[np.ndarray, " n_edges"]
    baseline: Baseline
    used_rows: list[int]
    """Rows of the prompt set that were scored, counted from 0; the others had problems, or were held out."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Model title, revision or hash of its weights, parameters, width of its stream (`d_model`), device, precision,
    versions, seconds, date; with positions apart the first prompt's tokens; notes on what was done differently from
    what was asked; into how many parts the run was cut. Seeds and prompts stand in `config`."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    held_out_rows: list[int] = field(default_factory=list)
    """Usable rows that were not scored, counted from 0."""
    _ranked: dict[tuple[Importance, SelectionRule], Ranked] = field(default_factory=dict, repr=False, compare=False)

    @property
    def caption(self) -> str:
        """One line that says what the scores are scores of."""
        n = f"{len(self.used_rows)} of {counted(len(self.config.prompts), 'prompt pair')}"
        if self.held_out_rows:
            n += f" ({len(self.held_out_rows)} held out)"
        model = self.provenance.get("model", self.config.model)
        dtype = self.provenance.get("dtype", self.config.dtype)
        parts = [f"{model} ({dtype})", f"{self.config.prompts.name}, {n}", self.config.method.describe()]
        if self.config.method.ablation_type.needs_batch_size:
            parts.append(f"batches of {self.config.batch_size}")
        if self.config.keep_positions:
            parts.append("token positions apart")
        return one_line("; ".join([*parts, "score > 0: ablating the edge is estimated to hurt"]))

    def ranked(self, importance: Importance = "absolute", rule: SelectionRule = "top") -> Ranked:
        """The edges in the order in which circuits take them (`circuit.edges.choose`), and the circuits' sizes: sorted
        once, however often it is looked at."""
        if (importance, rule) not in self._ranked:
            self._ranked[importance, rule] = rank_edges(self.graph, self.scores, importance, rule)
        return self._ranked[importance, rule]

    @property
    def noise(self) -> float:
        """What the run's precision may leave of an answer value that has not changed: an effect that is smaller says
        nothing."""
        digits = _ROUNDING.get(str(self.provenance.get("dtype", self.config.dtype)), _ROUNDING["float32"])
        return digits * max(abs(self.baseline.clean), abs(self.baseline.corrupt))

    @cached_property
    def ranks(self) -> Int[np.ndarray, " n_edges"]:
        """For every edge, its place by absolute score: sorted once, however often it is looked at."""
        return edge_ranks(self.scores)

    @cached_property
    def order(self) -> Int[np.ndarray, " n_edges"]:
        """All edges, the one of largest absolute score first."""
        return np.argsort(self.ranks)

    @property
    def notes(self) -> list[str]:
        """What was done differently from what was asked, in sentences."""
        notes = self.provenance.get("notes", [])
        return [one_line(str(note), 2000) for note in notes[:100]] if isinstance(notes, list) else []

    @property
    def tokens(self) -> list[str]:
        """Where token positions are kept apart, what to call each: the first prompt's tokens, or else numbers."""
        numbers = [str(position) for position in range(self.graph.seq_len or 0)]
        tokens = self.provenance.get("tokens")
        if not isinstance(tokens, list) or len(tokens) != len(numbers):
            return numbers
        return [visible(str(token)) for token in tokens]

    def save(self, path: Path) -> None:
        """Write the file at once: whoever looks sees all of it, or nothing.

        Raises:
            RunFileError: When it cannot be written.
        """
        header = {
            "format": FORMAT,
            "id": self.id,
            "config": self.config.to_dict(),
            "graph": self.graph.to_dict(),
            "baseline": asdict(self.baseline),
            "used_rows": self.used_rows,
            "held_out_rows": self.held_out_rows,
            "provenance": self.provenance,
        }
        tensors = {name: np.ascontiguousarray(part) for name, part in self.graph.unflatten(self.scores).items()}
        try:
            write_whole(path, lambda part: save_file(tensors, part, {"edgescope": json.dumps(header)}))
        except (OSError, SafetensorError) as error:
            why = getattr(error, "strerror", None) or str(error).rstrip(".")
            raise RunFileError(f"The run could not be saved as {path}: {why}.") from error

    @classmethod
    def load(cls, path: Path, most_scores: int = 0) -> Run:
        """Read a run of at most this many scores; 0: of any number.

        Raises:
            RunFileError: When the file is missing, damaged, too large, or not a run.
        """
        with opened(path, most_scores) as (file, header, graph):
            config = RunConfig.from_dict(header["config"])
            rows, held_out = header["used_rows"], header.get("held_out_rows", [])
            _check_rows(rows, held_out, len(config.prompts))
            scores = graph.flatten({block.module: file.get_tensor(block.module) for block in graph.blocks})
            if n := int((~np.isfinite(scores)).sum()):
                raise ValueError(f"{n:,} of its {len(scores):,} scores are not finite")
            return cls(
                config=config,
                graph=graph,
                scores=scores,
                baseline=_baseline(header["baseline"]),
                used_rows=list(rows),
                provenance=_checked_provenance(header["provenance"]),
                id=header["id"],
                held_out_rows=list(held_out),
            )


@contextmanager
def opened(path: Path, most_scores: int = 0) -> Iterator[tuple[Any, dict[str, Any], EdgeGraph]]:
    """A run's file, its header, and its graph. Of the scores only the shapes have been looked at, not the numbers.

    Raises:
        RunFileError: When the file is missing, damaged, too large, or not a run; also for whatever goes wrong inside
            the block.
    """
    try:
        _check_bytes(path, most_scores)
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {})["edgescope"]
            header = parse_json(text)
            if "\\ud" in text.lower():  # halves of a character, which no browser takes
                json.dumps(header, ensure_ascii=False).encode()
            if header["format"] != FORMAT:
                raise RunFileError(
                    f"{path.name} has format {repr(header['format'])[:60]}; this version reads {FORMAT!r}."
                )
            if not isinstance(header["id"], str) or not RUN_ID.fullmatch(header["id"]):
                raise ValueError(f"{repr(header['id'])[:60]} is not an id of a run")
            modules = set(file.keys())
            graph = _graph(header["graph"], len(modules))
            if most_scores and graph.n_edges > most_scores:
                raise _too_many(path, graph.n_edges, most_scores)
            for block in graph.blocks:
                if block.module not in modules:
                    raise ValueError(f"it has no scores of {block.module!r}")
                if (shape := tuple(file.get_slice(block.module).get_shape())) != graph.shape(block):
                    raise ValueError(
                        f"the scores of {block.module!r} have shape {list(shape)}, not {list(graph.shape(block))}"
                    )
            yield file, header, graph
    except RunFileError:
        raise
    except FileNotFoundError as error:
        raise RunFileError(f"There is no run {path.name}.") from error
    except KeyError as error:
        raise RunFileError(f"{path.name} is damaged, or is not a saved run: it has no {error}.") from error
    except Exception as error:  # the file may hold anything
        why = str(error).rstrip(".")[:300]
        raise RunFileError(f"{path.name} is damaged, or is not a saved run: {why}.") from error


def _check_bytes(path: Path, most_scores: int) -> None:
    """Refuse by its size what would take long to read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > LARGEST_HEADER:
        raise ValueError("its header is too large")
    if most_scores and (n := (size - header - 8) // 4) > most_scores:
        raise _too_many(path, n, most_scores)


def _too_many(path: Path, n: int, most_scores: int) -> RunFileError:
    return RunFileError(
        f"{path.name} has {n:,} scores, and runs of up to {most_scores:,} are opened here: keep token positions "
        "together, or shorten the prompts. The server's owner can raise the setting most_scores."
    )


def _check_rows(used: Any, held_out: Any, n: int) -> None:
    """Scored rows are some, held-out ones may be none; both are in ascending order, and no row is in both."""
    for what, rows in (("scored", used), ("held-out", held_out)):
        if not isinstance(rows, list) or not all(type(row) is int and 0 <= row < n for row in rows):
            raise ValueError(f"{repr(rows)[:60]} are not {what} rows of its {n} prompts")
        if any(row >= after for row, after in pairwise(rows)):
            raise ValueError(f"its {what} rows are not in ascending order, each once")
    if not used:
        raise ValueError("it has no scored rows")
    if both := set(used) & set(held_out):
        raise ValueError(f"row {min(both) + 1} was both scored and held out")


def _graph(shape: dict[str, Any], n_modules: int) -> EdgeGraph:
    """The graph of this shape, if it has as many modules as the file: a wrong number of layers could be any number."""
    sizes = [shape[name] for name in ("n_layers", "n_heads", "n_kv_heads")]
    if shape.get("seq_len") is not None:
        sizes.append(shape["seq_len"])
    if not all(type(size) is int and size > 0 for size in sizes) or 4 * sizes[0] + 1 != n_modules:
        raise ValueError(f"{repr(shape)[:200]} is not the shape of a model with {n_modules} modules")
    return EdgeGraph(**shape)


def _baseline(values: dict[str, Any]) -> Baseline:
    judged = values.get("judged")
    numbers = {name: float(value) for name, value in values.items() if name != "judged"}
    return Baseline(**numbers, judged=None if judged is None else float(judged))


def _checked_provenance(values: dict[str, Any]) -> dict[str, Any]:
    """What pages show of it has the type that they expect; the rest may be anything."""
    names = {name: values[name] for name in ("model", "dtype", "device", "date") if name in values}
    for name, value in names.items():
        if not isinstance(value, str):
            raise ValueError(f"its {name} is not a text")
    seconds = values.get("seconds", 0)
    if type(seconds) not in (int, float) or not math.isfinite(seconds):
        raise ValueError("its seconds are not a number")
    return {**values, **{name: one_line(value, LONGEST_NAME) for name, value in names.items()}}
