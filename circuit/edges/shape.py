"""What a model's shape says about memory: how much a prompt takes, and how many prompts run together.

ModelShape         the numbers of a model that time and memory depend on
bytes_per_prompt   what one prompt takes at the peak of attribution
prompts_at_once    prompts that are worth running together, and fit
peak_bytes         what attribution takes beside the model
"""

from __future__ import annotations

from dataclasses import dataclass

BASELINE_BATCH = 16
"""Prompts per batch in the two plain passes that every run begins with."""
PRODUCT_ROWS = 64
"""Destinations that are multiplied together, at least."""
PRODUCT_BYTES = {"cpu": 192e6}
"""Memory for differences and gradients, by device; tokens come in blocks that fit into it."""
DEFAULT_PRODUCT_BYTES = 1e9
_SHARE_OF_FREE_MEMORY = 0.5
_TOKENS_PER_BATCH = {"cpu": 256, "mps": 4096, "cuda": 16384}
"""Larger batches are hardly faster, and a job reports and can be stopped only between two of them."""


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a model that time and memory depend on.

    `n_edges` is counted with token positions added up; `element` is the size in bytes of a weight or activation;
    `device` is its kind: `cpu`, `cuda` or `mps`.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_mlp: int
    d_vocab: int
    n_edges: int
    element: int
    device: str

    @property
    def n_sources(self) -> int:
        return 1 + self.n_layers * (self.n_heads + 1)


def bytes_per_prompt(shape: ModelShape, n_tokens: int) -> int:
    """Bytes that one prompt of `n_tokens` takes at the peak of attribution, within a factor of about two.

    Counted: source differences (float32), the activations that the backward pass keeps, attention patterns, and the
    logits with their gradients.
    """
    differences = 4 * shape.n_sources * shape.d_model
    return n_tokens * (differences + _kept(shape, n_tokens)) + 4 * 4 * shape.d_vocab


def _kept(shape: ModelShape, n_tokens: int) -> int:
    """Bytes that a token of the batch holds until the backward pass has passed it."""
    return shape.element * shape.n_layers * (12 * shape.d_model + 5 * shape.d_mlp + 4 * shape.n_heads * n_tokens)


def prompts_at_once(shape: ModelShape, n_tokens: int, free: int) -> int:
    """Prompts of `n_tokens` that are worth running together, and fit into half of `free` bytes."""
    fits = int(_SHARE_OF_FREE_MEMORY * free) // bytes_per_prompt(shape, n_tokens)
    useful = _TOKENS_PER_BATCH.get(shape.device, 256) // n_tokens
    return max(1, min(fits, useful))


def peak_bytes(shape: ModelShape, batch_size: int, n_tokens: int, *, apart: bool = False) -> int:
    """Bytes that attribution takes beside the model, at its peak.

    Args:
        shape: The model.
        batch_size: Prompts per batch.
        n_tokens: Tokens of the longest prompt.
        apart: Whether token positions are kept apart.
    """
    tokens = batch_size * n_tokens
    a_layer = shape.n_heads + 2 * shape.n_kv_heads + 1
    rows = -(-PRODUCT_ROWS // a_layer) * a_layer
    buffers = 4 * shape.d_model * tokens * (shape.n_sources + rows)
    buffers = min(buffers, int(PRODUCT_BYTES.get(shape.device, DEFAULT_PRODUCT_BYTES)))
    sums = 3 * 8 * shape.n_edges * (n_tokens if apart else 1)
    logits = 4 * 4 * shape.d_vocab * max(batch_size, BASELINE_BATCH)
    return tokens * _kept(shape, n_tokens) + buffers + sums + logits
