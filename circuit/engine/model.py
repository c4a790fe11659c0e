"""A transformer whose edges can be scored and patched.

    PatchableModel   wraps a TransformerLens bridge: edges, weights, hook names, a forward pass to the last logits
    LayerWeights     the attention weights of one block

    bridge = TransformerBridge.boot_transformers("gpt2")
    model = PatchableModel(bridge)
    logits = model.logits(batch.clean, batch.last)      # [batch, d_vocab]

The bridge gives every supported architecture the same hook points, with the same shapes; only `unbridged` looks at the
parts behind them. What the engine needs of an architecture is that its residual stream is the plain sum of the
embedding, every head's output, every MLP's output, and constant biases. `check_supported` refuses models where that
does not hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuit.common.errors import ModelError, PromptError
from circuit.edges.graph import EdgeGraph
from circuit.engine.backward_rules import Part, differentiated_by
from circuit.engine.hooks import Hook, Unbridged
from circuit.engine.joint import JointProjections
from circuit.engine.matmul import linear_layers, quick_linears
from circuit.engine.parts import Parts, check_readable
from circuit.engine.rotary import RotaryFrequencies, context_length
from circuit.engine.running import attention_by, evaluation_mode, in_use, one_pass, own_precision
from circuit.engine.supported import check_supported, count_parameters

_SHORT = 64
"""Tokens of a prompt up to which attention in bfloat16 on the CPU is computed by plain products."""


class LayerWeights(NamedTuple):
    """The attention weights of one block. Biases are None where the model has none."""

    W_Q: Float[Tensor, "n_heads d_model d_head"]
    W_K: Float[Tensor, "n_kv_heads d_model d_head"]
    W_V: Float[Tensor, "n_kv_heads d_model d_head"]
    W_O: Float[Tensor, "n_heads d_head d_model"]
    b_Q: Float[Tensor, "n_heads d_head"] | None
    b_K: Float[Tensor, "n_kv_heads d_head"] | None
    b_V: Float[Tensor, "n_kv_heads d_head"] | None
    b_O: Float[Tensor, " d_model"] | None


class PatchableModel:
    """A model, its edges, and how to reach them.

    Args:
        bridge: A TransformerLens `TransformerBridge`, as `boot_transformers` returns it. Its weights are not touched,
            and hooks that others have put on its hook points are not called.
        seq_len: Keep token positions apart, for prompts of exactly this many tokens: every edge is scored once a
            position. None adds the positions up.
        prepend_bos: Whether text prompts of this model start with a BOS token; None takes TransformerLens's default.
        tokenizer: The model's tokenizer; None takes the bridge's, to which TransformerLens adds special tokens.

    Weights may change between runs, in every way that PyTorch has. One thread runs the model at a time, others wait; it
    runs in evaluation mode, and is afterwards in the mode that it was in.

    Raises:
        ModelError: When the architecture is not supported, or something was put on a part of the model that would not
            count everywhere; the sentence says what.
    """

    def __init__(
        self, bridge: Any, seq_len: int | None = None, prepend_bos: bool | None = None, tokenizer: Any = None
    ) -> None:
        check_supported(bridge.original_model.config)
        self.bridge = bridge
        with in_use(bridge.original_model):  # or its parts might not be in their places
            self._parts = Parts(bridge.original_model, bridge)
            self._parts.check()
            self._blocks = list(bridge.blocks)  # which are not in their places while the model runs
            self._check_readable()
            self._unbridged = Unbridged(bridge)
            self._joints = JointProjections(bridge)
            self._linear_layers = linear_layers(bridge.original_model)
        self._rotary = RotaryFrequencies(bridge.original_model)
        self._weights: dict[int, tuple[object, LayerWeights]] = {}
        cfg = bridge.cfg
        self.prepend_bos: bool = bool(cfg.default_prepend_bos) if prepend_bos is None else prepend_bos
        self.tokenizer: Any = bridge.tokenizer if tokenizer is None else tokenizer
        self.n_layers: int = cfg.n_layers
        self.n_heads: int = cfg.n_heads
        self.n_kv_heads: int = getattr(cfg, "n_key_value_heads", None) or cfg.n_heads
        self.d_model: int = cfg.d_model
        self.d_head: int = cfg.d_head
        self.d_vocab: int = bridge.original_model.get_output_embeddings().weight.shape[0]
        self.n_ctx: int = context_length(bridge.original_model.config)
        self.parallel = bool(cfg.parallel_attn_mlp)
        self.shares_norm = not hasattr(bridge.blocks[0], "ln2")
        self.has_gates = bool(getattr(cfg, "gated_mlp", False))
        self.embeds_positions = cfg.positional_embedding_type == "standard"
        self._set_seq_len(seq_len)

    def _check_readable(self) -> None:
        """Refuse projections and layer norms that edge scores would read wrongly."""
        for layer, block in enumerate(self._blocks):
            for name in "qkvo":
                part = getattr(block.attn, name).original_component
                check_readable(f"blocks.{layer}.attn.{name}", part, "projection")
            check_readable(f"blocks.{layer}.ln1", block.ln1.original_component, "layer norm")

    def _set_seq_len(self, seq_len: int | None) -> None:
        if seq_len is not None and seq_len < 1:
            raise ModelError(f"seq_len must be the number of tokens of the prompts, and is {seq_len}.")
        self.seq_len = seq_len
        self.graph = EdgeGraph(self.n_layers, self.n_heads, self.n_kv_heads, self.parallel, seq_len)

    # --- what it is --------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.bridge.original_model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.bridge.original_model.parameters()).dtype

    @cached_property
    def n_parameters(self) -> int:
        """Parameters of the model, tied weights counted once. (The bridge adds copies of fused projections.)"""
        return count_parameters(self.bridge.original_model.config)

    @property
    def n_bytes(self) -> int:
        """Memory that the weights take, tied ones counted once."""
        return sum(parameter.nbytes for parameter in self.bridge.parameters())

    def with_seq_len(self, seq_len: int | None) -> PatchableModel:
        """The same model with token positions kept apart, or added up. Weights are shared."""
        model = copy(self)
        model._set_seq_len(seq_len)
        return model

    def weights(self, layer: int) -> LayerWeights:
        """Views of the attention weights of a block, by head. Gradients do not reach them."""
        attention = self._blocks[layer].attn
        now = _where_weights_lie(attention)
        if layer not in self._weights or self._weights[layer][0] != now:
            # making the views takes as long as a small matrix product
            found = (getattr(attention, name, None) for name in LayerWeights._fields)
            views = LayerWeights(*(None if x is None else x.detach() for x in found))  # type: ignore[arg-type]
            self._weights[layer] = now, views
        return self._weights[layer][1]

    def attention_norm(self, layer: int) -> Any:
        """The layer norm before the attention of a block."""
        return self._blocks[layer].ln1.original_component

    def normed_for_attention(self, layer: int, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """x after the layer norm before the attention of a block. No hook is called, so hooks may call this."""
        norm = self.attention_norm(layer)
        return type(norm).forward(norm, x)

    # --- where to hook -----------------------------------------------------------------------------------------

    @property
    def adds_mlp_by_position(self) -> bool:
        """Whether the last MLP may be run on the last tokens alone: what it writes there is then added to the stream at
        every position, and only the last is read. OPT flattens batch and position into one axis first."""
        return self.bridge.original_model.config.model_type != "opt"

    embedding_hook = "blocks.0.hook_resid_pre"
    final_hook = "ln_final.hook_in"
    unembedding_hook = "unembed.hook_in"

    @staticmethod
    def attention_hook(layer: int) -> str:
        """What the attention of a block reads, before its layer norm: [batch, pos, d_model]."""
        return f"blocks.{layer}.ln1.hook_in"

    def mlp_hook(self, layer: int) -> str:
        """What the MLP of a block reads: before its layer norm, or after it where attention shares that norm (Phi)."""
        return f"blocks.{layer}.mlp.hook_in" if self.shares_norm else f"blocks.{layer}.ln2.hook_in"

    @staticmethod
    def head_input_hooks(layer: int) -> tuple[str, str, str]:
        """Queries, keys and values of a block, before rotation: [batch, pos, n_heads or n_kv_heads, d_head]."""
        return tuple(f"blocks.{layer}.attn.hook_{name}" for name in "qkv")  # type: ignore[return-value]

    @staticmethod
    def head_output_hook(layer: int) -> str:
        """What the heads of a block hand to the output projection: [batch, pos, n_heads, d_head]."""
        return f"blocks.{layer}.attn.hook_z"

    @staticmethod
    def mlp_product_hook(layer: int) -> str:
        """What the MLP of a block hands to its output projection: in a gated MLP, the product of gate and values."""
        return f"blocks.{layer}.mlp.out.hook_in"

    @staticmethod
    def mlp_output_hook(layer: int) -> str:
        """What the MLP of a block writes: [batch, pos, d_model]."""
        return f"blocks.{layer}.hook_mlp_out"

    # --- running it --------------------------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep the model to this thread while it runs, in evaluation mode and its own precision; other threads wait.

        What was put on its parts since, or in their places, is looked for once, on entering first.

        Raises:
            ModelError: Something on a part that would not count everywhere, or a part in another's place; says what.
        """
        with in_use(self.bridge.original_model) as use:
            if use.running:
                yield
                return
            self._parts.check()
            self._joints.follow()
            try:
                use.running = True
                with evaluation_mode(self._parts.modules), own_precision(self.device):
                    yield
            finally:
                use.running = False

    def logits(
        self,
        tokens: Int[Tensor, "batch pos"],
        last: Int[Tensor, " batch"],
        hooks: Iterable[Hook] = (),
        *,
        through_bridge: bool = False,
        parts: Iterable[Part] = (),
    ) -> Float[Tensor, "batch d_vocab"]:
        """Logits after each prompt's last token, in the model's own precision.

        Only these are computed: the other positions are cut away before the unembedding, which would otherwise cost
        more than the blocks of a small model.

        It is the Hugging Face model that runs, with its own parts: see `circuit.engine.hooks`. Hooks that others have
        put on the bridge are not called. `through_bridge` runs TransformerLens's components instead, for hooks on
        attention scores and patterns.

        Raises:
            ModelError: As `running`; or when a hook runs the model that is calling it.
            OptionError: A hook point that has no place here.
        """

        def keep_last(x: Tensor, hook: object) -> Tensor:
            return at_last(x, last)

        hooks = [*hooks, (self.unembedding_hook, keep_last)]
        hf_model = self.bridge.original_model
        hooked = (
            self.bridge.hooks(fwd_hooks=hooks) if through_bridge else self._without_bridge(hooks, tokens.shape, parts)
        )
        with self.running(), one_pass(hf_model), quick_linears(self._linear_layers), hooked:
            self._rotary.start_again()
            return hf_model(input_ids=tokens, use_cache=False).logits[:, 0]

    @contextmanager
    def _without_bridge(self, hooks: Iterable[Hook], shape: torch.Size, parts: Iterable[Part]) -> Iterator[None]:
        with (
            self._quickest_attention(shape[1]),
            differentiated_by(self.bridge.original_model, parts),
            self._unbridged.hooked(hooks, shape),
        ):
            yield

    @contextmanager
    def _quickest_attention(self, n_tokens: int) -> Iterator[None]:
        """PyTorch's fused kernel (sdpa), where the model knows it.

        For short prompts in bfloat16 on the CPU its backward pass takes up to seven times as long as plain products do
        (eager). In float32 these gain little, and keep more.
        """
        model = self.bridge.original_model
        slow = self.device.type == "cpu" and self.dtype == torch.bfloat16 and n_tokens <= _SHORT
        own = model.config._attn_implementation
        with attention_by(model, own if not model._supports_sdpa else "eager" if slow else "sdpa"):
            yield

    @contextmanager
    def activations_only(self) -> Iterator[None]:
        """Gradients reach activations, but no parameter, and parameters are as before on leaving. Other threads wait.

        Raises:
            ModelError: As `running`; or in `torch.inference_mode()`, where there are no gradients.
        """
        with self.running():
            parameters = list(self._parts.parameters())
            if torch.is_inference_mode_enabled() or any(parameter.is_inference() for parameter in parameters):
                raise ModelError(
                    "Edge scores need gradients, which torch.inference_mode() rules out: load the model and score its "
                    "edges outside of it, or under torch.no_grad()."
                )
            frozen = {id(parameter): parameter for parameter in parameters if parameter.requires_grad}.values()
            try:
                for parameter in frozen:
                    parameter.requires_grad_(False)
                with torch.enable_grad():
                    yield
            finally:
                for parameter in frozen:
                    parameter.requires_grad_(True)

    def check_prompts(self, dataset: Any) -> None:
        """Raise a `PromptError` that names the row, unless this model can run all prompts of a `PromptDataset`."""
        parts = (("clean prompt", dataset.clean), ("corrupt prompt", dataset.corrupt))
        for name, rows in (*parts, ("answers", dataset.answers), ("wrong answers", dataset.wrong_answers)):
            for row, tokens in zip(dataset.numbers, rows, strict=len(rows) > 0):
                bad = next((token for token in tokens.tolist() if not 0 <= token < self.d_vocab), None)
                if bad is not None:
                    raise PromptError(
                        f"Row {row}: token id {bad} of the {name} is unknown: this model's vocabulary is "
                        f"0 to {self.d_vocab - 1}. Were the prompts tokenized for another model?"
                    )
        for row, tokens in zip(dataset.numbers, dataset.clean, strict=True):
            if len(tokens) > self.n_ctx:
                raise PromptError(f"Row {row}: {len(tokens)} tokens are more than the model's context of {self.n_ctx}.")
            if self.seq_len is not None and len(tokens) != self.seq_len:
                raise PromptError(
                    f"Row {row}: the prompt has {len(tokens)} tokens, and token positions are kept apart for prompts "
                    f"of {self.seq_len}. Use prompts of one length, or add the positions up."
                )
        self._rotary.check_lengths(dataset.numbers, dataset.lengths)
        if dataset.target is not None and dataset.target.shape[1] != self.d_vocab:
            raise PromptError(
                f"The target has {dataset.target.shape[1]} entries per prompt, and the vocabulary {self.d_vocab}."
            )


