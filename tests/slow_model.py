"""Edge masks done slowly, in plain PyTorch: what the engine's numbers are compared with.

    SlowModel          a Hugging Face model in which every edge has a mask entry of its own
    slow_loss          the loss, prompt by prompt
    slow_ablated       what replaces each source
    slow_mask_scores   autograd with respect to the masks: the definition of a prune score
    slow_eap_scores    edge attribution patching: gradient times activation difference

Nothing here uses TransformerLens or the package under test: only torch's own hooks on the Hugging Face modules. Every
destination reads its own copy of the residual stream, with (ablated - current) of each source before it added to it
in a loop over edges.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.small_models import VARIANTS, random_hf_model

Scores = dict[str, Tensor]

# blocks, norm before attention, norm before MLP (None: shared), queries keys values (or one fused), output, MLP, final
LAYOUTS: dict[str, tuple[str, str, str | None, tuple[str, ...], str, str, str]] = {
    "gpt2": ("transformer.h", "ln_1", "ln_2", ("attn.c_attn",), "attn.c_proj", "mlp", "transformer.ln_f"),
    "gpt_neo": (
        "transformer.h",
        "ln_1",
        "ln_2",
        ("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
        "attn.attention.out_proj",
        "mlp",
        "transformer.ln_f",
    ),
    "gpt_neox": (
        "gpt_neox.layers",
        "input_layernorm",
        "post_attention_layernorm",
        ("attention.query_key_value",),
        "attention.dense",
        "mlp",
        "gpt_neox.final_layer_norm",
    ),
    "opt": (
        "model.decoder.layers",
        "self_attn_layer_norm",
        "final_layer_norm",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.out_proj",
        "fc2",
        "model.decoder.final_layer_norm",
    ),
    "llama": (
        "model.layers",
        "input_layernorm",
        "post_attention_layernorm",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.o_proj",
        "mlp",
        "model.norm",
    ),
    "phi": (
        "model.layers",
        "input_layernorm",
        None,
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.dense",
        "mlp",
        "model.final_layernorm",
    ),
}
LAYOUTS |= dict.fromkeys(
    (
        *("mistral", "qwen2", "qwen3", "stablelm", "starcoder2", "smollm3", "ernie4_5"),
        *("seed_oss", "ministral3", "arcee", "hunyuan_v1_dense"),
    ),
    LAYOUTS["llama"],
)
LAYOUTS["apertus"] = ("model.layers", "attention_layernorm", "feedforward_layernorm", *LAYOUTS["llama"][3:])
LAYOUTS |= dict.fromkeys(("cohere", "cohere2"), (*LAYOUTS["llama"][:2], None, *LAYOUTS["llama"][3:]))


@dataclass
class Run:
    """One forward pass: logits at each prompt's last token, what each source wrote, what each destination read."""

    logits: Tensor
    sources: list[Tensor] = field(default_factory=list)
    reads: dict[str, list[Tensor]] = field(default_factory=dict)


