"""No sentence names a folder of the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from circuit.common.paths import without_folders


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("no file '/usr/lib/python3/x.py' there", "no file 'x.py' there"),
        ("not in /etc/ssl/certs.", "not in certs."),
        ("/var/lib/edgescope/runs: no space left", "runs: no space left"),
        ("see https://example.org/usr/lib, or and/or 3/4/5", "see https://example.org/usr/lib, or and/or 3/4/5"),
        ("the word '/not-here/at/all'", "the word '/not-here/at/all'"),
        ("owner/name, ./usr/lib, ~/usr/lib", "owner/name, ./usr/lib, ~/usr/lib"),
        ("/usr or / alone", "/usr or / alone"),
    ],
)
def test_paths_are_cut_down_to_their_last_name(said: str, shown: str) -> None:
    assert without_folders(said) == shown


def test_a_folder_of_the_servers_may_have_spaces_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESCOPE_MODELS", str(tmp_path / "our models"))
    (tmp_path / "our models").mkdir()
    said = f"cannot read {tmp_path}/our models/small/config.json: is not there"
    assert without_folders(said) == "cannot read config.json: is not there"
