"""The commands: each a thin layer over what the pages and Python use.

Every command takes the parsed arguments and an `Output`, and returns an exit code: 0, or `FOUND_WANTING`. What cannot
be used raises a `CircuitError`, whose sentence is printed.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from circuit.command.output import Output, rows_of
from circuit.command.reading import config_of, model_of, prompts_of, run_of
from circuit.common.errors import OptionError, RunFileError
from circuit.common.files import write_whole
from circuit.common.settings import APP
from circuit.common.words import counted, seconds
from circuit.edges.ranking import edge_table, readable
from circuit.edges.subgraph import circuit_graph, live_edges
from circuit.jobs.attribute import attribute
from circuit.jobs.check import CheckRequest, check_prompts
from circuit.jobs.measure import MeasureRequest, find_smallest
from circuit.jobs.measure import measure as measure_circuits
from circuit.plots.graph_svg import graph_svg
from circuit.plots.layout import circuit_layout
from circuit.prompts.verdicts import Summary, verdicts
from circuit.runs.comparison import differing_settings, overlap_of, spearman, why_not_comparable
from circuit.runs.config import RunConfig
from circuit.runs.export import dot, graphml, node_link_json, python_snippet, scores_csv
from circuit.runs.faithfulness import Curve, curve_sizes
from circuit.runs.run import Run
from circuit.runs.verdict import judge

Command = Callable[[argparse.Namespace, Output], int]
FOUND_WANTING = 1
_DRAWN = 50
"""Edges of an exported circuit, unless told otherwise."""
_SAID = {"error": "No", "warning": "Careful", "info": "Note", "success": "Yes"}


def start(asked: argparse.Namespace, output: Output) -> int:
    """Start the app, as `streamlit run app.py` does, and stay until it is stopped."""
    options = ["--server.headless", str(asked.no_browser).lower(), "--server.showEmailPrompt", "false"]
    if asked.port is not None:
        if not 1 <= asked.port <= 65535:
            raise OptionError(f"A port is a number from 1 to 65535, and {asked.port} is none.")
        options += ["--server.port", str(asked.port)]
    sys.argv = ["streamlit", "run", str(APP / "app.py"), *options]
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)
    return 0


def check(asked: argparse.Namespace, output: Output) -> int:
    """What the model makes of a prompt set."""
    prompts = prompts_of(asked.prompts)
    request = CheckRequest(model_of(asked.model), prompts, asked.precision, asked.device or "auto")
    report = check_prompts(request, progress=output.progress)
    usable = {row: pair for row, pair in enumerate(prompts.pairs) if row not in report.problems}
    results = {row: report.results[pair] for row, pair in usable.items()}
    said = verdicts(results)
    output.say(f"{prompts.name}, {report.card.title}: {len(usable)} of {counted(len(prompts), 'pair')} can be used.")
    for row, problems in report.problems.items():
        output.say(f"  Row {row + 1}: {' '.join(problems)}")
    for verdict in said:
        output.say(f"{_SAID[verdict.level]}: {verdict.words}")
    summary: dict[str, Any] = {}
    if results:
        found = Summary.of(list(results.values()))
        summary = {
            "accuracy": found.accuracy,
            "first_choice": found.first_choice,
            "probability": found.probability,
            "difference_clean": found.clean.mean,
            "difference_corrupt": found.corrupt.mean,
            "drop": found.drop.mean,
        }
        output.say(
            f"Right on {found.accuracy:.0%}, first choice on {found.first_choice:.0%}, P(right answers) "
            f"{found.probability:.0%}. Right less wrong answer ({request.grad_function}): clean {found.clean}, corrupt "
            f"{found.corrupt}."
        )
    pairs = pd.DataFrame(
        [
            {
                "row": row + 1,
                "clean": usable[row].clean,
                "probability": result.probability,
                "rank": result.rank,
                "difference_clean": result.clean,
                "difference_corrupt": result.corrupt,
            }
            for row, result in results.items()
        ]
    )
    if asked.pairs and results:
        output.table(pairs)
    output.result(
        model=report.card.title,
        prompts=prompts.name,
        usable=len(usable),
        problems={str(row + 1): problems for row, problems in report.problems.items()},
        verdicts=[{"level": verdict.level, "words": verdict.words} for verdict in said],
        summary=summary,
        pairs=rows_of(pairs),
    )
    return FOUND_WANTING if not results or any(verdict.level == "error" for verdict in said) else 0


def run(asked: argparse.Namespace, output: Output) -> int:
    """Score every edge, and write the run's file."""
    config = _on_device(config_of(asked.settings), asked.device)
    if asked.output and Path(asked.output).is_dir():  # before anything is computed
        raise RunFileError(f"{asked.output!r} is a folder. Name a file in it.")
    made = attribute(config, progress=output.progress)
    path = Path(asked.output or f"{made.id[:8]}.safetensors")
    made.save(path)
    for sentence in made.notes:
        output.note(sentence)
    output.say(made.caption)
    took = seconds(float(made.provenance["seconds"]))
    output.say(f"{made.graph.n_edges:,} edges scored in {took} on {made.provenance['device']}; written to {path}")
    output.result(file=str(path), id=made.id, caption=made.caption, n_edges=made.graph.n_edges, notes=made.notes)
    return 0


