"""Whose job runs next: a queue that is fair between owners.

    FairQueue   items that wait and items that run; no threads, no clock

    queue = FairQueue()
    queue.add(a1, "ann"), queue.add(a2, "ann"), queue.add(b1, "bob")
    queue.order()                  # [a1, b1, a2]
    item = queue.take()            # a1 runs
    queue.end(item)                # and is over

The next item is that of the owner with the fewest items running; among those, of the owner whose last turn is longest
ago (one who never had a turn goes first); and of one owner's items the one that came first. With one worker this is
round robin; with several, an owner with many long jobs keeps at most their share of the workers as they become free.

Items of one group count as one job (`jobs`), for limits on how many an owner may have. A group may be held open by
an item of its own (`hold`): it counts then also while none of its items is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


@dataclass(frozen=True)
class _Place:
    owner: str
    group: Hashable  # of the owner's; an item without one is its own


class FairQueue(Generic[Item]):
    """Items that wait, in the order in which they came, and items that run, each with its owner."""

    def __init__(self) -> None:
        self._waiting: dict[Item, _Place] = {}
        self._running: dict[Item, _Place] = {}
        self._held: dict[Item, _Place] = {}  # groups, by the item that holds them open
        self._turns: dict[str, int] = {}  # owner -> number of their last turn; larger is later
        self._n_turns = 0

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._waiting)

    def __contains__(self, item: Item) -> bool:
        """Whether the item waits."""
        return item in self._waiting

    def add(self, item: Item, owner: str, group: str | None = None) -> None:
        """Let an item wait."""
        self._waiting[item] = _Place(owner, item if group is None else group)

    def hold(self, item: Item, owner: str, group: str) -> None:
        """Let a group count as a job that runs until the item ends. It gets no turn itself."""
        self._held[item] = _Place(owner, group)

    def take(self) -> Item | None:
        """The next item, which runs from now on; None where nothing waits."""
        if not self._waiting:
            return None
        item = self.order(1)[0]
        place = self._waiting.pop(item)
        self._running[item] = place
        self._n_turns += 1
        self._turns[place.owner] = self._n_turns
        return item

    def end(self, item: Item) -> None:
        """The item runs no more, waits no more, or holds its group open no more."""
        self._running.pop(item, None)
        self._held.pop(item, None)
        self._waiting.pop(item, None)
        here = {place.owner for place in (*self._waiting.values(), *self._running.values())}
        if len(self._turns) > 1000 + len(here):  # owners come and go; a turn that long ago is as good as none
            oldest = sorted(self._turns.keys() - here, key=self._turns.__getitem__)
            for owner in oldest[: len(oldest) // 2]:
                del self._turns[owner]

    def order(self, most: int | None = None) -> list[Item]:
        """The items that wait, in the order in which they would start if those that run outlasted them all."""
        lines: dict[str, list[Item]] = {}
        for item, place in self._waiting.items():
            lines.setdefault(place.owner, []).append(item)
        for line in lines.values():
            line.reverse()
        running = Counter(place.owner for place in self._running.values())
        turns = dict(self._turns)
        order: list[Item] = []
        while lines and (most is None or len(order) < most):
            owner = min(lines, key=lambda name: (running[name], turns.get(name, 0)))  # the first in line among equals
            order.append(lines[owner].pop())
            running[owner] += 1
            turns[owner] = self._n_turns + len(order)
            if not lines[owner]:
                del lines[owner]
        return order

    def position(self, item: Item) -> int | None:
        """Place of an item that waits, 1 for the next; None for one that does not."""
        return self.order().index(item) + 1 if item in self._waiting else None

    def jobs(self, owner: str | None = None, *, running: bool = True) -> int:
        """How many jobs an owner has, or all have: waiting and, unless left out, running. A group is one job."""
        places = [*self._waiting.values()]
        if running:
            places += [*self._running.values(), *self._held.values()]
        return len({place for place in places if owner in (None, place.owner)})

    def has_group(self, owner: str, group: str | None) -> bool:
        """Whether an item of this group of the owner's waits or runs, or the group is held open."""
        known = (*self._waiting.values(), *self._running.values(), *self._held.values())
        return group is not None and _Place(owner, group) in known
