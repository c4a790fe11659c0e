"""Text that others typed, where markdown is read."""

from __future__ import annotations

import re

JOINER = "\u2060"
"""A character that takes no room and breaks no word."""
_MARKS = re.compile(r"([!-/:-@\[-`{-~])")
_LOOKED_FOR = re.compile(r"(?<=:)(?=[\w/+-])|(?<=www)(?=\.)|(?=@)|(?<=[-<>=~])(?=[-<>=~])", re.IGNORECASE)
"""Places inside of what Streamlit's markdown looks for in text that has been read already, where no backslash helps:
addresses (`https://…`, `www.…`, `a@b`), `:icons:`, `:material/icons:`, and arrows and dashes (`->`, `--`)."""


def plain(text: str) -> str:
    """Text as it is, where markdown is read: whatever others typed makes no link, picture, HTML, formula or icon."""
    return _MARKS.sub(r"\\\1", _LOOKED_FOR.sub(JOINER, text)).replace("\n", " ")
