"""What others typed stays text: a run and an address that try everything, on all pages, in a real browser."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import pytest

from circuit.common.text import one_line
from circuit.edges.graph import EdgeGraph
from circuit.jobs.sweep import Row, Table
from circuit.prompts.pairs import LONGEST_NAME, PromptPair, PromptSet
from circuit.runs.config import RunConfig
from circuit.runs.library import RunLibrary
from circuit.runs.links import settings_text
from circuit.runs.run import Baseline, Run
from circuit.ui.frame import keys
from tests.graphs import random_scores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.browser

ELSEWHERE = "elsewhere.example"
TRICKS = (
    f"![p](https://{ELSEWHERE}/p.png)",
    f"<img src=https://{ELSEWHERE}/i.png>",
    f'<a href="https://{ELSEWHERE}/a">stolen</a>',
    f"[stolen](https://{ELSEWHERE}/l)",
    f"https://{ELSEWHERE}/bare",
    f"www.{ELSEWHERE}",
    f"<https://{ELSEWHERE}/angle>",
    f"me@{ELSEWHERE}",
    "**stolen**",
    "`stolen`",
    "$stolen$",
    ":smile:",
    ":material/skull:",
    ":red[stolen]",
    "<b>stolen</b>",
    "a -> b",
)
ALL = " ".join(TRICKS)
NAME = one_line(ALL, LONGEST_NAME)
"""As much of it as a name may hold."""
PAGES = ("", "Prompts", "Attribute", "Scores", "Circuit", "Runs", "Compare", "Sweep", "Learn", "Glossary")
SHOWING = ("Attribute", "Scores", "Circuit", "Runs", "Compare", "Sweep")
VIEWS = {
    "Scores": [{"view": view} for view in ("Nodes", "Every edge", "Position by layer", "Fall-off", "Score and effect")],
    "Circuit": [{"look": f"node:{ALL}"}, {"look": "edge:5"}, {"look": "node:A0.1"}],
}
_FOUND = """() => {
    const found = [], elsewhere = "elsewhere.example";
    for (const element of document.querySelectorAll("*")) {
        for (const {name, value} of element.attributes)
            if (/href|src|action|style|poster|data$/i.test(name) && value.includes(elsewhere)
                && !value.startsWith(location.origin) && !value.startsWith("./"))
                found.push(`${element.tagName} ${name}=${value}`);
        const own = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join("");
        const made = "a, b, strong, em, code, annotation, span, mark";
        if (element.matches(made) && own.trim() === "stolen") found.push(`${element.tagName} of ${element.outerHTML}`);
        if (/😄|a → b/.test(own) || (element.matches("[data-testid=stIconMaterial]") && own === "skull"))
            found.push(`${element.tagName} with ${own}`);
    }
    return found;
}"""
"""Elements that somebody else's text has made, or that lead elsewhere."""


def hostile_run(apart: bool) -> Run:
    graph = EdgeGraph(3, 4, 2, seq_len=5 if apart else None)
    pairs = tuple(
        PromptPair(f"{trick} {number}", f"{ALL} {number}", (f" {trick}",), (f" {ALL}",))
        for number, trick in enumerate(TRICKS)
    )
    prompts = PromptSet(ALL, pairs)
    config = RunConfig(NAME, prompts, keep_positions=apart, device=NAME)
    provenance: dict[str, Any] = {
        "model": ALL, "dtype": TRICKS[3], "device": ALL, "date": "2026-01-01T00:00:00+00:00", "seconds": 1.0,
        "notes": list(TRICKS), "tokens": list(TRICKS[:5]), "versions": dict.fromkeys(TRICKS, ALL), ALL: ALL,
    }  # fmt: skip
    scores = random_scores(graph, int(apart))
    return Run(config, graph, scores, Baseline(1.0, 0.0, 1.0), list(range(len(pairs))), provenance)


