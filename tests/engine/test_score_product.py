"""The arrangement of the score product never shows in the scores: blocks, groups of layers, skipped positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from circuit.common.errors import OptionError
from circuit.edges.method import AblationType, Method
from circuit.engine import score_product
from circuit.engine.ablation import Ablation
from circuit.engine.dataset import PromptDataLoader, PromptDataset
from circuit.engine.mask_gradient import prompt_scores, score_edges
from circuit.engine.masked_pass import MaskedPass
from circuit.engine.model import PatchableModel, PruneScores
from circuit.engine.score_product import ScoreProduct
from circuit.engine.token_block import TokenBlock
from circuit.models.load import wrap
from tests.small_models import ARCHITECTURES, D_VOCAB, random_hf_model, shared_model, tokenizer

METHODS = {
    "eap": Method(),
    "midpoint": Method(mask_val=None, integrated_grad_samples=2, integration_rule="midpoint"),
    "zero": Method(ablation_type=AblationType.ZERO, clean_corrupt=None),
    "mean": Method(mask_val=0.3, ablation_type=AblationType.TOKENWISE_MEAN_CLEAN_AND_CORRUPT, clean_corrupt=None),
}


def pairs(n: int = 5, length: int = 9, same_up_to: int = 4) -> PromptDataset:
    generator = torch.Generator().manual_seed(1)
    clean = torch.randint(0, D_VOCAB, (n, length), generator=generator)
    corrupt = torch.randint(0, D_VOCAB, (n, length), generator=generator)
    corrupt[:, :same_up_to] = clean[:, :same_up_to]
    answers = torch.randint(0, D_VOCAB, (2, n, 2), generator=generator)
    return PromptDataset(clean, corrupt, answers[0], answers[1])


def assert_same(some: PruneScores, others: PruneScores) -> None:
    largest = max(float(scores.abs().max()) for scores in others.values())
    for module, scores in others.items():
        torch.testing.assert_close(some[module], scores, rtol=0, atol=2e-6 * largest)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("positions_apart", [False, True])
@pytest.mark.parametrize("variant", ["gpt2", "llama", "gpt_neox", "phi"])
def test_scores_do_not_depend_on_how_much_is_multiplied_at_once(
    monkeypatch: pytest.MonkeyPatch, variant: str, positions_apart: bool, name: str
) -> None:
    model = shared_model(variant).with_seq_len(9 if positions_apart else None)
    loader = PromptDataLoader(pairs(), 5)
    whole = score_edges(model, loader, METHODS[name])
    for n_bytes, n_rows in ((1, 1), (30_000, 20), (70_000, 30)):
        monkeypatch.setattr(score_product, "PRODUCT_BYTES", {"cpu": n_bytes})
        monkeypatch.setattr(score_product, "PRODUCT_ROWS", n_rows)
        assert_same(score_edges(model, loader, METHODS[name]), whole)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("positions_apart", [False, True])
@pytest.mark.parametrize("variant", ["gpt2", "llama", "gpt_neox", "phi"])
def test_what_a_model_in_bfloat16_leaves_loses_little_by_being_multiplied_in_it(
    monkeypatch: pytest.MonkeyPatch, variant: str, positions_apart: bool, name: str
) -> None:
    model = wrap(random_hf_model(variant).bfloat16(), tokenizer()).with_seq_len(9 if positions_apart else None)
    loader = PromptDataLoader(pairs(), 5)
    monkeypatch.setattr(score_product, "bfloat16_is_quick", lambda: True)
    quick = score_edges(model, loader, METHODS[name])
    monkeypatch.setattr(score_product, "precision", lambda model: torch.float32)
    slow = score_edges(model, loader, METHODS[name])
    largest = max(float(scores.abs().max()) for scores in slow.values())
    worst = max(float((quick[module] - scores).abs().max()) for module, scores in slow.items())
    assert 0 < worst < 0.01 * largest  # the passes in bfloat16 are off by several per cent


@pytest.mark.parametrize("quick", [True, False])
def test_only_bfloat16_is_multiplied_in_itself_and_where_it_is_quick(
    monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    monkeypatch.setattr(score_product, "bfloat16_is_quick", lambda: quick)
    for dtype in (torch.float16, torch.float32, torch.float64):  # float16 holds nothing below 6e-8
        assert ScoreProduct(wrap(random_hf_model("gpt2").to(dtype), tokenizer()))._dtype == torch.float32
    model = wrap(random_hf_model("gpt2").bfloat16(), tokenizer())
    assert ScoreProduct(model)._dtype == (torch.bfloat16 if quick else torch.float32)


@pytest.mark.parametrize("n_tokens", range(1, 40))
@pytest.mark.parametrize("positions_first", [False, True])
def test_blocks_hold_every_token_once_and_no_more_than_asked(n_tokens: int, positions_first: bool) -> None:
    whole = TokenBlock(range(5), range(2, 9), positions_first)
    blocks = whole.split(n_tokens)
    assert all(0 < len(block) <= max(n_tokens, 1) for block in blocks)
    seen = [(i, j) for block in blocks for i in block.prompts for j in block.positions]
    assert sorted(seen) == [(i, j) for i in range(5) for j in range(2, 9)]


def test_no_tokens_are_no_blocks() -> None:
    assert TokenBlock(range(5), range(9, 9)).split(10) == []


def test_a_block_of_an_activation_that_stands_for_all_is_that_activation() -> None:
    block = TokenBlock(range(1, 3), range(4, 9), positions_first=True)
    x = torch.randn(5, 9, 3)
    torch.testing.assert_close(block.of(x), x[1:3, 4:9].transpose(0, 1))
    assert block.of(x[:1, :1]).shape == (1, 1, 3)
    assert block.of(x[:1]).shape == (5, 1, 3)


@pytest.mark.parametrize("variant", ["gpt2", "mistral", "gpt_neox"])
@pytest.mark.parametrize("same_up_to", [0, 1, 4, 8, 9])
def test_positions_before_the_prompts_differ_are_left_out_because_they_score_nothing(
    monkeypatch: pytest.MonkeyPatch, variant: str, same_up_to: int
) -> None:
    loader = PromptDataLoader(pairs(same_up_to=same_up_to), 5)
    model = shared_model(variant)
    apart = model.with_seq_len(9)
    ablation = Ablation(model, loader, AblationType.RESAMPLE)
    assert ablation.first_position(next(iter(loader)), "corrupt") == same_up_to
    short = [score_edges(of, loader, METHODS["midpoint"]) for of in (model, apart)]
    assert all(float(scores[:same_up_to].abs().sum()) == 0 for scores in short[1].values())
    if same_up_to == 9:
        assert all(float(scores.abs().max()) == 0 for scores in short[0].values())
        return
    monkeypatch.setattr(Ablation, "first_position", lambda *_: 0)
    for of, skipping in zip((model, apart), short, strict=True):
        assert_same(skipping, score_edges(of, loader, METHODS["midpoint"]))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("positions_apart", [False, True])
@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_the_last_mlp_is_run_on_last_tokens_alone_because_nobody_reads_the_others(
    monkeypatch: pytest.MonkeyPatch, variant: str, positions_apart: bool, name: str
) -> None:
    model, loader = shared_model(variant).with_seq_len(9 if positions_apart else None), PromptDataLoader(pairs(), 5)
    seen: list[int] = []
    add = ScoreProduct.add

    def watched(self: ScoreProduct, done: MaskedPass, *rest: Any) -> None:
        seen.append(done.mlp[model.n_layers - 1].shape[1])
        add(self, done, *rest)

    monkeypatch.setattr(ScoreProduct, "add", watched)
    short = score_edges(model, loader, METHODS[name])
    assert set(seen) == {9 if variant == "opt" else 1}
    seen.clear()
    monkeypatch.setattr(PatchableModel, "adds_mlp_by_position", False)
    assert_same(short, score_edges(model, loader, METHODS[name]))
    assert set(seen) == {9}


@pytest.mark.parametrize("kind", ["ZERO", "TOKENWISE_MEAN_CLEAN", "BATCH_ALL_TOK_MEAN"])
def test_no_position_is_left_out_where_the_ablation_is_not_the_other_prompt(kind: str) -> None:
    loader = PromptDataLoader(pairs(), 5)
    assert Ablation(shared_model("gpt2"), loader, AblationType[kind]).first_position(next(iter(loader)), "corrupt") == 0


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("variant", ["gpt2", "llama", "phi"])
def test_scores_of_prompts_are_those_of_each_prompt_alone_and_average_to_the_scores(variant: str, name: str) -> None:
    model, method, dataset = shared_model(variant), METHODS[name], pairs()
    apart = prompt_scores(model, PromptDataLoader(dataset, 2), method)
    together = score_edges(model, PromptDataLoader(dataset, 5), method)
    assert_same({module: scores.mean(0) for module, scores in apart.items()}, together)
    if method.ablation_type.averages_dataset:
        return  # a prompt alone has another mean
    for row in range(5):
        one = slice(row, row + 1)
        parts = (dataset.clean, dataset.corrupt, dataset.answers, dataset.wrong_answers)
        alone = PromptDataset(*(part[one] for part in parts))
        found = {module: scores[row] for module, scores in apart.items()}
        assert_same(found, score_edges(model, PromptDataLoader(alone, 1), method))


def test_prompts_and_positions_are_not_both_kept_apart() -> None:
    with pytest.raises(OptionError, match="by prompt or by token position, not both"):
        prompt_scores(shared_model("gpt2").with_seq_len(9), PromptDataLoader(pairs(), 2), Method())


def test_a_batch_mean_leaves_no_score_to_one_prompt() -> None:
    method = Method(ablation_type=AblationType.BATCH_TOKENWISE_MEAN)
    with pytest.raises(OptionError, match="mixes the prompts of a batch"):
        prompt_scores(shared_model("gpt2"), PromptDataLoader(pairs(), 2), method)
