"""Drafts are found by their id alone, and go with time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.runs import drafts
from circuit.runs.drafts import KEPT, Draft, load_draft, save_draft

DRAFT = Draft("smollm2-135m", PromptSet("mine", (PromptPair(" a", "b\n", (" c", "|"), ()),), ("x",)), "No", 2)
ID, OTHER = "0" * 32, "1" * 32


def test_a_draft_is_found_as_it_was_left(tmp_path: Path) -> None:
    save_draft(tmp_path / "drafts", ID, DRAFT)
    assert load_draft(tmp_path / "drafts", ID) == DRAFT
    assert load_draft(tmp_path / "drafts", OTHER) is None


@pytest.mark.parametrize("draft_id", ["", "../secret", "0" * 31, "0" * 33, "0" * 31 + "\n", "G" * 32])
def test_what_is_no_id_finds_nothing(tmp_path: Path, draft_id: str) -> None:
    (tmp_path / "secret.json").write_text("{}")
    assert load_draft(tmp_path, draft_id) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": "a", "prompts": 7, "bos": "No"}', "[" * 100_000])
def test_a_damaged_draft_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / f"{ID}.json").write_text(content)
    assert load_draft(tmp_path, ID) is None


def test_old_drafts_go_and_only_so_many_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_draft(tmp_path, ID, DRAFT)
    long_ago = time.time() - KEPT - 10
    os.utime(tmp_path / f"{ID}.json", (long_ago, long_ago))
    save_draft(tmp_path, OTHER, DRAFT)
    assert [path.stem for path in tmp_path.iterdir()] == [OTHER]
    os.utime(tmp_path / f"{OTHER}.json", (time.time() - 2000,) * 2)
    monkeypatch.setattr(drafts, "MOST_KEPT", 3)
    for number in range(2, 8):
        save_draft(tmp_path, f"{number:032}", DRAFT)
        os.utime(tmp_path / f"{number:032}.json", (time.time() - 1000 + number,) * 2)
    assert sorted(path.stem[-1] for path in tmp_path.iterdir()) == ["5", "6", "7"]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    save_draft(tmp_path / "file", ID, DRAFT)
    assert load_draft(tmp_path / "file", ID) is None
