"""A directory of runs: what is in it is listed, what is wrong with it is said, and nothing in it breaks the list."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from circuit.common.errors import RunFileError
from circuit.common.files import write_whole
from circuit.runs import library as run_library
from circuit.runs import run as runs
from circuit.runs.faithfulness import Curve, Measured
from circuit.runs.library import RunLibrary
from circuit.runs.run import Run
from tests.runs_made import header_of, make_run


@pytest.fixture
def library(tmp_path: Path) -> RunLibrary:
    return RunLibrary(tmp_path / "runs")


def kept(library: RunLibrary, **provenance: Any) -> Run:
    run = make_run()
    run.provenance |= provenance
    library.save(run)
    return run


def file_of(library: RunLibrary, run: Run) -> Path:
    return library.folder / f"{run.id}.safetensors"


def names(library: RunLibrary) -> list[str]:
    return [entry.name for entry in library.listing().entries]


# --- listing -------------------------------------------------------------------------------------------------------


def test_a_directory_that_is_not_there_yet_is_an_empty_list(library: RunLibrary) -> None:
    assert library.listing() == run_library.Listing()


def test_a_list_says_what_each_run_is_the_newest_first(library: RunLibrary) -> None:
    old = kept(library, date="2025-03-01T10:00:00+00:00")
    new = kept(library, date="2025-03-02T10:00:00+02:00")
    first, second = library.listing().entries
    assert [first.id, second.id] == [new.id, old.id]
    assert first.date == datetime(2025, 3, 2, 8, tzinfo=UTC)
    assert (first.name, first.model, first.prompts, first.n_pairs) == ("naïve · 数 on Small", "Small", "naïve · 数", 3)
    assert first.n_edges == new.graph.n_edges
    assert first.method == new.config.method.describe()
    assert library.entry(new.id) == first


def test_a_run_is_loaded_under_the_name_of_its_file(library: RunLibrary) -> None:
    run = kept(library)
    os.link(file_of(library, run), library.folder / f"{'a' * 32}.safetensors")
    again = library.load("a" * 32)
    assert again.id == "a" * 32  # so that what is measured of it does not end up beside the other
    np.testing.assert_array_equal(again.scores, run.scores)


def test_headers_are_read_once_and_again_when_a_file_changes(
    library: RunLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [kept(library) for _ in range(3)]
    read: list[Path] = []
    opened = run_library.opened

    def counted(path: Path, most_scores: int) -> Any:
        read.append(path)
        return opened(path, most_scores)

    monkeypatch.setattr(run_library, "opened", counted)
    library.listing()
    assert sorted(read) == sorted(file_of(library, run) for run in runs)
    library.listing()
    assert len(read) == 3
    changed = make_run()
    changed.provenance["model"] = "Other"
    changed.save(file_of(library, runs[0]))
    assert "naïve · 数 on Other" in names(library)
    assert len(read) == 4


def test_scores_are_not_read_for_a_list(library: RunLibrary) -> None:
    run = kept(library)
    path = file_of(library, run)
    whole = bytearray(path.read_bytes())
    whole[-4:] = struct.pack("<f", float("nan"))
    path.write_bytes(whole)
    assert len(library.listing().entries) == 1
    with pytest.raises(RunFileError, match="1 of its 82 scores are not finite"):
        library.load(run.id)


def test_an_id_that_could_be_a_path_is_refused(library: RunLibrary) -> None:
    for name in ("../x", "a/b", "", "A" * 32, "a" * 31, "a" * 32 + "\n", "\0" * 32):
        for call in (library.load, library.delete, library.entry, library.curves):
            with pytest.raises(RunFileError, match="no id of a run"):
                call(name)


# --- names and notes -----------------------------------------------------------------------------------------------


def test_a_name_and_a_note_are_kept_beside_the_run_which_stays_as_it_is(library: RunLibrary) -> None:
    run = kept(library)
    before = file_of(library, run).read_bytes()
    library.label(run.id, "  ../../my \n name/é  ", " a note\nof two lines ")
    (entry,) = library.listing().entries
    assert (entry.name, entry.note) == ("../../my name/é", "a note\nof two lines")
    library.label(run.id, "", "")
    (entry,) = library.listing().entries
    assert (entry.name, entry.note) == ("naïve · 数 on Small", "")
    assert file_of(library, run).read_bytes() == before
    assert {path.suffix for path in library.folder.iterdir()} == {".safetensors", ".json"}


@pytest.mark.parametrize("content", ["", "[]", '{"name": 3, "note": null}', "[" * 100_000, '{"name": "\\ud800"}'])
def test_a_damaged_label_costs_its_words_only(library: RunLibrary, content: str) -> None:
    run = kept(library)
    (library.folder / f"{run.id}.label.json").write_text(content)
    assert names(library) == ["naïve · 数 on Small"]


def test_a_deleted_run_leaves_nothing_and_cannot_be_named(library: RunLibrary) -> None:
    run, other = kept(library), kept(library)
    library.label(run.id, "mine", "")
    (library.folder / f"{run.id}.curves.json").write_text("{}")
    library.delete(run.id)
    library.delete(run.id)  # somebody else was faster
    assert [path.name for path in library.folder.iterdir()] == [f"{other.id}.safetensors"]
    with pytest.raises(RunFileError, match="gone"):
        library.label(run.id, "late", "")
    with pytest.raises(RunFileError, match="There is no run"):
        library.load(run.id)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"a": ' * 100_000,
        '{"a": {}}',
        '{"a": 3}',
        '{"a": {"points": [], "whole": 1, "ablated": 2}}',
    ],
)
def test_damaged_measurements_are_none(library: RunLibrary, content: str) -> None:
    run = kept(library)
    (library.folder / f"{run.id}.curves.json").write_text(content)
    assert library.curves(run.id) == {}
    assert library.add_curves(run.id, {}) == {}


def test_what_was_measured_is_kept_beside_what_others_have_measured(library: RunLibrary) -> None:
    run = kept(library)
    library.add_curves(run.id, {"a": curve(5)})
    both = library.add_curves(run.id, {"a": curve(9), "b": curve(1)})
    assert {key: each.sizes for key, each in both.items()} == {"a": [5, 9], "b": [1]}
    assert {key: each.sizes for key, each in library.curves(run.id).items()} == {"a": [5, 9], "b": [1]}
    library.delete(run.id)
    library.add_curves(run.id, both)
    assert list(library.folder.iterdir()) == []


def curve(size: int) -> Curve:
    def measured(n_edges: int) -> Measured:
        return Measured(n_edges, *(np.array([1.0, 2.0], np.float32) for _ in range(4)))

    return Curve((measured(size),), measured(82), measured(0))


def test_runs_are_their_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        library = RunLibrary(tmp_path / "new" / "runs")
        run = kept(library)
        library.label(run.id, "mine", "")
        library.add_curves(run.id, {"a": curve(5)})
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*")}
        assert set(modes.values()) == {0o700, 0o600}, modes
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
        library.folder.chmod(0o777)
        kept(library)
        assert stat.S_IMODE(library.folder.stat().st_mode) == 0o700
    finally:
        os.umask(before)


def test_a_run_too_large_to_be_shown_is_said_in_the_list_and_refused_as_a_file(library: RunLibrary) -> None:
    run = kept(library)
    limited = RunLibrary(library.folder, most_scores=81)
    (said,) = limited.listing().damaged.values()
    assert "has 82 scores, and runs of up to 81 are opened here" in said
    with pytest.raises(RunFileError, match="up to 81"):
        limited.load(run.id)
    with pytest.raises(RunFileError, match="up to 81"):
        limited.take_in(file_of(library, run).read_bytes(), "colleague.safetensors")


def test_control_characters_in_names_and_notes_are_cleaned(library: RunLibrary) -> None:
    run = kept(library)
    library.label(run.id, "a\x00\x1b[1mb\u202ec", "one\x07\ntwo\u2028x")
    (entry,) = library.listing().entries
    assert (entry.name, entry.note) == ("a [1mb c", "one\ntwo x")


# --- files that are no runs ----------------------------------------------------------------------------------------


def check_damaged(library: RunLibrary, content: bytes) -> str:
    """The list names the damaged file and shows the good one; returns what it says."""
    good = kept(library)
    (library.folder / f"{'b' * 32}.safetensors").write_bytes(content)
    listing = library.listing()
    assert [entry.id for entry in listing.entries] == [good.id]
    (said,) = listing.damaged.values()
    assert str(library.folder) not in said
    with pytest.raises(RunFileError):
        library.load("b" * 32)
    with pytest.raises(RunFileError):
        library.take_in(content, "../b.safetensors")
    assert len(list(library.folder.iterdir())) == 2
    return said


@pytest.mark.parametrize("twentieth", range(20))
def test_a_file_cut_anywhere_is_named_and_left_out(library: RunLibrary, twentieth: int, tmp_path: Path) -> None:
    make_run().save(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    said = check_damaged(library, whole[: len(whole) * twentieth // 20])
    assert "damaged, or is not a saved run" in said


def with_header(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + body


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x95\x1b\x00\x00\x00",  # a pickle
        b"PK\x03\x04",
        Random(0).randbytes(4096),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 90_000_000) + b"{" + b" " * 1000,
        with_header(b"{}"),
        with_header(b"{" * 50_000),
        with_header(b'{"__metadata__":{"edgescope":"' + b"[" * 200_000 + b'"}}'),
        with_header(b'{"huge":{"dtype":"F32","shape":[1000000,1000000,1000],"data_offsets":[0,4000000000000000]}}'),
        with_header(b'{"huge":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}'),
        with_header(b'{"__metadata__":{"edgescope":"{\\"format\\":\\"edgescope-run-1\\"}"}}'),
        with_header(b'{"__metadata__":{"edgescope":"[]"}}'),
        with_header(b'{"__metadata__":{"edgescope":"' + b"9" * 5000 + b'"}}'),
    ],
    ids=str,
)
def test_what_is_no_run_is_named_and_left_out(library: RunLibrary, content: bytes) -> None:
    check_damaged(library, content)


def changed(tmp_path: Path, header: dict[str, Any], tensors: dict[str, np.ndarray] | None = None) -> bytes:
    """A saved run with other entries in its header, or other tensors."""
    path = tmp_path / "changed"
    make_run().save(path)
    parts = load_file(path) | (tensors or {})
    save_file(parts, path, {"edgescope": json.dumps(header_of(path) | header)})
    return path.read_bytes()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"id": "../../../x"}, "not an id of a run"),
        ({"id": 5}, "not an id of a run"),
        ({"graph": {"n_layers": 10**9, "n_heads": 4, "n_kv_heads": 2}}, "not the shape of a model"),
        ({"graph": {"n_layers": 2, "n_heads": 10**9, "n_kv_heads": 2}}, "have shape"),
        ({"graph": {"n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "seq_len": 10**12}}, "have shape"),
        ({"format": ["x"] * 10_000}, "has format"),
        ({"provenance": {"model": ["not", "text"]}}, "is not a text"),
        ({"provenance": {"model": "\ud800"}}, "surrogates not allowed"),
        ({"config": {"method": {}, "prompts": {"name": "x"}}}, "has no"),
    ],
)
def test_a_header_that_claims_the_impossible_is_named(
    library: RunLibrary, tmp_path: Path, header: dict[str, Any], words: str
) -> None:
    assert words in check_damaged(library, changed(tmp_path, header))


def test_scores_of_another_shape_are_named(library: RunLibrary, tmp_path: Path) -> None:
    content = changed(tmp_path, {}, {"blocks.0.hook_mlp_in": np.zeros(3, np.float32)})
    assert "'blocks.0.hook_mlp_in' have shape [3], not [5]" in check_damaged(library, content)


def test_files_with_other_names_are_named_and_left_out(library: RunLibrary, tmp_path: Path) -> None:
    run = kept(library)
    make_run().save(library.folder / "mine.safetensors")
    (library.folder / "notes.txt").write_text("not ours")
    (library.folder / ".half.part").write_bytes(b"")
    (library.folder / f"{'c' * 32}.safetensors").mkdir()
    os.mkfifo(library.folder / f"{'d' * 32}.safetensors")  # would block whoever reads it
    (library.folder / f"{'e' * 32}.safetensors").symlink_to(tmp_path / "nowhere")
    listing = library.listing()
    assert [entry.id for entry in listing.entries] == [run.id]
    assert list(listing.damaged) == ["mine.safetensors"]


# --- files from elsewhere ------------------------------------------------------------------------------------------


def test_a_file_from_elsewhere_keeps_its_id_and_gets_another_where_that_is_taken(
    library: RunLibrary, tmp_path: Path
) -> None:
    run = make_run()
    run.save(tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    first, second = (library.take_in(content, "x.safetensors") for _ in range(2))
    assert first.id == run.id
    assert second.id != run.id
    for taken in (first, second):
        np.testing.assert_array_equal(library.load(taken.id).scores, run.scores)
    assert len(library.listing().entries) == 2


@pytest.mark.parametrize("name", ["../../evil.safetensors", "a/b\\c\0d", "", "." * 300, "é" * 300, "CON"])
def test_the_name_of_a_file_from_elsewhere_leads_nowhere(library: RunLibrary, tmp_path: Path, name: str) -> None:
    run = make_run()
    run.save(tmp_path / "file")
    library.take_in((tmp_path / "file").read_bytes(), name)
    assert [path.name for path in library.folder.iterdir()] == [f"{run.id}.safetensors"]
    with pytest.raises(RunFileError, match="damaged"):
        library.take_in(b"", name)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_from_elsewhere_must_be_finite(library: RunLibrary, tmp_path: Path, value: float) -> None:
    run = make_run()
    run.scores[7] = value
    run.save(tmp_path / "file")
    with pytest.raises(RunFileError, match="not finite"):
        library.take_in((tmp_path / "file").read_bytes(), "x.safetensors")


def test_a_file_that_is_too_large_is_refused_unread(library: RunLibrary) -> None:
    with pytest.raises(RunFileError, match="up to 20 MB"):
        library.take_in(bytes(run_library.LARGEST_FILE + 1), "x.safetensors")


def test_the_owner_says_how_large_a_file_may_be_and_how_many_runs_are_kept(library: RunLibrary) -> None:
    with pytest.raises(RunFileError, match=r"runs of up to 500 kB are taken"):
        library.take_in(bytes(500_001), "x.safetensors", 500_000)
    limited = RunLibrary(library.folder, most=2)
    first, second = kept(limited), kept(limited)
    third = make_run()
    with pytest.raises(RunFileError, match="this server keeps 2 runs, and has as many"):
        limited.save(third)
    limited.save(first)  # which is there
    limited.delete(second.id)
    limited.save(third)
    assert len(names(limited)) == 2


# --- when the disk does not do its part ----------------------------------------------------------------------------


@contextmanager
def somebody_else() -> Iterator[None]:
    """Without the rights of root, whom no mode stops."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_tmp(tmp_path: Path) -> Path:
    """A folder that anybody may reach."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    return tmp_path


def test_a_read_only_directory_is_a_sentence(open_tmp: Path) -> None:
    library = RunLibrary(open_tmp / "runs")
    run = kept(library)
    file_of(library, run).chmod(0o644)
    library.folder.chmod(0o555)
    try:
        with somebody_else():
            for change, words in (
                (lambda: library.save(make_run()), "could not be saved in the runs directory: Permission denied."),
                (lambda: library.delete(run.id), "could not be deleted: Permission denied."),
                (lambda: library.label(run.id, "x", ""), "could not be saved: Permission denied."),
            ):
                with pytest.raises(RunFileError, match=words):
                    change()
            assert [entry.id for entry in library.listing().entries] == [run.id]
            library.load(run.id)
    finally:
        library.folder.chmod(0o755)


def test_a_directory_that_cannot_be_read_or_made_is_a_sentence(open_tmp: Path) -> None:
    (open_tmp / "closed").mkdir(mode=0o700)
    library = RunLibrary(open_tmp / "closed")
    with somebody_else():
        assert library.listing().problem in (None, "The runs directory cannot be read: Permission denied.")
        if os.getuid() == 0:
            assert library.listing().problem
    (open_tmp / "file").touch()
    for folder in (open_tmp / "file", open_tmp / "file" / "runs"):
        assert RunLibrary(folder).listing().problem == "The runs directory cannot be read: Not a directory."
        with pytest.raises(RunFileError, match="could not be saved"):
            RunLibrary(folder).save(make_run())


def test_a_disk_that_fails_for_a_moment_does_not_make_a_run_damaged(
    library: RunLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = kept(library)
    safe_open = runs.safe_open

    def failing(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(runs, "safe_open", failing)
    listing = library.listing()
    assert not listing.entries
    assert listing.damaged == {file_of(library, run).name: "It cannot be read at the moment: Input/output error."}
    monkeypatch.setattr(runs, "safe_open", safe_open)
    listing = library.listing()
    assert [entry.id for entry in listing.entries] == [run.id]
    assert not listing.damaged


def test_a_file_is_whole_and_its_name_is_settled_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[bool] = []
    fsync = os.fsync

    def seen(number: int) -> None:
        settled.append(stat.S_ISDIR(os.fstat(number).st_mode))
        fsync(number)

    monkeypatch.setattr(os, "fsync", seen)
    write_whole(tmp_path / "file", lambda part: part.write_text("x"))
    assert settled == [False, True]


def test_a_full_disk_is_a_sentence_and_leaves_nothing_behind(library: RunLibrary) -> None:
    """The limit on the size of files is the kernel's, like a full disk."""
    run = kept(library)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(RunFileError, match=r"could not be saved in the runs directory: .*[Tt]oo large"):
            library.save(make_run())
        with pytest.raises(RunFileError, match="could not be saved: File too large"):
            library.label(run.id, "x", "y" * 3000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in library.folder.iterdir()] == [f"{run.id}.safetensors"]


