"""Which runs a visitor sees, and where runs are kept.

    library      the runs directory
    keeper       how a job saves the runs that it makes for this session
    listing      what 5 · Runs lists: all runs of the server, or those of this session
    lists_all    which of the two

A run's id is a capability: who has it may look at the run, whatever is listed. All runs are listed where the server
serves one person: it listens on this machine only, and the browser has reached it by this machine's own name. (Anybody
may let a name of theirs lead here, and what a script says of its address is its own choice; the Host header is the
browser's.) Everywhere else a session lists its own, unless the owner's setting `list_runs` says "all" (or "own", to
make sure). A session's own runs are kept in a small file whose random id stands in the address as `mine`, so that a
reload finds them; links of the Share button leave it out. A run is written there as it is saved, so that it is listed
also where its tab has been closed.
"""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

import streamlit as st

from circuit.common.settings import runs_folder, settings
from circuit.runs import lists
from circuit.runs.library import Listing, RunLibrary
from circuit.runs.run import RUN_ID, Run
from circuit.ui.frame import keys


def library() -> RunLibrary:
    return RunLibrary(runs_folder(), settings().most_runs, settings().most_scores)


def keeper() -> Callable[[Run], None]:
    """A function for a job: save a run and list it as this session's, whether or not a browser still waits for it."""
    runs, mine = library(), st.session_state.get(keys.MINE)
    if mine is not None:
        st.query_params["mine"] = mine  # who comes back to this address finds the list

    def keep(run: Run) -> None:
        runs.save(run)
        if mine is not None:
            lists.change_list(runs.folder, mine, lists.added(run.id))

    return keep


def listing() -> Listing:
    """The runs that this visitor sees."""
    if lists_all():
        return library().listing()
    mine = [entry for run_id in own() if (entry := library().entry(run_id)) is not None]
    return Listing(sorted(mine, key=lambda entry: (entry.date, entry.id), reverse=True))


def lists_all() -> bool:
    """Whether every visitor sees all runs of the server."""
    if (said := settings().list_runs) != "auto":
        return said == "all"
    forwarded = any(name.lower().startswith(("x-forwarded", "forwarded")) for name in st.context.headers)
    claimed = urlsplit(st.context.url or "http://localhost").hostname
    hosts = [st.get_option("server.address"), claimed, _host(st.context.headers.get("Host", "localhost"))]
    return not forwarded and all(map(_is_this_machine, hosts))


def _host(header: str) -> str | None:
    """The host that a Host header names, without its port; None where it is no host."""
    with suppress(ValueError):
        return urlsplit(f"//{header}").hostname
    return None


def _is_this_machine(host: str | None) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host or "").is_loopback
    return host == "localhost"


# --- those of this session -----------------------------------------------------------------------------------------


def own() -> list[str]:
    """Ids of the runs that this session has made, or taken in from a file."""
    return st.session_state.setdefault(keys.OWN_RUNS, [])


def add(run_id: str) -> None:
    if run_id not in own():
        own().append(run_id)
    _change(lists.added(run_id))


def remove(run_id: str) -> None:
    if run_id in own():
        own().remove(run_id)
    _change(lists.removed(run_id))


def sync() -> None:
    """Call at the start of every page: find the session's runs again, and keep their address."""
    if lists_all():
        return
    if keys.MINE not in st.session_state:
        found = st.query_params.get("mine", "")
        st.session_state[keys.MINE] = found if RUN_ID.fullmatch(found) else uuid.uuid4().hex
    written = lists.read_list(runs_folder(), st.session_state[keys.MINE])  # a job may have added one since
    st.session_state[keys.OWN_RUNS] = list(dict.fromkeys([*written, *own()]))
    if own() and st.query_params.get("mine") != st.session_state[keys.MINE]:
        st.query_params["mine"] = st.session_state[keys.MINE]


def _change(change: lists.Change) -> None:
    if (mine := st.session_state.get(keys.MINE)) is not None:
        lists.change_list(runs_folder(), mine, change)
