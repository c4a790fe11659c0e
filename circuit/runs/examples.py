"""The ready examples of the landing page: each a model, prompts and a method, and the size of circuit to look at.

    for example in EXAMPLES.values():
        run = attribute(example.config)

All take the default method (`circuit.edges.method.DEFAULT_METHOD`): with plain attribution patching, the strongest 100
edges of SmolLM2 leave no path from input to output. A dozen or two of pairs are enough to see the circuit, and take
seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from circuit.edges.method import DEFAULT_METHOD
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig


@dataclass(frozen=True)
class Example:
    """One click on the landing page.

    `about` says in markdown what the model has to do. `size` is the number of edges of the circuit that is shown first;
    None leaves it to the page.
    """

    key: str
    title: str
    about: str
    seconds: int
    """On a laptop, about."""
    config: RunConfig
    size: int | None = None


def _config(model: str, preset: str, n_pairs: int) -> RunConfig:
    prompts = PRESETS[preset].prompts
    return RunConfig(model, replace(prompts, pairs=prompts.pairs[:n_pairs]), DEFAULT_METHOD)


EXAMPLES: dict[str, Example] = {
    example.key: example
    for example in (
        Example(
            "teaching-ioi",
            "Who gets the bag?",
            "*When John and Anna went to the market, **Anna** gave the bag to* → **John**. Swap the giver, and the "
            "answer swaps too. Which of this tiny model's 262 edges carry that?",
            1,
            _config("teaching", "teaching-ioi", 24),
            15,
        ),
        Example(
            "teaching-induction",
            "What came next last time?",
            "*woman school **ball** hat tree woman school* → **ball**. A list starts over, and the model knows what "
            "came next. Let *ball* and *hat* change places: which edges carry the word found there?",
            1,
            _config("teaching", "teaching-induction", 24),
            26,
        ),
        Example(
            "smollm2-ioi",
            "The same, in a real model",
            "Who gets the bag, asked of SmolLM2-135M: a language model with 30 layers and 70,651 edges. Its circuit "
            "is larger and less tidy, as real ones are.",
            15,
            _config("smollm2-135m", "ioi", 12),
        ),
    )
}
