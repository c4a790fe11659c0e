"""The jobs behind a click on one edge or head.

measure_effects   what ablating some edges, one at a time, really does
read_attention    the attention pattern of a head on one prompt pair
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from circuit.common.errors import PromptError
from circuit.common.progress import Cancelled, Report, never, silent
from circuit.jobs.prepare import WHOLE, Part, part_of, pieces_of, prepared
from circuit.runs.config import RunConfig


@dataclass(frozen=True)
class EffectsRequest:
    """Edges of a run to ablate one at a time, by number; on a part of its prompts, the part's share of the effects."""

    config: RunConfig
    edges: tuple[int, ...]
    prompts: Part = WHOLE


def measure_effects(
    request: EffectsRequest, *, progress: Report = silent, cancelled: Cancelled = never
) -> dict[int, float]:
    """For every edge the rise of the run's loss, mean over its prompts, when that edge alone is ablated."""
    from circuit.engine.effects import edge_effects

    config = request.config
    with prepared(config, progress, cancelled) as (model, _, dataset):
        loader = part_of(dataset, config, config.method.ablation_type, request.prompts)
        return edge_effects(model, loader, request.edges, config.method, progress=progress, cancelled=cancelled)


@dataclass(frozen=True)
class AttentionRequest:
    """A head, and a row of the run's prompt set, counted from 0."""

    config: RunConfig
    row: int
    layer: int
    head: int


@dataclass
class AttentionPair:
    """A head's attention on the clean and on the corrupt prompt: one row per query, one column per key position."""

    clean_tokens: list[str]
    corrupt_tokens: list[str]
    clean: Float32[np.ndarray, "pos pos"]
    corrupt: Float32[np.ndarray, "pos pos"]


def read_attention(
    request: AttentionRequest, *, progress: Report = silent, cancelled: Cancelled = never
) -> AttentionPair:
    """The attention pattern of a head on one prompt pair."""
    import torch

    from circuit.engine.attention import attention_patterns

    with prepared(request.config, progress, cancelled) as (model, encoded, _):
        if request.row not in encoded.usable:
            raise PromptError(f"Row {request.row + 1} cannot be used: choose another prompt.")
        pair = [encoded.clean[request.row], encoded.corrupt[request.row]]
        patterns = attention_patterns(model, torch.tensor(pair, device=model.device), request.layer, request.head)
        (clean_tokens, corrupt_tokens), (clean, corrupt) = pieces_of(model, pair), patterns.numpy()
        return AttentionPair(clean_tokens, corrupt_tokens, clean, corrupt)
