"""A stranger's first minutes: from the landing page to the circuit of a real language model, in a real browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.pages import READY, go, no_exception, settle

if TYPE_CHECKING:
    from circuit.patchable import PatchableModel

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def heading(page: Page, words: str) -> Locator:
    return page.get_by_role("heading", name=words)


def drawn(canvas: Locator) -> int:
    """How many different colours a canvas shows: 1 where nothing is drawn."""
    return int(
        canvas.evaluate(
            """canvas => {
                const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
                return new Set(new Uint32Array(data.buffer)).size
            }"""
        )
    )


def test_two_clicks_lead_from_the_landing_page_to_a_measured_circuit(tab: Page, smollm2: PatchableModel) -> None:
    """(The model is asked for so that it is downloaded and converted before the clock of the browser runs.)"""
    tab.get_by_role("button", name="Run the example").click()

    heading(tab, "3 · Scores").wait_for(timeout=READY)
    settle(tab)
    heatmap = tab.locator(".js-plotly-plot").first
    expect(heatmap.locator(".heatmaplayer image")).to_have_count(1)
    expect(heatmap.locator(".heatmaplayer image")).to_be_visible()
    expect(tab.get_by_text("70,651 edges").first).to_be_visible()
    assert re.search(r"run=[0-9a-f]{32}", tab.url)

    tab.get_by_role("button", name="See the circuit").click()
    heading(tab, "4 · Circuit").wait_for()
    settle(tab)
    canvas = tab.get_by_test_id("stEChartsChart").locator("canvas").first
    expect(canvas).to_be_visible()
    tab.wait_for_function("document.querySelector('[data-testid=stEChartsChart] canvas').width > 300")
    assert drawn(canvas) > 20
    faithfulness = tab.get_by_test_id("stMetricValue")
    expect(faithfulness).to_have_text(re.compile(r"^-?\d+%$"), timeout=READY)

    edges = tab.locator("table", has_text="Whole model").get_by_text(re.compile(r"^[\d,]+ edges$"))
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
    expect(canvas).to_be_visible()
    expect(faithfulness).to_be_visible(timeout=READY)


def test_the_example_can_be_cancelled_while_it_runs_and_started_again(tab: Page, smollm2: PatchableModel) -> None:
    for sign_of_work in ("step 1 of", "— running"):
        tab.get_by_role("button", name="Run the example").click()
        expect(tab.get_by_text(sign_of_work)).to_be_visible(timeout=READY)
        expect(tab.get_by_text("was cancelled")).to_have_count(0)
        tab.get_by_role("button", name="Cancel").click()
        expect(tab.get_by_text("was cancelled")).to_be_visible(timeout=READY)
        settle(tab)
        expect(heading(tab, "Edgescope")).to_be_visible()
        expect(tab.get_by_role("button", name="Run the example")).to_be_enabled()


def test_what_is_typed_into_the_table_survives_a_page_switch(tab: Page) -> None:
    go(tab, "1 · Prompts")
    table = tab.get_by_test_id("stDataFrame").first
    cell = table.get_by_test_id("glide-cell-2-0")  # columns 0 and 1 hold a check box and the row's number
    expect(cell).to_contain_text("Mary")
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
