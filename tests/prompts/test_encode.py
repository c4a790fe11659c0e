"""Prompt sets keep every character, and what is wrong with them is said in words, by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuit.common.errors import PromptError
from circuit.prompts.encode import Encoded, encode
from circuit.prompts.pairs import PromptPair, PromptSet

TEXT = st.text(st.characters(exclude_categories=["Cs"]))

PAIRS = st.builds(PromptPair, TEXT, TEXT, st.lists(TEXT).map(tuple), st.lists(TEXT).map(tuple))

if TYPE_CHECKING:
    pass


def problems_of(tokenizer: Any, *pair: Any, bos: bool = False, n_ctx: int | None = None) -> list[str]:
    encoded = encode(PromptSet("test", (PromptPair(*pair),)), tokenizer, bos, n_ctx)
    assert encoded.usable == ([] if encoded.problems else [0])
    return encoded.problems.get(0, [])


def test_good_pairs_have_no_problems_and_become_tokens(spaced_tokenizer: Any) -> None:
    prompts = PromptSet("good", (PromptPair(" the cat", " the dog", (" sat", " is"), (" are",)),))
    encoded = encode(prompts, spaced_tokenizer, prepend_bos=False, n_ctx=2)
    assert encoded.problems == {}
    assert [spaced_tokenizer.decode([token]) for token in encoded.clean[0]] == [" the", " cat"]
    dataset = encoded.dataset()
    assert dataset.clean[0].tolist() == encoded.clean[0]
    assert dataset.corrupt[0].tolist() == spaced_tokenizer(" the dog").input_ids
    assert dataset.answers[0].tolist() == spaced_tokenizer(" sat is").input_ids
    assert dataset.wrong_answers[0].tolist() == spaced_tokenizer(" are").input_ids


def test_a_bos_token_is_put_before_both_prompts_and_no_answer(spaced_tokenizer: Any) -> None:
    prompts = PromptSet("bos", (PromptPair(" cat", " dog", (" sat",)),))
    without, with_bos = (encode(prompts, spaced_tokenizer, prepend_bos=bos) for bos in (False, True))
    bos = spaced_tokenizer.bos_token_id
    assert with_bos.clean == [[bos, *without.clean[0]]]
    assert with_bos.corrupt == [[bos, *without.corrupt[0]]]
    assert with_bos.answers == without.answers


def test_different_lengths_are_counted_and_placed(spaced_tokenizer: Any) -> None:
    (problem,) = problems_of(spaced_tokenizer, " the cat sat", " the dog is on", (" mat",))
    assert "clean prompt has 3 tokens and the corrupt one 4" in problem
    assert "part at position 1 ('·cat·sat' against '·dog·is·on')" in problem


def test_a_prompt_that_continues_the_other_parts_from_it_at_its_end(spaced_tokenizer: Any) -> None:
    (problem,) = problems_of(spaced_tokenizer, " the cat", " the cat sat", (" on",))
    assert "part at position 2 ('' against '·sat')" in problem


def test_an_answer_of_several_tokens_is_shown_split_with_a_hint_at_the_leading_space(spaced_tokenizer: Any) -> None:
    (problem,) = problems_of(spaced_tokenizer, " the cat", " the dog", ("Mary",), (" John",))
    assert "right answer 'Mary' is 4 tokens" in problem
    assert "(M | a | r | y)" in problem
    assert problem.endswith("With a leading space it is one token: enter '·Mary'.")


def test_no_hint_where_a_leading_space_does_not_help(spaced_tokenizer: Any) -> None:
    (problem,) = problems_of(spaced_tokenizer, " the cat", " the dog", (" Mary",), (" Mary John",))
    assert "wrong answer '·Mary·John' is 2 tokens" in problem
    assert "(·Mary | ·John)" in problem
    assert "leading space" not in problem


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(
    ("clean", "corrupt", "which"), [("", " dog", "clean"), (" cat", "", "corrupt"), ("", "", "clean")]
)
def test_an_empty_prompt_is_said_to_be_empty(
    spaced_tokenizer: Any, bos: bool, clean: str, corrupt: str, which: str
) -> None:
    assert problems_of(spaced_tokenizer, clean, corrupt, (" sat",), bos=bos) == [f"The {which} prompt is empty."]


def test_empty_and_missing_answers_are_said(spaced_tokenizer: Any) -> None:
    assert problems_of(spaced_tokenizer, " cat", " dog", ()) == ["There is no right answer."]
    assert problems_of(spaced_tokenizer, " cat", " dog", ("",)) == ["A right answer is empty."]
    assert problems_of(spaced_tokenizer, " cat", " dog", (" is",), ("",)) == ["A wrong answer is empty."]


def test_wrong_answers_may_be_missing(spaced_tokenizer: Any) -> None:
    assert problems_of(spaced_tokenizer, " cat", " dog", (" is",)) == []


def test_equal_prompts_are_refused(spaced_tokenizer: Any) -> None:
    (problem,) = problems_of(spaced_tokenizer, " the cat", " the cat", (" sat",))
    assert "the same" in problem


def test_an_answer_that_is_both_right_and_wrong_is_named(spaced_tokenizer: Any) -> None:
    (problem,) = problems_of(spaced_tokenizer, " cat", " dog", (" is", " sat"), (" sat",))
    assert problem == "'·sat' is both a right and a wrong answer."


def test_two_texts_that_are_one_token_are_one_answer(small: str) -> None:
    from tests.small_models import tokenizer

    (problem,) = problems_of(tokenizer(), "1 2", "1 3", ("4",), (" 4",))
    assert "both a right and a wrong answer" in problem


@pytest.mark.parametrize(("bos", "n"), [(False, 3), (True, 4)])
def test_a_prompt_longer_than_the_context_is_refused(spaced_tokenizer: Any, bos: bool, n: int) -> None:
    pair = (" the cat sat", " the dog sat", (" on",))
    assert problems_of(spaced_tokenizer, *pair, bos=bos, n_ctx=n) == []
    (problem,) = problems_of(spaced_tokenizer, *pair, bos=bos, n_ctx=n - 1)
    assert problem == f"The prompt has {n} tokens, and the model's context is {n - 1}."


def test_all_problems_of_a_row_are_listed(spaced_tokenizer: Any) -> None:
    problems = problems_of(spaced_tokenizer, " cat", " cat", ("Mary", " is"), (" is",))
    assert len(problems) == 3


def test_only_rows_without_problems_are_used(spaced_tokenizer: Any) -> None:
    good, also_good = PromptPair(" cat", " dog", (" sat",)), PromptPair(" dog", " mat", (" is",), (" are",))
    encoded = encode(PromptSet("mixed", (good, PromptPair(" cat", " cat", ()), also_good)), spaced_tokenizer, False)
    assert encoded.usable == [0, 2]
    assert list(encoded.problems) == [1]
    dataset = encoded.dataset()
    assert [tokens.tolist() for tokens in dataset.clean] == [encoded.clean[0], encoded.clean[2]]
    assert [tokens.tolist() for tokens in dataset.wrong_answers] == [[], encoded.wrong_answers[2]]


def test_no_usable_row_is_an_error_with_the_first_reason(spaced_tokenizer: Any) -> None:
    encoded = encode(PromptSet("bad", (PromptPair("", "", (" sat",)),)), spaced_tokenizer, False)
    with pytest.raises(PromptError, match=r"None of the 1 .* Row 1: The clean prompt is empty"):
        encoded.dataset()
    with pytest.raises(PromptError, match="None of the 0"):
        Encoded().dataset()


def test_no_usable_row_among_those_asked_for_is_an_error_with_the_reason_of_one_of_them(spaced_tokenizer: Any) -> None:
    good, empty = PromptPair(" cat", " dog", (" sat",)), PromptPair("", "", (" sat",))
    encoded = encode(PromptSet("mixed", (good, empty)), spaced_tokenizer, False)
    with pytest.raises(PromptError, match=r"None of the 1 .* Row 2: The clean prompt is empty"):
        encoded.dataset([1])
    with pytest.raises(PromptError, match="can be used"):
        encoded.dataset([7])


def test_an_answer_given_twice_counts_once(spaced_tokenizer: Any) -> None:
    pair = PromptPair(" cat", " dog", (" sat", " is", " sat"), (" are", " are"))
    encoded = encode(PromptSet("twice", (pair,)), spaced_tokenizer, False)
    assert [len(ids) for ids in (encoded.answers[0], encoded.wrong_answers[0])] == [2, 1]
    assert [finding.words for finding in encoded.findings[0]] == [
        "The right answer '·sat' is given 2 times, and counts once.",
        "The wrong answer '·are' is given 2 times, and counts once.",
    ]
    assert encoded.usable == [0]


@given(PAIRS, st.booleans())
def test_any_text_is_encoded_or_has_a_problem(spaced_tokenizer: Any, pair: PromptPair, bos: bool) -> None:
    encoded = encode(PromptSet("any", (pair,)), spaced_tokenizer, bos)
    if encoded.usable:
        dataset = encoded.dataset()
        assert len(dataset.clean[0]) == len(dataset.corrupt[0]) > 0
        ids = dataset.answers[0].tolist()
        assert len(pair.answers) >= len(ids) == len(set(ids)) > 0
    else:
        assert all(problem.endswith(".") for problem in encoded.problems[0])


def test_an_answer_that_is_one_token_only_without_its_space_is_read_so() -> None:
    from tokenizers.pre_tokenizers import Split

    from tests.small_models import tokenizer

    prompts = PromptSet("n", (PromptPair("1 2", "1 3", (" 4",), (" 5",)),))
    words = tokenizer()
    words.backend_tokenizer.pre_tokenizer = Split(" ", "isolated")  # spaces are words of their own, and unknown
    encoded = encode(prompts, words, prepend_bos=False)
    assert encoded.answers == [[4]]
    assert encoded.adapted == {" 4": "4", " 5": "5"}


def test_words_that_a_tokenizer_does_not_know_are_named() -> None:
    prompts = PromptSet("n", (PromptPair("1 2", "1 cat", ("4",), ("dog",)), PromptPair("1 2", "1 3", ("4",), ("5",))))
    from tests.small_models import tokenizer

    words = tokenizer()
    words.unk_token = "0"
    encoded = encode(prompts, words, prepend_bos=False)
    assert list(encoded.problems) == [0]
    assert [words for words in encoded.problems[0] if "does not know" in words] == [
        "This model's tokenizer does not know 'cat'.",
        "This model's tokenizer does not know 'dog'.",
    ]


def test_words_that_become_a_token_which_the_configuration_does_not_name_are_named() -> None:
    from tests.small_models import tokenizer

    words = tokenizer()  # its words are numbers; '0' stands for all others, and only the tokenizer's model says so
    assert words.unk_token_id is None
    encoded = encode(PromptSet("n", (PromptPair("1 2", "1 cat", ("4",), ("dog",)),)), words, prepend_bos=False)
    assert [words for words in encoded.problems[0] if "does not know" in words] == [
        "This model's tokenizer does not know 'cat'.",
        "This model's tokenizer does not know 'dog'.",
    ]
    assert not encode(PromptSet("n", (PromptPair("1 2", "1 0", ("4",), ("0",)),)), words, prepend_bos=False).problems


def test_encoding_imports_no_torch_but_datasets_do(spaced_tokenizer: Any) -> None:
    encoded = encode(PromptSet("x", (PromptPair(" cat", " dog", (" sat",)),)), spaced_tokenizer, False)
    assert isinstance(encoded.clean[0], list)
    assert isinstance(encoded.dataset().clean[0], torch.Tensor)
