"""What stands beside CPR and CMD, so that they can be read: two areas to hold them against, and what they count.

KEEPS_NOTHING, KEEPS_ALL    CPR and CMD of circuits that keep nothing until all edges are there, and all at once
beside                      these, how edges are counted, and where circuits outdo their model: in sentences

beside(curve, run.graph)    # ('Circuits that keep nothing ... CPR 0.250 and CMD 0.749, ...', ...)
"""

from __future__ import annotations

import numpy as np

from circuit.edges.graph import EdgeGraph
from circuit.runs.faithfulness import CURVE_SHARES, Curve, cmd, cpr
from circuit.runs.verdict import OUTDOES

_NOTHING, _ALL = [0.0] * (len(CURVE_SHARES) - 1) + [1.0], [1.0] * len(CURVE_SHARES)
KEEPS_NOTHING = cpr(CURVE_SHARES, _NOTHING), cmd(CURVE_SHARES, _NOTHING)
"""CPR and CMD of circuits of which only the one of all edges does anything."""
KEEPS_ALL = cpr(CURVE_SHARES, _ALL), cmd(CURVE_SHARES, _ALL)
"""CPR and CMD of circuits of which every one, the smallest too, does what the model does."""


def beside(curve: Curve, graph: EdgeGraph) -> tuple[str, ...]:
    """Sentences that belong beside CPR and CMD of `curve`, which was measured on a model of this shape."""
    return tuple(filter(None, (_ends(), _counting(graph), outdoing(curve))))


def _ends() -> str:
    (nothing, far), (everything, near) = KEEPS_NOTHING, KEEPS_ALL
    return (
        f"Circuits that keep nothing until all edges are there have CPR {nothing:.3g} and CMD {far:.3g}; circuits that "
        f"keep everything at every size have CPR {everything:.3g} and CMD {near:.3g}."
    )


def _counting(graph: EdgeGraph) -> str:
    """How edges of shared key-value heads are counted, here and by the benchmark."""
    if graph.group == 1:
        return ""
    return (
        f"{graph.group} query heads share each key-value head of this model. Here its key and its value input count "
        f"once, which makes {graph.n_edges:,} edges; the benchmark counts them once for every query head, which makes "
        f"{graph.n_edges_by_query_head:,}: the same share of the edges is another circuit there."
    )


def outdoing(curve: Curve) -> str:
    """At which sizes the circuit outdoes its model; empty where it does at none."""
    sizes = np.array(curve.sizes)[curve.faithfulness > OUTDOES]
    if not len(sizes):
        return ""
    largest = float(curve.faithfulness.max())
    where = f"At {sizes[0]:,} edges" if len(sizes) == 1 else f"At {len(sizes)} sizes from {sizes[0]:,} edges on"
    return (
        f"{where} faithfulness is above {OUTDOES:.0%}, up to {largest:.0%}: there the circuit outdoes the model rather "
        "than recovering it, since edges that hinder are left out. CPR counts that as gain, CMD as distance."
    )
