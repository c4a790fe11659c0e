"""Running circuits: any mask on any edge against the slow model, and what the whole and the empty circuit must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from circuit.common.errors import JobCancelled, NumericalError, OptionError, PromptError
from circuit.edges.graph import EdgeGraph
from circuit.edges.method import AblationType, PatchType
from circuit.engine.ablation import Ablation
from circuit.engine.dataset import PromptDataLoader, PromptDataset
from circuit.engine.mask_gradient import mask_gradient_prune_scores
from circuit.engine.model import PatchableModel
from circuit.engine.patching import masked_logits, run_circuits, run_edge_masks
from circuit.models.load import wrap
from tests.slow_model import slow_ablated, slow_model
from tests.small_models import ARCHITECTURES, VARIANTS, random_hf_model, shared_model, tokenizer
from tests.small_prompts import ABLATIONS, dataset, loader, one_row, prompts, ragged
from tests.traces import StopAfter, traces

READS_POSITIONS = [ablation for ablation in AblationType if ablation.averages_positions_apart]


def plain(model: PatchableModel, tokens: Tensor) -> Tensor:
    """Logits after the last token, of the model as Hugging Face runs it."""
    with torch.no_grad():
        return model.bridge.original_model(input_ids=tokens).logits[:, -1]


def random_scores(model: PatchableModel, seed: int = 0) -> dict[str, Tensor]:
    flat = torch.randn(model.graph.n_edges, generator=torch.Generator().manual_seed(seed))
    return model.graph.unflatten(flat)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-4, atol=5e-5)


# --- against the slow model ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions_apart", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_mask_on_any_edge(variant: str, positions_apart: bool) -> None:
    """A random mask value on each edge."""
    model, slow, pairs = (
        shared_model(variant).with_seq_len(9 if positions_apart else None),
        slow_model(variant),
        prompts(),
    )
    (batch,) = loader(pairs)
    flat = torch.rand(model.graph.n_edges, generator=torch.Generator().manual_seed(4))
    masks = model.graph.unflatten(flat.double())
    for ablation in ("RESAMPLE", "ZERO"):
        ablated = Ablation(model, loader(pairs), AblationType[ablation]).of(batch, "corrupt")
        ours = masked_logits(model, batch.clean, batch.last, ablated, flat.numpy())
        with torch.no_grad():
            replaced = slow_ablated(slow, pairs, ablation, "corrupt", pairs)
            theirs = slow.run(pairs.clean, pairs.last, masks, replaced).logits
        close(ours, theirs)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("patch_type", list(PatchType))
@pytest.mark.parametrize("variant", ["gpt2", "qwen3", "phi"])
def test_circuits_of_every_ablation(variant: str, patch_type: PatchType, ablation: str) -> None:
    """Tree patching: clean prompt in, all but the circuit ablated. Edge patching: corrupt in, the circuit ablated."""
    model, slow, pairs = shared_model(variant), slow_model(variant), prompts()
    scores = random_scores(model)
    sizes = [0, 40, model.graph.n_edges]
    outputs = run_circuits(model, loader(pairs), sizes, scores, patch_type, AblationType[ablation])
    strength = torch.cat([score.flatten() for score in scores.values()]).abs()
    tree = patch_type is PatchType.TREE_PATCH
    largest = plain(model, pairs.clean).abs().max()
    with torch.no_grad():
        replaced = slow_ablated(slow, pairs, ablation, "corrupt" if tree else "clean", pairs)
    for size in sizes:
        threshold = strength.sort(descending=True).values[size - 1] if size else torch.inf
        masks = {name: ((score.abs() >= threshold) != tree).double() for name, score in scores.items()}
        with torch.no_grad():
            expected = slow.run(pairs.clean if tree else pairs.corrupt, pairs.last, masks, replaced).logits
        assert (outputs[size] - expected).abs().max() / largest < 1e-5
        assert outputs[size].dtype == torch.float32


def wholly_kept_or_ablated(graph: EdgeGraph, generator: np.random.Generator) -> np.ndarray:
    """Each destination, at each position, with all of its edges or with none."""
    kept = generator.random((len(graph.destinations), graph.seq_len or 1)) < 0.6
    return kept[graph.edge_destination, graph.edge_position]


def any_edges(graph: EdgeGraph, generator: np.random.Generator) -> np.ndarray:
    return generator.random(graph.n_edges) < 0.1


def next_to_nothing_after_the_embedding(graph: EdgeGraph, generator: np.random.Generator) -> np.ndarray:
    """Most edges kept, but only one head reads the embedding, and few read that head: most sources write zeros."""
    kept = generator.random(graph.n_edges) < 0.8
    kept[graph.edge_source == 0] = graph.edge_destination[graph.edge_source == 0] == 0
    kept[graph.edge_source == 1] &= generator.random(int((graph.edge_source == 1).sum())) < 0.1
    return kept


CIRCUITS = (wholly_kept_or_ablated, any_edges, next_to_nothing_after_the_embedding)


@pytest.mark.parametrize("positions_apart", [False, True])
@pytest.mark.parametrize("variant", ["llama", "qwen3", "llama_one_kv_head", "opt_no_biases"])
def test_zero_ablation_is_exact_where_what_is_kept_adds_up_to_nothing(variant: str, positions_apart: bool) -> None:
    """A norm makes large numbers of the rounding errors that would be left where nothing is kept: the streams are so
    small that up to 6 % of the largest logit came of it."""
    pairs, slow = prompts(), slow_model(variant)
    model = shared_model(variant).with_seq_len(9 if positions_apart else None)
    largest = plain(model, pairs.clean).abs().max()
    circuits = [make(model.graph, np.random.default_rng(seed)) for make in CIRCUITS for seed in range(4)]
    outputs = run_edge_masks(model, loader(pairs), circuits, ablation_type=AblationType.ZERO)
    with torch.no_grad():
        zeros = slow_ablated(slow, pairs, "ZERO", "corrupt", pairs)
        for kept, ours in zip(circuits, outputs, strict=True):
            masks = model.graph.unflatten(torch.from_numpy(~kept).double())
            expected = slow.run(pairs.clean, pairs.last, masks, zeros).logits
            assert (ours - expected).abs().max() / largest < 5e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
@pytest.mark.parametrize("positions_apart", [False, True])
@pytest.mark.parametrize("variant", ["llama", "qwen3"])
def test_zero_ablation_in_half_precision(
    variant: str, positions_apart: bool, dtype: torch.dtype, tolerance: float
) -> None:
    pairs, slow = prompts(), slow_model(variant)
    model = wrap(random_hf_model(variant).to(dtype), tokenizer(), 9 if positions_apart else None)
    largest = plain(model, pairs.clean).abs().max()
    circuits = [make(model.graph, np.random.default_rng(seed)) for make in CIRCUITS for seed in range(2)]
    outputs = run_edge_masks(model, loader(pairs), circuits, ablation_type=AblationType.ZERO)
    with torch.no_grad():
        zeros = slow_ablated(slow, pairs, "ZERO", "corrupt", pairs)
        for kept, ours in zip(circuits, outputs, strict=True):
            masks = model.graph.unflatten(torch.from_numpy(~kept).double())
            expected = slow.run(pairs.clean, pairs.last, masks, zeros).logits
            assert (ours - expected).abs().max() / largest < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_of_ablated_edges_reads_the_ablated_stream_and_one_of_kept_edges_the_current_one(
    dtype: torch.dtype,
) -> None:
    """Up to rounding, also where other positions of the same destination are of the other kind."""
    pairs = prompts()
    model = wrap(random_hf_model("llama").to(dtype), tokenizer(), 9)
    graph = model.graph
    final, mlp = (graph.edge_destination == i for i in (len(graph.destinations) - 1, graph.blocks[7].first_destination))
    assert graph.destinations[graph.blocks[7].first_destination].name == "MLP 1"
    last = graph.edge_position == 8

    def outputs(*ablated: np.ndarray) -> list[Tensor]:
        return run_edge_masks(model, loader(pairs), [~edges for edges in ablated], ablation_type=AblationType.ZERO)

    def differ(a: Tensor, b: Tensor) -> float:
        return float((a - b).abs().max() / whole.abs().max() / torch.finfo(dtype).eps)

    whole, last_final, all_final, other_final = outputs(final & False, final & last, final, final & ~last)
    assert whole.abs().max() > 1
    assert torch.equal(last_final, torch.zeros_like(whole))  # the norm of nothing is nothing
    assert torch.equal(all_final, torch.zeros_like(whole))
    assert differ(other_final, whole) < 8
    hf = model.bridge.original_model
    removed = hf.model.layers[1].mlp.down_proj.weight.data.clone()
    all_mlp, last_mlp = outputs(mlp, mlp & last)
    hf.model.layers[1].mlp.down_proj.weight.data.zero_()
    assert differ(all_mlp, outputs(final & False)[0]) < 8
    hf.model.layers[1].mlp.down_proj.weight.data.copy_(removed)
    assert differ(last_mlp, all_mlp) > 32


# --- what must come out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_whole_circuit_and_the_empty_one(variant: str) -> None:
    model, pairs = shared_model(variant), prompts()
    clean, corrupt = plain(model, pairs.clean), plain(model, pairs.corrupt)
    scores, n = random_scores(model), model.graph.n_edges
    assert (clean - corrupt).abs().max() > 1e-3
    cases = {
        (PatchType.TREE_PATCH, False): (corrupt, clean),
        (PatchType.TREE_PATCH, True): (clean, corrupt),
        (PatchType.EDGE_PATCH, False): (corrupt, clean),
        (PatchType.EDGE_PATCH, True): (clean, corrupt),
    }
    for (patch_type, reverse), (empty, whole) in cases.items():
        outputs = run_circuits(model, loader(pairs), [0, n], scores, patch_type, reverse_clean_corrupt=reverse)
        close(outputs[0], empty)
        close(outputs[n], whole)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_a_circuit_of_all_edges_is_the_plain_model_whatever_the_ablation(ablation: str) -> None:
    model = shared_model("gpt_neox")
    n = model.graph.n_edges
    outputs = run_circuits(
        model, loader(prompts(), 2), [n], random_scores(model), PatchType.TREE_PATCH, AblationType[ablation]
    )
    close(outputs[n], plain(model, prompts().clean))


def test_reverse_swaps_the_prompts() -> None:
    """Reversed, a circuit is what it would be on the dataset with clean and corrupt exchanged."""
    model, pairs = shared_model("llama"), prompts()
    swapped = PromptDataLoader(PromptDataset(pairs.corrupt, pairs.clean, pairs.answers, pairs.wrong), 5)
    for patch_type in PatchType:
        for ablation in (AblationType.RESAMPLE, AblationType.BATCH_ALL_TOK_MEAN):
            options: dict[str, Any] = {"patch_type": patch_type, "ablation_type": ablation}
            ours = run_circuits(model, loader(pairs), [30], random_scores(model), reverse_clean_corrupt=True, **options)
            assert torch.equal(ours[30], run_circuits(model, swapped, [30], random_scores(model), **options)[30])


@pytest.mark.parametrize("variant", [*ARCHITECTURES, "qwen2_sliding"])
def test_prompts_of_different_lengths_and_batch_sizes_keep_order_and_numbers(variant: str) -> None:
    model = shared_model(variant)
    scores, sizes = random_scores(model), [0, 25, 90]
    largest = plain(model, prompts().clean).abs().max()
    for ablation, tolerance in ((AblationType.RESAMPLE, 2e-5), (AblationType.ZERO, 2e-5)):
        options: dict[str, Any] = {"patch_type": PatchType.TREE_PATCH, "ablation_type": ablation}
        alone = [
            run_circuits(model, PromptDataLoader(one_row(ragged(), row)), sizes, scores, **options)
            for row in range(len(ragged()))
        ]
        for batch_size in (2, 5, None):
            together = run_circuits(model, PromptDataLoader(ragged(), batch_size), sizes, scores, **options)
            assert list(together) == sizes
            for size in sizes:
                expected = torch.cat([outputs[size] for outputs in alone])
                assert (together[size] - expected).abs().max() / largest < tolerance


@pytest.mark.parametrize("variant", ["gpt2", "llama"])
def test_a_batch_of_pairs_that_are_the_same_changes_nothing(variant: str) -> None:
    model, pairs = shared_model(variant), prompts()
    corrupt = torch.cat([pairs.clean[:2], pairs.corrupt[2:]])
    data = PromptDataset(pairs.clean, corrupt, pairs.answers, pairs.wrong)
    scores, n = random_scores(model), model.graph.n_edges // 2
    apart = run_circuits(model, PromptDataLoader(data, 2), [n], scores, PatchType.TREE_PATCH)[n]
    torch.testing.assert_close(apart[:2], plain(model, pairs.clean)[:2])
    together = run_circuits(model, PromptDataLoader(data, len(data)), [n], scores, PatchType.TREE_PATCH)[n]
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-5)


def test_exactly_n_edges_even_where_scores_tie() -> None:
    """All scores equal: the circuit of n edges is the first n of them."""
    model = shared_model("gpt2")
    n = model.graph.n_edges - 1
    tied = {name: -torch.ones_like(score) for name, score in random_scores(model).items()}
    first = np.arange(model.graph.n_edges) < n
    (expected,) = run_edge_masks(model, loader(prompts()), [first])
    outputs = run_circuits(model, loader(prompts()), [n], tied, PatchType.TREE_PATCH)
    assert torch.equal(outputs[n], expected)
    more = run_circuits(model, loader(prompts()), [n + 1], tied, PatchType.TREE_PATCH)
    assert not torch.equal(more[n + 1], expected)


def test_positions_kept_apart_and_the_same_at_each_position_is_positions_added_up() -> None:
    model = shared_model("phi")
    apart = model.with_seq_len(9)
    kept = np.random.default_rng(0).random(model.graph.n_edges) < 0.5
    by_name = model.graph.unflatten(kept)
    repeated = np.concatenate(
        [np.broadcast_to(by_name[b.module], (9, *by_name[b.module].shape)).ravel() for b in model.graph.blocks]
    )
    (expected,) = run_edge_masks(model, loader(prompts()), [kept])
    (outputs,) = run_edge_masks(apart, loader(prompts()), [repeated])
    close(outputs, expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.01), (torch.float64, 1e-5)])
@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_other_precisions(name: str, dtype: torch.dtype, tolerance: float) -> None:
    model = wrap(random_hf_model(name).to(dtype), tokenizer())
    options: dict[str, Any] = {"patch_type": PatchType.TREE_PATCH, "ablation_type": AblationType.TOKENWISE_MEAN_CLEAN}
    outputs = run_circuits(model, loader(prompts(), 2), [50], random_scores(model), **options)[50]
    expected = run_circuits(shared_model(name), loader(prompts(), 2), [50], random_scores(model), **options)[50]
    assert outputs.dtype == torch.float32
    assert (outputs - expected).abs().max() / expected.abs().max() < tolerance


# --- errors, progress, and what is left behind ---------------------------------------------------------------------


def test_bad_input_is_refused_in_words() -> None:
    model = shared_model("gpt2")
    scores = random_scores(model)
    n = model.graph.n_edges
    for size in (-1, n + 1):
        with pytest.raises(OptionError, match=f"between 0 and {n} edges"):
            run_circuits(model, loader(prompts()), [size], scores)
    with pytest.raises(OptionError, match="belong to another model"):
        run_circuits(model, loader(prompts()), [1], random_scores(shared_model("llama")))
    with pytest.raises(OptionError, match="another number of positions"):
        run_circuits(model.with_seq_len(9), loader(prompts()), [1], scores)
    with pytest.raises(OptionError, match=f"bool array of {n} edges"):
        run_edge_masks(model, loader(prompts()), [np.ones(3, dtype=bool)])
    for ablation in READS_POSITIONS:
        with pytest.raises(PromptError, match="Row 2 has 11 tokens and row 1 has 7"):
            run_circuits(model, PromptDataLoader(ragged(), 5), [1], scores, ablation_type=ablation)
    with pytest.raises(OptionError, match="depends on the batch size: choose one"):
        run_circuits(
            model,
            PromptDataLoader(dataset(prompts())),
            [1],
            scores,
            ablation_type=AblationType.BATCH_ALL_TOK_MEAN,
        )


@pytest.mark.parametrize(("ablation", "passes"), [("RESAMPLE", 0), ("TOKENWISE_MEAN_CLEAN_AND_CORRUPT", 6)])
def test_progress_counts_to_its_total(ablation: str, passes: int) -> None:
    reports: list[tuple[int, int]] = []
    model = shared_model("gpt2")
    run_circuits(
        model,
        loader(prompts(), 2),
        [1, 5],
        random_scores(model),
        ablation_type=AblationType[ablation],
        progress=lambda step, total, message: reports.append((step, total)),
    )
    assert reports == [(step, 6 + passes) for step in range(1, 7 + passes)]


@pytest.mark.parametrize("variant", ["gpt_neo", "phi"])
def test_a_run_leaves_the_model_as_it_was(variant: str, capfd: pytest.CaptureFixture[str]) -> None:
    model, pairs = shared_model(variant), prompts()
    logits = plain(model, pairs.clean)
    model.logits(pairs.clean, pairs.last)
    before, scores = traces(model), random_scores(model)
    capfd.readouterr()
    run_circuits(model, loader(pairs, 2), [3, 60], scores)
    stop = StopAfter(3)
    with pytest.raises(JobCancelled):
        run_circuits(model, loader(pairs, 2), [3, 60], scores, progress=stop.report, cancelled=stop)
    assert stop.done == 3
    assert traces(model) == before
    assert torch.equal(plain(model, pairs.clean), logits)
    assert capfd.readouterr() == ("", "")


def test_the_strongest_edges_bring_back_the_task_sooner_than_random_ones() -> None:
    """Not a number, but what scores are for: over all sizes, the answer stays nearer to the whole model's."""
    model, pairs = shared_model("gpt2"), prompts(8, 9, 1)
    scores = mask_gradient_prune_scores(model, loader(pairs), integrated_grad_samples=8, answer_function="avg_val")
    sizes = [20, 60, 100, 140]
    whole = plain(model, pairs.clean)

    def error(of: dict[str, Tensor]) -> float:
        outputs = run_circuits(model, loader(pairs), sizes, of, PatchType.TREE_PATCH)
        return sum(float((outputs[n] - whole).gather(1, pairs.answers).mean(1).abs().mean()) for n in sizes)

    assert error(scores) < 0.8 * np.mean([error(random_scores(model, seed)) for seed in range(5)])


def test_a_logit_that_is_not_finite_names_the_circuit_and_what_to_try() -> None:
    hf_model = random_hf_model("llama").to(torch.float16)
    with torch.no_grad():
        hf_model.lm_head.weight.mul_(3e4)
    model = wrap(hf_model, tokenizer())
    tokens = torch.arange(1, 7).reshape(2, 3)
    loader = PromptDataLoader(PromptDataset(tokens, tokens + 1, [torch.tensor([1])] * 2, [torch.tensor([2])] * 2), 1)
    scores: Any = model.graph.unflatten(np.arange(model.graph.n_edges, dtype=np.float32))
    with pytest.raises(NumericalError, match=r"circuit of 5 edges, among the prompts 1 to 1\. float16 overflows"):
        run_circuits(model, loader, [5], scores)
