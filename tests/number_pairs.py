"""Prompt pairs of numbers for the small model, and what the plain model makes of them."""

from __future__ import annotations

import numpy as np
import torch

from circuit.engine.dataset import PromptDataset
from circuit.prompts.pairs import PromptPair, PromptSet
from tests.small_models import random_hf_model

# The tokenizer's words are numbers; those with a zero are split at it, since 0 is its BOS token.
PAIRS = (
    PromptPair("1 2 3 4", "1 2 9 4", ("5", "6"), ("7",)),
    PromptPair("8 9 17 11 12 13", "8 9 3 11 12 13", ("14",), ("15", "16")),
    PromptPair("27 21", "22 21", ("23",), ("24",)),
)
BAD = PromptPair("1 2 3", "1 2", ("4",), ("5",))  # different lengths
PROMPTS = PromptSet("numbers", PAIRS)


def tokens(text: str) -> torch.Tensor:
    return torch.tensor([int(word) for word in text.split()])


def dataset(pairs: tuple[PromptPair, ...]) -> PromptDataset:
    """The pairs as tokens, made without the app's own encoding."""
    return PromptDataset(
        [tokens(pair.clean) for pair in pairs],
        [tokens(pair.corrupt) for pair in pairs],
        [tokens(" ".join(pair.answers)) for pair in pairs],
        [tokens(" ".join(pair.wrong_answers)) for pair in pairs],
    )


def plain_logits(text: str) -> np.ndarray:
    """The logits after a prompt, from the Hugging Face model alone."""
    with torch.no_grad():
        return np.asarray(random_hf_model("llama")(tokens(text)[None]).logits[0, -1])


def difference(logits: np.ndarray, pair: PromptPair) -> float:
    right, wrong = ([logits[int(word)] for word in words] for words in (pair.answers, pair.wrong_answers))
    return float(np.mean(right) - np.mean(wrong))
