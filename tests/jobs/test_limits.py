"""What is asked for in little is known before it is queued."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from circuit.common.errors import CircuitError, OptionError
from circuit.common.settings import most_scores, serving
from circuit.edges.method import Method
from circuit.jobs.attribute import attribute
from circuit.jobs.audition import AuditionRequest, audition
from circuit.jobs.check import CheckRequest, check_prompts
from circuit.jobs.limits import check_request, check_scores, is_short
from circuit.jobs.load import ModelRequest, read_tokenizer
from circuit.jobs.measure import MeasureRequest, measure_all
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.examples import EXAMPLES
from tests import number_pairs

PROMPTS = PRESETS["teaching-ioi"].prompts
MANY = PromptSet("many", PROMPTS.pairs * 100)
LONG = Method(mask_val=None, integrated_grad_samples=500)
TEACHING = EXAMPLES["teaching-ioi"].config if "teaching-ioi" in EXAMPLES else RunConfig("teaching", PROMPTS)


def sizes(config: RunConfig, n: int) -> MeasureRequest:
    return MeasureRequest(config, np.zeros(3), tuple(range(n)))


@pytest.mark.parametrize(
    ("function", "request_", "short"),
    [
        (read_tokenizer, ModelRequest("teaching"), True),
        (attribute, TEACHING, True),
        (check_prompts, CheckRequest("teaching", PROMPTS), True),
        (measure_all, [sizes(TEACHING, 9)], True),
        (attribute, RunConfig("teaching", MANY, LONG), False),
        (attribute, RunConfig("teaching", MANY), False),
        (measure_all, [sizes(RunConfig("teaching", MANY), 200)] * 3, False),
        (attribute, RunConfig("gpt2", PROMPTS), False),  # it may have to be fetched
        (attribute, RunConfig("local/gone", PROMPTS), False),
        (attribute, None, False),
        (audition, AuditionRequest(RunConfig("smollm2-135m", PRESETS["ioi"].prompts)), False),  # a run of its own is
    ],
)
def test_what_takes_but_seconds_is_short(function: Any, request_: Any, short: bool) -> None:
    assert is_short(function, request_) is short


def test_a_local_model_whose_size_nobody_has_counted_may_take_long(small: str) -> None:
    assert not is_short(attribute, RunConfig(small, PROMPTS))


@pytest.mark.usefixtures("smollm2")
def test_the_ready_examples_are_short() -> None:
    for example in EXAMPLES.values():
        assert is_short(attribute, example.config), example.key


def test_a_request_is_checked_wherever_it_names_a_model_or_holds_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    few = PromptSet("few", (PromptPair("a", "b", ("c",)),))
    many = PromptSet("many", few.pairs * 4)
    good, large = RunConfig("teaching", few), RunConfig("teaching", many)
    elsewhere = RunConfig("/etc", few)
    check_request(good)
    for request in (elsewhere, [good, elsewhere], MeasureRequest(elsewhere, None, (1,))):  # type: ignore[arg-type]
        with pytest.raises(CircuitError, match=r"'/etc.*is not offered by this server"):
            check_request(request)
    check_request(large)
    monkeypatch.setenv("EDGESCOPE_MOST_PROMPTS", "3")
    with pytest.raises(CircuitError, match="There are 4 prompt pairs, and this server allows 3 a run"):
        check_request([good, large])


def test_edges_times_positions_are_limited_with_a_way_out() -> None:
    check_scores(70_651, 14, 5_000_000)
    check_scores(70_651, 200, 0)
    with pytest.raises(OptionError, match=r"are 14,130,200 scores.*up to 5,000,000: turn .* shorten .* to 70 tokens"):
        check_scores(70_651, 200, 5_000_000)
    with pytest.raises(OptionError, match=r"This model has 17,000,000 edges.*most_scores"):
        check_scores(17_000_000, None, 5_000_000)
    with pytest.raises(OptionError, match=r"turn 'Positions apart' off[.]"):
        check_scores(17_000_000, 3, 5_000_000)


def test_a_visitors_run_is_held_to_the_owners_limit_and_a_script_is_not(
    small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig(small, PromptSet("numbers", number_pairs.PAIRS[:1]), keep_positions=True)
    monkeypatch.setattr("circuit.jobs.attribute.most_scores", lambda: 100)
    with pytest.raises(OptionError, match="edges at 4 token positions"):
        attribute(config)
    monkeypatch.setenv("EDGESCOPE_MOST_SCORES", "123456")
    assert most_scores() == 0
    with serving():
        assert most_scores() == 123456
    assert most_scores() == 0
