"""The words of the other pages, explained."""

from __future__ import annotations

import streamlit as st

from circuit.ui.frame import page
from circuit.ui.glossary import GROUPS, TERMS, Term, find


def show(term: Term, *, anchor: bool = True) -> None:
    """An entry. Its anchor is its key, so `#dead-end` leads there."""
    st.subheader(term.name, anchor=term.key if anchor else False)
    st.markdown(term.words)
    if term.formula:
        st.code(term.formula, language=None, wrap_lines=True)
    below = [f"See also: {', '.join(f'[{TERMS[key].name}](#{key})' for key in term.also)}."] if term.also else []
    if term.source is not None:
        below.append(f"Source: [{term.source.title}]({term.source.url}).")
    if below:
        st.caption(" ".join(below))


# --- the page ------------------------------------------------------------------------------------------------------

page.begin("Glossary", "What the words of these pages mean, with formulas where they help, and where they come from.")
wanted = TERMS.get(st.query_params.get("term", ""))
if wanted is not None:
    with st.container(border=True):
        show(wanted, anchor=False)
elif "term" in st.query_params:
    st.info("The address names a term that is not in the glossary: look for it below.")
text = st.text_input(
    "Find a term",
    key="find-term",
    placeholder="faithfulness, edge, ablation …",
    help="Shows the entries that hold these letters. Leave it empty to see all of them.",
)
found = find(text)
if not found:
    st.info("No entry holds these letters: try a part of the word, or clear the field to see all entries.")
for group, title in GROUPS.items():
    if entries := [term for term in found if term.group == group]:
        st.header(title, anchor=False, divider="gray")
        left, right = st.columns(2, gap="medium")
        for i, term in enumerate(entries):
            with left if i % 2 == 0 else right:
                show(term)
