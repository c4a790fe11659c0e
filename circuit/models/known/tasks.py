"""Prompt pairs that the compiled models do.

INDUCTION, SELECTION, BRACKETS   the three tasks: titles, vocabularies and pairs
Task                             one of them

The pairs are drawn at random by a fixed seed, and all prompts of a task have one length. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from circuit.models.teaching.tasks import Pair

WORDS = (
    "apple", "bread", "cloud", "dance", "eagle", "flame", "grape", "house", "iron", "juice", "kite", "lemon", "moon",
    "night", "ocean", "piano",
)  # fmt: skip
NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Ida", "Jack", "Kate", "Leo")
SENTENCE = "When {first} and {second} went home , {giver} waved to"
NAMED, GIVER, ANSWER = (2, 4), 8, 10
"""Positions in the sentence, counted from `<bos>` at 0: of the two names, of who waves, and of the last word."""
N_LISTED = 8
N_BRACKETS = 10


@dataclass(frozen=True)
class Task:
    """A task with its pairs."""

    key: str
    title: str
    about: str
    draw: Callable[[Random], Iterator[Pair]]

    def pairs(self, n: int = 48, seed: int = 1) -> list[Pair]:
        """The first `n` pairs of a seed, each with a clean prompt of its own."""
        found: dict[str, Pair] = {}
        for pair in self.draw(Random(seed)):
            found.setdefault(pair.clean, pair)
            if len(found) == n:
                break
        return list(found.values())


def _induction(random: Random) -> Iterator[Pair]:
    """The corrupt list has the same words elsewhere, and ends with another of them."""
    while True:
        listed = random.sample(WORDS, N_LISTED)
        elsewhere = random.sample(listed, N_LISTED)
        here, there = random.sample(range(N_LISTED - 1), 2)
        asked, other = listed[here], elsewhere[there]
        right, wrong = listed[here + 1], elsewhere[there + 1]
        if right != wrong and asked != other and all(a != b for a, b in zip(listed, elsewhere, strict=True)):
            yield Pair(" ".join([*listed, asked]), " ".join([*elsewhere, other]), (f" {right}",), (f" {wrong}",))


def _selection(random: Random) -> Iterator[Pair]:
    """The corrupt sentence is about three other people, so nobody in it is named twice."""
    while True:
        first, second, *others = random.sample(NAMES, 5)
        giver, other = (second, first) if random.random() < 0.5 else (first, second)
        clean = SENTENCE.format(first=first, second=second, giver=giver)
        corrupt = SENTENCE.format(first=others[0], second=others[1], giver=others[2])
        yield Pair(clean, corrupt, (f" {other}",), (f" {giver}",))


def depths(brackets: str) -> list[int]:
    """How many brackets are open after each."""
    found = [0]
    for bracket in brackets:
        found.append(found[-1] + (1 if bracket == "(" else -1))
    return found[1:]


def _brackets(random: Random) -> Iterator[Pair]:
    """Balanced against unbalanced, in turn: one that leaves brackets open, and one that closes one too early. In every
    other pair the unbalanced one is the clean prompt."""
    number = 0
    while True:
        balanced, open_left, too_early = "", "", ""
        while not (balanced and open_left and too_early):
            drawn = "".join(random.choice("()") for _ in range(N_BRACKETS))
            depth = depths(drawn)
            if min(depth) < 0 and depth[-1] == 0:
                too_early = drawn
            elif min(depth) >= 0 and depth[-1] == 0:
                balanced = drawn
            elif min(depth) >= 0:
                open_left = drawn
        unbalanced = open_left if number // 2 % 2 else too_early
        yes, no = (" ".join([*brackets, "="]) for brackets in (balanced, unbalanced))
        yield Pair(yes, no, (" yes",), (" no",)) if number % 2 == 0 else Pair(no, yes, (" no",), (" yes",))
        number += 1


INDUCTION = Task(
    "known-induction",
    "Known circuit: induction",
    "Words are listed, and one of them comes again: what followed it the first time follows it again. The corrupt "
    "prompt has the same words in another order, and another one comes again.",
    _induction,
)
SELECTION = Task(
    "known-selection",
    "Known circuit: selection of a name",
    "Two people are named, and one of them again: the other one comes next, as in indirect object identification. The "
    "corrupt prompt names three other people, nobody twice.",
    _selection,
)
BRACKETS = Task(
    "known-brackets",
    "Known circuit: balanced brackets",
    "Are the brackets balanced? Yes, if every bracket is closed, and none before it was opened. The corrupt prompt has "
    "the other answer.",
    _brackets,
)
TASKS = {task.key: task for task in (INDUCTION, SELECTION, BRACKETS)}
