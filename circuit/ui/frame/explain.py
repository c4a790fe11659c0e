"""Links from what a page says to the glossary's entry that explains it.

    st.warning(f"{message} {explain.link('dead-end')}")      # ... [Dead end](Glossary?term=dead-end)

They are markdown, and open beside the page, so that nobody loses the place where the question came up.
"""

from __future__ import annotations

from circuit.ui.glossary import TERMS


def link(key: str, words: str | None = None) -> str:
    """A markdown link to the entry, by its name or other words."""
    return f"[{words or TERMS[key].name}](Glossary?term={key})"


def more(key: str) -> str:
    """The same as the last sentence of a message."""
    return f"More: {link(key)}."
