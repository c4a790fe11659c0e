"""How long the pages take from a click to the painted result, on SmolLM2-135M's 70,651 edges, in a real Chromium.

    python -m benchmarks.pages                    five times each, warm; medians and the slowest
    python -m benchmarks.pages --apart            with token positions kept apart: a million edges
    python -m benchmarks.pages --markdown >> benchmarks/RESULTS.md

The run that is looked at is computed first and is no part of any time; nor is the measurement of the circuit, which the
page starts by itself, waits for nobody, and is cancelled here before the clock runs. A time begins with the click (or
key) and ends in the second animation frame after the page shows what was asked for, so that it has been painted. Server
times are those of the page's own functions, beside it in this process: what a filter or slider move computes.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
from playwright.sync_api import Page, sync_playwright

from circuit.edges.filter import EdgeFilter, strongest_of
from circuit.edges.ranking import edge_table
from circuit.edges.subgraph import circuit_graph, live_edges
from circuit.jobs.attribute import attribute
from circuit.plots.graph_svg import graph_svg
from circuit.plots.heatmap import block_heatmap, layer_heatmap
from circuit.plots.layout import circuit_layout, next_step
from circuit.plots.matrix import score_matrix
from circuit.runs.run import Run
from circuit.ui.frame.session import EXAMPLE

ROOT = Path(__file__).parent.parent
WIDTH, HEIGHT = 1366, 768


@contextmanager
def served(runs: Path) -> Iterator[str]:
    """The app in a process of its own, with this folder of runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    environment = {**os.environ, "EDGESCOPE_RUNS": str(runs)}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


# --- in the browser ------------------------------------------------------------------------------------------------


class Reader:
    """One visitor of the two pages, with a stopwatch."""

    def __init__(self, page: Page, address: str, run: Run) -> None:
        self.page, self.address, self.run = page, address, run
        self.times: dict[str, list[float]] = {}

    def timed(self, name: str, act: Callable[[], object], shown: Callable[[], object]) -> None:
        """The seconds from before `act` until what `shown` waits for has been painted."""
        began = time.perf_counter()
        act()
        shown()
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.times.setdefault(name, []).append(time.perf_counter() - began)
        self.settle()

    def settle(self) -> None:
        self.page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')
        self.page.wait_for_timeout(300)

    def open(self, page: str, query: str = "") -> None:
        self.page.goto(f"{self.address}/{page}?run={self.run.id}{query}")
        self.heatmap() if page == "Scores" else self.graph()
        self.settle()
        if (cancel := self.page.get_by_role("button", name="Cancel")).count():
            cancel.first.click()
            cancel.wait_for(state="detached", timeout=120_000)
            self.settle()

    def heatmap(self) -> None:
        self.page.locator(".js-plotly-plot .heatmaplayer image").first.wait_for()

    def graph(self, words: str = "edges chosen by") -> None:
        self.page.locator("svg .caption", has_text=words).wait_for()

    def link(self, name: str) -> Callable[[], None]:
        return lambda: self.page.get_by_test_id("stSidebar").get_by_role("link", name=name).click()

    def plotted(self, condition: str) -> Callable[[], object]:
        """Until a condition on the figures (`plots`) holds."""
        script = "() => { const plots = [...document.querySelectorAll('.js-plotly-plot')]; return " + condition + " }"
        return lambda: self.page.wait_for_function(script, polling="raf")

    def click_cell(self, column: str, row: str) -> Callable[[], None]:
        def click() -> None:
            x, y = self.page.locator(".js-plotly-plot").first.evaluate(
                """(plot, [column, row]) => {
                    const { xaxis, yaxis } = plot._fullLayout, box = plot.getBoundingClientRect()
                    return [box.x + xaxis._offset + xaxis.d2p(column), box.y + yaxis._offset + yaxis.d2p(row)]
                }""",
                [column, row],
            )
            self.page.mouse.move(x, y)
            self.page.mouse.click(x, y)

        return click


def scores_page(reader: Reader, repeats: int) -> None:
    page = reader.page
    reader.open("Scores")
    middle = reader.run.graph.n_layers // 2
    for i in range(repeats):
        block = f"A{middle + i}", f"A{middle - 1 - i}"
        first_row = (
            f"plots[1]?._fullData?.[0]?.y?.[0] === '{block[0]}.0.Q' && plots[1]._fullData[0].x[0] === '{block[1]}.0'"
        )
        reader.timed("a block is clicked", reader.click_cell(block[1], block[0]), reader.plotted(first_row))
    page.get_by_role("button", name="Filter").click()
    pill = page.get_by_role("button", name="V", exact=True)
    pill.wait_for()
    caption = "plots[0]?._fullLayout?.annotations?.at(-1)?.text?.replaceAll('<br>', ' ').includes('only into V')"
    for i in range(2 * repeats):
        reader.timed(
            "a filter is set or lifted", pill.click, reader.plotted(caption if i % 2 == 0 else f"!({caption})")
        )
    page.keyboard.press("Escape")
    for name in ("Every edge", "Layer by layer") * repeats:
        size = reader.run.graph.n_sources
        columns = f"plots[0]?._fullData?.[0]?.x?.length {'===' if name == 'Every edge' else '<'} {size}"
        view = page.get_by_role("radio", name=name).or_(page.get_by_role("button", name=name, exact=True)).first
        reader.timed(f"the view is switched to '{name}'", view.click, reader.plotted(columns))
    for _ in range(repeats):
        reader.timed("the scores page is reloaded", page.reload, reader.heatmap)


