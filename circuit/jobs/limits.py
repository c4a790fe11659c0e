"""What a visitor may ask of this server, and how much it is: looked at before a job is queued.

check_request    the owner's limits on models and prompts
check_scores     the owner's limit on edges times token positions
is_short         whether a job takes but seconds
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from circuit.common.errors import ModelError, OptionError, PromptError
from circuit.common.settings import settings
from circuit.models.catalogue import LOCAL, is_allowed, is_here, known
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


def check_scores(n_edges: int, positions: int | None, most: int) -> None:
    """Check that a run will not have more scores than can be kept and shown.

    Args:
        n_edges: Edges of the model, with token positions added up.
        positions: How many positions each is scored at; None: positions are added up.
        most: The owner's limit (`most_scores`); 0: none.

    Raises:
        OptionError: It will; says how many positions there may be.
    """
    n = n_edges * (positions or 1)
    if not most or n <= most:
        return
    if positions is None:
        raise OptionError(
            f"This model has {n_edges:,} edges, and this server keeps runs of up to {most:,} scores: take a smaller "
            "model, or ask the server's owner to raise most_scores."
        )
    fit = most // n_edges
    shorter = f", or shorten the prompts to {fit} tokens" if fit else ""
    raise OptionError(
        f"{n_edges:,} edges at {positions} token positions are {n:,} scores, and this server keeps runs of up to "
        f"{most:,}: turn 'Positions apart' off{shorter}."
    )


_SHORT = 20_000
"""Millions of parameters times passes of one prompt: about fifteen seconds on a laptop, as long as the ready example on
a real model takes."""
_LEAST = 20
"""Millions of parameters below which a pass gets no quicker: handing over a prompt takes as long as computing on it."""

_CIRCUITS_TRIED = 30
"""About how many circuits are measured of each method that is tried."""


def is_short(function: Callable[..., Any], request: Any) -> bool:
    """Whether a job takes but seconds, by the size of its model and how often prompts go through it: roughly.

    A model that is not here yet, or whose size is not known, may take long.
    """
    parts = [part for part in _parts(request) if isinstance(getattr(part, "model", None), str)]
    if not parts or not all(is_here(part.model) for part in parts):
        return False
    return sum(max(known()[part.model].parameters or _SHORT, _LEAST) for part in parts) * _passes(request) <= _SHORT


def _passes(request: Any) -> int:
    """About how many times a prompt goes through the model, there and back."""
    if isinstance(request, list | tuple):
        return max(map(_passes, request), default=0)
    config = getattr(request, "config", request)
    rows = getattr(request, "rows", None)
    prompts = getattr(config, "prompts", None)
    n_prompts = len(rows if rows is not None else prompts if isinstance(prompts, PromptSet) else (None,))
    if (methods := getattr(request, "methods", None)) is not None:
        return n_prompts * sum(2 * method.n_points(n_prompts) + _CIRCUITS_TRIED for method in methods)
    if hasattr(request, "sizes"):
        return n_prompts * (2 + len(request.sizes))
    if hasattr(request, "edges"):
        return n_prompts * (1 + len(request.edges))
    if (method := getattr(config, "method", None)) is not None and not hasattr(request, "row"):
        return n_prompts * 2 * method.n_points(n_prompts)
    return n_prompts


def _parts(request: Any) -> Iterator[Any]:
    """The request, and those that it consists of."""
    yield request
    if isinstance(request, list | tuple):
        for part in request:
            yield from _parts(part)
    elif (config := getattr(request, "config", None)) is not None:
        yield from _parts(config)
