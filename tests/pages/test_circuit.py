"""4 · Circuit, driven without a browser, with real jobs and a small random model."""

from __future__ import annotations

import base64
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from circuit.edges.agreement import OPPOSITE, contradictions
from circuit.edges.choose import choose_edges
from circuit.edges.method import DEFAULT_METHOD, AblationType
from circuit.edges.ranking import edges_for_share, top_edges
from circuit.edges.stable import certificate
from circuit.edges.subgraph import connecting_size, live_edges, node_edges
from circuit.jobs.attribute import attribute
from circuit.jobs.inspect import AttentionRequest, EffectsRequest, measure_effects, read_attention
from circuit.jobs.measure import MeasureRequest, find_smallest, measure
from circuit.jobs.stability import StabilityRequest, edge_stability
from circuit.prompts.pairs import PromptSet
from circuit.prompts.presets import PRESETS
from circuit.runs.benchmark import beside
from circuit.runs.config import RunConfig
from circuit.runs.faithfulness import curve_sizes
from circuit.runs.library import RunLibrary
from circuit.runs.run import Run
from tests.visitor import ATTRIBUTE, CIRCUIT, SCORES, Visitor


@pytest.fixture
def library() -> RunLibrary:
    """The runs that the pages find."""
    return RunLibrary(Path(os.environ["EDGESCOPE_RUNS"]))


def test_a_circuit_is_drawn_and_measured(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id)
    visitor.wait(visitor.metrics)
    assert visitor.picture()
    assert "3 prompt pairs" in visitor.words()
    row = next(line for line in visitor.words().splitlines() if line.startswith("| logit avg_diff |"))
    whole, _, none = row.split("|")[2:5]
    assert (whole.strip(), none.strip()) == (f"{stored.baseline.clean:+.2f}", f"{stored.baseline.corrupt:+.2f}")


def test_what_is_on_the_page_stays_at_its_place_while_jobs_and_warnings_come_and_go(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id, edges="9999999")  # a warning, and no job yet
    assert "left out" in visitor.words()
    before = visitor.places()
    assert f"graph-{stored.id}" in before

    def stays() -> None:
        now = visitor.places()
        assert {key: place for key, place in now.items() if before.get(key, place) != place} == {}

    visitor.run()  # its jobs go on
    stays()
    visitor.wait(visitor.metrics)
    stays()
    visitor.wait(lambda: "each ablated alone" in visitor.words())
    stays()


def test_a_circuit_is_measured_on_the_pairs_that_were_held_out(halved: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id, edges="26")
    visitor.wait(visitor.metrics)
    assert "the 6 prompt pairs that were held out from the scores" in visitor.words()
    point, whole = measure(
        MeasureRequest(halved.config, halved.scores, (26, 262), drop_dead_ends=True, rows=tuple(halved.held_out_rows))
    ).points
    assert f"| logit avg_diff | {whole.mean:+.2f} | {point.mean:+.2f} |" in visitor.words()
    visitor.choose(measured_on="scored")
    visitor.wait(lambda: "the 6 prompt pairs that the scores were made from" in visitor.words())
    assert f"| logit avg_diff | {point.mean + 0.0:+.2f} | " not in visitor.words()


def test_circuits_of_all_sizes_are_measured_shown_and_found_again_after_a_reload(halved: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id, edges="26")
    visitor.wait(visitor.metrics)
    visitor.click("Measure all sizes")
    visitor.wait(lambda: "CPR" in visitor.metrics())
    sizes = curve_sizes(262)
    request = MeasureRequest(halved.config, halved.scores, sizes, rows=tuple(halved.held_out_rows))
    curve = measure(request)
    shown = visitor.metrics()
    assert (shown["CPR"], shown["CMD"]) == (f"{curve.cpr:.3f}", f"{curve.cmd:.3f}")
    assert float(shown["CPR of random edges"]) < curve.cpr
    for sentence in beside(curve, halved.graph):
        assert sentence in visitor.words()
    by_name = {trace["name"]: trace for trace in visitor.figure()["data"]}
    np.testing.assert_allclose(by_name["edges by score"]["y"][:4], curve.faithfulness[1:5], atol=1e-3)
    again = Visitor(CIRCUIT, run=halved.id, edges="26")
    assert again.metrics()["CPR"] == shown["CPR"]
    again.click("Find the smallest circuit that keeps 90%")
    smallest = find_smallest(request).smallest(0.9)
    again.wait(lambda: again.at.select_slider[0].value == smallest)
    assert again.metrics()["Smallest that keeps 90%"] == f"{smallest:,} edges"


