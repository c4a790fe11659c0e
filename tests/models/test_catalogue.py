"""Which models a visitor is offered."""

from __future__ import annotations

import pytest

from circuit.models.catalogue import is_allowed


def test_a_visitor_gets_allowed_models_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_allowed("gpt2")
    assert not is_allowed("someone/something")
    monkeypatch.setenv("EDGESCOPE_ALLOWED_MODELS", "teaching")
    assert not is_allowed("gpt2")
    monkeypatch.setenv("EDGESCOPE_ALLOW_HUB", "1")
    assert is_allowed("someone/something")
    for name in ("/etc/passwd", "../secret", "a/b/c", "local/../secret"):
        assert not is_allowed(name), name
