"""Where prompts come from: a preset, templates, a paste, a file, or nothing yet."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from circuit.common.errors import CircuitError
from circuit.common.words import MB, counted
from circuit.models.tokenizer import visible
from circuit.prompts.files import Reading, file_reading, text_reading
from circuit.prompts.pairs import MOST_BYTES, MOST_ROWS, PromptSet, check_size
from circuit.prompts.presets import PRESETS, presets_for
from circuit.prompts.templates import LONGEST_SLOTS, LONGEST_TEMPLATE, MOST_PAIRS, Template, lines_of, slots_of
from circuit.ui.frame import click, explain, keys, markdown, session
from circuit.ui.frame.widgets import kept
from circuit.ui.prompts import tokens

SOURCES = ("Preset", "Template", "Paste", "File", "Empty table")
_COLUMNS_SAID = (
    "columns clean, corrupt, answers, wrong_answers (several answers are separated by |), with or without a line of "
    "these names"
)


def choose_source() -> str:
    """The choice; `draw_source` draws what belongs to it."""
    chosen = st.segmented_control(
        "Start from",
        SOURCES,
        default=SOURCES[0],
        required=True,
        help="Where pairs come from. Take a preset to try things out, a template to make many pairs of one pattern, "
        "and paste or file for pairs that you have. Nothing changes before you press a button below.",
        **kept("source"),
    )
    return chosen or SOURCES[0]


def draw_source(source: str) -> None:
    """What is needed to fill the table from this source."""
    {
        "Preset": _preset,
        "Template": _template,
        "Paste": _paste,
        "File": _file,
        "Empty table": _empty,
    }[source]()


def _preset() -> None:
    model = session.model_key()
    choice, fill = st.columns([3, 1.4], vertical_alignment="bottom")
    key = choice.selectbox(
        "Preset",
        list(presets_for(model)),
        format_func=lambda key: PRESETS[key].title + (" · suits it" if model in PRESETS[key].suits else ""),
        help="Ready pairs for a task of the literature. Those that suit the chosen model come first: others it may not "
        "be able to do.",
        **kept("preset"),
    )
    preset = PRESETS[key]
    with fill:
        _fill_button(preset.prompts)
    st.caption(preset.about)


def _template() -> None:
    templates = {key: preset.template for key, preset in PRESETS.items() if preset.template and key != "ioi-many"}

    def load() -> None:
        template = templates[st.session_state[keys.TEMPLATE]]
        for name in ("clean", "corrupt", "answers", "wrong_answers"):
            st.session_state[f"template-{name}"] = getattr(template, name)
        st.session_state[keys.TEMPLATE_SLOTS] = lines_of(template.slots)

    if keys.TEMPLATE not in st.session_state:
        st.session_state[keys.TEMPLATE] = next(iter(templates))
    if keys.TEMPLATE_CLEAN not in st.session_state:
        load()
    with st.container(border=True):
        left, right = st.columns([3, 2])
        with left:
            st.selectbox(
                "Begin with the template of",
                list(templates),
                format_func=lambda key: PRESETS[key].title,
                on_change=load,
                help="Replaces what stands in the fields below.",
                **kept(keys.TEMPLATE),
            )
            clean = _field(
                "Clean template",
                "clean",
                "The text that shows the behaviour, with slots in braces: `{A} gave a {thing} to`.",
            )
            corrupt = _field(
                "Corrupt template",
                "corrupt",
                "The same text with the smallest edit that changes the answer; the same slots hold the same words.",
            )
            answer, wrong = st.columns(2)
            with answer:
                answers = _field("Right answers", "answers", "With the leading space; several are separated by |.")
            with wrong:
                wrong_answers = _field(
                    "Wrong answers", "wrong_answers", "Best what is right after the corrupt template; may be empty."
                )
        with right:
            slots = st.text_area(
                "What the slots stand for, one line each",
                height=150,
                max_chars=LONGEST_SLOTS,
                help="`A, B: Mary, John, Anna` draws two different names. `noun: key/keys, book/books` draws one noun, "
                "whose forms are `{noun.1}` and `{noun.2}`: so words agree.",
                **kept(keys.TEMPLATE_SLOTS),
            )
            number, seed = st.columns(2)
            n = number.number_input(
                "Pairs",
                1,
                MOST_PAIRS,
                32,
                help="How many different pairs to make. A few dozen give stable scores; more take longer.",
                **kept("template-n"),
            )
            seeded = seed.number_input(
                "Seed",
                0,
                2**31,
                0,
                help="Another number draws other pairs; the same number always draws the same.",
                **kept("template-seed"),
            )
        try:
            template = Template(clean, corrupt, answers, wrong_answers, slots_of(slots))
            pairs = template.make(int(n), int(seeded))
        except CircuitError as error:
            st.error(markdown.plain(str(error)))
            return
        first, be = pairs[0], "is" if template.count == 1 else "are"
        st.caption(
            f"{counted(template.count, 'different pair')} {be} possible. The first: "
            + markdown.plain(
                f"{_short(first.clean)} → {_short(visible('|'.join(first.answers)))}  //  {_short(first.corrupt)}"
            )
        )
        preset = PRESETS[st.session_state[keys.TEMPLATE]]  # whose name a template keeps until it is rewritten
        _offer(PromptSet(f"{preset.title if template == preset.template else 'My prompts'}, from templates", pairs))


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]} …"


def _field(label: str, name: str, help_text: str) -> str:
    key = f"template-{name}"
    return (
        st.text_input(
            label,
            max_chars=LONGEST_TEMPLATE,
            help=help_text,
            **kept(key),
        )
        or ""
    )


def _paste() -> None:
    text = st.text_area(
        "Rows from a spreadsheet, or text in any of the formats",
        height=120,
        placeholder="When Mary and John went to the store, John gave a drink to\tWhen Mary and John …\t Mary\t John",
        help=f"Tab- or comma-separated: {_COLUMNS_SAID}. JSON and JSON Lines are read too.",
        **kept("pasted"),
    )
    if not text:
        st.caption(f"Tab- or comma-separated: {_COLUMNS_SAID}.")
        return
    try:
        _offer_reading(text_reading(text, tokenizer=tokens.known(session.model_key())))
    except CircuitError as error:
        st.error(markdown.plain(str(error)))


def _file() -> None:
    file = st.file_uploader(
        "JSON in AutoCircuit's format, JSON Lines, CSV or TSV",
        type=["json", "jsonl", "csv", "tsv", "txt"],
        key="prompt-file",
        max_upload_size=MOST_BYTES // MB,
        help=f"Up to {MOST_ROWS:,} pairs. CSV and TSV: {_COLUMNS_SAID}.",
    )
    if file is None:
        return
    try:
        _offer_reading(file_reading(file.getvalue(), file.name, tokens.known(session.model_key())))
    except CircuitError as error:
        st.error(f"{markdown.plain(file.name)}: {markdown.plain(str(error))}")


def _empty() -> None:
    _fill_button(PromptSet("My prompts", ()), "Empty the table")
    st.caption("Then type into the table, or paste rows from a spreadsheet into its first cell.")


def _offer_reading(reading: Reading) -> None:
    for note in reading.notes:
        st.warning(f"{markdown.plain(note)} {explain.more('prompt-check')}")
    _offer(reading.prompts)


def _offer(prompts: PromptSet) -> None:
    """Prompts that are ready to be taken into the table, instead of what is there or after it."""
    words, fill, add = st.columns([1.6, 1.3, 1], vertical_alignment="center")
    words.markdown(f"**{counted(len(prompts), 'pair')}** in {markdown.plain(prompts.name)}")
    with fill:
        _fill_button(prompts)
    if click.button(
        "Add to it",
        key="add",
        at=add,
        width="stretch",
        disabled=not prompts.pairs,
        help="After the rows that are there.",
    ):
        before = session.prompts()
        both = replace(before, pairs=(*before.pairs, *prompts.pairs))
        try:
            check_size(both)
        except CircuitError as error:
            st.error(markdown.plain(f"Nothing was added. {error}"))
        else:
            session.replace_prompts(both)


def _fill_button(prompts: PromptSet, label: str = "Fill the table") -> None:
    if click.button(
        label, key=f"fill-{label}", width="stretch", help="Replaces what is in the table; it can be brought back."
    ):
        session.replace_prompts(prompts)
