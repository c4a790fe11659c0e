"""What a session remembers: its model, prompts, method, jobs, and the run it looks at.

Widgets keep their own values over page switches (`circuit.ui.frame.widgets`); what stands here is shared by pages. A
finished run is written to the runs directory (`circuit.ui.frame.my_runs`), and its id stands in the address of the
pages that show it, so that a reload or a link finds it again. An id is a random uuid: who has it may look.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import streamlit as st

from circuit.common.errors import RunFileError
from circuit.edges.method import GradFunction
from circuit.models.catalogue import is_allowed, known, offered
from circuit.prompts.pairs import PromptSet
from circuit.runs.examples import EXAMPLES
from circuit.runs.faithfulness import Curve
from circuit.runs.library import merge_curves
from circuit.runs.run import Run
from circuit.ui.frame import click, explain, keys, markdown, my_runs

if TYPE_CHECKING:
    from circuit.models.load import ModelCard

EXAMPLE = EXAMPLES["smollm2-ioi"].config
"""What a session starts from: model and prompts of the ready example on a real model."""

BOS_CHOICES = ("As the tokenizer does", "Yes", "No")


# --- prompts -------------------------------------------------------------------------------------------------------


def model_key() -> str:
    """The model chosen on the prompts page; another where the owner does not allow it, or any longer."""
    key = st.session_state.setdefault(keys.MODEL, EXAMPLE.model)
    if key in known() and not is_allowed(key):
        key = st.session_state[keys.MODEL] = next(iter(offered()), key)
    return key


def cards() -> dict[str, ModelCard]:
    """What is known of the models that this session has loaded, by key."""
    return st.session_state.setdefault(keys.CARDS, {})


def prompts() -> PromptSet:
    """The prompts that this session works on."""
    return st.session_state.setdefault(keys.PROMPTS, EXAMPLE.prompts)


def set_prompts(new: PromptSet) -> None:
    """Work on other prompts: the table starts over from them."""
    st.session_state[keys.PROMPTS] = new
    st.session_state[keys.PROMPT_TABLE] = st.session_state.get(keys.PROMPT_TABLE, 0) + 1


def put_prompts(new: PromptSet) -> None:
    """Work on other prompts; those there were can be brought back."""
    if (before := prompts()).pairs and before.pairs != new.pairs:
        st.session_state[keys.FORMER_PROMPTS] = before
    set_prompts(new)


def replace_prompts(new: PromptSet) -> None:
    """The same, at once."""
    put_prompts(new)
    click.run_again()


def work_on(model: str, new: PromptSet) -> None:
    """Work on another model and other prompts, from the next page on; the prompts there were can be brought back."""
    st.session_state[keys.MODEL] = model
    put_prompts(new)


def former_prompts() -> PromptSet | None:
    """The prompts that were replaced last."""
    return st.session_state.get(keys.FORMER_PROMPTS)


def take_edit(after: PromptSet, *, start_over: bool = False) -> None:
    """Take over what was typed into the table, which goes on as it is unless it is to start over."""
    before = prompts()
    if after.pairs != before.pairs:  # captions must not call other prompts by a preset's name
        st.session_state[keys.PROMPTS] = replace(after, name=before.name.removesuffix(EDITED) + EDITED)
    if start_over:
        set_prompts(prompts())


EDITED = " (edited)"


def choose_grad_function(help_text: str) -> GradFunction:
    """The choice of a grad function: one for all pages."""
    choices = get_args(GradFunction)
    now = choices.index(st.session_state.get(keys.GRAD_FUNCTION, "logit"))
    st.session_state[keys.GRAD_FUNCTION] = st.selectbox(
        "Grad function", choices, index=now, key=keys.GRAD_WIDGET, help=help_text
    )
    return st.session_state[keys.GRAD_FUNCTION]


def reset_bos() -> None:
    """Leave the BOS token to the tokenizer."""
    st.session_state[keys.BOS] = BOS_CHOICES[0]


def prepend_bos() -> bool | None:
    """Whether prompts start with a BOS token; None leaves it to the model's own tokenizer."""
    return {"Yes": True, "No": False}.get(st.session_state.get(keys.BOS, BOS_CHOICES[0]))


