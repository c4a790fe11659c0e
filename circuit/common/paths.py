"""Paths in sentences: whoever runs the server may read them in its log, visitors see the last name only.

without_folders("no file /srv/models/small/config.json")     # "no file config.json"
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from circuit.common.settings import PROJECT, settings

_NAME = r"[^\s/'\",;:()<>|]+"


def without_folders(text: str) -> str:
    """Text whose paths on this machine are cut down to their last name. What only looks like one stays as it is."""
    own = "|".join(re.escape(str(folder)) for folder in sorted(_own_folders(), key=lambda each: -len(str(each))))
    path = re.compile(rf"(?<![\w.:/~])(?P<root>{own}|/{_NAME})(?P<rest>(?:/{_NAME})*)/?(?![^\s'\",;:()<>|])")

    def last_name(found: re.Match[str]) -> str:
        whole = Path(found["root"] + found["rest"])
        return whole.name if found["rest"] and Path(found["root"]).is_dir() else found[0]

    return path.sub(last_name, text)


def _own_folders() -> list[Path]:
    """Folders of the server's, whose names may hold what ends a path in a sentence."""
    now = settings()
    folders = (now.models, now.runs, now.cache, PROJECT, Path(tempfile.gettempdir()), Path.home())
    return [folder for folder in folders if folder is not None and folder != Path(folder.anchor)]
