"""Verdicts say what the numbers say, and intervals cover what they should."""

from __future__ import annotations

import math

import numpy as np
import pytest

from circuit.common.interval import FEWEST
from circuit.prompts.verdicts import (
    MOST_RESAMPLED,
    Interval,
    PairResult,
    Summary,
    drivers,
    listed,
    trouble,
    verdicts,
)


def result(clean: float, corrupt: float, rank: int = 1) -> PairResult:
    return PairResult(0.5, rank, clean, corrupt, float(clean > 0) if math.isfinite(clean) else math.nan, ((" a", 0.5),))


def said(*pairs: tuple[float, float]) -> list[tuple[str, str]]:
    found = verdicts({row: result(*pair) for row, pair in enumerate(pairs)})
    return [(verdict.level, verdict.words) for verdict in found]


def test_a_set_that_works_is_said_to() -> None:
    assert said(*[(3.0, -3.0)] * 6) == [
        (
            "success",
            "The model does this task: it prefers right over wrong on all 6 pairs, and corrupting lowers the "
            "difference on each.",
        )
    ]


def test_a_model_that_prefers_wrong_answers_does_not_do_the_task() -> None:
    ((level, words),) = said((-1, -2), (-1, -3), (1, 0), (-2, 1))
    assert level == "error"
    assert words.startswith("The model does not do this task")
    assert "on 3 of 4 pairs" in words


def test_corrupting_that_does_nothing_is_said() -> None:
    ((level, words),) = said(*[(3.0, 2.9)] * 6)
    assert level == "error"
    assert words.startswith("Corrupting does not change the answer")


def test_corrupting_in_the_wrong_direction_is_not_called_no_change() -> None:
    (level, words), *_ = said(*[(1.0, 4.0)] * 6)
    assert level == "error"
    assert words.startswith("Corrupting changes the answer in the wrong direction")
    assert "from +1.00 to +4.00" in words


def test_a_wrong_answer_above_one_of_several_right_ones_is_no_success() -> None:
    mixed = PairResult(0.5, 1, 2.0, -2.0, 0.0, ((" a", 0.5),))
    found = verdicts({0: mixed, 1: result(3, -3)})
    assert [verdict.level for verdict in found] == ["warning"]
    assert found[0].words.startswith("On 1 of 2 pairs a wrong answer is above a right one")
    assert found[0].words.endswith("row 1.")


def test_pairs_without_wrong_answers_are_said_not_to_count() -> None:
    info, success = sorted(said((3, -3), (3, -3), (math.nan, math.nan)))
    assert info == ("info", "This is about 2 of 3 pairs: row 3 has no wrong answers.")
    assert "on all 2 pairs that have wrong answers, and" in success[1]


def test_verdicts_are_the_same_with_a_summary_that_is_known() -> None:
    results = {row: result(1.0 + row, -1.0) for row in range(6)}
    assert verdicts(results, Summary.of(list(results.values()))) == verdicts(results)


def test_answers_in_order_that_the_model_would_never_give_are_no_success() -> None:
    unlikely = [PairResult(0.0001, 40, 3.0, -3.0, 1.0, ((" Mary", 0.9),)) for _ in range(6)]
    ((level, words),) = [(each.level, each.words) for each in verdicts(dict(enumerate(unlikely)))]
    assert level == "warning"
    assert "below 1 % on 6 of 6 pairs" in words
    assert "'·Mary'" in words
    likely = [PairResult(0.5, 1, 3.0, -3.0, 1.0, ((" a", 0.5),)) for _ in range(6)]
    assert [each.level for each in verdicts(dict(enumerate(likely + unlikely[:5])))] == ["success"]


def test_a_mean_that_may_be_zero_is_called_uncertain() -> None:
    words = [words for _, words in said((5, -5), (-4, -9), (4, -3), (-4, -9), (5, 1), (-4, -8))]
    assert any(text.startswith("It is not certain that the model does this task") for text in words)


