"""What a page shows stands in its address, so that a reload or a link shows it again.

    numbered    a whole number from the address, if it is one in range
    chosen      a word where the address names none of some choices
    renamed     what links of before say in other words
    left_out    take out what means nothing here, with a word
    put         write a value to the address, or take it out
    keep_puts   call where a fragment runs the page again: what was just put is not taken back
    changed     whether a chart's or table's selection is a new one
    belongs_to  forget what was chosen in another run
    keep        keep the page's address for links back to it
    kept        the parameters of such a link

Widgets that are bound (`bind="query-params"`, with the key as the parameter's name) keep the address by themselves, and
replace the browser's history entry instead of adding one; what Streamlit drops as unusable is said here beforehand.
What is clicked in charts is written with `put`, which adds an entry, so that the browser's back button undoes a click.
Links between pages carry the parameters with them (`circuit.ui.frame.navigation`): written afterwards, they would add
entries of their own, and "back" would need to be pressed twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import streamlit as st

from circuit.runs.run import Run
from circuit.ui.frame import explain, keys, markdown, memory

_SECONDS = 8
"""How long a warning stays."""
_ON_THE_WAY = 2.0
"""Seconds that a message of the browser may be on its way."""


def numbered(name: str, low: int, high: int, *, of: str = "this run") -> int | None:
    """The parameter as a whole number between `low` and `high`, as `of` has; None, with a word, for anything else."""
    text = st.query_params.get(name)
    if text is None:
        return None
    if text.isdecimal() and len(text) < 12 and low <= int(text) <= high:
        return int(text)
    _say(f"The address asks for {name}={text[:40]!r}, and {of} has {low:,} to {high:,}: left out.")
    del st.query_params[name]
    return None


def chosen(name: str, choices: Collection[str]) -> None:
    """Say so where the address names something that a bound widget does not offer, and will drop."""
    text = st.query_params.get(name)
    if text is not None and text not in choices:
        _say(f"The address asks for {name}={text[:40]!r}; there are {', '.join(map(str, choices))}: left out.")


def renamed(name: str, before: Mapping[str, str], choices: Mapping[str, Any]) -> list[Any] | None:
    """What a bound widget's parameter says in the words of links of before; None where it has none of these.

    Args:
        name: The parameter's name, which is the widget's key.
        before: For each word of before, the one of now.
        choices: For each word of now, what it stands for.
    """
    words = st.query_params.get_all(name)
    if name in st.session_state or not any(word in before for word in words):
        return None
    now = [before.get(word, word) for word in words]
    return [choices[word] for word in now] if all(word in choices for word in now) else None


def left_out(name: str) -> None:
    """Take out a parameter that means nothing in this run, and say so."""
    _say(
        f"The address asks for {name}={st.query_params.get(name, '')[:40]!r}, which this model does not have: left out."
    )
    put(name, None)


def _say(words: str) -> None:
    """Warn now, and in the next seconds."""
    words = f"{markdown.plain(words)} {explain.more('address')}"
    st.warning(words)
    memory.remember("left-out", words, _SECONDS)


def put(name: str, value: object | None) -> None:
    """Write the parameter, if it is not that already; None takes it out."""
    text = None if value is None else str(value)
    if st.query_params.get(name) != text:
        _write(name, text)
        memory.remember(f"put-{name}", (name, text), _ON_THE_WAY)


def _write(name: str, text: str | None) -> None:
    if text is None:
        del st.query_params[name]
    else:
        st.query_params[name] = text


def keep_puts() -> None:
    """Put again what was put a moment ago and is not in the address.

    A fragment's tick brings the address that the browser had when it sent it, and a page that the fragment then runs
    again would show that: as if the last click had not been.
    """
    for name, text in memory.recall_all("put-"):
        if st.query_params.get(name) != text:
            _write(name, text)


def changed(key: str, selection: Any) -> bool:
    """Whether this is another selection than at the last look, and not an empty one.

    A chart reports its selection on every run of the page, long after the click.
    """
    before = st.session_state.get(f"seen-{key}")
    st.session_state[f"seen-{key}"] = selection
    return bool(selection) and selection != before


def belongs_to(run: Run) -> None:
    """Call first: what was chosen in one run is forgotten when the session looks at another."""
    if st.session_state.get(keys.LOOKED_AT) not in (None, run.id):
        for key in keys.OF_ONE_RUN:
            st.session_state.pop(key, None)
    st.session_state[keys.LOOKED_AT] = run.id
    with st.container():  # one place, with or without a warning
        if words := memory.recall("left-out"):
            st.warning(words)  # which ends with explain.more


def keep(page: str) -> None:
    """Keep the page's address, for links back to it. Call last on the page."""
    st.session_state[f"address-{page}"] = st.query_params.to_dict()


def kept(page: str, run_id: str) -> dict[str, str]:
    """The parameters for a link to the page, as it was left if it showed this run, or with the run alone."""
    left: dict[str, str] = st.session_state.get(f"address-{page}", {})
    return left if left.get("run") == run_id else {"run": run_id}