def _where_weights_lie(attention: Any) -> list[tuple[int, tuple[int, ...], torch.dtype]]:
    """What changes when views of the weights of a bridge's attention become stale. In-place edits reach views."""
    parts = (attention._modules[name]._modules["_original_component"] for name in "qkvo")
    parameters = (parameter for part in parts for parameter in part._parameters.values() if parameter is not None)
    return [(parameter.data_ptr(), parameter.stride(), parameter.dtype) for parameter in parameters]


def at_last(x: Float[Tensor, "batch pos *rest"], last: Int[Tensor, " batch"]) -> Float[Tensor, "batch 1 *rest"]:
    """What stands at each prompt's last token."""
    return x[torch.arange(len(last), device=x.device), last].unsqueeze(1)


PruneScores = dict[str, Tensor]
"""Scores by destination module, float32, on the CPU: [n_heads or n_kv_heads, n_sources] for a block's queries, keys and
values, [n_sources] for its MLP and for the final residual; with positions kept apart, a leading position axis."""


def precision_advice(model: PatchableModel) -> str:
    """What to try where a number is not finite."""
    return {
        torch.float16: "float16 overflows above 65504: load the model in bfloat16 or float32.",
        torch.bfloat16: "Load the model in float32, or use the grad function 'logit'.",
    }.get(model.dtype, "Check the prompts and the model's weights, or use the grad function 'logit'.")
