"""One thread runs a model at a time; whatever goes wrong in a run, the model is whole."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import torch

from circuit.common.errors import JobCancelled, ModelError
from circuit.engine.ablation import AblationType
from circuit.engine.attention import attention_patterns
from circuit.engine.dataset import PromptDataLoader, PromptDataset
from circuit.engine.mask_gradient import mask_gradient_prune_scores
from circuit.engine.model import PatchableModel
from circuit.engine.patching import run_edge_masks
from tests.small_models import random_model, shared_model

LAST = torch.tensor([5, 5])


def loader(start: int) -> PromptDataLoader:
    clean = torch.arange(12).view(2, 6) + start
    return PromptDataLoader(PromptDataset(clean, clean + 1, [[1], [2]], [[3], [4]]), 1)


def scored(model: PatchableModel, start: int) -> torch.Tensor:
    found = mask_gradient_prune_scores(
        model, loader(start), integrated_grad_samples=2, ablation_type=AblationType.TOKENWISE_MEAN_CORRUPT
    )
    return torch.cat([each.flatten() for each in found.values()])


def plain(model: PatchableModel, start: int) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(torch.arange(12).view(2, 6) + start, LAST)


def bridged(model: PatchableModel, start: int) -> torch.Tensor:
    return attention_patterns(model, torch.arange(12).view(2, 6) + start, 1, 2)


def circuit(model: PatchableModel, start: int) -> torch.Tensor:
    kept = np.random.default_rng(start).random(model.graph.n_edges) < 0.5
    return run_edge_masks(model, loader(start), [kept])[0]


def made(model: PatchableModel, start: int) -> torch.Tensor:
    return plain(PatchableModel(model.bridge), start)


WORK: list[Callable[[PatchableModel, int], torch.Tensor]] = [scored, plain, bridged, circuit, made]


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama"])
def test_threads_on_one_model_get_what_one_alone_gets(name: str) -> None:
    model = shared_model(name)
    parts = dict(model.bridge.original_model.named_modules())
    users = [model, model.with_seq_len(6), PatchableModel(model.bridge)]
    jobs = [(work, users[start % 3], start) for start in range(12) for work in WORK]
    expected = [work(user, start) for work, user, start in jobs]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda job: job[0](*job[1:]), jobs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert dict(model.bridge.original_model.named_modules()) == parts
    assert all(parameter.requires_grad for parameter in model.bridge.original_model.parameters())


def test_a_second_thread_waits_for_the_first() -> None:
    model = shared_model("llama")
    inside, go_on, done = Event(), Event(), Event()

    def wait(x: torch.Tensor, hook: object) -> None:
        inside.set()
        assert go_on.wait(300)

    def second() -> None:
        plain(PatchableModel(model.bridge), 3)
        done.set()

    first = Thread(target=lambda: model.logits(torch.arange(12).view(2, 6), LAST, [(model.attention_hook(1), wait)]))
    first.start()
    assert inside.wait(300)
    other = Thread(target=second)
    other.start()
    assert not done.wait(0.3)
    go_on.set()
    first.join(30)
    other.join(30)
    assert done.is_set()


class Interrupted(BaseException):
    """As Ctrl-C, or a thread's end."""


def in_a_hook(model: PatchableModel, error: BaseException) -> None:
    def fail(x: Any, hook: object) -> None:
        raise error

    model.logits(torch.arange(12).view(2, 6), LAST, [(model.mlp_output_hook(1), fail)])


def in_a_hook_of_the_bridge(model: PatchableModel, error: BaseException) -> None:
    def fail(x: Any, hook: object) -> None:
        raise error

    tokens = torch.arange(12).view(2, 6)
    model.logits(tokens, LAST, [("blocks.1.attn.hook_pattern", fail)], through_bridge=True)


def between_passes(model: PatchableModel, error: BaseException) -> None:
    calls: list[int] = []

    def progress(step: int, total: int, message: str) -> None:
        calls.append(step)
        if len(calls) == 2:
            raise error

    mask_gradient_prune_scores(model, loader(0), integrated_grad_samples=4, progress=progress)


def in_the_backward_pass(model: PatchableModel, error: BaseException) -> None:
    def fail(gradient: torch.Tensor) -> None:
        raise error

    with model.activations_only():
        hooks = [(model.embedding_hook, lambda x, hook: x.detach().requires_grad_())]
        logits = model.logits(torch.arange(12).view(2, 6), LAST, hooks)
        logits.register_hook(fail)
        logits.sum().backward()


def of_unknown_prompts(model: PatchableModel, error: BaseException) -> None:
    try:
        plain(model, 10**6)
    except IndexError:
        raise error from None


@pytest.mark.parametrize("error", [KeyError("x"), JobCancelled("x"), Interrupted()])
@pytest.mark.parametrize(
    "fail", [in_a_hook, in_a_hook_of_the_bridge, between_passes, in_the_backward_pass, of_unknown_prompts]
)
@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_whatever_goes_wrong_the_model_is_whole(
    name: str, fail: Callable[[PatchableModel, BaseException], None], error: BaseException
) -> None:
    model = random_model(name)
    hf_model = model.bridge.original_model
    hf_model.train()
    expected = [plain(model, 1), scored(model, 1)]
    parts, config = dict(hf_model.named_modules()), dict(vars(hf_model.config))
    with pytest.raises(type(error)) as caught:
        fail(model, error)
    assert caught.value is error
    assert dict(hf_model.named_modules()) == parts
    assert not any("forward" in vars(part) for part in parts.values())
    assert all(part.training for key, part in parts.items())
    assert all(parameter.requires_grad for parameter in hf_model.parameters())
    assert vars(hf_model.config) == config
    assert not any(point.has_hooks(including_permanent=False) for point in model.bridge.hook_dict.values())
    with ThreadPoolExecutor(1) as thread:  # nor does anybody have to wait for it
        torch.testing.assert_close(thread.submit(plain, model, 1).result(30), expected[0])
        torch.testing.assert_close(thread.submit(scored, model, 1).result(30), expected[1])


def test_a_hook_cannot_run_the_model_that_calls_it() -> None:
    model = shared_model("gpt2")
    tokens = torch.arange(12).view(2, 6)
    expected = plain(model, 0)

    def again(x: torch.Tensor, hook: object) -> None:
        model.logits(tokens, LAST)

    with pytest.raises(ModelError, match="hook ran the model that was calling it"):
        model.logits(tokens, LAST, [(model.mlp_output_hook(0), again)])
    torch.testing.assert_close(plain(model, 0), expected)
