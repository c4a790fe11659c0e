"""What is asked for in little is known before it is queued."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from circuit.common.errors import CircuitError
from circuit.edges.method import Method
from circuit.jobs.attribute import attribute
from circuit.jobs.check import CheckRequest, check_prompts
from circuit.jobs.limits import check_request, is_short
from circuit.jobs.load import ModelRequest, read_tokenizer
from circuit.jobs.measure import MeasureRequest, measure_all
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.examples import EXAMPLES

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
