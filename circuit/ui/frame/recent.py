"""The last runs, for the landing page."""

from __future__ import annotations

import streamlit as st

from circuit.ui.frame import click, markdown, my_runs, navigation, session


def recent_runs(limit: int = 5) -> None:
    """A line for each of the last runs that this visitor sees, which opens it; nothing where there is none."""
    entries = my_runs.listing().entries
    if not entries:
        return
    st.subheader("Recent runs", anchor=False)
    for entry in entries[:limit]:
        label = f"{markdown.plain(entry.name)} · {entry.method} · {entry.date:%d %b %Y, %H:%M} UTC"
        if click.button(label, key=f"open-{entry.id}", type="tertiary", icon=":material/history:"):
            navigation.go(navigation.SCORES if session.open_run(entry.id) else navigation.LANDING)
    st.page_link(navigation.RUNS, label=f"All {len(entries):,} runs" if len(entries) > limit else "5 · Runs")