def circuit(asked: argparse.Namespace, output: Output) -> int:
    """The smallest circuit that keeps as much, or one of a given size, as a table of its edges."""
    of = run_of(asked.run)
    if asked.edges is None:
        request = _request(of, asked, curve_sizes(of.graph.n_edges))
        curve = find_smallest(request, asked.keep, progress=output.progress)
        n = curve.smallest(asked.keep)
    else:
        request = _request(of, asked, (_size(of, asked.edges),))
        curve = measure_circuits(request, progress=output.progress)
        n = request.measured_sizes(of.graph)[0]
    if n is None:
        output.say(f"No circuit of these edges keeps {asked.keep:.0%} of the behaviour.")
        output.result(n_edges=None, keep=asked.keep)
        return FOUND_WANTING
    edges = of.ranked(asked.rank, asked.rule).first(n)
    measured = curve.at(n)
    assert measured is not None  # it was asked for, or came by in the search
    point = Curve((measured,), curve.whole, curve.ablated)
    kept = None if point.too_close else float(point.faithfulness[0])
    n_live = len(live_edges(of.graph, edges))
    verdict = judge(measured, curve, kept, n_live)
    table = readable(of.graph, edge_table(of.graph, of.scores, edges, ranks=of.ranks))
    output.say(of.caption)
    output.table(table)
    what = "nothing can be said about" if kept is None else f"{kept:.1%} of"
    output.say(
        f"{n:,} of {of.graph.n_edges:,} edges, {n_live:,} of them on a path, keep {what} the behaviour on "
        f"{_measured_on(of, asked)}. Does the circuit still do the task? {verdict.answer}"
        f"{f': {verdict.why}' if verdict.why else ''}."
    )
    output.result(
        n_edges=n,
        n_live=n_live,
        faithfulness=kept,
        accuracy=measured.accuracy,
        verdict=verdict.answer,
        edges=rows_of(table.reset_index()),
    )
    return 0


def measure(asked: argparse.Namespace, output: Output) -> int:
    """Faithfulness over several sizes."""
    of = run_of(asked.run)
    sizes = curve_sizes(of.graph.n_edges) if asked.sizes is None else tuple(_size(of, n) for n in asked.sizes)
    request = replace(_request(of, asked, sizes), direction="remove" if asked.remove else "keep")
    curve = measure_circuits(request, progress=output.progress)
    low, high = curve.interval() if not curve.too_close else (np.full(len(curve.points), np.nan),) * 2
    table = pd.DataFrame(
        {
            "edges": curve.sizes,
            "faithfulness": curve.faithfulness,
            "from": low,
            "to": high,
            "accuracy": [point.accuracy for point in curve.points],
            "P(answers)": [float(point.probability.mean()) for point in curve.points],
            "KL": [float(point.divergence.mean()) for point in curve.points],
        }
    )
    output.say(of.caption)
    output.table(table)
    how = "ablated, all other edges kept" if asked.remove else "kept, all other edges ablated"
    output.say(f"Circuits {how}; measured on {_measured_on(of, asked)}; from and to: 95 % interval over pairs.")
    summary = {"cpr": curve.cpr, "cmd": curve.cmd} if curve.is_benchmark and not asked.remove else {}
    if summary:
        output.say(f"CPR {curve.cpr:.3f}, CMD {curve.cmd:.3f}")
    if curve.uncertain is not None:
        output.note(curve.uncertain)
    output.result(points=rows_of(table), **summary)
    return 0


