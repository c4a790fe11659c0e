"""How numbers are said: 1 pair and 24 pairs, 12 s and 3 min, 80 MB and 0.9 GB."""

from __future__ import annotations

MB = 1_000_000
"""Bytes of a megabyte, wherever this package says MB."""


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """This many of a thing, as in "1 pair" and "24 pairs"; `plural` where it does not just end in s."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def seconds(n: float) -> str:
    """A time span, from "a second" over "12 s" and "3 min" to "2.0 h"."""
    if n < 1:
        return "a second"
    if n < 90:
        return f"{n:.0f} s"
    if n < 90 * 60:
        return f"{n / 60:.0f} min"
    return f"{n / 3600:.1f} h"


def size(n_bytes: float) -> str:
    """A number of bytes, as in "30 kB", "80 MB" and "0.9 GB"."""
    if n_bytes < MB:
        return f"{n_bytes / 1000:.0f} kB"
    return f"{n_bytes / MB:.2g} MB" if n_bytes < 100 * MB else f"{n_bytes / (1000 * MB):.1f} GB"
