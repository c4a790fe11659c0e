"""Which process runs which test: a file stays together, and all browser tests share one app and one Chromium."""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

BROWSER = "tests/browser/"
ORDER = (BROWSER, "tests/pages/", "tests/workers/", "tests/jobs/", "tests/engine/")
"""Folders whose tests take longest, in this order; all others come after them."""


class ByFile(LoadScopeScheduling):
    """Hands out whole files, as `--dist loadfile` does, and the browser's as if they were one."""

    def _split_scope(self, nodeid: str) -> str:
        return BROWSER if nodeid.startswith(BROWSER) else nodeid.split("::")[0]


def slowest_first(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((n for n, folder in enumerate(ORDER) if item.nodeid.startswith(folder)), len(ORDER))

    items.sort(key=place)
