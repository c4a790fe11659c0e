"""Drafts: what a visitor has entered, kept on disk so that a reload of the page finds it.

Draft         a model, prompts, the choice of a BOS token, and where the tour was left
save_draft    under an id of 32 random hex digits, which is a capability: who has it may read the draft
load_draft    None where there is none
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from circuit.common.errors import CircuitError
from circuit.common.files import expire, own_folder, read_json, write_whole
from circuit.common.words import MB
from circuit.prompts.pairs import PromptSet
from circuit.runs.run import RUN_ID

KEPT = 30 * 24 * 3600
"""Seconds after its last change for which a draft is kept."""
MOST_KEPT = 500
LARGEST = 40 * MB
"""Bytes: as many as the characters of a prompt set can take."""


@dataclass(frozen=True)
class Draft:
    """What a visitor has entered."""

    model: str
    prompts: PromptSet
    bos: str
    tour: int = 0
    """The step at which the tour was left, counted from 0."""


def save_draft(folder: Path, draft_id: str, draft: Draft) -> None:
    """Write a draft, and remove old ones. What cannot be written is let go: nothing but a reload needs it."""
    prompts = json.loads(draft.prompts.to_json())
    content = {"model": draft.model, "prompts": prompts, "bos": draft.bos, "tour": draft.tour}
    text = json.dumps(content, ensure_ascii=False)
    with contextlib.suppress(OSError):
        own_folder(folder)
        write_whole(_path(folder, draft_id), lambda part: part.write_text(text, encoding="utf-8"))
        expire(folder, KEPT, MOST_KEPT)


def load_draft(folder: Path, draft_id: str) -> Draft | None:
    """The draft with this id, if there is one that can be read."""
    if not RUN_ID.fullmatch(draft_id):
        return None
    try:
        content = read_json(_path(folder, draft_id), LARGEST)
        prompts = PromptSet.from_dict(content["prompts"]).with_plain_name()
        step = content.get("tour")
        return Draft(str(content["model"]), prompts, str(content["bos"]), step if type(step) is int else 0)
    except (OSError, ValueError, KeyError, TypeError, CircuitError):
        return None


def _path(folder: Path, draft_id: str) -> Path:
    return folder / f"{draft_id}.json"
