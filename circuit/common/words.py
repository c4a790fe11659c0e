"""How numbers are said: `counted(1, "pair")` is "1 pair", `counted(24, "pair")` is "24 pairs"."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """So many of a thing whose plural ends in s."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
