"""GGUF files as folders in Hugging Face format, with what they say of the rotary embedding.

    convert       a GGUF file -> a folder, dequantised to float32
    Rotary        the rotary embedding of a GGUF file: its frequencies, and the options that give them

transformers reads the base of the frequencies and drops what scales them: the tensor `rope_freqs` of Llama 3.1 and
later, and the keys `rope.scaling.*`. Here they are computed from the file as llama.cpp does, and the converted model's
own are held against them. Pair i of the n rotated dimensions turns by base^(-2i/n) a position, divided by

- factor i of the tensor `rope_freqs`, where there is one;
- `rope.scaling.factor`, of type linear;
- 1 for the pairs that turn often within the original context, `rope.scaling.factor` for those that turn rarely, and
  what lies between for those between, of type yarn (Peng et al. 2023, https://arxiv.org/abs/2309.00071);
- factor i of the tensor `rope_factors_short`, or `rope_factors_long` beyond the original context, of type longrope.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from circuit.common.errors import ModelError
from circuit.models.weights import check_complete

_FREQS, _LONG, _SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
_KNOWN = {
    "type", "factor", "attn_factor", "original_context_length", "finetuned",
    "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow",
}  # fmt: skip
"""The keys of `rope.scaling` that are understood."""


@dataclass(frozen=True)
class Rotary:
    """The rotary embedding that a GGUF file asks for."""

    frequencies: Float64[np.ndarray, " half"]
    """Radians a position, of each pair of dimensions."""
    amplitude: float
    """What sines and cosines are multiplied by."""
    options: dict[str, Any]
    """`rope_parameters` of a Hugging Face config that has these."""

    @classmethod
    def of(cls, file: GGUF) -> Rotary:
        """From a file's keys and tensors.

        Raises:
            ModelError: When it asks for something that is not known.
        """
        base = float(file.key("rope.freq_base", 10_000.0))
        plain = base ** -(np.arange(0, file.n_rotated, 2) / file.n_rotated)
        kind, factor = file.scaling()
        original = int(file.key("rope.scaling.original_context_length", file.key("context_length", 0)))
        short = file.tensor(_FREQS, len(plain))
        options: dict[str, Any] = {"rope_type": "default", "rope_theta": base}
        if kind == "longrope":
            short, long = file.tensor(_SHORT, len(plain)), file.tensor(_LONG, len(plain))
            if short is None or long is None:
                raise ModelError(f"{file.name} asks for longrope, and lacks the tensors {_SHORT} and {_LONG}.")
            amplitude = float(file.key("rope.scaling.attn_factor", 1.0))
            options |= _by_factors(short, long, original, amplitude)
            return cls(plain / short, amplitude, options)
        if kind == "yarn" and factor != 1:
            if short is not None:
                raise ModelError(f"{file.name} scales its rotary embedding by yarn and by {_FREQS}: use one only.")
            return _yarn(file, base, plain, factor, original)
        if short is not None:
            factors = short * factor
            options |= _by_factors(factors, factors, original, 1.0)
            return cls(plain / factors, 1.0, options)
        if factor != 1:
            options |= {"rope_type": "linear", "factor": factor}
        return cls(plain / factor, 1.0, options)

    def check(self, model: Any, config: Any, name: str) -> None:
        """Hold the rotary embeddings that a Hugging Face model has with this config against the file's.

        Raises:
            ModelError: When they differ.
        """
        found = [type(module)(config) for module in model.modules() if hasattr(module, "inv_freq")]
        if not found and self.options["rope_type"] == "default":
            return  # an architecture without a rotary embedding
        same = bool(found) and all(
            module.inv_freq.shape == self.frequencies.shape
            and np.allclose(module.inv_freq.double().numpy(), self.frequencies, rtol=1e-5, atol=0)
            and math.isclose(module.attention_scaling, self.amplitude, rel_tol=1e-5)
            for module in found
        )
        if not same:
            raise ModelError(
                f"The rotary embedding that transformers makes of {name} is not the file's own, so the model would be "
                "another. Use the model in Hugging Face format."
            )


class GGUF:
    """The keys and tensors of a GGUF file.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self.name = path.name
        self._reader = GGUFReader(path)
        self._architecture = str(self._reader.fields["general.architecture"].contents())
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}

    def key(self, name: str, otherwise: Any) -> Any:
        """The value of a key of the file's architecture."""
        field = self._reader.fields.get(f"{self._architecture}.{name}")
        return otherwise if field is None else field.contents()

    def tensor(self, name: str, length: int) -> Float64[np.ndarray, " length"] | None:
        """A tensor of factors, one a pair of dimensions."""
        if name not in self._tensors:
            return None
        values = np.asarray(self._tensors[name].data, dtype=np.float64).reshape(-1)
        if values.shape != (length,) or not (values > 0).all():
            raise ModelError(f"The tensor {name} of {self.name} must hold {length} factors above 0.")
        return values

    @property
    def n_rotated(self) -> int:
        """How many dimensions of a head are rotated."""
        heads = int(self.key("attention.head_count", 1))
        of_head = int(self.key("attention.key_length", int(self.key("embedding_length", 0)) // heads))
        return int(self.key("rope.dimension_count", of_head))

    @property
    def n_weights(self) -> int:
        """Numbers in all tensors, those of the rotary embedding apart."""
        rotary = (_FREQS, _LONG, _SHORT)
        return sum(int(np.prod(tensor.shape)) for name, tensor in self._tensors.items() if name not in rotary)

    def scaling(self) -> tuple[str, float]:
        """The type of scaling, and its factor; without a type it is linear, as in llama.cpp.

        Raises:
            ModelError: When the file has a type or a key of scaling that is not known.
        """
        prefix = f"{self._architecture}.rope.scaling."
        given = {key.removeprefix(prefix) for key in self._reader.fields if key.startswith(prefix)}
        kind = str(self.key("rope.scaling.type", "linear"))
        odd = sorted(given - _KNOWN)
        if kind not in ("none", "linear", "yarn", "longrope") or odd:
            what = f"key {prefix}{odd[0]}" if odd else f"type {kind!r}"
            raise ModelError(
                f"{self.name} scales its rotary embedding by the {what}, which is not supported. Use the model in "
                "Hugging Face format."
            )
        factor = float(self.key("rope.scaling.factor", self.key("rope.scale_linear", 0.0)))
        return kind, 1.0 if kind == "none" or factor == 0 else factor


def _by_factors(short: np.ndarray, long: np.ndarray, original: int, amplitude: float) -> dict[str, Any]:
    """Options that divide each frequency by a factor of its own."""
    return {
        "rope_type": "longrope",
        "short_factor": short.tolist(),
        "long_factor": long.tolist(),
        "factor": 1.0,
        "attention_factor": amplitude,
        "original_max_position_embeddings": original,
    }


def _yarn(file: GGUF, base: float, plain: np.ndarray, factor: float, original: int) -> Rotary:
    fast, slow = (float(file.key(f"rope.scaling.yarn_beta_{end}", value)) for end, value in (("fast", 32), ("slow", 1)))
    mix = float(file.key("rope.scaling.yarn_ext_factor", 1.0))
    if mix != 1 or original <= 0:
        raise ModelError(
            f"{file.name} scales its rotary embedding by yarn in a way that is not supported. Use the model in Hugging "
            "Face format."
        )

    def pair(turns: float) -> float:
        """The pair of dimensions that turns this often within the original context."""
        return file.n_rotated * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(0, math.floor(pair(fast))), min(file.n_rotated - 1, math.ceil(pair(slow)))
    rarely = np.clip((np.arange(len(plain)) - low) / max(0.001, high - low), 0, 1)
    amplitude = 1 + 0.1 * math.log(factor)
    for key in ("attn_factor", "yarn_attn_factor"):
        amplitude *= float(file.key(f"rope.scaling.{key}", 1.0))
    options = {
        "rope_type": "yarn",
        "rope_theta": base,
        "factor": factor,
        "original_max_position_embeddings": original,
        "beta_fast": fast,
        "beta_slow": slow,
        "attention_factor": amplitude,
    }
    return Rotary(plain / factor * rarely + plain * (1 - rarely), amplitude, options)


def convert(path: Path, folder: Path) -> None:
    """A quantised GGUF file -> a folder in Hugging Face format, dequantised to float32.

    Raises:
        ModelError: When the file holds weights that the model has no place for, lacks some, or asks for a rotary
            embedding that is not supported.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    file = GGUF(path)
    rotary = Rotary.of(file)
    read: Any = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, output_loading_info=True
    )
    quantised, loaded = read
    config = quantised.config
    check_complete(path.name, config.model_type, loaded)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are plain numbers now, and it would refuse to save them
    if getattr(config, "rope_parameters", None) is not None:
        config.rope_parameters = dict(rotary.options)
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    n_weights = sum(parameter.numel() for parameter in plain.parameters())
    if file.n_weights != n_weights:
        raise ModelError(
            f"{path.name} holds {file.n_weights:,} weights, and the model that transformers makes of it has "
            f"{n_weights:,}: some would be left out (such as biases, or more layers). Use the model in Hugging Face "
            "format."
        )
    plain.load_state_dict(quantised.state_dict())
    plain.save_pretrained(folder)
    rotary.check(plain, AutoConfig.from_pretrained(folder), path.name)  # as the folder will be read
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
