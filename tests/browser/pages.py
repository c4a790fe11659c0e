"""What every browser test does with a page of the app."""

from __future__ import annotations

from playwright.sync_api import FloatRect, Locator, Page, expect

READY = 300_000  # milliseconds: a job waits for the worker to import torch, and for the model
_QUIET = """() => {
    const app = document.querySelector('[data-testid="stApp"]'), now = performance.now();
    window.settling ??= {since: now, quiet: now};
    if (app?.dataset.testScriptState !== "notRunning") window.settling.quiet = now;
    const {since, quiet} = window.settling;
    return now - quiet > 250 || (now - since > 1500 && quiet < now);
}"""
"""Whether the script has not run for a quarter of a second; as a running job's panel runs at any moment, it is enough
after one and a half seconds that it does not run now."""


def settle(page: Page) -> None:
    """Wait until the page's script has run; it must not have shown an exception.

    Right after a click the script has not begun yet, so a moment's rest is not enough.
    """
    page.evaluate("window.settling = undefined")
    page.wait_for_function(_QUIET)
    no_exception(page)


def no_exception(page: Page) -> None:
    expect(page.get_by_test_id("stException")).to_have_count(0)


def go(page: Page, link: str) -> None:
    """Follow a link of the sidebar."""
    page.get_by_test_id("stSidebar").get_by_role("link", name=link).click()
    expect(page.get_by_role("heading", level=2, name=link)).to_be_visible()
    settle(page)


def open_popover(page: Page, name: str, inside: Locator) -> None:
    """Open it, once more where the page has drawn itself again at that moment and shut it."""
    for _ in range(3):
        page.get_by_role("button", name=name).click()
        try:
            expect(inside).to_be_visible(timeout=30_000)
            return
        except AssertionError:
            continue
    expect(inside).to_be_visible()


def listens(plot: Locator) -> None:
    """Wait until a chart tells the page of clicks: it is drawn a moment before."""
    expect(plot).to_be_visible(timeout=READY)
    handle = plot.element_handle()
    plot.page.wait_for_function("plot => plot._ev?._events?.plotly_selected", arg=handle)


def drawn(page: Page) -> None:
    """Wait for two frames. In the first the browser learns where a wheel is listened to; before, it scrolls instead."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def box_of(element: Locator) -> FloatRect:
    """Where an element lies, once the page is not drawing it anew."""
    for _ in range(200):
        if (box := element.bounding_box()) is not None:
            return box
        element.page.wait_for_timeout(50)
    raise AssertionError("The element is not drawn.")


def click_line(tab: Page, edge: Locator) -> None:
    """Click a point near the start of an edge's line, where few others cross it."""
    at = edge.locator(".hit").evaluate(
        """path => {
            const point = path.getPointAtLength(0.2 * path.getTotalLength())
            const { x, y } = point.matrixTransform(path.getScreenCTM())
            return [x, y]
        }"""
    )
    tab.mouse.click(*at)
