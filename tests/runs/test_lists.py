"""A session's list of runs is found by its id alone, and damage costs a list, never an error."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from circuit.runs import lists
from circuit.runs.lists import added, change_list, read_list, removed

SESSION, OTHER = "0" * 32, "1" * 32
FIRST, SECOND = "a" * 32, "b" * 32


def test_runs_are_added_once_and_taken_out(tmp_path: Path) -> None:
    for run_id in (FIRST, SECOND, FIRST):
        change_list(tmp_path, SESSION, added(run_id))
    assert read_list(tmp_path, SESSION) == [FIRST, SECOND]
    assert read_list(tmp_path, OTHER) == []
    change_list(tmp_path, SESSION, removed(FIRST))
    assert read_list(tmp_path, SESSION) == [SECOND]


@pytest.mark.parametrize(
    "content", ["", "{}", "7", '[7, "../x"]', "[" * 100_000, f'["{FIRST}", [[]]', " " * 10**6 + "[]"]
)
def test_a_damaged_list_is_empty_and_begins_again(tmp_path: Path, content: str) -> None:
    change_list(tmp_path, SESSION, added(FIRST))
    (tmp_path / "sessions" / f"{SESSION}.json").write_text(content)
    assert read_list(tmp_path, SESSION) == []
    change_list(tmp_path, SESSION, added(SECOND))
    assert read_list(tmp_path, SESSION) == [SECOND]


def test_a_list_holds_the_runs_added_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MOST_RUNS", 3)
    for number in range(5):
        change_list(tmp_path, SESSION, added(f"{number:032}"))
    assert [run_id[-1] for run_id in read_list(tmp_path, SESSION)] == ["2", "3", "4"]


@pytest.mark.parametrize("session_id", ["", "../x", "0" * 31, "0" * 32 + "\n"])
def test_what_is_no_id_has_no_list(tmp_path: Path, session_id: str) -> None:
    change_list(tmp_path, session_id, added(FIRST))
    assert read_list(tmp_path, session_id) == []
    assert list(tmp_path.iterdir()) == []


def test_lists_are_their_owners_alone_and_a_full_disk_is_no_error(tmp_path: Path) -> None:
    change_list(tmp_path / "runs", SESSION, added(FIRST))
    for path in (tmp_path / "runs").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    (tmp_path / "file").touch()
    change_list(tmp_path / "file", SESSION, added(FIRST))
