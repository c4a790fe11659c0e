"""The last runs, for the landing page."""

from __future__ import annotations

import streamlit as st

from circuit.ui import click, my_runs, page, session


def recent_runs(limit: int = 5) -> None:
    """A line for each of the last runs that this visitor sees, which opens it; nothing where there is none."""
    entries = my_runs.listing().entries
    if not entries:
        return
    st.subheader("Recent runs", anchor=False)
    for entry in entries[:limit]:
        label = f"{page.plain(entry.name)} · {entry.method} · {entry.date:%d %b %Y, %H:%M} UTC"
        if click.button(label, key=f"open-{entry.id}", type="tertiary", icon=":material/history:"):
            page.go(page.SCORES if session.open_run(entry.id) else page.LANDING)
    st.page_link(page.RUNS, label=f"All {len(entries):,} runs" if len(entries) > limit else "5 · Runs")