def test_a_size_asked_for_by_the_curve_is_shown_whatever_the_rule(halved: Run, stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id, rule="Share of total")
    assert not visitor.at.select_slider
    visitor.at.session_state["choose_size"] = halved.id, 52  # as a click on a point of the curve does
    visitor.run()
    assert visitor.at.select_slider[0].value == 52
    assert "of 52 edges chosen by absolute score, without dead ends" in visitor.picture()
    visitor.choose(rule="Share of total")
    visitor.at.session_state["choose_size"] = stored.id, 26  # of a run that is no longer looked at
    visitor.run()
    assert not visitor.at.select_slider


def test_the_curve_can_be_measured_with_another_ablation(halved: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id, edges="26")
    visitor.wait(visitor.metrics)
    visitor.choose(curve_ablation="zero", with_random=False, by="score, signed")
    visitor.click("Measure all sizes")
    visitor.wait(lambda: "CPR" in visitor.metrics())
    curve = measure(
        MeasureRequest(
            halved.config, halved.scores, curve_sizes(262), "signed", True, ablation_type=AblationType.ZERO,
            rows=tuple(halved.held_out_rows),
        )
    )  # fmt: skip
    assert visitor.metrics()["CPR"] == f"{curve.cpr:.3f}"
    assert "Circuits are by **signed score**" in visitor.words()
    assert "measured with zero ablation" in str(visitor.figure()["layout"]["annotations"]).replace("<br>", " ")


def test_the_smallest_circuit_by_positive_score_may_be_none(stored: Run) -> None:
    scores = np.where(np.arange(stored.graph.n_edges) < 3, 1, -1).astype(np.float32)
    few = Run(stored.config, stored.graph, scores, stored.baseline, stored.used_rows)
    few.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{few.id}.safetensors")
    visitor = Visitor(CIRCUIT, run=few.id, edges="33", by="score > 0 only")
    assert "Only 3 edges have a positive score" in visitor.words()
    visitor.choose(with_random=False)
    visitor.click("Measure all sizes")
    visitor.wait(lambda: "CPR" in visitor.metrics())
    assert visitor.metrics()["CPR"] == "–"
    assert visitor.metrics()["Smallest that keeps 90%"] == "none by positive score"
    (line,) = [trace for trace in visitor.figure()["data"] if trace["name"] == "edges by score"]
    assert line["x"][-2:] == [3, stored.graph.n_edges]


def test_a_difference_that_other_prompts_would_turn_round_is_warned_of() -> None:
    """Four pairs, and three with clean and corrupt prompt swapped: what ablation takes from those it gives to these."""
    pairs = PRESETS["teaching-ioi"].prompts.pairs[:7]
    mixed = (*pairs[:4], *(replace(pair, clean=pair.corrupt, corrupt=pair.clean) for pair in pairs[4:]))
    run = attribute(RunConfig("teaching", PromptSet("mixed", mixed)))
    run.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{run.id}.safetensors")
    visitor = Visitor(CIRCUIT, run=run.id, edges="26")
    visitor.wait(visitor.metrics)
    assert "with 0 in this 95 % interval" in visitor.words()


def test_without_the_circuit_little_is_left(halved: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id, edges="26")
    visitor.wait(visitor.metrics)
    visitor.choose(direction="Is it needed?", with_random=False)
    visitor.click("Measure all sizes")
    visitor.wait(lambda: len(visitor.at.get("plotly_chart")) > 0)
    (line,) = [trace for trace in visitor.figure()["data"] if trace["name"] == "edges by score"]
    assert line["y"][-1] == pytest.approx(0, abs=1e-4)
    assert "CPR" not in visitor.metrics()  # an area over what is left would mean something else


def test_edges_that_other_draws_would_not_choose_are_faded(halved: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id, edges="26")
    visitor.wait(visitor.metrics)
    assert "of the draws of prompts" not in visitor.picture()
    visitor.choose(stable="Fade unstable")
    visitor.wait(lambda: "of the draws of prompts" in visitor.picture())
    assert "faded: in few of 200 bootstrap draws" in visitor.picture()
    assert "are in the circuits of this size of at least half of 200 bootstrap draws" in visitor.words()


def test_a_link_from_when_fading_was_a_switch_still_fades(halved: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id, edges="26", fade="true")
    visitor.wait(lambda: "of the draws of prompts" in visitor.picture())
    assert visitor.at.segmented_control("stable").value == "Fade unstable"
    assert "fade" not in visitor.query()
    assert Visitor(CIRCUIT, run=halved.id, edges="26", fade="false").at.segmented_control("stable").value == "Off"


