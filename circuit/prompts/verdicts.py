"""Whether a model does the task of a prompt set: results of a forward pass per pair, summed up and judged in words.

    PairResult     what the model makes of one pair
    Interval       a mean with a 95 % interval
    Summary        accuracy and mean differences over the pairs
    verdicts       what these say, in sentences
    trouble        why one pair stands out, if it does

A difference is the mean over the right answers minus the mean over the wrong ones, of what the grad function reads off
the logits after the prompt's last token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from circuit.common.interval import FEWEST, mean_interval
from circuit.models.tokenizer import visible

MOST_RESAMPLED = 1000
"""With more pairs than this, intervals are those of the normal distribution: resampling would say the same, slowly."""
INTERVAL = (
    "studentised bootstrap over pairs, 2,000 draws, seeded, never narrower than Student's; with more than "
    f"{MOST_RESAMPLED:,} pairs, 1.96 standard errors"
)
"""How intervals are made, in words."""


@dataclass(frozen=True)
class PairResult:
    """What the model makes of one pair. Differences are NaN for a pair without wrong answers."""

    probability: float
    """P(right answers), summed, after the clean prompt."""
    rank: int
    """Of the best right answer among all tokens after the clean prompt; 1 is the model's first choice."""
    clean: float
    """The answer difference after the clean prompt."""
    corrupt: float
    """The answer difference after the corrupt prompt."""
    right: float
    """1 where every right answer is above every wrong one after the clean prompt, else 0; NaN without wrong ones."""
    top: tuple[tuple[str, float], ...]
    """The model's five likeliest next tokens after the clean prompt, with their probabilities."""

    @property
    def drop(self) -> float:
        """By how much corrupting lowers the difference: what edge scores explain."""
        return self.clean - self.corrupt


@dataclass(frozen=True)
class Interval:
    """A mean over pairs and the ends of its 95 % interval, NaN with fewer than `FEWEST` pairs."""

    mean: float
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """The mean and its interval (`circuit.common.interval.mean_interval`), the same for the same values; of more
        than `MOST_RESAMPLED` pairs 1.96 standard errors to each side."""
        known = np.asarray([value for value in values if math.isfinite(value)], dtype=np.float64)
        if not len(known):
            return cls(math.nan)
        mean = float(known.mean())
        if len(known) < FEWEST:
            return cls(mean)
        if len(known) > MOST_RESAMPLED:
            reach = 1.96 * float(known.std(ddof=1)) / math.sqrt(len(known))
            return cls(mean, mean - reach, mean + reach)
        return cls(mean, *mean_interval(known))

    def __str__(self) -> str:
        return "–" if math.isnan(self.mean) else f"{self.mean:+.2f}"

    @property
    def interval(self) -> str:
        """The interval in words, empty where there is none."""
        return "" if math.isnan(self.low) else f"{self.low:+.2f} to {self.high:+.2f}"


@dataclass(frozen=True)
class Summary:
    """The pairs together."""

    n: int
    accuracy: float
    """Share of clean prompts with every right answer above every wrong one; NaN without wrong answers."""
    first_choice: float
    """Share of clean prompts after which a right answer is the model's first choice."""
    probability: float
    """Mean P(right answers) after the clean prompts."""
    clean: Interval
    corrupt: Interval
    drop: Interval

    @classmethod
    def of(cls, results: Sequence[PairResult]) -> Summary:
        """Of at least one result."""
        right = [result.right for result in results if math.isfinite(result.right)]
        return cls(
            len(results),
            float(np.mean(right)) if right else math.nan,
            float(np.mean([result.rank == 1 for result in results])),
            float(np.mean([result.probability for result in results])),
            *(Interval.of([getattr(result, name) for result in results]) for name in ("clean", "corrupt", "drop")),
        )


def trouble(result: PairResult) -> str | None:
    """Why a pair stands out from a set that works, or None."""
    if result.clean <= 0:
        return "the model prefers a wrong answer"
    if result.drop <= 0:
        return "corrupting does not lower the difference"
    return None


Level = Literal["error", "warning", "info", "success"]


@dataclass(frozen=True)
class Verdict:
    """One sentence on whether attribution on these prompts would mean anything."""

    level: Level
    words: str


def verdicts(results: Mapping[int, PairResult], summary: Summary | None = None) -> list[Verdict]:
    """What the results of rows (counted from 0) say about the set, the gravest first; `summary` where it is known."""
    if not results:
        return []
    paired = {row: result for row, result in results.items() if math.isfinite(result.drop)}
    if not paired:
        return [_without_wrong_answers(results)]
    if summary is None:
        summary = Summary.of(list(results.values()))
    said = _judged(paired, summary)
    if uncounted := [row for row in results if row not in paired]:
        have = "has" if len(uncounted) == 1 else "have"
        words = f"This is about {len(paired)} of {len(results)} pairs: {listed(uncounted)} {have} no wrong answers."
        said.append(Verdict("info", words))
    return sorted(said, key=lambda verdict: get_args(Level).index(verdict.level))


