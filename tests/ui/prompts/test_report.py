"""What 1 · Prompts says of checked prompts: all of it, with the way to what explains it."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest


def test_every_verdict_is_shown_with_a_link_and_as_it_is_written() -> None:
    def page() -> None:
        import math

        from circuit.prompts.verdicts import PairResult, verdicts
        from circuit.ui.prompts.report import show_verdicts

        numbers = [
            (5, -5, 1),
            (5, -5, 0),
            (-4, -9, 0),
            (-4, 2, 0),
            (4, 9, 1),
            (4, 9, 1),
            (math.nan, math.nan, math.nan),
        ]
        results = {i: PairResult(0.0, 9, *each, ((" *a*", 0.9),)) for i, each in enumerate(numbers)}
        show_verdicts(verdicts(results))

    at = AppTest.from_function(page, default_timeout=300).run()
    assert not at.exception
    said = [str(element.value) for element in (*at.error, *at.warning, *at.info)]
    assert len(said) == 7
    assert all("(Glossary?term=prompt-check)" in words for words in said)
    assert any(r"\*a\*" in words for words in said)
