"""A GPT-2 put together by hand, without training.

    Assembly     the weights, all zero at first; `space` names parts of the stream, `head` and `neurons` fill in
    Head         one attention head, given by what it reads and writes

    made = Assembly(("a", "b"), n_layers=2, n_heads=6)
    word, previous = made.space(2), made.space(2)              # parts of the stream
    before = made.head(0, 1)
    before.query(made.position, np.eye(N_CONTEXT))             # from a part to the head's own dimensions
    before.key(made.position, np.eye(N_CONTEXT, k=1))          # position j is what position j + 1 looks for
    made.save(folder)

Two things of GPT-2 would get in the way of exact programs, and both are made harmless:

- *Layer norm divides by the spread of its input.* Its epsilon is a setting of the architecture. With `EPSILON` = 10^8
  it dwarfs the variance of the stream (below 10), so every norm divides by 10^4 within a millionth, and its weight
  multiplies by 10^4 again.
- *Layer norm subtracts the mean.* Whatever is written to the stream is balanced by one dimension kept for that, so the
  mean is zero.

All heads and neurons that a program does not use are **busy**: random weights that read all of the stream, and write
only to a part that nothing of the program reads. Nothing here imports torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

EPSILON = 1e8
D_HEAD = 16
N_CONTEXT = 16
N_SPARE = 8
"""Dimensions of the stream that busy parts write, and no program reads."""
BOS, UNKNOWN = "<bos>", "<unk>"
LOGIT = 8.0
"""What an answer of 1 in the stream adds to its logit."""

Matrix = Float[np.ndarray, "rows columns"]


class Head:
    """One attention head. Each method adds a map from dimensions of the stream to the head's `D_HEAD`, or back."""

    def __init__(self, attention: dict[str, np.ndarray], head: int) -> None:
        self._attention, self._columns = attention, slice(head * D_HEAD, (head + 1) * D_HEAD)

    def query(self, space: slice, weights: Matrix) -> None:
        self._attention["q"][space, self._columns][:, : weights.shape[1]] += weights

    def key(self, space: slice, weights: Matrix) -> None:
        self._attention["k"][space, self._columns][:, : weights.shape[1]] += weights

    def value(self, space: slice, weights: Matrix) -> None:
        self._attention["v"][space, self._columns][:, : weights.shape[1]] += weights

    def query_constant(self, dimension: int, value: float) -> None:
        """What stands in a dimension of every query."""
        self._attention["q_bias"][self._columns][dimension] += value

    def output(self, space: slice, weights: Matrix) -> None:
        self._attention["o"][self._columns][: weights.shape[0], space] += weights


