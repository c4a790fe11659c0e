"""Step 1 of `circuit.engine.mask_gradient`: what replaces a source's activation when its edges are ablated.

    Activations   what every source wrote in one forward pass, and the stream that every destination read
    record        one plain forward pass -> Activations
    Ablation      the ablated Activations for each batch of a dataset, for all seven ablation types

    ablation = Ablation(model, loader, AblationType.RESAMPLE)
    ablated = ablation.of(batch, "corrupt")

Heads are kept as `z` (d_head numbers); what a head writes is `z @ W_O`. Streams are kept beside the sources because
ablation is linear: the ablated stream is the ablation of the recorded stream, constant biases included, so the
sources need not be added up. Zero ablation leaves the biases of the attention outputs in a stream, since they belong to
no source.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from circuit.common.progress import Progress
from circuit.edges.method import AblationType, CleanCorrupt
from circuit.engine.batches import by_batch
from circuit.engine.dataset import PromptDataLoader, PromptPairBatch, check_one_length
from circuit.engine.hooks import Hook
from circuit.engine.model import PatchableModel


@dataclass
class Activations:
    """Sources and streams of one forward pass.

    A batch or position axis of length 1 stands for all. `attention_stream[i]` and `mlp_stream[i]` are what block i's
    attention and MLP read before their layer norms, `final_stream` what the final norm reads. Where the
    blocks' streams are not needed, these lists are empty.
    """

    embedding: Float[Tensor, "batch pos d_model"]
    z: list[Float[Tensor, "batch pos n_heads d_head"]]
    mlp: list[Float[Tensor, "batch pos d_model"]]
    attention_stream: list[Float[Tensor, "batch pos d_model"]]
    mlp_stream: list[Float[Tensor, "batch pos d_model"]]
    final_stream: Float[Tensor, "batch pos d_model"]

    def map(self, function: Callable[[Tensor], Tensor]) -> Activations:
        """The same activations with `function` applied to every tensor."""
        return self.combine(self, lambda mine, _: function(mine))

    def combine(self, other: Activations, function: Callable[[Tensor, Tensor], Tensor]) -> Activations:
        """Tensor by tensor, `function` of these activations and the others."""

        def lists(mine: list[Tensor], theirs: list[Tensor]) -> list[Tensor]:
            return [function(a, b) for a, b in zip(mine, theirs, strict=True)]

        return Activations(
            function(self.embedding, other.embedding),
            lists(self.z, other.z),
            lists(self.mlp, other.mlp),
            lists(self.attention_stream, other.attention_stream),
            lists(self.mlp_stream, other.mlp_stream),
            function(self.final_stream, other.final_stream),
        )


class Recorder:
    """Hooks that keep what passes: run the model with `hooks`, then take `activations`.

    Args:
        model: The model.
        streams: Whether to keep the blocks' streams beside the sources.
    """

    def __init__(self, model: PatchableModel, streams: bool = True) -> None:
        self._kept: dict[str, Tensor] = {}
        self._model = model
        layers = range(model.n_layers)
        streamed = layers if streams else ()
        self._names = {
            "z": [model.head_output_hook(layer) for layer in layers],
            "mlp": [model.mlp_output_hook(layer) for layer in layers],
            "attention_stream": [model.attention_hook(layer) for layer in streamed],
            # parallel blocks read one stream with both branches
            "mlp_stream": [model.attention_hook(i) if model.parallel else model.mlp_hook(i) for i in streamed],
        }

    def hook(self, name: str) -> Hook:
        """Keep what passes at `name`."""

        def keep(x: Tensor, hook: object) -> None:
            self._kept[name] = x.detach()

        return name, keep

    @property
    def hooks(self) -> list[Hook]:
        names = [name for group in self._names.values() for name in group]
        ends = [self._model.embedding_hook, self._model.final_hook]
        return [self.hook(name) for name in dict.fromkeys(names + ends)]

    @property
    def activations(self) -> Activations:
        lists = {field: [self._kept[name] for name in names] for field, names in self._names.items()}
        embedding, final = self._kept[self._model.embedding_hook], self._kept[self._model.final_hook]
        return Activations(embedding=embedding, final_stream=final, **lists)


@torch.no_grad()
def record(model: PatchableModel, batch: PromptPairBatch, which: CleanCorrupt, streams: bool = True) -> Activations:
    """Run the clean or corrupt prompts of a batch, and keep what passes.

    Args:
        model: The model.
        batch: The prompts, on the model's device.
        which: Which prompts of the pair to run.
        streams: Whether to keep the blocks' streams beside the sources.
    """
    recorder = Recorder(model, streams)
    none = batch.last[:0]  # no logits are needed, and the unembedding is the largest matrix of a small model
    model.logits(batch.prompts(which), none, recorder.hooks)
    return recorder.activations


class Ablation:
    """The ablated activations of every batch of a dataset.

    Args:
        model: The model.
        loader: The prompts. Means over the dataset are computed here, once, from all its prompts, whichever of them the
            loader goes through.
        ablation_type: What replaces a source's activation: see `AblationType`.
        progress: Told of each batch that the means over the dataset need.
        streams: Whether the ablated streams are wanted beside the sources: a mask value other than 0 needs them.

    Raises:
        PromptError: Prompts of different lengths where positions are averaged one by one.
        OptionError: A batch mean where the batch size is left to be chosen, which would leave the result to chance.
    """

    def __init__(
        self,
        model: PatchableModel,
        loader: PromptDataLoader,
        ablation_type: AblationType,
        progress: Progress | None = None,
        streams: bool = True,
    ) -> None:
        self.model = model
        self._streams = streams
        self.type = ablation_type
        self._mean: Activations | None = None
        if ablation_type.averages_positions_apart:
            check_one_length(
                [loader.dataset],
                f"'{ablation_type}' averages each token position over the prompts, so all must have the same number of "
                "tokens. Use one length, or another ablation.",
            )
        if ablation_type.averages_dataset:
            self._mean = _dataset_mean(model, loader, _datasets(ablation_type), progress or Progress(), streams)
        elif ablation_type is AblationType.ZERO:
            self._mean = _zeros(model)

    @staticmethod
    def n_passes(loader: PromptDataLoader, ablation_type: AblationType) -> int:
        """Forward passes that computing the means over the dataset takes."""
        return len(loader.of_all_rows()) * len(_datasets(ablation_type))

    def of(self, batch: PromptPairBatch, which: CleanCorrupt | None) -> Activations:
        """What replaces the sources of a batch.

        Args:
            batch: The prompts, on the model's device.
            which: Which prompts of the pair the activations are taken from; not used where the ablation does not read
                the batch.

        Returns:
            Activations whose batch or position axis is 1 where one value stands for all.
        """
        if self._mean is not None:
            return self._mean
        assert which is not None
        activations = record(self.model, batch, which, self._streams)
        if self.type is AblationType.BATCH_TOKENWISE_MEAN:
            return activations.map(lambda x: x.mean(0, keepdim=True))
        if self.type is AblationType.BATCH_ALL_TOK_MEAN:
            real = batch.real_positions
            return activations.map(lambda x: x[real].mean(0)[None, None])
        return activations

    def first_position(self, batch: PromptPairBatch, which: CleanCorrupt | None, into: CleanCorrupt = "clean") -> int:
        """The first position at which the ablated activations can differ from those of the `into` prompts.

        Up to where two prompts are the same, so are all their activations: attention looks back only.
        """
        if self.type is not AblationType.RESAMPLE:
            return 0
        assert which is not None
        differs = (batch.prompts(into) != batch.prompts(which)).any(0)
        return int(differs.int().argmax()) if differs.any() else len(differs)


def _datasets(ablation_type: AblationType) -> tuple[CleanCorrupt, ...]:
    names: dict[AblationType, tuple[CleanCorrupt, ...]] = {
        AblationType.TOKENWISE_MEAN_CLEAN: ("clean",),
        AblationType.TOKENWISE_MEAN_CORRUPT: ("corrupt",),
        AblationType.TOKENWISE_MEAN_CLEAN_AND_CORRUPT: ("clean", "corrupt"),
    }
    return names.get(ablation_type, ())


def _dataset_mean(
    model: PatchableModel,
    loader: PromptDataLoader,
    which: tuple[CleanCorrupt, ...],
    progress: Progress,
    streams: bool,
) -> Activations:
    def summed(batch: PromptPairBatch) -> Activations:
        total: Activations | None = None
        for side in which:
            progress.check()
            # summed in float32: half precision would lose the later prompts
            part = record(model, batch, side, streams).map(lambda x: x.sum(0, keepdim=True, dtype=torch.float32))
            total = part if total is None else total.combine(part, torch.Tensor.add_)
            progress.advance(f"mean of the {side} prompts")
        return cast(Activations, total)

    total: Activations | None = None
    for _, part in by_batch(model, loader.of_all_rows(), summed, progress):
        total = part if total is None else total.combine(part, torch.Tensor.add_)
    n = len(loader.dataset) * len(which)
    return cast(Activations, total).map(lambda x: (x / n).to(model.dtype))


def _zeros(model: PatchableModel) -> Activations:
    zero = torch.zeros(1, 1, model.d_model, device=model.device, dtype=model.dtype)
    heads = zero.new_zeros(1, 1, model.n_heads, model.d_head)
    before, after = [], []
    biases = zero
    for layer in range(model.n_layers):
        before.append(biases)
        bias = model.weights(layer).b_O
        biases = biases if bias is None else biases + bias.detach()
        after.append(before[-1] if model.parallel else biases)
    n = model.n_layers
    return Activations(zero, [heads] * n, [zero] * n, before, after, biases)
