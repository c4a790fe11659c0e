"""A finished run: what was asked for, the scores, and where they come from.

    RunConfig   everything that decides the scores: model, prompts, method
    Baseline    how the whole model does on the prompts that were used
    Run         config, scores, baseline and provenance; saved as one safetensors file

    run.save(folder / f"{run.id}.safetensors")
    run = Run.load(path)
    run.caption                       # one line for figures: what these numbers are numbers of

The file holds the score tensors under AutoCircuit's module names, and all the rest as JSON in its header, so it can be
read without this package. Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from circuit.errors import RunFileError
from circuit.graph import EdgeGraph
from circuit.method import Method, Precision
from circuit.prompts import PromptSet

FORMAT = "edgescope-run-1"


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the scores.

    `device` and `batch_size` do not, but for rounding, and for the two batch-mean ablations, which need a batch size.
    """

    model: str
    prompts: PromptSet
    method: Method = field(default_factory=Method)
    dtype: Precision = "auto"
    device: str = "auto"
    prepend_bos: bool | None = None
    keep_positions: bool = False
    batch_size: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**plain, "method": self.method.to_dict(), "prompts": json.loads(self.prompts.to_json())}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """The inverse of `to_dict`.

        Raises:
            RunFileError: When a value has another type than its field.
            CircuitError: When the prompts or the method are not ones.
        """
        for name, types in _PLAIN_FIELDS.items():
            if name in values and type(values[name]) not in types:
                raise RunFileError(f"The run's {name} cannot be {values[name]!r}.")
        prompts = PromptSet.from_json(json.dumps(values["prompts"]))
        return cls(**{**values, "method": Method.from_dict(values["method"]), "prompts": prompts})


_PLAIN_FIELDS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "dtype": (str,),
    "device": (str,),
    "prepend_bos": (bool, NoneType),
    "keep_positions": (bool,),
    "batch_size": (int, NoneType),
}


@dataclass(frozen=True)
class Baseline:
    """The whole model on the prompts that were used: means over them, in the method's grad and answer function."""

    clean: float
    corrupt: float
    accuracy: float
    """The share of clean prompts on which every right answer's logit is above every wrong one's; NaN without any."""


@dataclass
class Run:
    """Scores of every edge, and where they come from."""

    config: RunConfig
    graph: EdgeGraph
    scores: Float32[np.ndarray, " n_edges"]
    baseline: Baseline
    used_rows: list[int]
    """Rows of the prompt set that were used, counted from 0; the others had problems."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Model title, parameters, device, precision, versions, seconds, date."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def caption(self) -> str:
        """One line that says what the scores are scores of."""
        n = f"{len(self.used_rows)} of {len(self.config.prompts)} prompt pairs"
        model = self.provenance.get("model", self.config.model)
        dtype = self.provenance.get("dtype", self.config.dtype)
        parts = [f"{model} ({dtype})", f"{self.config.prompts.name}, {n}", self.config.method.describe()]
        if self.config.method.ablation_type.needs_batch_size:
            parts.append(f"batches of {self.config.batch_size}")
        if self.config.keep_positions:
            parts.append("token positions apart")
        return "; ".join([*parts, "score > 0: ablating the edge hurts"])

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
            "provenance": self.provenance,
        }
        tensors = {name: np.ascontiguousarray(part) for name, part in self.graph.unflatten(self.scores).items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as part:
                temporary = Path(part.name)
            try:
                save_file(tensors, temporary, {"edgescope": json.dumps(header)})
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            raise RunFileError(f"The run could not be saved to {path}: {error}.") from error

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read a run.

        Raises:
            RunFileError: When the file is missing, damaged, or not a run.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                header = json.loads((file.metadata() or {})["edgescope"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            if header["format"] != FORMAT:
                raise RunFileError(f"{path.name} has format {header['format']!r}; this version reads {FORMAT!r}.")
            config = RunConfig.from_dict(header["config"])
            graph = _graph(header["graph"], len(tensors))
            rows = header["used_rows"]
            if not all(type(row) is int and 0 <= row < len(config.prompts) for row in rows):
                raise ValueError(f"{rows} are not rows of its {len(config.prompts)} prompts")
            return cls(
                config=config,
                graph=graph,
                scores=graph.flatten(tensors),
                baseline=Baseline(**{name: float(value) for name, value in header["baseline"].items()}),
                used_rows=list(rows),
                provenance=dict(header["provenance"].items()),
                id=str(header["id"]),
            )
        except RunFileError:
            raise
        except FileNotFoundError as error:
            raise RunFileError(f"There is no run at {path}.") from error
        except KeyError as error:
            raise RunFileError(f"{path.name} is damaged, or is not a saved run: it has no {error}.") from error
        except Exception as error:  # the file may hold anything
            why = str(error).rstrip(".")
            raise RunFileError(f"{path.name} is damaged, or is not a saved run: {why}.") from error


def _graph(shape: dict[str, Any], n_modules: int) -> EdgeGraph:
    """The graph of this shape, if it has as many modules as the file: a wrong number of layers could be any number."""
    sizes = [shape[name] for name in ("n_layers", "n_heads", "n_kv_heads")]
    if shape.get("seq_len") is not None:
        sizes.append(shape["seq_len"])
    if not all(type(size) is int and size > 0 for size in sizes) or 4 * sizes[0] + 1 != n_modules:
        raise ValueError(f"{shape} is not the shape of a model with {n_modules} modules")
    return EdgeGraph(**shape)
