"""The runs that are kept: find one, open it, call it something, take it along, or take one in."""

from __future__ import annotations

import math
from functools import partial

import pandas as pd
import streamlit as st

from circuit.common.errors import RunFileError
from circuit.common.settings import settings
from circuit.common.words import MB
from circuit.runs import export
from circuit.runs.library import LONGEST_NAME, LONGEST_NOTE, RunEntry
from circuit.runs.run import Run
from circuit.ui.frame import click, explain, keys, markdown, my_runs, navigation, page, session, shared_settings


def table(entries: list[RunEntry]) -> list[RunEntry]:
    """The list; returns what is selected."""
    rows = pd.DataFrame(
        {
            "Name": [entry.name for entry in entries],
            "Date": [entry.date for entry in entries],
            "Method": [entry.method for entry in entries],
            "Prompts": [entry.prompts for entry in entries],
            "Pairs": [entry.n_pairs for entry in entries],
            "Model": [entry.model for entry in entries],
            "Edges": [entry.n_edges for entry in entries],
            "Note": [entry.note for entry in entries],
        }
    )
    event = st.dataframe(
        rows,
        hide_index=True,
        height=min(38 + 35 * len(rows), 400),
        key=table_key(entries),
        on_select="rerun",
        selection_mode="multi-row",
        column_config={
            "Name": st.column_config.TextColumn(width=200),
            "Date": st.column_config.DatetimeColumn(format="D MMM YYYY, HH:mm", width=130),
            "Method": st.column_config.TextColumn(width=220),
            "Prompts": st.column_config.TextColumn(width=130),
            "Pairs": st.column_config.NumberColumn(
                format="localized", width=50, help="All of the prompt set, held-out ones and unusable ones included."
            ),
            "Model": st.column_config.TextColumn(width=110),
            "Edges": st.column_config.NumberColumn(format="localized", width=65),
        },
    )
    return [entries[row] for row in event["selection"]["rows"] if row < len(entries)]


def table_key(entries: list[RunEntry]) -> str:
    """Another table, with nothing selected, as soon as there are other runs: selections are numbers of rows."""
    return f"runs-{hash(tuple(entry.id for entry in entries))}"


def one(entry: RunEntry) -> None:
    """What can be done with one run."""
    with st.container(horizontal=True):
        if click.button(
            "Open",
            key="open",
            type="primary",
            icon=":material/arrow_forward:",
            help="Shows its scores and its circuit.",
        ):
            navigation.go(navigation.SCORES if session.open_run(entry.id) else navigation.RUNS)
        if click.button(
            "Use its settings",
            key="use-settings",
            icon=":material/replay:",
            help="Fills 1 · Prompts and 2 · Attribute.",
        ):
            use_settings(entry)
        with st.popover("Name and note", key="open-label", icon=":material/edit:"):
            rename(entry)
        st.download_button(
            "Download",
            partial(content, entry),
            f"{entry.id[:8]}.safetensors",
            "application/octet-stream",
            on_click="ignore",
            icon=":material/download:",
            help="One safetensors file with scores, settings and origin; any safetensors reader opens it.",
        )
        delete([entry])
    st.caption(
        markdown.plain(
            f"{entry.name}: {entry.method}; {entry.prompts}, {entry.n_pairs:,} pairs; {entry.model}, "
            f"{entry.n_edges:,} edges. {entry.note}"
        )
    )
    with st.expander("Where it comes from"):
        provenance(entry)


def several(entries: list[RunEntry]) -> None:
    """What can be done with several."""
    with st.container(horizontal=True):
        if click.button(
            f"Compare {len(entries)} runs",
            key="compare",
            type="primary",
            icon=":material/compare_arrows:",
            help="Side by side on 6 · Compare.",
        ):
            st.switch_page(navigation.COMPARE, query_params={"runs": ",".join(entry.id for entry in entries)})
        delete(entries)


def use_settings(entry: RunEntry) -> None:
    try:
        shared_settings.use(session.stored(entry.id).config, f"the run '{entry.name}'")
    except RunFileError as error:
        st.error(markdown.plain(str(error)))
    else:
        st.switch_page(navigation.ATTRIBUTE)


def rename(entry: RunEntry) -> None:
    with st.form(f"label-{entry.id}", border=False):
        name = st.text_input("Name", entry.name, max_chars=LONGEST_NAME)
        note = st.text_area("Note", entry.note, max_chars=LONGEST_NOTE)
        if click.submit("Save", key=f"label-save-{entry.id}"):
            try:
                my_runs.library().label(entry.id, name, note)
            except RunFileError as error:
                st.error(markdown.plain(str(error)))
            else:
                click.run_again()


def content(entry: RunEntry) -> bytes:
    """The file; read when somebody asks for it."""
    return export.run_file(session.stored(entry.id))


