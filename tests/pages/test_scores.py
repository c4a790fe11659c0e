"""3 · Scores, driven without a browser, with real jobs and a small random model."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from circuit.edges.graph import EdgeGraph
from circuit.edges.ranking import top_edges
from circuit.jobs.attribute import attribute
from circuit.jobs.inspect import EffectsRequest, measure_effects
from circuit.runs.config import RunConfig
from circuit.runs.run import Baseline, Run
from tests.visitor import CIRCUIT, NUMBERS, SCORES, Visitor


def number_of(run: Run, name: str) -> int:
    """The number of the edge of this name."""
    (edge,) = (edge for edge in range(run.graph.n_edges) if run.graph.edge_name(edge) == name)
    return edge


def test_clicking_a_cell_shows_its_edges_and_clicking_one_explains_it(stored: Run) -> None:
    visitor = Visitor(SCORES, run=stored.id)
    assert "Click a cell" in visitor.words()
    visitor.at.session_state[f"overview-{stored.id}"] = {"selection": {"points": [{"y": "A2.V", "x": "A0"}]}}
    visitor.run()
    assert "**A0 → A2.V**" in visitor.words()
    edge = number_of(stored, "A0.1->A2.0.V")
    visitor.at.session_state[f"block-{stored.id}-A2.V-A0"] = {"selection": {"points": [{"customdata": [edge]}]}}
    visitor.run()
    assert "**A0.1 → A2.kv0.V** · number" in visitor.words()
    assert "Head 1 of layer 0 writes into the value input of key-value head 0 (heads 0 to 1)" in visitor.words()
    assert f"the loss by about {abs(stored.scores[edge]):.3g}, as its score estimates" in visitor.words()
    assert visitor.query()["edge"] == str(edge)
    again = Visitor(SCORES, **visitor.query())  # a reload, or a link
    assert "**A0.1 → A2.kv0.V** · number" in again.words()
    assert "**A0 → A2.V**" in again.words()


def test_an_edge_is_measured_by_really_ablating_it(stored: Run) -> None:
    edge = int(np.abs(stored.scores).argmax())
    visitor = Visitor(SCORES, run=stored.id, edge=str(edge))
    visitor.click("Measure by ablating it")
    visitor.wait(lambda: "really ablating it" in visitor.words())
    effect = measure_effects(EffectsRequest(stored.config, (edge,)))[edge]
    assert f"measured by really ablating it: {abs(effect):.3g}" in visitor.words()
    foretold = 0.5 < abs(effect / stored.scores[edge]) < 2
    assert ("lesson 3 of Learn" in visitor.words()) == (not foretold)
    visitor.go(CIRCUIT)
    visitor.at.query_params["look"] = f"edge:{edge}"
    visitor.run()
    assert f"measured by really ablating it: {abs(effect):.3g}" in visitor.words()  # kept over pages


def test_the_strongest_edges_are_measured_beside_their_scores(stored: Run) -> None:
    visitor = Visitor(SCORES, run=stored.id)
    visitor.choose(view="Score and effect")
    visitor.click("Measure 30 edges")
    visitor.wait(lambda: "of 30 have the sign of their score" in visitor.words())
    points = visitor.figure()["data"][1]
    assert [edge for (edge,) in points["customdata"]] == top_edges(stored.scores, 30).tolist()


def test_filters_apply_to_heatmap_and_table_and_stay_over_pages(stored: Run) -> None:
    visitor = Visitor(SCORES, run=stored.id)
    visitor.choose(inputs=["Q", "K"], sign="negative")
    visitor.at.text_input(key="from").set_value("A0, MLP 0")
    visitor.run()
    table = visitor.at.dataframe[0].value
    assert set(table["input"]) == {"Q", "K"}
    assert (table["score"] < 0).all()
    assert table["source"].str.match(r"A0\.|MLP 0").all()
    assert "Showing **only into Q, K, sources A0, MLP 0, score < 0**" in visitor.words()
    shown = np.array(visitor.figure()["data"][2]["text"])
    assert (shown == "no edge fits the filter").sum() > 0
    visitor.go(CIRCUIT)
    visitor.go(SCORES)
    assert visitor.at.dataframe[0].value.equals(table)
    visitor.at.text_input(key="from").set_value("A9")
    visitor.run()
    assert "No source of this model is called 'a9'" in visitor.words()
    assert len(visitor.at.dataframe[0].value)


def test_a_filter_of_one_run_does_not_hide_another(stored: Run, small: str) -> None:
    other = attribute(RunConfig(small, replace(NUMBERS, name="others")))
    other.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{other.id}.safetensors")
    visitor = Visitor(SCORES, run=stored.id)
    visitor.choose(inputs=["Final"])
    assert len(visitor.at.dataframe[0].value) == stored.graph.n_sources
    visitor.at.query_params.clear()
    visitor.at.query_params["run"] = other.id
    visitor.run()
    assert len(visitor.at.dataframe[0].value) == 100


@pytest.mark.parametrize("view", ["Nodes", "Every edge", "Fall-off"])
def test_the_other_views_show_a_figure_with_the_runs_caption(stored: Run, view: str) -> None:
    visitor = Visitor(SCORES, run=stored.id)
    visitor.choose(view=view)
    caption = visitor.figure()["layout"]["annotations"][-1]["text"].replace("<br>", " ")
    assert caption == stored.caption


def test_nodes_are_listed_by_what_their_edges_add_up_to(stored: Run) -> None:
    visitor = Visitor(SCORES, run=stored.id, view="Nodes")
    (table,) = [frame.value for frame in visitor.at.dataframe if "node" in frame.value]
    name, total = table.iloc[0]
    sums = {
        node.name: float(stored.scores[stored.graph.edge_source == source].sum())
        for source, node in enumerate(stored.graph.sources)
    }
    assert total == pytest.approx(sums[name], rel=1e-5)
    assert abs(total) == pytest.approx(max(map(abs, sums.values())), rel=1e-5)


def test_a_block_looked_at_in_one_model_does_not_break_a_smaller_one(stored: Run) -> None:
    visitor = Visitor(SCORES, run=stored.id)
    visitor.at.session_state[f"overview-{stored.id}"] = {"selection": {"points": [{"y": "A2.V", "x": "A0"}]}}
    visitor.run()
    graph = EdgeGraph(1, 1, 1)
    other = Run(stored.config, graph, np.arange(graph.n_edges, dtype=np.float32), Baseline(1, 0, 1), [0, 1, 2])
    other.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{other.id}.safetensors")
    visitor.at.query_params["run"] = other.id
    for page in (SCORES, CIRCUIT):
        visitor.go(page)
        shown = visitor.result()
        assert shown is not None
        assert shown.id == other.id


def test_a_link_from_before_the_ends_of_the_stream_had_one_name_shows_what_it_showed(stored: Run) -> None:
    new = Visitor(SCORES, run=stored.id)
    new.choose(inputs=["Final"], from_layers=(-1, 1), to_layers=(2, 3))
    table = new.at.dataframe[0].value
    assert set(table["destination"]) == {"Resid End"}
    assert set(table["input"]) == {"Resid End"}
    old = Visitor()
    old.at.query_params.update({"run": stored.id, "inputs": "Logits", "from_layers": ["embed", "1"]})
    old.at.query_params["to_layers"] = ["2", "logits"]
    old.go(SCORES)
    assert old.at.dataframe[0].value.equals(table)
    assert "from Resid Start to layer 1" in old.words()


def test_grouped_keys_and_values_have_one_name_in_table_panel_and_picture(stored: Run) -> None:
    graph = stored.graph
    kept = top_edges(stored.scores, 150)
    values = next(int(e) for e in kept if graph.destinations[graph.edge_destination[e]].name == "A2.1.V")
    label = f"{graph.sources[graph.edge_source[values]].name} → A2.kv1.V"
    place = int(stored.ranks[values]) - 1
    visitor = Visitor(SCORES, run=stored.id, edge=str(values), rows="300")
    assert visitor.at.dataframe[0].value["destination"].iloc[place] == "A2.kv1.V"
    assert f"**{label}** · number {place + 1} " in visitor.words()
    head = graph.heads_of(1)[0]
    panel = Visitor(CIRCUIT, run=stored.id, edges="150", look=f"node:A2.{head}")
    assert 'data-node="A2.kv1"' in panel.picture()
    assert "→ A2.kv1." in panel.words()
    assert "→ A2.1.K" not in panel.words()
    assert "→ A2.1.V" not in panel.words()
    assert panel.at.dataframe[0].value["destination"].isin(["A2.kv1.K", "A2.kv1.V"]).any()
