"""Whose jobs a session's are, where nobody has signed in."""

from __future__ import annotations

import pytest

from circuit.ui.frame.server import _network


@pytest.mark.parametrize(
    ("address", "shared_with"),
    [
        ("203.0.113.7", ["203.0.113.7"]),
        ("::ffff:203.0.113.7", ["203.0.113.7"]),
        ("2001:db8:1:2:3:4:5:6", ["2001:db8:1:2::"]),
        ("2001:db8:1:2::9", ["2001:db8:1:2::"]),
        ("127.0.0.1", []),
        ("::ffff:127.0.0.1", []),
        ("::1", []),
        (None, []),
        ("testclient", []),
    ],
)
def test_visitors_of_one_address_share_a_turn(address: str | None, shared_with: list[str]) -> None:
    assert _network(address) == shared_with
