"""A memory that is bounded by weight."""

from __future__ import annotations

import threading

from circuit.common.weighed import Weighed


def test_answers_are_computed_once_as_long_as_there_is_room() -> None:
    asked: list[int] = []

    def double(n: int) -> int:
        asked.append(n)
        return 2 * n

    remembered = Weighed(double, weight=lambda answer: answer, most=100)
    assert [remembered(n) for n in (10, 20, 10)] == [20, 40, 20]
    assert asked == [10, 20]
    assert remembered.total == 60
    assert remembered(30) == 60  # 120 together: 20 goes, as 10 was used after it
    assert remembered.total == 80
    assert remembered(10) == 20
    assert asked == [10, 20, 30]
    assert remembered(20) == 40
    assert asked == [10, 20, 30, 20]


def test_an_answer_that_weighs_more_than_all_may_is_not_remembered() -> None:
    remembered = Weighed(lambda n: n, weight=float, most=10)
    assert (remembered(3), remembered(11), remembered.total) == (3, 11, 3)


def test_threads_share_it() -> None:
    remembered = Weighed(lambda n: n, weight=lambda _: 1, most=50)
    threads = [threading.Thread(target=lambda: [remembered(n) for n in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert remembered.total == 50