def test_what_a_killed_server_left_is_removed_in_time(library: RunLibrary) -> None:
    run = kept(library)
    left = [library.folder / name for name in (".x1.part", f"{'a' * 32}.label.json", f"{'a' * 32}.curves.json")]
    ours = [library.folder / name for name in (f"{run.id}.curves.json", "notes.json", ".hidden")]
    for path in (*left, *ours):
        path.touch()
    kept(library)
    assert all(path.exists() for path in left)  # somebody may be writing them
    for path in (*left, *ours):
        os.utime(path, (0, 0))
    kept(library)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in ours)


# --- several processes ---------------------------------------------------------------------------------------------

SAVE = """
import sys
from pathlib import Path
from circuit.runs.faithfulness import Curve, Measured
from circuit.runs.library import RunLibrary
from tests.runs_made import make_run
library = RunLibrary(Path(sys.argv[1]))
print("ready", flush=True)
for _ in range(int(sys.argv[2])):
    run = make_run()
    library.save(run)
    print(run.id, flush=True)
    if len(sys.argv) > 3:
        library.label(run.id, "named", "")
        library.delete(run.id)
"""


def saving(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SAVE, str(folder), *arguments],
        cwd=Path(__file__).resolve().parents[2], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("milliseconds", [0, 3, 10, 31, 57, 90])
