"""A run's config, and how it splits its prompt pairs."""

from __future__ import annotations

import json

from circuit.runs.config import RunConfig
from tests.runs_made import PROMPTS, make_run


def test_a_config_survives_plain_values() -> None:
    config = make_run().config
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert RunConfig.from_dict(RunConfig("m", PROMPTS).to_dict()) == RunConfig("m", PROMPTS)
