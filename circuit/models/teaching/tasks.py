"""What the teaching model learned: texts of five tasks, and prompt pairs that it has not seen.

    TASKS          the tasks by key
    Task.text      a random text to learn from, with its answer apart
    Task.pair      a random prompt pair from what was held out
    Task.pairs     several different ones
    VOCABULARY     every word of any text

    random = Random(0)
    TASKS["ioi"].text(random)       # Text("When Mary and Tom went to the park, Tom gave a ring to", "Mary", ".")
    TASKS["ioi"].pairs(32)          # always the same 32

Held out are combinations, about one in six: two names (indirect objects, in either order), a century and a year
(greater-than), a word and the word that follows it (induction), a subject and what stands between it and its verb
(agreement), a name and a place or thing (pronouns). No training text of that task contains one, and both prompts of
every pair do, so a pair is answered by computing and not from memory.

Texts are plain English: words, and years of four digits. The tokenizer makes a token of each word and mark, and cuts a
number into pairs of digits, so that "17" is a whole prompt's last token and "32" a whole answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple
from zlib import crc32

MAX_WORDS = 31
"""No text is longer, in words and marks."""

# --- words ---------------------------------------------------------------------------------------------------------

SHE = ("Mary", "Anna", "Sarah", "Kate", "Lisa", "Alice", "Emma", "Julia", "Laura", "Helen", "Rose", "Jane")
HE = ("John", "Tom", "Paul", "Mark", "James", "Peter", "David", "Robert", "Simon", "Henry", "Jack", "Adam")
NAMES = SHE + HE
PLACES = (
    "store", "park", "school", "office", "station", "beach", "market", "garden", "river", "museum", "hospital",
    "library", "farm", "church", "bridge", "hotel",
)  # fmt: skip
THINGS = (
    "drink", "book", "ring", "letter", "map", "ball", "gift", "key", "hat", "lamp", "coat", "cup", "bag", "pen",
    "clock", "cake",
)  # fmt: skip
NOUNS = (
    ("key", "keys"), ("book", "books"), ("letter", "letters"), ("car", "cars"), ("picture", "pictures"),
    ("dog", "dogs"), ("student", "students"), ("teacher", "teachers"), ("house", "houses"), ("door", "doors"),
    ("song", "songs"), ("friend", "friends"), ("table", "tables"), ("man", "men"), ("box", "boxes"),
    ("city", "cities"), ("tree", "trees"), ("woman", "women"), ("chair", "chairs"), ("horse", "horses"),
)  # fmt: skip
COLOURS = ("red", "green", "blue", "white", "black", "yellow", "brown", "grey")
QUALITIES = ("old", "new", "small", "big", "nice", "good", "here", "gone", *COLOURS)
EVENTS = ("war", "trip", "strike", "siege", "project", "tour", "debate", "drought", "voyage", "trial", "reign", "feud")
CENTURIES = tuple(str(century) for century in range(11, 20))
YEARS = tuple(f"{year:02}" for year in range(100))
SEQUENCE_WORDS = tuple(dict.fromkeys((*THINGS, *PLACES, *COLOURS, *(one for one, _ in NOUNS))))

# --- templates -----------------------------------------------------------------------------------------------------

OPENINGS = (
    "When {a} and {b} went to the {place},",
    "While {a} and {b} were at the {place},",
    "After {a} and {b} came back from the {place},",
    "Yesterday {a} and {b} walked to the {place}, and",
    "{a} and {b} had a long day at the {place}, and then",
    "{a} met {b} at the {place}, and",
    "Then {a} saw {b} near the {place}, so",
    "Because {a} and {b} like the {place},",
)
GIVINGS = (
    "{giver} gave a {thing} to",
    "{giver} gave the {thing} to",
    "{giver} sold the {thing} to",
    "{giver} sent a {thing} to",
    "{giver} wanted to give a {thing} to",
    "{giver} showed the {thing} to",
    "{giver} said hello to",
)
FAREWELLS = (".", "and left.", "and went home.", "before lunch.")

SPANS = (
    "The {event} lasted from {century}{start} to {century}",
    "The {event} lasted from the year {century}{start} to the year {century}",
    "The {event} began in {century}{start} and ended in {century}",
    "The {event} that began in {century}{start} came to an end in {century}",
    "In {century}{start} they saw the start of the {event}, and the end in {century}",
    "From {century}{start} to {century}",
)

LEADS = ("The {subject}", "I think the {subject}", "We know that the {subject}", "Today the {subject}")
BETWEEN = (
    *(f"{word} the {{noun}}" for word in ("near", "behind", "beside", "under", "with", "from", "by")),
    "that I like", "that we saw", "on the left", "that the {noun} saw", "near the {noun} on the left",
)  # fmt: skip
SINGULAR, PLURAL = ("is", "was"), ("are", "were")

PRONOUNS = (
    "{name} went to the {place} because",
    "{name} lost the {thing}, so",
    "When {name} came home from the {place},",
    "{name} took the {thing} to the {place}, and then",
    "After {name} found a {thing},",
    "Yesterday {name} was at the {place}, and",
    "{name} had a {thing} but",
)
DEEDS = ("was late.", "left.", "went home.", "was happy.", "said hello.", "found a friend.")


# --- texts, pairs, tasks -------------------------------------------------------------------------------------------


class Text(NamedTuple):
    """A text to learn from.

    `answer` is what the words before it decide; `instead` are the words that might as well have stood there, itself
    among them, where there are several.
    """

    prompt: str
    answer: str
    rest: str = ""
    instead: tuple[str, ...] = ()


class Pair(NamedTuple):
    """The fields of a `circuit.prompts.pairs.PromptPair`, in their order."""

    clean: str
    corrupt: str
    answers: tuple[str, ...]
    wrong_answers: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A task that the model learned."""

    key: str
    title: str
    about: str
    text: Callable[[Random], Text]
    pair: Callable[[Random], Pair]

    def pairs(self, n: int = 48, seed: int = 0) -> list[Pair]:
        """`n` different pairs, the same for the same seed. Those of seed 0 are the app's presets."""
        random = Random(f"{self.key} {seed}")
        found: dict[Pair, None] = {}
        while len(found) < n:
            found[self.pair(random)] = None
        return list(found)