def circuit_page(reader: Reader, repeats: int) -> None:
    page = reader.page
    reader.open("Circuit", "&edges=50")
    words = page.locator("svg .caption").text_content
    for _ in range(repeats):
        slider = page.get_by_role("slider")
        slider.focus()
        n = int((words() or "").split(" of ")[1].split()[0].replace(",", ""))
        reader.timed(
            "the slider is moved (50 to 120 edges)",
            lambda slider=slider: slider.press("ArrowRight"),  # type: ignore[misc]
            lambda n=n: page.wait_for_function(  # type: ignore[misc]
                """n => {
                    for (const host of document.querySelectorAll('*')) {
                        const caption = host.shadowRoot?.querySelector('.caption')
                        if (caption && !caption.textContent.includes(` of ${n} edges`)) return true
                    }
                }""",
                arg=n,
                polling="raf",
            ),
        )
        if (cancel := page.get_by_role("button", name="Cancel")).count():
            cancel.first.click()
            cancel.wait_for(state="detached", timeout=120_000)
            reader.settle()
    for i in range(repeats):
        node = page.locator('[data-item^="node:A"]:not([data-item*="kv"])').nth(i)
        name = node.get_attribute("data-node") or ""
        head = page.get_by_text(f"{name} · head")
        reader.timed("a node is clicked", node.click, head.wait_for)
    for _ in range(repeats):
        reader.timed("from the circuit to the scores", reader.link("3 · Scores"), reader.heatmap)
        reader.timed("from the scores to the circuit", reader.link("4 · Circuit"), reader.graph)
    for _ in range(repeats):
        reader.timed("the circuit page is reloaded", page.reload, reader.graph)
    reader.open("Circuit", "&edges=200")
    for _ in range(repeats):
        reader.timed("a circuit of 200 edges is reloaded", page.reload, reader.graph)


# --- on the server -------------------------------------------------------------------------------------------------


def server_times(run: Run, repeats: int) -> dict[str, float]:
    """Milliseconds, the slowest of some, of what the pages compute for a move."""
    graph, scores = run.graph, run.scores
    assert len(run.order) == graph.n_edges  # sorted once a run, on its first page
    kept = EdgeFilter(("V",), sign="positive", source="A*").mask(graph, scores)
    middle = graph.n_layers // 2

    def filtered() -> None:
        kept = EdgeFilter(("V",), sign="positive", source="A*").mask(graph, scores)
        layer_heatmap(graph, scores, caption=run.caption, kept=kept).to_json()
        block_heatmap(graph, scores, f"A{middle}", "A0", caption=run.caption, kept=kept).to_json()
        edge_table(graph, scores, strongest_of(kept, run.ranks)[:100], ranks=run.ranks)

    def circuit(n: int) -> None:
        drawn, reference = (
            circuit_graph(graph, live_edges(graph, run.order[:size]), scores, ranks=run.ranks)
            for size in (n, next_step(n, apart=graph.seq_len is not None))
        )
        graph_svg(drawn, circuit_layout(drawn, reference), caption=run.caption)

    moves = {
        "a filter on the overview, a block and the table": filtered,
        "a filter on the whole matrix": lambda: score_matrix(graph, scores, caption=run.caption, kept=kept).to_json(),
        "the slider at 50 edges": lambda: circuit(50),
        "the slider at 200 edges": lambda: circuit(200),
        "the slider at 1000 edges": lambda: circuit(1000),
    }
    worst = {}
    for name, move in moves.items():
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            move()
            times.append(1000 * (time.perf_counter() - began))
        worst[name] = max(times)
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--apart", action="store_true", help="keep token positions apart")
    parser.add_argument("--markdown", action="store_true", help="print a section for RESULTS.md")
    options = parser.parse_args()
    run = attribute(replace(EXAMPLE, keep_positions=options.apart))
    load = psutil.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run.save(Path(folder) / f"{run.id}.safetensors")
        with served(Path(folder)) as address:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            page.set_default_timeout(60_000)
            reader = Reader(page, address, run)
            scores_page(reader, options.repeats)
            circuit_page(reader, options.repeats)
            browser.close()
    report(run, reader.times, server_times(run, options.repeats), load, options.markdown)


def report(run: Run, seconds: dict[str, list[float]], server: dict[str, float], load: float, markdown: bool) -> None:
    what = f"{run.provenance['model']}, {run.graph.n_edges:,} edges"
    if markdown:
        print(
            f"\n## Pages: {datetime.date.today()}, {os.cpu_count()} CPU cores, Chromium at {WIDTH} x {HEIGHT}, {what}\n"
        )
        print(f"`python -m benchmarks.pages`; load {load:.0f} before it began.\n")
        print("| from click to painted result | median | slowest |\n| --- | ---: | ---: |")
        for name, times in seconds.items():
            print(f"| {name} | {statistics.median(times):.2f} s | {max(times):.2f} s |")
        print("\n| computed on the server | slowest |\n| --- | ---: |")
        for name, milliseconds in server.items():
            print(f"| {name} | {milliseconds:.0f} ms |")
        return
    print(what)
    for name, times in seconds.items():
        print(f"{name:45s} {statistics.median(times):6.2f} s   slowest {max(times):.2f} s")
    for name, milliseconds in server.items():
        print(f"{name:55s} {milliseconds:6.0f} ms")


if __name__ == "__main__":
    main()
