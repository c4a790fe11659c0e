"""The Share button: a link to what the page shows, and one that carries a run's settings alone."""

from __future__ import annotations

import streamlit as st

from circuit.common.errors import LinkError
from circuit.runs.config import RunConfig
from circuit.runs.links import link, settings_file, settings_text
from circuit.runs.run import Run
from circuit.ui.frame import markdown
from circuit.ui.frame.server import job_server

_MINE = ("draft", "mine", "settings")
"""Parameters that belong to one visitor: their prompts and their list of runs."""


def share(run: Run | None = None) -> None:
    """Draw the button. Call last on the page, in a container that stands where it is to be: by then the address says
    what is shown."""
    with st.popover("Share", icon=":material/share:", key="open-share"):
        address = st.context.url or "http://localhost:8501"
        st.markdown("**This view**: the same page, with the same run and everything that is chosen here.")
        shown = {name: value for name, value in st.query_params.to_dict().items() if not _is_senders(name, value)}
        st.code(link(address, shown), language=None, wrap_lines=True)
        st.caption("It works for whoever can open this server, as long as the run is kept there.")
        if run is not None:
            _settings(address, run.config)


def _is_senders(name: str, value: str) -> bool:
    """Whether a parameter gives a right that is the sender's: whoever has the id of a job may cancel it."""
    return name in _MINE or job_server().get(value) is not None


def _settings(address: str, config: RunConfig) -> None:
    st.markdown("**Only the settings**: model, prompts and method, without the scores. Opens 2 · Attribute.")
    try:
        text = settings_text(config)
    except LinkError as error:
        st.info(markdown.plain(str(error)))
    else:
        st.code(link(address.rpartition("/")[0] + "/Attribute", {"settings": text}), language=None)
    st.download_button(
        "Settings file",
        settings_file(config),
        "settings.json",
        "application/json",
        on_click="ignore",
        icon=":material/download:",
        key="settings-download",
        help="Model, prompts and method without scores: 2 · Attribute takes it in.",
    )
