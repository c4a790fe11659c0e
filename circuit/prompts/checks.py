"""What is wrong with a pair of prompts for one model, in words, and how to mend it.

    Finding       one thing that is wrong with one row: a sentence, and the pair mended where that is clear
    KINDS         the kinds of findings, with what they are called together and what their fix is called
    PairTokens    a pair as tokens, with its findings
    check_pair    the checks that need one pair only
    duplicates    the check that needs all of them
    check_bos     whether the choice of a BOS token fits the tokenizer

How answers are read is in `circuit.prompts.answers`.

A row with a finding that is `broken` is left out of runs. `doubtful` rows are used, but their numbers may not mean what
they seem to; a `note` is worth knowing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from circuit.common.words import counted
from circuit.models.tokenizer import PromptTokenizer, cuts, visible
from circuit.prompts.answers import Reading, read_answers

if TYPE_CHECKING:
    from circuit.prompts.pairs import PromptPair

Severity = Literal["broken", "doubtful", "note"]


@dataclass(frozen=True)
class Kind:
    """What findings of one kind have in common."""

    severity: Severity
    title: str
    fix: str = ""
    """What the button says that mends them; empty where nobody can know how."""


KINDS: dict[str, Kind] = {
    "empty": Kind("broken", "Empty prompt"),
    "length": Kind("broken", "Clean and corrupt differ in length"),
    "same": Kind("broken", "Clean and corrupt are the same"),
    "context": Kind("broken", "Longer than the model's context"),
    "unanswered": Kind("broken", "No right answer"),
    "split": Kind("broken", "Answer of several tokens", "Add the leading space"),
    "apart": Kind("broken", "Space before an answer is a token of its own", "End the prompts with it"),
    "blank": Kind("broken", "Empty answer", "Remove it"),
    "unknown": Kind("broken", "Words that the tokenizer does not know"),
    "beyond": Kind("broken", "Tokens that the model has no row for"),
    "no-bos": Kind("broken", "A BOS token is asked for, and there is none"),
    "both": Kind("broken", "Answer both right and wrong", "Keep it right only"),
    "space": Kind("doubtful", "Leading space missing in an answer", "Add the leading space"),
    "trailing": Kind("doubtful", "Prompt ends with a space", "Remove that space"),
    "start": Kind("doubtful", "Only one of the prompts begins with a space", "Begin both alike"),
    "bos": Kind("doubtful", "BOS token doubled", "Remove it"),
    "duplicate": Kind("doubtful", "Same pair as another row", "Keep it once"),
    "repeated": Kind("note", "Answer given twice", "Keep it once"),
    "one-sided": Kind("note", "No wrong answer"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one row."""

    kind: str
    words: str
    mended: PromptPair | None = None
    """The pair with all its findings of this kind mended."""

    @property
    def broken(self) -> bool:
        """Whether the row cannot be used."""
        return KINDS[self.kind].severity == "broken"


@dataclass(frozen=True)
class PairTokens:
    """A pair as tokens of one model."""

    clean: list[int]
    corrupt: list[int]
    answers: list[int]
    """Each token once, as `wrong_answers`."""
    wrong_answers: list[int]
    findings: list[Finding] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    """Answers that were read without their leading space, since only so they are one token of this model."""


_NO_BOS = (
    "This model's tokenizer has no BOS token, so none can be put before the prompts: choose the tokenizer's habit."
)