class SlowModel:
    """A Hugging Face model with a mask entry on every edge, in float64 where its own code allows it."""

    def __init__(self, hf_model: Any) -> None:
        self.hf = hf_model.double().requires_grad_(False)
        config = hf_model.config
        self.kind: str = config.model_type
        blocks, self.norm1, self.norm2, self.qkv, self.out, self.mlp, final = LAYOUTS[self.kind]
        if self.kind == "stablelm" and config.use_parallel_residual:
            self.norm2 = None
        self.blocks: list[Any] = list(self.hf.get_submodule(blocks))
        self.final: Any = self.hf.get_submodule(final)
        self.parallel = self.norm2 is None or bool(getattr(config, "use_parallel_residual", False))
        self.n_heads: int = config.num_attention_heads
        self.n_kv_heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.n_sources = 1 + len(self.blocks) * (self.n_heads + 1)
        self.factors = (1.0, 1.0, 1.0)
        """Of the gradients at queries, keys and values."""

    def mask_shapes(self) -> dict[str, tuple[int, ...]]:
        """Rows (where the destination has heads) and sources, by destination module."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(len(self.blocks)):
            before = 1 + layer * (self.n_heads + 1)
            for letter, rows in zip("qkv", (self.n_heads, self.n_kv_heads, self.n_kv_heads), strict=True):
                shapes[f"blocks.{layer}.hook_{letter}_input"] = (rows, before)
            shapes[f"blocks.{layer}.hook_mlp_in"] = (before if self.parallel else before + self.n_heads,)
        shapes[f"blocks.{len(self.blocks) - 1}.hook_resid_post"] = (self.n_sources,)
        return shapes

    def projections(self, layer: int) -> list[tuple[list[Tensor], list[Tensor | None]]]:
        """Query, key and value weights [d_head, d_model] and biases of a block, head by head."""
        modules = [self.blocks[layer].get_submodule(name) for name in self.qkv]
        if self.kind == "gpt2":
            weights = list(modules[0].weight.T.chunk(3))
            biases = list(modules[0].bias.chunk(3))
        elif self.kind == "gpt_neox":
            by_head = modules[0].weight.unflatten(0, (self.n_heads, 3, -1))
            weights = [by_head[:, i].flatten(0, 1) for i in range(3)]
            bias = modules[0].bias
            split = None if bias is None else bias.unflatten(0, (self.n_heads, 3, -1))
            biases = [None if split is None else split[:, i].flatten() for i in range(3)]
        else:
            weights = [module.weight for module in modules]
            biases = [module.bias for module in modules]
        heads = (self.n_heads, self.n_kv_heads, self.n_kv_heads)
        return [
            (list(w.chunk(n)), [None] * n if b is None else list(b.chunk(n)))
            for w, b, n in zip(weights, biases, heads, strict=True)
        ]

    def written(self, group: int, sources: Sequence[Tensor]) -> Tensor:
        """What a group of sources adds to the stream: the embedding (0), a block's heads (odd) or its MLP (even)."""
        if group == 0:
            return sources[0]
        layer, is_mlp = divmod(group - 1, 2)
        first = 1 + layer * (self.n_heads + 1)
        if is_mlp:
            return sources[first + self.n_heads]
        total = torch.stack(list(sources[first : first + self.n_heads])).sum(0)
        bias = self.blocks[layer].get_submodule(self.out).bias
        return total if bias is None else total + bias

    def run(
        self,
        tokens: Tensor,
        last: Tensor,
        masks: Scores | None = None,
        ablated: Sequence[Tensor] | None = None,
        change: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Run:
        """A forward pass. Without masks nothing is ablated, but each destination still reads a copy of its own.

        `change(group, x)` says what a group of sources adds to the stream in place of x: see `written`.
        """
        run = Run(torch.empty(0))
        change = change or (lambda group, x: x)
        shape = (*tokens.shape, -1)
        with ExitStack() as hooks:
            for layer, block in enumerate(self.blocks):
                self._hook_block(run, layer, block, shape, masks, ablated, change, hooks)

            def final(module: Any, args: Any) -> Any:
                name = f"blocks.{len(self.blocks) - 1}.hook_resid_post"
                return (self._read(run, args[0], name, self.n_sources, 1, masks, ablated)[0],)

            hooks.enter_context(_removed(self.final.register_forward_pre_hook(final)))
            logits = self.hf(input_ids=tokens, use_cache=False).logits
        run.logits = logits[torch.arange(len(tokens)), last]
        return run

    def _hook_block(
        self,
        run: Run,
        layer: int,
        block: Any,
        shape: Any,
        masks: Scores | None,
        ablated: Any,
        change: Callable[[int, Tensor], Tensor],
        hooks: ExitStack,
    ) -> None:
        streams: list[Tensor] = []
        before = 1 + layer * (self.n_heads + 1)
        norm1 = block.get_submodule(self.norm1)
        projected: list[Tensor] = []

        def attention_input(module: Any, args: Any) -> None:
            (x,) = args
            if layer == 0:
                run.sources.append(x)
            streams.append(x)
            for letter, (weights, biases) in zip("qkv", self.projections(layer), strict=True):
                name = f"blocks.{layer}.hook_{letter}_input"
                reads = self._read(run, x, name, before, len(weights), masks, ablated)
                heads = [
                    F.linear(norm1.forward(read), weight, bias)
                    for read, weight, bias in zip(reads, weights, biases, strict=True)
                ]
                part = torch.stack(heads, dim=-2)  # [batch, pos, heads, d_head]
                factor = self.factors["qkv".index(letter)]
                projected.append(part * factor + (part * (1 - factor)).detach())

        def put(part: int | None) -> Callable[..., Tensor]:
            def hook(module: Any, args: Any, output: Tensor) -> Tensor:
                if part is not None:
                    return projected[part].flatten(-2)
                if self.kind == "gpt2":
                    return torch.cat([x.flatten(-2) for x in projected], dim=-1)
                return torch.cat(projected, dim=-1).flatten(-2)

            return hook

        def heads_out(module: Any, args: Any) -> None:
            weight = module.weight if self.kind == "gpt2" else module.weight.T  # [heads * d_head, d_model]
            z = args[0].chunk(self.n_heads, dim=-1)
            run.sources.extend(part @ rows for part, rows in zip(z, weight.chunk(self.n_heads), strict=True))

        def mlp_read(x: Tensor) -> Tensor:
            n = before if self.parallel else before + self.n_heads
            return self._read(run, x.view(shape), f"blocks.{layer}.hook_mlp_in", n, 1, masks, ablated)[0].view_as(x)

        def mlp_input(module: Any, args: Any) -> Any:
            return (mlp_read(args[0]),) if self.norm2 else (norm1.forward(mlp_read(streams[0])),)

        def mlp_out(module: Any, args: Any, output: Tensor) -> Tensor:
            run.sources.append(output.view(shape))
            return change(2 * layer + 2, output)

        def embedded(module: Any, args: Any, options: Any) -> Any:
            return (
                ((change(0, args[0]), *args[1:]), options)
                if args
                else (args, {**options, "hidden_states": change(0, options["hidden_states"])})
            )

        def attention_out(module: Any, args: Any, output: Tensor) -> Tensor:
            return change(2 * layer + 1, output)

        if layer == 0:
            hooks.enter_context(_removed(block.register_forward_pre_hook(embedded, with_kwargs=True)))
        hooks.enter_context(_removed(block.get_submodule(self.out).register_forward_hook(attention_out)))

        hooks.enter_context(_removed(norm1.register_forward_pre_hook(attention_input)))
        for i, name in enumerate(self.qkv):
            part = i if len(self.qkv) == 3 else None
            hooks.enter_context(_removed(block.get_submodule(name).register_forward_hook(put(part))))
        hooks.enter_context(_removed(block.get_submodule(self.out).register_forward_pre_hook(heads_out)))
        reads_at = block.get_submodule(self.norm2 or self.mlp)
        hooks.enter_context(_removed(reads_at.register_forward_pre_hook(mlp_input)))
        hooks.enter_context(_removed(block.get_submodule(self.mlp).register_forward_hook(mlp_out)))

    def _read(
        self, run: Run, x: Tensor, name: str, n_sources: int, rows: int, masks: Scores | None, ablated: Any
    ) -> list[Tensor]:
        reads = []
        for row in range(rows):
            read = x.clone()
            if masks is not None:
                of_row = masks[name][..., row, :] if "mlp" not in name and "resid" not in name else masks[name]
                for source in range(n_sources):
                    mask = of_row[..., source]
                    read = read + mask.unsqueeze(-1) * (ablated[source] - run.sources[source])
            reads.append(read)
        run.reads[name] = reads
        return reads


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


@functools.cache
def slow_model(variant: str) -> SlowModel:
    """The same weights as `small_models.shared_model(variant)`."""
    name, changes = VARIANTS[variant]
    return SlowModel(random_hf_model(name, **changes))


@dataclass(frozen=True)
class Prompts:
    """Prompt pairs as plain tensors of one length, answers as lists of token ids or a target [n, d_vocab]."""

    clean: Tensor
    corrupt: Tensor
    answers: Any
    wrong: Any

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def last(self) -> Tensor:
        return torch.full((len(self.clean),), self.clean.shape[1] - 1)

    def rows(self, start: int, stop: int) -> Prompts:
        pick = slice(start, stop)
        return Prompts(self.clean[pick], self.corrupt[pick], self.answers[pick], self.wrong[pick])


def slow_loss(logits: Tensor, prompts: Prompts, grad_function: str, answer_function: str) -> Tensor:
    """The sum over prompts of the loss, from the definitions of the four grad and three answer functions."""
    total = logits.new_zeros(())
    for row, answers, wrong in zip(logits, prompts.answers, prompts.wrong, strict=True):
        values = {
            "logit": lambda x: x,
            "prob": lambda x: x.exp() / x.exp().sum(),
            "logprob": lambda x: x - x.exp().sum().log(),
            "logit_exp": lambda x: x.exp() / x.exp().sum().detach(),
        }[grad_function](row)
        if answer_function == "mse":
            if answers.is_floating_point():
                target = answers.to(values)
            else:
                target = torch.zeros_like(values)
                for token in answers:
                    target[token] += 1 / len(answers)
            total = total + ((values - target) ** 2).mean()
        else:
            total = total - torch.stack([values[token] for token in answers]).mean()
            if answer_function == "avg_diff":
                total = total + torch.stack([values[token] for token in wrong]).mean()
    return total


def slow_ablated(
    model: SlowModel, prompts: Prompts, ablation: str, clean_corrupt: str, everything: Prompts
) -> list[Tensor]:
    """What replaces each source on a batch of prompts; `everything` is the dataset they belong to."""

    def sources(of: Prompts, which: str) -> list[Tensor]:
        with torch.no_grad():
            return model.run(of.clean if which == "clean" else of.corrupt, of.last).sources

    if ablation == "ZERO":
        return [torch.zeros_like(x) for x in sources(prompts, "clean")]
    if ablation == "RESAMPLE":
        return sources(prompts, clean_corrupt)
    if ablation == "BATCH_TOKENWISE_MEAN":
        return [x.mean(0, keepdim=True) for x in sources(prompts, clean_corrupt)]
    if ablation == "BATCH_ALL_TOK_MEAN":
        return [x.mean((0, 1), keepdim=True) for x in sources(prompts, clean_corrupt)]
    clean, corrupt = sources(everything, "clean"), sources(everything, "corrupt")
    if ablation == "TOKENWISE_MEAN_CLEAN":
        return [x.mean(0, keepdim=True) for x in clean]
    if ablation == "TOKENWISE_MEAN_CORRUPT":
        return [x.mean(0, keepdim=True) for x in corrupt]
    assert ablation == "TOKENWISE_MEAN_CLEAN_AND_CORRUPT"
    return [torch.cat(pair).mean(0, keepdim=True) for pair in zip(clean, corrupt, strict=True)]


def slow_mask_scores(
    model: SlowModel,
    prompts: Prompts,
    *,
    grad_function: str = "logit",
    answer_function: str = "avg_diff",
    points: Sequence[tuple[float, float]] = ((0.0, 1.0),),
    ablation: str = "RESAMPLE",
    clean_corrupt: str = "corrupt",
    batch_size: int | None = None,
    positions_apart: bool = False,
) -> Scores:
    """The gradient of the mean loss with respect to each edge's mask; `points` are mask values and weights."""
    n_pos = (prompts.clean.shape[1],) if positions_apart else ()
    total = {name: torch.zeros(*n_pos, *shape, dtype=torch.float64) for name, shape in model.mask_shapes().items()}
    size = batch_size or len(prompts)
    for start in range(0, len(prompts), size):
        batch = prompts.rows(start, start + size)
        ablated = slow_ablated(model, batch, ablation, clean_corrupt, prompts)
        for m, weight in points:
            masks = {name: torch.full_like(mask, m).requires_grad_() for name, mask in total.items()}
            logits = model.run(batch.clean, batch.last, masks, ablated).logits
            loss = slow_loss(logits, batch, grad_function, answer_function)
            gradients = torch.autograd.grad(loss, list(masks.values()), materialize_grads=True)
            for name, gradient in zip(masks, gradients, strict=True):
                total[name] += weight * gradient / len(prompts)
    return total


def slow_eap_scores(model: SlowModel, prompts: Prompts, answer_function: str = "avg_diff") -> Scores:
    """Syed et al. 2023: (corrupt activation - clean activation) of the source, times dL/d(input of the destination)."""
    with torch.no_grad():
        corrupt = model.run(prompts.corrupt, prompts.last).sources
    model.hf.requires_grad_(True)
    try:
        run = model.run(prompts.clean, prompts.last)
        loss = slow_loss(run.logits, prompts, "logit", answer_function) / len(prompts)
        reads = [read for of_module in run.reads.values() for read in of_module]
        gradients = iter(torch.autograd.grad(loss, reads))
    finally:
        model.hf.requires_grad_(False)
    scores = {}
    for name, shape in model.mask_shapes().items():
        rows = []
        for _ in run.reads[name]:
            gradient = next(gradients)
            rows.append(
                torch.stack([((corrupt[s] - run.sources[s].detach()) * gradient).sum() for s in range(shape[-1])])
            )
        scores[name] = torch.stack(rows).view(shape)
    return scores


def relative_error(ours: Scores, theirs: Scores) -> float:
    """Frobenius norm of the difference over that of the slow scores, over all modules together."""
    assert list(ours) == list(theirs)
    assert [tuple(x.shape) for x in ours.values()] == [tuple(x.shape) for x in theirs.values()]
    a, b = (torch.cat([x.double().flatten() for x in scores.values()]) for scores in (ours, theirs))
    return float((a - b).norm() / b.norm())
