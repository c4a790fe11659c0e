"""Several runs' scores as one: what the runs agree about stands out.

    average          the mean of several runs' normalised scores -> Run
    why_not_average  what keeps runs from being averaged

    methods = [Method(backward="relp"), Method(backward="gim")]
    run = average([attribute(replace(config, method=method)) for method in methods])
    run.caption                       # "...; mean of several runs' normalised scores; ..."

Scores of different methods have different sizes, so each run's are divided by the sum of their absolute values: a score
then is the edge's share of its run's total. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from circuit.common.errors import OptionError
from circuit.edges.method import Method
from circuit.runs.comparison import why_not_comparable
from circuit.runs.run import Run


def why_not_average(runs: Sequence[Run]) -> str | None:
    """A sentence that says what keeps the runs from being averaged; None where nothing does.

    Circuits of the mean are measured on the runs' prompts, with their loss and ablation, so all of these must be the
    same; methods, precisions and devices may differ.
    """
    if len(runs) < 2:
        return "A mean is of two runs or more: choose another one."
    if (why_not := why_not_comparable(runs)) is not None:
        return why_not
    first = runs[0]
    for run in runs[1:]:
        for words, one, other in (
            ("prompts", first.config.prompts.pairs, run.config.prompts.pairs),
            ("scored and held-out pairs", (first.used_rows, first.held_out_rows), (run.used_rows, run.held_out_rows)),
            ("BOS tokens", first.config.prepend_bos, run.config.prepend_bos),
            ("losses", _loss(first.config.method), _loss(run.config.method)),
            ("ablations", _ablation(first), _ablation(run)),
        ):
            if one != other:
                return (
                    f"These runs cannot be averaged: their {words} differ. Choose runs that differ in the method alone."
                )
    if not all(run.scores.any() for run in runs):
        return "These runs cannot be averaged: all scores of one of them are zero. Leave it out."
    return None


def average(runs: Sequence[Run]) -> Run:
    """The mean of the runs' scores, each run's divided by the sum of their absolute values.

    Args:
        runs: Two or more, that differ in the method alone.

    Returns:
        A run of its own, of the first one's model and prompts. Its scores have no unit and absolute values that sum to
        at most 1; a note names the runs that they are a mean of.

    Raises:
        OptionError: The runs cannot be averaged; says why.
    """
    if (why_not := why_not_average(runs)) is not None:
        raise OptionError(why_not)
    total = np.zeros(runs[0].graph.n_edges)
    for run in runs:
        scores = run.scores.astype(np.float64)
        total += scores / np.abs(scores).sum() / len(runs)
    first = runs[0]
    mean = Method(path="averaged", mask_val=None).with_loss_of(first.config.method)
    of = "; ".join(f"{run.config.method.describe()} (run {run.id[:8]})" for run in runs)
    notes = list(dict.fromkeys(note for run in runs for note in run.notes))
    provenance = {
        **{name: value for name, value in first.provenance.items() if name not in ("seconds_loading", "parts")},
        "notes": [f"The scores are the mean of {len(runs)} runs' normalised scores: {of}.", *notes],
        "mean_of": [run.id for run in runs],
        "seconds": 0.0,
        "date": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    return Run(
        replace(first.config, method=mean),
        first.graph,
        total.astype(np.float32),
        first.baseline,
        list(first.used_rows),
        provenance,
        held_out_rows=list(first.held_out_rows),
    )


def _loss(method: Method) -> tuple[str, str]:
    return method.grad_function, method.answer_function


def _ablation(run: Run) -> tuple[object, ...]:
    method = run.config.method
    size = run.config.batch_size if method.ablation_type.needs_batch_size else None
    return method.ablation_type, method.clean_corrupt if method.ablation_type.reads_batch else None, size