class Assembly:
    """The weights of a GPT-2 with an unembedding of its own.

    Args:
        words: The vocabulary, after `<bos>` and `<unk>`. A token is a word; `<bos>` stands before every prompt.
        n_layers: Blocks.
        n_heads: Heads a block, of `D_HEAD` dimensions each; the stream has as many as all heads of a block together.
        n_neurons: Of each MLP.
        seed: Of the busy parts.
    """

    def __init__(self, words: Sequence[str], n_layers: int, n_heads: int, n_neurons: int = 64, seed: int = 0) -> None:
        self.ids = {word: number for number, word in enumerate((BOS, UNKNOWN, *words))}
        self.n_layers, self.n_heads, self.n_neurons = n_layers, n_heads, n_neurons
        self.d_model = n_heads * D_HEAD
        self._used = 0
        self._random = np.random.default_rng(seed)
        d, n = self.d_model, n_neurons
        self.embedding = np.zeros((len(self.ids), d))
        self._positions = np.zeros((N_CONTEXT, d))
        self.unembedding = np.zeros((len(self.ids), d))
        self.last_bias = np.zeros(d)
        self._attention = [
            {**{name: np.zeros((d, d)) for name in "qkvo"}, **{f"{name}_bias": np.zeros(d) for name in "qkvo"}}
            for _ in range(n_layers)
        ]
        self._mlp = [{"in": np.zeros((d, n)), "in_bias": np.zeros(n), "out": np.zeros((n, d))} for _ in range(n_layers)]
        self._taken: set[tuple[int, int]] = set()
        self._neurons = [0] * n_layers
        self._balance = d - 1
        self._spare = slice(d - 1 - N_SPARE, d - 1)
        self.position = self.space(N_CONTEXT)
        """One-hot: the token's position, counted from `<bos>` at 0."""
        self._positions[:, self.position] = np.eye(N_CONTEXT)

    def space(self, n: int) -> slice:
        """The next `n` free dimensions of the stream."""
        self._used += n
        if self._used > self._spare.start:
            raise ValueError(f"The stream's {self.d_model} dimensions are used up.")
        return slice(self._used - n, self._used)

    def head(self, layer: int, head: int) -> Head:
        """A head that belongs to the program."""
        self._taken.add((layer, head))
        return Head(self._attention[layer], head)

    def at(self, positions: Sequence[int]) -> Matrix:
        """Reads `position`: 1 at these positions, else 0."""
        return np.isin(np.arange(N_CONTEXT), positions)[:, None].astype(float)

    def neurons(self, layer: int, space: slice, into: Matrix, bias: float, out_space: slice, out: Matrix) -> None:
        """Neurons that read one part of the stream, `into` [dimensions read, neurons], and write another."""
        first = self._neurons[layer]
        self._neurons[layer] += into.shape[1]
        mlp, mine = self._mlp[layer], slice(first, first + into.shape[1])
        mlp["in"][space, mine] += into
        mlp["in_bias"][mine] += bias
        mlp["out"][mine, out_space] += out

    def also_read(self, layer: int, neurons: slice, space: slice, into: Matrix) -> None:
        """Neurons that there are read one part of the stream more."""
        self._mlp[layer]["in"][space, neurons] += into

    def _busy(self) -> None:
        """Random weights for all that the program leaves free."""
        draw, scale = self._random.normal, 1 / math.sqrt(self.d_model)
        for layer in range(self.n_layers):
            for head in range(self.n_heads):
                if (layer, head) not in self._taken:
                    mine, attention = slice(head * D_HEAD, (head + 1) * D_HEAD), self._attention[layer]
                    for name in "qkv":
                        attention[name][:, mine] = draw(size=(self.d_model, D_HEAD)) * 4 * scale
                    attention["o"][mine, self._spare] = draw(size=(D_HEAD, N_SPARE)) / 8
            free, mlp = slice(self._neurons[layer], self.n_neurons), self._mlp[layer]
            n = free.stop - free.start
            mlp["in"][:, free] = draw(size=(self.d_model, n)) * 2 * scale
            mlp["out"][free, self._spare] = draw(size=(n, N_SPARE)) / 16

    def weights(self) -> dict[str, np.ndarray]:
        """All weights by their names in Hugging Face's GPT-2, in float16, which holds the program's exactly."""
        self._busy()
        d = self.d_model
        norm = {"weight": np.full(d, math.sqrt(EPSILON)), "bias": np.zeros(d)}
        found = {
            "transformer.wte.weight": self._balanced(self.embedding),
            "transformer.wpe.weight": self._balanced(self._positions),
            "transformer.ln_f.weight": norm["weight"],
            "transformer.ln_f.bias": self.last_bias,
            "lm_head.weight": self.unembedding,
        }
        for layer, (attention, mlp) in enumerate(zip(self._attention, self._mlp, strict=True)):
            block = f"transformer.h.{layer}"
            for name in ("ln_1", "ln_2"):
                found |= {f"{block}.{name}.{part}": value for part, value in norm.items()}
            found |= {
                f"{block}.attn.c_attn.weight": np.concatenate([attention[name] for name in "qkv"], axis=1),
                f"{block}.attn.c_attn.bias": np.concatenate([attention[f"{name}_bias"] for name in "qkv"]),
                f"{block}.attn.c_proj.weight": self._balanced(attention["o"]),
                f"{block}.attn.c_proj.bias": attention["o_bias"],
                f"{block}.mlp.c_fc.weight": mlp["in"],
                f"{block}.mlp.c_fc.bias": mlp["in_bias"],
                f"{block}.mlp.c_proj.weight": self._balanced(mlp["out"]),
                f"{block}.mlp.c_proj.bias": np.zeros(d),
            }
        return {name: np.ascontiguousarray(value, dtype=np.float16) for name, value in found.items()}

    def _balanced(self, written: Matrix) -> Matrix:
        """The same with a sum of zero in every row: in multiples of 1/256, whose sums float16 holds up to 8."""
        rounded = np.round(written * 256) / 256
        rounded[:, self._balance] = -rounded.sum(axis=1)
        return rounded

    def config(self) -> dict[str, object]:
        """What stands in `config.json`."""
        return {
            "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.0,
            "bos_token_id": self.ids[BOS], "dtype": "float16", "embd_pdrop": 0.0, "eos_token_id": self.ids[BOS],
            "layer_norm_epsilon": EPSILON, "model_type": "gpt2", "n_embd": self.d_model, "n_head": self.n_heads,
            "n_inner": self.n_neurons, "n_layer": self.n_layers, "n_positions": N_CONTEXT, "resid_pdrop": 0.0,
            "tie_word_embeddings": False, "use_cache": False, "vocab_size": len(self.ids),
        }  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write weights, configuration and tokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.weights(), folder / "model.safetensors", {"format": "pt"})
        tokenizer = Tokenizer(models.WordLevel(self.ids, unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Whitespace(), pre_tokenizers.Split(Regex(r"[^\w\s]"), "isolated")]
        )
        tokenizer.add_special_tokens([BOS, UNKNOWN])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A $B:1", special_tokens=[(BOS, self.ids[BOS])]
        )
        tokenizer.save(str(folder / "tokenizer.json"))
        about = {
            "backend": "tokenizers", "bos_token": BOS, "clean_up_tokenization_spaces": False, "eos_token": BOS,
            "model_max_length": N_CONTEXT, "pad_token": BOS, "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": UNKNOWN,
        }  # fmt: skip
        for name, content in (("config.json", self.config()), ("tokenizer_config.json", about)):
            (folder / name).write_text(json.dumps(content, indent=1) + "\n")
