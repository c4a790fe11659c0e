"""Edge scores against slow ones: autograd over a mask entry per edge, finite differences, identities that must hold.

`tests/slow_model.py` holds the slow side, in plain PyTorch on the Hugging Face modules.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pytest
import torch

from circuit.common.errors import JobCancelled, NumericalError, OptionError, PromptError
from circuit.common.settings import cache_folder
from circuit.edges.method import AblationType
from circuit.engine.ablation import Ablation
from circuit.engine.dataset import PromptDataLoader, PromptDataset
from circuit.engine.mask_gradient import edge_attribution_patching_prune_scores, mask_gradient_prune_scores
from circuit.engine.masked_pass import MaskedPass
from circuit.engine.model import PatchableModel
from circuit.engine.patching import masked_logits
from circuit.models.load import wrap
from circuit.prompts.encode import encode
from circuit.prompts.pairs import PromptSet
from circuit.prompts.presets import PRESETS
from tests.slow_model import (
    Prompts,
    Scores,
    relative_error,
    slow_eap_scores,
    slow_loss,
    slow_mask_scores,
    slow_model,
)
from tests.small_models import (
    ARCHITECTURES,
    D_VOCAB,
    VARIANTS,
    random_hf_model,
    random_model,
    shared_model,
    tokenizer,
)
from tests.small_prompts import ABLATIONS, dataset, flat, loader, one_row, prompts, ragged
from tests.traces import StopAfter, traces

READS_BATCH_SIZE = ("BATCH_TOKENWISE_MEAN", "BATCH_ALL_TOK_MEAN")
GRAD_FUNCTIONS = ["logit", "prob", "logprob", "logit_exp"]
ANSWER_FUNCTIONS = ["avg_diff", "avg_val", "mse"]


# --- against autograd over a mask entry per edge -------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_model_that_is_scored_is_the_model_that_was_given(variant: str) -> None:
    """The bridge, the slow model, and Hugging Face's own module give the same logits."""
    name, changes = VARIANTS[variant]
    pairs = prompts()
    with torch.no_grad():
        plain = random_hf_model(name, **changes)(pairs.clean).logits[:, -1]
        bridge = shared_model(variant).logits(pairs.clean, pairs.last)
        slow = slow_model(variant).run(pairs.clean, pairs.last).logits
    assert plain.std() > 0.05  # Cohere scales its logits down
    torch.testing.assert_close(bridge, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(slow.float(), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_eap_is_gradient_times_activation_difference(variant: str) -> None:
    """Syed et al. 2023, written out: no masks, no shared stream, a copy of the stream for every head's input."""
    scores = mask_gradient_prune_scores(shared_model(variant), loader(prompts()), mask_val=0.0)
    expected = slow_eap_scores(slow_model(variant), prompts())
    assert relative_error(scores, expected) < 1e-5
    for name, score in scores.items():  # no module hides behind the larger scores of another
        torch.testing.assert_close(score.double(), expected[name], rtol=1e-4, atol=1e-5 * float(expected[name].norm()))


def test_eap_by_name() -> None:
    model = shared_model("qwen2")
    expected = slow_eap_scores(slow_model("qwen2"), prompts(), "avg_diff")
    assert relative_error(edge_attribution_patching_prune_scores(model, loader(prompts())), expected) < 1e-5
    expected = slow_eap_scores(slow_model("qwen2"), prompts(), "avg_val")
    right_only = edge_attribution_patching_prune_scores(model, loader(prompts()), answer_diff=False)
    assert relative_error(right_only, expected) < 1e-5


@pytest.mark.parametrize("ablation", ["RESAMPLE", "ZERO"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_at_any_mask_value_are_gradients_of_masks(variant: str, ablation: str) -> None:
    scores = mask_gradient_prune_scores(
        shared_model(variant), loader(prompts()), mask_val=0.35, ablation_type=AblationType[ablation]
    )
    expected = slow_mask_scores(slow_model(variant), prompts(), points=[(0.35, 1.0)], ablation=ablation)
    assert relative_error(scores, expected) < 3e-5


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("variant", ["gpt2", "llama_biases", "gpt_neox", "phi"])
def test_every_ablation(variant: str, ablation: str) -> None:
    """Two batches of three and two prompts, so that batch means and dataset means differ."""
    for clean_corrupt in ("clean", "corrupt"):
        if ablation == "RESAMPLE" and clean_corrupt == "clean":
            continue  # clean patched with clean: tested below
        scores = mask_gradient_prune_scores(
            shared_model(variant),
            loader(prompts(), 3),
            mask_val=0.25,
            ablation_type=AblationType[ablation],
            clean_corrupt=clean_corrupt,
        )
        expected = slow_mask_scores(
            slow_model(variant),
            prompts(),
            points=[(0.25, 1.0)],
            ablation=ablation,
            clean_corrupt=clean_corrupt,
            batch_size=3,
        )
        assert relative_error(scores, expected) < 3e-5


@pytest.mark.parametrize("answer_function", ANSWER_FUNCTIONS)
@pytest.mark.parametrize("grad_function", GRAD_FUNCTIONS)
@pytest.mark.parametrize("variant", ["gpt_neox_sequential", "qwen3"])
def test_every_objective(variant: str, grad_function: Any, answer_function: Any) -> None:
    options = {"grad_function": grad_function, "answer_function": answer_function}
    scores = mask_gradient_prune_scores(shared_model(variant), loader(prompts()), mask_val=0.5, **options)
    expected = slow_mask_scores(slow_model(variant), prompts(), points=[(0.5, 1.0)], **options)
    assert relative_error(scores, expected) < 3e-5


def test_mse_with_a_target_over_the_vocabulary() -> None:
    target = torch.rand(5, D_VOCAB, generator=torch.Generator().manual_seed(1))
    pairs = Prompts(prompts().clean, prompts().corrupt, target, prompts().wrong)
    data = PromptDataset(pairs.clean, pairs.corrupt, target)
    for grad_function in ("logit", "prob"):
        scores = mask_gradient_prune_scores(
            shared_model("opt"),
            PromptDataLoader(data, 2),
            mask_val=0.5,
            grad_function=grad_function,
            answer_function="mse",
        )
        options: dict[str, Any] = {"grad_function": grad_function, "answer_function": "mse"}
        expected = slow_mask_scores(slow_model("opt"), pairs, points=[(0.5, 1.0)], **options)
        assert relative_error(scores, expected) < 3e-5


@pytest.mark.parametrize("ablation", ["RESAMPLE", "ZERO", "TOKENWISE_MEAN_CLEAN_AND_CORRUPT", "BATCH_ALL_TOK_MEAN"])
@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_positions_kept_apart(variant: str, ablation: str) -> None:
    """A mask entry for every edge at every position; their sum is the score with positions added up."""
    model, together = shared_model(variant).with_seq_len(9), shared_model(variant)
    options: dict[str, Any] = {"mask_val": 0.4, "ablation_type": AblationType[ablation]}
    scores = mask_gradient_prune_scores(model, loader(prompts()), **options)
    expected = slow_mask_scores(
        slow_model(variant), prompts(), points=[(0.4, 1.0)], ablation=ablation, positions_apart=True
    )
    assert relative_error(scores, expected) < 3e-5
    added_up = mask_gradient_prune_scores(together, loader(prompts()), **options)
    assert relative_error({name: score.sum(0) for name, score in scores.items()}, added_up) < 1e-5


@pytest.mark.parametrize("rule", ["reference", "trapezoid", "midpoint"])
def test_integrated_gradients_average_over_points(rule: Any) -> None:
    points = {
        "reference": [(0.0, 1 / 4), (1 / 3, 1 / 4), (2 / 3, 1 / 4), (1.0, 1 / 4)],
        "trapezoid": [(0.0, 1 / 6), (1 / 3, 1 / 3), (2 / 3, 1 / 3), (1.0, 1 / 6)],
        "midpoint": [(1 / 6, 1 / 3), (1 / 2, 1 / 3), (5 / 6, 1 / 3)],
    }[rule]
    scores = mask_gradient_prune_scores(
        shared_model("llama"), loader(prompts()), integrated_grad_samples=3, integration_rule=rule
    )
    expected = slow_mask_scores(slow_model("llama"), prompts(), points=points)
    assert relative_error(scores, expected) < 3e-5


# --- against finite differences ------------------------------------------------------------------------------------


@functools.cache
def smooth_double_model(name: str) -> PatchableModel:
    """In float64, since differences of float32 losses are noise; without OPT's ReLU, which has no slope at its kink."""
    changes = {"activation_function": "gelu"} if name == "opt" else {}
    return wrap(random_hf_model(name, **changes).double(), tokenizer())


@pytest.mark.parametrize("positions_apart", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_are_the_slope_of_the_loss_in_one_edges_mask(name: str, positions_apart: bool) -> None:
    """Central differences, extrapolated, of single-edge masks through the code that runs circuits."""
    model = smooth_double_model(name).with_seq_len(9 if positions_apart else None)
    batches = loader(prompts())
    (batch,) = batches
    ablated = Ablation(model, batches, AblationType.RESAMPLE).of(batch, "corrupt")
    scores = model.graph.flatten(mask_gradient_prune_scores(model, batches, mask_val=0.0))

    def loss_with(edge: int, m: float) -> float:
        mask = np.zeros(model.graph.n_edges)
        mask[edge] = m
        logits = masked_logits(model, batch.clean, batch.last, ablated, mask)
        return float(slow_loss(logits, prompts(), "logit", "avg_diff") / len(batch))

    def slope(edge: int, h: float) -> float:
        return (loss_with(edge, h) - loss_with(edge, -h)) / (2 * h)

    strong = np.argsort(-abs(scores))[:6]
    some = np.random.default_rng(0).choice(model.graph.n_edges, 8, replace=False)
    blocks = [block.first_edge + 1 for block in model.graph.blocks if block.n_sources > 1][::3]
    for edge in {int(edge) for edge in (*strong, *some, *blocks)}:
        measured = (4 * slope(edge, 0.01) - slope(edge, 0.02)) / 3
        assert measured == pytest.approx(scores[edge], rel=1e-4, abs=5e-5), model.graph.edge_name(edge)


# --- grouped-query attention ---------------------------------------------------------------------------------------


def ungrouped(grouped: Any, like: Any) -> Any:
    """`like`, with as many key-value as query heads: each holds a copy of its group's keys and values."""
    config = grouped.config
    group = config.num_attention_heads // config.num_key_value_heads
    state = grouped.state_dict()
    for key, value in state.items():
        if "k_proj" in key or "v_proj" in key:
            by_head = value.unflatten(0, (config.num_key_value_heads, -1))
            state[key] = by_head.repeat_interleave(group, dim=0).flatten(0, 1)
    like.load_state_dict(state)
    return like


def added_up(scores: Scores, group: int) -> Scores:
    """The scores of the copies of one key-value head, summed."""
    return {
        module: score.unflatten(0, (-1, group)).sum(1) if "hook_k" in module or "hook_v" in module else score
        for module, score in scores.items()
    }


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_key_value_head_scores_the_sum_of_its_query_heads_copies(name: str) -> None:
    hf_copies = ungrouped(random_hf_model(name), random_hf_model(name, num_key_value_heads=4))
    copies, grouped = wrap(hf_copies, tokenizer()), shared_model(name)
    assert (copies.n_kv_heads, grouped.n_kv_heads) == (4, 2)
    several: list[dict[str, Any]] = [
        {"mask_val": 0.0},
        {"integrated_grad_samples": 2, "ablation_type": AblationType.ZERO},
    ]
    for options in several:
        of_copies = mask_gradient_prune_scores(copies, loader(prompts()), **options)
        scores = mask_gradient_prune_scores(grouped, loader(prompts()), **options)
        assert relative_error(scores, added_up(of_copies, 2)) < 1e-5


def test_so_does_the_real_smollm2(smollm2: PatchableModel) -> None:
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(cache_folder() / "smollm2-135m")
    config = copy.deepcopy(plain.config)
    config.num_key_value_heads = config.num_attention_heads
    copies = wrap(ungrouped(plain, AutoModelForCausalLM.from_config(config)).eval(), smollm2.tokenizer)
    two = PromptSet("two", PRESETS["ioi"].prompts.pairs[:2])
    pairs = PromptDataLoader(encode(two, smollm2.tokenizer, prepend_bos=False).dataset(), 2)
    options: dict[str, Any] = {"integrated_grad_samples": 1, "integration_rule": "midpoint"}
    of_copies = mask_gradient_prune_scores(copies, pairs, **options)
    scores = mask_gradient_prune_scores(smollm2, pairs, **options)
    assert sum(score.numel() for score in scores.values()) == 70_651
    assert relative_error(scores, added_up(of_copies, 3)) < 1e-5


# --- batches and lengths -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", ["RESAMPLE", "ZERO"])
@pytest.mark.parametrize("variant", [*ARCHITECTURES, "qwen2_sliding"])
def test_prompts_of_different_lengths_score_as_one_at_a_time(variant: str, ablation: str) -> None:
    model = shared_model(variant)
    options: dict[str, Any] = {"mask_val": 0.3, "ablation_type": AblationType[ablation], "grad_function": "logprob"}
    together = mask_gradient_prune_scores(model, PromptDataLoader(ragged(), 5), **options)
    alone = [
        mask_gradient_prune_scores(model, PromptDataLoader(one_row(ragged(), row)), **options)
        for row in range(len(ragged()))
    ]
    mean = {name: torch.stack([scores[name] for scores in alone]).mean(0) for name in together}
    assert relative_error(together, mean) < 1e-5


@pytest.mark.parametrize("ablation", [name for name in ABLATIONS if name not in READS_BATCH_SIZE])
def test_scores_do_not_depend_on_the_batch_size(ablation: str) -> None:
    options: dict[str, Any] = {"integrated_grad_samples": 2, "ablation_type": AblationType[ablation]}
    expected = mask_gradient_prune_scores(shared_model("qwen3"), loader(prompts()), **options)
    for batch_size in (1, 2, 7, None):
        batches = PromptDataLoader(dataset(prompts()), batch_size)
        assert relative_error(mask_gradient_prune_scores(shared_model("qwen3"), batches, **options), expected) < 1e-5


def test_the_mean_over_all_tokens_ignores_padding() -> None:
    """Against the slow model, which runs each prompt alone and so has no padding."""
    slow, data = slow_model("gpt2"), ragged()
    rows = [
        Prompts(data.clean[i][None], data.corrupt[i][None], [data.answers[i]], [data.wrong_answers[i]])
        for i in range(len(data))
    ]
    with torch.no_grad():
        runs = [slow.run(row.corrupt, row.last).sources for row in rows]
    means = [torch.cat([run[s][0] for run in runs]).mean(0) for s in range(slow.n_sources)]
    masks = {name: torch.full(s, 0.5, dtype=torch.float64).requires_grad_() for name, s in slow.mask_shapes().items()}
    losses = [slow_loss(slow.run(r.clean, r.last, masks, means).logits, r, "logit", "avg_diff") for r in rows]
    expected = dict(zip(masks, torch.autograd.grad(torch.stack(losses).mean(), list(masks.values())), strict=True))
    scores = mask_gradient_prune_scores(
        shared_model("gpt2"),
        PromptDataLoader(data, len(data)),
        mask_val=0.5,
        ablation_type=AblationType.BATCH_ALL_TOK_MEAN,
    )
    assert relative_error(scores, expected) < 3e-5


@pytest.mark.parametrize("ablation", READS_BATCH_SIZE)
def test_batch_means_need_a_batch_size(ablation: str) -> None:
    with pytest.raises(OptionError, match="depends on the batch size: choose one"):
        mask_gradient_prune_scores(
            shared_model("gpt2"),
            PromptDataLoader(dataset(prompts())),
            mask_val=0.0,
            ablation_type=AblationType[ablation],
        )


# --- identities ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["gpt2", "gpt_neox", "llama", "phi"])
def test_integrated_scores_add_up_to_the_difference_of_losses(variant: str) -> None:
    """All masks equal m: dL/dm is the sum of all scores, so their integral is loss(m=1) - loss(m=0).

    With resampling the final residual at m=1 is the corrupt prompt's, so loss(1) is the loss on the corrupt prompt.
    """
    pairs, model = prompts(), shared_model(variant)
    with torch.no_grad():
        ends = [
            slow_loss(model.logits(side, pairs.last), pairs, "logprob", "avg_val") / len(pairs)
            for side in (pairs.clean, pairs.corrupt)
        ]
    scores = mask_gradient_prune_scores(
        model,
        loader(pairs),
        grad_function="logprob",
        answer_function="avg_val",
        integrated_grad_samples=48,
        integration_rule="midpoint",
    )
    assert abs(ends[1] - ends[0]) > 0.03
    assert float(flat(scores).sum()) == pytest.approx(float(ends[1] - ends[0]), abs=1e-3)


@pytest.mark.parametrize("variant", ["gpt2", "gpt_neox", "llama_biases", "phi"])
def test_at_mask_value_1_only_the_final_residual_can_score(variant: str) -> None:
    """There every destination reads ablated activations alone, so nothing upstream can be felt."""
    options: dict[str, Any] = {"mask_val": 1.0, "ablation_type": AblationType.TOKENWISE_MEAN_CORRUPT}
    scores = mask_gradient_prune_scores(shared_model(variant), loader(prompts()), **options)
    *others, final = scores
    assert all(bool((scores[name] == 0).all()) for name in others)
    assert float(scores[final].norm()) > 0.01
    expected = slow_mask_scores(slow_model(variant), prompts(), points=[(1.0, 1.0)], ablation="TOKENWISE_MEAN_CORRUPT")
    assert relative_error({final: scores[final]}, {final: expected[final]}) < 3e-5


@pytest.mark.parametrize("variant", ["gpt2", "gpt_neox", "qwen2", "phi"])
def test_at_mask_value_1_the_corrupt_prompt_is_left_so_resampling_changes_nothing(variant: str) -> None:
    """Every source but the embedding writes there what it writes on the corrupt prompt; last tokens are equal."""
    scores = mask_gradient_prune_scores(shared_model(variant), loader(prompts()), mask_val=1.0)
    assert float(flat(scores).abs().max()) < 1e-6


def test_clean_patched_with_clean_scores_nothing() -> None:
    for variant in ("gpt2", "qwen3"):
        scores = mask_gradient_prune_scores(
            shared_model(variant), loader(prompts()), mask_val=0.0, clean_corrupt="clean"
        )
        assert float(flat(scores).abs().max()) < 1e-6


def test_a_positive_score_means_that_ablating_the_edge_hurts() -> None:
    """Ablate the edge of largest positive score, a little: the answers' logit difference falls."""
    model, batches = shared_model("gpt2"), loader(prompts())
    scores = model.graph.flatten(mask_gradient_prune_scores(model, batches, mask_val=0.0))
    (batch,) = batches
    ablated = Ablation(model, batches, AblationType.RESAMPLE).of(batch, "corrupt")

    def answer_difference(edge: int, m: float) -> float:
        mask = np.zeros(model.graph.n_edges)
        mask[edge] = m
        logits = masked_logits(model, batch.clean, batch.last, ablated, mask)
        return float((logits.gather(1, prompts().answers).mean(1) - logits.gather(1, prompts().wrong).mean(1)).mean())

    helps, harms = int(scores.argmax()), int(scores.argmin())
    assert answer_difference(helps, 0.1) < answer_difference(helps, 0.0)
    assert answer_difference(harms, 0.1) > answer_difference(harms, 0.0)


def test_clean_corrupt_does_not_matter_where_the_batch_is_not_read() -> None:
    for ablation in (AblationType.ZERO, AblationType.TOKENWISE_MEAN_CORRUPT):
        runs = [
            mask_gradient_prune_scores(
                shared_model("opt"),
                loader(prompts()),
                mask_val=0.5,
                ablation_type=ablation,
                clean_corrupt=clean_corrupt,
            )
            for clean_corrupt in (None, "clean", "corrupt")
        ]
        assert torch.equal(flat(runs[0]), flat(runs[1]))
        assert torch.equal(flat(runs[0]), flat(runs[2]))


def test_scores_are_float32_on_the_cpu_in_the_graphs_order() -> None:
    scores = mask_gradient_prune_scores(shared_model("llama"), loader(prompts()), mask_val=0.0)
    assert list(scores) == [block.module for block in shared_model("llama").graph.blocks]
    for block in shared_model("llama").graph.blocks:
        assert scores[block.module].dtype == torch.float32
        assert scores[block.module].device.type == "cpu"
        assert tuple(scores[block.module].shape) == shared_model("llama").graph.shape(block)
        assert not scores[block.module].requires_grad


# --- precision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.08), (torch.float16, 0.01), (torch.float64, 1e-5)])
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "phi"])
def test_other_precisions_score_in_float32_near_float32s(name: str, dtype: torch.dtype, tolerance: float) -> None:
    model = wrap(random_hf_model(name).to(dtype), tokenizer())
    assert model.dtype == dtype
    several: list[dict[str, Any]] = [
        {"mask_val": 0.0},
        {"mask_val": 0.5, "ablation_type": AblationType.TOKENWISE_MEAN_CORRUPT},
        {"mask_val": 0.5, "ablation_type": AblationType.ZERO},
    ]
    for options in several:
        scores = mask_gradient_prune_scores(model, loader(prompts(), 2), **options)
        expected = mask_gradient_prune_scores(shared_model(name), loader(prompts(), 2), **options)
        assert all(score.dtype == torch.float32 for score in scores.values())
        assert bool(flat(scores).isfinite().all())
        assert relative_error(scores, expected) < tolerance


def overflowing_model() -> PatchableModel:
    """An MLP that writes more than float16 holds."""
    hf_model = random_hf_model("gpt2")
    with torch.no_grad():
        hf_model.transformer.h[1].mlp.c_proj.weight.mul_(1e5)
    return wrap(hf_model.half(), tokenizer())


def test_a_score_that_is_not_finite_is_an_error_that_says_where_and_what_to_try() -> None:
    with pytest.raises(NumericalError) as error:
        mask_gradient_prune_scores(overflowing_model(), loader(prompts(), 3), mask_val=0.5)
    for words in (
        "not finite",
        "blocks.",
        "prompts 1 to 3 of 5",
        "mask value 0.5",
        "float16 overflows",
        "bfloat16 or float32",
    ):
        assert words in str(error.value)


def test_logit_exp_does_not_overflow() -> None:
    """Logits of some 1e4: exp of them would be infinite in any precision."""
    hf_model = random_hf_model("gpt2", tie_word_embeddings=False)
    with torch.no_grad():
        hf_model.lm_head.weight.mul_(2e4)
    model = wrap(hf_model, tokenizer())
    with torch.no_grad():
        assert float(model.logits(prompts().clean, prompts().last).abs().max()) > 1e4
    scores = mask_gradient_prune_scores(model, loader(prompts()), mask_val=0.0, grad_function="logit_exp")
    assert bool(flat(scores).isfinite().all())


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "words"), [({}, "neither was given"), ({"mask_val": 0.0}, "both was given")])
def test_exactly_one_of_mask_value_and_samples(options: dict[str, Any], words: str) -> None:
    samples: dict[str, Any] = {"integrated_grad_samples": 5} if options else {}
    with pytest.raises(OptionError, match=f"exactly one of mask_val and integrated_grad_samples: {words}"):
        mask_gradient_prune_scores(shared_model("gpt2"), loader(prompts()), **options, **samples)


@pytest.mark.parametrize(
    "ablation", [AblationType.RESAMPLE, AblationType.BATCH_TOKENWISE_MEAN, AblationType.BATCH_ALL_TOK_MEAN]
)
def test_clean_corrupt_is_needed_where_the_batch_is_read(ablation: AblationType) -> None:
    with pytest.raises(OptionError, match="set clean_corrupt to 'clean' or 'corrupt'"):
        mask_gradient_prune_scores(
            shared_model("gpt2"), loader(prompts()), mask_val=0.0, ablation_type=ablation, clean_corrupt=None
        )


@pytest.mark.parametrize("ablation", [a for a in AblationType if a.averages_positions_apart])
def test_token_wise_means_need_prompts_of_one_length(ablation: AblationType) -> None:
    with pytest.raises(PromptError, match=r"Row 2 has 11 tokens and row 1 has 7: .* averages each token position"):
        mask_gradient_prune_scores(
            shared_model("gpt2"), PromptDataLoader(ragged(), 2), mask_val=0.0, ablation_type=ablation
        )


def test_a_missing_wrong_answer_is_found_before_any_work() -> None:
    wrong = [*ragged().wrong_answers[:3], torch.empty(0), ragged().wrong_answers[4]]
    data = PromptDataset(ragged().clean, ragged().corrupt, ragged().answers, wrong)
    reports: list[int] = []
    with pytest.raises(PromptError, match=r"Row 4: there is no wrong answer, .* or choose 'avg_val'"):
        mask_gradient_prune_scores(
            shared_model("gpt2"),
            PromptDataLoader(data, 1),
            mask_val=0.0,
            progress=lambda step, total, message: reports.append(step),
        )
    assert reports == []
    scores = mask_gradient_prune_scores(
        shared_model("gpt2"), PromptDataLoader(data, 1), mask_val=0.0, answer_function="avg_val"
    )
    assert bool(flat(scores).isfinite().all())


def test_a_target_is_no_answer_token() -> None:
    data = PromptDataset(prompts().clean, prompts().corrupt, torch.rand(5, D_VOCAB))
    with pytest.raises(PromptError, match=r"'avg_val' needs answer tokens.* choose 'mse'"):
        mask_gradient_prune_scores(
            shared_model("gpt2"), PromptDataLoader(data), mask_val=0.0, answer_function="avg_val"
        )


def test_positions_kept_apart_need_prompts_of_that_length() -> None:
    with pytest.raises(PromptError, match=r"Row 1: the prompt has 9 tokens, .* of 8\. Use prompts of one length"):
        mask_gradient_prune_scores(shared_model("gpt2").with_seq_len(8), loader(prompts()), mask_val=0.0)


# --- progress, cancellation, and what is left behind ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("ablation", "steps"),
    [("RESAMPLE", 3 * 3), ("TOKENWISE_MEAN_CLEAN", 3 + 9), ("TOKENWISE_MEAN_CLEAN_AND_CORRUPT", 6 + 9)],
)
def test_progress_counts_to_its_total(ablation: str, steps: int) -> None:
    reports: list[tuple[int, int]] = []
    mask_gradient_prune_scores(
        shared_model("llama"),
        loader(prompts(), 2),
        integrated_grad_samples=2,
        ablation_type=AblationType[ablation],
        progress=lambda step, total, message: reports.append((step, total)),
    )
    assert reports == [(step, steps) for step in range(1, steps + 1)]


