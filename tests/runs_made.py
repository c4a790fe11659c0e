"""A run that nobody had to compute, and what stands in the header of its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from circuit.edges.graph import EdgeGraph
from circuit.edges.method import AblationType, Method
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.runs.config import RunConfig
from circuit.runs.run import Baseline, Run

PROMPTS = PromptSet(
    "naïve · 数",
    (
        PromptPair(" When Mary\n", " When John\n", (" a", " b"), (" c",)),
        PromptPair("😀", "é", ("",), ()),
        PromptPair("x", "y", (" z",), (" w", " v")),
    ),
)


def make_run(seq_len: int | None = None) -> Run:
    graph = EdgeGraph(n_layers=2, n_heads=4, n_kv_heads=2, seq_len=seq_len)
    scores = np.random.default_rng(5).normal(size=graph.n_edges).astype(np.float32)
    method = Method(
        grad_function="logprob",
        mask_val=None,
        integrated_grad_samples=7,
        ablation_type=AblationType.BATCH_ALL_TOK_MEAN,
        clean_corrupt="clean",
        integration_rule="midpoint",
    )
    config = RunConfig("local/small", PROMPTS, method, "bfloat16", "cpu", True, seq_len is not None, 3)
    about = {"model": "Small", "parameters": 123, "versions": {"python": "3"}, "seconds": 0.25}
    return Run(config, graph, scores, Baseline(1.5, -0.25, 0.5), [0, 2], about)


def header_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="numpy") as file:
        return dict(json.loads(file.metadata()["edgescope"]))


def run_with(seed: int, n_layers: int = 2, **graph: Any) -> Run:
    """A run of random scores, many of them tied, as bfloat16 models have them."""
    run = make_run()
    run.graph = EdgeGraph(n_layers, 4, 2, **graph)
    run.scores = (
        np.random.default_rng(seed).normal(size=run.graph.n_edges).astype(np.float16).astype(np.float32).round(1)
    )
    return run