# --- runs ----------------------------------------------------------------------------------------------------------


def show_run(run: Run) -> None:
    """Look at a run that has just finished. The server has saved it already, if it could; else try again."""
    keep_run(run)
    my_runs.add(run.id)
    look_at(run)
    st.query_params["run"] = run.id


def keep_run(run: Run) -> None:
    """Save a run; where that fails it stays with the session, and a notice says so."""
    try:
        my_runs.library().save(run)
    except RunFileError as error:
        unsaved()[run.id] = run
        st.session_state[keys.NOTICE] = (
            f"{error} The run stays here until you close this tab: save it again, or download it, on 5 · Runs."
        )
    else:
        unsaved().pop(run.id, None)


def unsaved() -> dict[str, Run]:
    """Runs that could not be written, by id."""
    return st.session_state.setdefault(keys.UNSAVED, {})


def run_shown() -> Run | None:
    """The run that the session looks at."""
    return st.session_state.get(keys.RUN)


def look_at(run: Run) -> None:
    """Look at a run."""
    st.session_state[keys.RUN] = run


def current_run() -> Run | None:
    """The run that the session looks at, or that the address names; a warning where it cannot be shown."""
    if (why := find_run()) is not None:
        st.warning(f"The run that the address names cannot be shown. {markdown.plain(why)} {explain.more('run')}")
    run = run_shown()
    if run is not None and st.query_params.get("run") != run.id:
        st.query_params["run"] = run.id
    return run


def find_run() -> str | None:
    """Look at the run that the address names, if it names one; else why it cannot be shown."""
    wanted, run = st.query_params.get("run"), run_shown()
    if wanted and (run is None or run.id != wanted):
        try:
            look_at(stored(wanted))
        except RunFileError as error:
            return str(error)
    return None


def open_run(run_id: str) -> bool:
    """Look at a stored run; says whether it can be."""
    try:
        look_at(stored(run_id))
    except RunFileError as error:
        st.session_state[keys.NOTICE] = f"That run cannot be shown. {error}"
        return False
    return True


def stored(run_id: str) -> Run:
    """A run of this server, or of this session.

    Raises:
        RunFileError: When there is none, or it is damaged.
    """
    if run_id in unsaved():
        return unsaved()[run_id]
    return my_runs.library().load(run_id)


def forget_run(run_id: str) -> None:
    """Look no longer at a run that has been deleted."""
    unsaved().pop(run_id, None)
    my_runs.remove(run_id)
    if (run := run_shown()) is not None and run.id == run_id:
        del st.session_state[keys.RUN]
        st.query_params.pop("run", None)


def curves(run: Run) -> dict[str, Curve]:
    """What circuits of this run were measured to keep, by setting; kept in a file beside the run's."""
    known: dict[str, dict[str, Curve]] = st.session_state.setdefault(keys.CURVES, {})
    if run.id not in known:
        known[run.id] = my_runs.library().curves(run.id)
    return known[run.id]


def keep_curve(run: Run, key: str, measured: Curve) -> None:
    """Add what was measured to what this session knows, and to what others have measured meanwhile."""
    known = curves(run)
    merge_curves(known, {key: measured})
    try:
        merge_curves(known, my_runs.library().add_curves(run.id, known))
    except RunFileError:
        st.session_state[keys.NOTICE] = "What was measured could not be saved: it stays here until you close this page."


def effects(run: Run) -> dict[int, float]:
    """What ablating single edges of this run really did, by number of edge; kept in a file beside the run's."""
    known: dict[str, dict[int, float]] = st.session_state.setdefault(keys.EFFECTS, {})
    if run.id not in known:
        kept = my_runs.library().effects(run.id)
        known[run.id] = {edge: effect for edge, effect in kept.items() if edge < run.graph.n_edges}
    return known[run.id]


def keep_effects(run: Run, measured: dict[int, float]) -> None:
    """Add what was measured to what this session knows, and to the file."""
    known = effects(run)
    known.update(measured)
    try:
        known.update(my_runs.library().keep_effects(run.id, measured))
    except RunFileError as error:
        st.session_state[keys.NOTICE] = f"{error} It stays here until you close this page."
