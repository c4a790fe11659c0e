"""The files that hold a folder's weights, and whether the model has a place for all that is in them.

    weight_files     the files that are read, each a plain *.safetensors name inside the folder
    shards_in        the files that an index of several names
    check_complete   refuses a model that lacks weights, or has no place for some of its files'

An index may name any file: a pickle, which torch would open and run code from, or one outside the folder. Nothing of a
folder is opened before its names have been looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from circuit.common.errors import ModelError
from circuit.common.progress import note
from circuit.common.words import counted

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")

_BUFFERS = r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$|(^|\.)position_ids$"
_MASKS = r"attn(\.attention)?\.(masked_)?bias$|attention\.(masked_)?bias$"
_WITH_MASKS = ("gpt2", "gpt_neo", "gpt_neox")
"""Model types whose files may hold the causal mask, under a name that ends like a bias's."""


def weight_files(folder: Path) -> list[Path]:
    """The files from which the folder's weights are read; none where it has none of these names.

    Files of weights beside them, which are not read, are noted.

    Raises:
        ModelError: When an index names something else than a *.safetensors file of the folder, a file lies elsewhere,
            two sets of weights lie side by side, or an adapter lies beside them; says what to do.
    """
    if adapter := next((name for name in _ADAPTER if (folder / name).exists()), None):
        raise ModelError(
            f"The folder of this model holds an adapter ({adapter}), which would not be applied. Merge it into the "
            "weights (merge_and_unload of peft) and save these, or take it out of the folder."
        )
    first = _named_in_config(folder)
    if first is None:
        both = [name for name in (SINGLE, INDEX) if (folder / name).exists()]
        if len(both) > 1:
            raise ModelError(
                f"The folder of this model holds {SINGLE} and, in several files, {INDEX}: one of them may be of an "
                "older model. Take the one that does not belong out of the folder."
            )
        if not both:
            return []
        first = both[0]
    _check_inside(folder, first)
    names = shards_in(folder / first) if first.endswith(".index.json") else [first]
    for name in names:
        _check_inside(folder, name)
    unread = sorted({path.name for path in folder.glob("*.safetensors")} - {*names})
    if unread:
        note(
            f"{counted(len(unread), 'file')} of weights in the model's folder {'is' if len(unread) == 1 else 'are'} "
            f"not read: {', '.join(unread[:5])}{' and others' if len(unread) > 5 else ''}."
        )
    return [folder / name for name in names]


def shards_in(index: Path) -> list[str]:
    """The names of the files that an index of weights in several files names, each once.

    Raises:
        ModelError: When one of them is not a plain *.safetensors name, or it is no such index.
    """
    try:
        places = json.loads(index.read_text("utf-8"))["weight_map"]
        names = sorted(set(places.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index.name} of this model is not an index of weights: {error}.") from error
    for name in names:
        _check_plain(name, index.name)
    return names


def check_complete(name: str, model_type: str, loaded: dict[str, Any]) -> None:
    """Refuse what transformers only warns about, or says nothing of.

    Args:
        name: The model's name, for the sentence.
        model_type: As in its config.json.
        loaded: What `from_pretrained` says with `output_loading_info=True`.

    Raises:
        ModelError: Weights that the files lack, which are random numbers in the model; and weights of the files that
            the model has no place for, without which it is another model.
    """
    for key, what in (
        ("missing_keys", "are not in its files"),
        ("mismatched_keys", "have another shape in its files than its config.json says"),
    ):
        weights = _names(loaded[key])
        if weights:
            raise ModelError(
                f"The model {name} is incomplete: {len(weights)} of its weights {what}, among them {weights[0]}."
            )
    patterns = [_BUFFERS, *([_MASKS] if model_type in _WITH_MASKS else [])]
    left = [weight for weight in _names(loaded["unexpected_keys"]) if not re.search("|".join(patterns), weight)]
    if left:
        raise ModelError(
            f"The files of the model {name} hold {counted(len(left), 'weight')} that the model has no place for, among "
            f"them {left[0]}: without {'it' if len(left) == 1 else 'them'} it would be another model. Its config.json "
            "must lack an option (such as attention_bias, the number of layers, or a kind of quantisation)."
        )


def _names(entries: Iterable[Any]) -> list[str]:
    return sorted(entry if isinstance(entry, str) else str(entry[0]) for entry in entries)


def _named_in_config(folder: Path) -> str | None:
    """The file of weights that config.json names, if it names one."""
    try:
        name = json.loads((folder / "config.json").read_text("utf-8")).get("transformers_weights")
    except (OSError, ValueError, AttributeError):
        return None  # said by whoever reads the configuration
    if name is not None:
        _check_plain(name.removesuffix(".index.json") if isinstance(name, str) else name, "config.json")
    return name


def _check_plain(name: Any, where: str) -> None:
    """Refuse the name of a file of weights that is not plain, or not of safetensors."""
    if not isinstance(name, str) or not re.fullmatch(r"[^/\\:]+\.safetensors", name) or name.startswith("."):
        raise ModelError(
            f"{where} of this model names {str(name)!r} as a file of its weights. Only *.safetensors files in the "
            "model's own folder are read: convert the model to safetensors, and save it in one folder."
        )


def _check_inside(folder: Path, name: str) -> None:
    """Refuse a file that is a link out of the folder. Those of the hub's cache are links to others of their model."""
    whole = folder.resolve()
    if whole.parent.name == "snapshots" and (whole.parent.parent / "blobs").is_dir():
        whole = whole.parent.parent
    if not (folder / name).resolve().is_relative_to(whole):
        raise ModelError(
            f"{name} of this model is a link to a file outside its folder, which is not read: put the file there."
        )
