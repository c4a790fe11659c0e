"""A model's sizes tell how much memory a run takes."""

from __future__ import annotations

from benchmarks.resident_set import ResidentSet
from circuit.edges.method import Method
from circuit.edges.shape import peak_bytes
from circuit.engine.batches import shape_of
from circuit.engine.dataset import PromptDataLoader
from circuit.engine.mask_gradient import score_edges
from tests.small_memory import dataset
from tests.small_models import shared_model


def test_peak_memory_is_near_what_is_taken() -> None:
    """A random model that is large enough for memory to be its own."""
    model = shared_model("llama")
    data = dataset(2000)
    estimated = peak_bytes(shape_of(model), 2000, 7)
    with ResidentSet() as resident:
        score_edges(model, PromptDataLoader(data, 2000), Method())
    assert estimated / 2 < resident.growth < estimated * 2
