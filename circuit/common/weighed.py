"""A function's answers, remembered up to a weight rather than a number: a few large ones take no more than many small.

remembered = Weighed(check_pair, weight=bytes_of, most=50e6)
remembered(pair, tokenizer, True, None)       # computed once, as long as there is room
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Weighed(Generic[P, T]):
    """The function, with a memory; the answers used least recently go first. May be called from several threads.

    Args:
        function: Of hashable positional arguments.
        weight: What an answer weighs.
        most: What all answers may weigh together; a single one that weighs more is not remembered.
    """

    def __init__(self, function: Callable[P, T], weight: Callable[[T], float], most: float) -> None:
        self._function, self._weight, self._most = function, weight, most
        self._answers: OrderedDict[Hashable, tuple[T, float]] = OrderedDict()
        self._lock = threading.Lock()
        self.total = 0.0
        """What the answers that are remembered weigh now."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        key = (args, tuple(sorted(kwargs.items())))
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
                return self._answers[key][0]
        answer = self._function(*args, **kwargs)
        weight = self._weight(answer)
        with self._lock:
            if weight <= self._most and key not in self._answers:
                self._answers[key] = answer, weight
                self.total += weight
                while self.total > self._most:
                    _, (_, light) = self._answers.popitem(last=False)
                    self.total -= light
        return answer
