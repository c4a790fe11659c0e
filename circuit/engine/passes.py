"""The passes that a method takes of every batch, along its path.

PassesAlong   how many there are, and for a batch each of them with its weight

path = PassesAlong(model, Method(path="inputs", mask_val=None, integrated_grad_samples=5), points)
for m, weight, one_pass in path.passes(batch, ablated):
    product.add(one_pass.run(method), ablated, first, weight, sums)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from circuit.edges.method import Method
from circuit.engine.ablation import Activations, record
from circuit.engine.backward_rules import PARTS
from circuit.engine.dataset import PromptPairBatch
from circuit.engine.interpolated_pass import EMBEDDING, InterpolatedPass, group_count
from circuit.engine.masked_pass import MaskedPass
from circuit.engine.model import PatchableModel


class PassesAlong:
    """The passes of a method along its path; `len` says how many there are for a batch.

    Args:
        model: The model.
        method: Its path and the rules of its backward pass.
        points: Points of the path, from 0 to 1, with their weights.
    """

    def __init__(self, model: PatchableModel, method: Method, points: Sequence[tuple[float, float]]) -> None:
        self._model = model
        self._method = method
        self._points = points
        self._parts = PARTS[method.backward]
        self._as_published = method.path == "activations" and method.integration_rule == "reference"
        self._groups = range(group_count(model)) if method.path == "activations" else range(EMBEDDING, EMBEDDING + 1)

    def __len__(self) -> int:
        return len(self._points) * len(self._groups)

    @property
    def needs_streams(self) -> bool:
        """Whether the ablated streams are read: masks other than 0 need them."""
        return self._method.path == "masks" and any(m != 0 for m, _ in self._points)

    def passes(self, batch: PromptPairBatch, ablated: Activations) -> Iterator[tuple[float, float, MaskedPass]]:
        """Each pass of a batch, not yet run, behind its point and its weight.

        Args:
            batch: The prompts, on the model's device.
            ablated: What replaces the sources on them.
        """
        if self._method.path == "masks":
            for m, weight in self._points:
                yield m, weight, MaskedPass(self._model, batch, ablated, m, self._parts)
            return
        clean = record(self._model, batch, "clean", streams=False)
        for group in self._groups:
            for m, weight in self._points:
                one_pass = InterpolatedPass(
                    self._model, batch, clean, ablated, m, group, self._parts, as_published=self._as_published
                )
                yield m, weight / len(self._groups), one_pass
