"""The three programs, written into the weights of a GPT-2, each with its circuit as data.

PROGRAMS   Program by key: `build` gives the weights, `edges` the circuit, `decoys` what looks like it and is not

Attention is made sharp: what a head looks at has a score that is `SHARP` = 24 above all others, so everything else gets
e^-24, which float32 does not notice. Where a program wants a softer head it says so. Booleans are made by two neurons:

    [x > 0]  =  (gelu(x) - gelu(x - 16)) / 16        exactly 0 at x = 0 and below -16, and exactly 1 from x = 32 on

**Decoys** are parts that do nothing, and look as if they did. GELU is 0 at 0 and (to float32) at -32, but its slope at
0 is 1/2. A neuron that is at 0 on the clean prompt and at -32 on the corrupt one writes nothing in both cases, so
ablating what it reads changes nothing; a gradient on the clean prompt says that it would.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from circuit.models.known.assembly import D_HEAD, LOGIT, N_CONTEXT, Assembly, Matrix
from circuit.models.known.tasks import ANSWER, BRACKETS, GIVER, INDUCTION, NAMED, NAMES, SELECTION, WORDS, Task

SHARP = 24.0
SOFT = 4.0
SCALE = math.sqrt(D_HEAD)
"""Attention divides its scores by this."""
FAR = 32.0
STEP = 16.0


@dataclass(frozen=True)
class Program:
    """A model, and its circuit.

    Attributes:
        task: What it does, with prompts.
        build: The weights.
        algorithm: How, step by step; for the card.
        edges: The circuit: for each edge by name, what it carries.
        decoys: Edges that a gradient takes for part of it, and why.
    """

    task: Task
    build: Callable[[], Assembly]
    algorithm: tuple[str, ...]
    edges: dict[str, str]
    decoys: dict[str, str] = field(default_factory=dict)


def _one() -> Matrix:
    return np.ones((1, 1))


def _boolean(model: Assembly, layer: int, reads: slice, into: Matrix, out_space: slice, out: float = 1.0) -> slice:
    """Neurons whose sum is `out` where what they read, weighted by `into`, is at least 32, and 0 where it is 0 or below
    -16. Returns the two neurons."""
    first = model._neurons[layer]
    for bias, sign in ((0.0, 1.0), (-STEP, -1.0)):
        model.neurons(layer, reads, into, bias, out_space, np.full((1, 1), sign * out / STEP))
    return slice(first, first + 2)


# --- copy: previous-token and induction heads ----------------------------------------------------------------------


def _induction() -> Assembly:
    model = Assembly(WORDS, n_layers=2, n_heads=6, seed=20)
    n = len(WORDS)
    word, previous, answer = (model.space(n) for _ in range(3))
    ids = [model.ids[each] for each in WORDS]
    model.embedding[ids, word] = np.eye(n)
    model.unembedding[ids, answer] = LOGIT * np.eye(n)

    before = model.head(0, 1)
    before.query(model.position, SHARP * SCALE * np.eye(N_CONTEXT))
    before.key(model.position, np.eye(N_CONTEXT, k=1))  # position j is what position j + 1 looks for
    before.value(word, np.eye(n))
    before.output(previous, np.eye(n))

    induction = model.head(1, 4)
    induction.query(word, SHARP * SCALE * np.eye(n))
    induction.key(previous, np.eye(n))
    induction.value(word, np.eye(n))
    induction.output(answer, np.eye(n))
    return model


# --- selection of a name -------------------------------------------------------------------------------------------


def _selection() -> Assembly:
    model = Assembly(
        (*NAMES, "When", "and", "went", "home", ",", "waved", "to"), n_layers=3, n_heads=6, seed=21
    )  # fmt: skip
    n = len(NAMES)
    name, twice, inhibited, seen, answer = (model.space(n) for _ in range(5))
    ids = [model.ids[each] for each in NAMES]
    model.embedding[ids, name] = np.eye(n)
    model.unembedding[ids, answer] = LOGIT * np.eye(n)
    start, named = model.at([0]), model.at(NAMED)

    duplicate = model.head(0, 2)  # a name twice: 2, `<bos>`: 1.5, either condition alone: 1, in units of 2 SHARP
    duplicate.query(name, 2 * SHARP * SCALE * np.eye(n))
    duplicate.key(name, np.eye(n))
    duplicate.query_constant(n, 2 * SHARP * SCALE)
    duplicate.key(model.position, np.eye(D_HEAD)[n] * (named + 1.5 * start))
    duplicate.value(name, np.eye(n))
    duplicate.output(twice, np.eye(n))

    inhibition = model.head(1, 0)  # where a name is that came before: 2, `<bos>`: 1, in units of SHARP
    inhibition.query_constant(0, SHARP * SCALE)
    inhibition.key(twice, np.eye(D_HEAD)[[0] * n] * 2)
    inhibition.key(model.position, np.eye(D_HEAD)[0] * (start - 2 * named))
    inhibition.value(twice, np.eye(n))
    inhibition.output(inhibited, np.eye(n))

    mover = model.head(2, 3)  # one of the two names, and softly not the one that came twice
    mover.query(inhibited, -SOFT * SCALE * np.eye(n))
    mover.key(name, np.eye(n))
    mover.query_constant(n, 2 * SHARP * SCALE)
    mover.key(model.position, np.eye(D_HEAD)[n] * named)
    mover.value(name, np.eye(n))
    mover.output(answer, np.eye(n))

    decoy = model.head(1, 5)  # at the last word, reads what stands at the third name
    decoy.query(model.position, SHARP * SCALE * np.eye(D_HEAD)[0] * model.at([ANSWER]))
    decoy.key(model.position, np.eye(D_HEAD)[0] * model.at([GIVER]))
    decoy.value(twice, np.eye(n))
    decoy.output(seen, np.eye(n))
    model.neurons(1, seen, FAR * np.eye(n), -FAR, answer, -np.eye(n) / FAR)
    return model


# --- balanced brackets ---------------------------------------------------------------------------------------------


def _brackets() -> Assembly:
    model = Assembly(("(", ")", "=", "yes", "no"), n_layers=3, n_heads=4, seed=22)
    opens, depth, below, left, ever, first = (model.space(1) for _ in range(6))
    yes, no = model.space(1), model.space(1)
    model.embedding[model.ids["("], opens], model.embedding[model.ids[")"], opens] = 1, -1
    model.unembedding[model.ids["yes"], yes] = LOGIT
    model.unembedding[model.ids["no"], no] = LOGIT
    model.last_bias[yes] = 1  # yes, unless something speaks against it
    clear = np.full((1, 1), FAR * N_CONTEXT)  # a mean of up to 16 tokens is at least 1/16 away from 0

    count = model.head(0, 0)  # looks at all tokens alike
    count.value(opens, _one())
    count.output(depth, _one())
    _boolean(model, 0, depth, -clear, below)
    _boolean(model, 0, depth, clear, left)
    _boolean(model, 0, depth, -clear, left)

    gather = model.head(1, 2)  # looks at all tokens alike
    gather.value(below, _one())
    gather.output(ever, _one())
    judge = _boolean(model, 1, ever, clear, no, 2.0)
    model.also_read(1, judge, left, np.full((1, 2), FAR))

    decoy = model.head(0, 3)  # reads the first bracket
    decoy.query_constant(0, SHARP * SCALE)
    decoy.key(model.position, np.eye(D_HEAD)[0] * model.at([1]))
    decoy.value(opens, _one())
    decoy.output(first, _one())
    model.neurons(2, first, _one() * STEP, -STEP, no, -2 * _one())
    return model


PROGRAMS = {
    program.task.key: program
    for program in (
        Program(
            INDUCTION,
            _induction,
            (
                "A0.1, a previous-token head, writes at every word which word stands before it.",
                "A1.4, an induction head, looks from the last word for the place before which the same word stands, "
                "and copies the word at that place to the answer.",
            ),
            {
                "Resid Start->A0.1.V": "the word before",
                "A0.1->A1.4.K": "before which place the word stands that comes again",
                "Resid Start->A1.4.Q": "which word comes again",
                "Resid Start->A1.4.V": "the word to copy",
                "A1.4->Resid End": "the answer",
            },
        ),
        Program(
            SELECTION,
            _selection,
            (
                "A0.2, a duplicate-token head, looks from the third name for the same name before it, and writes it "
                "down; it looks at `<bos>` if there is none.",
                "A1.0, an inhibition head, finds where that was written, and brings the name to the last word.",
                "A2.3, a name mover, looks at the two names of the first half, but not at the one it was told, and "
                f"copies what it sees to the answer. It is soft: the difference is {SOFT:g}, so it looks at the right "
                "name with a weight of 0.98.",
                "A1.5 and MLP 1 are a decoy: the head brings the repeated name to the last word too, and the MLP has a "
                "neuron for each name that is at 0 for that name and at -32 for the others, where GELU is 0 as well. "
                "They never write anything.",
            ),
            {
                "Resid Start->A0.2.Q": "the third name",
                "Resid Start->A0.2.K": "the two names to compare it with",
                "Resid Start->A0.2.V": "the name that came twice",
                "A0.2->A1.0.K": "where a name came for the second time",
                "A0.2->A1.0.V": "which name that is",
                "A1.0->A2.3.Q": "which name not to look at",
                "Resid Start->A2.3.K": "where which name stands",
                "Resid Start->A2.3.V": "the name to copy",
                "A2.3->Resid End": "the answer",
            },
            {
                "A0.2->A1.5.V": "the name that came twice, brought to the last word for nothing",
                "A1.5->MLP 1": "the same, read by neurons that write nothing",
            },
        ),
        Program(
            BRACKETS,
            _brackets,
            (
                "A0.0 looks at all tokens alike: the mean of +1 for an opening and -1 for a closing bracket, which has "
                "the sign of the depth.",
                "MLP 0 writes two booleans at every token: is the depth below zero, and is it anything but zero?",
                "A1.2 looks at all tokens alike: was the depth ever below zero?",
                "MLP 1 says no if it was, or if the depth at the last token is not zero.",
                "A0.3 and MLP 2 are a decoy: the head brings the first bracket to all tokens, and the MLP has a neuron "
                "that is at 0 if it opens and at -32 if it closes, where GELU is 0 as well. They never write anything.",
            ),
            {
                "Resid Start->A0.0.V": "opening or closing, to be counted",
                "A0.0->MLP 0": "the depth",
                "MLP 0->A1.2.V": "where the depth is below zero",
                "A1.2->MLP 1": "whether it ever was",
                "MLP 0->MLP 1": "whether brackets are left open",
                "MLP 1->Resid End": "no, if either is so",
            },
            {
                "Resid Start->A0.3.V": "the first bracket, brought along for nothing",
                "A0.3->MLP 2": "the same, read by a neuron that writes nothing",
            },
        ),
    )
}
