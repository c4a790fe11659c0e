"""Templates make the pairs that their slots allow, each once, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from circuit.common.errors import CircuitError, PromptError
from circuit.prompts.pairs import PromptPair
from circuit.prompts.presets import PRESETS
from circuit.prompts.templates import Forms, Slots, Template, lines_of, slots_of

NAMES = Template("{A} sees {B}", "{B} sees {A}", " {A}", " {B}", slots_of("A, B: Mary, John, Anna"))


def test_slots_on_one_line_always_differ_and_every_filling_comes_once() -> None:
    assert NAMES.count == 6
    pairs = NAMES.make(6)
    assert len(set(pairs)) == 6
    for pair in pairs:
        first, second = pair.clean.split(" sees ")
        assert first != second
        assert pair == PromptPair(f"{first} sees {second}", f"{second} sees {first}", (f" {first}",), (f" {second}",))


def test_slots_on_lines_of_their_own_may_agree() -> None:
    template = Template("{A}{B}", "x", " y", slots=slots_of("A: 1, 2\nB: 1, 2"))
    assert sorted(pair.clean for pair in template.make(4)) == ["11", "12", "21", "22"]


def test_the_forms_of_one_slot_always_agree() -> None:
    template = Template("The {n.1}", "The {n.2}", " {n.3}|{n}", "", slots_of("n: key/keys/is, dogs/dog/are"))
    assert set(template.make(2)) == {
        PromptPair("The key", "The keys", (" is", "key")),
        PromptPair("The dogs", "The dog", (" are", "dogs")),
    }


def test_values_that_differ_in_no_form_that_is_used_count_once() -> None:
    template = Template("The {n.1}", "A {n.1}", " x", slots=slots_of("n: a/b, a/c, d/e"))
    assert template.count == 2
    assert {pair.clean for pair in template.make(2)} == {"The a", "The d"}
    assert replace(template, answers=" {n.2}").count == 3


def test_fillings_that_make_the_same_pair_make_it_once() -> None:
    template = Template("{A}{B}", "x", " y", slots=slots_of("A: 1, 11\nB: 1, 11"))
    assert sorted(pair.clean for pair in template.make(3)) == ["11", "111", "1111"]
    with pytest.raises(PromptError, match="allow 3 different pairs, and 4 were asked"):
        template.make(4)


def test_the_same_seed_makes_the_same_pairs_and_another_seed_others() -> None:
    template = PRESETS["ioi"].template
    assert template is not None
    assert template.make(20, seed=3) == template.make(20, seed=3)
    assert template.make(20, seed=3) != template.make(20, seed=4)


def test_lists_may_allow_more_pairs_than_can_be_counted_through() -> None:
    names = "abcdefghijklmnopqrst"
    slots = f"{', '.join(names)}: {', '.join(map(str, range(40)))}"
    template = Template(" ".join(f"{{{name}}}" for name in names), "x", " y", slots=slots_of(slots))
    assert template.count > 2**62
    assert len({pair.clean for pair in template.make(50)}) == 50


def test_values_are_not_templates_and_doubled_braces_are_braces() -> None:
    template = Template("{{{A}}} {A}", "x", " {A}", slots=slots_of('A: {B}, "a| b, c"'))
    assert {(pair.clean, pair.answers) for pair in template.make(2)} == {
        ("{{B}} {B}", (" {B}",)),
        ("{a| b, c} a| b, c", (" a| b, c",)),
    }


@pytest.mark.parametrize(
    ("template", "n", "words"),
    [
        (NAMES, 7, "allow 6 different pairs, and 7 were asked"),
        (NAMES, 0, "between 1 and 10,000"),
        (replace(NAMES, clean="{C}"), 1, "clean template has the slot {C}"),
        (replace(NAMES, clean="{A.2}"), 1, "has {A.2}, and"),
        (replace(NAMES, clean="{A.0}"), 1, "has {A.0}, and"),
        (replace(NAMES, clean=f"{{A.{'9' * 5000}}}"), 1, "has {A.999"),
        (replace(NAMES, slots=slots_of("A, B: Mary")), 1, "needs 2 values or more, and has 1"),
        (replace(NAMES, slots=(*NAMES.slots, *slots_of("A: x"))), 1, "{A} is listed twice"),
        (replace(NAMES, slots=(*NAMES.slots, *slots_of("C: x"))), 1, "No template has a place for the slot {C}"),
    ],
)
def test_templates_that_do_not_fit_are_refused_with_a_sentence(template: Template, n: int, words: str) -> None:
    with pytest.raises(PromptError, match=words.replace("{", r"\{")):
        template.make(n)


MANY = ", ".join(f"v{number}" for number in range(100_000))
SPACED = ", ".join(f'" v {number}"' for number in range(40_000))
NAMED = ", ".join(f"n{number}" for number in range(3000))


@pytest.mark.parametrize(
    ("clean", "answers", "slots", "words"),
    [
        ("{A} " * 400, " x", f"A: {'x' * 100_000}, b", "clean template could have 40,001,600.* 100,000 are the most"),
        ("{A}", "|".join(map(str, range(300_000))), "A: x, b", "right answers' template has .* characters, and 20,000"),
        ("{A}", "|".join("1" * 1001), "A: x, b", "1,001 answers, and 1,000 are the most"),
        ("{A}{B}", " x", f"A: {MANY}\nB: {MANY}", "200,000 are the most"),
        ("{A}", " x", f"A: {SPACED}", "200,000 are the most"),
        ("{A}", " x", f"{NAMED}: a, b", "3,000 slots, and 100"),
        ("{A}", " x", "".join(f"n{number}: a\n" for number in range(3000)), "3,000 slots, and 100"),
        ("{A}" * 40, " x", f"A: {'x' * 2000}, y", "ask for 60 pairs at most"),
        ("x" * 20_001, " x", "A: x, y", "clean template has 20,001 characters, and 20,000"),
    ],
)
def test_what_would_fill_to_too_much_is_refused_before_it_is_filled(
    monkeypatch: pytest.MonkeyPatch, clean: str, answers: str, slots: str, words: str
) -> None:
    def fill(*_: object) -> PromptPair:
        raise AssertionError("filled")

    monkeypatch.setattr(Template, "fill", fill)
    with pytest.raises(PromptError, match=words):
        Template(clean, "{A}", answers, "", slots_of(slots)).make(100)


class Counted(tuple[Forms, ...]):
    """Values that count how often one of them is read."""

    reads = 0

    def __getitem__(self, place: Any) -> Any:
        type(self).reads += 1
        return super().__getitem__(place)

    def __iter__(self) -> Iterator[Forms]:
        type(self).reads += len(self)
        return super().__iter__()


def test_drawing_reads_only_what_is_drawn() -> None:
    slots = Slots(("A", "B", "C"), Counted((str(number),) for number in range(10_000)))
    for number in (0, 1, slots.count // 2, slots.count - 1):
        drawn = slots.draw(number)
        assert len(set(drawn.values())) == 3
    assert Counted.reads == 12


def test_every_filling_of_slots_that_differ_is_drawn_once() -> None:
    slots = Slots(("A", "B", "C"), tuple((str(number),) for number in range(5)))
    assert len({tuple(slots.draw(number).values()) for number in range(slots.count)}) == 60


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A: x\n\nB", "Line 3 of the slots must look like"),
        ("A-B: x", "Line 1 of the slots must look like"),
        ("A:", "Line 1 of the slots has no values"),
        ('A: "x', "Line 1 of the slots: the values cannot be read"),
    ],
)
def test_slots_that_cannot_be_read_are_named_by_their_line(text: str, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        slots_of(text)


VALUE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r/"), min_size=1)


@given(st.lists(VALUE, min_size=1, unique=True))
def test_slots_are_read_as_they_are_written(values: list[str]) -> None:
    slots = (Slots(("A",), tuple((value,) for value in values)),)
    assert slots_of(lines_of(slots)) == slots


PLACE = st.from_regex(r"\{[AB](\.[0-9]{1,5})?\}|\{A\.9{5000}\}", fullmatch=True)


@given(st.text() | PLACE, st.text() | PLACE, st.text(), st.integers(0, 20))
@example("{A.%s}" % ("9" * 5000), "", "", 1)
def test_any_template_makes_pairs_or_is_refused(clean: str, answers: str, slots: str, n: int) -> None:
    try:
        pairs = Template(f"{clean}{{A}}", clean, answers, "", (*slots_of("A: 1, 2, 3"), *slots_of(slots))).make(n)
    except CircuitError:
        return
    assert len(set(pairs)) == n
