"""Presets: many pairs, which suit the models that they are offered for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from circuit.jobs import load
from circuit.jobs.check import CheckRequest, check_prompts
from circuit.prompts.presets import PRESETS, presets_for

if TYPE_CHECKING:
    from circuit.engine.model import PatchableModel


def test_presets_that_suit_a_model_come_first() -> None:
    assert set(presets_for("nothing")) == set(PRESETS)
    for model in {model for preset in PRESETS.values() for model in preset.suits}:
        suits = [model in preset.suits for preset in presets_for(model).values()]
        assert suits == sorted(suits, reverse=True)


@pytest.mark.parametrize("key", PRESETS)
def test_a_preset_has_many_different_pairs(key: str) -> None:
    pairs = PRESETS[key].prompts.pairs
    assert len(set(pairs)) == len(pairs) >= 24
    assert len({pair.clean for pair in pairs}) == len(pairs)
    assert all(pair.wrong_answers for pair in pairs)


@pytest.mark.parametrize("key", [key for key, preset in PRESETS.items() if "smollm2-135m" in preset.suits])
def test_smollm2_does_every_pair_of_a_preset_and_corrupting_turns_it(
    key: str, smollm2: PatchableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    load.models.cache_clear()
    monkeypatch.setattr("circuit.models.store.load_model", lambda *args, **options: smollm2)
    report = check_prompts(CheckRequest("smollm2-135m", PRESETS[key].prompts))
    assert report.problems == {}
    assert (report.difference_clean > 0).all()
    assert (report.difference_corrupt < report.difference_clean).all()
    assert (report.difference_corrupt < 0).all()
