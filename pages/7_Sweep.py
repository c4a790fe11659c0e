"""Several methods, models and prompt sets at once, in one table."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any, get_args

import pandas as pd
import streamlit as st

from circuit.common.errors import CircuitError, RunFileError
from circuit.common.settings import runs_folder
from circuit.common.words import MB, counted
from circuit.edges.kinds import EAP, OFFERED, RULES
from circuit.edges.method import (
    DEFAULT_METHOD,
    DEFAULT_STEPS,
    AblationType,
    AnswerFunction,
    Backward,
    GradFunction,
    IntegrationRule,
    Method,
)
from circuit.jobs.sweep import MOST_RUNS, Row, Sweep, Table, start, table_file
from circuit.models.catalogue import is_here, offered, title_of
from circuit.prompts.files import read_file
from circuit.prompts.pairs import MOST_BYTES, PromptSet
from circuit.prompts.presets import PRESETS
from circuit.runs.run import RUN_ID
from circuit.ui.frame import click, explain, job_panel, keys, markdown, my_runs, page, session
from circuit.ui.frame.server import job_server, visitor
from circuit.ui.frame.shared_settings import HELD_OUT
from circuit.ui.frame.widgets import kept
from circuit.ui.prompts import tokens
from circuit.ui.run import estimate

CURRENT = "current"
SAMPLES = (2, 5, 10, 20)
SIZES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def choose_prompts() -> tuple[PromptSet, ...]:
    mine = session.prompts()
    names = {CURRENT: f"{mine.name}, {counted(len(mine), 'pair')} (from 1 · Prompts)"} | {
        key: f"{preset.title}, {len(preset.prompts)} pairs" for key, preset in PRESETS.items()
    }
    chosen = st.multiselect(
        "Prompt sets",
        list(names),
        [CURRENT],
        format_func=names.__getitem__,
        help="Every model and method is run on each of them: does the circuit depend on the wording, or on the task?",
        **kept("sweep_prompts"),
    )
    sets = [mine if key == CURRENT else PRESETS[key].prompts for key in chosen]
    uploads = st.file_uploader(
        "Prompt sets from files",
        ["json", "jsonl", "csv", "tsv"],
        accept_multiple_files=True,
        key="sweep_files",
        max_upload_size=MOST_BYTES // MB,
        help="JSON as AutoCircuit writes it, JSON Lines, CSV or TSV.",
    )
    for upload in uploads:
        try:
            sets.append(read_file(upload.getvalue(), upload.name))
        except CircuitError as error:
            st.error(markdown.plain(f"{upload.name}: {error}"))
    return tuple(sets)


def choose_models() -> tuple[str, ...]:
    names = list(offered())
    default = [session.model_key()] if session.model_key() in names else []
    chosen = st.multiselect(
        "Models",
        names,
        default,
        format_func=title_of,
        help="Precision and device are chosen for each model by itself.",
        **kept("sweep_models"),
    )
    if fetched := [title_of(key) for key in chosen if not is_here(key)]:
        st.caption(f"Downloaded first: {markdown.plain(', '.join(fetched))}.")
    return tuple(chosen)


def choose_methods() -> tuple[Method, ...]:
    """Every combination of what is chosen.

    Raises:
        OptionError: When one of them cannot work.
    """
    titles = st.multiselect(
        "Methods",
        [kind.title for kind in OFFERED],
        [DEFAULT_METHOD.kind.title, EAP.title],
        help="Where gradients are taken, on which way from the model to its ablation. "
        f"{', '.join(explain.link(kind.key) for kind in OFFERED)}.",
        **kept("sweep_kinds"),
    )
    kinds = [kind for kind in OFFERED if kind.title in titles]
    averaging = any(kind.asks == "integrated_grad_samples" for kind in kinds)
    samples = st.multiselect(
        "Samples N",
        SAMPLES,
        [DEFAULT_METHOD.integrated_grad_samples],
        disabled=not averaging,
        help="Points that are averaged; each number is a run.",
        **kept("sweep_samples"),
    )
    rule: IntegrationRule = st.selectbox(
        "Integration rule",
        get_args(IntegrationRule),
        get_args(IntegrationRule).index(DEFAULT_METHOD.integration_rule),
        disabled=not averaging,
        help="Which points are averaged. Midpoint is the most accurate for its cost; take reference to compare with "
        "published numbers.",
        **kept("sweep_rule"),
    )
    mask_val = 0.5
    if any(kind.asks == "mask_val" for kind in kinds):
        mask_val = st.slider(
            "Mask value m",
            0.0,
            1.0,
            0.5,
            0.05,
            help="How far all edges are ablated while the gradient at one mask value is taken.",
            **kept("sweep_mask_value"),
        )
    backwards = st.multiselect(
        "Backward passes",
        get_args(Backward),
        [DEFAULT_METHOD.backward],
        format_func=lambda backward: RULES[backward].title,
        help="Advanced: by which rules the loss is led back to the edges. "
        f"{', '.join(explain.link(each.key, each.title) for each in RULES.values())}.",
        **kept("sweep_backward"),
    )
    grads = st.multiselect(
        "Grad functions",
        get_args(GradFunction),
        ["logit"],
        help="What is read off at the answers. Scores of different grad functions have different units; their ranking "
        "and their circuits can be compared.",
        **kept("sweep_grads"),
    )
    answers = st.multiselect(
        "Answer functions",
        get_args(AnswerFunction),
        ["avg_diff"],
        help="How the answers become one number per prompt: right minus wrong ones is the usual choice.",
        **kept("sweep_answers"),
    )
    ablations = st.multiselect(
        "Ablation types",
        list(AblationType),
        [AblationType.RESAMPLE],
        format_func=lambda kind: str(kind).capitalize(),
        help="Activations that come from the batch are those of the corrupt prompts.",
        **kept("sweep_ablations"),
    )
    points = [
        kind.options(mask_val, n, rule, DEFAULT_STEPS)
        for kind in kinds
        for n in (samples if kind.asks == "integrated_grad_samples" else [1])
    ]
    return tuple(
        Method(
            grad_function=grad,
            answer_function=answer,
            ablation_type=ablation,
            clean_corrupt="corrupt" if ablation.reads_batch else None,
            backward=backward,
            **of_kind,
        )
        for of_kind, backward, grad, answer, ablation in product(points, backwards, grads, answers, ablations)
    )


def choose_measuring() -> dict[str, Any]:
    share = st.select_slider(
        "Circuit measured, of all edges",
        SIZES,
        0.1,
        format_func=lambda share: f"{share:.0%}",
        help="The strongest edges by absolute score.",
        **kept("sweep_share"),
    )
    kinds = [None, *(kind for kind in AblationType if not kind.needs_batch_size)]
    measured_with = st.selectbox(
        "Measured with",
        kinds,
        format_func=lambda kind: "the run's own ablation" if kind is None else f"{kind} ablation",
        help="What replaces all edges outside the circuit. Faithfulness compares between methods only under one "
        "ablation.",
        **kept("sweep_measured"),
    )
    held_out = st.select_slider(
        "Hold out",
        list(HELD_OUT),
        help="Pairs chosen at random that are not scored: circuits are then measured on pairs they were not made from.",
        **kept("sweep_held_out"),
    )
    size = st.number_input(
        "Batch size",
        0,
        512,
        0,
        help="0 chooses by free memory; the two batch means need one.",
        **kept("sweep_batch"),
    )
    return {
        "share": share,
        "measured_with": measured_with,
        "held_out": HELD_OUT[held_out],
        "batch_size": int(size) or None,
    }


def shown() -> Table | None:
    """The sweep that the address names, or the session's last."""
    wanted = st.query_params.get("table") or st.session_state.get(keys.SWEEP_TABLE)
    if not wanted:
        return None
    try:
        if not RUN_ID.fullmatch(wanted):
            raise RunFileError("The id of the sweep in the address is mistyped.")
        table = Table.load(table_file(runs_folder(), wanted))
    except RunFileError as error:
        st.warning(f"{markdown.plain(str(error))} {explain.more('run')}")
        return None
    st.session_state[keys.SWEEP_TABLE] = st.query_params["table"] = table.id
    return table


