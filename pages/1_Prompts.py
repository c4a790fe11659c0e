"""Choose a model, enter prompt pairs, and see at once whether they make sense and whether the model does the task."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import streamlit as st

from circuit.common.errors import PromptError
from circuit.common.text import file_name
from circuit.common.words import counted, size
from circuit.jobs.check import CheckRequest, check_prompts
from circuit.jobs.load import ModelRequest, describe_model
from circuit.models.catalogue import hub_allowed, is_here, is_hub_id, offered, title_of
from circuit.models.load import ModelCard
from circuit.models.tokenizer import PromptTokenizer
from circuit.prompts.encode import Encoded
from circuit.prompts.files import FORMATS, write
from circuit.prompts.pairs import PromptPair, check_size
from circuit.ui.frame import click, job_panel, keys, markdown, navigation, page, session
from circuit.ui.frame.widgets import kept
from circuit.ui.prompts import report as prompt_report
from circuit.ui.prompts import sources as prompt_sources
from circuit.ui.prompts import tokens
from circuit.ui.prompts.table import NEW, NUMBER, from_table, to_table, wants_numbers


def choose_model() -> None:
    models = offered()
    names = list(dict.fromkeys([*models, session.model_key()]))
    choice, load = st.columns([3, 1.4], vertical_alignment="bottom")
    key = choice.selectbox(
        "Model",
        names,
        index=names.index(session.model_key()),
        format_func=title_of,
        help="Whose edges are scored. The teaching model answers at once and is good to learn with; take a real one "
        "for real questions. Weights are fetched the first time a model is used, and kept.",
    )
    if hub_allowed():
        named = st.text_input(
            "Or any model of the Hugging Face hub",
            key=keys.HUB,
            on_change=take_named,
            placeholder="owner/name",
            help="For models that are not in the list, such as `roneneldan/TinyStories-33M`. The page says so if an "
            "architecture is not supported.",
        ).strip()
        if named and not is_hub_id(named):
            st.error(markdown.plain(f"'{named}' is no hub id: those look like 'owner/name'."))
    if key != session.model_key():
        st.session_state[keys.MODEL] = key
        click.run_again()  # the sidebar stands above
    entry, known = models.get(key), key in session.cards()
    label = "Load model" if entry is None or is_here(key) or not entry.download else f"Download ({entry.download} MB)"
    slot = f"load-{key}"
    busy = job_panel.running(slot) is not None
    if click.button(
        "Loaded" if known else label,
        at=load,
        key="load-model",
        width="stretch",
        disabled=busy or known,
        help="Brings the model into memory now, and shows its size. Checking and running do so by themselves.",
    ):
        job_panel.start(slot, describe_model, ModelRequest(key), title=f"Loading {title_of(key)}")
        click.run_again()
    if (card := job_panel.follow(slot, in_address=True)) is not None:
        session.cards()[key] = card
        click.run_again()
    if known:
        show_card(session.cards()[key])
    elif entry is not None:
        st.caption(markdown.plain(entry.about))


def take_named() -> None:
    """Use the hub's model that was just named; what is chosen from the list later counts again."""
    if is_hub_id(named := st.session_state[keys.HUB].strip()):
        st.session_state[keys.MODEL] = named


def show_card(card: ModelCard) -> None:
    kv = "" if card.n_kv_heads == card.n_heads else f" ({card.n_kv_heads} key-value heads)"
    st.caption(
        f"{card.parameters / 1e6:,.1f} M parameters; {card.n_layers} layers of {card.n_heads} heads{kv}; "
        f"**{card.n_edges:,} edges**; {card.dtype} on {card.device}, {size(card.bytes)} held."
    )


def edit() -> None:
    """The table. What was typed is kept at each run of the script, so that no page switch loses it."""
    version = st.session_state.get(keys.PROMPT_TABLE, 0)
    if f"table-{version}" not in st.session_state or keys.PROMPT_BASE not in st.session_state:
        st.session_state[keys.PROMPT_BASE] = to_table(session.prompts())
    edited = st.data_editor(
        st.session_state[keys.PROMPT_BASE],
        key=f"table-{version}",
        num_rows="dynamic",
        hide_index=True,
        height=248,
        column_config={
            NUMBER: st.column_config.TextColumn("Row", width=50, disabled=True, default=NEW),
            "clean": st.column_config.TextColumn("Clean prompt", width=330),
            "corrupt": st.column_config.TextColumn("Corrupt prompt", width=330),
            "answers": st.column_config.TextColumn("Right", width=110, help="Several answers are separated by |"),
            "wrong answers": st.column_config.TextColumn("Wrong", width=110, help="Several answers are separated by |"),
        },
        placeholder="",
    )
    after = from_table(edited, session.prompts())
    if after.pairs != session.prompts().pairs:
        try:
            check_size(after)
        except PromptError as error:
            st.error(f"The last edit was not kept. {markdown.plain(str(error))}")
            return
        session.take_edit(after, start_over=wants_numbers(edited))
        click.run_again()  # the sidebar stands above, and has counted already
    if wants_numbers(edited):
        session.take_edit(after, start_over=True)
        click.run_again()