@pytest.mark.parametrize("name", ["gpt2", "phi"])
def test_a_run_leaves_the_model_as_it_was(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """After a run, after a cancelled one, and after an error in the middle of a forward pass; and it prints nothing."""
    model = random_model(name)
    some = list(model.bridge.original_model.parameters())[3]
    some.requires_grad_(False)
    pairs = prompts()
    with torch.no_grad():
        logits = model.logits(pairs.clean, pairs.last)  # TransformerLens adds hooks of its own on the first pass
    before = traces(model)
    capfd.readouterr()

    def check() -> None:
        assert traces(model) == before
        with torch.no_grad():
            assert torch.equal(model.logits(pairs.clean, pairs.last), logits)
        assert capfd.readouterr() == ("", "")

    mask_gradient_prune_scores(model, loader(pairs, 2), mask_val=0.3)
    check()

    stop = StopAfter(2)
    with pytest.raises(JobCancelled):
        mask_gradient_prune_scores(
            model, loader(pairs, 2), integrated_grad_samples=4, progress=stop.report, cancelled=stop
        )
    assert stop.done == 2  # not one step more
    check()

    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("in the middle")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MaskedPass, "_read_final", fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            mask_gradient_prune_scores(model, loader(pairs, 2), mask_val=0.3)
    check()


def test_gradients_are_taken_inside_no_grad() -> None:
    """A caller in `torch.no_grad()`, as a server may be, gets the same scores."""
    expected = mask_gradient_prune_scores(shared_model("gpt2"), loader(prompts()), mask_val=0.3)
    with torch.no_grad():
        scores = mask_gradient_prune_scores(shared_model("gpt2"), loader(prompts()), mask_val=0.3)
    assert torch.equal(flat(scores), flat(expected))
