"""Checking prompts: what the plain model does with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from circuit import (
    PatchableModel,
)
from circuit.common.progress import collected
from circuit.jobs.check import CheckRequest, check_prompts
from circuit.prompts.pairs import PromptPair, PromptSet
from tests.number_pairs import BAD, PAIRS, PROMPTS, difference, plain_logits
from tests.small_memory import ERRORS, N_TOKENS, SEVEN_TOKENS, SmallMemory


def test_a_check_reports_what_the_plain_model_does(small: str, small_model: PatchableModel) -> None:
    report = check_prompts(CheckRequest(small, PromptSet("mixed", (PAIRS[0], BAD, PAIRS[1]))))
    assert list(report.problems) == [1]
    assert report.clean_tokens[0] == ["1", "2", "3", "4"]
    assert report.corrupt_tokens[0] == ["1", "2", "9", "4"]
    assert (report.card.n_edges, report.card.title) == (small_model.graph.n_edges, "small")
    assert not report.prepend_bos
    for row, pair in ((0, PAIRS[0]), (2, PAIRS[1])):
        clean, corrupt = plain_logits(pair.clean), plain_logits(pair.corrupt)
        shares = np.exp(clean - clean.max()) / np.exp(clean - clean.max()).sum()
        right = [int(word) for word in pair.answers]
        assert report.difference_clean[row] == pytest.approx(difference(clean, pair), rel=1e-4)
        assert report.difference_corrupt[row] == pytest.approx(difference(corrupt, pair), rel=1e-4)
        assert report.probability[row] == pytest.approx(shares[right].sum(), rel=1e-4)
        assert report.rank[row] == 1 + (clean > clean[right].max()).sum()
        best = np.argsort(-clean)[:5]
        assert [token for token, _ in report.top_tokens[row]] == [str(token) for token in best]
        np.testing.assert_allclose([share for _, share in report.top_tokens[row]], shares[best], rtol=1e-4)


def test_a_check_leaves_rows_with_problems_empty(small: str) -> None:
    report = check_prompts(CheckRequest(small, PromptSet("mixed", (BAD, PAIRS[0]))))
    for column in (report.probability, report.difference_clean, report.difference_corrupt, report.rank):
        assert np.isnan(column).tolist() == [True, False]
    assert report.top_tokens[0] == []


def test_a_check_of_bad_prompts_only_is_still_a_report(small: str) -> None:
    report = check_prompts(CheckRequest(small, PromptSet("bad", (BAD, BAD))))
    assert list(report.problems) == [0, 1]
    assert np.isnan(report.probability).all()


def test_without_wrong_answers_only_the_difference_is_unknown(small: str) -> None:
    pairs = (PromptPair("1 2", "1 3", ("4",)), PAIRS[0])
    report = check_prompts(CheckRequest(small, PromptSet("half", pairs)))
    assert np.isnan(report.difference_clean).tolist() == [True, False]
    assert np.isfinite(report.probability).all()


def test_a_bos_token_can_be_asked_for(small: str) -> None:
    report = check_prompts(CheckRequest(small, PROMPTS, prepend_bos=True))
    assert report.prepend_bos
    assert report.clean_tokens[0] == ["0", "1", "2", "3", "4"]
    expected = difference(plain_logits("0 1 2 3 4"), PAIRS[0])
    assert report.difference_clean[0] == pytest.approx(expected, rel=1e-4)


def test_loading_a_model_says_so(small_folder: Path) -> None:
    """A path no test has loaded before, so that it is not in memory yet."""
    told: list[str] = []
    name = str(small_folder / ".." / small_folder.name)
    check_prompts(CheckRequest(name, PROMPTS), progress=lambda step, total, message: told.append(message))
    assert told[0] == f"Loading {name}"


def test_prompts_are_checked_all_the_same(small: str) -> None:
    request = CheckRequest(small, SEVEN_TOKENS)
    whole = check_prompts(request)
    with SmallMemory(3, N_TOKENS, ERRORS["cpu"]) as memory, collected() as notes:
        found = check_prompts(request)
    assert memory.failures
    assert any("halved to 2 prompts" in note for note in notes)
    for name in ("probability", "difference_clean", "difference_corrupt"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), atol=1e-5)
    np.testing.assert_array_equal(found.rank, whole.rank)
    assert [[token for token, _ in row] for row in found.top_tokens] == [
        [token for token, _ in row] for row in whole.top_tokens
    ]
