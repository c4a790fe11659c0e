"""Numbers are said in one way everywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from circuit.common.words import counted, seconds, size

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "app.py", *(ROOT / "pages").glob("*.py"), *(ROOT / "circuit").rglob("*.py")]
BY_HAND = re.compile(r"""\{'(e?s)?' if [^}]* else '(e?s)?'\}""")


def test_one_is_singular_and_other_numbers_are_plural() -> None:
    assert [counted(n, "pair") for n in (0, 1, 2, 1200)] == ["0 pairs", "1 pair", "2 pairs", "1,200 pairs"]
    assert [counted(n, "pass", "passes") for n in (1, 2)] == ["1 pass", "2 passes"]


def test_time_spans_have_the_unit_that_people_use() -> None:
    assert [seconds(n) for n in (0.2, 12, 200, 7200)] == ["a second", "12 s", "3 min", "2.0 h"]


def test_sizes_have_the_unit_that_people_use() -> None:
    assert [size(n) for n in (30e3, 3e6, 8e7, 9e8)] == ["30 kB", "3 MB", "80 MB", "0.9 GB"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_plural_is_made_by_hand(path: Path) -> None:
    if path.name != "words.py":
        assert not BY_HAND.findall(path.read_text("utf-8"))