def delete(entries: list[RunEntry]) -> None:
    label = "Delete" if len(entries) == 1 else f"Delete {len(entries)} runs"
    if click.button(label, key="delete", icon=":material/delete:", help="Asks once more before anything is gone."):
        confirm(entries)


@st.dialog("Delete for good?")
def confirm(entries: list[RunEntry]) -> None:
    st.markdown(
        "\n".join(f"- {markdown.plain(entry.name)}, {entry.date:%d %b %Y, %H:%M} UTC" for entry in entries[:10])
    )
    if len(entries) > 10:
        st.markdown(f"and {len(entries) - 10} more")
    st.caption("With what was measured of it. Links to it will not work any more; nothing brings it back.")
    yes, no, _ = st.columns([1, 1, 2])
    if yes.button(
        "Delete",
        type="primary",
        key="delete-yes",
        width="stretch",
        on_click=delete_now,
        args=(entries,),
        help="For good.",
    ):
        click.run_again()
    if click.button("Keep", key="delete-no", at=no, width="stretch", help="Leaves everything as it is."):
        click.run_again()


def delete_now(entries: list[RunEntry]) -> None:
    for entry in entries:
        try:
            my_runs.library().delete(entry.id)
        except RunFileError as error:
            st.session_state[keys.NOTICE] = str(error)
        else:
            session.forget_run(entry.id)


def provenance(entry: RunEntry) -> None:
    try:
        run = session.stored(entry.id)
    except RunFileError as error:
        st.error(markdown.plain(str(error)))
        return
    st.json(
        {
            **{name: value for name, value in run.provenance.items() if name != "tokens"},
            "split_seed": run.config.split_seed,
            "batch_size": run.config.batch_size,
            "pairs_scored": len(run.used_rows),
            "pairs_held_out": len(run.held_out_rows),
            "id": run.id,
        }
    )


def take_in() -> None:
    largest = int(settings().largest_upload * MB)
    with st.expander("Take in a run that was made elsewhere", icon=":material/upload_file:"):
        file = st.file_uploader(
            "A run's safetensors file",
            type=["safetensors"],
            key=f"run-file-{st.session_state.get(keys.TAKEN_IN, 0)}",
            max_upload_size=math.ceil(settings().largest_upload),
            help="It is read as data: nothing in it is run. Its scores must be finite and fit its model's edges.",
        )
        if file is None:
            return
        try:
            run = my_runs.library().take_in(file.getvalue(), file.name, largest)
        except RunFileError as error:
            st.error(markdown.plain(str(error)))
            return
        my_runs.add(run.id)
        session.look_at(run)
        st.session_state[keys.TAKEN_IN] = st.session_state.get(keys.TAKEN_IN, 0) + 1  # an empty uploader
        shared_settings.say(f"The run of {run.config.prompts.name[:80]} was taken in, and is shown now.")
        click.run_again()


def not_saved(run: Run) -> None:
    with st.container(border=True):
        st.warning(f"Not saved yet: {markdown.plain(run.caption)} {explain.more('run')}")
        with st.container(horizontal=True):
            if click.button("Save again", key=f"save-{run.id}", help="Tries once more to write it to the runs folder."):
                session.keep_run(run)
                click.run_again()
            st.download_button(
                "Download",
                partial(export.run_file, run),
                f"{run.id[:8]}.safetensors",
                "application/octet-stream",
                on_click="ignore",
                key=f"download-{run.id}",
                help="One file, which this page takes in again.",
            )


# --- the page ------------------------------------------------------------------------------------------------------

page.begin(
    "5 · Runs",
    "Every finished run is kept: its scores, settings and origin, in one file. Open one, compare several, take them "
    "along, or take in one that was made elsewhere.",
)
listing = my_runs.listing()
for run in list(session.unsaved().values()):
    not_saved(run)
if listing.problem:
    st.error(f"{markdown.plain(listing.problem)} Runs of this session stay open until you close this tab.")
for name, why in listing.damaged.items():
    st.warning(f"**{markdown.plain(name)}** is left out of the list. {markdown.plain(why)} {explain.more('run')}")
if listing.entries:
    chosen = table(listing.entries)
    if len(chosen) == 1:
        one(chosen[0])
    elif chosen:
        several(chosen)
    else:
        st.caption("**Select** a run with the box at its left; select two or more to compare them.")
elif not listing.problem:
    st.info("No run is kept yet: run attribution, or open the ready example.")
    left, right, _ = st.columns([1, 1, 3])
    if click.button(
        "Set up a run",
        key="to-prompts",
        at=left,
        type="primary",
        width="stretch",
        help="Choose a model and prompts first.",
    ):
        st.switch_page(navigation.PROMPTS)
    if click.button(
        "Ready example", key="to-examples", at=right, width="stretch", help="Three on the start page, each one click."
    ):
        st.switch_page(navigation.LANDING)
take_in()
st.caption(
    "All runs of this server are listed."
    if my_runs.lists_all()
    else "Runs of this session are listed; a link to any other run still opens it."
)
