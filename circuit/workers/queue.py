"""Whose job runs next: a queue that is fair between owners.

    FairQueue   items that wait and items that run; no threads, no clock
    place_of    whose turn it is: several owners at one place share theirs

    queue = FairQueue()
    queue.add(a1, "ann"), queue.add(a2, "ann"), queue.add(b1, "bob")
    queue.order()                  # [a1, b1, a2]
    item = queue.take()            # a1 runs
    queue.end(item)                # and is over

The next item is

1. one that somebody waits for, before those that nobody watches;
2. a short one, before long ones; but after `SHORT_IN_A_ROW` of them, the long item whose turn it is goes first;
3. of the place with the fewest items running; among those, of the place whose last turn is longest ago (one that never
   had a turn goes first); of a place's owners chosen the same way; and of one owner's items the one that came first.

With one worker this is round robin; with several, a place with many long jobs keeps at most its share of the workers as
they become free. An owner called "place/name" is one of several at that place (browser sessions at one network
address), any other is a place of its own.

Items of one group count as one job (`jobs`), for limits on how many an owner may have. A group may be held open by
an item of its own (`hold`): it then counts, as one job or several, also while none of its items is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)
SHORT_IN_A_ROW = 3
"""This many short items go before a long one that waits: whoever keeps asking for little things holds up nobody."""


def place_of(owner: str) -> str:
    """What stands before the first slash of the owner's name."""
    return owner.partition("/")[0]


@dataclass(frozen=True)
class _Entry:
    owner: str
    group: Hashable  # of the owner's; an item without one is its own
    short: bool = False
    jobs: int = 1  # as how many the group counts

    @property
    def key(self) -> tuple[str, Hashable]:
        return self.owner, self.group


class FairQueue(Generic[Item]):
    """Items that wait, in the order in which they came, and items that run, each with its owner.

    ``watched`` says of an item whether somebody waits for it.
    """

    def __init__(self, watched: Callable[[Item], bool] = lambda item: True) -> None:
        self._watched = watched
        self._waiting: dict[Item, _Entry] = {}
        self._running: dict[Item, _Entry] = {}
        self._held: dict[Item, _Entry] = {}  # groups, by the item that holds them open
        self._turns: dict[str, int] = {}  # owner or place -> number of their last turn; larger is later
        self._n_turns = 0
        self._short_in_a_row = 0

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._waiting)

    def __contains__(self, item: Item) -> bool:
        """Whether the item waits."""
        return item in self._waiting

    @property
    def waiting(self) -> Sequence[Item]:
        """The items that wait, as they came."""
        return list(self._waiting)

    @property
    def running(self) -> Sequence[Item]:
        """The items that run, as they began."""
        return list(self._running)

    def add(self, item: Item, owner: str, group: str | None = None, *, short: bool = False) -> None:
        """Let an item wait."""
        self._waiting[item] = _Entry(owner, item if group is None else group, short)

    def put_back(self, item: Item) -> None:
        """Let an item that runs wait again, before its owner's others."""
        self._waiting = {item: self._running.pop(item), **self._waiting}

    def hold(self, item: Item, owner: str, group: str, jobs: int = 1) -> None:
        """Let a group count as this many jobs that run until the item ends. It gets no turn itself."""
        self._held[item] = _Entry(owner, group, jobs=jobs)

    def take(self) -> Item | None:
        """The next item, which runs from now on; None where nothing waits."""
        if not self._waiting:
            return None
        item = self.order(1)[0]
        entry = self._waiting.pop(item)
        self._short_in_a_row = self._short_in_a_row + 1 if entry.short else 0
        self._running[item] = entry
        self._n_turns += 1
        self._turns |= dict.fromkeys(_names(entry.owner), self._n_turns)
        return item

    def end(self, item: Item) -> None:
        """The item runs no more, waits no more, or holds its group open no more."""
        self._running.pop(item, None)
        self._held.pop(item, None)
        self._waiting.pop(item, None)
        here = {name for each in (*self._waiting.values(), *self._running.values()) for name in _names(each.owner)}
        if len(self._turns) > 1000 + len(here):  # owners come and go; a turn that long ago is as good as none
            oldest = sorted(self._turns.keys() - here, key=self._turns.__getitem__)
            for owner in oldest[: len(oldest) // 2]:
                del self._turns[owner]

    def order(self, most: int | None = None) -> list[Item]:
        """The items that wait, in the order in which they would start if those that run outlasted them all."""
        lines: dict[_Line, list[Item]] = {}
        for item, entry in self._waiting.items():
            lines.setdefault(_Line(self._watched(item), entry.short, entry.owner), []).append(item)
        for items in lines.values():
            items.reverse()
        running = Counter(name for entry in self._running.values() for name in _names(entry.owner))
        turns, short_in_a_row = dict(self._turns), self._short_in_a_row
        order: list[Item] = []
        while lines and (most is None or len(order) < most):
            line = _next(lines, running, turns, short_in_a_row)
            order.append(lines[line].pop())
            running.update(_names(line.owner))
            turns |= dict.fromkeys(_names(line.owner), self._n_turns + len(order))
            short_in_a_row = short_in_a_row + 1 if line.short else 0
            if not lines[line]:
                del lines[line]
        return order

    def position(self, item: Item) -> int | None:
        """Place of an item that waits, 1 for the next; None for one that does not."""
        return self.order().index(item) + 1 if item in self._waiting else None

    def jobs(self, owner: str | None = None, *, place: str | None = None, running: bool = True) -> int:
        """How many jobs an owner has, or a place, or all have: waiting and, unless left out, running. A group counts
        as one job, or as `hold` says."""
        entries = [*self._waiting.values()]
        if running:
            entries += [*self._running.values(), *self._held.values()]
        counts: dict[tuple[str, Hashable], int] = {}
        for entry in entries:
            if owner in (None, entry.owner) and place in (None, place_of(entry.owner)):
                counts[entry.key] = max(counts.get(entry.key, 1), entry.jobs)
        return sum(counts.values())

    def has_group(self, owner: str, group: str | None) -> bool:
        """Whether an item of this group of the owner's waits or runs, or the group is held open."""
        known = (*self._waiting.values(), *self._running.values(), *self._held.values())
        return group is not None and any(entry.key == (owner, group) for entry in known)


@dataclass(frozen=True)
class _Line:
    """Items that wait and differ in nothing but when they came."""

    watched: bool
    short: bool
    owner: str


def _next(lines: Iterable[_Line], running: Mapping[str, int], turns: Mapping[str, int], short_in_a_row: int) -> _Line:
    """The line whose first item comes next; of equals the first."""
    open_to = [line for line in lines if line.watched] or list(lines)
    short = [line for line in open_to if line.short]
    long = [line for line in open_to if not line.short]
    open_to = short if short and (short_in_a_row < SHORT_IN_A_ROW or not long) else long

    def had(line: _Line) -> tuple[int, int, int, int]:
        place, owner = place_of(line.owner), line.owner
        return running.get(place, 0), turns.get(place, 0), running.get(owner, 0), turns.get(owner, 0)

    return min(open_to, key=had)


def _names(owner: str) -> set[str]:
    """Under which names an owner has turns."""
    return {owner, place_of(owner)}
