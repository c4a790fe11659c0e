"""Does the circuit still do the task? One answer for every page, from what was measured.

    judge      a measured circuit, beside the whole and the ablated model -> Verdict
    Verdict    the answer in a word or two, and why, where that is not the share that is kept

    judge(curve.points[0], curve).answer        # 'Largely yes'

The answer looks at the share of the difference between whole and ablated model that is left, at the sign of that
difference, and at how often the right answer is ahead: a share of what is worse than nothing, or of being wrong, is no
share of the task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from circuit.runs.faithfulness import Curve, Measured

Answer = Literal["Largely yes", "Partly", "No", "Off", "Whole model", "No task", "No path", "Too close"]

LARGELY, PARTLY = 0.8, 0.2
"""The shares from which on an answer is "Largely yes", and "Partly"."""
OUTDOES = 1.1
"""From here on a circuit does more than recover the model: it leaves out what hinders, and outdoes it."""
FAR_ABOVE = 1.5
"""More than this share of the whole model's behaviour is another behaviour than the model's."""
_SELDOM = 0.25
"""A whole model that is right on fewer of the prompts does not do the task."""


@dataclass(frozen=True)
class Verdict:
    """`why` is a sentence's second half, empty where the answer follows from the share alone."""

    answer: Answer
    why: str = ""


def judge(circuit: Measured, curve: Curve, share: float | None = None, n_live: int | None = None) -> Verdict:
    """Whether the circuit still does the task.

    Args:
        circuit: What was measured of it.
        curve: The whole and the ablated model on the same prompts; its points do not matter.
        share: The circuit's faithfulness, where it is known.
        n_live: How many of its edges lie on a path from `Resid Start` to `Resid End`, where it is known.
    """
    if n_live == 0:
        return Verdict("No path", "none of its edges lies on a path from Resid Start to Resid End")
    if share is None and curve.too_close:
        return Verdict("Too close", curve.too_close)
    if curve.whole.mean < curve.ablated.mean:
        return Verdict(
            "No task",
            f"the whole model ({curve.whole.mean:+.3g}) does worse on these prompts than the fully ablated one "
            f"({curve.ablated.mean:+.3g}), so the circuit keeps a share of doing harm",
        )
    right, whole = circuit.accuracy, curve.whole.accuracy
    if whole < _SELDOM:
        return Verdict(
            "No task",
            f"with the whole model already a wrong answer is ahead of a right one on {1 - whole:.0%} of the prompts, "
            "so there is little of the task to keep",
        )
    if circuit.n_edges == curve.whole.n_edges:
        return Verdict("Whole model")
    if share is None:
        share = float(Curve((circuit,), curve.whole, curve.ablated).faithfulness[0])
    if share > FAR_ABOVE:
        return Verdict(
            "Off", "far above 100 % the circuit does something else than the model, which other edges hold back"
        )
    if right < 0.5 and right < 0.8 * whole:
        return Verdict(
            "No",
            f"a wrong answer comes out ahead on {1 - right:.0%} of the prompts, and with the whole model on "
            f"{1 - whole:.0%}",
        )
    if share < PARTLY:
        return Verdict("No")
    if share > OUTDOES:
        return Verdict(
            "Largely yes",
            "above 110 % the circuit outdoes the model rather than recovering it, since edges that hinder are left out",
        )
    return Verdict("Largely yes" if share >= LARGELY else "Partly")