def held_out(task: str, *combination: str) -> bool:
    """Whether a combination is kept from training: one in six, by a hash that is the same everywhere."""
    return crc32(" ".join((task, *combination)).encode()) % 6 == 0


def _answers(*words: str) -> tuple[str, ...]:
    """With a leading space, as tokenizers of larger models want them; the teaching model's does not mind."""
    return tuple(f" {word}" for word in words)


# --- indirect object identification (Wang et al. 2022, https://arxiv.org/abs/2211.00593) ---------------------------


def _names(random: Random, unseen: bool) -> tuple[str, str]:
    while True:
        a, b = random.sample(NAMES, 2)
        if held_out("ioi", *sorted((a, b))) == unseen:
            return a, b


def _gift(random: Random, unseen: bool) -> tuple[Callable[[str], str], str, str]:
    """Two names, and the prompt by who gives."""
    a, b = _names(random, unseen)
    opening, giving = random.choice(OPENINGS), random.choice(GIVINGS)
    opening = opening.format(a=a, b=b, place=random.choice(PLACES))
    thing = random.choice(THINGS)
    return lambda giver: f"{opening} {giving.format(giver=giver, thing=thing)}", a, b


def _ioi_text(random: Random) -> Text:
    prompt, *names = _gift(random, unseen=False)
    giver, receiver = random.sample(names, 2)
    return Text(prompt(giver), receiver, random.choice(FAREWELLS))


def _ioi_pair(random: Random) -> Pair:
    prompt, *names = _gift(random, unseen=True)
    giver, receiver = random.sample(names, 2)
    return Pair(prompt(giver), prompt(receiver), _answers(receiver), _answers(giver))