def table_of(visitor: Visitor) -> pd.DataFrame:
    """The same as the picture, as a table."""
    return next(frame.value for frame in visitor.at.dataframe if "source" in frame.value)


def test_certified_edges_are_told_from_those_that_are_rejected_or_open(halved: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id, edges="26", stable="Certified")
    visitor.wait(lambda: "certified, " in visitor.words())
    stability = edge_stability(StabilityRequest(halved.config, 1000))
    drawn = live_edges(halved.graph, top_edges(halved.scores, 26))
    told = certificate(drawn, stability.halved, 26)
    counts = [len(edges) for edges in (told.certified, told.rejected, told.abstentions)]
    assert min(counts[:2]) > 0
    assert f"{counts[0]} certified, {counts[1]} rejected (×), {counts[2]} abstention" in visitor.words()
    assert "at least 90% of all halves of these 6 prompt pairs" in visitor.words()
    table = table_of(visitor)
    assert [verdict.split()[-1] for verdict in table["verdict"]] == list(told.verdicts)
    assert table["in halves"].tolist() == pytest.approx((told.held / 200).tolist())
    assert visitor.picture().count(">×</text>") == counts[1] + 1  # one for each such edge, one in the key
    assert f"{told.held[0]} of 200 random halves of the prompts have it in a circuit" in visitor.picture()
    visitor.choose(of_halves="50%")  # at once
    less = certificate(drawn, stability.halved, 26, 0.5)
    assert f"{len(less.certified)} certified" in visitor.words()
    assert len(less.certified) > counts[0]


def test_certificates_follow_the_rank_and_the_rule_and_answer_every_size_at_once(halved: Run) -> None:
    choice = {"by": "score, signed", "edges_are": "connected", "stable": "Certified", "of_halves": "70%"}
    visitor = Visitor(CIRCUIT, run=halved.id, edges="20", **choice)
    visitor.wait(lambda: "certified, " in visitor.words())
    stability = edge_stability(StabilityRequest(halved.config, 1000, "signed", "connected"))
    for n in (20, 33):
        edges = choose_edges(halved.graph, halved.scores, n, "signed", "connected")
        told = certificate(edges, stability.halved, n, 0.7)
        assert f"{len(told.certified)} certified, {len(told.rejected)} rejected" in visitor.words()
        visitor.at.number_input(key="exact").set_value(33)
        visitor.run()


def test_edges_whose_sign_other_draws_change_are_marked(halved: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id, edges="121", stable="Signs that hold", by="|score|")
    visitor.wait(lambda: "signs hold" in visitor.words())
    signs = edge_stability(StabilityRequest(halved.config, 1)).signs
    drawn = live_edges(halved.graph, top_edges(halved.scores, 121))
    hold = int((signs[drawn] >= 0.95).sum())
    assert 0 < hold < len(drawn)
    assert f"{hold} signs hold, {len(drawn) - hold} do not" in visitor.words()
    assert visitor.picture().count(">±</text>") == len(drawn) - hold + 1
    assert (table_of(visitor)["sign holds"] == "yes").sum() == hold
    visitor.choose(by="score, signed")
    assert "signs hold" in visitor.words()  # of any rank, from the same draws


def test_where_there_are_too_few_prompts_the_page_says_so(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id, edges="26", stable="Certified")
    assert visitor.at.segmented_control("stable").disabled
    assert "Certified: 3 prompt pairs: too few to draw from." in visitor.words()
    assert "certified, " not in visitor.words()


def test_all_edges_keep_the_whole_behaviour(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id)
    visitor.wait(visitor.metrics)
    visitor.at.select_slider[0].set_value(stored.graph.n_edges)
    visitor.run()
    assert visitor.metrics() == {"Faithfulness": "100%"}  # measured already, so there at once


def test_another_size_is_measured_anew_and_kept(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id)
    visitor.wait(visitor.metrics)
    for size in (26, 121):
        visitor.at.select_slider[0].set_value(size)
        visitor.run()
        row = f"| **{size}** |"
        visitor.wait(lambda row=row: row in visitor.words())  # type: ignore[misc]
    visitor.go(SCORES)
    visitor.go(CIRCUIT)
    assert visitor.at.select_slider[0].value == 121
    assert visitor.metrics()