def check_pair(pair: PromptPair, tokenizer: PromptTokenizer, prepend_bos: bool, n_ctx: int | None) -> PairTokens:
    """Tokenize a pair, and find what is wrong with it."""
    texts = dict.fromkeys((pair.clean, pair.corrupt, *pair.answers, *pair.wrong_answers))
    if tokenizer.knows_words_only and (odd := [text for text in texts if not cuts(tokenizer.backend, text)]):
        return PairTokens([], [], [], [], [Finding("unknown", _does_not_know(text, tokenizer)) for text in odd])
    bos = [tokenizer.bos] if prepend_bos and tokenizer.bos is not None else []
    clean, corrupt = tokenizer.encode(pair.clean), tokenizer.encode(pair.corrupt)
    right, wrong = (read_answers(pair.clean, clean, texts, tokenizer) for texts in (pair.answers, pair.wrong_answers))
    tokens = PairTokens(bos + clean, bos + corrupt, _single(right), _single(wrong))
    for text, reading in zip((*pair.answers, *pair.wrong_answers), (*right, *wrong), strict=True):
        if reading.bare is not None:
            tokens.adapted[text] = reading.bare
    found = tokens.findings
    if prepend_bos and not bos:
        found.append(Finding("no-bos", _NO_BOS))
    found += _prompts(pair, tokens.clean, tokens.corrupt, len(bos), tokenizer, n_ctx)
    found += _not_one_token(pair, right, wrong, tokenizer)
    found += _unknown_words(pair, (clean, corrupt), right, wrong, tokenizer)
    found += _beyond(tokens, right, wrong, tokenizer)
    if not pair.answers:
        found.append(Finding("unanswered", "There is no right answer."))
    found += _answers(pair, tokens, right, wrong, tokenizer)
    for ids in (tokens.answers, tokens.wrong_answers):  # or P(right answers) could exceed 1
        ids[:] = dict.fromkeys(ids)
    return tokens


def duplicates(pairs: Sequence[PromptPair]) -> dict[int, Finding]:
    """Rows, counted from 0, that say the same as an earlier one."""
    first: dict[PromptPair, int] = {}
    found = {}
    for row, pair in enumerate(pairs):
        if (earlier := first.setdefault(pair, row)) != row:
            found[row] = Finding("duplicate", f"The same pair as row {earlier + 1}, so it counts twice.")
    return found


def check_bos(tokenizer: PromptTokenizer, choice: bool | None, clean: Sequence[str]) -> str | None:
    """What is doubtful about the choice of a BOS token (None is the tokenizer's own habit), or None."""
    if choice and tokenizer.bos is None:
        return _NO_BOS
    if choice is False and tokenizer.prepend_bos:
        mark = tokenizer.raw(tokenizer.bos) if tokenizer.bos is not None else ""
        if not all(text.startswith(mark) for text in clean):
            return (
                f"The BOS token is missing: this model's tokenizer puts '{mark}' before every text, and the model has "
                "hardly seen a text without it."
            )
    return None


# --- prompts -------------------------------------------------------------------------------------------------------


def parting(clean: Sequence[int], corrupt: Sequence[int]) -> int:
    """The first position at which two prompts differ, counted from 0 as in the token view: the shorter one's length
    where none does."""
    shared = min(len(clean), len(corrupt))
    return next((i for i in range(shared) if clean[i] != corrupt[i]), shared)


def _prompts(
    pair: PromptPair, clean: list[int], corrupt: list[int], n_bos: int, tokenizer: PromptTokenizer, n_ctx: int | None
) -> Iterator[Finding]:
    if min(len(clean), len(corrupt)) <= n_bos:
        yield Finding("empty", f"The {'corrupt' if len(clean) > n_bos else 'clean'} prompt is empty.")
        return
    if len(clean) != len(corrupt):
        differs = parting(clean, corrupt)
        pieces = ["".join(map(tokenizer.piece, ids[differs : differs + 3])) for ids in (clean, corrupt)]
        yield Finding(
            "length",
            f"The clean prompt has {counted(len(clean), 'token')} and the corrupt one {len(corrupt)}: they part at "
            f"position {differs} ('{visible(pieces[0])}' against '{visible(pieces[1])}'). Edges are compared token by "
            "token, so both need the same number: swap in words of the same token length.",
        )
    elif clean == corrupt:
        yield Finding("same", "The clean and the corrupt prompt are the same, so nothing is ablated.")
    if pair.clean.startswith(" ") != pair.corrupt.startswith(" "):
        space = " " if pair.clean.startswith(" ") else ""
        words = "One of the prompts begins with a space and the other with none, so they differ in more than a word."
        yield Finding("start", words, replace(pair, corrupt=space + pair.corrupt.lstrip(" ")))
    if n_ctx is not None and max(len(clean), len(corrupt)) > n_ctx:
        longest = max(len(clean), len(corrupt))
        yield Finding("context", f"The prompt has {longest} tokens, and the model's context is {n_ctx}.")
    if n_bos and tokenizer.bos in (clean[n_bos], corrupt[n_bos]):
        mark = tokenizer.raw(clean[0])
        bare = replace(pair, clean=pair.clean.removeprefix(mark), corrupt=pair.corrupt.removeprefix(mark))
        words = f"The prompt itself begins with the BOS token '{mark}', and another one is put before it."
        yield Finding("bos", words, bare if bare != pair else None)
    if any(not tokenizer.piece(ids[-1]).strip(" ") for ids in (clean, corrupt)):
        bare = replace(pair, clean=pair.clean.rstrip(" "), corrupt=pair.corrupt.rstrip(" "))
        if bare != pair and not _keeps_its_tokens(pair, clean[n_bos:], tokenizer):  # and it is the text that ends so
            words = "A prompt ends with a space, which this model's tokenizer would make part of the next word."
            yield Finding("trailing", words, bare)


