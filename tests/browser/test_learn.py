"""The lessons under a real mouse and keyboard: edges and nodes are clicked, and the numbers follow."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.pages import READY, click_line, settle

pytestmark = pytest.mark.browser


def open_lesson(tab: Page, app: str, number: int) -> None:
    tab.goto(f"{app}/Learn?lesson={number}")
    settle(tab)


def edge(tab: Page, tail: str, words: str) -> Locator:
    """An edge of the board, by where it comes from and what its title says."""
    return tab.locator(f'.edge[data-from="{tail}"]').filter(has=tab.locator("title", has_text=words))


def now(tab: Page, ablated: int) -> Locator:
    metric = tab.get_by_test_id("stMetric").filter(has_text=f"Now, {ablated} ablated")
    return metric.get_by_test_id("stMetricValue")


def test_a_click_on_an_edge_ablates_it_and_the_answer_changes(tab: Page, app: str) -> None:
    open_lesson(tab, app, 2)
    expect(now(tab, 0)).to_be_visible(timeout=READY)
    clean = now(tab, 0).inner_text()
    first = edge(tab, "Resid Start", "value input of A0.0")
    expect(first).to_be_visible()
    first.scroll_into_view_if_needed()
    click_line(tab, first)
    expect(now(tab, 1)).to_be_visible()
    one = now(tab, 1).inner_text()
    assert one != clean
    settle(tab)
    click_line(tab, edge(tab, "MLP 1", "input of Resid End"))
    expect(now(tab, 2)).to_be_visible()
    settle(tab)
    click_line(tab, first)  # again: restored
    expect(now(tab, 1)).to_be_visible()
    settle(tab)
    tab.get_by_role("button", name="Reset", exact=True).first.click()
    expect(now(tab, 0)).to_have_text(clean)


def test_the_keyboard_ablates_an_edge_too(tab: Page, app: str) -> None:
    open_lesson(tab, app, 2)
    expect(now(tab, 0)).to_be_visible(timeout=READY)
    clean = now(tab, 0).inner_text()
    picks = tab.get_by_label("Ablated edges").last
    picks.focus()
    tab.keyboard.type("Resid Start → A0.0.V")
    tab.keyboard.press("Enter")
    expect(now(tab, 1)).to_be_visible()
    assert now(tab, 1).inner_text() != clean
    expect(edge(tab, "Resid Start", "value input of A0.0: ablated")).to_have_count(1)


def test_a_click_on_a_node_shows_its_edges_and_lessons_follow_the_address(tab: Page, app: str) -> None:
    open_lesson(tab, app, 1)
    expect(tab.locator(".edge")).to_have_count(262)
    tab.locator('[data-item="node:MLP 2"]').click()
    expect(tab.get_by_text(re.compile(r"^MLP 2 reads 15 sources"))).to_be_visible()
    expect(tab.locator(".edge")).to_have_count(16)
    settle(tab)
    tab.get_by_role("button", name="2 · Ablate an edge by hand").last.click()
    expect(tab).to_have_url(re.compile("lesson=2"))
    expect(now(tab, 0)).to_be_visible(timeout=READY)
    settle(tab)
    tab.go_back()
    expect(tab.get_by_text(re.compile(r"^MLP 2 reads 15 sources"))).to_be_visible()
