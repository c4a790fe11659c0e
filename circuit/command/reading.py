"""What a command is given: prompts, settings and runs, read from files, links and names.

prompts_of    a file of prompts, or the key of a preset
model_of      the name of a model
config_of     a settings file, or a link that carries settings
run_of        a run file
share         90% or 0.9
"""

from __future__ import annotations

import argparse
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from circuit.common.errors import CircuitError, LinkError, ModelError, PromptError
from circuit.models.catalogue import as_path, is_hub_id, known
from circuit.prompts.files import read_file
from circuit.prompts.pairs import MOST_BYTES, PromptSet
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.links import LARGEST_SETTINGS, read_settings, read_settings_file
from circuit.runs.run import Run


def prompts_of(name: str) -> PromptSet:
    """The prompts in a file, or the preset of this key; where there are both, `./name` is the file.

    Raises:
        PromptError: When there is no such file or preset, or it holds no prompts that can be used.
    """
    if name in PRESETS:
        return PRESETS[name].prompts
    if not Path(name).suffix and not _exists(name):
        raise PromptError(f"There is no file {name!r}, and no preset of that key. Presets: {', '.join(PRESETS)}.")
    prompts = read_file(_content(name, MOST_BYTES, PromptError), Path(name).name)
    if not len(prompts):
        raise PromptError(f"There are no prompt pairs in {name!r}.")
    return prompts


def model_of(name: str) -> str:
    """The name of a model, unless it is a slip of the pen.

    Raises:
        ModelError: When it is no name of the catalogue, and neither a path nor a hub id.
    """
    if name in known() or as_path(name) is not None or is_hub_id(name):
        return name
    raise ModelError(
        f"No model is called {name[:60]!r} here. There are {', '.join(known())}; a folder or a GGUF file, as "
        "./folder; and models of the Hugging Face hub, as owner/name."
    )


def config_of(name: str) -> RunConfig:
    """The settings in a file, or in a link.

    Raises:
        LinkError: When there are none that can be used.
    """
    if name.startswith(("http://", "https://")):
        try:
            settings = parse_qs(urlsplit(name).query).get("settings")
        except ValueError as error:
            raise LinkError("This is not a link as it should be.") from error
        if not settings:
            raise LinkError(
                "This link carries no settings. Share shows two links: take the one under 'Only the settings', or the "
                "settings file."
            )
        return read_settings(settings[0])
    return read_settings_file(_content(name, LARGEST_SETTINGS, LinkError))


def run_of(name: str) -> Run:
    """The run in a file.

    Raises:
        RunFileError: When there is none, or it is damaged.
    """
    return Run.load(Path(name))


def share(text: str) -> float:
    """A share as people write it, for argparse."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a share such as 90% or 0.9")
    return value


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # a name that no file can have
        return False


def _content(name: str, most: int, kind: type[CircuitError]) -> bytes:
    """At most one byte more than `most`: enough for the reader to refuse it."""
    try:
        with Path(name).open("rb") as file:
            return file.read(most + 1)
    except FileNotFoundError as error:
        raise kind(f"There is no file {name!r}.") from error
    except IsADirectoryError as error:
        raise kind(f"{name!r} is a folder. Name a file in it.") from error
    except (OSError, ValueError) as error:
        raise kind(f"{name[:200]!r} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
