"""The job that tries methods on a prompt set: whose scores agree with really ablating, and whose circuits do the task?

    audition    a run's settings -> Audition: a `Tried` for every method
    METHODS     what is tried

    found = audition(AuditionRequest(config))
    found.best.run.config.method        # the method to take for these prompts
    found.recommendation                # in words

Every method scores the same pairs. Some edges, spread over the whole range of scores and not only the strongest, are
then really ablated one at a time, and circuits of each method are measured on the held-out pairs, or on the scored ones
where none are held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32

from circuit.common.errors import OptionError
from circuit.common.progress import Cancelled, Report, never, silent
from circuit.common.words import counted
from circuit.edges.agreement import is_no_effect
from circuit.edges.method import DEFAULT_METHOD, Method
from circuit.jobs.attribute import attribute
from circuit.jobs.inspect import EffectsRequest, measure_effects
from circuit.jobs.measure import MeasureRequest, find_smallest, measure
from circuit.runs.comparison import spearman
from circuit.runs.config import RunConfig
from circuit.runs.faithfulness import CURVE_SHARES, Curve, cpr, curve_sizes
from circuit.runs.run import Run
from circuit.runs.truth import truth_of

_INPUTS = Method(mask_val=None, integrated_grad_samples=5, path="inputs")
_ENDS = Method(mask_val=None, path="ends")
METHODS = (
    Method(),
    Method(backward="relp"),
    Method(backward="gim"),
    DEFAULT_METHOD,
    replace(DEFAULT_METHOD, backward="gim"),
    _INPUTS,
    replace(_INPUTS, backward="relp"),
    replace(_INPUTS, backward="gim"),
    _ENDS,
    replace(_ENDS, backward="gim"),
)
"""What is tried: paths of up to five passes over the prompts, by the rules that do best on each."""

TARGET = 0.9
"""The share of the behaviour that the fewest edges are looked for by."""


@dataclass(frozen=True)
class AuditionRequest:
    """Prompts, and what to try on them.

    Attributes:
        config: Model, prompts and what is held out. Of its method, the loss and the ablation count.
        n_edges: How many edges are really ablated.
        methods: Which paths and backward rules are tried.
    """

    config: RunConfig
    n_edges: int = 40
    methods: tuple[Method, ...] = METHODS

    def configs(self) -> list[RunConfig]:
        """The run of each method that goes with the ablation asked for.

        Raises:
            OptionError: Where none does.
        """
        found = []
        for method in self.methods:
            try:
                tried = method.with_loss_of(self.config.method)
            except OptionError:  # a path between the prompts needs the resample ablation
                continue
            found.append(replace(self.config, method=tried, keep_positions=False))
        if not found:
            raise OptionError("None of these methods goes with this ablation: choose the resample ablation.")
        return found


@dataclass(frozen=True)
class Tried:
    """What one method gave.

    Attributes:
        run: Its scores, with the seconds that they took.
        correlation: Spearman's rank correlation of scores with measured effects; NaN where all of either are equal.
        same_sign: The share of the edges ablated, of those with an effect, whose score has its sign; NaN without any.
        curve: Circuits by absolute score, at the benchmark's sizes.
        smallest: The fewest edges that keep `TARGET` of the behaviour, chosen by signed score so that they hang
            together; None where no number of them does.
        auroc: How well absolute scores tell the edges of the model's known circuit from all others (1 is best, 0.5 is
            chance); None where no circuit is known.
    """

    run: Run
    correlation: float
    same_sign: float
    curve: Curve
    smallest: int | None
    auroc: float | None = None

    @property
    def cmd(self) -> float:
        """The area between faithfulness and 100 %, of circuits by absolute score: 0 is best; NaN where whole and
        ablated model are too close to compare."""
        return float("nan") if self.curve.too_close else self.curve.cmd

    @property
    def accuracy_area(self) -> float:
        """The area under the share of prompts that circuits get right; NaN where pairs have no wrong answers."""
        n = self.run.graph.n_edges
        right = {point.n_edges: point.accuracy for point in (*self.curve.points, self.curve.whole)}
        return cpr(CURVE_SHARES, [right[int(share * n)] for share in CURVE_SHARES])


@dataclass(frozen=True)
class Audition:
    """Several methods on the same prompts.

    Attributes:
        tried: What each method gave.
        effects: What ablating single edges really does, by edge, on the scored pairs.
        n_pairs: On how many pairs circuits were measured.
        held_out: Whether these were held out from the scores.
    """

    tried: tuple[Tried, ...]
    effects: dict[int, float]
    n_pairs: int
    held_out: bool

    @property
    def best(self) -> Tried:
        """The method whose circuit needs the fewest edges; among equals, the one that agrees best with ablating."""
        return min(self.tried, key=lambda each: (each.smallest or np.inf, -np.nan_to_num(each.correlation, nan=-1)))

    @property
    def recommendation(self) -> str:
        """Which method to take, and why."""
        best, pairs = self.best, f"{counted(self.n_pairs, 'held-out pair' if self.held_out else 'scored pair')}"
        if best.smallest is None:
            return (
                f"No method's connected circuit keeps {TARGET:.0%} of the behaviour on the {pairs}. "
                f"{best.run.config.method.title} agrees best with really ablating (rank correlation "
                f"{best.correlation:.2f} over {counted(len(self.effects), 'edge')})."
            )
        others = [each.smallest for each in self.tried if each.smallest is not None and each is not best]
        beside = f"; the others need {min(others):,} or more" if others else "; no other method's does"
        return (
            f"{best.run.config.method.title}: {counted(best.smallest, 'connected edge')} of it keep {TARGET:.0%} of "
            f"the behaviour on the {pairs}{beside}. Its scores have a rank correlation of {best.correlation:.2f} with "
            f"what really ablating {counted(len(self.effects), 'edge')} does."
        )


def audition(request: AuditionRequest, *, progress: Report = silent, cancelled: Cancelled = never) -> Audition:
    """Score, ablate and measure, method by method.

    Raises:
        CircuitError: One of its kinds, with a sentence, when the model, the prompts or the options cannot be used.
    """
    configs = request.configs()
    stages = _Stages(3 * len(configs) + 1, progress)
    runs = [
        attribute(config, progress=stages.next(f"Scoring by {config.method.title}"), cancelled=cancelled)
        for config in configs
    ]
    edges = spread([run.scores for run in runs], request.n_edges)
    effects = measure_effects(
        EffectsRequest(configs[0], edges), progress=stages.next("Really ablating single edges"), cancelled=cancelled
    )
    rows = tuple(runs[0].held_out_rows or runs[0].used_rows)
    tried = tuple(_tried(run, effects, rows, stages, cancelled) for run in runs)
    stages.end()
    return Audition(tried, effects, len(rows), bool(runs[0].held_out_rows))


def _tried(run: Run, effects: dict[int, float], rows: tuple[int, ...], stages: _Stages, cancelled: Cancelled) -> Tried:
    measured = np.array(list(effects.values()))
    scores = run.scores[list(effects)]
    signs = [
        score * effect > 0
        for score, effect in zip(scores.tolist(), measured.tolist(), strict=True)
        if not is_no_effect(score, effect, run.noise)
    ]
    sizes = curve_sizes(run.graph.n_edges)
    ablation = run.config.method.ablation_type
    by_absolute = MeasureRequest(run.config, run.scores, sizes, ablation_type=ablation, rows=rows)
    by_sign = replace(by_absolute, importance="signed", rule="connected")
    title = run.config.method.title
    curve = measure(by_absolute, progress=stages.next(f"Measuring circuits of {title}"), cancelled=cancelled)
    searching = stages.next(f"Looking for the smallest circuit of {title}")
    smallest = None
    if not curve.too_close:
        found = find_smallest(by_sign, TARGET, progress=searching, cancelled=cancelled)
        smallest = found.smallest(TARGET, by_sign.most(run.graph))
    truth = truth_of(run)
    auroc = None if truth is None else truth.auroc(run.scores)
    return Tried(run, spearman(scores, measured), float(np.mean(signs)) if signs else np.nan, curve, smallest, auroc)


def spread(scores: Sequence[Float32[np.ndarray, " n_edges"]], n: int) -> tuple[int, ...]:
    """Some `n` edges over the whole range of several methods' scores: by their mean rank by absolute score, on a
    logarithmic scale, so that no method chooses what it is judged by."""
    ranks = np.mean([np.argsort(np.argsort(-np.abs(each), kind="stable"), kind="stable") for each in scores], axis=0)
    order = np.argsort(ranks, kind="stable")
    n = min(n, len(order))
    places = np.unique(np.geomspace(1, len(order), n).astype(int)) - 1
    free = np.setdiff1d(np.arange(len(order)), places)  # the first ranks lie closer than a step
    places = np.union1d(places, free[: n - len(places)])
    return tuple(order[places].tolist())


class _Stages:
    """Progress over several jobs that each report their own."""

    _PARTS = 100

    def __init__(self, total: int, report: Report) -> None:
        self._total, self._report, self._stage = total, report, -1

    def next(self, words: str) -> Report:
        """The report of the next job."""
        self._stage += 1
        stage = self._stage

        def report(step: int, total: int, message: str) -> None:
            part = min(step / total, 1) if total else 0
            done = int((stage + part) * self._PARTS)
            self._report(done, self._total * self._PARTS, f"{words}: {message}" if message else words)

        return report

    def end(self) -> None:
        """All jobs are done, also those that came to an end sooner than they might have."""
        self._report(self._total * self._PARTS, self._total * self._PARTS, "")
