"""What ablating one edge does, beside the slow model and beside a computation by hand."""

from __future__ import annotations

import pytest
import torch

from circuit.common.errors import JobCancelled, NumericalError, OptionError
from circuit.edges.method import AblationType, Method
from circuit.engine.effects import edge_effects
from circuit.models.load import wrap
from tests.slow_model import slow_ablated, slow_loss, slow_model
from tests.small_models import random_hf_model, shared_model, tokenizer
from tests.small_prompts import loader, prompts
from tests.traces import StopAfter


@pytest.mark.parametrize("ablation", [AblationType.RESAMPLE, AblationType.ZERO, AblationType.TOKENWISE_MEAN_CLEAN])
@pytest.mark.parametrize("variant", ["gpt2", "qwen3", "phi"])
def test_an_effect_is_the_rise_of_the_loss_when_one_edge_is_ablated(variant: str, ablation: AblationType) -> None:
    model, slow, pairs = shared_model(variant), slow_model(variant), prompts()
    edges = torch.randperm(model.graph.n_edges, generator=torch.Generator().manual_seed(1))[:6].tolist()
    method = Method(grad_function="logprob", ablation_type=ablation)
    effects = edge_effects(model, loader(pairs, 2), edges, method)
    assert list(effects) == edges
    masks = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in slow.mask_shapes().items()}
    with torch.no_grad():
        replaced = slow_ablated(slow, pairs, ablation.name, "corrupt", pairs)

        def loss() -> float:
            logits = slow.run(pairs.clean, pairs.last, masks, replaced).logits
            return float(slow_loss(logits, pairs, "logprob", "avg_diff")) / len(pairs)

        untouched = loss()
        for edge in edges:
            block = next(b for b in reversed(model.graph.blocks) if b.first_edge <= edge)
            masks[block.module].view(-1)[edge - block.first_edge] = 1
            assert effects[edge] == pytest.approx(loss() - untouched, rel=2e-4, abs=2e-5)
            masks[block.module].view(-1)[edge - block.first_edge] = 0


def test_the_last_mlps_edge_into_the_final_residual_by_hand() -> None:
    """The final residual changes by what the MLP writes on the corrupt prompt minus what it writes on the clean one."""
    model, pairs = shared_model("llama"), prompts()
    hf = model.bridge.original_model
    written: list[torch.Tensor] = []
    streams: list[torch.Tensor] = []
    with torch.no_grad():
        for tokens in (pairs.clean, pairs.corrupt):
            hooks = [
                hf.model.layers[-1].mlp.register_forward_hook(lambda m, args, out: written.append(out[:, -1])),
                hf.model.norm.register_forward_pre_hook(lambda m, args: streams.append(args[0][:, -1])),
            ]
            hf(input_ids=tokens)
            for hook in hooks:
                hook.remove()
        changed = streams[0] + written[1] - written[0]
        before, after = (hf.lm_head(hf.model.norm(stream)) for stream in (streams[0], changed))
        expected = [float(slow_loss(logits, pairs, "logit", "avg_diff")) / len(pairs) for logits in (before, after)]
    edge = model.graph.n_edges - 1
    assert model.graph.edge_name(edge) == "MLP 2->Resid End"
    assert edge_effects(model, loader(pairs), [edge], Method())[edge] == pytest.approx(
        expected[1] - expected[0], rel=1e-4
    )
    assert abs(expected[1] - expected[0]) > 1e-3


def test_with_positions_apart_the_effects_of_one_position_are_its_own() -> None:
    pairs = prompts()
    model = shared_model("gpt2").with_seq_len(9)
    last, first = model.graph.n_edges - 1, model.graph.blocks[-1].first_edge + model.graph.n_sources - 1
    assert [model.graph.edge_name(edge) for edge in (first, last)] == ["MLP 2->Resid End @0", "MLP 2->Resid End @8"]
    effects = edge_effects(model, loader(pairs), [first, last], Method())
    assert effects[first] == pytest.approx(0, abs=1e-6)  # nobody reads the final residual at the first token
    assert abs(effects[last]) > 1e-3


def test_what_patches_clean_with_clean_has_no_effect() -> None:
    model, pairs = shared_model("llama"), prompts()
    effects = edge_effects(model, loader(pairs), [0, 50], Method(clean_corrupt="clean"))
    assert effects == {0: pytest.approx(0, abs=1e-5), 50: pytest.approx(0, abs=1e-5)}


def test_an_edge_that_the_model_lacks_is_refused_and_a_broken_model_named() -> None:
    model = shared_model("llama")
    with pytest.raises(OptionError, match=f"0 to {model.graph.n_edges - 1}"):
        edge_effects(model, loader(prompts()), [model.graph.n_edges], Method())
    hf = random_hf_model("llama")
    hf.model.layers[1].mlp.down_proj.weight.data.fill_(float("inf"))
    with pytest.raises(NumericalError, match="came out of the whole model, among the prompts 1 to"):
        edge_effects(wrap(hf, tokenizer()), loader(prompts()), [3], Method())


def test_an_edge_that_brings_in_what_is_not_finite_is_named() -> None:
    hf, pairs = random_hf_model("llama"), prompts()
    only_corrupt = next(token for token in pairs.corrupt.flatten().tolist() if token not in pairs.clean)
    hf.model.embed_tokens.weight.data[only_corrupt] = float("inf")
    with pytest.raises(NumericalError, match=r"came out of the model without edge A0\.2->A1\.0\.K, among"):
        edge_effects(wrap(hf, tokenizer()), loader(pairs), [40], Method())


def test_effects_of_many_edges_at_once_are_those_of_each_alone() -> None:
    model, pairs = shared_model("qwen3"), prompts()
    edges = [0, 17, 99, model.graph.n_edges - 1]
    for method in (Method(), Method(ablation_type=AblationType.BATCH_TOKENWISE_MEAN, clean_corrupt="clean")):
        together = edge_effects(model, loader(pairs, 2), edges, method)
        for edge in edges:
            alone = edge_effects(model, loader(pairs, 2), [edge], method)[edge]
            assert together[edge] == pytest.approx(alone, rel=1e-4, abs=1e-5)
        assert max(map(abs, together.values())) > 1e-3


def test_measuring_can_be_stopped_between_edges() -> None:
    model = shared_model("llama")
    stop = StopAfter(4)
    with pytest.raises(JobCancelled):
        edge_effects(model, loader(prompts()), range(20), Method(), progress=stop.report, cancelled=stop)
    assert stop.done == 4
