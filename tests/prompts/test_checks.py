"""Checks of prompt pairs: each kind has an example that triggers it, and a fix that mends it where there is one.

(What makes a row unusable is tested in test_encode.py, too, by its sentences.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from circuit.common.errors import PromptError
from circuit.models.tokenizer import PromptTokenizer
from circuit.prompts.checks import KINDS, check_bos, check_pair, parting
from circuit.prompts.encode import encode, mended
from circuit.prompts.pairs import PromptPair, PromptSet
from tests.small_tokenizers import number_tokenizer

GOOD = PromptPair(" the cat", " the dog", (" sat",), (" is",))
EXAMPLES: dict[str, tuple[PromptPair, PromptPair | None]] = {
    "empty": (PromptPair("", " dog", (" sat",), (" is",)), None),
    "length": (PromptPair(" the cat", " the dog sat", (" on",), (" is",)), None),
    "same": (PromptPair(" the cat", " the cat", (" sat",), (" is",)), None),
    "context": (PromptPair(" the cat" * 4, " the dog" * 4, (" sat",), (" is",)), None),
    "unanswered": (PromptPair(" the cat", " the dog", (), (" is",)), None),
    "split": (
        PromptPair(" the cat", " the dog", ("Mary",), ("John",)),
        PromptPair(" the cat", " the dog", (" Mary",), (" John",)),
    ),
    "apart": (
        PromptPair(" the cat", " the dog", (" 7",), (" 4",)),
        PromptPair(" the cat ", " the dog ", ("7",), ("4",)),
    ),
    "blank": (
        PromptPair(" the cat", " the dog", ("", " sat"), ("", " is")),
        PromptPair(" the cat", " the dog", (" sat",), (" is",)),
    ),
    "both": (
        PromptPair(" the cat", " the dog", (" sat",), (" is", " sat")),
        PromptPair(" the cat", " the dog", (" sat",), (" is",)),
    ),
    "space": (
        PromptPair(" the cat", " the dog", ("a",), ("m", " is")),
        PromptPair(" the cat", " the dog", (" a",), (" m", " is")),
    ),
    "trailing": (
        PromptPair(" the cat ", " the dog ", (" sat",), (" is",)),
        GOOD,
    ),
    "start": (
        PromptPair(" the cat", "a dog", (" sat",), (" is",)),
        PromptPair(" the cat", " a dog", (" sat",), (" is",)),
    ),
    "bos": (
        PromptPair("<bos> the cat", "<bos> the dog", (" sat",), (" is",)),
        GOOD,
    ),
    "repeated": (
        PromptPair(" the cat", " the dog", (" sat", " are", " sat"), (" is",)),
        PromptPair(" the cat", " the dog", (" sat", " are"), (" is",)),
    ),
    "one-sided": (PromptPair(" the cat", " the dog", (" sat",)), None),
}


@pytest.fixture(scope="module")
def words(spaced_tokenizer: Any) -> PromptTokenizer:
    return PromptTokenizer.of(spaced_tokenizer)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_check_has_an_example_that_triggers_it_and_a_fix_that_mends_it(words: PromptTokenizer, kind: str) -> None:
    pair, better = EXAMPLES[kind]
    bos = kind == "bos"
    found = encode(PromptSet("one", (pair,)), words, bos, n_ctx=6)
    mine = [finding for finding in found.findings[0] if finding.kind == kind]
    assert mine
    assert all(finding.words.endswith(".") for finding in mine)
    assert (0 in found.problems) == (KINDS[kind].severity == "broken")
    assert bool(better) == bool(KINDS[kind].fix)
    fixed = mended(PromptSet("one", (pair,)), found.findings, kind)
    assert fixed.pairs == (better or pair,)
    again = encode(fixed, words, bos, n_ctx=6).findings[0]
    assert not better or kind not in {finding.kind for finding in again}


def test_every_kind_of_finding_is_tried(words: PromptTokenizer) -> None:
    assert set(EXAMPLES) | {"duplicate", "unknown", "beyond", "no-bos"} == set(KINDS)  # these have tests of their own


def test_a_good_pair_has_no_findings(words: PromptTokenizer) -> None:
    assert check_pair(GOOD, words, False, 2).findings == []


def test_duplicates_are_named_by_the_first_row_and_kept_once(words: PromptTokenizer) -> None:
    other = PromptPair(" the dog", " the cat", (" sat",), (" is",))
    prompts = PromptSet("twice", (GOOD, other, GOOD, GOOD))
    found = encode(prompts, words, False)
    assert [[finding.words for finding in each] for each in found.findings] == [
        [],
        [],
        ["The same pair as row 1, so it counts twice."],
        ["The same pair as row 1, so it counts twice."],
    ]
    assert found.usable == [0, 1, 2, 3]
    assert mended(prompts, found.findings, "duplicate").pairs == (GOOD, other)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        (" the cat", " a"),
        (" the cat -", "a"),  # goes on without a space
        (" the cat '", "a"),
        (" the cat 17", "32"),
        (" the cat", "."),
    ],
)
def test_no_leading_space_is_asked_for_where_none_belongs(words: PromptTokenizer, prompt: str, answer: str) -> None:
    pair = PromptPair(prompt, prompt.replace("cat", "dog"), (answer,), (" is",))
    assert "space" not in {finding.kind for finding in check_pair(pair, words, False, None).findings}


def test_an_answer_whose_space_changes_nothing_needs_none() -> None:
    from tests.small_models import tokenizer

    pair = PromptPair("1 2", "1 3", ("4",), ("5",))
    assert check_pair(pair, PromptTokenizer.of(tokenizer()), False, None).findings == []


def test_a_choice_of_bos_that_does_not_fit_the_tokenizer_is_said(words: PromptTokenizer) -> None:
    habit = PromptTokenizer(words.backend, words.bos, None, prepend_bos=True)
    without = PromptTokenizer(words.backend, None, None)
    assert check_bos(habit, None, [" the"]) is None
    assert check_bos(habit, True, [" the"]) is None
    assert "BOS token is missing" in str(check_bos(habit, False, [" the"]))
    assert check_bos(habit, False, ["<bos> the"]) is None  # it stands in the text
    assert "has no BOS token, so none can be put" in str(check_bos(without, True, [" the"]))
    assert check_bos(words, False, [" the"]) is None


def test_a_bos_token_that_does_not_exist_breaks_every_row(words: PromptTokenizer) -> None:
    without = PromptTokenizer(words.backend, None, None)
    encoded = encode(PromptSet("one", (GOOD,)), without, prepend_bos=True)
    assert [finding.kind for finding in encoded.findings[0]] == ["no-bos"]
    with pytest.raises(PromptError, match=r"Row 1: This model's tokenizer has no BOS token, so none can be put"):
        encoded.dataset()


@pytest.mark.parametrize(
    "pair",
    [
        PromptPair(" the cat is", " the dog is", (" sat",), (" on",)),
        PromptPair(" the cat", " the is", (" sat",), (" on",)),
        PromptPair(" the cat", " the dog", (" is",), (" on",)),
        PromptPair(" the cat", " the dog", (" sat",), (" on", " is")),
    ],
)
def test_a_token_that_the_model_has_no_row_for_is_named(words: PromptTokenizer, pair: PromptPair) -> None:
    (beyond,) = words.encode(" is")
    model = replace(words, n_rows=beyond)
    assert encode(PromptSet("one", (GOOD,)), model, False).findings[0][0].kind == "beyond"  # its wrong answer
    (finding,) = [finding for finding in check_pair(pair, model, False, None).findings if finding.kind == "beyond"]
    assert finding.broken
    assert finding.words == (
        f"'·is' is token {beyond}, and this model's embedding has rows for 0 to {beyond - 1} only: it was added to the "
        "tokenizer, and not to the model. Leave it out."
    )
    kinds = {finding.kind for finding in check_pair(pair, replace(words, n_rows=beyond + 1), False, None).findings}
    assert "beyond" not in kinds


def test_words_are_named_that_a_tokenizer_without_a_token_for_unknown_ones_cannot_cut() -> None:
    words = PromptTokenizer(number_tokenizer(unknown=None), None, None)
    good = PromptPair("1 2", "1 3", ("4",), ("5",))
    encoded = encode(PromptSet("n", (good, PromptPair("1 2", "1 cat 3", ("4",), ("dog",)))), words, False)
    assert encoded.usable == [0]
    assert encoded.clean[0] == [1, 2]
    assert encoded.problems[1] == [f"This model's tokenizer does not know '{word}'." for word in ("cat", "dog")]


def test_prompts_part_where_they_first_differ() -> None:
    assert parting([1, 2, 3], [1, 9, 3]) == 1
    assert parting([1, 2], [1, 2, 3]) == 2
