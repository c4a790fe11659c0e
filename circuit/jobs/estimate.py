"""How long a run will take and how much memory, before it is started: arithmetic on what was measured once.

    Pace          what a device needs for a batch and for a token of a model (`circuit.jobs.calibrate` measures it)
    Work          what a run will do: prompts, points, passes
    Estimate      seconds, peak memory, and what to change where that is too much

    estimate = pace.estimate(Work.of(config, lengths))
    estimate.words                 # "About 12 s on cpu, and at most 0.9 GB of memory"

A forward pass, and a step (a masked forward pass, the backward pass, and reading off the scores), take a time that is
linear in the tokens of the batch: this much per batch, and this much per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from circuit.common import words
from circuit.common.errors import OptionError
from circuit.edges.method import AblationType, Path, passes_of
from circuit.edges.shape import BASELINE_BATCH, ModelShape, peak_bytes, prompts_at_once

if TYPE_CHECKING:
    from circuit.runs.config import RunConfig


_LONG = 600.0
"""Seconds from which fewer points are suggested."""


@dataclass(frozen=True)
class Line:
    """Seconds of one pass: so much a batch, and so much a token of it."""

    a_batch: float
    a_token: float

    @classmethod
    def through(cls, few: tuple[int, float], many: tuple[int, float]) -> Line:
        """The line through two measurements (tokens, seconds)."""
        slope = max(many[1] - few[1], 0.0) / (many[0] - few[0])
        return cls(max(few[1] - slope * few[0], 0.0), slope)

    def times(self, factor: float) -> Line:
        return Line(self.a_batch * factor, self.a_token * factor)

    def seconds(self, tokens: int) -> float:
        return self.a_batch + self.a_token * tokens


@dataclass(frozen=True)
class Work:
    """What a run will do.

    Attributes:
        lengths: Tokens of every scored prompt, in order.
        n_points: Points of the method's path; how often prompts go through to learn masks.
        ablation_type: What it needs passes for.
        batch_size: None: chosen by free memory.
        apart: Whether token positions are kept apart.
        path: What its points are gone through for: see `circuit.edges.method.Path`.
    """

    lengths: tuple[int, ...]
    n_points: int
    ablation_type: AblationType = AblationType.RESAMPLE
    batch_size: int | None = None
    apart: bool = False
    path: Path = "masks"

    @classmethod
    def of(cls, config: RunConfig, lengths: Sequence[int]) -> Work:
        """The work of a run, given the tokens of every usable prompt.

        Raises:
            OptionError: Without prompts.
        """
        if not lengths:
            raise OptionError("There are no prompts to estimate.")
        scored, _ = config.split(range(len(lengths)))
        return cls(
            tuple(lengths[row] for row in scored),
            config.method.n_points(len(scored)),
            config.method.ablation_type,
            config.batch_size,
            config.keep_positions,
            config.method.path,
        )

    def batches(self, size: int) -> list[int]:
        """Tokens of every batch, padding included."""
        parts = [self.lengths[start : start + size] for start in range(0, len(self.lengths), size)]
        return [len(part) * max(part) for part in parts]


@dataclass(frozen=True)
class Estimate:
    """What a run will take. `free` is what the device had when it was measured."""

    seconds: float
    peak: int
    free: int
    batch_size: int
    device: str
    advice: str = ""
    """What to change, in a sentence; empty where all is well."""

    @property
    def fits(self) -> bool:
        return self.peak <= self.free

    @property
    def words(self) -> str:
        """One line, without a full stop."""
        peak = words.size(max(self.peak, words.MB))
        return f"About {words.seconds(self.seconds)} on {self.device}, and at most {peak} of memory"


@dataclass(frozen=True)
class Pace:
    """How fast a device runs a model.

    Attributes:
        shape: The model's.
        device: The device's name.
        free: Bytes that were free on it.
        forward: One plain forward pass.
        step: One masked forward pass, backward pass and reading off.
    """

    shape: ModelShape
    device: str
    free: int
    forward: Line
    step: Line

    def corrected(self, estimated: float, taken: float) -> Pace:
        """The pace after a run that was estimated and took this many seconds: what the device does when it matters."""
        if min(estimated, taken) <= 0:
            return self
        return replace(self, forward=self.forward.times(taken / estimated), step=self.step.times(taken / estimated))

    def estimate(self, work: Work, workers: int = 1) -> Estimate:
        """What the work will take, once the model is loaded; shared by this many `workers`."""
        longest = max(work.lengths)
        size = work.batch_size or prompts_at_once(self.shape, longest, self.free)
        size = min(size, len(work.lengths))
        batches = work.batches(size)
        forward_passes = _forward_passes(work.ablation_type) + (work.path != "masks")  # the clean sources
        ablation = sum(map(self.forward.seconds, batches)) * forward_passes
        steps = sum(map(self.step.seconds, batches)) * passes_of(work.path, work.n_points, self.shape.n_layers)
        baseline = 2 * sum(map(self.forward.seconds, work.batches(BASELINE_BATCH)))
        seconds = (baseline + ablation + steps) / workers
        peak = peak_bytes(self.shape, size, longest, apart=work.apart)
        return Estimate(seconds, peak, self.free, size, self.device, self._advice(work, size, peak, seconds))

    def _advice(self, work: Work, batch_size: int, peak: int, seconds: float) -> str:
        longest = max(work.lengths)
        if peak <= self.free:
            if seconds < _LONG or work.n_points <= 6:
                return ""
            return f"{work.n_points} points take long: with fewer samples, a run takes in proportion less time."
        had = f" into the {words.size(self.free)} that were free when this model was measured"
        smaller = batch_size
        while smaller > 1 and peak_bytes(self.shape, smaller, longest, apart=work.apart) > self.free:
            smaller //= 2
        if peak_bytes(self.shape, smaller, longest, apart=work.apart) <= self.free:
            return f"This will not fit{had}: choose a batch size of {smaller} or less."
        if work.apart and peak_bytes(self.shape, 1, longest) <= self.free:
            return f"This will not fit{had}: add the token positions up, or use shorter prompts."
        return (
            f"Not even one prompt of {longest} tokens will fit: use shorter prompts, a lower precision, or a smaller "
            "model."
        )


def _forward_passes(ablation_type: AblationType) -> int:
    """Forward passes over all prompts that the ablation needs."""
    if ablation_type is AblationType.TOKENWISE_MEAN_CLEAN_AND_CORRUPT:
        return 2
    return int(ablation_type.reads_batch or ablation_type.averages_dataset)
