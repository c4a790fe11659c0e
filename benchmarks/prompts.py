"""How long 1 · Prompts takes with many pairs.

    python -m benchmarks.prompts                        500 pairs on SmolLM2-135M
    python -m benchmarks.prompts --pairs 100 --repeats 3

- reading: each file format, from bytes to a prompt set
- checking: every pair as tokens, for the first time, and again after one pair has changed (what a session remembers)
- editing, script: the page's script after one cell was edited, as the server runs it (AppTest, no browser)
- editing, checked: the same where all pairs have numbers, so that the page also sums these up and judges them
- editing, browser: from the Enter that ends the cell to the page's new count of usable pairs, in a real Chromium
- forward pass: the check's job, clean and corrupt prompts through the model, the model loaded before

Pairs are made by the template of indirect object identification, with a seed. Times are medians over repeats.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from circuit.jobs.check import CheckRequest, check_prompts
from circuit.jobs.load import ModelRequest, describe_model
from circuit.models.load import load_tokenizer
from circuit.prompts.checks import check_pair
from circuit.prompts.encode import encode
from circuit.prompts.files import FORMATS, read_file, write
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.prompts.presets import PRESETS
from circuit.prompts.verdicts import PairResult
from circuit.runs.drafts import Draft, save_draft
from circuit.ui.prompts.report import settings_of

ROOT = Path(__file__).parent.parent
MODEL = "smollm2-135m"


def pairs(n: int) -> PromptSet:
    template = PRESETS["ioi"].template
    assert template is not None
    return PromptSet(f"{n} pairs", template.make(n))


def median(repeats: int, run: Callable[[int], Any]) -> float:
    """Seconds that a run takes."""
    times = []
    for number in range(repeats):
        began = time.perf_counter()
        run(number)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def reading(prompts: PromptSet, repeats: int) -> dict[str, float]:
    files = {kind: write(prompts, kind).encode() for kind in FORMATS}
    return {f"reading, {kind}": median(repeats, partial(_read, data, kind)) for kind, data in files.items()}


def _read(data: bytes, kind: str, _: int) -> None:
    read_file(data, f"x.{kind}")


def checking(prompts: PromptSet, repeats: int) -> dict[str, float]:
    tokenizer = load_tokenizer(MODEL)
    remembered = lru_cache(maxsize=20_000)(check_pair)

    def after_an_edit(number: int) -> None:
        edited = replace(prompts.pairs[0], clean=f"{prompts.pairs[0].clean} {number}")
        encode(replace(prompts, pairs=(edited, *prompts.pairs[1:])), tokenizer, False, None, remembered)

    whole = median(repeats, lambda _: encode(prompts, tokenizer, False))
    after_an_edit(-1)
    return {"checking all pairs": whole, "checking after an edit": median(repeats, after_an_edit)}


def editing_script(prompts: PromptSet, repeats: int, *, checked: bool = False) -> dict[str, float]:
    from streamlit.testing.v1 import AppTest

    from circuit.ui.frame.server import job_server

    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    at.session_state["prompts"] = prompts
    if checked:
        edited = [replace(prompts.pairs[7], clean=f"edited {number}") for number in range(repeats)]
        at.session_state["measured"] = _numbers(prompts.pairs + tuple(edited))
    at.run()
    at.switch_page("pages/1_Prompts.py")
    while not any("pairs will be used" in head.value for head in at.subheader):
        at.run()
        time.sleep(0.2)

    def edit(number: int) -> None:
        changes = {"edited_rows": {7: {"clean": f"edited {number}"}}, "added_rows": [], "deleted_rows": []}
        at.session_state["table-0"] = changes
        at.run()
        assert at.session_state["prompts"].pairs[7].clean == f"edited {number}"
        assert bool(at.metric) == checked

    try:
        return {f"editing, {'checked' if checked else 'script'}": median(repeats, edit)}
    finally:
        job_server.clear()


def _numbers(pairs: tuple[PromptPair, ...]) -> dict[CheckRequest, dict[PromptPair, PairResult]]:
    """Made up, as a session keeps them for the page's first settings."""
    random = np.random.default_rng(0)
    results = {
        pair: PairResult(0.5, 1, random.normal(3), random.normal(-3), 1.0, ((" Mary", 0.5), (" John", 0.2)))
        for pair in pairs
    }
    return {settings_of(CheckRequest(MODEL, PromptSet("", ()))): results}


def editing_browser(prompts: PromptSet, repeats: int) -> dict[str, float]:
    from playwright.sync_api import expect, sync_playwright

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    draft = uuid.uuid4().hex
    save_draft(Path(os.environ["EDGESCOPE_RUNS"]) / "drafts", draft, Draft(MODEL, prompts, "As the tokenizer does"))
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(f"http://127.0.0.1:{port}/_stcore/health")
        with sync_playwright() as playwright:
            path = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1366, "height": 768})
            page.set_default_timeout(120_000)
            page.goto(f"http://127.0.0.1:{port}/Prompts?draft={draft}")
            n = len(prompts)
            expect(page.get_by_text(f"{n} of {n} pairs will be used")).to_be_visible(timeout=120_000)
            times = []
            for number in range(repeats):
                good = number % 2
                box = page.get_by_test_id("stDataFrame").first.bounding_box()
                assert box is not None
                page.mouse.dblclick(box["x"] + 200, box["y"] + 52)
                page.locator("#portal textarea").fill(prompts.pairs[0].clean if good else "a broken prompt")
                began = time.perf_counter()
                page.keyboard.press("Enter")
                expect(page.get_by_text(f"{n if good else n - 1} of {n} pairs will be used")).to_be_visible()
                times.append(time.perf_counter() - began)
            browser.close()
        return {"editing, browser": statistics.median(times)}
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_for(address: str) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < until, "The server does not answer."
            time.sleep(0.2)


def forward_pass(prompts: PromptSet, repeats: int) -> dict[str, float]:
    describe_model(ModelRequest(MODEL))
    request = CheckRequest(MODEL, prompts)
    first: list[float] = []

    def run(_: int) -> None:
        began = time.perf_counter()
        check_prompts(
            request,
            progress=lambda step, total, message: first.append(time.perf_counter() - began) if step == 1 else None,
        )

    whole = median(repeats, run)
    return {"forward pass, all pairs": whole, "forward pass, first batch of 16": statistics.median(first)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    prompts = pairs(options.pairs)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGESCOPE_RUNS"] = folder
        print("| what | seconds |\n| --- | --- |")
        for measure, repeats in (
            (reading, options.repeats),
            (checking, options.repeats),
            (editing_script, options.repeats),
            (partial(editing_script, checked=True), options.repeats),
            (editing_browser, options.repeats),
            (forward_pass, 1),  # a minute or two
        ):
            for what, seconds in measure(prompts, repeats).items():
                print(f"| {what} | {seconds:.3f} |", flush=True)


if __name__ == "__main__":
    main()
