"""A run held against the circuit that is known of its model.

    truth_of      a run's Truth; None where nothing is known, or where it holds for other runs only
    why_not       why there is none, in a sentence, where the model's circuit is known
    Truth         which edges belong to the circuit, and how a run's scores and circuits stand to that
    auroc         how well scores tell edges inside from edges outside

    run = attribute(RunConfig("known-induction", PRESETS["known-induction"].prompts))
    truth = truth_of(run)
    truth.auroc(run.scores)                          # 0.7; 1 if every edge of the circuit scored above all others
    truth.hits(run.order[:5])                        # of the five strongest, those that belong to the circuit

Precision is the share of the edges found that belong to the circuit, recall the share of the circuit that was found.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from circuit.common.errors import CircuitError
from circuit.edges.graph import EdgeGraph
from circuit.edges.ranking import Importance, strength_of, top_edges
from circuit.models.catalogue import title_of
from circuit.models.known.circuits import KnownCircuit, known_circuit
from circuit.runs.run import Run

ROUNDING = 1e-6
"""A score below this share of the largest is rounding: all such scores count as equal."""


@dataclass(frozen=True)
class Truth:
    """Which edges belong to the known circuit."""

    circuit: KnownCircuit
    graph: EdgeGraph
    inside: Bool[np.ndarray, " n_edges"]
    _carried: dict[int, str] = field(repr=False)

    @property
    def edges(self) -> Int[np.ndarray, " n_inside"]:
        """The circuit's edges by number."""
        return np.flatnonzero(self.inside)

    def carries(self, edge: int) -> str:
        """What an edge of the circuit, or a decoy, carries; empty where that is not said."""
        return self._carried.get(edge, "")

    def hits(self, found: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n_hits"]:
        """Edges that were found and belong to the circuit, in the order given."""
        return found[self.inside[found]]

    def false_alarms(self, found: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n_false"]:
        """Edges that were found and do not belong to the circuit, in the order given."""
        return found[~self.inside[found]]

    def misses(self, found: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n_misses"]:
        """Edges of the circuit that were not found."""
        return np.setdiff1d(self.edges, found)

    def strongest(self, scores: Float[np.ndarray, " n_edges"]) -> Int[np.ndarray, " n"]:
        """As many edges of largest absolute score as the circuit has, as far as scores are above rounding."""
        return top_edges(scores, min(len(self.edges), n_above_rounding(scores)))

    def precision(self, found: Int[np.ndarray, " n"]) -> float:
        """The share of the edges found that belong to the circuit; NaN where none were found."""
        return len(self.hits(found)) / len(found) if len(found) else float("nan")

    def recall(self, found: Int[np.ndarray, " n"]) -> float:
        """The share of the circuit that was found."""
        return len(self.hits(found)) / len(self.edges)

    def auroc(self, scores: Float[np.ndarray, " n_edges"]) -> float:
        """Of absolute scores; see `auroc`."""
        return auroc(np.abs(scores), self.inside)

    def over_sizes(
        self, scores: Float[np.ndarray, " n_edges"], most: int, importance: Importance = "absolute"
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Precision and recall of the 1, 2, ... `most` most important edges, taken one by one."""
        hits = np.cumsum(self.inside[top_edges(scores, min(most, len(scores)), importance)])
        return hits / np.arange(1, len(hits) + 1), hits / len(self.edges)


def truth_of(run: Run) -> Truth | None:
    """What is known of the circuit that a run looks for; None where nothing is.

    Raises:
        ModelError: When the file beside the model that should say it cannot be read, or names edges that the model does
            not have.
    """
    circuit = known_circuit(run.config.model)
    if circuit is None or _mismatch(circuit, run) is not None:
        return None
    return truth_for(circuit, run.graph)


def truth_for(circuit: KnownCircuit, graph: EdgeGraph) -> Truth:
    """The circuit's edges in a model of this shape.

    Raises:
        CircuitError: When it names an edge that the model does not have.
    """
    numbers = {graph.edge_name(edge): edge for edge in range(graph.n_edges)}
    if unknown := [name for name in (*circuit.edges, *circuit.decoys) if name not in numbers]:
        raise CircuitError(f"The known circuit names {unknown[0][:60]!r}, which is no edge of this model.")
    inside = np.zeros(graph.n_edges, dtype=bool)
    inside[[numbers[name] for name in circuit.edges]] = True
    carried = {numbers[name]: why for name, why in (circuit.decoys | circuit.edges).items()}
    return Truth(circuit, graph, inside, carried)


def why_not(run: Run) -> str | None:
    """Why a run cannot be held against its model's known circuit; None where it can, or where none is known.

    Raises:
        ModelError: As `truth_of`.
    """
    circuit = known_circuit(run.config.model)
    return None if circuit is None else _mismatch(circuit, run)


def _mismatch(circuit: KnownCircuit, run: Run) -> str | None:
    """Why the circuit is none for this run; None where it is one."""
    ablation = run.config.method.ablation_type.name.lower()
    if ablation != circuit.ablation:
        return (
            f"The circuit of {title_of(run.config.model)} is known under the ablation '{circuit.ablation}', and this "
            f"run used '{ablation}', under which other edges may matter."
        )
    if run.graph.seq_len is not None:
        return (
            f"The circuit of {title_of(run.config.model)} is known with token positions added up, and this run keeps "
            "them apart."
        )
    return None


def n_above_rounding(scores: Float[np.ndarray, " n_edges"]) -> int:
    """How many scores are more than rounding."""
    return int(np.count_nonzero(_without_rounding(np.abs(scores))))


def auroc(importance: Float[np.ndarray, " n_edges"], inside: Bool[np.ndarray, " n_edges"]) -> float:
    """The area under the receiver operating characteristic: how often an edge of the circuit is above one outside, over
    all such pairs; pairs of equals count half. 1 is best, 0.5 is chance.

    Scores below a millionth of the largest are rounding, and count as equal.

    Args:
        importance: How important each edge is: its absolute score.
        inside: Which edges belong to the circuit; NaN is returned where all or none do.
    """
    values = _without_rounding(strength_of(importance).astype(np.float64))
    order = np.argsort(values, kind="stable")
    _, first, counts = np.unique(values[order], return_index=True, return_counts=True)
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(first + (counts + 1) / 2, counts)  # equals share their mean rank
    n, rest = int(inside.sum()), int((~inside).sum())
    if not n or not rest:
        return float("nan")
    return float((ranks[inside].sum() - n * (n + 1) / 2) / (n * rest))


def _without_rounding(values: Float[np.ndarray, " n_edges"]) -> Float[np.ndarray, " n_edges"]:
    return np.where(values > ROUNDING * values.max(initial=0.0), values, 0.0)
