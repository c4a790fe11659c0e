"""What each method's circuits keep, on pairs that its scores have not seen: every path with every backward rule.

    python -m benchmarks.methods                           SmolLM2-135M, 64 pairs of `ioi-many`, half held out
    python -m benchmarks.methods --preset agreement --effects      the same with pairs made by the preset's template
    python -m benchmarks.methods --model teaching --preset teaching-ioi --pairs 48

A line per method: CPR of circuits by signed score and CMD of circuits by absolute score, at the shares and by the edge
count of the model itself; the area under the share of prompts that circuits by absolute score get right, at the same
shares; faithfulness of circuits of a few sizes, chosen by signed score so that they hang together;
the fewest edges that keep 90 % by each selection rule, by bisection; and the rank correlation of scores with really
ablating edges that are spread over the whole range of scores. A line is printed when it is there. On two quiet cores a
line of SmolLM2 takes about two minutes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks.attribution import machine
from circuit.common.progress import Progress
from circuit.edges.choose import SelectionRule, choose_edges
from circuit.edges.method import AblationType, Backward, Method, PatchType
from circuit.edges.ranking import Importance, edge_mask, top_edges
from circuit.engine.batches import ready
from circuit.engine.dataset import PromptDataLoader, PromptPairBatch
from circuit.engine.effects import edge_effects
from circuit.engine.loss import is_right, prompt_values
from circuit.engine.mask_gradient import score_edges
from circuit.engine.model import PatchableModel
from circuit.engine.patching import circuit_outputs
from circuit.jobs.load import models
from circuit.prompts.encode import encode
from circuit.prompts.presets import PRESETS
from circuit.runs.comparison import spearman
from circuit.runs.config import RunConfig
from circuit.runs.faithfulness import CURVE_SHARES, cmd, cpr

SIZES = (10, 25, 50, 100, 200, 450)
RULES: tuple[tuple[Importance, SelectionRule], ...] = (
    ("absolute", "top"),
    ("signed", "top"),
    ("signed", "connected"),
    ("signed", "paths"),
)
TARGET = 0.9
N_EFFECTS = 60

HEAD = (
    "| method | passes | seconds | CPR, signed | CMD, absolute | accuracy | "
    + " | ".join(f"f at {n}" for n in SIZES)
    + " | edges for 90 %: "
    + " / ".join(f"{rule}, {rank}" for rank, rule in RULES)
    + " | correlation with effects |"
)


def methods(activations: bool) -> Iterator[tuple[str, Method]]:
    """Every path with every backward rule."""
    for backward in get_args(Backward):
        yield f"EAP, {backward}", Method(backward=backward)
        for path in ("masks", "inputs", "activations"):
            if path != "activations" or activations:
                n = 1 if path == "activations" else 5
                fine = Method(
                    mask_val=None,
                    integrated_grad_samples=n,
                    integration_rule="midpoint",
                    path=path,
                    backward=backward,
                )
                yield f"{path}, {n} points, midpoint, {backward}", fine
        published = Method(mask_val=None, integrated_grad_samples=5, path="inputs", backward=backward)
        yield f"inputs, 5 points, reference, {backward}", published
        yield f"ends, {backward}", Method(mask_val=None, path="ends", backward=backward)


class Circuits:
    """Faithfulness of circuits on held-out pairs."""

    def __init__(self, model: PatchableModel, loader: PromptDataLoader, method: Method) -> None:
        self._model, self._method = model, method
        self._loader = ready(model, loader, AblationType.RESAMPLE)
        n = model.graph.n_edges
        none, whole = self._means([np.zeros(n, dtype=bool), np.ones(n, dtype=bool)])[:, 0]
        self.none, self.span = none, whole - none

    def _means(self, circuits: Sequence[np.ndarray]) -> np.ndarray:
        """For each circuit, the mean value of the loss's answers and the share of prompts that it gets right."""

        def read(batch: PromptPairBatch, number: int, logits: torch.Tensor) -> torch.Tensor:
            return torch.stack([prompt_values(logits, batch, self._method), is_right(logits, batch)], dim=1)

        found = circuit_outputs(
            self._model, self._loader, circuits, PatchType.TREE_PATCH, AblationType.RESAMPLE, False, Progress(), read
        )
        return np.array([torch.cat(parts).mean(0).tolist() for parts in zip(*found, strict=True)])

    def measured(self, chosen: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Faithfulness of each circuit, and its accuracy."""
        values, right = self._means([edge_mask(self._model.graph, edges) for edges in chosen]).T
        return (values - self.none) / self.span, right

    def faithfulness(self, chosen: Sequence[np.ndarray]) -> np.ndarray:
        return self.measured(chosen)[0]

    def fewest(self, choose: Callable[[int], np.ndarray]) -> str:
        """The fewest edges that keep enough: bisection between sizes a factor of two apart."""
        n = 8
        while n < self._model.graph.n_edges and self.faithfulness([choose(n)])[0] < TARGET:
            n *= 2
        low, high = n // 2, min(n, self._model.graph.n_edges)
        while high - low > max(1, high // 20):
            middle = (low + high) // 2
            low, high = (low, middle) if self.faithfulness([choose(middle)])[0] >= TARGET else (middle, high)
        return f"{len(choose(high)):,}"


def line(name: str, method: Method, model: PatchableModel, scored: PromptDataLoader, held_out: Circuits,
         effects: dict[int, float] | None) -> str:  # fmt: skip
    began = time.perf_counter()
    scores = model.graph.flatten(score_edges(model, scored, method))
    seconds = time.perf_counter() - began
    graph = model.graph
    sizes = [int(share * graph.n_edges) for share in CURVE_SHARES]
    signed = held_out.faithfulness([top_edges(scores, n, "signed") for n in sizes])
    absolute, right = held_out.measured([top_edges(scores, n) for n in sizes])
    connected = held_out.faithfulness(
        [choose_edges(graph, scores, min(n, graph.n_edges), "signed", "connected") for n in SIZES]
    )
    fewest = [
        held_out.fewest(lambda n, rank=rank, rule=rule: choose_edges(graph, scores, n, rank, rule))  # type: ignore[misc]
        for rank, rule in RULES
    ]
    agreement = "" if effects is None else f"{spearman(scores[list(effects)], np.array(list(effects.values()))):.2f}"
    return (
        f"| {name} | {method.n_passes(model.n_layers)} | {seconds:.1f} "
        f"| {cpr(CURVE_SHARES, signed.tolist()):.3f} | {cmd(CURVE_SHARES, absolute.tolist()):.3f} "
        f"| {cpr(CURVE_SHARES, right.tolist()):.3f} | "
        + " | ".join(f"{f:.2f}" for f in connected)
        + f" | {' / '.join(fewest)} | {agreement} |"
    )


def spread(scores: np.ndarray, n: int) -> list[int]:
    """Edges spread over the whole range of scores: by rank, on a logarithmic scale, as many of each sign."""
    order = top_edges(scores, len(scores))
    places = np.unique(np.geomspace(1, len(order), n).astype(int)) - 1
    return order[places].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--preset", default="ioi-many")
    parser.add_argument("--pairs", type=int, default=64, help="of which half are held out")
    parser.add_argument("--activations", action="store_true", help="also the path over activations, of many passes")
    parser.add_argument("--effects", action="store_true", help="also ablate edges one at a time")
    parser.add_argument("--only", default="", help="methods whose name holds this text")
    arguments = parser.parse_args()
    disable_progress_bar()
    preset = PRESETS[arguments.preset]
    pairs = preset.prompts.pairs[: arguments.pairs]
    if len(pairs) < arguments.pairs and preset.template is not None:
        pairs = preset.template.make(arguments.pairs, seed=0)
    config = RunConfig(arguments.model, replace(preset.prompts, pairs=pairs), held_out=0.5)
    with models().use(arguments.model, "cpu", "float32") as model:
        encoded = encode(config.prompts, model.tokenizer, model.prepend_bos, model.n_ctx)
        scored_rows, held_out_rows = config.split(encoded.usable)
        scored = PromptDataLoader(encoded.dataset(scored_rows))
        held_out = Circuits(model, PromptDataLoader(encoded.dataset(held_out_rows)), Method())
        print(f"{machine('cpu', 'float32')}; {arguments.model}, {arguments.preset}: {len(scored_rows)} pairs scored, "
              f"{len(held_out_rows)} held out.\n\n{HEAD}\n|{' --- |' * HEAD.count(' |')}", flush=True)  # fmt: skip
        effects = None
        if arguments.effects:
            scale = Method(mask_val=None, integrated_grad_samples=5, integration_rule="midpoint")
            edges = spread(model.graph.flatten(score_edges(model, scored, scale)), N_EFFECTS)
            effects = edge_effects(model, scored, edges, Method())
        for name, method in methods(arguments.activations):
            if arguments.only in name:
                print(line(name, method, model, scored, held_out, effects), flush=True)


if __name__ == "__main__":
    main()
