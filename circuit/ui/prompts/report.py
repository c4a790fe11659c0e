"""What is said of the prompts on 1 · Prompts: checks, verdicts, a plot, one row in detail, and all rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import streamlit as st

from circuit.common.words import counted
from circuit.jobs.check import CheckRequest, PromptReport
from circuit.models.catalogue import title_of
from circuit.models.tokenizer import PromptTokenizer, visible
from circuit.plots.prompt_plot import prompt_plot
from circuit.plots.token_view import token_view
from circuit.prompts.checks import KINDS, check_bos
from circuit.prompts.encode import Encoded, mended
from circuit.prompts.pairs import PromptPair
from circuit.prompts.verdicts import INTERVAL, PairResult, Summary, Verdict, listed, verdicts
from circuit.ui.frame import click, explain, keys, markdown, page, session
from circuit.ui.prompts import tokens

# --- checks --------------------------------------------------------------------------------------------------------

_MOST_LINES = 6
ICONS = {"broken": ":material/block:", "doubtful": ":material/warning:", "note": ":material/info:"}


def show_checks(checked: Encoded, words: PromptTokenizer) -> None:
    """How many rows can be used, and a line for each kind of finding."""
    prompts, n = session.prompts(), len(checked.rows)
    broken = list(checked.problems)
    used = f"{n - len(broken)} of {n} pairs will be used" if len(broken) < n else f"None of {n} pairs can be used"
    bos = "with" if tokens.prepend_bos(words) and words.bos is not None else "without"
    st.subheader(used, anchor=False)
    st.caption(f"As tokens of {markdown.plain(title_of(session.model_key()))}, {bos} a BOS token before each prompt.")
    all_lines = finding_lines(checked)
    lines = [line for line in all_lines if line[0] != "no-bos"]  # which is true of all rows, and said once, below
    odd = check_bos(words, session.prepend_bos(), [pair.clean for pair in prompts.pairs])
    if not lines and not checked.adapted and not odd:
        return
    with st.container(border=True):
        for line in lines[:_MOST_LINES]:
            _finding(checked, *line)
        if lines[_MOST_LINES:]:
            with st.expander(f"{len(lines) - _MOST_LINES} more"):
                for line in lines[_MOST_LINES:]:
                    _finding(checked, *line)
        if checked.adapted:
            read = ", ".join(f"'{visible(text)}' as '{bare}'" for text, bare in list(checked.adapted.items())[:5])
            more = f" and {len(checked.adapted) - 5} more" if len(checked.adapted) > 5 else ""
            st.caption(
                f"{ICONS['note']} Answers are read without their leading space, since only so they are one token of "
                f"this model: {markdown.plain(read)}{more}."
            )
        if odd:
            text, button = st.columns([6, 1.5], vertical_alignment="center")
            text.caption(f"{ICONS['doubtful']} {markdown.plain(odd)} {explain.more('bos')}")
            button.button(
                "Do as the tokenizer does",
                width="stretch",
                on_click=session.reset_bos,
                help="Leaves the choice of a BOS token to the tokenizer, which knows what the model was trained with.",
            )
        # Where no row can be used, or the choice of a BOS token is to be mended, taking out rows mends nothing.
        mendable = 0 < len(broken) < n and lines == all_lines
        if mendable and click.button(
            f"Remove the {counted(len(broken), 'broken row')}",
            key="remove-broken",
            help="They are left out of runs in any case. The table as it was can be brought back.",
        ):
            left = tuple(pair for row, pair in enumerate(prompts.pairs) if row not in checked.problems)
            session.replace_prompts(replace(prompts, pairs=left))


def finding_lines(checked: Encoded) -> list[tuple[str, list[int], str]]:
    """For each kind of finding that occurs: the kind, its rows, and what it says of the first of them."""
    lines = []
    for kind in KINDS:
        if said := {row: f.words for row, found in enumerate(checked.findings) for f in found[::-1] if f.kind == kind}:
            lines.append((kind, list(said), next(iter(said.values()))))
    return lines


def finding_words(kind: str, rows: list[int], words: str) -> str:
    """One line of `finding_lines`, as markdown."""
    about, where = KINDS[kind], listed(rows, 6)
    first = f"Row {rows[0] + 1}: " if len(rows) > 1 else ""
    title = f"**{where[0].upper()}{where[1:]}: {about.title.lower()}.**"
    return f"{ICONS[about.severity]} {title} {first}{markdown.plain(words)} {explain.more('prompt-check')}"


def _finding(checked: Encoded, kind: str, rows: list[int], words: str) -> None:
    """One kind of finding, and the button that mends all of it."""
    about = KINDS[kind]
    text, button = st.columns([6, 1.5], vertical_alignment="center")
    text.caption(finding_words(kind, rows, words))
    mends = kind == "duplicate" or any(f.mended for found in checked.findings for f in found if f.kind == kind)
    if mends and click.button(
        about.fix,
        key=f"fix-{kind}",
        at=button,
        width="stretch",
        help="Mends all of these rows. What was there can be brought back.",
    ):
        session.replace_prompts(mended(session.prompts(), checked.findings, kind))


# --- results -------------------------------------------------------------------------------------------------------


def settings_of(request: CheckRequest) -> CheckRequest:
    """What numbers depend on, beside the pair."""
    return replace(request, prompts=replace(request.prompts, name="", pairs=(), seq_labels=(), word_idxs=()))


def results_for(request: CheckRequest) -> dict[PromptPair, PairResult]:
    """What this session has measured with the same settings, by pair: so only edited rows are measured again."""
    measured = st.session_state.setdefault(keys.CHECKED, {})
    return measured.setdefault(settings_of(request), {})


def take(report: PromptReport) -> None:
    results_for(report.request).update(report.results)
    session.cards()[report.request.model] = report.card


def show_summary(results: dict[int, PairResult], n_usable: int, grad: str) -> None:
    summary = Summary.of(list(results.values()))
    cells = st.columns(5)
    share = "–" if math.isnan(summary.accuracy) else f"{summary.accuracy:.0%}"
    of = f"Of {summary.n} clean prompts"
    cells[0].metric("Right above wrong", share, help=f"{of}: every right answer above every wrong one.")
    cells[1].metric("First choice is right", f"{summary.first_choice:.0%}", help=f"{of}.")
    cells[2].metric("Mean P(right answers)", f"{summary.probability:.2f}", help="After the clean prompt, summed.")
    for cell, name, estimate in ((cells[3], "clean", summary.clean), (cells[4], "corrupt", summary.corrupt)):
        cell.metric(
            f"Difference, {name}",
            str(estimate),
            delta=estimate.interval or None,
            delta_color="off",
            delta_arrow="off",
            help=f"Mean {grad} of the right answers minus that of the wrong ones after the {name} prompt, averaged "
            f"over the pairs. Below it the 95 % interval: {INTERVAL}.",
        )
    if len(results) < n_usable:
        st.info(f"{n_usable - len(results)} of {n_usable} pairs have no numbers yet: check again for a verdict.")
        return
    show_verdicts(verdicts(results, summary))


def show_verdicts(said: Sequence[Verdict]) -> None:
    """Sentences on the prompt set, each with the way to what explains it."""
    for verdict in said:
        getattr(st, verdict.level)(f"{markdown.plain(verdict.words)} {explain.more('prompt-check')}")


def choose_row(source: str, picked: int | None) -> None:
    """Look at the row that was just picked in a figure or table (a selection that was there before is no news)."""
    if picked != st.session_state.get(f"picked-{source}"):
        st.session_state[f"picked-{source}"] = picked
        if picked is not None:
            st.session_state[keys.ROW_WANTED] = picked + 1
            click.run_again()


def show_row(checked: Encoded, words: PromptTokenizer, results: dict[int, PairResult]) -> None:
    """One row: its tokens, what is wrong with it, what the model says."""
    row = chosen_row(len(checked.rows))
    st.number_input(
        "Row looked at",
        1,
        len(checked.rows),
        key=keys.ROW,
        width=160,
        help="Shows this pair token by token, and what the model says. A click on a point of the plot or a row of the "
        "table below chooses one, too.",
    )
    st.html(token_view(checked.rows[row], words, session.prompts().seq_labels, dark=page.is_dark()))
    for finding in checked.findings[row]:
        st.markdown(f"{ICONS[KINDS[finding.kind].severity]} {markdown.plain(finding.words)}")
    if (result := results.get(row)) is not None:
        top = ", ".join(f"**{markdown.plain(visible(token))}** {share:.1%}" for token, share in result.top)
        st.markdown(f"Next, says the model: {top}  \nP(right) {result.probability:.3f}, rank {result.rank}")
    elif row in checked.usable:
        st.caption("What the model says after this prompt is shown once the prompts are checked.")


def chosen_row(n: int) -> int:
    """The row looked at, counted from 0; called before its widget is drawn."""
    wanted = st.session_state.pop(keys.ROW_WANTED, st.session_state.get(keys.ROW, 1))
    st.session_state[keys.ROW] = min(max(1, wanted), n)
    return st.session_state[keys.ROW] - 1


def show_plot(results: dict[int, PairResult], grad: str, n: int) -> None:
    pairs = session.prompts().pairs
    figure = prompt_plot(
        results,
        {row: pairs[row].clean[-60:] for row in results},
        function=grad,
        chosen=st.session_state.get(keys.ROW_WANTED, st.session_state.get(keys.ROW, 1)) - 1,
        dark=page.is_dark(),
    )
    event = st.plotly_chart(
        figure,
        key="prompt-plot",
        on_select="rerun",
        selection_mode="points",
        config={"displayModeBar": False},
        alt=f"A point for each of {counted(len(results), 'pair')}: difference after clean and after corrupt. The "
        "table below has the same numbers.",
    )
    points = event["selection"]["points"]
    choose_row("plot", points[0]["customdata"][0] if points else None)


def show_table(checked: Encoded, results: dict[int, PairResult]) -> None:
    pairs = session.prompts().pairs
    ordered = [results.get(row) for row in range(len(pairs))]

    def column(name: str) -> list[float]:
        return [math.nan if result is None else getattr(result, name) for result in ordered]

    state = []
    for row, found in enumerate(checked.findings):
        severities = {KINDS[finding.kind].severity for finding in found}
        state.append("✗ left out" if row in checked.problems else "! doubtful" if "doubtful" in severities else "✓")
    rows = pd.DataFrame(
        {
            "state": state,
            "tokens": [len(tokens.clean) for tokens in checked.rows],
            "clean prompt": [visible_end(pair.clean) for pair in pairs],
            "right": [visible(" | ".join(pair.answers)) for pair in pairs],
            "P(right)": column("probability"),
            "rank": column("rank"),
            "clean": column("clean"),
            "corrupt": column("corrupt"),
            "first choices": [
                "" if result is None else ", ".join(f"{visible(token)} {share:.0%}" for token, share in result.top[:5])
                for result in ordered
            ],
            "remarks": [" ".join(finding.words for finding in found) for found in checked.findings],
        },
        index=pd.RangeIndex(1, len(pairs) + 1, name="row"),
    )
    event = st.dataframe(
        rows,
        key="checked-rows",
        hide_index=False,
        placeholder="",
        height=min(320, 38 + 35 * len(rows)),
        on_select="rerun",
        selection_mode="single-row",
        column_config={
            "state": st.column_config.TextColumn(width=90),
            "tokens": st.column_config.NumberColumn(width=60),
            "clean prompt": st.column_config.TextColumn(width=260),
            "right": st.column_config.TextColumn(width=100),
            "P(right)": st.column_config.ProgressColumn(format="%.2f", min_value=0, max_value=1, width=100),
            "rank": st.column_config.NumberColumn(width=60, help="Of the best right answer; 1 is first choice."),
            "clean": st.column_config.NumberColumn(format="%+.2f", width=70, help="Answer difference after clean."),
            "corrupt": st.column_config.NumberColumn(format="%+.2f", width=70, help="The same after corrupt."),
            "first choices": st.column_config.TextColumn(width=300),
            "remarks": st.column_config.TextColumn(width=300),
        },
    )
    picked = event["selection"]["rows"]
    choose_row("table", picked[0] if picked else None)


def visible_end(text: str) -> str:
    """A prompt whose end can be seen: a space there matters."""
    stripped = text.rstrip()
    return stripped + visible(text[len(stripped) :])
