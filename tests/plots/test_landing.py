"""The picture of the landing page, and its words, are what the example finds."""

from __future__ import annotations

import re
from collections import Counter

from circuit.edges.subgraph import circuit_graph
from circuit.jobs.attribute import attribute
from circuit.jobs.measure import MeasureRequest, measure
from circuit.plots.landing import DESCRIBED, PICTURES
from circuit.runs.examples import EXAMPLES


def test_the_picture_and_its_words_are_what_the_example_finds() -> None:
    example = EXAMPLES["teaching-ioi"]
    assert example.size is not None
    run = attribute(example.config)
    live = run.ranked("signed", "connected").first(example.size)
    drawn = circuit_graph(run.graph, live, run.scores)
    kinds = Counter(kind for _, kind in drawn.nodes(data="kind"))
    rows = tuple(run.used_rows)
    request = MeasureRequest(run.config, run.scores, (example.size,), importance="signed", rule="connected", rows=rows)
    (kept,) = measure(request).faithfulness
    assert len(live) == example.size  # or the picture would show fewer than it says
    assert DESCRIBED.endswith(
        f"{kinds['head']} heads and the {kinds['mlp']} MLPs, joined by {len(live)} edges, keep {kept:.0%} of the task."
    )
    assert f"joined by {run.graph.n_edges} edges. Right" in DESCRIBED
    for path in PICTURES.values():
        titles = re.findall(r'font-weight="600"[^>]*>([^<]*)', path.read_text())
        assert titles == [f"The model: {run.graph.n_edges} edges", f"Its circuit: {len(live)} edges keep {kept:.0%}"]
