"""What every browser test does with a page of the app."""

from __future__ import annotations

from playwright.sync_api import Page, expect

READY = 120_000  # milliseconds: a job waits for the worker to import torch, and for the model


def settle(page: Page) -> None:
    """Wait until the page's script has run; it must not have shown an exception."""
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')
    no_exception(page)


def no_exception(page: Page) -> None:
    expect(page.get_by_test_id("stException")).to_have_count(0)


def go(page: Page, link: str) -> None:
    """Follow a link of the sidebar."""
    page.get_by_test_id("stSidebar").get_by_role("link", name=link).click()
    expect(page.get_by_role("heading", level=2, name=link)).to_be_visible()
    settle(page)
