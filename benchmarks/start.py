"""A stranger's first minute: from `streamlit run` to the graph of the first ready example, in a real Chromium.

    python -m benchmarks.start                three servers, one after the other; seconds of each
    python -m benchmarks.start --wait 5       a visitor who reads for five seconds before the click

Each server starts cold: in a process of its own, with a worker that has not imported torch and a folder of runs that is
empty. (The files may lie in the system's cache.) The click comes as soon as the button is there, so it waits for the
worker too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import psutil
from playwright.sync_api import Browser, sync_playwright

from benchmarks.pages import HEIGHT, WIDTH, served
from circuit.runs.examples import EXAMPLES


def visit(browser: Browser, example: str, wait: float) -> dict[str, float]:
    """Seconds of one visit, by what they are of."""
    began, idle = time.perf_counter(), processor_time()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as address:
        up = time.perf_counter()
        page = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}).new_page()
        page.set_default_timeout(120_000)
        page.goto(address)
        page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')
        button = page.locator(f".st-key-example-{example}").get_by_role("button")
        button.wait_for()
        page.get_by_role("img", name="Left, the teaching model").wait_for()
        painted = time.perf_counter()
        page.wait_for_timeout(1000 * wait)
        clicked = time.perf_counter()
        button.click()
        page.locator("svg .world .edge").first.wait_for()
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        drawn, busy = time.perf_counter(), processor_time()
        page.get_by_test_id("stMetricValue").first.wait_for()
        measured = time.perf_counter()
        page.context.close()
    return {
        "from the start of the server until it answers": up - began,
        "from then until the landing page is painted": painted - up,
        "from the click until the graph is painted": drawn - clicked,
        "from the click until its faithfulness is there": measured - clicked,
        "processor time of server, worker and browser": busy - idle,
    }


def processor_time() -> float:
    """Seconds that this process and all it has started were computing, which other load on the machine hardly changes:
    divided by the number of cores, no wall time can be below it."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:2])
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--wait", type=float, default=0.0, help="seconds between the painted page and the click")
    parser.add_argument("--example", choices=list(EXAMPLES), default=next(iter(EXAMPLES)))
    options = parser.parse_args()
    load = psutil.getloadavg()[0]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        visits = [visit(browser, options.example, options.wait) for _ in range(options.repeats)]
        browser.close()
    print(f"{options.example}, {os.cpu_count()} CPU cores, load {load:.1f} before it began")
    for name in visits[0]:
        print(f"{name:50s}", "".join(f"{seconds[name]:8.2f} s" for seconds in visits))


if __name__ == "__main__":
    main()
