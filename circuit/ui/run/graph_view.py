"""The circuit on the page: an SVG that is zoomed, dragged, hovered and clicked.

    show(svg, height=560, picked="node:A3.7", file_name="circuit", key="graph", on_click=look_at)

The picture is drawn in Python (`circuit.plots.graph_svg`); `graph_view.js` adds what a browser does. Zoom and place
stay when another circuit is shown, and nodes that both have glide to their new places.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st

_JS = (Path(__file__).parent / "graph_view.js").read_text(encoding="utf-8")
_CSS = """
.host svg { display: block; width: 100%; height: 100%; border-radius: 6px; }
.stage { cursor: grab; touch-action: none; }
.stage:active { cursor: grabbing; }
.node, .edge { cursor: pointer; outline: none; }
.node:focus-visible path { stroke-width: 3; }
.world.focus .node:not(.lit) { opacity: .25; }
.world.focus .edge:not(.lit), .world.focus .link:not(.lit) { opacity: .07; }
.world.focus .signs > :not(.lit) { opacity: .07; }
.world.focus .edge.lit { opacity: 1; }
.edge.picked { opacity: 1; }
.edge.picked .line { stroke: var(--st-text-color); }
.edge.picked .tip { fill: var(--st-text-color); }
.node.picked path { stroke: var(--st-text-color); stroke-width: 3; }
.tools { display: flex; gap: 4px; justify-content: flex-end; margin-top: 4px; }
.tools button { font: 12px var(--st-font); color: var(--st-text-color); background: var(--st-background-color);
  border: 1px solid var(--st-border-color); border-radius: 4px; padding: 2px 7px; cursor: pointer; }
.tools button:hover { border-color: var(--st-primary-color); }
"""
_HTML = """<div class="host"></div><div class="tools">
<button data-do="in" aria-label="Zoom in">+</button><button data-do="out" aria-label="Zoom out">−</button>
<button data-do="reset" title="Show all">Reset</button>
<button data-do="png" title="Download as PNG">PNG</button><button data-do="svg" title="Download as SVG">SVG</button>
</div>"""

_view = st.components.v2.component("circuit_graph", html=_HTML, css=_CSS, js=_JS)


def show(
    svg: str, *, height: int, picked: str | None, file_name: str, key: str, on_click: Callable[[str], None]
) -> None:
    """Draw the circuit.

    Args:
        svg: The picture.
        height: In pixels.
        picked: The item to mark: `node:A3.7` or `edge:12`.
        file_name: Of saved pictures, without an ending.
        key: The same key keeps zoom and place.
        on_click: Called before the page runs again, with the item that was clicked, or `none` beside all.
    """

    def report() -> None:
        if item := st.session_state[key].clicked:
            on_click(str(item))

    data = {"svg": svg, "height": height, "picked": picked or "", "file": file_name}
    _view(data=data, key=key, on_clicked_change=report)
