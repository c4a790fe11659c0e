"""The prompt table under real hands: clicks, a paste from a spreadsheet, typing, a reload."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.pages import READY, go, settle

if TYPE_CHECKING:
    from circuit.engine.model import PatchableModel

pytestmark = pytest.mark.browser

PASTED = (
    "When Mary and John went to the store, John gave a drink to\t"
    "When Mary and John went to the store, Mary gave a drink to\t Mary\t John\n"
    "When Anna and Tom went to the park, Tom gave a ring to\t"
    "When Anna and Tom went to the park, Anna gave a ring to\tAnna\tTom\n"
    "When Kate and Paul went to the park, Paul gave a ring to\t"
    "When Kate and Paul went to the park by car, Kate gave a ring to\t Kate\t Paul\n"
)


def cell(page: Page, row: int, column: int) -> Locator:
    """A cell of the prompt table: row and column from 0, the row's number being column 0."""
    return page.get_by_test_id("stDataFrame").first.get_by_test_id(f"glide-cell-{column + 1}-{row}")


def place(page: Page, row: int) -> tuple[float, float]:
    """Where the clean prompt of a row is, on the screen."""
    box = page.get_by_test_id("stDataFrame").first.bounding_box()
    assert box is not None
    return box["x"] + 200, box["y"] + 52 + 35 * row


def sidebar(page: Page, words: str, timeout: float | None = None) -> None:
    expect(page.get_by_test_id("stSidebar").get_by_text(words)).to_be_visible(timeout=timeout)


@pytest.fixture
def prompts_page(tab: Page, smollm2: PatchableModel) -> Page:
    """1 · Prompts with an empty table. (The model is asked for so that it is there before the clock runs.)"""
    go(tab, "1 · Prompts")
    expect(tab.get_by_text("12 of 12 pairs will be used")).to_be_visible(timeout=READY)
    tab.get_by_text("Empty table", exact=True).click()
    tab.get_by_role("button", name="Empty the table").click()
    sidebar(tab, "My prompts, 0 pairs")
    settle(tab)
    return tab


def test_a_paste_is_checked_mended_measured_and_survives_a_reload(prompts_page: Page) -> None:
    page = prompts_page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("text => navigator.clipboard.writeText(text)", PASTED)
    for _ in range(3):  # a table that is just being drawn takes no key
        page.mouse.click(*place(page, 0))
        page.keyboard.press("Control+v")
        try:
            sidebar(page, "My prompts (edited), 3 pairs", 10_000)
            break
        except AssertionError:
            continue
    sidebar(page, "My prompts (edited), 3 pairs")
    for row in range(3):
        expect(cell(page, row, 0)).to_have_text(str(row + 1))
    expect(page.get_by_text("2 of 3 pairs will be used")).to_be_visible()
    expect(page.get_by_text("Row 3: clean and corrupt differ in length.")).to_be_visible()

    page.get_by_role("button", name="Add the leading space").click()
    expect(cell(page, 1, 3)).to_have_text(" Anna", use_inner_text=False)
    settle(page)
    page.get_by_role("button", name="Remove the 1 broken row").click()
    expect(page.get_by_text("2 of 2 pairs will be used")).to_be_visible()

    page.get_by_role("button", name="Check prompts").click()
    expect(page.get_by_text("The model does this task")).to_be_visible(timeout=READY)
    points = page.locator(".js-plotly-plot .scatterlayer .trace").first.locator(".point")
    expect(points).to_have_count(2)
    looked_at = page.get_by_role("spinbutton", name="Row looked at")
    looked_at.fill("1")
    looked_at.press("Enter")
    settle(page)
    points.nth(1).click(force=True)
    expect(looked_at).to_have_value("2")
    expect(page.get_by_text("Next, says the model")).to_be_visible()
    expect(page.locator("[title*='clean, position 1: token']").first).to_have_text("·Anna")

    assert re.search(r"draft=[0-9a-f]{32}", page.url)
    page.reload()
    settle(page)
    sidebar(page, "My prompts (edited), 2 pairs")
    expect(cell(page, 1, 3)).to_contain_text("Anna")


def test_a_typed_row_is_taken_cell_by_cell_and_a_deleted_one_goes(prompts_page: Page) -> None:
    page = prompts_page
    for row, words in enumerate(("one two", "three four")):
        if row:
            page.mouse.click(*place(page, row))  # the line under the table adds a row
            expect(cell(page, row, 0)).to_have_text("new")
        page.mouse.dblclick(*place(page, row))
        page.locator("#portal textarea").fill(words)
        page.keyboard.press("Enter")
        expect(cell(page, row, 1)).to_have_text(words)
        sidebar(page, f"My prompts (edited), {row + 1} pair")
    settle(page)
    x, y = place(page, 0)
    page.mouse.click(x - 184, y)  # the check box before the row
    page.keyboard.press("Delete")
    sidebar(page, "My prompts (edited), 1 pair")
    expect(cell(page, 0, 1)).to_have_text("three four")
