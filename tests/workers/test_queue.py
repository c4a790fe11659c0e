"""The fair queue is a plain data structure: no thread, no clock, no worker."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from circuit.workers.queue import FairQueue


def filled(*items: str) -> FairQueue[str]:
    """Items such as "a1": the first of owner a."""
    queue: FairQueue[str] = FairQueue()
    for item in items:
        queue.add(item, item[0])
    return queue


def run_all(queue: FairQueue[str]) -> list[str]:
    """Everything through one worker."""
    done = []
    while (item := queue.take()) is not None:
        done.append(item)
        queue.end(item)
    return done


def test_one_owner_is_served_first_come_first_served() -> None:
    assert run_all(filled("a1", "a2", "a3")) == ["a1", "a2", "a3"]


def test_owners_take_turns() -> None:
    assert run_all(filled("a1", "a2", "a3", "b1", "b2", "c1")) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_who_has_waited_longest_for_a_turn_goes_first() -> None:
    queue = filled("a1", "b1")
    assert run_all(queue) == ["a1", "b1"]
    for item in ("b2", "a2", "c1"):
        queue.add(item, item[0])
    assert run_all(queue) == ["c1", "a2", "b2"]


def test_a_newcomer_does_not_wait_behind_an_owners_whole_line() -> None:
    queue = filled(*(f"a{i}" for i in range(100)))
    assert queue.take() == "a0"
    queue.add("b1", "b")
    assert queue.position("b1") == 1
    queue.end("a0")
    assert queue.take() == "b1"


def test_with_several_workers_an_owner_keeps_no_more_than_a_share_of_them() -> None:
    queue = filled(*(f"a{i}" for i in range(10)))
    assert [queue.take() for _ in range(4)] == ["a0", "a1", "a2", "a3"]
    for i in range(10):
        queue.add(f"b{i}", "b")
    taken = []
    for over in ("a0", "a1"):  # two of a's are done: two workers are free for b
        queue.end(over)
        taken.append(queue.take())
    assert taken == ["b0", "b1"]
    queue.end("b0")  # b's are short: its worker is b's again, and a keeps two
    assert queue.take() == "b2"


@pytest.mark.parametrize("seed", range(20))
def test_the_position_is_the_place_at_which_an_item_really_runs(seed: int) -> None:
    draw = random.Random(seed)
    queue: FairQueue[str] = FairQueue()
    for i in range(30):
        owner = draw.choice("abcd")
        queue.add(f"{owner}{i}", owner)
        if draw.random() < 0.3 and (item := queue.take()) is not None:
            queue.end(item)
    running = queue.take()
    assert running is not None
    waiting = queue.order()
    assert [queue.position(item) for item in waiting] == list(range(1, len(waiting) + 1))
    queue.end(running)
    assert run_all(queue) == waiting


def test_no_owner_waits_longer_than_a_round() -> None:
    queue = filled(*(f"{owner}{i}" for owner in "abcde" for i in range(8)))
    order = run_all(queue)
    for start in range(0, len(order), 5):
        assert Counter(item[0] for item in order[start : start + 5]) == Counter("abcde")


def test_an_item_that_is_taken_out_leaves_the_others_in_order() -> None:
    queue = filled("a1", "b1", "a2")
    queue.end("b1")
    assert (queue.position("b1"), "b1" in queue, len(queue)) == (None, False, 2)
    assert run_all(queue) == ["a1", "a2"]
    assert queue.take() is None


def test_a_group_counts_as_one_job_of_its_owner() -> None:
    queue = filled("b1")
    for i in range(5):
        queue.add(f"a{i}", "a", "sweep")
    queue.add("a9", "a")
    queue.add("c1", "c", "sweep")  # another owner's group of the same name
    assert (queue.jobs("a"), queue.jobs("b"), queue.jobs()) == (2, 1, 4)
    assert queue.has_group("a", "sweep")
    assert not queue.has_group("b", "sweep")
    assert not queue.has_group("a", None)
    for _ in range(3):
        queue.take()
    assert (queue.jobs("a"), queue.jobs("a", running=False), queue.jobs(running=False)) == (2, 2, 2)
    assert len(queue) == 5


def test_owners_that_left_are_forgotten() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(5000):
        queue.add(number, f"session {number}")
        assert queue.take() == number
        queue.end(number)
    assert len(queue._turns) <= 1001


def test_a_group_that_is_held_open_counts_though_nothing_of_it_is_there() -> None:
    queue = filled("b1")
    queue.hold("a", "a", "sweep")
    assert queue.has_group("a", "sweep")
    assert (queue.jobs("a"), queue.jobs("a", running=False), len(queue)) == (1, 0, 1)
    queue.add("a1", "a", "sweep")
    assert queue.jobs("a") == 1
    assert queue.order() == ["b1", "a1"]  # holding is no turn, and no share of the workers
    queue.end("a1")
    queue.end("a")
    assert not queue.has_group("a", "sweep")
    assert queue.jobs("a") == 0


def test_sessions_of_one_address_share_its_turns() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(10):
        for item in ("x", "y"):
            queue.add(f"{item}{number}", f"10.0.0.1/tab {number}")
    queue.add("b1", "10.0.0.2/tab")
    queue.add("b2", "10.0.0.2/tab")
    assert queue.order()[:6] == ["x0", "b1", "x1", "b2", "x2", "x3"]  # and the address's tabs take turns themselves
    assert queue.jobs(place="10.0.0.1") == 20
    assert queue.jobs("10.0.0.1/tab 3") == 2
    assert queue.take() == "x0"
    assert queue.take() == "b1"


def test_short_items_go_first_but_no_long_one_waits_for_more_than_a_few() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(3):
        queue.add(f"a{number}", "a")
    for number in range(8):
        queue.add(f"b{number}", "b", short=True)
    queue.add("a9", "a", short=True)
    assert queue.order() == ["b0", "a9", "b1", "a0", "b2", "b3", "b4", "a1", "b5", "b6", "b7", "a2"]
    assert run_all(queue) == ["b0", "a9", "b1", "a0", "b2", "b3", "b4", "a1", "b5", "b6", "b7", "a2"]


def test_what_nobody_watches_goes_last_whoever_has_waited_longest() -> None:
    watched = {"b1", "b2"}
    queue: FairQueue[str] = FairQueue(lambda item: item in watched)
    for item in ("a1", "a2", "b1", "b2", "c1"):
        queue.add(item, item[0], short=item == "c1")
    assert queue.take() == "b1"
    assert queue.order() == ["b2", "c1", "a1", "a2"]
    watched.add("a2")  # somebody has come back
    assert queue.order() == ["a2", "b2", "c1", "a1"]


def test_an_item_that_ran_may_wait_again() -> None:
    queue = filled("a1", "b1", "a2")
    assert queue.take() == "a1"
    queue.put_back("a1")
    assert (queue.waiting, queue.running) == (["a1", "b1", "a2"], [])
    assert run_all(queue) == ["b1", "a1", "a2"]  # after who has had no turn


def test_a_group_counts_as_the_jobs_that_it_is_held_for() -> None:
    queue = filled("b1")
    queue.hold("sweep", "a", "sweep", jobs=4)
    queue.add("a1", "a", "sweep")
    assert (queue.jobs("a"), queue.jobs(), queue.jobs("a", running=False)) == (4, 5, 1)
    queue.end("sweep")
    assert queue.jobs("a") == 1