def _keeps_its_tokens(pair: PromptPair, clean: list[int], tokenizer: PromptTokenizer) -> bool:
    """Whether the clean prompt has the same tokens with any of the answers after it, as a space before digits has."""
    answers = (*pair.answers, *pair.wrong_answers)
    return bool(answers) and all(
        not text.startswith(" ") and tokenizer.encode(pair.clean + text)[: len(clean)] == clean for text in answers
    )


def _unknown_words(
    pair: PromptPair,
    prompts: tuple[list[int], list[int]],
    right: Sequence[Reading],
    wrong: Sequence[Reading],
    tokenizer: PromptTokenizer,
) -> Iterator[Finding]:
    """Word-level tokenizers turn words that they do not know into one and the same token."""
    unknown = tokenizer.unknown
    if unknown is None:
        return
    mark = tokenizer.raw(unknown)
    texts = [text for text, ids in zip((pair.clean, pair.corrupt), prompts, strict=True) if unknown in ids]
    texts = [text for text in texts if mark not in text]
    readings = zip((*pair.answers, *pair.wrong_answers), (*right, *wrong), strict=True)
    texts += [text for text, reading in readings if reading.unknown]
    for text in dict.fromkeys(texts):
        yield Finding("unknown", _does_not_know(text, tokenizer))


def _does_not_know(text: str, tokenizer: PromptTokenizer) -> str:
    words = text.split()
    strange = [
        word for word in words if not cuts(tokenizer.backend, word) or tokenizer.unknown in tokenizer.encode(word)
    ]
    return f"This model's tokenizer does not know '{visible(' '.join(strange) or text)}'."


def _beyond(
    tokens: PairTokens, right: Sequence[Reading], wrong: Sequence[Reading], tokenizer: PromptTokenizer
) -> Iterator[Finding]:
    """Tokens that were added to the tokenizer, and not to the model."""
    n_rows = tokenizer.n_rows
    if n_rows is None:
        return
    answers = [token for reading in (*right, *wrong) for token in reading.tokens]
    beyond = dict.fromkeys(token for token in (*tokens.clean, *tokens.corrupt, *answers) if token >= n_rows)
    for token in beyond:
        yield Finding(
            "beyond",
            f"'{visible(tokenizer.piece(token))}' is token {token}, and this model's embedding has rows for 0 to "
            f"{n_rows - 1} only: it was added to the tokenizer, and not to the model. Leave it out.",
        )


# --- answers -------------------------------------------------------------------------------------------------------


def _single(readings: Sequence[Reading]) -> list[int]:
    """The tokens of those answers that are one token."""
    return [reading.tokens[0] for reading in readings if len(reading.tokens) == 1]


