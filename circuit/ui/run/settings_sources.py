"""Where the form of 2 · Attribute can start from: the run that is shown, or a settings file."""

from __future__ import annotations

import streamlit as st

from circuit.common.errors import LinkError
from circuit.runs.config import RunConfig
from circuit.runs.links import LARGEST_SETTINGS, read_settings_file
from circuit.ui.frame import session, shared_settings


def start_from() -> None:
    """Two ways to fill the form, in one row."""
    run = session.current_run()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Use this run's settings",
            icon=":material/replay:",
            key="use-run",
            disabled=run is None,
            on_click=None if run is None else _use,
            args=None if run is None else (run.config, "the run that is shown"),
            help="Fills this form, the model and the prompts from the run that the sidebar calls 'Run shown'."
            if run is not None
            else "There is no run yet.",
        )
        with st.popover("Settings from a file", key="open-settings", icon=":material/upload_file:"):
            file = st.file_uploader(
                "A settings file, from the Share button of a run", type=["json"], key="settings-file",
                max_upload_size=LARGEST_SETTINGS // 2**20, help="Fills this form, model and prompts with its settings.",
            )  # fmt: skip
            if file is not None:
                try:
                    config = read_settings_file(file.getvalue())
                except LinkError as error:
                    st.error(str(error))
                else:
                    st.button("Use these settings", type="primary", on_click=_use, args=(config, "the file"))


def _use(config: RunConfig, source: str) -> None:
    shared_settings.use(config, source)
