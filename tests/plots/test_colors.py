"""Scales are in order, and colours stand out."""

from __future__ import annotations

import numpy as np
import pytest

from circuit.plots.colors import PALETTES, bar_scale, log_place, score_scale, score_ticks


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("top", [3e-6, 1.0, 740.0])
def test_a_colour_scale_is_in_order_and_agrees_with_its_bar(top: float, signed: bool) -> None:
    scale, bar = score_scale(signed=signed), bar_scale(signed=signed)
    stops = [stop for stop, _ in scale]
    assert stops == sorted(stops)
    assert (stops[0], stops[-1]) == (0.0, 1.0)
    assert [color for _, color in scale] == [color for _, color in bar]
    low = -top if signed else 0.0
    places = log_place(np.array([low + stop * (top - low) for stop in stops]), top)
    expected = [stop * 2 - 1 if signed else stop for stop, _ in bar]
    np.testing.assert_allclose(places, expected, atol=1e-6)


@pytest.mark.parametrize("top", [3e-6, 0.1, 1.0, 740.0, 1000.0])
def test_ticks_are_in_order_and_within_the_scale(top: float) -> None:
    for signed in (False, True):
        ticks = score_ticks(top, signed=signed)
        assert ticks == sorted(ticks)
        assert 0.0 in ticks
        assert max(abs(tick) for tick in ticks) <= top * (1 + 1e-9)


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("dark", "page"), [(False, "#ffffff"), (True, "#0e1117")])
def test_text_and_lines_stand_out_on_the_page(dark: bool, page: str) -> None:
    palette = PALETTES[dark]
    assert contrast(palette.faint, page) >= 4.5  # WCAG AA for text
    for kind in ("head", "mlp"):
        assert contrast(palette.text, palette.nodes[kind].fill) >= 4.5
    for color in (palette.helps, palette.hurts, *(colors.border for colors in palette.nodes.values())):
        assert contrast(color, page) >= 3  # WCAG AA for graphics


@pytest.mark.parametrize("dark", [False, True])
def test_a_score_of_zero_has_the_colour_of_neither_sign(dark: bool) -> None:
    palette = PALETTES[dark]
    assert [palette.by_sign(score) for score in (2, -2, 0)] == [palette.helps, palette.hurts, palette.faint]


@pytest.mark.parametrize("labels", [3, 6, 12])
@pytest.mark.parametrize("top", [0.0011, 0.1, 1.9, 740.0])
def test_ticks_leave_room_for_their_labels(top: float, labels: int) -> None:
    for signed in (False, True):
        places = log_place(np.array(score_ticks(top, signed=signed, labels=labels)), top)
        assert np.diff(places).min() >= (2 if signed else 1) / (labels - 1) - 1e-9
        assert {0.0}.issubset(places.tolist())
