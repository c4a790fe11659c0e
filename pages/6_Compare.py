"""Two or more runs side by side: do they find the same edges, and are these worth the same?"""

from __future__ import annotations

from collections import Counter
from string import ascii_uppercase
from typing import NoReturn

import numpy as np
import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from circuit.common.errors import RunFileError
from circuit.common.words import counted
from circuit.edges.ranking import readable
from circuit.jobs.measure import measure
from circuit.plots.comparison import faithfulness_lines, overlap_curves, score_scatter
from circuit.runs.average import average, why_not_average
from circuit.runs.comparison import differing_settings, only_in, overlap_of, pairs_of, spearman, why_not_comparable
from circuit.runs.faithfulness import Curve, curve_sizes
from circuit.runs.run import Run
from circuit.ui.frame import (
    address,
    click,
    explain,
    job_panel,
    keys,
    markdown,
    my_runs,
    navigation,
    page,
    session,
    share,
)
from circuit.ui.frame.widgets import in_address, kept
from circuit.ui.run.choice import default_size, sizes
from circuit.ui.run.faithfulness import Setting, no_task, verdict_line

MOST = 6  # runs: more lines in a figure are hard to tell apart


def choose_runs() -> list[Run]:
    """The runs that are compared: chosen here, or named by the address."""
    named = [run_id for run_id in st.query_params.get("runs", "").split(",") if run_id][:MOST]
    if keys.COMPARED not in st.session_state:
        shown = session.run_shown()
        st.session_state[keys.COMPARED] = named or ([shown.id] if shown is not None else [])
    elif named and st.session_state.get(keys.COMPARED_NAMED) != named:
        st.session_state[keys.COMPARED] = named  # a link, or the button of 5 · Runs
    entries = {entry.id: entry for entry in my_runs.listing().entries}
    runs = {run_id: run for run_id in st.session_state[keys.COMPARED] if (run := opened(run_id)) is not None}
    st.session_state[keys.COMPARED] = list(runs)
    words = told_apart(
        {
            **{
                run_id: f"{entry.name} · {entry.method} · {entry.date:%d %b, %H:%M}"
                for run_id, entry in entries.items()
            },
            **{run_id: run.caption for run_id, run in runs.items() if run_id not in entries},
        }
    )
    chosen = st.multiselect(
        "Runs",
        list(words),
        format_func=words.__getitem__,
        max_selections=MOST,
        placeholder="Choose two or more runs",
        help=f"Up to {MOST} runs of one model. Make them on 2 · Attribute or Sweep, or take one in on 5 · Runs.",
        **kept(keys.COMPARED),
    )
    address.put("runs", ",".join(chosen) or None)
    st.session_state[keys.COMPARED_NAMED] = list(chosen)
    return [run for run_id in chosen if (run := runs.get(run_id) or opened(run_id)) is not None]


def told_apart(words: dict[str, str]) -> dict[str, str]:
    """The same, with the start of the id where several runs have the same words: the widget knows options by these."""
    times = Counter(words.values())
    return {run_id: f"{said} · {run_id[:6]}" if times[said] > 1 else said for run_id, said in words.items()}


def opened(run_id: str) -> Run | None:
    """The run, read once a session; None with a word where it cannot be."""
    known: dict[str, Run] = st.session_state.setdefault(keys.COMPARED_RUNS, {})
    if run_id not in known:
        try:
            known[run_id] = session.stored(run_id)
        except RunFileError as error:
            st.warning(f"A run is left out. {markdown.plain(str(error))} {explain.more('run')}")
            return None
    return known[run_id]


def legend(runs: list[Run], letters: list[str]) -> None:
    """Which letter is which run."""
    for letter, run in zip(letters, runs, strict=True):
        st.caption(f"**{letter}**  {markdown.plain(run.caption)}")


def settings(runs: list[Run], letters: list[str]) -> None:
    table = differing_settings(runs)
    if table.empty:
        st.info("These runs have the same settings and prompts.", icon=":material/equal:")
        return
    table.columns = pd.Index(letters)
    st.markdown(f"**They differ in {', '.join(table.index)}.**")
    st.dataframe(table.rename_axis("setting"), height="content")


def average_them(runs: list[Run], at: DeltaGenerator) -> None:
    """A button that makes one run of all of them."""
    why_not = why_not_average(runs)
    with at:
        clicked = click.button(
            "Average their scores",
            icon=":material/functions:",
            key="average",
            disabled=why_not is not None,
            help=why_not
            or "Divides each run's scores by the sum of their absolute values, and keeps the mean as a new run, whose "
            f"circuits can be drawn and measured like any other's. {explain.more('averaged-runs')}",
        )
    if clicked:
        session.show_run(average(runs))
        st.switch_page(navigation.CIRCUIT)


