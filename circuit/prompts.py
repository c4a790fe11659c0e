"""Prompt pairs as text: what a person enters.

    PromptPair    a clean and a corrupt prompt, with right and wrong answers
    PromptSet     a named list of them; JSON in AutoCircuit's format
    PRESETS       sets that ship with the app; presets_for sorts them for a model
    encode        a prompt set as tokens of one model, with what is wrong in which row
    visible       text with its spaces made visible

    prompts = PRESETS["ioi"].prompts
    encoded = encode(prompts, model.tokenizer, prepend_bos=model.prepend_bos)
    encoded.problems                      # {3: ["The clean prompt has 14 tokens and the corrupt one 15: ..."]}
    dataset = encoded.dataset()           # the rows without problems

Nothing here imports torch but `Encoded.dataset`, so the web process can hold prompts without holding a model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard

from circuit.errors import PromptError
from circuit.teaching.tasks import TASKS

if TYPE_CHECKING:
    from circuit.dataset import PromptDataset


@dataclass(frozen=True)
class PromptPair:
    """A clean prompt, its minimal edit, and the next tokens that are right and wrong after the clean one."""

    clean: str
    corrupt: str
    answers: tuple[str, ...]
    wrong_answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptSet:
    """A named list of prompt pairs."""

    name: str
    pairs: tuple[PromptPair, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    def to_json(self) -> str:
        """AutoCircuit's format: `{"prompts": [{"clean", "corrupt", "answers", "wrong_answers"}]}`, and the name."""
        prompts = [
            {
                "clean": pair.clean,
                "corrupt": pair.corrupt,
                "answers": list(pair.answers),
                "wrong_answers": list(pair.wrong_answers),
            }
            for pair in self.pairs
        ]
        return json.dumps({"name": self.name, "prompts": prompts}, ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str, name: str = "prompts") -> PromptSet:
        """Read AutoCircuit's format.

        Raises:
            PromptError: Says what is wrong, and in which prompt, counted from 1.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PromptError(f"This is not JSON: {error}.") from error
        if not isinstance(data, dict) or not isinstance(data.get("prompts"), list):
            raise PromptError('The JSON must hold {"prompts": [...]}: a list of prompt pairs.')
        pairs = tuple(_pair(row, entry) for row, entry in enumerate(data["prompts"], start=1))
        given = data.get("name")
        return cls(given if _is_text(given) else name, pairs)


def _is_text(value: Any) -> TypeGuard[str]:
    """Text that can be encoded: JSON can also name halves of a character, which no tokenizer or browser takes."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _pair(row: int, entry: Any) -> PromptPair:
    if not isinstance(entry, dict):
        raise PromptError(f"Prompt {row}: expected an object with clean, corrupt, answers and wrong_answers.")
    values: dict[str, Any] = {}
    for key in ("clean", "corrupt"):
        if not _is_text(entry.get(key)):
            raise PromptError(f"Prompt {row}: '{key}' must be text.")
        values[key] = entry[key]
    for key in ("answers", "wrong_answers"):
        answers = entry.get(key, [])
        if not isinstance(answers, list) or not all(_is_text(answer) for answer in answers):
            raise PromptError(f"Prompt {row}: '{key}' must be a list of texts.")
        values[key] = tuple(answers)
    return PromptPair(**values)


# --- tokens --------------------------------------------------------------------------------------------------------


@dataclass
class Encoded:
    """A prompt set as tokens of one model. Lists have one entry a row; rows with problems are not used."""

    clean: list[list[int]] = field(default_factory=list)
    corrupt: list[list[int]] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)
    wrong_answers: list[list[int]] = field(default_factory=list)
    problems: dict[int, list[str]] = field(default_factory=dict)
    """Sentences by row, counted from 0."""
    adapted: dict[str, str] = field(default_factory=dict)
    """Answers that were read without their leading space, since only so they are one token of this model."""

    @property
    def usable(self) -> list[int]:
        """The rows without problems, counted from 0."""
        return [row for row in range(len(self.clean)) if row not in self.problems]

    def dataset(self) -> PromptDataset:
        """The usable rows as a dataset.

        Raises:
            PromptError: When there is none; the sentence says what is wrong in the first row.
        """
        from circuit.dataset import PromptDataset

        rows = self.usable
        if not rows:
            why = "" if not self.problems else f" Row 1: {self.problems[0][0]}"
            raise PromptError(f"None of the {len(self.clean)} prompt pairs can be used.{why}")

        def pick(lists: list[list[int]]) -> list[Any]:
            return [lists[row] for row in rows]

        dataset = PromptDataset(pick(self.clean), pick(self.corrupt), pick(self.answers), pick(self.wrong_answers))
        dataset.numbers = [row + 1 for row in rows]
        return dataset


