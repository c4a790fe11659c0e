"""AutoCircuit's reference cases: their prompts, and how far scores are from theirs."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file

from circuit.engine.dataset import PromptDataset
from tests.small_models import AUTOCIRCUIT

INDEX = json.loads((AUTOCIRCUIT / "index.json").read_text())


def dataset(arch: str, answer_function: str = "avg_diff") -> PromptDataset:
    prompts = load_file(AUTOCIRCUIT / arch / "prompts.safetensors")
    if answer_function == "mse":
        prompts["answers"] = load_file(AUTOCIRCUIT / arch / "mse_target.safetensors")["target"]
    return PromptDataset(**prompts)


def relative_error(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Frobenius norm of the difference over the norm of the reference, over the whole dict; absolute where it is 0."""
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert ours[name].shape == theirs[name].shape, name
        assert ours[name].dtype == torch.float32
    difference = torch.cat([(ours[name] - theirs[name]).flatten() for name in theirs]).norm()
    norm = torch.cat([theirs[name].flatten() for name in theirs]).norm()
    return float(difference / norm if norm > 1e-6 else difference)
