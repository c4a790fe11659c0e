"""What happens when memory runs out: batches are halved, people are told, and nothing stays behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from torch import Tensor

from circuit.common.errors import BatchMemoryError, CircuitError
from circuit.common.progress import collected
from circuit.edges.method import AblationType, Method
from circuit.engine.dataset import PromptDataLoader
from circuit.engine.effects import edge_effects
from circuit.engine.mask_gradient import prompt_scores, score_edges
from circuit.engine.memory import is_out_of_memory
from circuit.engine.patching import run_edge_masks
from tests.small_memory import ERRORS, N_TOKENS, SmallMemory, assert_close, dataset, flat
from tests.small_models import shared_model

METHODS = [
    Method(),
    Method(mask_val=None, integrated_grad_samples=3),
    Method(mask_val=0.5, ablation_type=AblationType.ZERO, clean_corrupt=None),
    Method(mask_val=0.5, ablation_type=AblationType.TOKENWISE_MEAN_CORRUPT, clean_corrupt=None),
]


@pytest.mark.parametrize("kind", list(ERRORS))
@pytest.mark.parametrize("method", METHODS, ids=Method.describe)
def test_a_batch_that_does_not_fit_is_halved_and_scores_are_the_same(method: Method, kind: str) -> None:
    model, loader = shared_model("llama"), PromptDataLoader(dataset(), 12)
    expected = flat(score_edges(model, loader, method))
    with SmallMemory(3, N_TOKENS, ERRORS[kind]) as memory, collected() as notes:
        found = flat(score_edges(model, loader, method))
    assert memory.failures >= 2
    assert_close(found, expected)
    assert notes == [
        f"The batch was halved to {n} prompts, because {2 * n} together did not fit into the memory that this machine "
        "had free."
        for n in (6, 3)
    ]
    assert loader.batch_size == 12  # the caller's own


@pytest.mark.parametrize("after", [1, 20, 90, 150])
def test_it_does_not_matter_where_in_a_step_memory_runs_out(after: int) -> None:
    """Also in the backward pass, and between two sample points: nothing is counted twice."""
    model, loader, method = shared_model("gpt2"), PromptDataLoader(dataset(), 6), METHODS[1]
    expected = flat(score_edges(model, loader, method))
    apart = flat(prompt_scores(model, loader, method))
    for run, whole in ((score_edges, expected), (prompt_scores, apart)):
        with SmallMemory(5, N_TOKENS, ERRORS["cpu"], after) as memory, collected():
            found = flat(run(model, loader, method))
        assert memory.failures
        assert_close(found, whole)


def test_steps_are_counted_again() -> None:
    seen: list[tuple[int, int]] = []
    with SmallMemory(3, N_TOKENS, ERRORS["cpu"]), collected():
        score_edges(
            shared_model("llama"), PromptDataLoader(dataset(), 6), METHODS[1],
            lambda step, total, message: seen.append((step, total)),
        )  # fmt: skip
    assert seen[-1] == (16, 16)  # four batches of three, four points
    assert [step for step, _ in seen] == list(range(1, 17))


def test_circuits_and_effects_are_measured_in_smaller_batches_too() -> None:
    model, loader = shared_model("llama"), PromptDataLoader(dataset(), 12)
    circuits = [np.arange(model.graph.n_edges) % 3 == 0]
    expected = run_edge_masks(model, loader, circuits)[0].numpy()
    rises = edge_effects(model, loader, [3, 40], Method())
    with SmallMemory(3, N_TOKENS, ERRORS["cpu"]) as memory, collected() as notes:
        assert_close(run_edge_masks(model, loader, circuits)[0].numpy(), expected)
        assert edge_effects(model, loader, [3, 40], Method()) == pytest.approx(rises, rel=1e-4, abs=1e-6)
    assert memory.failures >= 4
    assert notes


@pytest.mark.parametrize("ablation", [AblationType.BATCH_TOKENWISE_MEAN, AblationType.BATCH_ALL_TOK_MEAN], ids=str)
def test_where_scores_depend_on_the_batch_size_it_is_an_error(ablation: AblationType) -> None:
    with (
        SmallMemory(3, N_TOKENS, ERRORS["cpu"]),
        pytest.raises(BatchMemoryError, match=f"A batch of 6 .* '{ablation}' .* smaller batch size"),
    ):
        score_edges(shared_model("llama"), PromptDataLoader(dataset(), 6), Method(ablation_type=ablation))


def test_a_prompt_that_does_not_fit_by_itself_is_named() -> None:
    data = dataset(4)
    data.numbers = [2, 5, 6, 9]
    with (
        SmallMemory(0, N_TOKENS, ERRORS["cpu"]),
        collected(),
        pytest.raises(BatchMemoryError, match="Row 2: this prompt of 7 tokens does not fit by itself"),
    ):
        score_edges(shared_model("llama"), PromptDataLoader(data, 4), Method())


def test_other_errors_stay_what_they_are() -> None:
    with (
        SmallMemory(3, N_TOKENS, lambda: RuntimeError("shapes do not match")),
        pytest.raises(RuntimeError, match="shapes do not match"),
    ):
        score_edges(shared_model("llama"), PromptDataLoader(dataset(), 6), Method())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert is_out_of_memory(RuntimeError("could not create a primitive"))  # all that oneDNN says
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for an inner product"))


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """No tensor outlives the block, and no hook stays on the model."""
    gc.collect()
    before = {id(x) for x in gc.get_objects() if issubclass(type(x), Tensor)}
    yield
    gc.collect()
    left = [x.shape for x in gc.get_objects() if issubclass(type(x), Tensor) and id(x) not in before]
    assert not left


@pytest.mark.parametrize("most", [3, 0], ids=["halved", "given up"])
def test_memory_afterwards_is_what_it_was_before(most: int) -> None:
    model, loader = shared_model("llama"), PromptDataLoader(dataset(), 12)
    expected = flat(score_edges(model, loader, Method()))
    with nothing_left_behind(), SmallMemory(most, N_TOKENS, ERRORS["cpu"]), collected():
        try:
            score_edges(model, loader, METHODS[1])
        except CircuitError as error:
            assert most == 0, error  # noqa: PT017
    assert_close(flat(score_edges(model, loader, Method())), expected)


REAL = """
    import resource, sys, warnings
    import numpy as np, psutil, torch
    from circuit.engine.dataset import PromptDataLoader, PromptDataset
    from circuit.common.errors import CircuitError
    from circuit.engine.mask_gradient import score_edges
    from circuit.edges.method import AblationType, Method
    from circuit.engine.memory import release, within_budget
    from circuit.common.progress import collected
    from tests.small_models import D_VOCAB, random_model

    torch.set_num_threads(1)
    model = random_model("llama")

    clean, corrupt = torch.randint(1, D_VOCAB, (2, 1024, 32), generator=torch.Generator().manual_seed(1))
    answers = torch.zeros(1024, 1, dtype=torch.long)
    data = PromptDataset(clean, corrupt, answers + 1, answers + 2)

    def scores(batch_size, ablation=AblationType.RESAMPLE):
        parts = score_edges(model, PromptDataLoader(data, batch_size), Method(ablation_type=ablation))
        return np.concatenate([part.numpy().ravel() for part in parts.values()])

    expected = scores(32)
    spare = 200_000_000