@pytest.fixture(scope="module")
def hostile(folders: None) -> dict[str, str]:
    """Parameters that show the runs, and ask for the impossible in everything else."""
    folder = Path(os.environ["EDGESCOPE_RUNS"])
    library = RunLibrary(folder)
    runs = [hostile_run(apart) for apart in (False, True)]
    for run in runs:
        library.save(run)
        for number, trick in enumerate(TRICKS):
            other = replace(run, id=f"{number:032x}", config=replace(run.config, model=trick, device=trick))
            library.save(other)
            library.label(other.id, trick, ALL)
        library.label(run.id, ALL[:100], ALL)
    table = Table(ALL, [Row(ALL, trick, ALL, state="failed", note=ALL, top_edges=ALL) for trick in TRICKS])
    table.save(folder)
    (folder / f"{ALL[:20].replace('/', '')}.safetensors").write_text(ALL)  # a damaged run with a name
    names = [*keys.FILTERS, *(keys.POSITION, "view", "cell", "block", "edge", "look", "term", "lesson", "attribute")]
    return {
        **dict.fromkeys([*names, "check", "tour", "mine", "draft", "example", "sweep", "pair", "n", "search"], ALL),
        "table": table.id, "runs": ",".join(run.id for run in runs), "run": runs[0].id, "apart": runs[1].id,
    }  # fmt: skip


def shown(page: Page) -> bool:
    """Whether the page shows anything of the run, so that there was something to go wrong."""
    return "stolen" in page.get_by_test_id("stApp").inner_text()


@pytest.fixture(scope="module")
def visitor(app: str, chromium: Browser) -> Iterator[BrowserContext]:
    """A browser that knows the app's scripts from the pages before."""
    context = chromium.new_context(viewport={"width": 1400, "height": 1000})
    yield context
    context.close()


def look(visitor: BrowserContext, app: str, page_name: str, query: dict[str, str]) -> list[str]:
    """What is wrong with a page at this address."""
    from tests.browser.pages import READY, settle

    page = visitor.new_page()
    page.set_default_timeout(READY)
    wrong: list[str] = []
    host = urlsplit(app).netloc
    page.on("request", lambda r: wrong.append(f"asks {r.url}") if urlsplit(r.url).netloc not in ("", host) else None)
    page.on("console", lambda m: wrong.append(f"tries {m.text}") if "Content Security Policy" in m.text else None)
    try:
        page.goto(f"{app}/{page_name}?{urlencode(query)}")
        settle(page)
        for expander in page.locator("details:not([open]) > summary").all():
            expander.click()
        for popover in page.get_by_test_id("stPopover").get_by_role("button").all():
            popover.click()
            page.keyboard.press("Escape")
        settle(page)
        wrong += page.evaluate(_FOUND)
        if page_name in SHOWING and "run" in query and query["run"] != ALL and not shown(page):
            wrong.append("shows nothing of the run")
    finally:
        page.close()
    return [f"{page_name} {json.dumps(query)[:60]}: {each}" for each in wrong]


@pytest.mark.parametrize("page_name", PAGES)
def test_no_page_makes_anything_of_what_others_typed(
    hostile: dict[str, str], app: str, visitor: BrowserContext, page_name: str
) -> None:
    known = {name: hostile[name] for name in ("run", "runs", "table")}
    asks = [hostile, {**hostile, "run": hostile["apart"]}, dict.fromkeys(hostile, ALL)]
    asks += [{**known, **view, "run": hostile[run]} for view in VIEWS.get(page_name, []) for run in ("run", "apart")]
    wrong = [each for query in asks for each in look(visitor, app, page_name, query)]
    assert not wrong, "\n".join(dict.fromkeys(wrong))


def test_settings_in_a_link_stay_text(hostile: dict[str, str], app: str, visitor: BrowserContext) -> None:
    config = hostile_run(apart=False).config
    for settings in (ALL, settings_text(replace(config, model="teaching"))):
        for page_name in ("Prompts", "Attribute", "Sweep"):
            assert not look(visitor, app, page_name, {"settings": settings})
