"""What every job on a run begins with: its model, held while it is used, and its prompts as that model's tokens.

prepared        model, tokens and dataset of a run
words_of        a loaded model's tokenizer, as prompts are checked with it
Part            one of several equal parts of its prompts or sample points
within_memory   running out of memory as a sentence

with prepared(config, progress, cancelled) as (model, encoded, dataset):
    ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from circuit.common.errors import CircuitError
from circuit.common.progress import Cancelled, Report
from circuit.edges.method import AblationType
from circuit.jobs.load import models
from circuit.models.tokenizer import PromptTokenizer
from circuit.prompts.encode import Encoded, encode
from circuit.runs.config import RunConfig

if TYPE_CHECKING:
    from torch import device

    from circuit.engine.dataset import PromptDataLoader, PromptDataset
    from circuit.engine.model import PatchableModel


T = TypeVar("T")


def pieces_of(model: PatchableModel, rows: list[list[int]]) -> list[list[str]]:
    tokenizer = words_of(model)
    return [[tokenizer.piece(token) for token in row] for row in rows]


class Part(NamedTuple):
    """The part `number`, from 0, of `of` parts that are as equal as can be."""

    number: int = 0
    of: int = 1

    def among(self, things: Sequence[T], unit: int = 1) -> Sequence[T]:
        """This part of `things`, cut only between units of this many."""
        n = -(-len(things) // unit)
        start, stop = (n * end // self.of * unit for end in (self.number, self.number + 1))
        return things[start:stop]


WHOLE = Part()


def part_of(dataset: PromptDataset, config: RunConfig, ablation_type: AblationType, part: Part) -> PromptDataLoader:
    """The part's prompts in batches of the run. Where results depend on the batches, these are not cut."""
    from circuit.engine.dataset import PromptDataLoader

    unit = (config.batch_size or 1) if ablation_type.needs_batch_size else 1
    rows = part.among(range(len(dataset)), unit)
    assert isinstance(rows, range)
    return PromptDataLoader(dataset, config.batch_size, rows)


@contextmanager
def prepared(
    config: RunConfig, progress: Report, cancelled: Cancelled, rows: Sequence[int] | None = None
) -> Iterator[tuple[PatchableModel, Encoded, PromptDataset]]:
    """The model of a run, held while it is used, and the run's prompts as its tokens: the scored ones, or `rows`."""
    from circuit.engine.dataset import check_one_length
    from circuit.engine.loss import check_answers

    with (
        models().use(config.model, config.device, config.dtype, progress, cancelled) as model,
        within_memory(model.device),
    ):
        encoded = encode(config.prompts, words_of(model), bos_of(model, config.prepend_bos), model.n_ctx)
        dataset = encoded.dataset(config.split(encoded.usable)[0] if rows is None else rows)
        check_answers(dataset, config.method)
        if config.keep_positions:
            # Held-out pairs too: circuits are measured on them, edge by edge of the scored ones' positions.
            check_one_length(
                [encoded.dataset(some) for some in config.split(encoded.usable) if some],
                "token positions can be kept apart only where all prompts, held-out ones included, have the same "
                "number of tokens.",
            )
            model = model.with_seq_len(dataset.lengths[0])
        yield model, encoded, dataset


def words_of(model: PatchableModel) -> PromptTokenizer:
    """The model's tokenizer, as the page has it, which reads the same of it from the model's files."""
    return PromptTokenizer.of(model.tokenizer, model.n_ctx, model.d_vocab)


def bos_of(model: PatchableModel, wanted: bool | None) -> bool:
    """Whether prompts begin with a BOS token: as wanted, or as the model's tokenizer does."""
    return model.prepend_bos if wanted is None else wanted


@contextmanager
def within_memory(target: device) -> Iterator[None]:
    """Keep within what this process may use; turn running out of memory, where nobody could do with less, into a
    sentence; and give back what was held."""
    from circuit.engine.memory import is_out_of_memory, release, within_budget

    failed = False
    with within_budget(target):
        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failed = True
    if failed:  # past the error, whose frames hold what did not fit
        release(target)
        raise CircuitError(
            "The device ran out of memory. Choose a smaller batch size, shorter prompts, or a smaller model."
        )
