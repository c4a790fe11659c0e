"""Template mode: prompt pairs made from two templates with slots.

    Template    a clean and a corrupt template, their answers, and what the slots stand for
    Slots       slots that draw from one list, always different values
    slots_of    slots as a person writes them, a line each
    lines_of    and back

    template = Template(
        clean="When {A} and {B} went to the {place}, {B} gave a drink to",
        corrupt="When {A} and {B} went to the {place}, {A} gave a drink to",
        answers=" {A}",
        wrong_answers=" {B}",
        slots=slots_of("A, B: Mary, John, Anna, Tom\\nplace: store, park"),
    )
    template.count                     # 24 fillings
    template.make(10, seed=0)          # ten of them, the same for the same seed

Slots on one line always differ. Slots that must agree are one slot with several forms: with the line
`noun: key/keys, book/books`, `{noun.1}` is a singular and `{noun.2}` the plural of the same noun. A value that holds a
comma or begins with a space is put in double quotes; `{{` and `}}` are braces.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random

from circuit.common.errors import PromptError
from circuit.prompts.pairs import PromptPair

MOST_PAIRS = 10_000
_MOST_TRIED = 50_000
"""Fillings that are looked through for different pairs."""
_PLACE = re.compile(r"\{\{|\}\}|\{(\w+)(?:\.(\d+))?\}")

Forms = tuple[str, ...]


@dataclass(frozen=True)
class Slots:
    """Slots that draw from one list, each another value."""

    names: tuple[str, ...]
    values: tuple[Forms, ...]
    """Each value has one form or several."""

    @property
    def count(self) -> int:
        """In how many ways they can be filled."""
        return math.perm(len(self.values), len(self.names))

    def told_apart_by(self, forms: Collection[int]) -> Slots:
        """The same without values that are equal to an earlier one in all of these forms, counted from 1."""
        first: dict[tuple[str | None, ...], Forms] = {}
        for value in self.values:
            seen = tuple(value[form - 1] if 1 <= form <= len(value) else None for form in sorted(forms))
            first.setdefault(seen, value)
        return replace(self, values=tuple(first.values()))

    def draw(self, number: int) -> dict[str, Forms]:
        """One of these ways, by its number from 0."""
        left = list(self.values)
        drawn = {}
        for name in self.names:
            number, place = divmod(number, len(left))
            drawn[name] = left.pop(place)
        return drawn


@dataclass(frozen=True)
class Template:
    """Two templates and what their slots stand for. Several answers are separated by `|`."""

    clean: str
    corrupt: str
    answers: str
    wrong_answers: str = ""
    slots: tuple[Slots, ...] = ()

    @property
    def count(self) -> int:
        """How many fillings there are; values that differ only in forms that no template uses are one."""
        return math.prod(slots.count for slots in self._used_slots)

    @cached_property
    def _used_slots(self) -> tuple[Slots, ...]:
        """The slots, each with the first of the values that look alike wherever it stands."""
        used: dict[str, set[int]] = {}
        for name, form in self._places():
            used.setdefault(name, set()).add(form)
        return tuple(slots.told_apart_by({form for name in slots.names for form in used.get(name, ())})
                     for slots in self.slots)  # fmt: skip

    def _places(self) -> Iterator[tuple[str, int]]:
        """The slot and the form of every place in the templates."""
        for text in (self.clean, self.corrupt, self.answers, self.wrong_answers):
            for match in _PLACE.finditer(text):
                if match[1] is not None:
                    yield match[1], _form(match)

    def fill(self, values: Mapping[str, Forms]) -> PromptPair:
        """The pair for given values of the slots.

        Raises:
            PromptError: When a template names a slot or a form that there is none of.
        """

        def answers(which: str, template: str) -> tuple[str, ...]:
            return tuple(_filled(f"{which} answers", each, values) for each in template.split("|") if each)

        return PromptPair(
            _filled("clean template", self.clean, values),
            _filled("corrupt template", self.corrupt, values),
            answers("right", self.answers),
            answers("wrong", self.wrong_answers),
        )

    def make(self, n: int, seed: int = 0) -> tuple[PromptPair, ...]:
        """`n` different pairs, drawn at random: the same for the same seed.

        Raises:
            PromptError: When the templates do not fit the slots, or the lists do not allow so many pairs.
        """
        self._check()
        if not 1 <= n <= MOST_PAIRS:
            raise PromptError(f"The number of pairs must lie between 1 and {MOST_PAIRS:,}, and is {n:,}.")
        if n > self.count:
            raise self._too_few(self.count, n)
        random = Random(seed)
        pairs = dict.fromkeys(self.fill(self._draw(number)) for number in _different(random, self.count, n))
        if len(pairs) < n:  # several fillings make the same pair
            more = iter(_different(random, self.count, min(self.count, _MOST_TRIED)))
            while len(pairs) < n:
                if (number := next(more, None)) is None:
                    raise self._too_few(len(pairs), n)
                pairs[self.fill(self._draw(number))] = None
        return tuple(pairs)

    @staticmethod
    def _too_few(count: int, n: int) -> PromptError:
        return PromptError(
            f"The lists allow {count:,} different pair{'s' if count != 1 else ''}, and {n:,} were asked for: add "
            "values, or ask for fewer."
        )

    def _draw(self, number: int) -> dict[str, Forms]:
        drawn: dict[str, Forms] = {}
        for slots in self._used_slots:
            number, part = divmod(number, slots.count)
            drawn |= slots.draw(part)
        return drawn

    def _check(self) -> None:
        seen: set[str] = set()
        for slots in self.slots:
            for name in slots.names:
                if name in seen:
                    raise PromptError(f"The slot {{{name}}} is listed twice: give it one list.")
                seen.add(name)
            if len(slots.values) < len(slots.names):
                raise PromptError(
                    f"The slots {', '.join(slots.names)} always differ, so their list needs {len(slots.names)} values "
                    f"or more, and has {len(slots.values)}."
                )
        used = {name for name, _ in self._places()}
        if unused := sorted(seen - used):
            raise PromptError(
                f"No template has a place for the slot {{{unused[0]}}}: write it in, or take out its list."
            )


def _filled(what: str, template: str, values: Mapping[str, Forms]) -> str:
    def value(match: re.Match[str]) -> str:
        name, place = match[1], match[0] if len(match[0]) < 60 else f"{match[0][:50]} …}}"
        if name is None:
            return match[0][0]
        if name not in values:
            raise PromptError(f"The {what} has the slot {place}, and there is no list of values for '{name[:50]}'.")
        if not 1 <= (form := _form(match)) <= len(values[name]):
            forms = "/".join(values[name])
            raise PromptError(f"The {what} has {place}, and '{forms}' has {len(values[name])} form(s).")
        return values[name][form - 1]

    return _PLACE.sub(value, template)


def _form(place: re.Match[str]) -> int:
    """The form that a place asks for, from 1; 0, which there is none of, for a number longer than any list."""
    digits = place[2] or "1"
    return int(digits) if len(digits) < 10 else 0


def _different(random: Random, count: int, n: int) -> list[int]:
    """`n` different numbers below `count`, which may be larger than any list."""
    if count < 2**62:
        return random.sample(range(count), n)
    return list(dict.fromkeys(random.randrange(count) for _ in range(2 * n)))[:n]


# --- slots as text -------------------------------------------------------------------------------------------------


def slots_of(text: str) -> tuple[Slots, ...]:
    """Slots from lines like `A, B: Mary, John, Anna`; empty lines are skipped, repeated values count once.

    Raises:
        PromptError: Names the line.
    """
    return tuple(_slots(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _slots(number: int, line: str) -> Slots:
    names_text, colon, values_text = line.partition(":")
    names = tuple(name.strip() for name in names_text.split(","))
    if not colon or not all(re.fullmatch(r"\w+", name) for name in names):
        raise PromptError(
            f"Line {number} of the slots must look like 'A, B: Mary, John, Anna': names of letters, digits and "
            "underscores, a colon, and the values."
        )
    try:
        (cells,) = csv.reader([values_text.strip()], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as error:
        raise PromptError(f"Line {number} of the slots: the values cannot be read ({error}).") from error
    values = tuple(dict.fromkeys(tuple(_trimmed(cell, values_text).split("/")) for cell in cells if cell))
    if not values:
        raise PromptError(f"Line {number} of the slots has no values after the colon.")
    return Slots(names, values)


def _trimmed(cell: str, line: str) -> str:
    """A value without the spaces around it, unless it was put in quotes."""
    return cell if _quoted(cell) in line else cell.strip()


def lines_of(slots: tuple[Slots, ...]) -> str:
    """The inverse of `slots_of`."""
    return "\n".join(f"{', '.join(each.names)}: {', '.join(_cells(each.values))}" for each in slots)


def _cells(values: tuple[Forms, ...]) -> Iterator[str]:
    for forms in values:
        cell = "/".join(forms)
        yield _quoted(cell) if re.search(r'[,"]|^\s|\s$', cell) else cell


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'
