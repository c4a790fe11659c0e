"""The teaching model: it does its tasks on prompts that it has not seen, and few of its edges do them nearly alone."""

from __future__ import annotations

import functools
import itertools
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor

import circuit
from circuit.edges.ranking import edge_mask, top_edges
from circuit.edges.subgraph import live_edges
from circuit.engine.dataset import AnswerTokens, PromptDataLoader, PromptDataset, PromptPairBatch
from circuit.engine.model import PatchableModel
from circuit.engine.patching import run_circuits, run_edge_masks
from circuit.models.teaching import FOLDER
from circuit.models.teaching.tasks import (
    HE,
    MAX_WORDS,
    NAMES,
    NOUNS,
    PLACES,
    SHE,
    TASKS,
    THINGS,
    VOCABULARY,
    Pair,
    words,
)
from circuit.models.teaching.train import Settings, describe, make_tokenizer, save, train
from circuit.prompts.encode import encode
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.prompts.presets import PRESETS


@functools.cache
def teaching_model() -> PatchableModel:
    return circuit.load_model("teaching", device="cpu")


def dataset(pairs: Iterable[Pair | PromptPair]) -> PromptDataset:
    """The pairs as the app makes tokens of them; all can be used."""
    model = teaching_model()
    prompts = PromptSet("", tuple(pair if isinstance(pair, PromptPair) else PromptPair(*pair) for pair in pairs))
    encoded = encode(prompts, model.tokenizer, model.prepend_bos, model.n_ctx)
    assert not encoded.problems
    return encoded.dataset()


def whole(data: PromptDataset) -> PromptPairBatch:
    return data.batch(range(len(data)))


def right(logits: Tensor, batch: PromptPairBatch) -> list[bool]:
    """Whether every right answer is above every wrong one, by prompt."""
    assert isinstance(batch.answers, AnswerTokens)
    lowest = logits.gather(1, batch.answers.tokens).masked_fill(~batch.answers.real, torch.inf).amin(1)
    highest = logits.gather(1, batch.wrong_answers.tokens).masked_fill(~batch.wrong_answers.real, -torch.inf).amax(1)
    return (lowest > highest).tolist()


def difference(logits: Tensor, batch: PromptPairBatch) -> Tensor:
    """Mean logit of the right answers minus that of the wrong ones, by prompt."""
    assert isinstance(batch.answers, AnswerTokens)
    return batch.answers.mean(logits) - batch.wrong_answers.mean(logits)


def logits(batch: PromptPairBatch, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return teaching_model().logits(tokens, batch.last)


# --- the model -----------------------------------------------------------------------------------------------------


def test_the_folder_is_small_and_says_what_it_holds() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 8e6
    card = (FOLDER / "README.md").read_text()
    assert all(task.title in card for task in TASKS.values())


def test_the_tokenizer_that_ships_is_the_one_that_trained() -> None:
    shipped, made = teaching_model().tokenizer, make_tokenizer()
    assert shipped.get_vocab() == made.get_vocab()
    text = "When Mary and John went to the store, John gave a drink to"
    assert shipped(text).input_ids == made(text).input_ids


def test_words_are_tokens_with_or_without_a_space() -> None:
    tokenizer = teaching_model().tokenizer

    def tokens(text: str) -> list[str]:
        return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False).input_ids)

    for word in VOCABULARY:
        assert tokens(word) == tokens(f" {word}") == [word]
        assert tokenizer.decode(tokenizer.convert_tokens_to_ids([word])) == word
    assert tokens("from 1732 to 17") == ["from", "17", "32", "to", "17"]
    assert tokens("Zoe") == [tokenizer.unk_token]
    assert teaching_model().prepend_bos


@pytest.mark.parametrize("key", TASKS)
def test_it_does_its_tasks_on_prompts_that_it_has_not_seen(key: str) -> None:
    batch = whole(dataset(TASKS[key].pairs(300, seed=3)))
    assert np.mean(right(logits(batch, batch.clean), batch)) >= 0.97


# --- presets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [key for key, preset in PRESETS.items() if "teaching" in preset.suits])
def test_it_does_the_presets_that_are_said_to_suit_it(key: str) -> None:
    """After the corrupt prompt no right answers are above all wrong ones, and little of the difference is left."""
    pairs = PRESETS[key].prompts.pairs
    assert len({pair.clean for pair in pairs}) == len(pairs) >= (32 if key.startswith("teaching") else 24)
    batch = whole(dataset(pairs))
    clean, corrupt = logits(batch, batch.clean), logits(batch, batch.corrupt)
    assert all(right(clean, batch))
    assert not any(right(corrupt, batch))
    assert difference(corrupt, batch).mean() < 0.15 * difference(clean, batch).mean()


def test_there_is_a_preset_for_each_task() -> None:
    assert {f"teaching-{key}" for key in TASKS} <= set(PRESETS)


def test_tasks_are_read_without_torch() -> None:
    code = "import sys, circuit.models.teaching.tasks; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- what was held out ---------------------------------------------------------------------------------------------


