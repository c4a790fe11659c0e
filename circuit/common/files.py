"""Files that a server keeps for its visitors.

write_whole    write a file so that whoever looks sees all of it or nothing, whatever happens meanwhile
read_json      read a JSON file whose size, depth and type are what they should be
own_folder     make a folder that is its owner's alone
expire         remove the files of a folder that nobody has changed for long
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

DEEPEST = 20
"""Lists and objects inside each other, in a JSON file of ours."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, readable by its owner alone, and put it in its place. Folders are made.

    Raises:
        OSError: When it cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as part:
        temporary = Path(part.name)
    try:
        write(temporary)
        temporary.chmod(0o600)  # `write` may have put another file there
        with temporary.open("rb") as written:
            os.fsync(written.fileno())  # before it gets its name: a power cut must not leave the name of an empty file
        os.replace(temporary, path)
        _settle(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    """Let the new name survive a power cut too, where the system can do that for a folder."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def read_json(path: Path, largest: int, kind: type = dict) -> Any:
    """The value in a JSON file of at most `largest` bytes, which must be of this kind: `dict` or `list`.

    Raises:
        OSError: When it cannot be read.
        ValueError: When it is larger, is not JSON, is nested deeper than `DEEPEST`, or holds another kind of value.
    """
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it is larger than {largest:,} bytes")
    return parse_json(content, kind)


def parse_json(content: bytes | str, kind: type = dict) -> Any:
    """The value of a JSON text, which must be of this kind.

    Raises:
        ValueError: As `read_json`.
    """
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, kind):
        raise ValueError(f"it holds a {type(value).__name__}, not a {kind.__name__}")
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        inner = [each for outer in level for each in (outer.values() if isinstance(outer, dict) else outer)]
        level = [each for each in inner if isinstance(each, dict | list)]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


def own_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for its owner alone. One of ours that others can look into is
    closed to them.

    Raises:
        OSError: When it cannot be made.
    """
    for each in [*reversed(folder.parents), folder]:
        if not each.exists():
            each.mkdir(mode=0o700, exist_ok=True)
    with suppress(OSError):  # a folder of somebody else's that we may write to
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)


def expire(folder: Path, seconds: float, most: int) -> None:
    """Remove files that have not changed for that long, and the oldest beyond that number."""
    files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for number, path in enumerate(files):
        if number >= most or time.time() - path.stat().st_mtime > seconds:
            path.unlink(missing_ok=True)