def test_drawn_edges_are_ablated_one_at_a_time_and_what_they_really_do_is_counted(
    stored: Run, library: RunLibrary
) -> None:
    strongest = [int(edge) for edge in live_edges(stored.graph, top_edges(stored.scores, 30))]
    scores = stored.scores.copy()
    scores[strongest[0]] *= -1  # an estimate that really ablating contradicts
    wrong = replace(stored, id="d" * 32, scores=scores)
    library.save(wrong)
    effects = measure_effects(EffectsRequest(wrong.config, tuple(strongest)))
    opposite = contradictions(scores, effects, wrong.noise)
    assert strongest[0] in opposite
    visitor = Visitor(CIRCUIT, run=wrong.id, edges="30")
    visitor.wait(lambda: f"of {len(strongest)} edges, each ablated alone" in visitor.words())
    assert f"{len(opposite)} do the opposite ({OPPOSITE})" in visitor.words()
    assert f"{OPPOSITE} the opposite" in visitor.words()
    assert visitor.picture().count(OPPOSITE) >= len(opposite)
    assert library.effects(wrong.id) == pytest.approx(effects, rel=1e-3, abs=1e-6)


def test_checking_stops_where_it_is_switched_off(stored: Run, library: RunLibrary) -> None:
    other = replace(stored, id="e" * 32)
    library.save(other)
    visitor = Visitor(CIRCUIT)
    visitor.at.session_state["check_edges"] = False
    visitor.at.query_params["run"] = other.id
    visitor.run()
    visitor.wait(visitor.metrics)
    visitor.run()
    assert library.effects(other.id) == {}
    assert "each ablated alone" not in visitor.words()


def test_where_little_is_kept_what_would_help_is_a_click_away(halved: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id, edges="5")
    visitor.wait(visitor.metrics)
    assert int(visitor.metrics()["Faithfulness"].rstrip("%")) < 80
    visitor.click("Take connected edges that help")
    visitor.wait(visitor.metrics)
    assert visitor.at.selectbox("by").value == "score, signed"
    assert visitor.at.selectbox("edges_are").value == "connected"
    assert "Take connected edges that help" not in [button.label for button in visitor.at.button]
    visitor.click("Score by integrated gradients")
    visitor.go(ATTRIBUTE)
    assert visitor.at.selectbox("kind").value == DEFAULT_METHOD.kind.title
    assert visitor.finish().config == replace(halved.config, method=DEFAULT_METHOD)


def test_where_the_task_is_done_nothing_is_advised(halved: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id, edges="262")
    visitor.wait(visitor.metrics)
    assert "What would help" not in visitor.words()


def test_the_circuits_size_stands_in_its_address(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id, edges="33")
    assert "of 33 edges chosen by absolute score" in visitor.picture()
    assert visitor.at.select_slider[0].value == 33
    assert visitor.at.number_input(key="exact").value == 33
    visitor.at.number_input(key="exact").set_value(71)
    visitor.run()
    assert visitor.at.select_slider[0].value == 71
    assert "of 71 edges chosen by absolute score" in visitor.picture()


def test_a_circuit_can_be_chosen_by_score_and_by_share(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id, by="|score|", edges_are="one by one")
    visitor.choose(rule="Score at least", threshold=0.05)
    n = int((np.abs(stored.scores) >= 0.05).sum())
    assert f"of {n} edges chosen by absolute score" in visitor.picture()
    visitor.choose(rule="Share of total", share=75.0)
    n = len(edges_for_share(stored.scores, 0.75))
    assert f"of {n} edges chosen by absolute score" in visitor.picture()
    visitor.choose(by="score > 0 only")
    n = len(edges_for_share(stored.scores, 0.75, "positive"))
    assert f"of {n} edges chosen by positive score only" in visitor.picture()


def test_by_positive_score_only_such_edges_are_drawn_and_measured(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id, edges="40")
    visitor.choose(by="score > 0 only")
    edges = {int(edge) for edge in re.findall(r'data-item="edge:(\d+)"', visitor.picture())}
    assert edges
    assert all(stored.scores[edge] > 0 for edge in edges)
    visitor.wait(visitor.metrics)
    assert "the 40 edges of largest positive score" in visitor.words()
    request = MeasureRequest(stored.config, stored.scores, (40,), importance="positive", drop_dead_ends=True)
    assert f" | {measure(request).points[0].mean:+.2f} | " in visitor.words()


def test_dead_ends_are_dropped_and_counted_unless_they_are_wanted(stored: Run) -> None:
    live = {n: len(live_edges(stored.graph, top_edges(stored.scores, n))) for n in range(5, 60)}
    n = next(n for n in live if live[n] and n - live[n] > 1)
    visitor = Visitor(CIRCUIT, run=stored.id, edges=str(n))
    assert f"{n - live[n]} of the {n} edges are dead ends" in visitor.words()
    assert visitor.picture().count('class="edge"') == live[n]
    visitor.choose(edges_are="one by one, dead ends too")
    assert visitor.picture().count('class="edge"') == n
    assert "drawn too" in visitor.words()
    n = next(n for n in live if n - live[n] == 1)
    assert f"1 of the {n} edges is a dead end" in Visitor(CIRCUIT, run=stored.id, edges=str(n)).words()


