"""A circuit and its scores in the formats that other programs read.

    graphml          the circuit for Gephi, yEd and networkx
    node_link_json   the circuit as networkx's node-link JSON
    dot              the circuit for Graphviz
    scores_csv       every edge of the model with its score
    run_file         the run as safetensors, with all settings in the header (`circuit.runs.run.Run.save`)
    python_snippet   a script that computes the run again with this package, and cuts the circuit

    drawn = circuit_graph(run.graph, edges, run.scores)
    Path("circuit.dot").write_text(dot(drawn, caption=run.caption))

Graphs carry the caption, which says what the scores are scores of, as an attribute of their own.
"""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import networkx as nx

from circuit.edges.choose import SelectionRule
from circuit.edges.method import Method
from circuit.edges.ranking import Importance, edge_table
from circuit.runs.config import RunConfig
from circuit.runs.run import Run

_DOT_SHAPES = {"embedding": "triangle", "head": "ellipse", "kv": "hexagon", "mlp": "box", "final": "invtriangle"}
_DOT_STYLES = {"Q": "dashed", "K": "dashed", "V": "dotted"}
_STRIPPED = str.maketrans({chr(code): " " for code in range(32) if chr(code) not in "\t\n\r"})
"""Control characters, which XML cannot hold."""


def graphml(drawn: nx.MultiDiGraph, caption: str) -> bytes:
    """The circuit as GraphML, with everything that is known of nodes and edges."""
    buffer = io.BytesIO()
    nx.write_graphml(_captioned(drawn, caption.translate(_STRIPPED)), buffer)
    return buffer.getvalue()


def node_link_json(drawn: nx.MultiDiGraph, caption: str) -> str:
    """The circuit as JSON: `networkx.node_link_graph(json.loads(text), edges="edges")` reads it back."""
    return json.dumps(nx.node_link_data(_captioned(drawn, caption), edges="edges"), indent=1)


def _captioned(drawn: nx.MultiDiGraph, caption: str) -> nx.MultiDiGraph:
    copy = drawn.copy()
    copy.graph["caption"] = caption
    return copy


def dot(drawn: nx.MultiDiGraph, caption: str) -> str:
    """The circuit in Graphviz's language, bottom to top; edges are blue where ablating them hurts, orange where it
    helps, gray where the score is 0."""
    lines = [
        "digraph circuit {",
        f"  rankdir=BT; labelloc=b; label={_quoted(caption)};",
        '  node [style=filled, fillcolor="#f4f4f4"];',
    ]
    for name, node in drawn.nodes.items():
        lines.append(f"  {_quoted(name)} [label={_quoted(node['label'])}, shape={_DOT_SHAPES[node['kind']]}];")
    strongest = max((data["strength"] for *_, data in drawn.edges(data=True) if data["kind"] == "edge"), default=0) or 1
    for tail, tip, data in drawn.edges(data=True):
        if data["kind"] == "group":
            look = 'color="#888888", arrowhead=none'
        else:
            color = "#2678d6" if data["score"] > 0 else "#d95f02" if data["score"] else "#888888"
            width = 0.6 + 3 * (data["strength"] / strongest) ** 0.5
            style = _DOT_STYLES.get(data["input"], "solid")
            look = f'color="{color}", penwidth={width:.2f}, style={style}, score={data["score"]:.8g}'
            look += f", input={data['input']}, index={data['edge']}"  # "edge" is a word of the language
        lines.append(f"  {_quoted(tail)} -> {_quoted(tip)} [{look}];")
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    """A Graphviz string: backslashes would begin escapes of its own, such as \\N for the node's name."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'


def scores_csv(run: Run) -> bytes:
    """Every edge of the model, strongest first; the first line says what the scores are scores of."""
    table = edge_table(run.graph, run.scores, ranks=run.ranks)
    return f"# {' '.join(run.caption.split())}\n{table.to_csv()}".encode()


def run_file(run: Run) -> bytes:
    """The run as it is saved: `circuit.runs.run.Run.load` reads it back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{run.id}.safetensors"
        run.save(path)
        return path.read_bytes()


def python_snippet(
    run: Run,
    n_edges: int,
    importance: Importance = "absolute",
    drop_dead_ends: bool = True,
    rule: SelectionRule = "top",
) -> str:
    """A script that leaves the run in `run`, the chosen edges in `edges`, and prints the circuit: these, or those of
    them that are no dead ends."""
    config = run.config
    pairs = "\n".join(
        f"        PromptPair({pair.clean!r}, {pair.corrupt!r}, {pair.answers!r}, {pair.wrong_answers!r}),"
        for pair in config.prompts.pairs
    )
    method = _arguments(config.method, Method(), {"ablation_type": f"AblationType.{config.method.ablation_type.name}"})
    settings = _arguments(config, RunConfig("", config.prompts), {}, leave=("model", "prompts", "method"))
    made = f"run = attribute(RunConfig({', '.join([repr(config.model), 'prompts', 'method', *settings])}))"
    if config.method.path == "averaged":  # no prompts give its scores
        made = f"run = Run.load(Path({f'{run.id[:8]}.safetensors'!r}))  # the run's file, beside this script"
    circuit = "live_edges(run.graph, edges)" if drop_dead_ends else "edges"
    return f'''"""{_one_line(run.caption)}"""

from pathlib import Path

from circuit import (
    AblationType, Method, PromptPair, PromptSet, Run, RunConfig, attribute, choose_edges, edge_table, live_edges,
)

prompts = PromptSet(
    {config.prompts.name!r},
    (
{pairs}
    ),
)
method = Method({", ".join(method)})
{made}
edges = choose_edges(run.graph, run.scores, {n_edges}, {importance!r}, {rule!r})

if __name__ == "__main__":
    print(run.caption)
    print(edge_table(run.graph, run.scores, {circuit}).to_string(index=False))
'''


def _arguments(of: Any, default: Any, written: dict[str, str], leave: tuple[str, ...] = ()) -> list[str]:
    """The fields that differ from the default, as keyword arguments in Python."""
    values = {name: getattr(of, name) for name in of.__dataclass_fields__ if name not in leave}
    return [
        f"{name}={written.get(name, repr(value))}" for name, value in values.items() if value != getattr(default, name)
    ]


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace('"', "'")