"""


def in_a_process(text: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(REAL) + textwrap.dedent(text)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the address space")
def test_a_process_that_really_runs_out_of_memory_goes_on_with_less() -> None:
    said = in_a_process("""
        release(torch.device("cpu"))
        vms, rss = psutil.Process().memory_info().vms, psutil.Process().memory_info().rss
        left = []
        for _ in range(3):  # now and then PyTorch holds on to a batch until the next one; a leak is there each time
            resource.setrlimit(resource.RLIMIT_AS, (vms + spare, resource.RLIM_INFINITY))
            with collected() as notes:
                found = scores(1024)
            assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()
            print(*notes, sep="\\n")
            try:
                scores(1024, AblationType.BATCH_TOKENWISE_MEAN)
            except CircuitError as error:
                print(error)
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            release(torch.device("cpu"))
            left.append(psutil.Process().memory_info().rss - rss)
        print("left", min(left))
    """)
    assert "The batch was halved to 512 prompts, because 1024 together did not fit" in said
    assert "A batch of 1024 prompts does not fit into the memory that this machine has free" in said
    assert int(said.split("left")[1]) < 50_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the address space")
def test_a_workers_limit_is_kept_by_doing_with_less() -> None:
    said = in_a_process("""
        import os
        os.environ["EDGESCOPE_WORKER_BYTES"] = str(int((psutil.Process().memory_info().rss + spare) / 0.9))
        before = resource.getrlimit(resource.RLIMIT_AS)
        with within_budget(torch.device("cpu")), collected() as notes:
            found = scores(1024)
        assert resource.getrlimit(resource.RLIMIT_AS) == before
        assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()
        print(*notes, sep="\\n")
    """)
    assert "The batch was halved to 512 prompts" in said
