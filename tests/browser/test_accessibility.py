"""Every page under axe-core, light and dark: nothing serious or critical may be found; and the keyboard reaches it all.

`EXEMPT` names what Streamlit itself draws so, and what no page of ours can mend, each with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from circuit.runs.examples import EXAMPLES
from circuit.runs.run import Run
from tests.browser.pages import READY, settle

pytestmark = pytest.mark.browser

EXEMPT: dict[tuple[str, str], str] = {}
"""By rule and a part of the element's HTML: why it is let through."""


@pytest.fixture(scope="module")
def run(folders: None) -> Run:
    """The first example's scores, in the runs folder of the server."""
    from circuit.jobs.attribute import attribute

    run = attribute(EXAMPLES["teaching-ioi"].config)
    run.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{run.id}.safetensors")
    return run


@pytest.fixture(scope="module", params=["light", "dark"])
def theme(request: pytest.FixtureRequest, app: str, chromium: Browser) -> Iterator[BrowserContext]:
    """A browser that knows the app's scripts from the tests before."""
    context = chromium.new_context(viewport={"width": 1366, "height": 1000}, color_scheme=request.param)
    yield context
    context.close()


@pytest.fixture
def themed(theme: BrowserContext) -> Iterator[Page]:
    page = theme.new_page()
    page.set_default_timeout(READY)
    yield page
    page.close()


def findings(page: Page) -> list[str]:
    """What axe finds serious or critical, without what is exempt: rule, element and what it says, for reading."""
    page.wait_for_timeout(700)  # Streamlit fades elements in, and half-faded text has little contrast
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{each['id']} ({each['impact']}): {node['html'][:300]} | {node['failureSummary'][:400]}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
        if not any(rule == each["id"] and part in node["html"] for rule, part in EXEMPT)
    ]


def open_at(page: Page, address: str) -> None:
    page.goto(address)
    settle(page)


def test_the_landing_page(themed: Page, app: str) -> None:
    open_at(themed, app)
    expect(themed.get_by_role("img", name="Left, the teaching model")).to_be_visible(timeout=READY)
    assert findings(themed) == []


@pytest.mark.parametrize("source", ["Preset", "Template", "Paste", "File"])
def test_the_prompts_page(themed: Page, app: str, source: str) -> None:
    open_at(themed, f"{app}/Prompts")
    themed.get_by_role("radio", name=source).click()
    settle(themed)
    expect(themed.get_by_text("pairs will be used").first).to_be_visible(timeout=READY)
    assert findings(themed) == []


def test_checked_prompts(themed: Page, app: str) -> None:
    open_at(themed, f"{app}/Prompts?tour=1")
    expect(themed.get_by_text("pairs will be used").first).to_be_visible(timeout=READY)
    themed.get_by_role("button", name="Check prompts").click()
    expect(themed.get_by_text("Right above wrong").first).to_be_visible(timeout=READY)
    settle(themed)
    assert findings(themed) == []


@pytest.mark.parametrize("kind", ["Edge attribution patching", "Integrated gradients"])
def test_the_attribution_page(themed: Page, app: str, run: Run, kind: str) -> None:
    open_at(themed, f"{app}/Attribute?run={run.id}")
    themed.get_by_role("combobox", name="Method").first.click()
    themed.get_by_role("option", name=kind, exact=True).click()
    settle(themed)
    expect(themed.get_by_text("Last run")).to_be_visible(timeout=READY)
    assert findings(themed) == []


@pytest.mark.parametrize("view", ["", "&view=Nodes", "&view=Every+edge", "&view=Fall-off", "&view=Score+and+effect"])
def test_the_scores_page(themed: Page, app: str, run: Run, view: str) -> None:
    open_at(themed, f"{app}/Scores?run={run.id}{view}&edge={run.order[0]}")
    if "effect" not in view:
        expect(themed.locator(".js-plotly-plot").first).to_be_visible(timeout=READY)
    themed.get_by_role("button", name="Filter").click()
    expect(themed.get_by_text("Smallest |score|").first).to_be_visible(timeout=READY)
    assert findings(themed) == []


def test_the_circuit_page(themed: Page, app: str, run: Run) -> None:
    open_at(themed, f"{app}/Circuit?run={run.id}&edges=15&look=node:A0.0&tour=6&stable=Certified")
    expect(themed.get_by_test_id("stMetricValue").first).to_be_visible(timeout=READY)
    expect(themed.get_by_text("Certified edge")).to_be_visible(timeout=READY)
    themed.get_by_role("button", name="Measure all sizes").click()
    expect(themed.get_by_text("CPR", exact=True)).to_be_visible(timeout=READY)
    settle(themed)
    assert findings(themed) == []


@pytest.mark.parametrize("address", ["Scores", "Circuit", "Glossary", "Glossary?term=faithfulness"])
def test_empty_pages_and_the_glossary(themed: Page, app: str, address: str) -> None:
    open_at(themed, f"{app}/{address}")
    expect(themed.get_by_role("heading", level=2).first).to_be_visible(timeout=READY)
    assert findings(themed) == []


@pytest.mark.parametrize("number", range(1, 7))
def test_the_lessons(themed: Page, app: str, number: int) -> None:
    open_at(themed, f"{app}/Learn?lesson={number}")
    if number == 6:
        themed.get_by_role("button", name="See without a bet").click()
    drawn = themed.locator(".js-plotly-plot" if number in (3, 5) else "svg .world .edge").first
    drawn.wait_for(timeout=READY)
    settle(themed)
    assert findings(themed) == []


@pytest.mark.parametrize("address", ["Runs", "Compare", "Compare?runs={run}", "Sweep", "Attribute?run={run}"])
def test_runs_and_what_is_made_of_several(themed: Page, app: str, run: Run, address: str) -> None:
    open_at(themed, f"{app}/{address.format(run=run.id)}")
    expect(themed.get_by_role("heading", level=2).first).to_be_visible(timeout=READY)
    assert findings(themed) == []


def test_the_keyboard_leads_from_the_landing_page_to_what_a_head_does(tab: Page) -> None:
    for _ in range(40):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.closest('.st-key-example-teaching-ioi button') !== null"):
            break
    tab.keyboard.press("Enter")
    head = tab.locator('[data-item="node:A0.0"]')
    expect(head).to_be_visible(timeout=READY)
    expect(tab.get_by_test_id("stMetricValue").first).to_be_visible(timeout=READY)
    settle(tab)
    zoom = tab.get_by_role("button", name="Zoom in")
    zoom.focus()
    for _ in range(40):  # backwards into the picture
        tab.keyboard.press("Shift+Tab")
        inside = "node => node.getRootNode().activeElement === node"
        if head.evaluate(inside):
            break
    assert head.evaluate("node => getComputedStyle(node.querySelector('path')).strokeWidth") == "3px"  # it shows
    tab.keyboard.press("Enter")
    expect(tab.get_by_text("A0.0 · head 0 of layer 0")).to_be_visible(timeout=READY)
