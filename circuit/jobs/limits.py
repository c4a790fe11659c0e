"""What a visitor may ask of this server: the owner's limits on models and prompts, checked before a job is queued."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from circuit.common.errors import ModelError, PromptError
from circuit.common.settings import settings
from circuit.models.catalogue import LOCAL, is_allowed, known
from circuit.prompts.pairs import PromptSet


def check_request(request: Any) -> None:
    """Check a job's request, whichever it is: everything in it that names a model or holds prompts.

    Raises:
        ModelError: A model that this server does not offer.
        PromptError: More prompts than a run may have.
    """
    for part in _parts(request):
        model, prompts = getattr(part, "model", None), getattr(part, "prompts", None)
        gone = isinstance(model, str) and model.startswith(LOCAL) and model not in known()  # who loads it will say so
        if model is not None and not gone and not is_allowed(str(model)):
            raise ModelError(
                f"The model {str(model)[:80]!r} is not offered by this server, so nothing can be run on it here. "
                "Choose another model, or ask the server's owner to offer it."
            )
        if isinstance(prompts, PromptSet) and len(prompts) > settings().most_prompts:
            raise PromptError(
                f"There are {len(prompts):,} prompt pairs, and this server allows {settings().most_prompts:,} a run: "
                "take some out."
            )


def _parts(request: Any) -> Iterator[Any]:
    """The request, and those that it consists of."""
    yield request
    if isinstance(request, list | tuple):
        for part in request:
            yield from _parts(part)
    elif (config := getattr(request, "config", None)) is not None:
        yield from _parts(config)
