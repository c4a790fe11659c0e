"""How much two runs agree: rank correlation, shared strongest edges, and which settings differ.

    why_not_comparable   what keeps runs from being compared edge by edge
    differing_settings   a table of the settings in which runs differ
    spearman             rank correlation of two runs' scores
    overlap              the share of the n strongest edges that two rankings have in common, for every n
    overlap_of           the same of two runs
    pairs_of             every pair of some runs
    only_in              the edges among the n strongest of one run and not of the other

    shared = overlap_of(first, second)
    shared[99]                              # of the 100 strongest edges
    expected_overlap(len(shared))[99]       # of 100 edges drawn at random

Nothing here imports torch.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from circuit.edges.kinds import RULES
from circuit.edges.ranking import edge_table
from circuit.runs.run import Run


def why_not_comparable(runs: Sequence[Run]) -> str | None:
    """A sentence that says what keeps the runs' edges from being the same; None where they are.

    Edges are those of one model: head 5 of another model of the same shape has nothing to do with this one's.
    """
    shapes = [run.graph.to_dict() for run in runs]
    for name, words in _SHAPE_WORDS.items():
        values = [shape[name] for shape in shapes]
        if len(set(values)) > 1:
            of = ", ".join(_SHAPE_VALUES.get((name, value), f"{value}") for value in values)
            return f"These runs cannot be compared edge by edge: {words} differ ({of}). Choose runs of one model" + (
                ", with prompts of one length." if name == "seq_len" else "."
            )
    if any(_models_differ(runs[0], run) for run in runs[1:]):
        names = [str(run.provenance.get("model", run.config.model)) for run in runs]
        what = "models" if len(set(names)) > 1 else "models' weights"
        of = ", ".join(names if len(set(names)) > 1 else [f"{names[0]} {_weights(run)}" for run in runs])
        return f"These runs cannot be compared edge by edge: their {what} differ ({of}). Choose runs of one model."
    return None


def _models_differ(one: Run, other: Run) -> bool:
    """By the hash or revision of their weights where both have recorded the same kind, else by their names."""
    first, second = _identity(one), _identity(other)
    for kind in ("sha256", "revision"):
        if kind in first and kind in second:
            return bool(first[kind] != second[kind])
    return one.config.model != other.config.model


def _identity(run: Run) -> dict[str, Any]:
    weights: Any = run.provenance.get("weights")
    return weights if isinstance(weights, dict) else {}


def _weights(run: Run) -> str:
    """The first digits of what identifies a run's weights."""
    identity = _identity(run)
    return str(identity.get("revision") or identity.get("sha256") or "not recorded")[:12]


_SHAPE_WORDS = {
    "n_layers": "the numbers of layers",
    "n_heads": "the numbers of heads",
    "n_kv_heads": "the numbers of key-value heads",
    "parallel": "the orders of attention and MLP",
    "seq_len": "the token positions kept apart",
}
_SHAPE_VALUES = {
    ("parallel", True): "side by side",
    ("parallel", False): "one after the other",
    ("seq_len", None): "none",
}


def differing_settings(runs: Sequence[Run]) -> pd.DataFrame:
    """One row for every setting in which the runs differ, one column per run, in their order; all as text."""
    columns = [_settings(run) for run in runs]
    differing = {
        name: [column[name] for column in columns]
        for name in columns[0]
        if len({column[name] for column in columns}) > 1
    }
    return pd.DataFrame.from_dict(differing, orient="index", columns=range(len(runs)), dtype=str)


def _settings(run: Run) -> dict[str, str]:
    config, method = run.config, run.config.method
    said: dict[str, Any] = {
        "model": run.provenance.get("model", config.model),
        "weights": _weights(run),
        "precision": run.provenance.get("dtype", config.dtype),
        "device": run.provenance.get("device", config.device),
        "prompts": _prompts(run),
        "pairs scored": f"{len(run.used_rows)} of {len(config.prompts)}",
        "BOS token": run.provenance.get("prepend_bos", config.prepend_bos),
        "grad function": method.grad_function,
        "answer function": method.answer_function,
        "ablation": str(method.ablation_type),
        "activations taken from": method.clean_corrupt if method.ablation_type.reads_batch else "not used",
        "method": method.kind.title,
        "points": method.points_in_words,
        "backward pass": RULES[method.backward].title,
        "held out": f"{config.held_out:.0%}, seed {config.split_seed}" if config.held_out else "none",
    }
    if method.ablation_type.needs_batch_size:
        said["batch size"] = config.batch_size
    else:
        said["batch size"] = "does not matter"
    return {name: str(value) for name, value in said.items()}