# --- induction -----------------------------------------------------------------------------------------------------


def _follows(word: str, unseen: bool) -> list[str]:
    """The words that may follow a word."""
    return [other for other in SEQUENCE_WORDS if other != word and held_out("induction", word, other) == unseen]


def _induction_text(random: Random) -> Text:
    """Different words, and the same again, until the text is as long as it may be or some words before."""
    n = random.randint(3, 10)
    while True:
        words = random.sample(SEQUENCE_WORDS, n)
        circle = zip(words, words[1:] + words[:1], strict=True)
        if not any(held_out("induction", *step) for step in circle):
            break
    again = (words * 4)[n + 1 : random.randint(2 * n, min(4 * n, MAX_WORDS))]
    return Text(" ".join([*words, words[0]]), " ".join(again))


def _induction_pair(random: Random) -> Pair:
    """Corrupt: the word that comes next changes places with a later one, the first time round.

    After Olsson et al. 2022 (https://arxiv.org/abs/2209.11895).
    """
    n = random.randint(4, 9)
    before = random.randint(1, n - 2)
    last = random.choice(SEQUENCE_WORDS)
    answer, other = random.sample(_follows(last, unseen=True), 2)
    rest = random.sample([word for word in SEQUENCE_WORDS if word not in (last, answer, other)], n - 3)
    opening, rest = [*rest[: before - 1], last], rest[before - 1 :]
    place = random.randint(0, len(rest))
    first, second = rest[:place], rest[place:]
    clean = [*opening, answer, *first, other, *second]
    corrupt = [*opening, other, *first, answer, *second]
    wrong = (other, *(word for word in clean if word not in (answer, other)))
    return Pair(" ".join(clean + opening), " ".join(corrupt + opening), _answers(answer), _answers(*wrong))


# --- greater-than --------------------------------------------------------------------------------------------------


def _year(random: Random, century: str, years: tuple[str, ...], unseen: bool) -> str | None:
    fitting = [year for year in years if held_out("greater-than", century, year) == unseen]
    return random.choice(fitting) if fitting else None


def _span(random: Random, century: str) -> Callable[[str], str]:
    """The prompt by the year in which something begins."""
    template, event = random.choice(SPANS), random.choice(EVENTS)
    return lambda start: template.format(event=event, century=century, start=start)


def _greater_than_text(random: Random) -> Text:
    century = random.choice(CENTURIES)
    start = _year(random, century, YEARS[2:98], unseen=False)
    assert start is not None
    later = YEARS[int(start) + 1 :]
    return Text(_span(random, century)(start), random.choice(later), ".", later)


def _greater_than_pair(random: Random) -> Pair:
    """Corrupt: so early a beginning that most wrong answers become as right as the others.

    After Hanna et al. 2023 (https://arxiv.org/abs/2305.00586).
    """
    while True:
        century = random.choice(CENTURIES)
        start = _year(random, century, YEARS[20:96], unseen=True)
        early = _year(random, century, YEARS[2:11], unseen=True)
        if start and early:
            break
    prompt = _span(random, century)
    return Pair(prompt(start), prompt(early), _answers(*YEARS[int(start) + 1 :]), _answers(*YEARS[: int(start) + 1]))


# --- subject-verb agreement ----------------------------------------------------------------------------------------


def _subject(random: Random, unseen: bool) -> Callable[[int], str]:
    """The prompt by the subject's number: 0 or 1."""
    while True:
        forms, between, nouns = random.choice(NOUNS), random.choice(BETWEEN), random.choice(NOUNS)
        if forms != nouns and held_out("agreement", forms[0], between.format(noun=nouns[0])) == unseen:
            break
    lead, noun = random.choice(LEADS), random.choice(nouns)
    return lambda number: f"{lead.format(subject=forms[number])} {between.format(noun=noun)}"