def agreement(runs: list[Run], letters: list[str], shared: dict[str, np.ndarray], n: int) -> None:
    """Every pair of runs, in numbers."""
    rows = [
        {
            "Runs": name,
            "Spearman of scores": spearman(runs[one].scores, runs[other].scores),
            "Spearman of |scores|": spearman(np.abs(runs[one].scores), np.abs(runs[other].scores)),
            f"In both, of the {n:,} strongest": shared[name][n - 1],
        }
        for one, other, name in pairs_of(letters)
    ]
    number = st.column_config.NumberColumn
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        height="content",
        column_config={
            "Spearman of scores": number(format="%.3f", help="Rank correlation over all edges, signs counted."),
            "Spearman of |scores|": number(format="%.3f", help="Rank correlation of importance over all edges."),
            f"In both, of the {n:,} strongest": number(
                format="percent", help=f"At random it would be {n / runs[0].graph.n_edges:.1%}."
            ),
        },
    )


def two_of(runs: list[Run], letters: list[str]) -> tuple[int, int]:
    """Which two runs the scatter plot and the tables show."""
    if len(runs) == 2:
        return 0, 1
    pairs = {name: (one, other) for one, other, name in pairs_of(letters)}
    if st.session_state.get(keys.COMPARED_PAIR, next(iter(pairs))) not in pairs:  # of a run that is no longer compared
        del st.session_state[keys.COMPARED_PAIR]
    name = st.segmented_control(
        "In detail",
        list(pairs),
        default=next(iter(pairs)),
        required=True,
        help="Which two runs the scatter plot and the lists of edges show.",
        **in_address(keys.COMPARED_PAIR, pairs),
    )
    return pairs.get(name or "", (0, 1))


def differences(first: Run, second: Run, names: tuple[str, str], n: int) -> None:
    """The edges of one circuit that are not in the other, both ways."""
    for column, (mine, other), (name, other_name) in zip(
        st.columns(2), ((first, second), (second, first)), (names, names[::-1]), strict=True
    ):
        edges = readable(mine.graph, only_in(mine, other, n))
        with column:
            st.markdown(f"**{len(edges):,} of the {n:,} strongest edges are in {name} and not in {other_name}**")
            st.dataframe(
                edges.rename(columns={name: name.replace("the other", other_name) for name in edges.columns}),
                hide_index=True,
                height=260,
                column_config={
                    "score": st.column_config.NumberColumn(f"score in {name}", format="%+.3g"),
                    f"score in {other_name}": st.column_config.NumberColumn(format="%+.3g"),
                    "rank": st.column_config.NumberColumn(f"rank in {name}"),
                },
            )


def faithfulness(runs: list[Run], letters: list[str], n: int) -> None:
    """The curves of all runs in one figure; those that are missing can be measured here."""
    st.subheader("Do their circuits keep as much of the task?", anchor=False)
    curves: dict[str, Curve] = {}
    missing: dict[str, Run] = {}
    for letter, run in zip(letters, runs, strict=True):
        setting, slot = curve_of(run)
        if (found := job_panel.follow(slot)) is not None:
            session.keep_curve(run, setting.key, found)
        curve = session.curves(run).get(setting.key)
        if curve is None or not curve.is_benchmark:
            missing[letter] = run
        elif curve.too_close:
            st.warning(f"**{letter}**: {curve.too_close} {explain.more('faithfulness')}")
        else:
            curves[letter] = curve
            if curve.uncertain:
                st.warning(f"**{letter}**: {curve.uncertain} {explain.more('interval')}")
            if (why := no_task(curve)) is not None:
                st.warning(f"**{letter}**: {why} {explain.more('faithfulness')}")
    if missing:
        busy = any(job_panel.running(curve_of(run)[1]) is not None for run in missing.values())
        label = f"Measure {counted(len(missing), 'curve')}"
        if click.button(
            label,
            type="primary",
            icon=":material/show_chart:",
            disabled=busy,
            key="measure-curves",
            help="Runs circuits of ten sizes of each run that lacks its curve; they are kept with the run.",
        ):
            for letter, run in missing.items():
                setting, slot = curve_of(run)
                title = f"Measuring circuits of run {letter}"
                job_panel.start(slot, measure, setting.request(run, *curve_sizes(run.graph.n_edges)), title=title)
            click.run_again()
        st.caption(
            f"Not measured yet: {', '.join(missing)}. Circuits of all sizes take a few seconds to a minute per run."
        )
    if curves:
        caption = (
            "Each run's circuits by absolute score, without dead ends, on its own prompts (held-out ones where there "
            "are any), with its own ablation and answer function. CPR: area under the curve over the benchmark's "
            "shares of edges; the benchmark itself takes it by signed score."
        )
        figure = faithfulness_lines(
            {f"{letter}, CPR {curve.cpr:.2f}": curve for letter, curve in curves.items()},
            n,
            caption=caption,
            dark=page.is_dark(),
        )
        st.plotly_chart(
            figure,
            key="faithfulness-lines",
            alt=f"Faithfulness by size of circuit, a line for each of {len(curves)} runs. {caption}",
        )
        for letter, run in zip(letters, runs, strict=True):
            if letter in curves:
                st.markdown(f"{letter}: {verdict_line(run, curves[letter], n, setting_of(run))}")