def _prompts(run: Run) -> str:
    """The prompts' name, and a few digits that differ where their pairs do."""
    digits = f"{zlib.crc32(repr(run.config.prompts.pairs).encode()):08x}"
    return f"{run.config.prompts.name} ({len(run.config.prompts)} pairs, fingerprint {digits[:6]})"


def spearman(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"]) -> float:
    """Spearman's rank correlation: Pearson's, of the ranks, equal numbers sharing the mean of theirs. NaN where either
    has one value only."""
    ranks = [pd.Series(np.asarray(values, dtype=np.float64)).rank().to_numpy() for values in (first, second)]
    if any(np.ptp(values) == 0 for values in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def overlap(
    first: Int[np.ndarray, " n_edges"], second: Int[np.ndarray, " n_edges"], n_scored: tuple[int, int] | None = None
) -> Float[np.ndarray, " n_edges"]:
    """For n from 1 to all edges, which share of the n strongest two runs have in common; from their `Run.ranks`.

    An edge is among both runs' n strongest from n = the larger of its two ranks on. `n_scored` says how many edges of
    each run have a score that is not zero. Zeros tie, and their ranks say nothing: the places that are left for them
    are shared among them as if drawn at random, so what comes out is the mean over such draws. Without `n_scored`
    every rank counts.
    """
    n_edges = len(first)
    n = np.arange(1, n_edges + 1)
    scored = n_scored or (n_edges, n_edges)
    chance = [  # that an edge of score zero is among the n strongest
        np.maximum(n - of, 0) / max(n_edges - of, 1) for of in scored
    ]
    has_score = [ranks <= of for ranks, of in zip((first, second), scored, strict=True)]

    def up_to(ranks: np.ndarray, which: np.ndarray) -> np.ndarray:
        """How many of these edges have a rank of at most n."""
        return np.cumsum(np.bincount(ranks[which], minlength=n_edges + 1)[1:])

    shared = up_to(np.maximum(first, second), has_score[0] & has_score[1]).astype(np.float64)
    shared += up_to(first, has_score[0] & ~has_score[1]) * chance[1]
    shared += up_to(second, ~has_score[0] & has_score[1]) * chance[0]
    shared += np.count_nonzero(~has_score[0] & ~has_score[1]) * chance[0] * chance[1]
    return shared / n


def overlap_of(first: Run, second: Run) -> Float[np.ndarray, " n_edges"]:
    """`overlap` of two runs, zeros being ties."""
    n_scored = int(np.count_nonzero(first.scores)), int(np.count_nonzero(second.scores))
    return overlap(first.ranks, second.ranks, n_scored)


def expected_overlap(n_edges: int) -> Float[np.ndarray, " n_edges"]:
    """The same for edges drawn at random: n of them share n / n_edges of theirs with any other n, on average."""
    return np.arange(1, n_edges + 1) / n_edges


def only_in(first: Run, second: Run, n: int) -> pd.DataFrame:
    """The edges among the `n` strongest of the first run and not of the second: the first's table of them (see
    `edge_table`), with score and rank in the second. An edge of score zero is none of the strongest."""
    edges = first.order[:n]
    outside = (second.ranks[edges] > n) | ((second.scores[edges] == 0) & (n < len(second.scores)))
    edges = edges[(first.scores[edges] != 0) & outside]
    table = edge_table(first.graph, first.scores, edges, ranks=first.ranks)
    names = [name for name in ("rank", "source", "destination", "input", "position", "score") if name in table]
    found = table[names].copy()
    found["score in the other"] = second.scores[edges]
    found["rank in the other"] = second.ranks[edges]
    return found


def pairs_of(names: Sequence[str]) -> list[tuple[int, int, str]]:
    """Every pair of runs: their numbers, and what to call the pair."""
    return [
        (one, other, f"{names[one]} and {names[other]}")
        for one in range(len(names))
        for other in range(one + 1, len(names))
    ]
