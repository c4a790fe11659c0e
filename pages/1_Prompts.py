"""Choose a model, enter prompt pairs, and see at once whether the model does the task on them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import streamlit as st

from circuit.catalogue import hub_allowed, offered, title_of
from circuit.models import ModelCard
from circuit.prompts import PRESETS, presets_for, visible
from circuit.tasks import CheckRequest, ModelRequest, PromptReport, check_prompts, describe_model
from circuit.ui import job_panel, page, session
from circuit.ui.prompt_table import from_table, to_table

page.begin(
    "1 · Prompts",
    "A **clean** prompt shows the behaviour; the **corrupt** prompt is its smallest edit that changes the answer. "
    "Edges that matter are those through which this difference flows.",
)


def choose_model() -> None:
    models = offered()
    keys = list(dict.fromkeys([*models, session.model_key()]))
    choice, load = st.columns([3, 1], vertical_alignment="bottom")
    key = choice.selectbox(
        "Model",
        keys,
        index=keys.index(session.model_key()),
        format_func=title_of,
        help="Weights are fetched the first time a model is used, and kept.",
    )
    if hub_allowed():
        named = st.text_input(
            "Or any model of the Hugging Face hub", placeholder="owner/name", help="Its architecture must be supported."
        ).strip()
        if re.fullmatch(r"[\w.-]+/[\w.-]+", named):
            key = named
        elif named:
            st.error(f"'{named}' is no hub id: those look like 'owner/name'.")
    st.session_state["model"] = key
    busy = job_panel.running("load") is not None
    if load.button("Load", key="load-model", width="stretch", disabled=busy, help="Fetch it now, and see its size."):
        job_panel.start("load", describe_model, ModelRequest(key), title=f"Loading {title_of(key)}")
        st.rerun()
    if (card := job_panel.follow("load")) is not None:
        session.cards()[key] = card
    if key in session.cards():
        show_card(session.cards()[key])
    elif key in models:
        st.caption(models[key].about)


def show_card(card: ModelCard) -> None:
    kv = "" if card.n_kv_heads == card.n_heads else f" ({card.n_kv_heads} key-value heads)"
    st.caption(
        f"{card.parameters / 1e6:,.1f} M parameters; {card.n_layers} layers of {card.n_heads} heads{kv}; "
        f"**{card.n_edges:,} edges**; {card.dtype} on {card.device}, {card.bytes / 1e6:,.0f} MB held."
    )


def choose_preset() -> None:
    choice, load = st.columns([3, 1], vertical_alignment="bottom")
    model = session.model_key()
    key = choice.selectbox(
        "Preset",
        list(presets_for(model)),
        format_func=lambda key: PRESETS[key].title + (" · suits this model" if model in PRESETS[key].suits else ""),
        key="preset",
    )
    if load.button("Use", key="load-preset", width="stretch", help="Replaces the table below."):
        session.set_prompts(PRESETS[key].prompts)
        st.rerun()
    st.caption(PRESETS[key].about)


EDITED = " (edited)"


def edit() -> None:
    """The table. What was typed is taken over at each run of the script, so no page switch loses it."""
    table_key = f"table-{st.session_state.get('prompt_table', 0)}"
    if table_key not in st.session_state or "prompt_base" not in st.session_state:
        st.session_state["prompt_base"] = to_table(session.prompts())
    edited = st.data_editor(
        st.session_state["prompt_base"],
        key=table_key,
        num_rows="dynamic",
        hide_index=False,
        height=280,
        column_config={
            "clean": st.column_config.TextColumn("Clean prompt", width=350),
            "corrupt": st.column_config.TextColumn("Corrupt prompt", width=350),
            "answers": st.column_config.TextColumn("Right", width=90, help="Several answers are separated by |"),
            "wrong answers": st.column_config.TextColumn("Wrong", width=90, help="Several answers are separated by |"),
        },
    )
    before = session.prompts()
    after = from_table(edited, before.name)
    if after.pairs != before.pairs:  # captions must not call other prompts by a preset's name
        st.session_state["prompts"] = replace(after, name=before.name.removesuffix(EDITED) + EDITED)


left, right = st.columns(2)
with left:
    choose_model()
with right:
    choose_preset()
edit()
st.caption(
    "An answer is one token, usually with a leading space (` Mary`); several are separated by `|`. Paste rows from a "
    "spreadsheet, or add them at the bottom. Clean and corrupt need the same number of tokens."
)

request = CheckRequest(session.model_key(), session.prompts(), prepend_bos=session.prepend_bos())
actions = st.columns([1, 1, 3], vertical_alignment="bottom")
with actions[0]:
    busy = job_panel.running("check") is not None
    if st.button("Check prompts", width="stretch", disabled=busy or not len(session.prompts()), icon=":material/rule:"):
        st.session_state["checking"] = request
        job_panel.start("check", check_prompts, request, title="Checking the prompts")
        st.rerun()
with actions[1]:
    page.next_step(page.ATTRIBUTE, "Continue")
with actions[2]:
    st.selectbox(
        "BOS token before each prompt",
        ["As the tokenizer does", "Yes", "No"],
        key="bos",
        persist_state="session",
        help="Some models were trained with a beginning-of-sequence token before every text, others never saw one.",
    )

if (answer := job_panel.follow("check")) is not None:
    st.session_state["prompt_report"] = (st.session_state["checking"], answer)
    session.cards()[st.session_state["checking"].model] = answer.card
    st.rerun()


def show(checked: CheckRequest, report: PromptReport) -> None:
    n, used = len(checked.prompts), len(checked.prompts) - len(report.problems)
    title = title_of(checked.model)
    st.subheader(f"{used} of {n} pairs can be used", anchor=False)
    if checked != request:
        st.warning("The table, the model or the BOS choice has changed since this check: check again.")
    for row, problems in list(report.problems.items())[:8]:
        for problem in problems:
            st.error(f"Row {row + 1}: {problem}", icon=":material/block:")
    if len(report.problems) > 8:
        st.error(f"… and {len(report.problems) - 8} more rows: see the table.")
    if report.adapted:
        read = ", ".join(f"'{visible(answer)}' as '{as_}'" for answer, as_ in list(report.adapted.items())[:5])
        st.info(f"Answers were read without their leading space, since only so they are one token of {title}: {read}.")
    without = [row + 1 for row, pair in enumerate(checked.prompts.pairs) if not pair.wrong_answers]
    if without and used:
        st.info(
            f"Row {', '.join(map(str, without[:8]))}{' …' if len(without) > 8 else ''}: no wrong answer, so the answer "
            "function avg_diff cannot be used; avg_val and mse can."
        )
    if not used:
        return
    clean, corrupt = report.difference_clean, report.difference_corrupt
    first = np.nanmean(report.rank == 1) * n / used
    cells = st.columns(4)
    cells[0].metric("First choice is a right answer", f"{first:.0%}", help=f"Of {used} clean prompts, {title}.")
    cells[1].metric("Mean P(right answers)", f"{np.nanmean(report.probability):.2f}", help="After the clean prompt.")
    if np.isfinite(clean).any():
        cells[2].metric(
            "Logit difference, clean",
            f"{np.nanmean(clean):+.2f}",
            help="Mean logit of the right answers minus that of the wrong ones, averaged over the pairs.",
        )
        cells[3].metric(
            "Logit difference, corrupt",
            f"{np.nanmean(corrupt):+.2f}",
            help="The same, after the corrupt prompt. It should be much lower.",
        )
        verdict(clean, corrupt)
    rows = pd.DataFrame(
        {
            "clean prompt": [pair.clean for pair in checked.prompts.pairs],
            "right": [visible(" | ".join(pair.answers)) for pair in checked.prompts.pairs],
            "P(right)": report.probability,
            "rank": report.rank,
            "difference clean": clean,
            "difference corrupt": corrupt,
            "model's first choices": [
                ", ".join(f"{visible(token)} {share:.0%}" for token, share in top[:3]) for top in report.top_tokens
            ],
            "tokens": [len(tokens) for tokens in report.clean_tokens],
            "problem": [" ".join(report.problems.get(row, [])) for row in range(n)],
        },
        index=pd.RangeIndex(1, n + 1, name="row"),
    )
    st.dataframe(
        rows if report.problems else rows.drop(columns="problem"),
        height=320,
        column_config={
            "P(right)": st.column_config.ProgressColumn(format="%.2f", min_value=0, max_value=1),
            "difference clean": st.column_config.NumberColumn(format="%+.2f"),
            "difference corrupt": st.column_config.NumberColumn(format="%+.2f"),
            "rank": st.column_config.NumberColumn(
                format="%d", help="Rank of the best right answer; 1 is first choice."
            ),
        },
    )
    bos = "with" if report.prepend_bos else "without"
    st.caption(f"{title}, {report.card.dtype}, {used} pairs, {bos} a BOS token; logits after the last token.")


def verdict(clean: np.ndarray, corrupt: np.ndarray) -> None:
    """One sentence on whether attribution on these prompts would mean anything."""
    wrong = int(np.nansum(clean <= 0))
    unmoved = int(np.nansum(clean - corrupt <= 0))
    n = int(np.isfinite(clean).sum())
    if np.nanmean(clean) <= 0:
        st.error("The model does not do this task: on average it prefers the wrong answers after the clean prompts.")
    elif np.nanmean(clean - corrupt) <= 0.1 * abs(np.nanmean(clean)):
        st.error("Corrupting hardly changes the answer, so edge scores would measure nothing.")
    elif wrong or unmoved:
        st.warning(
            f"The model does the task on average. On {wrong} of {n} pairs it prefers a wrong answer, and on {unmoved} "
            "corrupting does not lower the difference: consider leaving those out."
        )
    else:
        st.success(
            f"The model prefers right over wrong on all {n} pairs, and corrupting lowers the difference on all of them."
        )


if "prompt_report" in st.session_state:
    show(*st.session_state["prompt_report"])