def test_a_node_shows_its_strongest_edges_and_a_head_its_attention(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id, edges="150", look="node:A1.2")
    into, out_of = node_edges(stored.graph, {"kind": "head", "layer": 1, "head": 2})
    total = np.abs(stored.scores[into]).sum()
    assert f"**In**: {len(into)} edges, sum of |score| {total:.3g}" in visitor.words()
    strongest = out_of[np.abs(stored.scores[out_of]).argmax()]
    assert f"{stored.graph.edge_label(strongest)}: {stored.scores[strongest]:+.3g}" in visitor.words()
    visitor.choose(attention=True)
    visitor.wait(lambda: visitor.at.get("plotly_chart"))
    pair = read_attention(AttentionRequest(stored.config, 0, 1, 2))
    shown = [
        np.frombuffer(base64.b64decode(trace["z"]["bdata"]), dtype=np.float32).reshape(4, 4)
        for trace in visitor.figure()["data"]
    ]
    for pattern, z in zip((pair.clean, pair.corrupt), shown, strict=True):
        np.testing.assert_allclose(z[np.tri(4, dtype=bool)], pattern[np.tri(4, dtype=bool)], atol=1e-4)
    visitor.click("Close")
    assert "A1.2**" not in visitor.words()


def test_every_export_is_offered(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id)
    labels = " ".join(button.proto.label for button in visitor.at.get("download_button"))
    for kind in ("SVG", "GraphML", "node-link JSON", "DOT", "safetensors", "CSV", "benchmark's JSON", "Python"):
        assert kind in labels


def test_a_page_opened_afresh_shows_a_connected_circuit_of_edges_that_help(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id)
    n = int(str(visitor.at.select_slider[0].value))
    edges = choose_edges(stored.graph, stored.scores, n, "signed", "connected")
    assert n == len(edges) == len(live_edges(stored.graph, edges)) > 5
    assert f"{n} of {n} edges chosen by signed score, connected" in visitor.picture()
    visitor.choose(edges_are="by paths")
    assert "edges chosen by signed score, path by path" in visitor.picture()


@pytest.mark.parametrize("dead_ends", [None, "false"])
def test_a_link_from_before_edges_could_be_connected_shows_what_it_showed(stored: Run, dead_ends: str | None) -> None:
    old = {"run": stored.id, "edges": "30"} | ({} if dead_ends is None else {"dead_ends": dead_ends})
    visitor = Visitor(CIRCUIT, **old)
    edges = top_edges(stored.scores, 30)
    drawn = edges if dead_ends else live_edges(stored.graph, edges)
    assert visitor.picture().count('class="edge"') == len(drawn)
    assert "of 30 edges chosen by absolute score" in visitor.picture()


def test_the_smallest_circuit_that_keeps_a_share_is_a_click_away(halved: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id)
    visitor.at.button("keeps-0.8").click()
    visitor.run()
    visitor.wait(lambda: not visitor.at.button("keeps-0.8").disabled and "keeps" not in str(visitor.query()))
    n = int(str(visitor.at.select_slider[0].value))
    rows = tuple(halved.held_out_rows)
    request = MeasureRequest(
        halved.config, halved.scores, (n,), importance="signed", rule="connected", drop_dead_ends=True, rows=rows
    )
    assert measure(request).faithfulness[0] >= 0.8


def test_a_circuit_without_a_path_says_so(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id, by="|score|", edges_are="one by one")
    scores = np.zeros(stored.graph.n_edges, np.float32)
    scores[0] = 1  # one edge into the first head's query leads nowhere
    lonely = Run(stored.config, stored.graph, scores, stored.baseline, stored.used_rows)
    visitor.at.session_state["run"] = lonely
    visitor.at.query_params["run"] = lonely.id
    visitor.run()
    visitor.at.select_slider[0].set_value(5)
    visitor.run()
    assert "No path leads from Resid Start to Resid End" in visitor.words()
    assert "**Not a circuit**: all 5 edges are on no path" in visitor.words()
    assert "keep" not in visitor.words().partition("Does it still do the task?")[2].partition("How much")[0]
    assert not visitor.metrics()
    smallest = connecting_size(lonely.graph, lonely.order)
    assert smallest is not None
    visitor.click(f"Show the smallest that connects: {smallest} edges")
    assert visitor.at.select_slider[0].value == smallest
    assert visitor.picture()