def export(asked: argparse.Namespace, output: Output) -> int:
    """A circuit or all scores as a file of the kind that its ending names."""
    of, path = run_of(asked.run), Path(asked.file)
    if path.suffix not in (*_CIRCUITS, ".csv"):
        raise OptionError(f"What to write follows from the file's ending: {', '.join((*_CIRCUITS, '.csv'))}.")
    if path.suffix == ".csv":
        content: str | bytes = scores_csv(of)
    else:
        n = min(_DRAWN, of.graph.n_edges) if asked.edges is None else _size(of, asked.edges)
        content = _CIRCUITS[path.suffix](of, n, asked)
    data = content.encode() if isinstance(content, str) else content
    try:
        write_whole(path, lambda part: part.write_bytes(data))
    except OSError as error:
        raise OptionError(f"{asked.file[:200]!r} cannot be written: {error.strerror}.") from error
    output.say(f"Written to {path}")
    output.result(file=str(path))
    return 0


def _drawn(of: Run, n: int, asked: argparse.Namespace) -> Any:
    """The circuit as a graph, with its caption."""
    edges = of.ranked(asked.rank, asked.rule).first(n)
    shown = edges if asked.dead_ends else live_edges(of.graph, edges)
    if not len(shown):
        raise OptionError(
            f"No path leads from Resid Start to Resid End through {counted(len(edges), 'edge')}. Ask for more, or for "
            "edges that hang together: --rule connected."
        )
    caption = f"{len(shown):,} of the {len(edges):,} strongest edges; {of.caption}"
    return circuit_graph(of.graph, shown, of.scores, ranks=of.ranks), caption


def _svg(of: Run, n: int, asked: argparse.Namespace) -> str:
    drawn, caption = _drawn(of, n, asked)
    return graph_svg(drawn, circuit_layout(drawn, tokens=of.tokens), caption=caption, tokens=of.tokens, noise=of.noise)


_CIRCUITS: dict[str, Callable[[Run, int, argparse.Namespace], str | bytes]] = {
    ".svg": _svg,
    ".graphml": lambda of, n, asked: graphml(*_drawn(of, n, asked)),
    ".json": lambda of, n, asked: node_link_json(*_drawn(of, n, asked)),
    ".dot": lambda of, n, asked: dot(*_drawn(of, n, asked)),
    ".py": lambda of, n, asked: python_snippet(of, n, asked.rank, not asked.dead_ends, asked.rule),
}


def compare(asked: argparse.Namespace, output: Output) -> int:
    """How much runs agree, pair by pair."""
    if len(asked.runs) < 2:
        raise OptionError("Name two runs or more to compare.")
    runs = [run_of(name) for name in asked.runs]
    if (why := why_not_comparable(runs)) is not None:
        raise OptionError(why)
    names = [Path(name).name for name in asked.runs]
    differing = differing_settings(runs)
    if len(differing):
        output.say("Settings that differ:")
        for setting, values in differing.iterrows():
            output.say(
                f"  {setting}: {'; '.join(f'{name}: {value}' for name, value in zip(names, values, strict=True))}"
            )
    else:
        output.say("The settings are the same.")
    n_edges = runs[0].graph.n_edges
    sizes = [size for size in curve_sizes(n_edges) if 0 < size < n_edges]
    agreement = []
    for (name, one), (other_name, other) in combinations(zip(names, runs, strict=True), 2):
        shared = overlap_of(one, other)
        agreement.append(
            {
                "runs": f"{name} and {other_name}",
                "spearman": spearman(one.scores, other.scores),
                "spearman_absolute": spearman(np.abs(one.scores), np.abs(other.scores)),
                **{f"top_{size}": float(shared[size - 1]) for size in sizes},
            }
        )
    output.table(pd.DataFrame(agreement))
    output.say("spearman: of the scores; top_n: the share of the n strongest edges that both have.")
    output.result(settings={str(name): list(row) for name, row in differing.iterrows()}, agreement=agreement)
    return 0


