"""Template mode: prompt pairs made from two templates with slots.

    Template    a clean and a corrupt template, their answers, and what the slots stand for
    Slots       slots that draw from one list, always different values
    slots_of    slots as a person writes them, one line each
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

Templates, slots and what they fill to are bounded before anything is filled: a few characters can stand for gigabytes.
"""

from __future__ import annotations

import bisect
import csv
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random

from circuit.common.errors import PromptError
from circuit.common.words import counted
from circuit.prompts.pairs import MOST_ANSWERS, MOST_CHARACTERS, PromptPair

MOST_PAIRS = 10_000
LONGEST_TEMPLATE = 20_000
"""Characters of each of the four templates."""
LONGEST_SLOTS = 200_000
"""Characters of all slots with their values."""
MOST_SLOTS = 100
MOST_FILLED = 5_000_000
"""Characters of all pairs together: as much as a file of prompts may have."""
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
        places = sorted(form - 1 for form in forms if form > 0)
        first: dict[Forms, Forms] = {}
        for value in self.values:
            seen = tuple(value[place] for place in places[: bisect.bisect_left(places, len(value))])
            first.setdefault(seen, value)
        return replace(self, values=tuple(first.values()))

    def draw(self, number: int) -> dict[str, Forms]:
        """One of these ways, by its number from 0."""
        drawn: dict[str, Forms] = {}
        taken: list[int] = []  # in ascending order
        for n_taken, name in enumerate(self.names):
            number, place = divmod(number, len(self.values) - n_taken)
            for each in taken:  # the place among all values of the place-th that is left
                place += each <= place
            bisect.insort(taken, place)
            drawn[name] = self.values[place]
        return drawn

    def longest(self) -> dict[int, int]:
        """For each form, counted from 1, the characters of the longest value."""
        lengths: dict[int, int] = {}
        for value in self.values:
            for form, text in enumerate(value, start=1):
                lengths[form] = max(lengths.get(form, 0), len(text))
        return lengths


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
        for text in self._templates().values():
            for name, form in _places(text):
                used.setdefault(name, set()).add(form)
        return tuple(slots.told_apart_by({form for name in slots.names for form in used.get(name, ())})
                     for slots in self.slots)  # fmt: skip

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
            PromptError: When the templates do not fit the slots, or the lists do not allow this many pairs.
        """
        self._check_sizes()
        self._check()
        if not 1 <= n <= MOST_PAIRS:
            raise PromptError(f"The number of pairs must lie between 1 and {MOST_PAIRS:,}, and is {n:,}.")
        longest = self._check_filled(n)
        if n > self.count:
            raise self._too_few(self.count, n)
        random = Random(seed)
        pairs = dict.fromkeys(self.fill(self._draw(number)) for number in _different(random, self.count, n))
        if len(pairs) < n:  # several fillings make the same pair
            tried = max(n, min(_MOST_TRIED, MOST_FILLED // longest))
            more = iter(_different(random, self.count, min(self.count, tried)))
            while len(pairs) < n:
                if (number := next(more, None)) is None:
                    raise self._too_few(len(pairs), n)
                pairs[self.fill(self._draw(number))] = None
        return tuple(pairs)

    @staticmethod
    def _too_few(count: int, n: int) -> PromptError:
        return PromptError(
            f"The lists allow {counted(count, 'different pair')}, and {n:,} were asked for: add "
            "values, or ask for fewer."
        )

    def _draw(self, number: int) -> dict[str, Forms]:
        drawn: dict[str, Forms] = {}
        for slots in self._used_slots:
            number, part = divmod(number, slots.count)
            drawn |= slots.draw(part)
        return drawn

    def _check_sizes(self) -> None:
        """Refuse what would take long to look at, or to fill."""
        for what, text in self._templates().items():
            if len(text) > LONGEST_TEMPLATE:
                raise PromptError(
                    f"The {what} template has {len(text):,} characters, and {LONGEST_TEMPLATE:,} are the most: shorten "
                    "it, or take in a file of pairs."
                )
        n = sum(1 for text in (self.answers, self.wrong_answers) for each in text.split("|") if each)
        if n > MOST_ANSWERS:
            raise PromptError(f"The templates have {n:,} answers, and {MOST_ANSWERS:,} are the most of a pair.")
        _check_slots(sum(len(slots.names) for slots in self.slots), sum(map(_length, self.slots)))

    def _check_filled(self, n: int) -> int:
        """Refuse pairs that would be too long, each or together; how long one can be, in characters."""
        of_slots = [(slots.names, slots.longest()) for slots in self._used_slots]
        of_slot = {name: lengths for names, lengths in of_slots for name in names}
        lengths = {
            what: len(text) + sum(of_slot.get(name, {}).get(form, 0) for name, form in _places(text))
            for what, text in self._templates().items()
        }
        what, longest = max(lengths.items(), key=lambda item: item[1])
        if longest > MOST_CHARACTERS:
            raise PromptError(
                f"Filled, the {what} template could have {longest:,} characters, and {MOST_CHARACTERS:,} are the most: "
                "shorten its values, or use fewer slots."
            )
        if n * (whole := max(1, sum(lengths.values()))) > MOST_FILLED:
            raise PromptError(
                f"{n:,} pairs of up to {whole:,} characters would be more than {MOST_FILLED:,} characters together: "
                f"ask for {MOST_FILLED // whole:,} pairs at most, or shorten the values."
            )
        return whole

    def _templates(self) -> dict[str, str]:
        return {
            "clean": self.clean,
            "corrupt": self.corrupt,
            "right answers'": self.answers,
            "wrong answers'": self.wrong_answers,
        }

    def _check(self) -> None:
        seen: set[str] = set()
        for slots in self.slots:
            for name in slots.names:
                if name in seen:
                    raise PromptError(f"The slot {{{name[:50]}}} is listed twice: give it one list.")
                seen.add(name)
            if len(slots.values) < len(slots.names):
                raise PromptError(
                    f"The slots {', '.join(slots.names)[:100]} always differ, so their list needs {len(slots.names)} "
                    f"values or more, and has {len(slots.values)}."
                )
        used = {name for text in self._templates().values() for name, _ in _places(text)}
        if unused := sorted(seen - used):
            raise PromptError(
                f"No template has a place for the slot {{{unused[0][:50]}}}: write it in, or take out its list."
            )


def _places(text: str) -> Iterator[tuple[str, int]]:
    """The slot and the form of every place in a template."""
    for match in _PLACE.finditer(text):
        if match[1] is not None:
            yield match[1], _form(match)


def _filled(what: str, template: str, values: Mapping[str, Forms]) -> str:
    def value(match: re.Match[str]) -> str:
        name, place = match[1], match[0] if len(match[0]) < 60 else f"{match[0][:50]} …}}"
        if name is None:
            return match[0][0]
        if name not in values:
            raise PromptError(f"The {what} has the slot {place}, and there is no list of values for '{name[:50]}'.")
        if not 1 <= (form := _form(match)) <= len(values[name]):
            forms = "/".join(values[name])[:60]
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
    _check_slots(0, len(text))
    slots = tuple(_slots(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
    _check_slots(sum(len(each.names) for each in slots), 0)
    return slots


def _check_slots(n: int, length: int) -> None:
    if length > LONGEST_SLOTS:
        raise PromptError(
            f"The slots and their values have {length:,} characters, and {LONGEST_SLOTS:,} are the most: list fewer "
            "values."
        )
    if n > MOST_SLOTS:
        raise PromptError(f"There are {n:,} slots, and {MOST_SLOTS} are the most.")


def _length(slots: Slots) -> int:
    """Characters of the values of these slots."""
    return sum(len(form) for value in slots.values for form in value)


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
    written = _CELL.findall(values_text.strip())
    values = tuple(dict.fromkeys(tuple(value.split("/")) for value in map(_trimmed, cells, written) if value))
    if not values:
        raise PromptError(f"Line {number} of the slots has no values after the colon.")
    return Slots(names, values)


_CELL = re.compile(r' *+("(?:[^"]++|"")*+"|[^,]*+)(?:,|\Z)')
"""A value as it is written, in its quotes."""


def _trimmed(cell: str, written: str) -> str:
    """A value without the spaces around it, unless it was put in quotes."""
    return cell if written.startswith('"') else cell.strip()


def lines_of(slots: tuple[Slots, ...]) -> str:
    """The inverse of `slots_of`."""
    return "\n".join(f"{', '.join(each.names)}: {', '.join(_cells(each.values))}" for each in slots)


def _cells(values: tuple[Forms, ...]) -> Iterator[str]:
    for forms in values:
        cell = "/".join(forms)
        yield _quoted(cell) if re.search(r'[,"]|^\s|\s$', cell) else cell


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'
