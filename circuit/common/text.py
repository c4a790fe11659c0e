"""Text that others typed, made fit to stand somewhere.

one_line    text as one line without control characters: names, captions
for_xml     text without what XML cannot hold
file_name   text as the name of a file, without its ending
"""

from __future__ import annotations

import re

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]+")
"""Control characters, line ends, and marks that turn the direction of the text around them."""
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def one_line(text: str, longest: int | None = None) -> str:
    """The text as one line, without control characters and spaces around it; cut to `longest` characters."""
    line = " ".join(_CONTROL.sub(" ", text).split())
    return line if longest is None or len(line) <= longest else f"{line[: longest - 2]} …"


def for_xml(text: str) -> str:
    """The text with a replacement character for each that XML cannot hold."""
    return _NOT_IN_XML.sub("\ufffd", text)


def file_name(text: str, otherwise: str) -> str:
    """The text as a name that a file may have anywhere: letters, digits, underscores, hyphens and inner dots."""
    return re.sub(r"[^\w.-]+", "_", one_line(text))[:80].strip("._-") or otherwise