def _not_one_token(
    pair: PromptPair, right: Sequence[Reading], wrong: Sequence[Reading], tokenizer: PromptTokenizer
) -> Iterator[Finding]:
    which = ["right"] * len(right) + ["wrong"] * len(wrong)
    texts = (*pair.answers, *pair.wrong_answers)
    odd = [each for each in zip(which, texts, (*right, *wrong), strict=True) if len(each[2].tokens) != 1]
    if not odd:
        return
    blank = {text for _, text, reading in odd if not reading.tokens}
    needing = {text for _, text, reading in odd if reading.needs_space}
    without_blank = _each_answer(pair, lambda text: None if text in blank else text) if blank else None
    spaced = _each_answer(pair, lambda text: f" {text}" if text in needing else text) if needing else None
    moved = None
    if all(reading.space_apart for reading in (*right, *wrong)):
        bare = _each_answer(pair, lambda text: text[1:])
        moved = replace(bare, clean=pair.clean.rstrip(" ") + " ", corrupt=pair.corrupt.rstrip(" ") + " ")
    for side, text, reading in odd:
        if text in blank:
            yield Finding("blank", f"A {side} answer is empty.", without_blank)
            continue
        if reading.space_apart:
            words = (
                f"The {side} answer '{visible(text)}' is two tokens for this model: the space is one of its own. End "
                f"both prompts with the space, and enter '{visible(text[1:])}'."
            )
            yield Finding("apart", words, moved)
            continue
        pieces = " | ".join(visible(tokenizer.piece(token)) for token in reading.tokens)
        words = f"The {side} answer '{visible(text)}' is {len(reading.tokens)} tokens for this model ({pieces})."
        if text in needing:
            words += f" With a leading space it is one token: enter '{visible(' ' + text)}'."
        yield Finding("split", words, spaced if text in needing else None)


def _answers(
    pair: PromptPair,
    tokens: PairTokens,
    right: Sequence[Reading],
    wrong: Sequence[Reading],
    tokenizer: PromptTokenizer,
) -> Iterator[Finding]:
    both = sorted(set(tokens.answers) & set(tokens.wrong_answers))
    if both:
        read = zip(pair.wrong_answers, wrong, strict=True)
        left = tuple(text for text, reading in read if len(reading.tokens) != 1 or reading.tokens[0] not in both)
        mended = replace(pair, wrong_answers=left) if left else None
        for token in both:
            words = f"'{visible(tokenizer.piece(token))}' is both a right and a wrong answer."
            yield Finding("both", words, mended)

    given = (*pair.answers, *pair.wrong_answers)
    bare = [text for text, reading in zip(given, (*right, *wrong), strict=True) if reading.lacks_space]
    if bare:
        mended = _each_answer(pair, lambda text: f" {text}" if text in bare else text)
        listed = ", ".join(f"'{visible(text)}'" for text in dict.fromkeys(bare))
        words = (
            f"After this prompt a word begins with a space, and {listed} {'has' if len(set(bare)) == 1 else 'have'} "
            f"none: '{visible(' ' + bare[0])}' is another token, and the likelier one."
        )
        yield Finding("space", words, mended)

    for which, texts, readings, ids in (
        ("right", pair.answers, right, tokens.answers),
        ("wrong", pair.wrong_answers, wrong, tokens.wrong_answers),
    ):
        if len(set(ids)) < len(ids):
            first = {reading.tokens: text for text, reading in reversed(list(zip(texts, readings, strict=True)))}
            each = dict(zip(texts, readings, strict=True))
            once = tuple(text for text in each if len(each[text].tokens) != 1 or first[each[text].tokens] == text)
            mended = replace(pair, answers=once) if which == "right" else replace(pair, wrong_answers=once)
            again = next(token for token, times in Counter(ids).items() if times > 1)
            words = f"The {which} answer '{visible(tokenizer.piece(again))}' is given {ids.count(again)} times"
            yield Finding("repeated", f"{words}, and counts once.", mended)
    if not pair.wrong_answers:
        words = "There is no wrong answer: the answer function avg_diff cannot be used; avg_val and mse can."
        yield Finding("one-sided", words)


def _each_answer(pair: PromptPair, change: Callable[[str], str | None]) -> PromptPair:
    """The pair with every answer changed, or left out where the change is None."""
    answers, wrong = (
        tuple(new for text in texts if (new := change(text)) is not None)
        for texts in (pair.answers, pair.wrong_answers)
    )
    return replace(pair, answers=answers, wrong_answers=wrong)
