"""Files that a server keeps for its visitors.

write_whole   write a file so that whoever looks sees all of it or nothing, whatever happens meanwhile
expire        remove the files of a folder that nobody has changed for long
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, and put it in its place. Folders are made.

    Raises:
        OSError: When it cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as part:
        temporary = Path(part.name)
    try:
        write(temporary)
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


def expire(folder: Path, seconds: float, most: int) -> None:
    """Remove files that have not changed for so long, and the oldest beyond so many."""
    files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for number, path in enumerate(files):
        if number >= most or time.time() - path.stat().st_mtime > seconds:
            path.unlink(missing_ok=True)
