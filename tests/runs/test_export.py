"""Exports: each format is read back with what reads it, and the Python script is run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from circuit.edges.graph import EdgeGraph
from circuit.edges.method import AblationType, Method
from circuit.edges.ranking import top_edges
from circuit.edges.subgraph import circuit_graph, live_edges
from circuit.jobs.attribute import attribute
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.export import dot, graphml, node_link_json, python_snippet, run_file, scores_csv
from circuit.runs.run import Baseline, Run

CAPTION = 'A "quoted" caption \\N <b>& more</b>\nin two lines'
GRAPHS = [EdgeGraph(3, 4, 2), EdgeGraph(2, 2, 2, seq_len=3)]


def made_up(graph: EdgeGraph) -> Run:
    scores = np.random.default_rng(0).standard_t(2, graph.n_edges).astype(np.float32)
    prompts = PromptSet("made up", (PromptPair("a", "b", ("c",), ("d",)),))
    return Run(RunConfig("teaching", prompts), graph, scores, Baseline(1, 0, 1), [0])


def circuit_of(run: Run) -> nx.MultiDiGraph:
    return circuit_graph(run.graph, top_edges(run.scores, 25), run.scores)


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_networkx_reads_back_what_it_wrote(graph: EdgeGraph) -> None:
    drawn = circuit_of(made_up(graph))
    read = nx.read_graphml(io.BytesIO(graphml(drawn, CAPTION)), force_multigraph=True)
    assert read.graph["caption"] == CAPTION
    assert dict(read.nodes(data=True)) == dict(drawn.nodes(data=True))
    scores = nx.get_edge_attributes(drawn, "score")
    assert sorted(nx.get_edge_attributes(read, "score").values()) == pytest.approx(sorted(scores.values()))
    linked = nx.node_link_graph(json.loads(node_link_json(drawn, CAPTION)), edges="edges")
    assert linked.graph.pop("caption") == CAPTION
    assert nx.utils.graphs_equal(linked, drawn)
    assert "caption" not in drawn.graph


def test_characters_that_xml_cannot_hold_do_not_stop_an_export() -> None:
    assert (
        nx.read_graphml(io.BytesIO(graphml(circuit_of(made_up(GRAPHS[0])), "a\x00b\x1bc"))).graph["caption"] == "a b c"
    )


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_dot_names_every_node_and_edge_in_quotes(graph: EdgeGraph) -> None:
    drawn = circuit_of(made_up(graph))
    text = dot(drawn, CAPTION)
    assert """label="A \\"quoted\\" caption \\\\N <b>& more</b> in two lines";""" in text
    string = r'"((?:[^"\\]|\\.)*)"'
    nodes = re.findall(rf"^  {string} \[label={string}, shape=(\w+)\];$", text, re.MULTILINE)
    assert {(name, label) for name, label, _ in nodes} == {(name, node["label"]) for name, node in drawn.nodes.items()}
    edges = re.findall(rf"^  {string} -> {string} \[(.*)\];$", text, re.MULTILINE)
    assert [(tail, tip) for tail, tip, _ in edges] == list(drawn.edges())
    said = [float(found[1]) for _, _, look in edges if (found := re.search(r"score=([-\d.e]+)", look))]
    assert said == pytest.approx([data["score"] for *_, data in drawn.edges(data=True) if data["kind"] == "edge"])


@pytest.mark.skipif(shutil.which("dot") is None and not os.environ.get("CI"), reason="Graphviz is not installed")
def test_graphviz_reads_the_dot_file() -> None:
    text = dot(circuit_of(made_up(GRAPHS[0])), CAPTION)
    done = subprocess.run(["dot", "-Tsvg"], input=text.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_csv_holds_every_edge_and_says_what_its_scores_are() -> None:
    run = made_up(GRAPHS[0])
    text = scores_csv(run).decode()
    assert text.splitlines()[0] == f"# {run.caption}"
    table = pd.read_csv(io.StringIO(text), comment="#", index_col="edge")
    assert table.index.tolist() == top_edges(run.scores, run.graph.n_edges).tolist()
    np.testing.assert_allclose(table["score"], run.scores[table.index])


def test_the_run_file_is_the_run(tmp_path: Path) -> None:
    run = made_up(GRAPHS[1])
    (tmp_path / "run.safetensors").write_bytes(run_file(run))
    read = Run.load(tmp_path / "run.safetensors")
    np.testing.assert_array_equal(read.scores, run.scores)
    assert (read.config, read.id) == (run.config, run.id)


METHODS = [
    Method(),
    Method(mask_val=None, integrated_grad_samples=3, integration_rule="midpoint", grad_function="logprob"),
    Method(ablation_type=AblationType.ZERO, clean_corrupt=None),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.describe())
def test_the_script_computes_the_same_scores_again(method: Method) -> None:
    prompts = PRESETS["teaching-ioi"].prompts
    config = RunConfig("teaching", replace(prompts, pairs=prompts.pairs[:6]), method, device="cpu", batch_size=3)
    run = attribute(config)
    script = python_snippet(run, 17, "positive")
    left: dict[str, object] = {}
    exec(compile(script, "snippet.py", "exec"), left)
    again = left["run"]
    assert isinstance(again, Run)
    assert again.config == config
    np.testing.assert_allclose(again.scores, run.scores, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(left["edges"], top_edges(run.scores, 17, "positive"))


def test_the_script_keeps_dead_ends_where_they_are_kept() -> None:
    run = attribute(RunConfig("teaching", PRESETS["teaching-ioi"].prompts))
    n = next(n for n in range(5, 60) if len(live_edges(run.graph, top_edges(run.scores, n))) < n)
    for drop, kept in ((True, live_edges(run.graph, top_edges(run.scores, n))), (False, top_edges(run.scores, n))):
        script = python_snippet(run, n, drop_dead_ends=drop)
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(script, "snippet.py", "exec"), {"__name__": "__main__"})
        assert len(said.getvalue().strip().splitlines()) == len(kept) + 2  # the caption and the table's head


def test_the_script_runs_as_a_file_and_prints_the_circuit(tmp_path: Path) -> None:
    awkward = PromptPair('say "hi"\\n', "it's {x}\n", (" a'b", '"""'), ())
    run = attribute(RunConfig("teaching", PRESETS["teaching-ioi"].prompts))
    run.config = replace(
        run.config, prompts=PromptSet('na"""me', (*run.config.prompts.pairs, awkward)), keep_positions=False
    )
    path = tmp_path / "snippet.py"
    path.write_text(python_snippet(run, 10))
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": "."}
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, cwd=root, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 'na"""me' in done.stdout
    assert "Resid Start" in done.stdout
