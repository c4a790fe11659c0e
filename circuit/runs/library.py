"""The runs that are kept in one directory: list, name, annotate, delete, and take in a file from elsewhere.

    RunLibrary   the directory
    RunEntry     what a list says of a run, from its header alone
    Listing      all of them, the newest first, with what could not be read and why

    library = RunLibrary(folder)
    library.save(run)
    library.listing().entries[0].name
    library.label(run.id, name="IOI, zero ablation", note="compare with the one before")
    run = library.take_in(uploaded_bytes, "colleague.safetensors")

A run is `<id>.safetensors`, written once and never changed. What is added later lies beside it: its name and note in
`<id>.label.json`, what circuits were measured to keep in `<id>.curves.json`, what ablating single edges was measured to
do in `<id>.effects.json`. Every file is written whole
(`circuit.common.files`), and ids are random, so several servers may share a directory: what another one writes or
deletes meanwhile is there or is not. Nothing here imports torch.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from circuit.common.errors import RunFileError
from circuit.common.files import own_folder, read_json, write_whole
from circuit.common.text import one_line
from circuit.common.words import MB, size
from circuit.edges.method import Method
from circuit.prompts.pairs import check_rows, is_text
from circuit.runs.faithfulness import Curve
from circuit.runs.run import RUN_ID, Run, opened

LARGEST_FILE = 20 * MB
"""Bytes that a file from elsewhere may have."""
LONGEST_NAME, LONGEST_NOTE = 120, 5000
"""Characters."""

_SUFFIX = ".safetensors"
_BESIDE = (".label.json", ".curves.json", ".effects.json")
_LARGEST_LABEL, _LARGEST_CURVES, _LARGEST_EFFECTS = 100_000, 50 * MB, 20 * MB
"""Bytes."""
_LEFT_OVER = 3600.0
"""Seconds after which a half-written file is one that nobody is writing any more."""
_keeping = threading.Lock()


@dataclass(frozen=True)
class RunEntry:
    """What a list says of a run. `name` is what somebody called it, or else its prompt set and model."""

    id: str
    name: str
    note: str
    model: str
    prompts: str
    n_pairs: int
    method: str
    n_edges: int
    date: datetime


@dataclass(frozen=True)
class Listing:
    """The runs, newest first; sentences about files that are not runs, by file name; and what is wrong with the
    directory itself, if something is."""

    entries: list[RunEntry] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    problem: str | None = None


def merge_curves(known: dict[str, Curve], new: dict[str, Curve]) -> None:
    """Add curves; to one that is known, its sizes."""
    for key, curve in new.items():
        known[key] = known[key].with_points(curve.points) if key in known else curve


class RunLibrary:
    """The runs in a directory, which is made when the first is saved, for its owner alone. It takes `most` runs, and
    opens those of at most `most_scores` scores; 0: any number."""

    def __init__(self, folder: Path, most: int = 0, most_scores: int = 0) -> None:
        self.folder = folder
        self.most = most
        self.most_scores = most_scores

    # --- reading -----------------------------------------------------------------------------------------------

    def listing(self) -> Listing:
        """All runs. Reads headers only, and those only once; nothing that lies in the directory makes it fail."""
        found = Listing()
        try:
            files = [file for file in os.scandir(self.folder) if _is_ours(file)]
        except FileNotFoundError:
            return found
        except OSError as error:
            return Listing(problem=f"The runs directory cannot be read: {error.strerror or error}.")
        for file in files:
            run_id = file.name.removesuffix(_SUFFIX)
            if not RUN_ID.fullmatch(run_id):
                found.damaged[file.name] = "Its name is not that of a run: upload it here, and it gets one."
                continue
            try:
                known = _read(file.path, self.most_scores, *_identity(file.stat()))
            except FileNotFoundError:
                continue  # deleted meanwhile
            except OSError as error:
                found.damaged[file.name] = f"It cannot be read at the moment: {error.strerror or error}."
                continue
            if isinstance(known, RunEntry):
                name, note = self._label(run_id)
                found.entries.append(replace(known, name=name or known.name, note=note))
            elif Path(file.path).exists():
                found.damaged[file.name] = known
        found.entries.sort(key=lambda entry: (entry.date, entry.id), reverse=True)
        return found

    def entry(self, run_id: str) -> RunEntry | None:
        """One run of the list; None where it cannot be read."""
        path = self._path(run_id)
        try:
            known = _read(str(path), self.most_scores, *_identity(path.stat()))
        except OSError:
            return None
        name, note = self._label(run_id)
        return replace(known, name=name or known.name, note=note) if isinstance(known, RunEntry) else None

    def load(self, run_id: str) -> Run:
        """The run with its scores.

        Raises:
            RunFileError: When there is none with this id, or its file is damaged.
        """
        path = self._path(run_id)
        if not path.exists():
            raise RunFileError("There is no run with that id on this server.")  # where, is the server's business
        run = Run.load(path, self.most_scores)
        run.id = run_id  # somebody may have copied and renamed a file
        return run

    def curves(self, run_id: str) -> dict[str, Curve]:
        """What circuits of this run were measured to keep, by setting; none where there is nothing that can be read."""
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # damaged: measured again
            kept = read_json(self._path(run_id, ".curves.json"), _LARGEST_CURVES)
            return {key: Curve.from_dict(values) for key, values in kept.items()}
        return {}

    def effects(self, run_id: str) -> dict[int, float]:
        """What ablating single edges of this run was measured to do, by number of edge; none where nothing is kept."""
        with suppress(OSError, ValueError, TypeError, AttributeError):
            kept = read_json(self._path(run_id, ".effects.json"), _LARGEST_EFFECTS)
            found = {int(edge): float(effect) for edge, effect in kept.items()}
            if all(math.isfinite(effect) and edge >= 0 for edge, effect in found.items()):
                return found
        return {}

    def keep_effects(self, run_id: str, measured: Mapping[int, float]) -> dict[int, float]:
        """Add to the measured effects of this run's edges; returns all of them. Nothing is written for a run that is
        not here.

        Raises:
            RunFileError: When they cannot be written.
        """
        with _keeping:  # two sessions that read, and then write, would lose what one of them has
            effects = {**self.effects(run_id), **measured}
            if run_id in self:
                text = json.dumps({str(edge): effect for edge, effect in effects.items()})
                with _said("What was measured could not be saved"):
                    write_whole(self._path(run_id, ".effects.json"), lambda part: part.write_text(text, "utf-8"))
        return effects

    def __contains__(self, run_id: str) -> bool:
        return self._path(run_id).exists()

    # --- writing -----------------------------------------------------------------------------------------------

    def save(self, run: Run) -> None:
        """Write a run, at once and whole; one that is there already stays as it is.

        Raises:
            RunFileError: When it cannot be written, or the directory is full; nothing is left behind.
        """
        if run.id in self:
            return
        if self.most and self._count() >= self.most:
            raise RunFileError(
                f"The run could not be saved: this server keeps {self.most:,} runs, and has as many. Delete some, or "
                "ask its owner."
            )
        try:
            with suppress(OSError):  # saving says why
                own_folder(self.folder)
            run.save(self._path(run.id))
        except RunFileError as error:  # its path is the server's business
            why = str(error).rpartition(": ")[2]
            raise RunFileError(f"The run could not be saved in the runs directory: {why}") from error
        self._tidy()

    def add_curves(self, run_id: str, measured: dict[str, Curve]) -> dict[str, Curve]:
        """Keep what was measured beside what others have measured meanwhile, and give back both. A run that is not
        here, or no longer, keeps nothing.

        Raises:
            RunFileError: When it cannot be written.
        """
        with _keeping:  # two that read, and then write, would lose what one of them has
            known = self.curves(run_id)
            merge_curves(known, measured)
            if run_id in self:
                text = json.dumps({key: curve.to_dict() for key, curve in known.items()})
                with _said("What was measured could not be saved"):
                    write_whole(self._path(run_id, ".curves.json"), lambda part: part.write_text(text, "utf-8"))
        return known

    def label(self, run_id: str, name: str, note: str) -> None:
        """Call a run something else than its prompts and model (unless empty), and write a note to it.

        Raises:
            RunFileError: When there is no such run, or it cannot be written.
        """
        if run_id not in self:
            raise RunFileError("The run is gone: somebody has deleted it.")
        content = {"name": one_line(name)[:LONGEST_NAME], "note": _without_controls(note)[:LONGEST_NOTE]}
        with _said("The name and the note could not be saved"):
            path = self._path(run_id, ".label.json")
            write_whole(path, lambda part: part.write_text(json.dumps(content), encoding="utf-8"))

    def delete(self, run_id: str) -> None:
        """Remove all files of a run, its scores first, so that no half of it is left to be listed.

        Raises:
            RunFileError: When they cannot be removed.
        """
        with _said("The run could not be deleted"):
            self._path(run_id).unlink(missing_ok=True)
            for suffix in _BESIDE:
                self._path(run_id, suffix).unlink(missing_ok=True)

    def take_in(self, content: bytes, file_name: str, largest: int = LARGEST_FILE) -> Run:
        """Check and keep a run that was made elsewhere, of at most `largest` bytes. Where its id is taken, it gets
        another.

        Raises:
            RunFileError: When the file is too large, is not a run, or cannot be kept.
        """
        if len(content) > largest:
            raise RunFileError(f"The file has {size(len(content))}; runs of up to {size(largest)} are taken.")
        with tempfile.TemporaryDirectory() as scratch, _said("The file could not be looked at"):
            name = re.sub(r"[^\w. -]", "_", Path(file_name).name)[-80:].strip(" .") or "The file"
            path = Path(scratch) / name
            path.write_bytes(content)
            run = Run.load(path, self.most_scores)
        if run.id in self:
            run.id = uuid.uuid4().hex
        self.save(run)
        return run

    def _count(self) -> int:
        with suppress(OSError):  # none yet, or saving will say what is wrong
            return sum(_is_ours(file) for file in os.scandir(self.folder))
        return 0

    # --- files -------------------------------------------------------------------------------------------------

    def _path(self, run_id: str, suffix: str = _SUFFIX) -> Path:
        """Raises RunFileError for what is no id: it could be any path."""
        if not RUN_ID.fullmatch(run_id):
            raise RunFileError("That is no id of a run: ids are 32 digits and letters from a to f.")
        return self.folder / f"{run_id}{suffix}"

    def _label(self, run_id: str) -> tuple[str, str]:
        path = self._path(run_id, ".label.json")
        try:
            return _read_label(str(path), *_identity(path.stat()))
        except OSError:
            return "", ""

    def _tidy(self) -> None:
        """Remove what a killed server left: half-written files, and files of runs that were being deleted."""
        with suppress(OSError):
            for file in os.scandir(self.folder):
                run_id, _, kind = file.name.partition(".")
                half = file.name.startswith(".") and kind.endswith(".part")
                alone = f".{kind}" in _BESIDE and RUN_ID.fullmatch(run_id) and run_id not in self
                if (half or alone) and time.time() - file.stat().st_mtime > _LEFT_OVER:
                    Path(file.path).unlink(missing_ok=True)


def _is_ours(file: os.DirEntry[str]) -> bool:
    if file.name.startswith(".") or not file.name.endswith(_SUFFIX):
        return False
    try:
        return file.is_file()
    except OSError:
        return False


def _identity(facts: os.stat_result) -> tuple[int, int, int]:
    """What is another as soon as the file is: it is read once for each."""
    return facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size


@lru_cache(maxsize=20_000)
def _read(path: str, most_scores: int, mtime: int, _ctime: int, _size: int) -> RunEntry | str:
    """The entry of a file with these facts, under the name it has of its own; or a sentence that says what is wrong.

    Raises:
        OSError: When the file cannot be read now.
    """
    try:
        with opened(Path(path), most_scores) as (_, header, graph):
            config, provenance = header["config"], header["provenance"]
            prompts = _short(config["prompts"]["name"])
            model = _short(provenance.get("model", config["model"]))
            return RunEntry(
                id=Path(path).name.removesuffix(_SUFFIX),
                name=f"{prompts} on {model}",
                note="",
                model=model,
                prompts=prompts,
                n_pairs=_counted_pairs(config["prompts"]["prompts"]),
                method=Method.from_dict(config["method"]).describe(),
                n_edges=graph.n_edges,
                date=_date(provenance.get("date"), mtime),
            )
    except RunFileError as error:
        if isinstance(error.__cause__, OSError):  # the disk's trouble, not the file's: tried again at the next look
            raise error.__cause__ from None
        return str(error)


@lru_cache(maxsize=20_000)
def _read_label(path: str, _mtime: int, _ctime: int, _size: int) -> tuple[str, str]:
    """Name and note; empty where there is none that can be read."""
    with suppress(ValueError):
        content = read_json(Path(path), _LARGEST_LABEL)
        name, note = (text if is_text(text) else "" for text in (content.get("name"), content.get("note")))
        return one_line(name)[:LONGEST_NAME], _without_controls(note)[:LONGEST_NOTE]
    return "", ""


def _without_controls(note: str) -> str:
    """A note of several lines."""
    return "\n".join(map(one_line, note.strip().split("\n")))


def _counted_pairs(pairs: Any) -> int:
    """How many there are: not more than a page can hold, or the run could not be opened."""
    if not isinstance(pairs, list):
        raise ValueError("its prompts are not a list")
    check_rows(len(pairs))
    return len(pairs)


def _short(text: Any) -> str:
    if not is_text(text):
        raise ValueError(f"{repr(text)[:60]} is not a text")
    return one_line(text, LONGEST_NAME)


def _date(text: Any, mtime: int) -> datetime:
    """When the run was made, by its own word, or else by that of the file system."""
    with suppress(TypeError, ValueError, OverflowError):
        return datetime.fromisoformat(text).astimezone(UTC)
    return datetime.fromtimestamp(mtime / 1e9, UTC)


@contextmanager
def _said(what: str) -> Iterator[None]:
    """An OSError as a sentence that begins like this."""
    try:
        yield
    except OSError as error:
        raise RunFileError(f"{what}: {error.strerror or error}.") from error