def below_the_table() -> None:
    words, back, download = st.columns([5, 1.7, 1.3], vertical_alignment="center")
    words.caption(
        "An answer is one token, usually with a leading space; several are separated by `|`. Rows can be pasted from a "
        "spreadsheet. A space typed first only opens a cell: type it twice."
    )
    former = session.former_prompts()
    if former is not None and click.button(
        f"Bring back {counted(len(former), 'pair')}",
        key="bring-back",
        at=back,
        width="stretch",
        icon=":material/undo:",
        help=f"What was in the table before: {markdown.plain(former.name)}.",
    ):
        session.replace_prompts(former)
    prompts = session.prompts()
    with download.popover(
        "Download",
        key="open-download",
        width="stretch",
        help="The table as a file, to keep or to pass on.",
        icon=":material/download:",
        disabled=not len(prompts),
    ):
        for kind, each in FORMATS.items():
            name = file_name(prompts.name, "prompts")
            st.download_button(
                each.title,
                partial(write, prompts, kind),
                f"{name}.{kind}",
                each.mime,
                on_click="ignore",
                width="stretch",
                help="All pairs of the table. 'File' and 'Paste' above read it back.",
            )


def fill() -> None:
    """The model, and where pairs come from."""
    left, right = st.columns(2, gap="medium")
    with left:
        choose_model()
    with right:
        source = prompt_sources.choose_source()
        if source != "Template":
            prompt_sources.draw_source(source)
    if source == "Template":  # wants the page's whole width
        prompt_sources.draw_source(source)


def choose_check() -> CheckRequest:
    """What to ask the model of all pairs; two of the settings are chosen here."""
    settings = st.columns([1.6, 1.2], vertical_alignment="bottom")
    with settings[1]:
        grad = session.choose_grad_function(
            "What is read off the model's output for the differences below; 2 · Attribute uses the same. Logits are "
            "the usual choice."
        )
    with settings[0]:
        st.selectbox(
            "BOS token before each prompt",
            session.BOS_CHOICES,
            help="Some models were trained with a beginning-of-sequence token before every text, others never saw one. "
            "Leave it to the tokenizer unless you compare with a result that did otherwise.",
            **kept(keys.BOS),
        )
    return CheckRequest(
        session.model_key(),
        session.prompts(),
        st.session_state.get(keys.PRECISION, "auto"),
        st.session_state.get(keys.DEVICE, "auto"),
        session.prepend_bos(),
        grad,
    )


def unchecked(request: CheckRequest, checked: Encoded | None) -> tuple[PromptPair, ...]:
    """The pairs that can be used and have no numbers yet, each once."""
    pairs, measured = request.prompts.pairs, prompt_report.results_for(request)
    usable = range(len(pairs)) if checked is None else checked.usable
    return tuple(dict.fromkeys(pairs[row] for row in usable if pairs[row] not in measured))


def check_button(wanted: CheckRequest, *, usable: bool) -> None:
    missing = wanted.prompts.pairs
    if click.button(
        "Check prompts",
        key="check-prompts",
        width="stretch",
        disabled=job_panel.running("check") is not None or not missing,
        icon=":material/rule:",
        help="All pairs have been checked."
        if usable and not missing
        else "One forward pass on every clean and corrupt prompt.",
    ):
        job_panel.start("check", check_prompts, wanted, title=f"Checking {counted(len(missing), 'pair')}")
        click.run_again()


def report(request: CheckRequest, checked: Encoded, words: PromptTokenizer) -> None:
    """What is to be said of the pairs, and what the model says of them."""
    prompt_report.show_checks(checked, words)
    pairs, measured = request.prompts.pairs, prompt_report.results_for(request)
    results = {row: measured[pairs[row]] for row in checked.usable if pairs[row] in measured}
    if results:
        prompt_report.show_summary(results, len(checked.usable), request.grad_function)
    plot, one = st.columns([1, 1.25], gap="medium")
    with plot:
        if any(math.isfinite(result.drop) for result in results.values()):
            prompt_report.show_plot(results, request.grad_function, len(pairs))
        else:
            st.caption("A point for every pair is drawn here once the prompts are checked.")
    with one:
        prompt_report.show_row(checked, words, results)
    prompt_report.show_table(checked, results)


# --- the page ------------------------------------------------------------------------------------------------------

page.begin(
    "1 · Prompts",
    "A **clean** prompt shows the behaviour; the **corrupt** prompt is its smallest edit that changes the answer. "
    "Edges that matter are those through which this difference flows.",
)
fill()
edit()
below_the_table()

words = tokens.tokenizer()
checked = tokens.encoded(words) if words is not None and len(session.prompts()) else None
check_at, next_at, settings_at = st.columns([1.3, 1, 2.8], vertical_alignment="bottom")
with settings_at:
    request = choose_check()
wanted = replace(request, prompts=replace(session.prompts(), pairs=unchecked(request, checked)))
with check_at:
    check_button(wanted, usable=bool(session.prompts().pairs if checked is None else checked.usable))
with next_at:
    navigation.next_step(navigation.ATTRIBUTE, "Continue")
if (found := job_panel.follow("check", in_address=True, now=wanted)) is not None:
    prompt_report.take(found)
    click.run_again()
if checked is not None and words is not None:
    report(request, checked, words)
elif not len(session.prompts()):
    st.info("The table is empty: type a pair into it, or start from a preset, a template, a paste or a file above.")
elif words is None and not is_here(session.model_key()):
    st.info("Tokens and checks are shown here once the model has been loaded.")
