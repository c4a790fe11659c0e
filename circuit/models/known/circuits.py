"""The circuit that is known of a model: `circuit.json` beside its weights.

    known_circuit   the circuit of a model that the app offers, or None

    known_circuit("known-induction").edges      # {'Resid Start->A0.1.V': 'the word before', ...}

The file is read for any model that lies in a folder, also for those in the folder that the server's owner names: a
model made elsewhere, with a known circuit in this form beside it, is treated alike.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circuit.common.errors import ModelError
from circuit.models.catalogue import known

FILE = "circuit.json"
MOST_BYTES = 4_000_000
"""Of the file: some fifty thousand edges."""


@dataclass(frozen=True)
class KnownCircuit:
    """A circuit that is known by construction.

    Attributes:
        edges: For each edge by name, what it carries; may be empty words.
        decoys: Edges outside that a method might take for part of it, and why.
        ablation: The ablation (a value of `AblationType`, in lower case) under which it is the circuit.
        prompts: The key of the prompts with which it is; empty where that is not said.
    """

    edges: dict[str, str]
    decoys: dict[str, str] = field(default_factory=dict)
    ablation: str = "resample"
    prompts: str = ""


def known_circuit(key: str) -> KnownCircuit | None:
    """The known circuit of a model by its key in the catalogue; None where there is none.

    Raises:
        ModelError: When there is a file that does not hold one.
    """
    entry = known().get(key)
    if entry is None or not isinstance(entry.source, Path):
        return None
    path = entry.source / FILE
    return read_circuit(path) if path.is_file() else None


def read_circuit(path: Path) -> KnownCircuit:
    """Read a circuit from a JSON file: `edges` and `decoys` are objects from names to words, or lists of names.

    Raises:
        ModelError: When the file holds something else, or is too large.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        values = json.loads(path.read_text("utf-8"))
        if not isinstance(values, dict) or "edges" not in values:
            raise ValueError('it has no "edges"')
        edges, decoys = (_edges(values.get(name, {}), name) for name in ("edges", "decoys"))
        if not edges:
            raise ValueError("it names no edge")
        ablation, prompts = values.get("ablation", "resample"), values.get("prompts", "")
        if not isinstance(ablation, str) or not isinstance(prompts, str):
            raise ValueError('"ablation" and "prompts" must be texts')
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"The known circuit in {path.name} of {path.parent.name} cannot be read: {error}.") from error
    return KnownCircuit(edges, decoys, ablation, prompts)


def _edges(values: Any, name: str) -> dict[str, str]:
    if isinstance(values, list):
        values = dict.fromkeys(values, "") if all(isinstance(each, str) for each in values) else None
    if not isinstance(values, dict) or not all(isinstance(why, str) for why in values.values()):
        raise ValueError(f'"{name}" must hold the names of edges')
    return values
