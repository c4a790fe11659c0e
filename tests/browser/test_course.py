"""A course: eight visitors at once on one server, each with prompts of their own."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from circuit.edges.method import DEFAULT_METHOD
from circuit.jobs.attribute import attribute
from circuit.prompts.pairs import PromptSet
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.drafts import Draft, save_draft
from circuit.runs.run import Run
from tests.browser.pages import READY, no_exception, settle
from tests.streamlit_server import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.browser

N = 8
PAIRS = PRESETS["teaching-ioi"].prompts.pairs
SETS = [PromptSet(f"Set of visitor {n}", PAIRS[2 * n : 2 * n + 3]) for n in range(N)]


@pytest.fixture(scope="module")
def app(folders: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own, where visitors see their own runs only, as on a server for many."""
    with serving(tmp_path_factory.mktemp("course"), EDGESCOPE_LIST_RUNS="own") as server:
        yield server.address


@pytest.fixture
def visitors(app: str, chromium: Browser) -> Iterator[list[Page]]:
    """Eight browsers on 2 · Attribute, each at the address of a draft of its own."""
    contexts = [chromium.new_context(viewport={"width": 1366, "height": 768}) for _ in range(N)]
    pages = []
    for number, context in enumerate(contexts):
        draft = f"{number:x}".rjust(32, "c")
        save_draft(Path(os.environ["EDGESCOPE_RUNS"]) / "drafts", draft, Draft("teaching", SETS[number], "No"))
        page = context.new_page()
        page.set_default_timeout(READY)
        page.goto(f"{app}/Attribute?draft={draft}")
        pages.append(page)
    yield pages
    for context in contexts:
        context.close()


def test_eight_visitors_at_once_each_get_their_own_scores(visitors: list[Page]) -> None:
    for page in visitors:
        button = page.get_by_role("button", name="Run attribution")
        expect(button).to_be_enabled(timeout=READY)
        expect(button).to_be_in_viewport(ratio=1)  # on the screen of a laptop, without scrolling
    for page in visitors:
        page.get_by_role("button", name="Run attribution").click()
    for number, page in enumerate(visitors):
        expect(page.get_by_role("heading", name="Last run")).to_be_visible(timeout=READY)
        settle(page)
        no_exception(page)
        assert named(page) == {number}
        found = re.search(r"run=([0-9a-f]{32})", page.url)
        assert found is not None
        run = Run.load(Path(os.environ["EDGESCOPE_RUNS"]) / f"{found[1]}.safetensors")
        assert run.config.prompts == SETS[number]
        direct = attribute(RunConfig("teaching", SETS[number], DEFAULT_METHOD, prepend_bos=False))
        np.testing.assert_allclose(run.scores, direct.scores, rtol=1e-4, atol=1e-6)
    runs = {page.url.split("run=")[1][:32] for page in visitors}
    assert len(runs) == N
    for number, page in enumerate(visitors):
        for link in ("Start", "5 · Runs", "6 · Compare"):
            page.get_by_test_id("stSidebar").get_by_role("link", name=link).click()
            page.wait_for_url({"Start": "**:*/?*", "5 · Runs": "**/Runs*", "6 · Compare": "**/Compare*"}[link])
            settle(page)
            if link == "5 · Runs":
                expect(page.get_by_test_id("stDataFrame")).to_be_visible()
            if link == "6 · Compare":
                page.get_by_role("combobox", name="Runs").click()
                expect(page.get_by_role("listbox")).to_be_visible()
            assert named(page) == {number}, link


def named(page: Page) -> set[int]:
    """Whose prompts stand anywhere on the page, also in the cells of a table and in a list that is open."""
    content = page.content()
    return {number for number in range(N) if f"Set of visitor {number}" in content}
