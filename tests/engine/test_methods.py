"""Paths and backward rules: against what the published code gives, and against `tests/slow_methods.py`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from circuit.common.errors import OptionError
from circuit.edges.graph import EdgeGraph
from circuit.edges.method import AblationType, Backward, IntegrationRule, Method
from circuit.edges.method import Path as Along
from circuit.engine.backward_rules import PARTS, Part
from circuit.engine.dataset import PromptDataLoader
from circuit.engine.loss import loss
from circuit.engine.mask_gradient import prompt_scores, score_edges
from circuit.engine.nodes import score_nodes
from circuit.models.load import wrap
from tests.reference import dataset, relative_error
from tests.slow_methods import RULES, backward_rule, slow_path_scores
from tests.slow_model import relative_error as slow_error
from tests.slow_model import slow_mask_scores, slow_model
from tests.small_models import (
    ARCHITECTURES,
    random_hf_model,
    random_model,
    reference_model,
    shared_model,
    tokenizer,
)
from tests.small_prompts import loader, one_row, prompts, ragged
from tests.traces import traces

DATA = Path(__file__).parent.parent / "data" / "methods"
PATHS = [path for path in get_args(Along) if path not in ("masks", "learned", "averaged")]
BACKWARD: list[Backward] = list(get_args(Backward))


def method(path: Any, backward: Backward = "gradient", n: int = 2, rule: IntegrationRule = "reference") -> Method:
    samples = None if path == "ends" else n
    return Method(mask_val=None, integrated_grad_samples=samples, integration_rule=rule, path=path, backward=backward)


# --- what the published code gives ---------------------------------------------------------------------------------

PUBLISHED_PARTS: dict[str, set[Part]] = {
    "freeze-norm": {"norm"},
    "softmax-temperature-2": {"softmax"},
    "qkv-scales": {"factors"},
    "gim-attention": {"softmax", "factors"},
    "gate-scales": {"product"},
    "none": set(),
    "LN-rule": {"norm"},
    "Identity-rule": {"activation"},
    "Half-rule": {"product"},
}
PUBLISHED: dict[str, Method] = {
    "EAP": Method(),
    "clean-corrupted": method("ends"),
    "EAP-IG-inputs-1": method("inputs", n=1),
    "EAP-IG-inputs-5": method("inputs", n=5),
    "EAP-IG-inputs-10": method("inputs", n=10),
    "EAP-IG-activations-3": method("activations", n=3),
    "gim": Method(backward="gim"),
    "relp": Method(backward="relp"),
    "relp-AH": Method(backward="relp+constant-attention"),
}
CASES = sorted(str(file.relative_to(DATA)) for file in DATA.glob("*/*/*.safetensors"))


def test_every_published_case_is_compared() -> None:
    listed = sum(len(json.loads(index.read_text())["cases"]) for index in DATA.glob("*/index.json"))
    assert len(CASES) == listed
    assert {Path(case).stem.removeprefix("nodes-") for case in CASES} == {*PUBLISHED, *PUBLISHED_PARTS}


@pytest.mark.parametrize("case", [case for case in CASES if "nodes-" not in case])
def test_scores_equal_the_published_code(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, arch = Path(case).stem, Path(case).parent.name
    if name in PUBLISHED_PARTS:
        monkeypatch.setitem(PARTS, "gim", frozenset(PUBLISHED_PARTS[name]))
    scores = score_edges(reference_model(arch), loader_of(arch), PUBLISHED.get(name, Method(backward="gim")))
    assert relative_error(scores, load_file(DATA / case)) < 1e-5


def loader_of(arch: str) -> PromptDataLoader:
    return PromptDataLoader(dataset(arch), 4)


@pytest.mark.parametrize("arch", ["gpt2", "neox", "llama"])
def test_node_scores_equal_the_published_code(arch: str) -> None:
    """Except of MLPs, at which that code multiplies what the MLP writes with the gradient at what it reads."""
    graph = reference_model(arch).graph
    kept = [i for i, node in enumerate(graph.sources) if node.kind != "mlp"]
    for name, points in (("EAP", [(0.0, 1.0)]), ("EAP-IG-inputs-5", [(k / 5, 0.2) for k in range(5)])):
        ours = score_nodes(reference_model(arch), loader_of(arch), Method(path="inputs"), points=points)
        theirs = load_file(DATA / "eap-ig" / arch / f"nodes-{name}.safetensors")["nodes"].numpy()
        np.testing.assert_allclose(ours[kept], theirs[kept], rtol=1e-4, atol=1e-6)


# --- against the slow oracle ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [*ARCHITECTURES, "llama_one_kv_head", "qwen3_wide_heads", "phi_grouped"])
@pytest.mark.parametrize("backward", BACKWARD)
def test_every_path_with_every_backward_rule(variant: str, backward: Backward) -> None:
    slow, few = slow_model(variant), prompts(2)
    with backward_rule(slow, RULES[backward]):
        expected = {path: slow_path_scores(slow, few, path, steps=2) for path in PATHS}
        expected["masks"] = slow_mask_scores(slow, few, points=((0.0, 0.5), (0.7, 0.5)))
    for path, theirs in expected.items():
        points = [(0.0, 0.5), (0.7, 0.5)] if path == "masks" else None
        asked = Method(backward=backward) if path == "masks" else method(path, backward)
        if path == "activations":  # with what the published code leaves out at what reads the embedding alone
            asked, points = method(path, backward, rule="trapezoid"), [(0.5, 0.5), (0.0, 0.5)]
        ours = score_edges(shared_model(variant), loader(few), asked, points=points)
        assert slow_error(ours, theirs) < 1e-5, path


# --- what must hold whatever the method ----------------------------------------------------------------------------


def failing(x: torch.Tensor, hook: object) -> torch.Tensor:
    raise ZeroDivisionError


@pytest.mark.parametrize("backward", BACKWARD)
@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_rules_change_the_backward_pass_alone_and_leave_nothing_behind(variant: str, backward: Backward) -> None:
    model = shared_model(variant)
    tokens, last = torch.arange(14).view(2, 7), torch.tensor([6, 4])
    before = traces(model)
    with torch.no_grad():
        plain = model.logits(tokens, last)
        torch.testing.assert_close(model.logits(tokens, last, parts=PARTS[backward]), plain, rtol=1e-5, atol=1e-5)
        with pytest.raises(ZeroDivisionError):
            model.logits(tokens, last, [(model.final_hook, failing)], parts=PARTS[backward])
        torch.testing.assert_close(model.logits(tokens, last), plain, rtol=0, atol=0)
    assert traces(model) == before


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("variant", ["gpt2", "llama", "phi"])
def test_positions_and_prompts_kept_apart_add_up_to_the_scores(variant: str, path: str) -> None:
    few, asked = prompts(3), method(path, "gim")
    model = shared_model(variant)
    whole = score_edges(model, loader(few), asked)
    by_position = score_edges(model.with_seq_len(few.clean.shape[1]), loader(few), asked)
    by_prompt = prompt_scores(model, loader(few), asked)
    for name, scores in whole.items():
        torch.testing.assert_close(by_position[name].sum(0), scores, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(by_prompt[name].mean(0), scores, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("variant", ["gpt2", "gpt_neo", "opt", "mistral"])
def test_prompts_of_different_lengths_score_as_one_at_a_time_by_every_path(variant: str, path: str) -> None:
    mixed, asked, model = ragged(), method(path, "relp"), shared_model(variant)
    together = score_edges(model, PromptDataLoader(mixed, len(mixed)), asked)
    alone = [score_edges(model, PromptDataLoader(one_row(mixed, i), 1), asked) for i in range(len(mixed))]
    mean = {name: torch.stack([scores[name] for scores in alone]).mean(0) for name in together}
    assert relative_error(together, mean) < 1e-5


def test_points_in_parts_add_up() -> None:
    asked, model, few = method("inputs", "gim", n=5), shared_model("llama"), prompts(3)
    whole = score_edges(model, loader(few), asked)
    parts = [score_edges(model, loader(few), asked, points=asked.points[i : i + 2]) for i in (0, 2, 4)]
    together = {name: torch.stack([part[name] for part in parts]).sum(0) for name in whole}
    assert relative_error(together, whole) < 1e-6


@pytest.mark.parametrize("backward", BACKWARD)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_in_bfloat16_every_rule_scores_near_float32(name: str, backward: Backward) -> None:
    half = wrap(random_hf_model(name).to(torch.bfloat16), tokenizer())
    exact = wrap(random_hf_model(name).to(torch.bfloat16).float(), tokenizer())
    ours, theirs = (score_edges(model, loader(prompts(3)), method("inputs", backward)) for model in (half, exact))
    assert relative_error(ours, theirs) < 0.1


def test_a_path_between_prompts_ends_where_the_prompts_do() -> None:
    """Everything comes from the embedding: integrated along it, its score is the difference of the losses."""
    model, few = shared_model("gpt2_one_layer"), prompts(2)
    fine = Method(mask_val=None, integrated_grad_samples=200, integration_rule="midpoint", path="inputs")
    nodes = score_nodes(model, loader(few), fine)
    with torch.no_grad():
        batch = loader(few).dataset.batch(range(2))
        clean, corrupt = (loss(model.logits(x, batch.last), batch, fine) for x in (batch.clean, batch.corrupt))
    assert nodes[0] == pytest.approx(float(corrupt - clean) / 2, rel=1e-3)


@pytest.mark.parametrize("ablation", [ablation for ablation in AblationType if ablation is not AblationType.RESAMPLE])
@pytest.mark.parametrize("path", ["inputs", "ends"])
def test_paths_between_prompts_want_the_resample_ablation(path: str, ablation: AblationType) -> None:
    with pytest.raises(OptionError, match="needs the resample ablation"):
        replace(method(path), ablation_type=ablation)


@pytest.mark.parametrize("ablation", ["ZERO", "TOKENWISE_MEAN_CORRUPT", "BATCH_ALL_TOK_MEAN"])
def test_activations_may_turn_into_any_ablation(ablation: str) -> None:
    asked = Method(mask_val=None, integrated_grad_samples=2, path="activations", ablation_type=AblationType[ablation])
    scores = score_edges(shared_model("llama"), loader(prompts(3), 3), asked)
    assert all(part.isfinite().all() for part in scores.values())


def test_progress_counts_every_pass_of_a_path() -> None:
    told: list[tuple[int, int]] = []
    asked = method("activations", n=2)
    score_edges(shared_model("llama"), loader(prompts(4), 2), asked, lambda step, total, _: told.append((step, total)))
    assert told[-1] == (2 * asked.n_passes(3), 2 * asked.n_passes(3)) == (28, 28)


def test_node_scores_keep_positions_apart_where_edges_do() -> None:
    few, model = prompts(2), random_model("llama")
    apart = score_nodes(model.with_seq_len(few.clean.shape[1]), loader(few), Method())
    np.testing.assert_allclose(apart.sum(0), score_nodes(model, loader(few), Method()), rtol=1e-4, atol=1e-6)
    assert apart.shape == (few.clean.shape[1], EdgeGraph(3, 4, 2).n_sources)


def test_gpt_neos_own_attention_is_put_back() -> None:
    module = shared_model("gpt_neo").bridge.original_model.transformer.h[0].attn
    score_edges(shared_model("gpt_neo"), loader(prompts(2)), Method(backward="gim"))
    assert all("_attn" not in vars(part) for part in module.modules())
