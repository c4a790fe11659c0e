"""What figures should show, by plain loops, and the caption that they should carry."""

from __future__ import annotations

from circuit.plots.numbers import Reduce

REDUCTIONS: list[Reduce] = ["abs_sum", "signed_sum", "abs_max"]


def reduced(values: list[float], reduce: Reduce) -> float:
    if not values:
        return float("nan")
    if reduce == "abs_max":
        return max(abs(value) for value in values)
    return sum(abs(value) if reduce == "abs_sum" else value for value in values)


def group_of(name: str, split: bool) -> str:
    """A3.7.Q -> A3 or A3.Q; A3.7 -> A3; others are their own group."""
    if not name.startswith("A"):
        return name
    parts = name.split(".")
    return f"{parts[0]}.{parts[2]}" if split and len(parts) == 3 else parts[0]


CAPTION = "Teaching model, 8 prompt pairs · edge attribution patching · positive: ablating the edge hurts the task"
