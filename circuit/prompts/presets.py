"""Prompt sets that ship with the app, made by templates.

PRESETS       the presets by key
presets_for   all of them, those that suit a model first
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from circuit.models.known.tasks import TASKS as KNOWN_TASKS
from circuit.models.teaching.tasks import TASKS, Task, words
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.prompts.templates import Slots, Template


@dataclass(frozen=True)
class Preset:
    """A prompt set that ships with the app."""

    key: str
    title: str
    about: str
    prompts: PromptSet
    suits: tuple[str, ...] = ()
    """Keys of the models that are known to do it."""
    template: Template | None = None
    """What made it, to make more with."""


def presets_for(model: str) -> dict[str, Preset]:
    """All presets by key, those that suit this model first."""
    return dict(sorted(PRESETS.items(), key=lambda item: model not in item[1].suits))


def _listed(*values: str) -> tuple[tuple[str, ...], ...]:
    return tuple((value,) for value in values)


# --- indirect object identification (Wang et al. 2022, https://arxiv.org/abs/2211.00593) ---------------------------

_NAMES = ("Mary", "John", "Anna", "Tom", "Sarah", "Paul", "Kate", "Mark", "Lisa", "James", "Alice", "Peter")
_PLACES = ("store", "park", "school", "office", "station", "beach", "market", "garden")
_OBJECTS = ("drink", "book", "ring", "letter", "map", "ball", "gift", "key")
_IOI_SLOTS = (
    Slots(("A", "B"), _listed(*_NAMES)),
    Slots(("place",), _listed(*_PLACES)),
    Slots(("object",), _listed(*_OBJECTS)),
)
_SECOND_GIVES = Template(
    "When {A} and {B} went to the {place}, {B} gave a {object} to",
    "When {A} and {B} went to the {place}, {A} gave a {object} to",
    " {A}",
    " {B}",
    _IOI_SLOTS,
)
"""Clean: the second of the two gives to the first. Corrupt: the other way round, so the right answer becomes wrong."""
_FIRST_GIVES = Template(
    "When {A} and {B} went to the {place}, {A} gave a {object} to",
    "When {A} and {B} went to the {place}, {B} gave a {object} to",
    " {B}",
    " {A}",
    _IOI_SLOTS,
)


def _ioi(n: int) -> Iterator[PromptPair]:
    """Names, places and things are walked through at strides that share no factor with each other, so that even the
    first few pairs differ in all of them."""
    for i in range(n):
        names = [_NAMES[i % 12], _NAMES[(i + 1 + 5 * (i // 12) % 11) % 12]]
        first, second = reversed(names) if i % 2 else names
        template = _FIRST_GIVES if i % 3 == 1 else _SECOND_GIVES
        place, thing = _PLACES[(3 * i) % 8], _OBJECTS[(5 * i + i // 8) % 8]
        yield template.fill({"A": (first,), "B": (second,), "place": (place,), "object": (thing,)})


# --- subject-verb agreement across a phrase (after Linzen et al. 2016, https://arxiv.org/abs/1611.01368) ------------

_SUBJECTS = (
    ("key", "keys"), ("book", "books"), ("letter", "letters"), ("car", "cars"), ("picture", "pictures"),
    ("dog", "dogs"), ("student", "students"), ("teacher", "teachers"), ("house", "houses"), ("door", "doors"),
    ("song", "songs"), ("friend", "friends"),
)  # fmt: skip
_BETWEEN = ("near the table", "in the garden", "that I like", "on the left", "from the city", "with the box")
_SINGULAR, _PLURAL = ("is", "was"), ("are", "were")
_SUBJECT_FORMS = tuple(
    forms for one, many in _SUBJECTS for forms in ((one, many, *_SINGULAR, *_PLURAL), (many, one, *_PLURAL, *_SINGULAR))
)
_AGREEMENT = Template(
    "The {noun.1} {between}",
    "The {noun.2} {between}",
    " {noun.3}| {noun.4}",
    " {noun.5}| {noun.6}",
    (Slots(("noun",), _SUBJECT_FORMS), Slots(("between",), _listed(*_BETWEEN))),
)
"""A noun comes with its other number and with the verbs of both, so that all of them agree."""


def _agreement(n: int) -> Iterator[PromptPair]:
    for i in range(n):
        noun = _SUBJECT_FORMS[2 * (i % 12) + i % 2]
        yield _AGREEMENT.fill({"noun": noun, "between": (_BETWEEN[(i + i // 12) % 6],)})


# --- gendered pronouns (after Mathwin et al. 2023) -----------------------------------------------------------------

_HER = ("Mary", "Anna", "Sarah", "Kate", "Lisa", "Alice")
_HIS = ("John", "Tom", "Paul", "Mark", "James", "Peter")
_DAYS = ("Yesterday", "Last week", "On Monday", "In the morning")
_PRONOUNS = Template(
    "{day}, {name.1} went to the {place} because",
    "{day}, {name.2} went to the {place} because",
    " {name.3}",
    " {name.4}",
    (
        Slots(
            ("name",),
            tuple(
                forms for her in _HER for his in _HIS for forms in ((her, his, "she", "he"), (his, her, "he", "she"))
            ),
        ),
        Slots(("day",), _listed(*_DAYS)),
        Slots(("place",), _listed(*_PLACES)),
    ),
)
"""A name comes with one of the other gender and with the pronouns of both. It stands within the sentence, where each is
one token."""


def _pronouns(n: int) -> Iterator[PromptPair]:
    for i in range(n):
        her, his = (_HER[i % 6], "she"), (_HIS[(i + i // 6) % 6], "he")
        (name, pronoun), (other, others) = (his, her) if (i + i // 6) % 2 else (her, his)
        place = (_PLACES[(3 * i) % 8],)
        yield _PRONOUNS.fill({"name": (name, other, pronoun, others), "day": (_DAYS[i // 6 % 4],), "place": place})


# --- the teaching model's ------------------------------------------------------------------------------------------


def _of_one_length(task: Task, n: int) -> list[PromptPair]:
    """Pairs that begin with one word and have one length, so that the same position means the same in all of them."""

    def shape(pair: PromptPair) -> tuple[str, int]:
        return words(pair.clean)[0], len(words(pair.clean))

    pairs = [PromptPair(*pair) for pair in task.pairs(16 * n, seed=1)]
    (commonest, _), *_ = Counter(map(shape, pairs)).most_common(1)
    return [pair for pair in pairs if shape(pair) == commonest][:n]


# -------------------------------------------------------------------------------------------------------------------

PRESETS: dict[str, Preset] = {
    preset.key: preset
    for preset in (
        Preset(
            "ioi",
            TASKS["ioi"].title,
            TASKS["ioi"].about,
            PromptSet("Indirect object identification", tuple(_ioi(24))),
            ("smollm2-135m", "gpt2", "teaching"),
            _SECOND_GIVES,
        ),
        Preset(
            "ioi-many",
            f"{TASKS['ioi'].title}, 96 pairs",
            f"{TASKS['ioi'].about} Drawn at random; the first of the two gives in every other pair.",
            PromptSet(
                "Indirect object identification, 96 pairs",
                tuple(
                    pair
                    for both in zip(_SECOND_GIVES.make(48, seed=0), _FIRST_GIVES.make(48, seed=1), strict=True)
                    for pair in both
                ),
            ),
            ("smollm2-135m",),
            _SECOND_GIVES,
        ),
        Preset(
            "agreement",
            TASKS["agreement"].title,
            TASKS["agreement"].about,
            PromptSet("Subject-verb agreement", tuple(_agreement(24))),
            ("smollm2-135m", "teaching"),
            _AGREEMENT,
        ),
        Preset(
            "pronouns",
            TASKS["pronouns"].title,
            TASKS["pronouns"].about,
            PromptSet("Gendered pronouns", tuple(_pronouns(24))),
            ("smollm2-135m",),
            _PRONOUNS,
        ),
        *(
            Preset(
                f"teaching-{task.key}",
                f"Teaching model: {task.title.lower()}",
                task.about,
                PromptSet(task.title, tuple(PromptPair(*pair) for pair in task.pairs())),
                ("teaching",),
            )
            for task in TASKS.values()
        ),
        Preset(
            "teaching-ioi-one-length",
            f"Teaching model: {TASKS['ioi'].title.lower()}, of one length",
            f"{TASKS['ioi'].about} All prompts have the same number of words, so that positions can be kept apart.",
            PromptSet(f"{TASKS['ioi'].title}, of one length", tuple(_of_one_length(TASKS["ioi"], 48))),
            ("teaching",),
        ),
        *(
            Preset(
                task.key,
                task.title,
                task.about,
                PromptSet(task.title, tuple(PromptPair(*pair) for pair in task.pairs())),
                (task.key,),
            )
            for task in KNOWN_TASKS.values()
        ),
    )
}
