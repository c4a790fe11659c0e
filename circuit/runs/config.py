"""Everything that decides the scores: model, prompts, method.

RunConfig   the settings of a run; plain values for JSON, and back

config = RunConfig("smollm2-135m", PRESETS["ioi"].prompts, Method(mask_val=0.0), held_out=0.5)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Any, get_args

import numpy as np

from circuit.common.errors import RunFileError
from circuit.common.text import one_line
from circuit.edges.method import Method, Precision
from circuit.prompts.pairs import LONGEST_NAME, PromptSet, is_text


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the scores.

    `device` and `batch_size` do not, except for rounding and for the two batch-mean ablations, which need a batch size.
    """

    model: str
    prompts: PromptSet
    method: Method = field(default_factory=Method)
    dtype: Precision = "auto"
    device: str = "auto"
    prepend_bos: bool | None = None
    keep_positions: bool = False
    batch_size: int | None = None
    held_out: float = 0.0
    """The share of usable pairs that are not scored, so that circuits can be measured on other pairs."""
    split_seed: int = 0

    duplicates_together: bool = True
    """Whether pairs with one clean prompt are all scored, or all held out; False in runs from before that was so."""

    def split(self, usable: Sequence[int]) -> tuple[list[int], list[int]]:
        """The usable rows that are scored, and those that are held out: at random, the same for the same seed.

        A pair that is held out has its clean prompt in none that is scored, so where there are several pairs of one
        prompt, fewer may be held out than were asked for.
        """
        n = min(round(self.held_out * len(usable)), len(usable) - 1)
        if n <= 0:
            return list(usable), []
        drawn = np.random.default_rng(self.split_seed).permutation(usable).tolist()
        if not self.duplicates_together:
            chosen = set(drawn[:n])
        else:
            rows_of: dict[str, list[int]] = {}
            for row in drawn:
                rows_of.setdefault(self.prompts.pairs[row].clean, []).append(row)
            chosen = set()
            for rows in rows_of.values():
                if len(chosen) + len(rows) <= n:
                    chosen.update(rows)
        return [row for row in usable if row not in chosen], sorted(chosen)

    @property
    def _duplicates_matter(self) -> bool:
        return self.held_out > 0 and len({pair.clean for pair in self.prompts.pairs}) < len(self.prompts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if not self._duplicates_matter:
            del plain["duplicates_together"]
        return {**plain, "method": self.method.to_dict(), "prompts": json.loads(self.prompts.to_json())}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """The inverse of `to_dict`.

        Raises:
            RunFileError: When a setting is missing or unknown, or has a value that it cannot have.
            CircuitError: When the prompts or the method are not ones, or the prompts are more than a page can hold.
        """
        if unknown := sorted(set(values) - set(cls.__dataclass_fields__)):
            raise RunFileError(f"A run has no setting {unknown[0][:40]!r}.")
        if missing := [name for name in ("model", "prompts", "method") if name not in values]:
            raise RunFileError(f"The setting {missing[0]!r} is missing.")
        for name, (types, fits) in _PLAIN_FIELDS.items():
            if name in values and not (type(values[name]) in types and fits(values[name])):
                raise RunFileError(f"The run's {name} cannot be {repr(values[name])[:60]}.")
        if not isinstance(values["method"], dict):
            raise RunFileError(f"The run's method cannot be {repr(values['method'])[:60]}.")
        prompts = PromptSet.from_dict(values["prompts"]).with_plain_name()
        config = cls(**{**values, "method": Method.from_dict(values["method"]), "prompts": prompts})
        if "duplicates_together" not in values and config._duplicates_matter:
            return replace(config, duplicates_together=False)
        return config


def _anything(_: Any) -> bool:
    return True


def _is_name(text: str) -> bool:
    return is_text(text) and text == one_line(text, LONGEST_NAME)


_PLAIN_FIELDS: dict[str, tuple[tuple[type, ...], Callable[[Any], bool]]] = {
    "model": ((str,), _is_name),
    "dtype": ((str,), lambda name: name in get_args(Precision)),
    "device": ((str,), _is_name),
    "prepend_bos": ((bool, NoneType), _anything),
    "keep_positions": ((bool,), _anything),
    "batch_size": ((int, NoneType), lambda n: n is None or 0 < n < 2**31),
    "held_out": ((float, int), lambda share: 0 <= share < 1),
    "duplicates_together": ((bool,), _anything),
    "split_seed": ((int,), lambda seed: 0 <= seed < 2**63),
}