def combinations(key: str, prompt: str, answer: str) -> set[tuple[str, ...]]:
    """What is held out, read off a text: not how the tasks make it."""
    found = words(prompt)
    if key == "ioi":
        return {tuple(sorted(set(found) & set(NAMES)))}
    if key == "induction":
        text = [*found, *words(answer)]
        return set(itertools.pairwise(text)) if len(words(answer)) > 1 else {(found[-1], *words(answer))}
    if key == "greater-than":
        return set(re.findall(r"(\d\d)(\d\d)", prompt))
    if key == "agreement":
        singular = {form: forms[0] for forms in NOUNS for form in forms}
        plain = [singular.get(word, word) for word in found]
        subject = next(i for i, word in enumerate(plain) if word in singular)
        return {(plain[subject], *plain[subject + 1 :])}
    names, rest = set(found) & {*SHE, *HE}, set(found) & {*PLACES, *THINGS}
    return {(name, word) for name in names for word in rest}


@pytest.mark.parametrize("key", TASKS)
def test_nothing_that_was_held_out_is_in_the_training_texts(key: str) -> None:
    random = Random(5)
    texts = [TASKS[key].text(random) for _ in range(10_000)]
    seen = set().union(*(combinations(key, text.prompt, text.answer) for text in texts))
    for pair in TASKS[key].pairs(300, seed=3):
        for prompt, answer in ((pair.clean, pair.answers[0]), (pair.corrupt, pair.wrong_answers[0])):
            new = combinations(key, prompt, answer) - seen
            assert new, prompt


@pytest.mark.parametrize("key", TASKS)
def test_texts_are_made_of_known_words_and_fit(key: str) -> None:
    random, known = Random(6), set(VOCABULARY)
    for _ in range(500):
        text = TASKS[key].text(random)
        used = words(f"{text.prompt} {text.answer} {text.rest}")
        assert known.issuperset([*used, *text.instead])
        assert len(used) <= MAX_WORDS


# --- training ------------------------------------------------------------------------------------------------------

SHORT = Settings(steps=20, rows=16, learning_rate=5e-3, warmup=5, n_layers=1, n_heads=2, d_model=32, seed=4)


def test_a_short_training_run_lowers_the_loss_and_can_be_repeated(tmp_path: Path) -> None:
    lines: list[str] = []
    torch.set_num_threads(1)
    model, log = train(SHORT, lines.append, evaluate_every=10)
    again, log_again = train(SHORT, lines.append, evaluate_every=10)
    assert log.losses == log_again.losses
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert np.mean(log.losses[-5:]) < np.mean(log.losses[:5]) - 0.2
    assert [step for step, _ in log.accuracies] == [10, 20]
    assert all(key in lines[0] for key in ("loss", *TASKS))

    save(model, log, SHORT, tmp_path)
    assert set(describe(tmp_path, n_prompts=20)) == set(TASKS)
    assert circuit.load_model(tmp_path, device="cpu").n_layers == 1
    assert "20 steps of 16 texts" in (tmp_path / "README.md").read_text()


# --- what a circuit of this model must show ------------------------------------------------------------------------


@functools.cache
def _ioi_circuit(n: int = 26) -> tuple[PromptDataLoader, np.ndarray, float, float]:
    """The preset, its `n` top edges by edge attribution patching, and the whole and the fully ablated difference."""
    model, data = teaching_model(), dataset(TASKS["ioi"].pairs())
    loader = PromptDataLoader(data, batch_size=48)
    scores = circuit.mask_gradient_prune_scores(model, loader, None, "logit", "avg_diff", mask_val=0.0)
    outputs = run_circuits(model, loader, [0, model.graph.n_edges], scores, circuit.PatchType.TREE_PATCH)
    ablated, full = (float(difference(logits, whole(data)).mean()) for logits in outputs.values())
    return loader, top_edges(model.graph.flatten(scores), n), full, ablated


def _kept(*circuits: np.ndarray) -> list[float]:
    """How much of the answer difference each circuit keeps: 0 as with everything ablated, 1 as the whole model."""
    loader, _, full, ablated = _ioi_circuit()
    outputs = run_edge_masks(teaching_model(), loader, circuits)
    return [float((difference(each, whole(loader.dataset)).mean() - ablated) / (full - ablated)) for each in outputs]


def test_a_tenth_of_the_edges_does_indirect_object_identification() -> None:
    graph = teaching_model().graph
    loader, edges, full, ablated = _ioi_circuit()
    assert len(edges) <= 0.1 * graph.n_edges
    circuit_mask = edge_mask(graph, edges)
    alone, without_dead_ends, rest = _kept(circuit_mask, edge_mask(graph, live_edges(graph, edges)), ~circuit_mask)
    assert full > 5
    assert ablated < -5
    assert alone > 0.9
    assert without_dead_ends == pytest.approx(alone, abs=1e-4)
    assert rest < 0.05  # and nothing else does it
    (outputs,) = run_edge_masks(teaching_model(), loader, [circuit_mask])
    assert np.mean(right(outputs, whole(loader.dataset))) >= 0.95


def test_as_many_edges_at_random_do_not() -> None:
    graph = teaching_model().graph
    n = len(_ioi_circuit()[1])
    for size, most in ((n, 0.05), (4 * n, 0.3)):
        chosen = [np.random.default_rng(seed).choice(graph.n_edges, size, replace=False) for seed in range(10)]
        assert max(_kept(*(edge_mask(graph, edges) for edges in chosen))) < most