def verify(asked: argparse.Namespace, output: Output) -> int:
    """Compute a run again, and compare scores and circuit with what was kept."""
    old = run_of(asked.run)
    new = attribute(_on_device(config_of(asked.settings), asked.device), progress=output.progress)
    for sentence in new.notes:
        output.note(sentence)
    if (why := why_not_comparable([old, new])) is not None:
        output.say(f"Drifted: {why}")
        output.result(drifted=True, why=[why])
        return FOUND_WANTING
    n = max(1, old.graph.n_edges // 20) if asked.edges is None else _size(old, asked.edges)
    difference, shared = _difference(old, new), _shared(old, new, n, asked)
    why_drifted = []
    if not difference <= asked.tolerance:
        why_drifted.append(
            f"the scores differ by {difference:.3%} of their size, and {asked.tolerance:.3%} are allowed"
        )
    if not shared >= asked.overlap:
        why_drifted.append(
            f"{shared:.1%} of the circuit of {n:,} edges are the same, and at least {asked.overlap:.1%} must be"
        )
    differing = differing_settings([old, new])
    for setting, values in differing.iterrows():
        output.note(f"{setting} differs: {values[0]} in the run, {values[1]} now.")
    if why_drifted:
        output.say(f"Drifted: {'; '.join(why_drifted)}.")
    else:
        output.say(f"Holds: scores differ by {difference:.3%}, and {shared:.1%} of {counted(n, 'edge')} are the same.")
    output.result(
        drifted=bool(why_drifted),
        why=why_drifted,
        difference=difference,
        overlap=shared,
        edges=n,
        settings={str(name): list(row) for name, row in differing.iterrows()},
    )
    return FOUND_WANTING if why_drifted else 0


def _difference(old: Run, new: Run) -> float:
    """|new - old| / |old|; infinite where all scores were zero, and some are not."""
    difference, size = np.linalg.norm(new.scores - old.scores), np.linalg.norm(old.scores)
    if size:
        return float(difference / size)
    return float("inf") if difference else 0.0


def _shared(old: Run, new: Run, n: int, asked: argparse.Namespace) -> float:
    """The share of the old circuit's edges that the new one has too, or the other way round where that is less."""
    one, other = (each.ranked(asked.rank, asked.rule).first(n) for each in (old, new))
    larger = max(len(one), len(other))
    return len(np.intersect1d(one, other)) / larger if larger else 1.0


def _request(of: Run, asked: argparse.Namespace, sizes: tuple[int, ...]) -> MeasureRequest:
    """Circuits of a run, measured as the page does unless told otherwise: with the run's ablation, on held-out pairs
    where there are some."""
    return MeasureRequest(
        _on_device(of.config, asked.device),
        of.scores,
        sizes,
        asked.rank,
        drop_dead_ends=True,
        ablation_type=of.config.method.ablation_type,
        rows=tuple(_rows(of, asked)),
        rule=asked.rule,
    )


def _rows(of: Run, asked: argparse.Namespace) -> list[int]:
    return of.held_out_rows if of.held_out_rows and not asked.scored else of.used_rows


def _measured_on(of: Run, asked: argparse.Namespace) -> str:
    held_out = bool(of.held_out_rows) and not asked.scored
    return counted(len(_rows(of, asked)), f"{'held-out' if held_out else 'scored'} pair")


def _size(of: Run, n: int) -> int:
    if n > of.graph.n_edges:
        raise OptionError(f"This model has {of.graph.n_edges:,} edges, and {n:,} were asked for.")
    return n


def _on_device(config: RunConfig, device: str | None) -> RunConfig:
    return config if device is None else replace(config, device=device)
