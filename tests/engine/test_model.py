"""What the engine knows of a model, and which prompts the model cannot run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from circuit.common.errors import ModelError, PromptError
from circuit.engine.dataset import PromptDataLoader, PromptDataset
from circuit.engine.mask_gradient import mask_gradient_prune_scores
from tests.small_models import ARCHITECTURES, D_VOCAB, random_hf_model, random_model, shared_model

TOKENS = torch.arange(12).view(2, 6)


def dataset(**changes: Any) -> PromptDataset:
    parts: dict[str, Any] = {"clean": TOKENS, "corrupt": TOKENS + 1, "answers": [[1], [2]], "wrong_answers": [[3], [4]]}
    return PromptDataset(**{**parts, **changes})


def same(x: torch.Tensor, y: torch.Tensor) -> None:
    """Number by number in float32; in bfloat16, where single numbers are rounded too much, as a whole."""
    if x.dtype == torch.float32:
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    else:
        assert (x - y).norm() < 0.05 * y.norm()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_shape(name: str) -> None:
    model = shared_model(name)
    grouped = name not in ("gpt2", "gpt_neo", "gpt_neox", "gpt_neox_sequential", "opt", "phi")
    assert (model.n_heads, model.n_kv_heads, model.d_head) == (4, 2 if grouped else 4, 8)
    assert model.parallel == (name in ("gpt_neox", "phi", "cohere", "cohere2"))
    assert model.n_ctx == 32  # also where attention sees only a window
    assert model.d_vocab == D_VOCAB
    assert not model.bridge.training


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_residual_stream_is_the_sum_of_its_sources_and_of_output_biases(name: str) -> None:
    """What every number rests on."""
    from circuit.engine.ablation import record

    model = shared_model(name)
    (batch,) = PromptDataLoader(dataset(), 2)
    activations = record(model, batch, "clean")
    total = activations.embedding
    for layer in range(model.n_layers):
        torch.testing.assert_close(activations.attention_stream[layer], total, rtol=1e-4, atol=1e-5)
        w = model.weights(layer)
        total = total + torch.einsum("bphd,hdm->bpm", activations.z[layer], w.W_O)
        if w.b_O is not None:
            total = total + w.b_O
        if not model.parallel:
            torch.testing.assert_close(activations.mlp_stream[layer], total, rtol=1e-4, atol=1e-5)
        total = total + activations.mlp[layer]
    torch.testing.assert_close(activations.final_stream, total, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clean": TOKENS + 90}, f"Row 2: token id 97 of the clean prompt is unknown.* 0 to {D_VOCAB - 1}"),
        ({"clean": TOKENS - 1}, "Row 1: token id -1 of the clean prompt"),
        ({"corrupt": TOKENS + 86}, "Row 2: token id 97 of the corrupt prompt"),
        ({"answers": [[1], [2, 500]]}, "Row 2: token id 500 of the answers"),
        ({"wrong_answers": [[97], [2]]}, "Row 1: token id 97 of the wrong answers.* tokenized for another model"),
        ({"clean": torch.zeros(2, 33), "corrupt": torch.zeros(2, 33)}, "Row 1: 33 tokens .* context of 32"),
        ({"answers": torch.rand(2, 96)}, f"target has 96 entries per prompt, and the vocabulary {D_VOCAB}"),
    ],
)
def test_prompts_that_the_model_cannot_run_are_refused(changes: dict[str, Any], words: str) -> None:
    for name, part in changes.items():
        if isinstance(part, torch.Tensor) and name != "answers":
            changes[name] = part.long()
    with pytest.raises(PromptError, match=words):
        shared_model("gpt2").check_prompts(dataset(**changes))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_whole_context_can_be_used(name: str) -> None:
    tokens = torch.arange(64).view(2, 32)
    data = dataset(clean=tokens, corrupt=(tokens + 1) % D_VOCAB)
    scores = mask_gradient_prune_scores(shared_model(name), PromptDataLoader(data, 2), mask_val=0.5)
    assert all(bool(score.isfinite().all()) for score in scores.values())


def test_positions_kept_apart_need_one_length() -> None:
    model = shared_model("gpt2").with_seq_len(6)
    model.check_prompts(dataset())
    ragged = [torch.arange(6), torch.arange(5)]
    with pytest.raises(PromptError, match=r"Row 2: the prompt has 5 tokens.*of 6\. .* or add the positions up"):
        model.check_prompts(dataset(clean=ragged, corrupt=ragged))
    with pytest.raises(ModelError, match="seq_len must be the number of tokens"):
        shared_model("gpt2").with_seq_len(0)


def test_parameters_are_counted_as_hugging_face_counts_them() -> None:
    for name in ("gpt2", "gpt_neox", "llama"):
        assert random_model(name).n_parameters == random_hf_model(name).num_parameters()
