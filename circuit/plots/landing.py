"""The picture of the landing page: a whole model, and the circuit found in it, as the example's click finds it.

    landing_svg   the picture, from a run and its measured circuit

    python -m circuit.plots.landing        scores the teaching model's example anew, and writes PICTURES

Both halves stand in one layout, so that every part of the circuit is found again at its place in the model.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from circuit.edges.subgraph import circuit_graph
from circuit.plots.colors import PALETTES
from circuit.plots.graph_svg import circuit_marks
from circuit.plots.layout import circuit_layout
from circuit.runs.run import Run

PICTURES = {dark: Path(__file__).parent / f"landing-{'dark' if dark else 'light'}.svg" for dark in (False, True)}
"""By whether the page is dark."""

DESCRIBED = (
    "Left, the teaching model as a graph: 12 attention heads and 3 MLPs between Resid Start and Resid End, joined "
    "by 262 edges. Right, the circuit found in it: 3 heads and the 3 MLPs, joined by 15 edges, keep 98% of the task."
)
"""What they show, in words."""

_HALF, _HEIGHT, _TOP = 300, 250, 22
_FONT = 'font-family="system-ui, -apple-system, Segoe UI, Roboto, sans-serif"'


def landing_svg(run: Run, n_edges: int, faithfulness: float, *, dark: bool) -> str:
    """The model's edges, and beside them the circuit of the `n_edges` strongest.

    Args:
        run: A run of a small model.
        n_edges: The size of the circuit.
        faithfulness: What was measured that it keeps: 1 is as good as the model.
        dark: Whether the page is dark.
    """
    palette = PALETTES[dark]
    whole, circuit = (
        circuit_graph(run.graph, edges, run.scores, ranks=run.ranks)
        for edges in (np.arange(run.graph.n_edges), run.ranked("signed", "connected").first(n_edges))
    )
    layout = circuit_layout(whole, width=_HALF, height=_HEIGHT)
    height = layout.height + _TOP
    words = (f"The model: {run.graph.n_edges:,} edges", f"Its circuit: {n_edges} edges keep {faithfulness:.0%}")
    halves = "".join(
        f'<g transform="translate({x} 0)"><text x="{_HALF / 2}" y="15" text-anchor="middle" font-size="13" '
        f'font-weight="600" fill="{palette.text}">{escape(title)}</text>'
        f'<g transform="translate(0 {_TOP})"{faded}>{_still(circuit_marks(drawn, layout, palette))}</g></g>'
        for x, title, drawn, faded in ((0, words[0], whole, ' opacity=".45"'), (_HALF + 30, words[1], circuit, ""))
    )
    middle = _TOP + layout.height / 2
    arrow = f'<path d="M{_HALF} {middle}h22m-7 -6l7 6l-7 6" fill="none" stroke="{palette.faint}" stroke-width="2"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * _HALF + 30} {height}" width="{2 * _HALF + 30}" '
        f'height="{height}" {_FONT} font-size="11">{halves}{arrow}</svg>\n'
    )


def _still(marks: str) -> str:
    """Without what only hovering and clicking need: most of the file."""
    return re.sub(r'<title>.*?</title>|<path class="hit"[^>]*/>| (data-\w+|tabindex|role)="[^"]*"', "", marks)


def main() -> None:
    from circuit.jobs.attribute import attribute
    from circuit.jobs.measure import MeasureRequest, measure
    from circuit.runs.examples import EXAMPLES

    example = EXAMPLES["teaching-ioi"]
    assert example.size is not None
    run = attribute(example.config)
    rows = tuple(run.used_rows)
    request = MeasureRequest(run.config, run.scores, (example.size,), importance="signed", rule="connected", rows=rows)
    (kept,) = measure(request).faithfulness
    for dark, path in PICTURES.items():
        path.write_text(landing_svg(run, example.size, float(kept), dark=dark), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
