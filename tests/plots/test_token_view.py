"""Both prompts of a pair as tokens, side by side."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuit.models.tokenizer import PromptTokenizer
from circuit.plots.token_view import MOST_COLUMNS, Column, columns_of, token_view
from circuit.prompts.checks import PairTokens, check_pair
from circuit.prompts.pairs import PromptPair

TOKENS = st.lists(st.integers(0, 3), max_size=12)


@given(TOKENS, TOKENS)
def test_every_token_stands_in_the_alignment_once_and_in_order(clean: list[int], corrupt: list[int]) -> None:
    columns = columns_of(clean, corrupt)
    for place, ids in ((0, clean), (1, corrupt)):
        assert [column[place] for column in columns if column[place] is not None] == list(range(len(ids)))
    assert all(column != Column(None, None) for column in columns)


def test_prompts_of_one_length_stand_position_by_position() -> None:
    assert columns_of([1, 2, 3], [2, 3, 1]) == [Column(0, 0), Column(1, 1), Column(2, 2)]


def test_a_word_of_more_tokens_leaves_a_gap_and_the_rest_is_aligned() -> None:
    assert columns_of([1, 2, 3, 4], [1, 8, 9, 3, 4]) == [
        Column(0, 0), Column(1, 1), Column(None, 2), Column(2, 3), Column(3, 4),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def words(spaced_tokenizer: Any) -> PromptTokenizer:
    return PromptTokenizer.of(spaced_tokenizer)


def html_of(words: PromptTokenizer, *pair: Any, labels: tuple[str, ...] = (), bos: bool = False) -> str:
    return token_view(check_pair(PromptPair(*pair), words, bos, None), words, labels, dark=False)


def test_the_view_shows_spaces_marks_what_differs_and_tells_ids(words: PromptTokenizer) -> None:
    html = html_of(words, " the cat sat", " the dog sat", (" on",), (" is",))
    assert html.count("·the") == 2
    assert html.count("underline") == 2  # the two tokens that differ
    assert html.index("▼ parts") > html.index("·the")
    for word in ("cat", "dog"):
        (token,) = words.encode(f" {word}")
        assert f"position 1: token {token}, &#x27;Ġ{word}&#x27; in the vocabulary" in html
    assert re.search(r"✓ ·on", html)
    assert re.search(r"✗ ·is", html)


def test_a_missing_token_is_shown_as_missing(words: PromptTokenizer) -> None:
    html = html_of(words, " the cat", " the cat sat", (" on",))
    assert html.count("∅") == 1
    assert "clean: nothing here" in html


def test_labels_name_the_positions_after_a_bos_token(words: PromptTokenizer) -> None:
    for bos in (False, True):
        html = html_of(words, " the cat", " the dog", (" on",), labels=("article", "animal"), bos=bos)
        assert f">{int(bos)} article<" in html
    assert "animal" not in html_of(words, " the cat sat", " the dog sat", (" on",), labels=("animal",))


def test_what_is_typed_is_never_markup(words: PromptTokenizer) -> None:
    html = html_of(words, "<script>alert(1)</script>", "\"><b onclick='x'>", ("<", ">"), ('"',), labels=("<i>",) * 99)
    assert not re.search(r"<(script|b|i)\b", html)
    assert all(
        re.fullmatch(r"<(/?(div|span)( (style|title)=\"[^\"<>]*\")*)>", tag) for tag in re.findall(r"<[^>]*>", html)
    )


def test_long_prompts_are_shown_around_the_place_where_they_part(words: PromptTokenizer) -> None:
    clean, corrupt = [5] * 5000, [5] * 5000
    corrupt[3000] = 6
    html = token_view(PairTokens(clean, corrupt, [], []), words, dark=True)
    assert "▼ parts" in html
    assert f"{5000 - MOST_COLUMNS} more positions are not shown" in html
    assert len(html) < 200_000
    assert "▼ parts" in token_view(PairTokens(clean, [*corrupt, 7, 8], [], []), words, dark=True)
