"""The job that holds methods against a circuit that is known: which of them finds it?

judge        a model whose circuit is known -> a `Judged` for every method
METHODS      the methods that are judged
known_run    the settings of a run on a model that ships with its circuit, with the prompts of its preset
known_truth  its circuit, without loading it

for each in judge(JudgeRequest(known_run("known-induction"))):
    print(each.method.title, each.auroc)
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from jaxtyping import Float32

from circuit.common.errors import OptionError
from circuit.common.progress import Cancelled, Progress, Report, never, silent
from circuit.edges.graph import EdgeGraph
from circuit.edges.method import DEFAULT_METHOD, Method
from circuit.jobs.attribute import attribute
from circuit.models.known import FOLDER, KEYS
from circuit.models.known.circuits import FILE, read_circuit
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.truth import Truth, truth_for, truth_of, why_not

_INPUTS = Method(mask_val=None, integrated_grad_samples=5, path="inputs")
METHODS = (
    Method(),
    Method(backward="relp"),
    Method(backward="gim"),
    DEFAULT_METHOD,
    _INPUTS,
    Method(mask_val=None, path="ends"),
    Method(mask_val=None, integrated_grad_samples=5, path="activations"),
    Method(mask_val=0.5),
    Method(mask_val=None, path="learned", learning_steps=100),
)
"""The methods that the forms offer, and attribution patching by two other backward rules."""


def known_run(key: str) -> RunConfig:
    """The settings of a run on a model that ships with its circuit, with the prompts of its preset."""
    return RunConfig(key, PRESETS[key].prompts, device="cpu", dtype="float32")


@cache
def known_truth(key: str) -> Truth:
    """The circuit of a model that ships with it, from the files beside its weights."""
    folder = FOLDER / KEYS[key]
    config = json.loads((folder / "config.json").read_text("utf-8"))
    graph = EdgeGraph(config["n_layer"], config["n_head"], config["n_head"])
    return truth_for(read_circuit(folder / FILE), graph)


@dataclass(frozen=True)
class JudgeRequest:
    """Model and prompts, and the methods to judge; of the method of `config`, the loss and the ablation count."""

    config: RunConfig
    methods: tuple[Method, ...] = METHODS


@dataclass(frozen=True)
class Judged:
    """What one method gave.

    Attributes:
        method: The method.
        scores: Of every edge.
        auroc: How often an edge of the circuit has a larger absolute score than one outside (`circuit.runs.truth`).
        hits: How many edges of the circuit are among as many of the strongest, with a score above rounding.
        size: How many edges the circuit has.
    """

    method: Method
    scores: Float32[np.ndarray, " n_edges"]
    auroc: float
    hits: int
    size: int


def judge(request: JudgeRequest, *, progress: Report = silent, cancelled: Cancelled = never) -> tuple[Judged, ...]:
    """Score all edges by each method, and hold the scores against the known circuit.

    Raises:
        OptionError: When no circuit is known of the model, or not for the ablation of the request.
        CircuitError: As `attribute`.
    """
    steps = Progress(len(request.methods), progress, cancelled)
    found = []
    for method in request.methods:
        steps.check()
        run = attribute(replace(request.config, method=method.with_loss_of(request.config.method)), cancelled=cancelled)
        truth = truth_of(run)
        if truth is None:
            raise OptionError(why_not(run) or f"No circuit is known of the model {request.config.model[:80]!r}.")
        found.append(_judged(run.config.method, run.scores, truth))
        steps.advance(method.title)
    return tuple(found)


def _judged(method: Method, scores: Float32[np.ndarray, " n_edges"], truth: Truth) -> Judged:
    size = len(truth.edges)
    return Judged(method, scores, truth.auroc(scores), len(truth.hits(truth.strongest(scores))), size)
