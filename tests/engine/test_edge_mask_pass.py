"""A mask on each edge, all of them different: gradients against autograd over one mask per edge."""

from __future__ import annotations

import pytest
import torch

from circuit.common.errors import OptionError
from circuit.edges.method import AblationType, Method
from circuit.engine.ablation import Ablation
from circuit.engine.edge_mask_pass import EdgeMaskPass
from circuit.engine.loss import loss
from circuit.engine.mask_gradient import score_edges
from tests.slow_model import relative_error, slow_ablated, slow_loss, slow_model
from tests.small_models import VARIANTS, shared_model
from tests.small_prompts import loader, prompts


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gradient_at_any_mask_on_any_edge(variant: str) -> None:
    model, slow, pairs = shared_model(variant), slow_model(variant), prompts()
    (batch,) = loader(pairs)
    flat = 0.8 * torch.rand(model.graph.n_edges, generator=torch.Generator().manual_seed(4))  # near 1, rounding grows
    for ablation in ("RESAMPLE", "ZERO"):
        ablated = Ablation(model, loader(pairs), AblationType[ablation], streams=False).of(batch, "corrupt")
        ours = EdgeMaskPass(model, batch, ablated, flat).run(lambda logits: loss(logits, batch, Method()))
        masks = {name: part.clone().requires_grad_() for name, part in model.graph.unflatten(flat.double()).items()}
        logits = slow.run(pairs.clean, pairs.last, masks, slow_ablated(slow, pairs, ablation, "corrupt", pairs)).logits
        gradients = torch.autograd.grad(slow_loss(logits, pairs, "logit", "avg_diff"), list(masks.values()))
        theirs = dict(zip(masks, gradients, strict=True))
        assert relative_error(model.graph.unflatten(ours), theirs) < 2e-5


def test_at_one_mask_value_it_is_the_mask_gradient() -> None:
    model, pairs = shared_model("llama"), prompts()
    (batch,) = loader(pairs)
    ablated = Ablation(model, loader(pairs), AblationType.RESAMPLE, streams=False).of(batch, "corrupt")
    masks = torch.full((model.graph.n_edges,), 0.3)
    ours = EdgeMaskPass(model, batch, ablated, masks).run(lambda logits: loss(logits, batch, Method()))
    theirs = score_edges(model, loader(pairs), Method(mask_val=0.3))
    assert relative_error(model.graph.unflatten(ours / len(pairs)), theirs) < 1e-5


def test_masks_of_another_model_and_positions_apart_are_refused() -> None:
    model, pairs = shared_model("gpt2"), prompts()
    (batch,) = loader(pairs)
    ablated = Ablation(model, loader(pairs), AblationType.RESAMPLE, streams=False).of(batch, "corrupt")
    with pytest.raises(OptionError, match=r"one mask value for each of \d+ edges, not \[7\]"):
        EdgeMaskPass(model, batch, ablated, torch.zeros(7))
    apart = model.with_seq_len(pairs.clean.shape[1])
    with pytest.raises(OptionError, match="leave seq_len out"):
        EdgeMaskPass(apart, batch, ablated, torch.zeros(apart.graph.n_edges))