def _agreement_text(random: Random) -> Text:
    number = random.randrange(2)
    verbs = (SINGULAR, PLURAL)[number]
    prompt = _subject(random, unseen=False)(number)
    return Text(prompt, random.choice(verbs), f"{random.choice(QUALITIES)}.", verbs)


def _agreement_pair(random: Random) -> Pair:
    prompt, number = _subject(random, unseen=True), random.randrange(2)
    verbs = (SINGULAR, PLURAL)
    return Pair(prompt(number), prompt(1 - number), _answers(*verbs[number]), _answers(*verbs[1 - number]))


# --- gendered pronouns ---------------------------------------------------------------------------------------------


def _person(random: Random, unseen: bool) -> tuple[Callable[[str], str], str, str]:
    """A woman's and a man's name, and the prompt by name."""
    while True:
        template, place, thing = random.choice(PRONOUNS), random.choice(PLACES), random.choice(THINGS)
        she, he = random.choice(SHE), random.choice(HE)
        used = [word for slot, word in (("{place}", place), ("{thing}", thing)) if slot in template]
        if all(any(held_out("pronouns", name, word) for word in used) == unseen for name in (she, he)):
            break
    return lambda name: template.format(name=name, place=place, thing=thing), she, he


def _pronouns_text(random: Random) -> Text:
    prompt, *names = _person(random, unseen=False)
    name, pronoun = random.choice(list(zip(names, ("she", "he"), strict=True)))
    return Text(prompt(name), pronoun, random.choice(DEEDS))


def _pronouns_pair(random: Random) -> Pair:
    prompt, *names = _person(random, unseen=True)
    people = list(zip(names, ("she", "he"), strict=True))
    random.shuffle(people)
    (name, right), (other, wrong) = people
    return Pair(prompt(name), prompt(other), _answers(right), _answers(wrong))


# --- all -----------------------------------------------------------------------------------------------------------

TASKS: dict[str, Task] = {
    task.key: task
    for task in (
        Task(
            "ioi",
            "Indirect object identification",
            "Two people are named, and one of them gives something to the other, whose name comes next. The corrupt "
            "prompt swaps who gives, so the right name becomes the wrong one.",
            _ioi_text,
            _ioi_pair,
        ),
        Task(
            "induction",
            "Induction",
            "Words are listed, then listed again: what followed the last word the first time follows it again. In the "
            "corrupt prompt, another word followed it.",
            _induction_text,
            _induction_pair,
        ),
        Task(
            "greater-than",
            "Greater-than",
            "What begins in a year ends in a later one. The corrupt prompt begins so early that most wrong years are "
            "as right as the others.",
            _greater_than_text,
            _greater_than_pair,
        ),
        Task(
            "agreement",
            "Subject-verb agreement",
            "The verb must agree with a subject several words back. The corrupt prompt changes the subject's number.",
            _agreement_text,
            _agreement_pair,
        ),
        Task(
            "pronouns",
            "Gendered pronouns",
            "She or he, by the name several words back. The corrupt prompt has a name of the other gender.",
            _pronouns_text,
            _pronouns_pair,
        ),
    )
}


def words(text: str) -> list[str]:
    """A text as the tokenizer cuts it: words, marks, and pairs of digits."""
    return re.findall(r"\d\d|[^\W\d_]+|[^\w\s]", text)


def _vocabulary() -> tuple[str, ...]:
    templates = (*OPENINGS, *GIVINGS, *FAREWELLS, *SPANS, *LEADS, *BETWEEN, *PRONOUNS, *DEEDS)
    lists = (NAMES, PLACES, THINGS, *NOUNS, QUALITIES, EVENTS, YEARS, SINGULAR, PLURAL, ("she", "he"))
    fixed = [word for template in templates for word in words(re.sub(r"\{\w+\}", " ", template))]
    return tuple(sorted({*fixed, *(word for each in lists for word in each)}))


VOCABULARY = _vocabulary()
