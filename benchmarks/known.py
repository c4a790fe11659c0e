"""Which methods find a circuit that is known: AUROC of every method on the compiled models.

    python -m benchmarks.known                    every method that the forms offer, with every backward rule
    python -m benchmarks.known --steps 300        of learned masks

A line per method and rule; a column per model: the area under the ROC curve of absolute scores against the circuit
that the model was compiled with, and how many of its edges are among as many of the strongest. Scores below a
millionth of the largest count as equal. It takes about a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import get_args

from transformers.utils.logging import disable_progress_bar

from benchmarks.attribution import machine
from circuit.edges.kinds import LEARNED, OFFERED
from circuit.edges.method import Backward, Method
from circuit.jobs.known import Judged, JudgeRequest, judge, known_run, known_truth
from circuit.models.known import KEYS


def methods(steps: int) -> Iterator[Method]:
    """Every method that the forms offer, at 5 points by the midpoint rule, with every rule of the backward pass."""
    for kind in OFFERED:
        options = kind.options(0.5, 5, "midpoint", steps)
        for backward in get_args(Backward) if kind is not LEARNED else ("gradient",):
            yield Method(**options, backward=backward)


def cell(found: Judged) -> str:
    return f"{found.auroc:.3f} ({found.hits} of {found.size})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="of learned masks")
    arguments = parser.parse_args()
    disable_progress_bar()
    print(f"{machine('cpu', 'float32')}; 48 pairs each.\n")
    sizes = {key: (len(known_truth(key).edges), known_truth(key).graph.n_edges) for key in KEYS}
    print("| method | " + " | ".join(f"{key}: {inside} of {n} edges" for key, (inside, n) in sizes.items()) + " |")
    print("| --- |" + " --- |" * len(KEYS), flush=True)
    for method in methods(arguments.steps):
        found = [judge(JudgeRequest(known_run(key), (method,)))[0] for key in KEYS]
        print(f"| {method.title} | " + " | ".join(map(cell, found)) + " |", flush=True)


if __name__ == "__main__":
    main()
