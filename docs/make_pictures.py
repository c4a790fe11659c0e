"""The pictures of the documentation, taken from the real app in a real Chromium.

    python -m docs.make_pictures           write docs/*.png anew, on the teaching model
    python -m docs.make_pictures --dark    into docs/dark, to look at

The runs lie in a folder that is removed at the end.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Page, sync_playwright

from benchmarks.pages import HEIGHT, WIDTH, served
from circuit.edges.method import Method
from circuit.jobs.attribute import attribute
from circuit.runs.examples import EXAMPLES
from circuit.runs.run import Run
from circuit.ui.run import choice

FOLDER = Path(__file__).parent
CONFIG = EXAMPLES["teaching-ioi"].config
AFRESH = urlencode(choice.AFRESH)
METHODS = {"eap": Method(mask_val=0.0), "ig": CONFIG.method}


def pictures(runs: dict[str, Run]) -> dict[str, tuple[str, str, int]]:
    """For every picture the page and its parameters, what it waits for, and the window's height."""
    run, size = runs["ig"].id, EXAMPLES["teaching-ioi"].size
    graph = "svg .world .edge"
    return {
        "start": ("?", "text=Pick an example", HEIGHT),
        "prompts": ("Prompts?", "text=Check prompts", 1000),
        "attribute": ("Attribute?", "text=Run attribution", HEIGHT),
        "scores": (f"Scores?run={run}", ".js-plotly-plot .heatmaplayer image", 900),
        "circuit": (f"Circuit?run={run}&edges={size}&{AFRESH}&stable=Certified", "text=abstentions (?)", 940),
        "compare": (f"Compare?runs={run},{runs['eap'].id}", ".js-plotly-plot .main-svg", 1000),
        "learn": ("Learn?lesson=2", graph, 900),
    }


def take(page: Page, address: str, runs: dict[str, Run], folder: Path) -> None:
    for name, (path, shown, height) in pictures(runs).items():
        page.set_viewport_size({"width": WIDTH, "height": height})
        page.goto(f"{address}/{path}")
        page.locator(shown).first.wait_for()
        page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')
        if name == "circuit":
            page.locator('[data-testid="stMetricValue"]').first.wait_for()
        page.mouse.move(WIDTH - 1, height - 1)
        page.wait_for_timeout(2500)  # what measures itself is there, and nothing moves any more
        page.screenshot(path=folder / f"{name}.png")
        print(folder / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dark", action="store_true")
    dark = parser.parse_args().dark
    folder = FOLDER / "dark" if dark else FOLDER
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as stored, sync_playwright() as playwright:
        runs = {name: attribute(replace(CONFIG, method=method)) for name, method in METHODS.items()}
        for run in runs.values():
            run.save(Path(stored) / f"{run.id}.safetensors")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with served(Path(stored)) as address:
            page = browser.new_context(color_scheme="dark" if dark else "light").new_page()
            page.set_default_timeout(120_000)
            take(page, address, runs, folder)
        browser.close()


if __name__ == "__main__":
    main()
