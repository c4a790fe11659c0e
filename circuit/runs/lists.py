"""Which runs a session has made: a small file of their ids, so that a reload of the page finds them.

    read_list     the ids, in the order in which they were added
    change_list   add to them, or take out

    change_list(folder, session_id, added(run.id))

A session's id is 32 random hex digits, and a capability: who has it may read the list. Lists lie in `sessions` in the
folder of runs; what is damaged or cannot be written costs a list, never an error.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from circuit.common.files import expire, own_folder, read_json, write_whole
from circuit.runs.run import RUN_ID

KEPT = 180 * 24 * 3600.0
"""Seconds after its last change for which a list is kept."""
MOST_KEPT = 2000
MOST_RUNS = 5000
"""Of one list: the ones added last."""

_LARGEST = 64 * MOST_RUNS
_writing = threading.Lock()

Change = Callable[[list[str]], list[str]]


def read_list(folder: Path, session_id: str) -> list[str]:
    """The ids of a session's runs; none where there is no list that can be read."""
    if not RUN_ID.fullmatch(session_id):
        return []
    with suppress(OSError, ValueError):
        found = read_json(_file(folder, session_id), _LARGEST, list)
        return [run_id for run_id in found if isinstance(run_id, str) and RUN_ID.fullmatch(run_id)]
    return []


def change_list(folder: Path, session_id: str, change: Change) -> None:
    """Change a session's list. What cannot be written is let go: the session itself still knows its runs."""
    if not RUN_ID.fullmatch(session_id):
        return
    file = _file(folder, session_id)
    with _writing, suppress(OSError):  # jobs of the session may end at the same time
        before = read_list(folder, session_id)
        if (after := change(before)[-MOST_RUNS:]) == before:
            return
        own_folder(folder)
        own_folder(file.parent)
        write_whole(file, lambda part: part.write_text(json.dumps(after), encoding="utf-8"))
        expire(file.parent, KEPT, MOST_KEPT)


def added(run_id: str) -> Change:
    """A change that adds a run, once."""
    return lambda ids: ids if run_id in ids else [*ids, run_id]


def removed(run_id: str) -> Change:
    """A change that takes a run out."""
    return lambda ids: [each for each in ids if each != run_id]


def _file(folder: Path, session_id: str) -> Path:
    return folder / "sessions" / f"{session_id}.json"