def link(row: Row) -> str | None:
    return f"Scores?run={row.run}" if row.run else None


def goes_on(table: Table) -> bool:
    """Whether its rows may still change. Who has the table's link may look on, and has no part in its job."""
    return (job := job_server().get(table.job)) is not None and not job.over


def results(table: Table) -> None:
    st.fragment(show, run_every=1.0 if goes_on(table) else None)(table.id)


def show(table_id: str) -> None:
    """The table, as full as it is."""
    try:
        table = Table.load(table_file(runs_folder(), table_id))
        table = table.seen(goes_on=goes_on(table))
    except RunFileError as error:
        st.warning(f"{markdown.plain(str(error))} {explain.more('run')}")
        return
    rows = table.rows
    n = Counter(row.state for row in rows)
    others = "".join(f", {n[state]} {state}" for state in ("failed", "cancelled", "not run") if n[state])
    st.subheader(f"{n['done']} of {len(rows)} runs are done{others}", anchor=False)
    frame = pd.DataFrame(
        {
            "Open": [link(row) for row in rows],
            "Model": [row.model for row in rows],
            "Prompts": [row.prompts for row in rows],
            "Method": [row.method for row in rows],
            "State": [row.state for row in rows],
            "Right": [row.accuracy for row in rows],
            "Faithfulness": [row.faithfulness for row in rows],
            "Still does it": [row.verdict for row in rows],
            "Edges kept": [row.n_edges for row in rows],
            "Measured with": [f"{row.ablation}; {row.pairs}" if row.pairs else row.ablation for row in rows],
            "Time": [row.seconds for row in rows],
            "Strongest edges": [row.top_edges for row in rows],
            "Note": [row.note for row in rows],
        }
    )
    st.dataframe(
        frame,
        hide_index=True,
        width="stretch",
        column_config={
            "Open": st.column_config.LinkColumn(display_text="scores", width="small", help="In a tab of its own."),
            "Prompts": st.column_config.TextColumn(width="small"),
            "Method": st.column_config.TextColumn(width="medium"),
            "Time": st.column_config.NumberColumn(format="%.1f s", help="Without loading the model."),
            "Right": st.column_config.NumberColumn(
                format="percent", help="Share of clean prompts with every right answer above every wrong one."
            ),
            "Still does it": st.column_config.TextColumn(
                help="Whether the circuit still does the task, as 4 · Circuit says it; the note says why not."
            ),
            "Edges kept": st.column_config.NumberColumn(help="The circuit whose faithfulness was measured."),
            "Faithfulness": st.column_config.NumberColumn(
                format="percent",
                help="(circuit − ablated) / (whole model − ablated), of the mean answer value, under the ablation and "
                "on the pairs that stand beside it.",
            ),
        },
    )
    for row in rows:
        if row.state == "failed":
            failed = markdown.plain(f"{row.model}, {row.prompts}, {row.method}: {row.note}")
            st.warning(f"{failed} {explain.more('run')}")
    st.download_button(
        "Download as CSV",
        table.to_csv(),
        "sweep.csv",
        "text/csv",
        icon=":material/download:",
        key="sweep-csv",
        help="The table as it is now, for a spreadsheet.",
    )


