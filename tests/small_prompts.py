"""Prompts of random tokens for the small models."""

from __future__ import annotations

import torch
from torch import Tensor

from circuit.edges.method import AblationType
from circuit.engine.dataset import PromptDataLoader, PromptDataset
from tests.slow_model import (
    Prompts,
    Scores,
)
from tests.small_models import (
    D_VOCAB,
)

ABLATIONS = [ablation.name for ablation in AblationType]


def prompts(n: int = 5, length: int = 9, seed: int = 0) -> Prompts:
    """Pairs that differ in two tokens; two right and three wrong answers each."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(0, D_VOCAB, (n, length), generator=generator)
    corrupt = clean.clone()
    corrupt[:, [2, 5]] = (corrupt[:, [2, 5]] + torch.randint(1, D_VOCAB, (n, 2), generator=generator)) % D_VOCAB
    answers = torch.randint(0, D_VOCAB, (n, 2), generator=generator)
    return Prompts(clean, corrupt, answers, torch.randint(0, D_VOCAB, (n, 3), generator=generator))


def dataset(of: Prompts) -> PromptDataset:
    return PromptDataset(of.clean, of.corrupt, of.answers, of.wrong)


def loader(of: Prompts, batch_size: int | None = None) -> PromptDataLoader:
    return PromptDataLoader(dataset(of), batch_size or len(of))


def ragged() -> PromptDataset:
    """Five pairs of 4 to 11 tokens, with one to three answers each, not in order of length."""
    generator = torch.Generator().manual_seed(3)
    rows: list[list[Tensor]] = [[], [], [], []]
    for n_answers, length in zip((2, 1, 3, 1, 2), (7, 11, 4, 9, 6), strict=True):
        clean = torch.randint(1, D_VOCAB, (length,), generator=generator)
        corrupt = clean.clone()
        corrupt[1] = (corrupt[1] + 11) % D_VOCAB
        corrupt[3] = (corrupt[3] + 5) % D_VOCAB
        answers = torch.randint(1, D_VOCAB, (n_answers,), generator=generator)
        wrong = torch.randint(1, D_VOCAB, (4 - n_answers,), generator=generator)
        for part, value in zip(rows, (clean, corrupt, answers, wrong), strict=True):
            part.append(value)
    return PromptDataset(*rows)


def one_row(of: PromptDataset, row: int) -> PromptDataset:
    pick = slice(row, row + 1)
    return PromptDataset(of.clean[pick], of.corrupt[pick], of.answers[pick], of.wrong_answers[pick])


def flat(scores: Scores) -> Tensor:
    return torch.cat([x.double().flatten() for x in scores.values()])
