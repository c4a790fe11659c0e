"""The models of this process, and the jobs that load one.

models            the models of this process, shared by all its jobs
describe_model    load a model -> what it is
read_tokenizer    its tokenizer alone, for the web process to check prompts with
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from circuit.common.progress import Cancelled, Report, never, silent
from circuit.edges.method import Precision
from circuit.models.load import ModelCard, load_tokenizer, model_card
from circuit.models.store import ModelStore
from circuit.models.tokenizer import PromptTokenizer


@cache
def models() -> ModelStore:
    """The models of this process, shared by all jobs that run in it."""
    return ModelStore()


@dataclass(frozen=True)
class ModelRequest:
    """A model to load."""

    model: str
    dtype: Precision = "auto"
    device: str = "auto"


def describe_model(request: ModelRequest, *, progress: Report = silent, cancelled: Cancelled = never) -> ModelCard:
    """Load a model, so that it is there for the next job, and say what it is."""
    with models().use(request.model, request.device, request.dtype, progress, cancelled) as model:
        return model_card(request.model, model)


def read_tokenizer(
    request: ModelRequest, *, progress: Report = silent, cancelled: Cancelled = never
) -> PromptTokenizer:
    """Read a model's tokenizer, without loading its weights."""
    return load_tokenizer(request.model, progress, cancelled)
