"""The chosen model's tokenizer in the web process, and what it says of the session's prompts.

    known                a model's tokenizer, if it has been read
    tokenizer            the tokenizer, once the worker has read it; starts that by itself
    encoded              the session's prompts as tokens, checked
    say_what_is_used     "24 of 26 pairs will be used", before a run
    say_what_each_uses   the same of several prompt sets and models, before a sweep

The worker is asked once a model. From then on an edit is checked here, at once, whatever the worker is busy with; and
pairs that have not changed are not cut into tokens again.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from circuit.common.weighed import Weighed
from circuit.common.words import counted
from circuit.jobs.load import ModelRequest, read_tokenizer
from circuit.models.catalogue import is_here, title_of
from circuit.models.tokenizer import PromptTokenizer
from circuit.prompts.checks import PairTokens, check_pair
from circuit.prompts.encode import Encoded, encode
from circuit.prompts.pairs import PromptSet
from circuit.prompts.verdicts import listed
from circuit.ui.frame import click, explain, job_panel, keys, markdown, session

_MOST = 8


def _bytes_of(tokens: PairTokens) -> float:
    """What a checked pair takes with its texts and the words of its findings, roughly."""
    prompts, answers = len(tokens.clean) + len(tokens.corrupt), len(tokens.answers) + len(tokens.wrong_answers)
    return 1500 + 40 * prompts + 220 * answers + sum(300 + 2 * len(finding.words) for finding in tokens.findings)


_remembered = Weighed(check_pair, _bytes_of, most=64e6)


@st.cache_resource(show_spinner=False)
def _held() -> OrderedDict[str, PromptTokenizer]:
    """Tokenizers by model, for all sessions; the least recently used go first."""
    return OrderedDict()


def tokenizer() -> PromptTokenizer | None:
    """The chosen model's tokenizer. While the worker reads it, its panel is drawn here.

    A model that would have to be downloaded first is left alone until somebody asks to load it.
    """
    model, held = session.model_key(), _held()
    if model in held:
        held.move_to_end(model)
        return held[model]
    slot = f"tokenizer-{model}"
    asked = (model, model in session.cards())  # once, and again when the model has been loaded
    if (is_here(model) or asked[1]) and st.session_state.get(keys.TOKENIZER_ASKED) != asked:
        st.session_state[keys.TOKENIZER_ASKED] = asked
        job_panel.start(slot, read_tokenizer, ModelRequest(model), title=f"Reading the tokenizer of {title_of(model)}")
    found: PromptTokenizer | None = job_panel.follow(slot)
    if found is not None:
        held[model] = found
        while len(held) > _MOST:
            held.popitem(last=False)
    return found


def known(model: str) -> PromptTokenizer | None:
    """A model's tokenizer, if it has been read already."""
    return _held().get(model)


def prepend_bos(words: PromptTokenizer) -> bool:
    """Whether prompts start with a BOS token: the session's choice, or the tokenizer's habit."""
    choice = session.prepend_bos()
    return words.prepend_bos if choice is None else choice


def encoded(words: PromptTokenizer) -> Encoded:
    """The session's prompts as tokens, checked."""
    return encode(session.prompts(), words, prepend_bos(words), words.n_ctx, _remembered)


def say_what_each_uses(models: Sequence[str], prompt_sets: Sequence[PromptSet]) -> None:
    """Say before a sweep how many pairs of each set will be used, with the models whose tokenizers are known by now."""
    if session.model_key() in models:
        tokenizer()
    whole, cut = [], []
    for model in models:
        if (words := known(model)) is None:
            continue
        for prompts in prompt_sets:
            checked = encode(prompts, words, words.prepend_bos, words.n_ctx, _remembered)
            n, broken = len(checked.rows), list(checked.problems)
            whose = f"{markdown.plain(prompts.name)} will be used with {markdown.plain(title_of(model))}"
            line = f"{n - len(broken)} of {n} pairs of {whose}"
            if broken:
                cut.append(f"{line}: {listed(broken)} {'has' if len(broken) == 1 else 'have'} problems.")
            else:
                whole.append(f"{line}.")
    if cut:
        st.warning("  \n".join([*cut, explain.more("prompt-check")]))
    if whole:
        st.caption("  \n".join(whole))


def say_what_is_used(*, apart: bool, compares: bool) -> None:
    """Say before a run which rows will be left out of it, whether positions can be kept apart, and, where the answer
    function `compares` right with wrong answers, which rows have no wrong one."""
    words = tokenizer()
    if words is None or not len(session.prompts()):
        return
    checked = encoded(words)
    if broken := list(checked.problems):
        n = len(checked.rows)
        st.warning(
            f"{n - len(broken)} of {n} pairs will be used: {listed(broken)} {'has' if len(broken) == 1 else 'have'} "
            f"problems. See 1 · Prompts. {explain.more('prompt-check')}"
        )
    pairs = session.prompts().pairs
    if compares and (alone := [row for row in checked.usable if not pairs[row].wrong_answers]):
        rows = listed(alone)
        st.warning(
            f"{rows[0].upper()}{rows[1:]} {'has' if len(alone) == 1 else 'have'} no wrong answer, and avg_diff "
            "compares right with wrong ones: choose avg_val, or enter wrong answers on 1 · Prompts. "
            f"{explain.more('answer-function')}"
        )
    lengths = Counter(len(checked.clean[row]) for row in checked.usable)
    if apart and len(lengths) > 1:
        length, n = lengths.most_common(1)[0]
        those = f"{counted(n, 'pair')} of {counted(length, 'token')}"
        st.warning(
            f"These prompts have {min(lengths)} to {max(lengths)} tokens, and positions can be kept apart only in "
            f"prompts of one length: choose a preset 'of one length' on 1 · Prompts, or keep the "
            f"{those}. {explain.more('positions-apart')}"
        )
        if click.button(
            f"Keep the {those}",
            key="keep-one-length",
            help="Takes the other pairs out of the table. They can be brought back on 1 · Prompts.",
        ):
            kept = (row for row in checked.usable if len(checked.clean[row]) == length)
            prompts = session.prompts()
            session.replace_prompts(replace(prompts, pairs=tuple(prompts.pairs[row] for row in kept)))
