"""A stranger's first minutes: from the landing page to the circuit of a real language model, in a real browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.pages import READY, go, no_exception, settle

if TYPE_CHECKING:
    from circuit.engine.model import PatchableModel

pytestmark = pytest.mark.browser


def heading(page: Page, words: str) -> Locator:
    return page.get_by_role("heading", name=words)


def start(page: Page, example: str) -> Locator:
    return page.locator(f".st-key-example-{example}").get_by_role("button")


@pytest.mark.parametrize("example", ["teaching-ioi", "teaching-induction"])
def test_one_click_leads_to_a_finished_circuit_of_the_teaching_model(tab: Page, example: str) -> None:
    start(tab, example).click()
    heading(tab, "4 · Circuit").wait_for(timeout=READY)
    expect(tab.locator("svg .world .edge").first).to_be_visible(timeout=READY)
    expect(tab.get_by_test_id("stMetricValue")).to_have_text(re.compile(r"^9\d%$"), timeout=READY)
    expect(tab.get_by_text("The task, as in the first of 24 prompt pairs")).to_be_visible()


def test_one_click_leads_from_the_landing_page_to_a_measured_circuit(tab: Page, smollm2: PatchableModel) -> None:
    """(The model is asked for so that it is downloaded and converted before the clock of the browser runs.)"""
    start(tab, "smollm2-ioi").click()

    heading(tab, "4 · Circuit").wait_for(timeout=READY)
    settle(tab)
    assert re.search(r"run=[0-9a-f]{32}", tab.url)
    graph = tab.locator("svg .world")
    expect(graph).to_be_visible()
    assert graph.locator(".edge").count() > 20
    faithfulness = tab.get_by_test_id("stMetricValue")
    expect(faithfulness).to_have_text(re.compile(r"^-?\d+%$"), timeout=READY)

    edges = tab.locator("table", has_text="whole").locator("th strong")  # the size that was measured
    before = edges.inner_text()
    slider = tab.get_by_role("slider")
    slider.focus()
    slider.press("ArrowRight")
    expect(edges).not_to_have_text(before, timeout=READY)
    expect(edges).to_be_visible(timeout=READY)
    assert edges.inner_text() != before
    settle(tab)

    tab.reload()
    heading(tab, "4 · Circuit").wait_for()
    settle(tab)
    expect(graph).to_be_visible()
    expect(faithfulness).to_be_visible(timeout=READY)

    go(tab, "3 · Scores")
    heatmap = tab.locator(".js-plotly-plot").first
    expect(heatmap.locator(".heatmaplayer image")).to_have_count(1)
    expect(heatmap.locator(".heatmaplayer image")).to_be_visible()
    expect(tab.get_by_text("70,651 edges").first).to_be_visible()


def test_the_example_can_be_cancelled_while_it_runs_and_started_again(tab: Page, smollm2: PatchableModel) -> None:
    for sign_of_work in ("prompts to", "— running"):
        start(tab, "smollm2-ioi").click()
        expect(tab.get_by_text(sign_of_work)).to_be_visible(timeout=READY)
        expect(tab.get_by_text("was cancelled")).to_have_count(0)
        tab.get_by_role("button", name="Cancel").click()
        expect(tab.get_by_text("was cancelled")).to_be_visible(timeout=READY)
        settle(tab)
        expect(heading(tab, "Edgescope")).to_be_visible()
        expect(start(tab, "smollm2-ioi")).to_be_enabled()


def test_what_is_typed_into_the_table_survives_a_page_switch(tab: Page) -> None:
    go(tab, "1 · Prompts")
    table = tab.get_by_test_id("stDataFrame").first
    cell = table.get_by_test_id("glide-cell-2-0")  # columns 0 and 1 hold a check box and the row's number
    expect(cell).to_contain_text("Mary", timeout=READY)  # the first table of a visit fetches its code
    box = table.bounding_box()
    assert box is not None
    tab.mouse.dblclick(box["x"] + 200, box["y"] + 52)  # the first clean prompt, under the header
    tab.locator("#portal textarea").fill(" Leading space, and 数")
    tab.keyboard.press("Enter")
    expect(cell).to_contain_text("Leading space, and 数")
    settle(tab)
    go(tab, "2 · Attribute")
    go(tab, "1 · Prompts")
    expect(cell).to_contain_text("Leading space, and 数")
    assert cell.text_content() == " Leading space, and 数"


@pytest.mark.parametrize("page", ["1_Prompts", "2_Attribute", "3_Scores", "4_Circuit"])
def test_every_page_opens_from_its_own_address(tab: Page, app: str, page: str) -> None:
    name = page.split("_")[1]
    tab.goto(f"{app}/{name}")
    heading(tab, f"{page[0]} · {name}").wait_for()
    settle(tab)
    no_exception(tab)
    expect(tab).to_have_title(f"{page[0]} · {name} · Edgescope")


def test_the_tour_goes_on_after_the_slider_has_been_moved(tab: Page, app: str) -> None:
    tab.goto(f"{app}/Circuit?tour=5")
    expect(tab.get_by_text("Tour 5 of 6")).to_be_visible()
    expect(tab.get_by_text(re.compile("^Largely yes|^No|^Partly"))).to_be_visible(timeout=READY)
    settle(tab)
    tab.get_by_role("slider", name="Edges kept").press("ArrowRight")
    expect(tab).to_have_url(re.compile("edges="))
    settle(tab)
    tab.get_by_role("button", name="Next", exact=True).click()
    expect(tab.get_by_text("Tour 6 of 6")).to_be_visible()
    settle(tab)
