"""2 · Attribute in a browser, while jobs of the page's own come and go."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from circuit.edges.kinds import EAP_IG_INPUTS, INTEGRATED_GRADIENTS, LEARNED, ONE_MASK_VALUE

pytestmark = pytest.mark.browser


def test_methods_are_chosen_one_after_the_other_while_the_page_still_measures_the_model(tab: Page, app: str) -> None:
    tab.goto(f"{app}/Attribute")
    run = tab.get_by_role("button", name="Run attribution")
    expect(run).to_be_visible()
    for kind in (ONE_MASK_VALUE, EAP_IG_INPUTS, LEARNED, INTEGRATED_GRADIENTS):
        tab.get_by_role("combobox", name="Method").click()
        tab.get_by_role("option", name=kind.title, exact=True).click()
        expect(tab.get_by_text(kind.sentence)).to_be_visible()
        expect(run).to_be_enabled()
