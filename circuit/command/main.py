"""`edgescope`: what it is asked for, and how it ends.

    main(["check", "teaching-ioi", "--model", "teaching"])      # prints the report, and returns 0

Without a command it starts the app, and stays until that is stopped. It returns 0 where all went well, `FOUND_WANTING`
where what was looked at falls short, `UNUSABLE` where the input cannot be used, and `INTERRUPTED`. What it prints for
people goes to the standard output; progress, notes and errors go to the standard error. With `--json`, all of it is
JSON lines on the standard output.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import get_args

import circuit
from circuit.command import commands
from circuit.command.output import Output
from circuit.command.reading import share
from circuit.common.errors import CircuitError
from circuit.common.progress import collected
from circuit.edges.choose import SelectionRule
from circuit.edges.method import Precision
from circuit.edges.ranking import Importance

FOUND_WANTING, UNUSABLE, INTERRUPTED = commands.FOUND_WANTING, 2, 130
_CODES = f"""\
exit codes:
  0    done
  {FOUND_WANTING}    looked at, and found wanting: the model does not do the task (check), no circuit keeps as much
       (circuit), scores or circuit have drifted (verify)
  {UNUSABLE}    the input or an option cannot be used; a sentence says why
  {INTERRUPTED}  stopped by Ctrl-C

`edgescope COMMAND --help` explains a command. docs/command-line.md has examples.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; `arguments` are those of the process, unless given. Returns the exit code.

    Raises:
        SystemExit: With `UNUSABLE` for arguments that make no command, with 0 for `--help` and `--version`.
    """
    asked = parser().parse_args(arguments)
    output = Output(as_json=getattr(asked, "json", False))
    try:
        with collected() as notes:
            code = asked.command(asked, output)
        for sentence in notes:
            output.note(sentence)
        sys.stdout.flush()
    except CircuitError as error:
        output.error(str(error), UNUSABLE)
        return UNUSABLE
    except KeyboardInterrupt:
        output.error("Stopped.", INTERRUPTED)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return int(code)


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    top = argparse.ArgumentParser(
        prog="edgescope",
        description="Circuit discovery in transformer language models. Without a command: start the app, and open it "
        "in a browser.",
        epilog=_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"edgescope {circuit.__version__}")
    top.add_argument("--port", type=_whole, help="the app's port (default: 8501, or the next that is free)")
    top.add_argument("--no-browser", action="store_true", help="start the app without opening a browser")
    top.set_defaults(command=commands.start)
    added = top.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, run: commands.Command, about: str, more: str = "") -> argparse.ArgumentParser:
        new = added.add_parser(name, help=about, description=f"{about[:1].upper()}{about[1:]}. {more}".strip())
        new.set_defaults(command=run)
        new.add_argument("--json", action="store_true", help="print progress and result as JSON lines")
        return new

    check = command(
        "check",
        commands.check,
        "say whether a model does the task of a prompt set",
        "Reports which pairs cannot be used and why, and whether the model prefers the right answers.",
    )
    check.add_argument("prompts", metavar="PROMPTS", help="a file (JSON, JSON Lines, CSV, TSV), or a preset's key")
    check.add_argument("--model", required=True, help="a name of the catalogue, a folder, a GGUF file, or a hub id")
    check.add_argument("--precision", choices=get_args(Precision), default="auto", help="of the weights")
    check.add_argument("--pairs", action="store_true", help="print the numbers of every pair too")
    _device(check)

    run = command(
        "run",
        commands.run,
        "score every edge by the settings that a page wrote, and write a run file",
    )
    run.add_argument("settings", metavar="SETTINGS", help="a settings file, or a link, from a page's Share button")
    run.add_argument("-o", "--output", metavar="FILE", help="default: the run's id, .safetensors")
    _device(run)

    found = command(
        "circuit",
        commands.circuit,
        "list the edges of the smallest circuit that keeps as much of the behaviour",
        "Where the run held pairs out, the circuit is measured on those.",
    )
    _run(found)
    size = found.add_mutually_exclusive_group()
    size.add_argument("--keep", type=share, default=0.9, metavar="SHARE", help="as 90%% or 0.9 (default: 90%%)")
    size.add_argument("--edges", type=_whole, metavar="N", help="a circuit of this many edges instead")
    _choice(found)
    _measuring(found)

    measure = command(
        "measure",
        commands.measure,
        "measure how much of the behaviour circuits of several sizes keep",
        "Where the run held pairs out, circuits are measured on those.",
    )
    _run(measure)
    measure.add_argument("--sizes", type=_sizes, metavar="N,N,…", help="default: the benchmark's ten, from 0.1%% on")
    measure.add_argument("--remove", action="store_true", help="ablate the circuit, and keep all else")
    _choice(measure)
    _measuring(measure)

    export = command(
        "export",
        commands.export,
        "write a circuit or all scores for other programs",
        "The file's ending says which: .svg, .graphml, .json, .dot and .py hold a circuit; .csv holds all scores.",
    )
    _run(export)
    export.add_argument("file", metavar="FILE", help="the file to write")
    export.add_argument("--edges", type=_whole, metavar="N", help="the circuit's size (default: 50)")
    export.add_argument("--dead-ends", action="store_true", help="with edges on no path through the circuit")
    _choice(export)

    compare = command("compare", commands.compare, "say how much runs of one model agree, and in which settings not")
    compare.add_argument("runs", metavar="RUN", nargs="+", help="two run files or more")

    verify = command(
        "verify",
        commands.verify,
        "compute a run again, and fail where scores or circuit have drifted",
        "For continuous integration: exit code 1 says that they have.",
    )
    _run(verify)
    verify.add_argument("settings", metavar="SETTINGS", help="a settings file, or a link, from a page's Share button")
    verify.add_argument(
        "--tolerance", type=share, default=0.001, metavar="SHARE",
        help="the largest difference of the scores, as a share of their size: |new - old| / |old|, with the Euclidean "
        "norm over all edges (default: 0.1%%)",
    )  # fmt: skip
    verify.add_argument("--edges", type=_whole, metavar="N", help="the circuit's size (default: 5%% of all edges)")
    verify.add_argument(
        "--overlap", type=share, default=0.95, metavar="SHARE",
        help="the smallest share of the circuit's edges that must be in both (default: 95%%)",
    )  # fmt: skip
    _choice(verify)
    _device(verify)
    return top


def _run(to: argparse.ArgumentParser) -> None:
    to.add_argument("run", metavar="RUN", help="a run file, from `edgescope run` or a page")


def _device(to: argparse.ArgumentParser) -> None:
    to.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 … (default: a GPU where there is one)")


def _choice(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--rank", choices=get_args(Importance), default="absolute", help="what makes an edge strong (default: absolute)"
    )
    to.add_argument(
        "--rule", choices=get_args(SelectionRule), default="top",
        help="the strongest edges one by one (top), those connected by edges as strong, or whole paths (default: top)",
    )  # fmt: skip


def _measuring(to: argparse.ArgumentParser) -> None:
    to.add_argument("--scored", action="store_true", help="measure on the pairs that were scored, not on held-out ones")
    _device(to)


def _whole(text: str) -> int:
    if not text.isdecimal() or len(text) > 12:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number")
    return int(text)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(_whole(part.strip()) for part in text.split(","))