def encode(prompts: PromptSet, tokenizer: Any, prepend_bos: bool, n_ctx: int | None = None) -> Encoded:
    """Tokenize a prompt set, and say in words what is wrong in which row.

    Args:
        prompts: The prompts.
        tokenizer: A Hugging Face tokenizer.
        prepend_bos: Start each prompt with the tokenizer's BOS token.
        n_ctx: The model's context length, in tokens.
    """
    encoded = Encoded()
    bos = [tokenizer.bos_token_id] if prepend_bos and tokenizer.bos_token_id is not None else []

    def tokens(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    for row, pair in enumerate(prompts.pairs):
        clean, corrupt = bos + tokens(pair.clean), bos + tokens(pair.corrupt)
        problems = list(_prompt_problems(clean, corrupt, len(bos), tokenizer, n_ctx))
        for kind, texts, into in (
            ("right", pair.answers, encoded.answers),
            ("wrong", pair.wrong_answers, encoded.wrong_answers),
        ):
            ids = []
            for text in texts:
                split = tokens(text)
                if len(split) != 1 and text.startswith(" ") and len(bare := tokens(text[1:])) == 1:
                    split = bare  # tokenizers that put a space before every text by themselves
                    encoded.adapted[text] = text[1:]
                if len(split) == 1:
                    ids += split
                else:
                    problems.append(_not_one_token(kind, text, split, tokenizer))
            into.append(ids)
        problems += _unknown_words(pair, tokens, tokenizer)
        if not pair.answers:
            problems.append("There is no right answer.")
        for token in sorted(set(encoded.answers[row]) & set(encoded.wrong_answers[row])):
            problems.append(f"'{visible(tokenizer.decode([token]))}' is both a right and a wrong answer.")
        encoded.clean.append(clean)
        encoded.corrupt.append(corrupt)
        if problems:
            encoded.problems[row] = problems
    return encoded


def _prompt_problems(
    clean: list[int], corrupt: list[int], n_bos: int, tokenizer: Any, n_ctx: int | None
) -> Sequence[str]:
    if min(len(clean), len(corrupt)) <= n_bos:
        return [f"The {'corrupt' if len(clean) > n_bos else 'clean'} prompt is empty."]
    if len(clean) != len(corrupt):
        differs = next(
            (i for i, (a, b) in enumerate(zip(clean, corrupt, strict=False)) if a != b), min(len(clean), len(corrupt))
        )
        pieces = [visible(tokenizer.decode(ids[differs : differs + 3])) for ids in (clean, corrupt)]
        return [
            f"The clean prompt has {len(clean)} tokens and the corrupt one {len(corrupt)}: they part at token "
            f"{differs + 1} ('{pieces[0]}' against '{pieces[1]}'). Edges are compared token by token, so both need the "
            "same number: swap in words of the same token length."
        ]
    if clean == corrupt:
        return ["The clean and the corrupt prompt are the same, so nothing is ablated."]
    if n_ctx is not None and len(clean) > n_ctx:
        return [f"The prompt has {len(clean)} tokens, and the model's context is {n_ctx}."]
    return []


def _unknown_words(pair: PromptPair, tokens: Callable[[str], list[int]], tokenizer: Any) -> Iterator[str]:
    """Word-level tokenizers turn words that they do not know into one and the same token."""
    unknown = tokenizer.unk_token_id
    for text in dict.fromkeys((pair.clean, pair.corrupt, *pair.answers, *pair.wrong_answers)):
        if unknown is not None and tokenizer.unk_token not in text and unknown in tokens(text):
            words = [word for word in text.split() if unknown in tokens(word)]
            yield f"This model's tokenizer does not know '{visible(' '.join(words) or text)}'."


def _not_one_token(kind: str, text: str, split: list[int], tokenizer: Any) -> str:
    if not split:
        return f"A {kind} answer is empty."
    pieces = " | ".join(visible(tokenizer.decode([token])) for token in split)
    spaced = tokenizer(f" {text}", add_special_tokens=False).input_ids
    hint = f" With a leading space it is one token: enter '{visible(' ' + text)}'." if len(spaced) == 1 else ""
    return f"The {kind} answer '{visible(text)}' is {len(split)} tokens for this model ({pieces}).{hint}"


def visible(text: str) -> str:
    """Text with spaces as middle dots and line ends as arrows, so that a leading space can be seen."""
    return text.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")


# --- presets -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preset:
    """A prompt set that ships with the app."""

    key: str
    title: str
    about: str
    prompts: PromptSet
    suits: tuple[str, ...] = ()
    """Keys of the models that are known to do it."""


def presets_for(model: str) -> dict[str, Preset]:
    """All presets by key, those that suit this model first."""
    return dict(sorted(PRESETS.items(), key=lambda item: model not in item[1].suits))


_NAMES = ("Mary", "John", "Anna", "Tom", "Sarah", "Paul", "Kate", "Mark", "Lisa", "James", "Alice", "Peter")
_PLACES = ("store", "park", "school", "office", "station", "beach", "market", "garden")
_OBJECTS = ("drink", "book", "ring", "letter", "map", "ball", "gift", "key")


def _ioi(n: int) -> PromptSet:
    """Indirect object identification (Wang et al. 2022, https://arxiv.org/abs/2211.00593).

    Clean: A gives to B. Corrupt: B gives to A, so that the right answer becomes the wrong one. Names, places and things
    are walked through at strides that share no factor with each other, so that pairs differ in all of them.
    """
    pairs = []
    for i in range(n):
        first, second = _NAMES[i % 12], _NAMES[(i + 1 + 5 * (i // 12) % 11) % 12]
        if i % 2:
            first, second = second, first
        place, thing = _PLACES[(3 * i) % 8], _OBJECTS[(5 * i + i // 8) % 8]
        opening = f"When {first} and {second} went to the {place},"
        giver, other = (first, second) if i % 3 == 1 else (second, first)
        pairs.append(
            PromptPair(
                f"{opening} {giver} gave a {thing} to",
                f"{opening} {other} gave a {thing} to",
                (f" {other}",),
                (f" {giver}",),
            )
        )
    return PromptSet("Indirect object identification", tuple(pairs))


_SUBJECTS = (
    ("key", "keys"), ("book", "books"), ("letter", "letters"), ("car", "cars"), ("picture", "pictures"),
    ("dog", "dogs"), ("student", "students"), ("teacher", "teachers"), ("house", "houses"), ("door", "doors"),
    ("song", "songs"), ("friend", "friends"),
)  # fmt: skip
_BETWEEN = ("near the table", "in the garden", "that I like", "on the left", "from the city", "with the box")


def _agreement(n: int) -> PromptSet:
    """Subject-verb agreement across a phrase (after Linzen et al. 2016, https://arxiv.org/abs/1611.01368)."""
    pairs = []
    for i in range(n):
        forms = _SUBJECTS[i % 12]
        between = _BETWEEN[(i + i // 12) % 6]
        number = i % 2
        verbs = ((" is", " was"), (" are", " were"))
        pairs.append(
            PromptPair(
                f"The {forms[number]} {between}",
                f"The {forms[1 - number]} {between}",
                verbs[number],
                verbs[1 - number],
            )
        )
    return PromptSet("Subject-verb agreement", tuple(pairs))


PRESETS: dict[str, Preset] = {
    preset.key: preset
    for preset in (
        Preset(
            "ioi",
            TASKS["ioi"].title,
            TASKS["ioi"].about,
            _ioi(24),
            ("smollm2-135m", "gpt2", "teaching"),
        ),
        Preset(
            "agreement",
            TASKS["agreement"].title,
            TASKS["agreement"].about,
            _agreement(24),
            ("smollm2-135m", "teaching"),
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
    )
}
