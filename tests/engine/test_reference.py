"""Every number agrees with AutoCircuit's: 129 score cases, and the outputs of 126 circuits."""

from __future__ import annotations

from typing import Any

import pytest
from safetensors.torch import load_file

from circuit.edges.method import AblationType, PatchType
from circuit.engine.dataset import PromptDataLoader
from circuit.engine.mask_gradient import mask_gradient_prune_scores
from circuit.engine.patching import run_circuits
from tests.reference import INDEX, dataset, relative_error
from tests.small_models import AUTOCIRCUIT, reference_model

CASES = INDEX["cases"]
NETWORKS = ["gpt2", "neox", "llama"]


def test_there_are_129_cases() -> None:
    assert len(CASES) == 129


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["file"].removesuffix(".safetensors"))
def test_scores_equal_autocircuit(case: dict[str, Any]) -> None:
    model = reference_model(case["arch"]).with_seq_len(INDEX["seq_len"] if case["token_positions"] else None)
    scores = mask_gradient_prune_scores(
        model,
        PromptDataLoader(dataset(case["arch"], case["answer_function"]), case["batch_size"]),
        None,
        case["grad_function"],
        case["answer_function"],
        case["mask_val"],
        case["integrated_grad_samples"],
        AblationType[case["ablation_type"]],
        case["clean_corrupt"],
    )
    n_points = 1 if case["integrated_grad_samples"] is None else case["integrated_grad_samples"] + 1
    added_up = {name: score * case["n_batches"] * n_points for name, score in scores.items()}
    assert relative_error(added_up, load_file(AUTOCIRCUIT / case["file"])) < 1e-5


@pytest.mark.parametrize("arch", NETWORKS)
def test_circuit_outputs_equal_autocircuit(arch: str) -> None:
    """Relative to the model's largest output: zero ablation can leave a norm only rounding noise to divide by."""
    expected = load_file(AUTOCIRCUIT / arch / "circuit_outputs.safetensors")
    scores = load_file(AUTOCIRCUIT / arch / "logit-avg_diff-m0-resample-corrupt.safetensors")
    largest = max(output.abs().max() for output in expected.values())
    kinds = sorted({tuple(name.split(".")[:2]) for name in expected})
    compared = 0
    for patch_type, ablation_type in kinds:
        prefix = f"{patch_type}.{ablation_type}."
        sizes = sorted(int(name.removeprefix(prefix)) for name in expected if name.startswith(prefix))
        outputs = run_circuits(
            reference_model(arch),
            PromptDataLoader(dataset(arch), batch_size=4),
            sizes,
            scores,
            PatchType[patch_type],
            AblationType[ablation_type],
        )
        for size in sizes:
            error = (outputs[size] - expected[f"{prefix}{size}"]).abs().max() / largest
            assert error < 1e-4, f"{prefix}{size}: {error:.1e}"
            compared += 1
    assert compared == len(expected) == 42
