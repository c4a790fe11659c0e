"""Scores and circuit under a real mouse: blocks, cells, nodes and edges are clicked, zoomed, reloaded and saved."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Locator, Page, expect

from circuit.edges.method import Method
from circuit.edges.ranking import top_edges
from circuit.plots.heatmap import block_of
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.run import Run
from tests.browser.pages import READY, box_of, click_line, drawn, go, listens, settle

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def run(folders: None) -> Run:
    """The teaching model's scores, in the runs folder of the server."""
    from circuit.jobs.attribute import attribute

    prompts = PRESETS["teaching-ioi"].prompts
    config = RunConfig("teaching", replace(prompts, pairs=prompts.pairs[:8]), Method(), device="cpu")
    run = attribute(config)
    run.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{run.id}.safetensors")
    return run


def visit(tab: Page, app: str, page: str, **query: str) -> None:
    tab.goto(f"{app}/{page}?" + "&".join(f"{key}={value}" for key, value in query.items()))
    settle(tab)


def click_cell(tab: Page, plot: Locator, column: str, row: str) -> None:
    """Click where a heatmap draws the cell of these names."""
    expect(plot.locator(".heatmaplayer image")).to_be_visible()
    listens(plot)
    at = plot.evaluate(
        """(plot, [column, row]) => {
            const { xaxis, yaxis } = plot._fullLayout, box = plot.getBoundingClientRect()
            return [box.x + xaxis._offset + xaxis.d2p(column), box.y + yaxis._offset + yaxis.d2p(row)]
        }""",
        [column, row],
    )
    tab.mouse.move(*at)
    tab.mouse.click(*at)


def test_a_block_and_a_cell_are_clicked_and_back_undoes_the_click(tab: Page, app: str, run: Run) -> None:
    edge = int(top_edges(run.scores, 1)[0])
    destination, source = block_of(run.graph, edge)
    tail, tip = run.graph.edge_name(edge).split("->")
    visit(tab, app, "Scores", run=run.id)
    plots = tab.locator(".js-plotly-plot")
    click_cell(tab, plots.nth(0), source, destination)
    expect(tab.get_by_text(f"{source} → {destination}")).to_be_visible()
    settle(tab)
    click_cell(tab, plots.nth(1), tail, tip)
    sentence = tab.get_by_text(re.compile(rf"{re.escape(tail)} → {re.escape(tip)} · number 1 of 262"))
    expect(sentence).to_be_visible()
    assert f"edge={edge}" in tab.url
    box = sentence.bounding_box()
    assert box is not None
    assert box["y"] < tab.viewport_size["height"]  # type: ignore[index] # read without scrolling
    tab.reload()
    expect(sentence).to_be_visible()
    settle(tab)
    tab.go_back()
    expect(sentence).to_have_count(0)
    expect(tab.get_by_text(f"{source} → {destination}")).to_be_visible()


def test_a_node_and_an_edge_are_clicked_and_explained(tab: Page, app: str, run: Run) -> None:
    visit(tab, app, "Circuit", run=run.id, edges="40")
    node = tab.locator('[data-item^="node:MLP"]').first
    name = (node.get_attribute("data-node") or "").replace("MLP ", "")
    node.click()
    expect(tab.get_by_text(re.compile(rf"^MLP {name} · the MLP of layer {name}"))).to_be_visible()
    expect(tab.get_by_text(re.compile(r"edges, sum of \|score\|")).first).to_be_visible()
    settle(tab)
    strongest = int(top_edges(run.scores, 1)[0])
    click_line(tab, tab.locator(f'[data-item="edge:{strongest}"]'))
    expect(tab.get_by_text(re.compile(r" · number 1 of 262 by \|score\|"))).to_be_visible()
    expect(tab.locator(f'[data-item="edge:{strongest}"].picked')).to_have_count(1)
    expect(tab.get_by_text("measured by really ablating it").first).to_be_visible(timeout=READY)
    expect(tab.get_by_text("each ablated alone").first).to_be_visible(timeout=READY)


def test_zoom_stays_when_the_slider_moves_and_the_size_survives_a_reload(tab: Page, app: str, run: Run) -> None:
    visit(tab, app, "Circuit", run=run.id, edges="40")
    world = tab.locator("svg .world")
    expect(world).to_be_visible()
    box = box_of(tab.locator("svg .stage"))
    tab.mouse.move(box["x"] + 300, box["y"] + 100)
    drawn(tab)
    tab.keyboard.down("Control")
    tab.mouse.wheel(0, -300)
    tab.keyboard.up("Control")
    expect(world).to_have_attribute("transform", re.compile(r"scale\(2\.1"))
    zoomed = world.get_attribute("transform")
    slider = tab.get_by_role("slider")
    slider.focus()
    slider.press("ArrowRight")
    caption = tab.locator("svg .caption")
    expect(caption).to_contain_text("of 46 edges chosen by absolute score")
    assert world.get_attribute("transform") == zoomed
    settle(tab)
    tab.reload()
    expect(caption).to_contain_text("of 46 edges")
    settle(tab)
    exactly = tab.get_by_role("spinbutton", name="exactly")
    exactly.fill("57")
    exactly.press("Enter")
    expect(caption).to_contain_text("of 57 edges")
    expect(tab).to_have_url(re.compile("edges=57"))
    settle(tab)
    go(tab, "3 · Scores")
    go(tab, "4 · Circuit")
    expect(caption).to_contain_text("of 57 edges")
    tab.go_back()  # once
    expect(tab.get_by_role("heading", level=2, name="3 · Scores")).to_be_visible()


def test_pictures_are_saved_with_their_caption(tab: Page, app: str, run: Run) -> None:
    visit(tab, app, "Circuit", run=run.id, edges="40")
    with tab.expect_download() as png:
        tab.get_by_role("button", name="PNG").click()
    data = png.value.path().read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20], "big") >= 1380  # twice as many pixels as on the page
    with tab.expect_download() as svg:
        tab.get_by_role("button", name="SVG", exact=True).click()
    root = ElementTree.fromstring(svg.value.path().read_text())
    words = " ".join(text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text"))
    assert run.caption in words
    tab.get_by_role("button", name="Export").click()
    with tab.expect_download() as graphml:
        tab.get_by_role("button", name="Graph, GraphML").click()
    assert b"graphml" in graphml.value.path().read_bytes()


def test_a_click_on_the_curve_shows_the_circuit_of_that_size(tab: Page, app: str, run: Run) -> None:
    visit(tab, app, "Circuit", run=run.id, edges="40")
    expect(tab.get_by_test_id("stMetricValue")).to_be_visible(timeout=READY)
    tab.get_by_role("button", name="Measure all sizes").click()
    plot = tab.locator(".js-plotly-plot").last
    expect(plot.locator(".scatterlayer")).to_be_visible(timeout=READY)
    expect(tab.get_by_text("CPR", exact=True)).to_be_visible()
    settle(tab)
    plot.scroll_into_view_if_needed()
    listens(plot)
    at = plot.evaluate(
        """plot => {
            const { xaxis, yaxis } = plot._fullLayout, box = plot.getBoundingClientRect()
            const trace = plot.data.find(({ name }) => name == "edges by score")
            const i = trace.x.indexOf(13)
            return [box.x + xaxis._offset + xaxis.d2p(trace.x[i]), box.y + yaxis._offset + yaxis.d2p(trace.y[i])]
        }"""
    )
    tab.mouse.move(*at)
    tab.mouse.click(*at)
    expect(tab.locator("svg .caption")).to_contain_text("of 13 edges chosen by absolute score", timeout=READY)
    expect(tab).to_have_url(re.compile("edges=13"))
