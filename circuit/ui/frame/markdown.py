"""Text that others typed, where markdown is read."""

from __future__ import annotations

import re


def plain(text: str) -> str:
    """Text as it is, where markdown is read: prompts may hold any of its marks."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text).replace("\n", " ")