def setting_of(run: Run) -> Setting:
    return Setting(bool(run.held_out_rows), "absolute", True, run.config.method.ablation_type)


def curve_of(run: Run) -> tuple[Setting, str]:
    """What is measured of a run, and the slot of its job: those of 4 · Circuit as it starts."""
    setting = setting_of(run)
    return setting, f"compare-{run.id}-{setting.key}"


def choose_n(runs: list[Run]) -> int:
    n_edges = runs[0].graph.n_edges
    asked = address.numbered(keys.COMPARED_SIZE, 1, n_edges)
    now = st.session_state.get(keys.COMPARED_SIZE)
    if now is not None and now > n_edges:  # chosen for a larger model
        del st.session_state[keys.COMPARED_SIZE]
        now = None
    first = default_size(runs[0])
    options = sorted({*sizes(n_edges), first, *(n for n in (asked, now) if n)})
    return int(
        st.select_slider(
            "Circuits of n strongest edges",
            options,
            value=first,
            help="How many of each run's strongest edges are taken for its circuit.",
            **in_address(keys.COMPARED_SIZE),
        )
    )


def need_two_runs() -> NoReturn:
    """An empty state that says what to do, and ends the page."""
    if my_runs.listing().entries:
        st.info("Choose two or more runs above, or select them on 5 · Runs.", icon=":material/compare_arrows:")
    else:
        st.info("No run is kept yet: run attribution first, or open a ready example.")
    st.page_link(navigation.RUNS, label="5 · Runs", icon=":material/history:")
    st.stop()


def figures(runs: tuple[Run, Run], names: tuple[str, str], shared: dict[str, np.ndarray], n: int) -> None:
    """The scores of two runs against each other, and how many of their strongest edges all runs share."""
    left, right = st.columns(2)
    with left:
        caption = (
            f"Scores of {runs[0].graph.n_edges:,} edges in {names[0]} and {names[1]}, each axis up to its run's "
            "largest: on the dotted line an edge is as strong in both."
        )
        st.plotly_chart(
            score_scatter(*runs, names, n, caption=caption, dark=page.is_dark(), width=460),
            key="score-scatter",
            alt=f"A point for each edge, by its score in two runs. {caption}",
        )
    with right:
        caption = "The share of the n strongest edges by |score| that two runs have in common."
        st.plotly_chart(
            overlap_curves(shared, n, caption=caption, dark=page.is_dark(), width=460),
            key="overlap",
            alt=f"A curve for each pair of runs, by n. {caption}",
        )


# --- the page ------------------------------------------------------------------------------------------------------

page.begin(
    "6 · Compare",
    "Other prompts, another ablation, another method: do the runs find the **same edges**, and do their circuits keep "
    "as much of the task?",
)
runs = choose_runs()
if len(runs) < 2:
    need_two_runs()
letters = list(ascii_uppercase[: len(runs)])
legend(runs, letters)
if (why_not := why_not_comparable(runs)) is not None:
    st.error(markdown.plain(why_not))
    settings(runs, letters)
    st.stop()
settings(runs, letters)
chooser, average_at, share_at = st.columns([6, 2, 1], vertical_alignment="bottom")
with chooser:
    n = choose_n(runs)
average_them(runs, average_at)
shared = {name: overlap_of(runs[one], runs[other]) for one, other, name in pairs_of(letters)}
agreement(runs, letters, shared, n)
one, other = two_of(runs, letters)
figures((runs[one], runs[other]), (letters[one], letters[other]), shared, n)
differences(runs[one], runs[other], (letters[one], letters[other]), n)
faithfulness(runs, letters, n)
with share_at:
    share.share()
address.keep(navigation.COMPARE)