def test_killing_a_server_at_any_moment_loses_no_run_that_was_saved(library: RunLibrary, milliseconds: int) -> None:
    process = saving(library.folder, "100000")
    time.sleep(milliseconds / 1000)
    process.send_signal(signal.SIGKILL)
    said = process.communicate()[0].split()
    listing = library.listing()
    assert listing.damaged == {}
    assert set(said) <= {entry.id for entry in listing.entries}
    assert len(listing.entries) <= len(said) + 1  # the last may have been written and not been said
    for entry in listing.entries:
        library.load(entry.id)


def test_two_servers_write_and_delete_while_a_third_lists(library: RunLibrary) -> None:
    keeping, churning = saving(library.folder, "60"), saving(library.folder, "60", "delete")
    looked = 0
    while keeping.poll() is None or churning.poll() is None:
        listing = library.listing()
        assert (listing.damaged, listing.problem) == ({}, None)
        looked += 1
    assert looked > 1
    assert keeping.communicate()[0].split()
    listing = library.listing()
    assert len(listing.entries) == 60
    assert not [path for path in library.folder.iterdir() if path.name.startswith(".") or path.suffix == ".json"]


def test_a_thousand_runs_are_listed(library: RunLibrary) -> None:
    run = kept(library)
    content = file_of(library, run).read_bytes()
    for number in range(999):
        (library.folder / f"{number:032x}.safetensors").write_bytes(content)
    assert len(library.listing().entries) == 1000