def choose() -> tuple[Sweep, CircuitError | None]:
    """The whole form: the sweep, and what is wrong with its methods."""
    columns = st.columns(3, gap="medium")
    with columns[0]:
        models = choose_models()
        prompt_sets = choose_prompts()
    methods: tuple[Method, ...] = ()
    refused = None
    with columns[1]:
        try:
            methods = choose_methods()
        except CircuitError as error:
            refused = error
    with columns[2]:
        measuring = choose_measuring()
    return Sweep(models, prompt_sets, methods, **measuring), refused


def say_what_it_takes(sweep: Sweep, refused: CircuitError | None) -> bool:
    """How many runs there are, and how long they take; False, and why, where it cannot be run."""
    try:
        if refused is not None:
            raise refused
        sweep.requests()
        ready = True
    except CircuitError as error:
        st.error(markdown.plain(str(error)))
        ready = False
    st.info(
        f"**{counted(len(sweep.models), 'model')} × {counted(len(sweep.prompts), 'prompt set')} × "
        f"{counted(len(sweep.methods), 'method')} = {counted(len(sweep), 'run')}**, of at most {MOST_RUNS}.",
        icon=":material/grid_view:",
    )
    tokens.say_what_each_uses(sweep.models, sweep.prompts)
    if ready:
        estimate.show_sweep(sweep)
    return ready


def begin(sweep: Sweep) -> None:
    title = f"Sweep of {counted(len(sweep), 'run')}"
    try:
        table = start(job_server(), sweep, runs_folder(), title, visitor(), "sweep", my_runs.keeper())
    except CircuitError as error:
        st.error(markdown.plain(str(error)))
        return
    st.session_state[keys.SWEEP_TABLE] = st.query_params["table"] = table.id
    job_panel.hold("sweep", table.job)
    click.run_again()


# --- the page ------------------------------------------------------------------------------------------------------

page.begin(
    "Sweep",
    "Compare: every model chosen here on every prompt set by every method, as one submission with one table. Runs are "
    "saved as they finish, and one that fails leaves the others alone.",
)

sweep, refused = choose()
ready = say_what_it_takes(sweep, refused)
if click.button(
    "Run the sweep",
    key="run-sweep",
    type="primary",
    icon=":material/play_arrow:",
    disabled=job_panel.running("sweep") is not None or not ready,
    help="Runs all of them, one after the other or on all workers. It goes on when you leave the page.",
):
    begin(sweep)
last = shown()
if (said := job_panel.follow("sweep", in_address=True)) is not None:
    st.toast(markdown.plain(said))
if last is not None:
    results(last)