def _judged(paired: Mapping[int, PairResult], summary: Summary) -> list[Verdict]:
    """The verdicts on pairs that all have wrong answers."""
    n = len(paired)
    wrong = [row for row, result in paired.items() if result.clean <= 0]
    if summary.clean.mean <= 0:
        return [
            Verdict(
                "error",
                "The model does not do this task: after the clean prompts it prefers the wrong answers on "
                f"{len(wrong)} of {n} pairs, and on average.",
            )
        ]
    said = []
    if summary.clean.low <= 0:
        said.append(
            Verdict(
                "warning",
                "It is not certain that the model does this task: over such pairs the mean difference may well be zero "
                f"(95 % interval {summary.clean.interval}).",
            )
        )
    said += _of_corrupting(paired, summary)
    if (elsewhere := _expects_something_else(paired)) is not None:
        said.append(elsewhere)
    unmoved = [row for row, result in paired.items() if result.drop <= 0]
    if wrong:
        said.append(
            Verdict("warning", f"On {len(wrong)} of {n} pairs the model prefers a wrong answer: {listed(wrong)}.")
        )
    if mixed := [row for row, result in paired.items() if result.right == 0 and row not in wrong]:
        words = f"On {len(mixed)} of {n} pairs a wrong answer is above a right one, though not on average: "
        said.append(Verdict("warning", f"{words}{listed(mixed)}."))
    if unmoved and (alone := [row for row in unmoved if row not in wrong]):
        words = f"On {len(alone)} of {n} pairs corrupting does not lower the difference: {listed(alone)}."
        said.append(Verdict("warning", words))
    if not said:
        all_pairs = f"all {n} pairs" if n > 1 else "the one pair"
        if n < summary.n:
            all_pairs += f" that {'have' if n > 1 else 'has'} wrong answers"
        said.append(
            Verdict(
                "success",
                f"The model does this task: it prefers right over wrong on {all_pairs}, and corrupting lowers the "
                f"difference on {'each' if n > 1 else 'it'}.",
            )
        )
    return said


SMALL = 0.1
"""A change of the difference that is smaller than this share of it counts as none."""


def _of_corrupting(paired: Mapping[int, PairResult], summary: Summary) -> list[Verdict]:
    """What is wrong with the corrupt prompts, if anything is."""
    n = len(paired)
    if abs(summary.drop.mean) <= SMALL * summary.clean.mean:
        words = "Corrupting does not change the answer, so edge scores would measure next to nothing."
        return [Verdict("error", words)]
    if summary.drop.mean < 0:
        words = (
            "Corrupting changes the answer in the wrong direction: on average it raises the difference from "
            f"{summary.clean} to {summary.corrupt}, so edges that help the task would get negative scores. "
            "Look whether clean and corrupt are swapped."
        )
        return [Verdict("error", words)]
    if (few := drivers(paired)) and len(few) <= n / 5:
        words = (
            f"{len(few)} pair{'s drive' if len(few) > 1 else ' drives'} 60 % of the difference between clean and "
            f"corrupt ({listed(few)} of {n}): scores would mostly be about {'these' if len(few) > 1 else 'it'}."
        )
        return [Verdict("warning", words)]
    if summary.drop.low <= 0:
        words = "It is not certain that corrupting changes the answer: the mean change may well be zero"
        return [Verdict("warning", f"{words} (95 % interval {summary.drop.interval}).")]
    return []


UNLIKELY = 0.01
"""Where the right answers together have less than this, the model is not really choosing between the answers."""


def _expects_something_else(results: Mapping[int, PairResult]) -> Verdict | None:
    """A warning where right and wrong answers may be in order, and neither is what the model would say."""
    unlikely = {row: result for row, result in results.items() if result.probability < UNLIKELY and result.rank > 1}
    if len(unlikely) <= len(results) / 2:
        return None
    row, example = next(iter(unlikely.items()))
    first_choice = visible(example.top[0][0])
    return Verdict(
        "warning",
        f"The model expects something else than any right answer: P(right answers) is below {100 * UNLIKELY:g} % on "
        f"{len(unlikely)} of {len(results)} pairs. After row {row + 1} its first choice is '{first_choice}'. "
        "Look for a space missing before the answers, and at how the prompts end.",
    )


def _without_wrong_answers(results: Mapping[int, PairResult]) -> Verdict:
    first, n = sum(result.rank == 1 for result in results.values()), len(results)
    if first < n / 10:
        words = "The model does not do this task: a right answer is its first choice"
        return Verdict("error", f"{words} on {first} of {n} pairs only.")
    words = f"A right answer is the model's first choice on {first} of {n} pairs."
    return Verdict(
        "success" if first > n / 2 else "warning", f"{words} Without wrong answers, no difference can be given."
    )


def drivers(results: Mapping[int, PairResult], share: float = 0.6) -> list[int]:
    """The fewest rows that together make this share of the summed drop; none where the sum is not positive."""
    total = sum(result.drop for result in results.values())
    if total <= 0:
        return []
    rows, so_far = [], 0.0
    for row in sorted(results, key=lambda row: -results[row].drop):
        rows.append(row)
        so_far += results[row].drop
        if so_far >= share * total:
            break
    return sorted(rows)


def listed(rows: Sequence[int], most: int = 8) -> str:
    """Rows counted from 0, as people read them: 'rows 1, 4 and 7'."""
    numbers = [str(row + 1) for row in rows[:most]]
    if len(rows) > most:
        return f"rows {', '.join(numbers)} and {len(rows) - most} more"
    return f"row {numbers[0]}" if len(numbers) == 1 else f"rows {', '.join(numbers[:-1])} and {numbers[-1]}"