def test_a_name_is_kept_to_its_length(library: RunLibrary) -> None:
    run = make_run()
    run.config = replace(run.config, prompts=replace(run.config.prompts, name="n" * 10_000))
    library.save(run)
    assert len(names(library)[0]) < 200
    library.label(run.id, "m" * 10_000, "n" * 10_000)
    (entry,) = library.listing().entries
    assert (len(entry.name), len(entry.note)) == (run_library.LONGEST_NAME, run_library.LONGEST_NOTE)


def test_measured_effects_are_kept_beside_the_run_and_go_with_it(tmp_path: Path) -> None:
    library, run = RunLibrary(tmp_path), make_run()
    assert library.keep_effects(run.id, {3: 0.5}) == {3: 0.5}  # not saved: nothing to keep them beside
    assert library.effects(run.id) == {}
    library.save(run)
    library.keep_effects(run.id, {3: 0.5, 7: -1.25})
    assert RunLibrary(tmp_path).keep_effects(run.id, {3: 0.75}) == {3: 0.75, 7: -1.25}
    assert library.effects(run.id) == {3: 0.75, 7: -1.25}
    library.delete(run.id)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', '{"1": NaN}', '{"1": null}', '{"-1": 2.0}'])
def test_a_damaged_file_of_effects_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    library, run = RunLibrary(tmp_path), make_run()
    library.save(run)
    (tmp_path / f"{run.id}.effects.json").write_text(content)
    assert library.effects(run.id) == {}