def test_few_pairs_that_drive_the_difference_are_named() -> None:
    ((level, words),) = said(*[(1.0, 0.0)] * 17, *[(5.0, -5.0)] * 3)
    assert level == "warning"
    assert "rows 18, 19 and 20 of 20" in words
    assert words.startswith("3 pairs drive 60 %")


def test_a_difference_that_all_share_is_driven_by_none() -> None:
    assert len(drivers({row: result(3, 0) for row in range(10)})) == 6
    assert drivers({0: result(0, 1)}) == []


def test_pairs_that_stand_out_are_named() -> None:
    words = " ".join(text for _, text in said(*[(4.0, -4.0)] * 8, (-1, -2), (1, 2)))
    assert "On 1 of 10 pairs the model prefers a wrong answer: row 9." in words
    assert "On 1 of 10 pairs corrupting does not lower the difference: row 10." in words
    assert trouble(result(4, -4)) is None
    assert trouble(result(-1, -2)) == "the model prefers a wrong answer"
    assert trouble(result(1, 2)) == "corrupting does not lower the difference"


@pytest.mark.parametrize(("firsts", "level"), [(0, "error"), (4, "warning"), (8, "success")])
def test_without_wrong_answers_the_first_choices_are_judged(firsts: int, level: str) -> None:
    results = {row: result(math.nan, math.nan, 1 if row < firsts else 9) for row in range(11)}
    (verdict,) = verdicts(results)
    assert verdict.level == level
    assert f"{firsts} of 11 pairs" in verdict.words


def test_nothing_is_said_of_nothing() -> None:
    assert verdicts({}) == []


def test_a_summary_is_the_mean_over_the_pairs_that_have_numbers() -> None:
    summary = Summary.of([result(4, 1), result(-2, -3, rank=4), result(math.nan, math.nan)])
    assert (summary.n, summary.accuracy) == (3, 0.5)
    assert summary.first_choice == pytest.approx(2 / 3)
    assert (summary.clean.mean, summary.corrupt.mean, summary.drop.mean) == (1, -1, 2)


def test_an_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    intervals = [Interval.of(list(random.normal(2, 1, 30))) for _ in range(100)]
    assert 85 <= sum(interval.low <= 2 <= interval.high for interval in intervals) <= 100
    width = np.mean([interval.high - interval.low for interval in intervals])
    assert width == pytest.approx(2 * 1.96 / math.sqrt(30), rel=0.1)


def test_an_interval_is_the_same_each_time_and_missing_for_a_handful() -> None:
    values = [1.0, 2.0, 4.0, 8.0, 9.0]
    assert Interval.of(values) == Interval.of(values)
    assert Interval.of(values[: FEWEST - 1]).interval == ""
    assert str(Interval.of([])) == "–"


def test_of_many_pairs_the_interval_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(2).exponential(1, MOST_RESAMPLED + 1)
    resampled, normal = Interval.of(list(values[1:])), Interval.of(list(values))
    assert normal.high - normal.mean == pytest.approx(1.96 * values.std(ddof=1) / math.sqrt(len(values)))
    assert (normal.low, normal.high) == pytest.approx((resampled.low, resampled.high), abs=0.01)


def test_resampling_costs_no_more_than_a_bounded_number_of_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    class Counting:
        def integers(self, low: int, high: int, size: tuple[int, int], dtype: type) -> np.ndarray:
            drawn.append(size[0] * size[1])
            return np.zeros(size, dtype=dtype)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Counting())
    for n in (500, 1000, 10_000):
        Interval.of([float(i) for i in range(n)])
    assert drawn == [1_000_000, 2_000_000]


def test_rows_are_listed_as_people_read_them() -> None:
    assert listed([0]) == "row 1"
    assert listed([0, 3, 6]) == "rows 1, 4 and 7"
    assert listed(list(range(10)), most=3) == "rows 1, 2, 3 and 7 more"
