"""Examples in docstrings compile, their names are there, and what can run on the teaching model runs."""

from __future__ import annotations

import ast
import inspect
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import circuit
from circuit.edges.ranking import edge_ranks
from tests.docstring_examples import Example, examples

EXAMPLES = {example.name: example for example in examples()}

GIVEN = {
    "address", "answers", "app", "bytes_of", "pair", "caption", "clean", "config", "corrupt", "curve", "edges", "event",
    "first", "flat", "folder", "found", "graph", "hook", "ioi", "job", "lengths", "library", "loader", "look_at",
    "message", "method", "model", "pace", "parts", "path", "points", "product", "progress", "cancelled", "query",
    "batch", "ablated", "masks", "last", "bridge", "n_positions", "n_prompts", "request", "run", "score", "scores",
    "recorded", "server", "session", "session_id", "sums", "svg", "text", "tokenizer", "tokens", "top", "total",
    "uploaded_bytes",
    "values", "wrong_answers", "x", "z", "drawn", "reference", "second", "a1", "a2", "b1", "find", "put", "survey",
}  # fmt: skip
"""What examples take as given: values that a reader knows from the sentence above."""
LIBRARIES = {"np", "nx", "st", "go", "Path", "time", "distributed", "TransformerBridge"}


def test_there_are_examples_in_every_room() -> None:
    rooms = {name.split(".")[1] for name in EXAMPLES if "." in name}
    assert rooms == {path.name for path in (Path(circuit.__file__).parent).iterdir() if (path / "__init__.py").exists()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_name_in_an_example_is_there(name: str) -> None:
    assert EXAMPLES[name].unknown <= GIVEN | LIBRARIES


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_an_example_passes_is_what_the_function_takes(name: str) -> None:
    example = EXAMPLES[name]
    for called, node in example.calls:
        function = getattr(example.module, called, getattr(circuit, called, None))
        if not inspect.isfunction(function) or any(isinstance(each, ast.Starred) for each in node.args):
            continue
        keywords = {each.arg: None for each in node.keywords if each.arg is not None}
        inspect.signature(function).bind_partial(*node.args, **keywords)


# --- those that run ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The teaching model, a few of its prompts, and a run of it, under the names that examples use."""
    from circuit.engine.ablation import Ablation, record

    model = circuit.load_model("teaching", device="cpu")
    prompts = circuit.PRESETS["teaching-ioi"].prompts
    config = circuit.RunConfig("teaching", replace(prompts, pairs=prompts.pairs[:6]), device="cpu", held_out=0.5)
    run = circuit.attribute(config)
    encoded = circuit.encode(config.prompts, model.tokenizer, model.prepend_bos)
    dataset = encoded.dataset()
    loader = circuit.PromptDataLoader(dataset, batch_size=8)
    batch = next(iter(loader)).to(model.device)
    method = circuit.Method()
    ablation = Ablation(model, loader, method.ablation_type)
    scores = circuit.score_edges(model, loader, method)
    sizes = circuit.curve_sizes(run.graph.n_edges)
    request = circuit.MeasureRequest(config, run.scores, sizes)
    folder = tmp_path_factory.mktemp("examples")
    path = folder / "run.safetensors"
    run.save(path)
    return {
        "model": model, "config": config, "run": run, "first": run, "second": run, "graph": run.graph,
        "flat": run.scores, "scores": scores, "loader": loader, "batch": batch, "method": method, "request": request,
        "curve": circuit.measure(request), "ablated": ablation.of(batch, "corrupt"),
        "edge_ranks": edge_ranks, "recorded": record(model, batch, "clean", streams=False),
        "tokens": batch.clean, "last": batch.last, "points": method.points, "edges": circuit.top_edges(run.scores, 20),
        "clean": encoded.clean, "corrupt": encoded.corrupt, "answers": encoded.answers,
        "wrong_answers": encoded.wrong_answers, "folder": folder, "path": path, "caption": run.caption,
        "np": np, "Path": Path, "uploaded_bytes": path.read_bytes(), "session_id": "a" * 32, "circuit": circuit,
    }  # fmt: skip


ELSEWHERE = ("circuit.ui", "circuit.workers")
"""Rooms whose examples need a page, or a server."""
NOT_ALONE = {
    "circuit.jobs.sweep": "needs a server",
    "circuit.jobs.shards": "needs a server",
    "circuit.plots.heatmap": "needs a page",
    "circuit.models.identity": "asks for a model of the hub",
    "circuit.engine.model": "boots GPT-2",
}
SMALLER = {
    "smollm2-135m": "teaching",
    'PRESETS["ioi"]': 'PRESETS["teaching-ioi"]',
    "40_017": "217",
    "[0, 20, 500]": "[0, 20, 250]",
    "layer=4, head=5": "layer=2, head=1",
    "A3, MLP 2": "A2, MLP 1",
}
"""The teaching model in place of a larger one."""


def runs_alone(example: Example, given: set[str]) -> bool:
    return (
        not example.name.startswith(ELSEWHERE)
        and example.name not in NOT_ALONE
        and example.unknown <= given | LIBRARIES
    )


def test_what_can_run_on_the_teaching_model_runs(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(given["folder"])
    monkeypatch.setenv("EDGESCOPE_RUNS", os.environ["EDGESCOPE_RUNS"])
    alone = [example for example in EXAMPLES.values() if runs_alone(example, set(given))]
    wrong = []
    for example in alone:
        code = example.code
        for large, small in SMALLER.items():
            code = code.replace(large, small)
        names = {
            **{name: getattr(circuit, name) for name in dir(circuit) if not name.startswith("_")},
            **vars(example.module),
            **given,
        }
        try:
            exec(compile(code, example.name, "exec"), names)
        except Exception as error:
            wrong.append(f"{example.name}: {error!r} in\n{code}")
    assert not wrong, "\n".join(wrong)
    assert len(alone) > 25, sorted(set(EXAMPLES) - {example.name for example in alone})
