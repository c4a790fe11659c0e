"""Prompt sets with one thing wrong, to learn from: what the checks say of each, and what would happen without them.

    Broken              one such set, beside the set as it should be
    BROKEN              all of them, by key
    careless_dataset    a set as tokens, by somebody who has not looked at it
    careless_scores     a job: scores of the set as it should be, and of the broken one -> Careless

Somebody careless feeds the model whatever can be fed: the shorter prompt of a pair is padded at its front, a prompt is
cut where the context ends, an answer of several tokens is read as its first, and one that is not there as the padding.
Nothing is imported here that needs torch, but inside the job.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from circuit.common.progress import Cancelled, Report, never, silent
from circuit.edges.graph import EdgeGraph
from circuit.edges.method import Method
from circuit.edges.ranking import top_edges
from circuit.jobs.load import models
from circuit.jobs.prepare import words_of
from circuit.models.teaching.tasks import PLACES
from circuit.models.tokenizer import PromptTokenizer
from circuit.prompts.checks import check_pair
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.prompts.presets import PRESETS

if TYPE_CHECKING:
    from circuit.engine.dataset import PromptDataset

_N = 8
"""Pairs in a set."""


@dataclass(frozen=True)
class Broken:
    """A prompt set with one thing wrong."""

    title: str
    why: str
    """What it does to the scores where nobody notices, and why."""
    prompts: PromptSet
    right: PromptSet
    """The set as it should be."""
    caught_by: str
    """The kind of finding that says so (`circuit.prompts.checks.KINDS`), or words of the verdict
    (`circuit.prompts.verdicts`)."""
    model: str = "teaching"


def _first(preset: str, n: int = _N) -> PromptSet:
    return PromptSet("As it should be", PRESETS[preset].prompts.pairs[:n])


_MANY = _first("teaching-ioi", 20)
_IOI, _YEARS, _SMOL = _first("teaching-ioi"), _first("teaching-greater-than"), _first("ioi", 4)


def _broken(what: str, change: Callable[[PromptPair], PromptPair], right: PromptSet = _IOI) -> PromptSet:
    return PromptSet(f"Broken on purpose: {what}", tuple(map(change, right.pairs)))


# --- what is done to a pair ----------------------------------------------------------------------------------------


def _longer(pair: PromptPair) -> PromptPair:
    return replace(pair, corrupt=pair.corrupt.replace(" the ", " the old ", 1))


def _whole_year(pair: PromptPair) -> PromptPair:
    """The century moves from the prompt into the answers, of which one is left a side."""
    century = pair.clean[-2:]
    answers, wrong = ((f" {century}{texts[0].strip()}",) for texts in (pair.answers, pair.wrong_answers))
    return PromptPair(pair.clean[:-3], pair.corrupt[:-3], answers, wrong)


def _bare(pair: PromptPair) -> PromptPair:
    strip = tuple(answer.strip() for answer in pair.answers), tuple(answer.strip() for answer in pair.wrong_answers)
    return PromptPair(pair.clean, pair.corrupt, *strip)


_BEFORE = "Yesterday Tom was at the park, and left. " * 3
"""Thirty words that the teaching model knows, and that have nothing to do with what follows."""


def _other_place(pair: PromptPair) -> PromptPair:
    """Corrupted is something that the answer does not depend on."""
    place = next(place for place in PLACES if f" {place}" in pair.clean)
    other = PLACES[(PLACES.index(place) + 1) % len(PLACES)]
    return replace(pair, corrupt=pair.clean.replace(f" {place}", f" {other}"))


def _unknown_names(pair: PromptPair) -> PromptPair:
    (right,), (wrong,) = pair.answers, pair.wrong_answers

    def renamed(text: str) -> str:
        return text.replace(right.strip(), "Zoe").replace(wrong.strip(), "Liam")

    return PromptPair(renamed(pair.clean), renamed(pair.corrupt), (" Zoe",), (" Liam",))


def _second_gift(pair: PromptPair) -> PromptPair:
    """A second gift, back again: the teaching model has seen one a text."""
    (right,), (wrong,) = pair.answers, pair.wrong_answers
    clean, corrupt = (
        f"{text}{receiver} and then{receiver} gave a book to"
        for text, receiver in ((pair.clean, right), (pair.corrupt, wrong))
    )
    return PromptPair(clean, corrupt, pair.wrong_answers, pair.answers)


def _few_turned(pair: PromptPair) -> PromptPair:
    """In all but four of twenty pairs, corrupted is something that does not matter."""
    return pair if pair in _MANY.pairs[:4] else _other_place(pair)


def _first_year_often(pair: PromptPair) -> PromptPair:
    return replace(pair, answers=(*pair.answers, *pair.answers[:1] * 50))


def _one_often(pair: PromptPair) -> PromptPair:
    """All but the first two are the same pair."""
    return pair if pair in _IOI.pairs[:2] else _IOI.pairs[2]


BROKEN: dict[str, Broken] = {
    "length": Broken(
        "Clean and corrupt differ in length",
        "Activations are compared position by position. With the shorter prompt padded at its front, the words before "
        "the change stand opposite other words, and edges score for that.",
        _broken("lengths differ", _longer),
        _IOI,
        "length",
    ),
    "split": Broken(
        "An answer of two tokens",
        "A year is two tokens, such as 17 and 32. Who reads only the first compares 17 with 17: right and wrong answer "
        "are the same token, so the difference is always zero.",
        _broken("answers of two tokens", _whole_year, _YEARS),
        _YEARS,
        "split",
    ),
    "space": Broken(
        "Leading space missing",
        "After a word the next token is '·Mary', with its space; 'Mary' is another token, and next to "
        "impossible here. SmolLM2's logits for both move together, so these scores look right all the same: "
        "that is luck. Scores by 'prob' would be thousands of times smaller.",
        _broken("leading space missing", _bare, _SMOL),
        _SMOL,
        "space",
        "smollm2-135m",
    ),
    "both": Broken(
        "Right answer = wrong answer",
        "The answer difference is a number minus itself: always zero, whatever is ablated.",
        _broken("right = wrong", lambda pair: replace(pair, wrong_answers=pair.answers)),
        _IOI,
        "both",
    ),
    "same": Broken(
        "Clean and corrupt are the same",
        "Then a_s = c_s for every source: ablating replaces each activation by itself.",
        _broken("clean = corrupt", lambda pair: replace(pair, corrupt=pair.clean)),
        _IOI,
        "same",
    ),
    "unknown": Broken(
        "Words that the tokenizer does not know",
        "Both names become the token <unk>: the prompts are the same, and so are the answers.",
        _broken("unknown names", _unknown_names),
        _IOI,
        "unknown",
    ),
    "duplicate": Broken(
        "The same pair many times",
        "A score is a mean over pairs, and here one pair counts six times of eight: scores are mostly about its "
        "wording. The strongest edges may survive that, but any interval over pairs looks narrower than it is.",
        _broken("duplicates", _one_often),
        _IOI,
        "duplicate",
    ),
    "empty": Broken(
        "An empty prompt",
        "With padding in its place, edges are compared with a text of nothing. The scores are then also about "
        "having any words at all, and not only about who gives.",
        _broken("empty corrupt prompts", lambda pair: replace(pair, corrupt="")),
        _IOI,
        "empty",
    ),
    "context": Broken(
        "Longer than the model's context",
        "This model reads 32 tokens. Who cuts the prompt there cuts off its question: clean and corrupt begin alike, "
        "so what is left of them is the same.",
        _broken(
            "longer than the context",
            lambda pair: replace(pair, clean=_BEFORE + pair.clean, corrupt=_BEFORE + pair.corrupt),
        ),
        _IOI,
        "context",
    ),
    "unanswered": Broken(
        "No right answer",
        "Who reads the padding token in its place has only the wrong answer left to tell something. Here most of "
        "the difference is the wrong answer's, so the scores look right all the same: that is luck.",
        _broken("no right answer", lambda pair: replace(pair, answers=())),
        _IOI,
        "unanswered",
    ),
    "blank": Broken(
        "An empty answer",
        "An empty text is no token. Who reads the padding token in its place takes the mean of the right answer "
        "and of a token that never comes next. Here most of the difference is the wrong answer's, so the scores "
        "look right all the same: that is luck.",
        _broken("empty answers", lambda pair: replace(pair, answers=("", *pair.answers))),
        _IOI,
        "blank",
    ),
    "one-sided": Broken(
        "No wrong answer",
        "Most of the difference is here the wrong answer's. Who reads the padding token in its place is left with "
        "the right one, and scores are many times smaller. Without wrong answers use avg_val, and know that it "
        "does the same.",
        _broken("no wrong answers", lambda pair: replace(pair, wrong_answers=())),
        _IOI,
        "one-sided",
    ),
    "repeated": Broken(
        "An answer given many times",
        "Counted as often as it is given, one year outweighs all others. Here that changes little, since all later "
        "years need the same edges. The app counts every answer once.",
        _broken("an answer given many times", _first_year_often, _YEARS),
        _YEARS,
        "repeated",
    ),
    "bos": Broken(
        "BOS token doubled",
        "The text begins with the token that the tokenizer puts before every text. The model has never seen two of "
        "them, and does its task worse: on some of these pairs it prefers the wrong answer.",
        _broken(
            "two BOS tokens",
            lambda pair: replace(pair, clean=f"<bos> {pair.clean}", corrupt=f"<bos> {pair.corrupt}"),
        ),
        _IOI,
        "bos",
    ),
    "trailing": Broken(
        "Prompts end with a space",
        "That space is a token of its own, though the model has learned it as the beginning of the next word: '·Mary' "
        "after it would be a second space. The scores are about a text that nobody writes.",
        _broken(
            "a space at the end",
            lambda pair: replace(pair, clean=f"{pair.clean} ", corrupt=f"{pair.corrupt} "),
            _SMOL,
        ),
        _SMOL,
        "trailing",
        "smollm2-135m",
    ),
    "start": Broken(
        "Only one prompt begins with a space",
        "'·When' and 'When' are different tokens, so the two prompts differ in their first word too: part of each "
        "score is about that, and not about who gives.",
        _broken("a space before clean prompts", lambda pair: replace(pair, clean=f" {pair.clean}"), _SMOL),
        _SMOL,
        "start",
        "smollm2-135m",
    ),
    "few": Broken(
        "A few pairs make the difference",
        "In sixteen of twenty pairs, corrupting changes the place and not the giver. A mean over all pairs hides that "
        "four of them make it: the scores are theirs, and a fifth as large.",
        _broken("few pairs count", _few_turned, _MANY),
        _MANY,
        "drive 60 %",
    ),
    "no-difference": Broken(
        "Corrupting changes nothing that matters",
        "Another place, but the same giver: the answer stays. The scores that are left are about places, many "
        "times smaller, and say nothing of the task.",
        _broken("no difference", _other_place),
        _IOI,
        "Corrupting does not change the answer",
    ),
    "swapped": Broken(
        "Clean and corrupt swapped",
        "The model now starts from the wrong answer, and ablating leads towards the right one: nearly every score "
        "changes its sign, and edges that help look harmful.",
        _broken("swapped", lambda pair: replace(pair, clean=pair.corrupt, corrupt=pair.clean)),
        _IOI,
        "The model does not do this task",
    ),
    "unable": Broken(
        "The model does not know the task",
        "A gift, and then one back: the model repeats the first receiver, who is now the giver. The scores tell how it "
        "does that, with nearly every sign reversed.",
        _broken("an unknown task", _second_gift),
        _IOI,
        "The model does not do this task",
    ),
}


# --- what nobody notices -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CarelessRequest:
    """A set as it should be, and the same with something wrong."""

    model: str
    right: PromptSet
    broken: PromptSet
    method: Method = field(default_factory=Method)


@dataclass(frozen=True)
class Careless:
    """Scores from both sets; by edge attribution patching, unless another method was asked for."""

    graph: EdgeGraph
    right: Float32[np.ndarray, " n_edges"]
    broken: Float32[np.ndarray, " n_edges"]

    @property
    def all_zero(self) -> bool:
        """Whether the broken set leaves nothing but rounding."""
        return bool(np.abs(self.broken).max() <= 1e-5 * np.abs(self.right).max())

    def shared(self, n: int) -> int:
        """How many of the `n` strongest edges are the same."""
        return len(set(top_edges(self.right, n).tolist()) & set(top_edges(self.broken, n).tolist()))


def careless_dataset(prompts: PromptSet, tokenizer: PromptTokenizer, prepend_bos: bool) -> PromptDataset:
    """All pairs as they are, whatever is wrong with them."""
    import torch

    from circuit.engine.dataset import PromptDataset

    rows = [check_pair(pair, tokenizer, prepend_bos, None) for pair in prompts.pairs]
    filler = tokenizer.bos or 0

    def padded(tokens: list[int], other: list[int]) -> list[int]:
        return ([filler] * (len(other) - len(tokens)) + tokens)[: tokenizer.n_ctx]

    def first_tokens(texts: tuple[str, ...]) -> list[int]:
        return [(tokenizer.encode(text) or [filler])[0] for text in texts or ("",)]

    columns = (
        [padded(row.clean, row.corrupt) for row in rows],
        [padded(row.corrupt, row.clean) for row in rows],
        [first_tokens(pair.answers) for pair in prompts.pairs],
        [first_tokens(pair.wrong_answers) for pair in prompts.pairs],
    )
    return PromptDataset(*([torch.tensor(ids) for ids in column] for column in columns))


def careless_scores(request: CarelessRequest, *, progress: Report = silent, cancelled: Cancelled = never) -> Careless:
    """Score the edges on both sets without looking at either."""
    from circuit.engine.dataset import PromptDataLoader
    from circuit.engine.mask_gradient import score_edges

    with models().use(request.model, "auto", "auto", progress, cancelled) as model:
        words = words_of(model)
        scores = []
        for prompts in (request.right, request.broken):
            loader = PromptDataLoader(careless_dataset(prompts, words, model.prepend_bos))
            scores.append(model.graph.flatten(score_edges(model, loader, request.method, progress, cancelled)))
        return Careless(model.graph, *scores)
