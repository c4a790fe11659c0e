"""The app as its users start it, and a real Chromium to look at it with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.streamlit_server import serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from circuit.engine.model import PatchableModel


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser test is run once more if it fails: beside a model on two busy cores, a click can fall into the moment
    in which the page draws itself again. What is wrong fails twice."""
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, or Playwright's own. Without one the tests are skipped, but in CI they fail.

    Not for the whole session: its event loop would be in the way of tests elsewhere.
    """
    from playwright.sync_api import Error, expect, sync_playwright

    expect.set_options(timeout=100_000)  # two cores may be busy with a model
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error as error:
            why = f"There is no Chromium to test with: {error.message.splitlines()[0]}"
            if os.environ.get("CI"):
                pytest.fail(why)
            pytest.skip(why)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def app(folders: None, smollm2: PatchableModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app's address, for all tests of this folder. The model that it offers first is fetched before: the first
    time, that takes longer than a browser waits."""
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server.address


@pytest.fixture
def tab(app: str, chromium: Browser) -> Iterator[Page]:
    """A fresh visitor on the landing page. At the end, no page may have shown an exception or thrown an error."""
    from tests.browser.pages import READY, no_exception, settle

    context = chromium.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(READY)
    thrown: list[str] = []
    page.on("pageerror", lambda error: thrown.append(str(error)))
    page.goto(app)
    settle(page)
    yield page
    no_exception(page)
    assert thrown == []
    context.close()
