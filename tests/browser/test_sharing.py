"""A view is shared with somebody else's browser, runs are kept and compared, all by hand in a real Chromium."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

from circuit.edges.method import AblationType, Method
from circuit.edges.ranking import top_edges
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.library import RunLibrary
from circuit.runs.run import Run
from tests.browser.pages import READY, go, open_popover, settle

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def runs(folders: None) -> list[Run]:
    """Two runs of the teaching model, in the runs directory of the server."""
    from circuit.jobs.attribute import attribute

    prompts = PRESETS["teaching-ioi"].prompts
    prompts = replace(prompts, pairs=prompts.pairs[:8])
    library = RunLibrary(Path(os.environ["EDGESCOPE_RUNS"]))
    made = []
    for method in (Method(), Method(ablation_type=AblationType.ZERO, clean_corrupt=None)):
        run = attribute(RunConfig("teaching", prompts, method, device="cpu"))
        library.save(run)
        made.append(run)
    return made


@pytest.fixture
def elsewhere(chromium: Browser) -> Iterator[Page]:
    """Another visitor, with a browser of their own."""
    context = chromium.new_context(viewport={"width": 1366, "height": 768})
    page = context.new_page()
    page.set_default_timeout(READY)
    yield page
    context.close()


def visit(tab: Page, address: str) -> None:
    tab.goto(address)
    settle(tab)


def shared(tab: Page) -> list[str]:
    """The links that the Share button shows."""
    codes = tab.get_by_test_id("stCode")
    open_popover(tab, "Share", codes.first)
    links = ["".join(text.split()) for text in codes.all_inner_texts()]
    tab.keyboard.press("Escape")
    return links


def test_a_link_opens_the_same_view_filter_and_edge_in_another_browser(
    tab: Page, elsewhere: Page, app: str, runs: list[Run]
) -> None:
    run = runs[0]
    edge = int(top_edges(run.scores, 1)[0])
    visit(tab, f"{app}/Scores?run={run.id}&edge={edge}")
    tab.get_by_text("Fall-off", exact=True).click()
    settle(tab)
    positive = tab.get_by_text("Positive", exact=True)
    open_popover(tab, "Filter", positive)
    positive.click()
    settle(tab)
    tab.keyboard.press("Escape")
    caption = tab.get_by_text(re.compile("^Showing"))
    expect(caption).to_be_visible()
    view, _ = shared(tab)
    assert "draft=" not in view
    visit(elsewhere, view)
    expect(elsewhere.get_by_text(re.compile("^Showing"))).to_have_text(caption.inner_text())
    expect(elsewhere.get_by_role("radio", name="Fall-off")).to_be_checked()
    expect(elsewhere.get_by_text(re.compile(r"number 1 of 262"))).to_be_visible()
    expect(elsewhere.get_by_test_id("stSidebar").get_by_text("Run shown")).to_be_visible()


def test_a_link_opens_the_same_circuit_and_its_questions_in_another_browser(
    tab: Page, elsewhere: Page, app: str, runs: list[Run]
) -> None:
    visit(tab, f"{app}/Circuit?run={runs[0].id}&edges=40")
    tab.get_by_text("Is it needed?", exact=True).click()
    settle(tab)
    tab.get_by_text("Random edges too").click()
    settle(tab)
    view, _ = shared(tab)
    visit(elsewhere, view)
    expect(elsewhere.get_by_role("spinbutton", name="exactly")).to_have_value("40")
    expect(elsewhere.get_by_role("radio", name="Is it needed?")).to_be_checked()
    expect(elsewhere.get_by_role("switch", name="Random edges too")).not_to_be_checked()


def test_a_link_of_settings_fills_the_form_in_another_browser_and_runs(
    tab: Page, elsewhere: Page, app: str, runs: list[Run]
) -> None:
    visit(tab, f"{app}/Circuit?run={runs[1].id}")
    _, settings = shared(tab)
    assert settings.startswith(f"{app}/Attribute?settings=")
    visit(elsewhere, settings)
    expect(elsewhere.get_by_text(re.compile("^Taken from the link: 8 prompt pairs"))).to_be_visible()
    assert "settings=" not in elsewhere.url
    elsewhere.get_by_role("button", name="Run attribution").click()
    expect(elsewhere.get_by_text("Edges scored")).to_be_visible(timeout=READY)
    found = re.search("run=([0-9a-f]{32})", elsewhere.url)
    assert found is not None
    run = RunLibrary(Path(os.environ["EDGESCOPE_RUNS"])).load(found[1])
    assert run.config == runs[1].config


def test_runs_are_compared_and_the_comparison_is_shared(tab: Page, elsewhere: Page, app: str, runs: list[Run]) -> None:
    go(tab, "5 · Runs")
    expect(tab.get_by_test_id("stDataFrame")).to_be_visible()
    visit(tab, f"{app}/Compare?runs={runs[0].id},{runs[1].id}&n=21")
    expect(tab.get_by_text("They differ in ablation, activations taken from.")).to_be_visible()
    tab.get_by_role("button", name="Measure 2 curves").click()
    expect(tab.locator(".js-plotly-plot")).to_have_count(3, timeout=READY)
    expect(tab.get_by_text("Not measured yet")).to_have_count(0, timeout=READY)
    settle(tab)
    (view,) = shared(tab)
    visit(elsewhere, view)
    expect(elsewhere.locator(".js-plotly-plot")).to_have_count(3)
    expect(elsewhere.get_by_text("of the 21 strongest edges are in A and not in B")).to_be_visible()


def test_a_run_is_downloaded_deleted_and_taken_in_again(tab: Page, app: str, runs: list[Run], tmp_path: Path) -> None:
    library = RunLibrary(Path(os.environ["EDGESCOPE_RUNS"]))
    run = replace(runs[0], id="c" * 32)
    run.provenance = run.provenance | {"date": "2999-01-01T00:00:00+00:00"}  # the first of the list
    library.save(run)
    go(tab, "5 · Runs")
    table = tab.get_by_test_id("stDataFrame")
    box = table.bounding_box()
    assert box is not None
    tab.mouse.click(box["x"] + 16, box["y"] + 52)
    with tab.expect_download() as started:
        tab.get_by_test_id("stDownloadButton").get_by_role("button").click()
    started.value.save_as(tmp_path / "run.safetensors")
    assert Run.load(tmp_path / "run.safetensors").id == run.id
    tab.get_by_role("button", name="Delete").click()
    tab.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(tab.get_by_role("dialog")).to_have_count(0)
    settle(tab)
    assert run.id not in library
    tab.get_by_text("Take in a run that was made elsewhere").click()
    tab.locator("input[type=file]").set_input_files(tmp_path / "run.safetensors")
    expect(tab.get_by_text(re.compile("was taken in, and is shown now"))).to_be_visible()
    assert run.id in library
    expect(tab.get_by_test_id("stSidebar").get_by_text("Run shown")).to_be_visible()
    library.delete(run.id)
