"""Before a run: about how long it will take, how much memory, and what to change where that is too much.

    show        one line, and a warning where the run will not fit; changes at once with the options
    show_sweep  one line for all runs of a sweep, where its models have been measured
    learn       how long the run really took
    layers_of   how many layers a model has, where that is known

The worker measures a model on its device once, when it is first needed; what it found is kept for all sessions, and
put right by every run that was estimated.
"""

from __future__ import annotations

import streamlit as st

from circuit.common.errors import CircuitError, OptionError
from circuit.common.settings import settings
from circuit.common.words import seconds as in_words
from circuit.jobs.attribute import attribute
from circuit.jobs.calibrate import calibrate
from circuit.jobs.estimate import Pace, Work
from circuit.jobs.limits import check_scores
from circuit.jobs.load import ModelRequest
from circuit.jobs.shards import shards
from circuit.jobs.sweep import Sweep
from circuit.models.catalogue import is_here, known, title_of
from circuit.prompts.encode import encode
from circuit.runs.config import RunConfig
from circuit.runs.run import Run
from circuit.ui.frame import explain, job_panel, keys, session
from circuit.ui.frame.server import job_server
from circuit.ui.prompts import tokens

Key = tuple[str, str, str]


@st.cache_resource(show_spinner=False)
def paces() -> dict[Key, Pace]:
    """What was measured, by model, device and precision, for all sessions."""
    return {}


def layers_of(model: str) -> int | None:
    """How many layers it has; None where it has neither been loaded nor measured, and nobody has counted."""
    if (card := session.cards().get(model)) is not None:
        return card.n_layers
    measured = (pace.shape.n_layers for (name, _, _), pace in paces().items() if name == model)
    entry = known().get(model)
    return next(measured, None) or (entry.n_layers if entry is not None else 0) or None


def show(config: RunConfig) -> None:
    """What the run will take."""
    key = (config.model, config.device, config.dtype)
    slot = "pace-" + "-".join(key)
    pace = paces().get(key)
    if pace is None and (is_here(config.model) or config.model in session.cards()):
        pace = job_panel.computed(
            slot,
            calibrate,
            ModelRequest(config.model, config.dtype, config.device),
            f"Measuring how fast {title_of(config.model)} runs here",
            known=lambda: paces().get(key),
            keep=lambda _, found: paces().__setitem__(key, found),
            quiet=":material/timer: Measuring how fast this model runs here, to say how long a run takes …",
        )
    if pace is not None:
        _say(config, pace)
    elif job_panel.running(slot) is None:  # not begun, or failed: the run itself will say what is wrong
        st.caption("Time and memory are estimated once the model has been loaded.")


def show_sweep(sweep: Sweep) -> None:
    """What the runs of a sweep will take together; nothing is measured for it."""
    seconds = 0.0
    lengths = {}
    for request in sweep.requests():
        config = request.config
        pace, words = paces().get((config.model, config.device, config.dtype)), tokens.known(config.model)
        if pace is None or words is None:
            st.caption("Time is estimated for models that 2 · Attribute has estimated a run of.")
            return
        if (of := (config.model, config.prompts)) not in lengths:
            encoded = encode(config.prompts, words, words.prepend_bos, words.n_ctx)
            lengths[of] = [len(encoded.clean[row]) for row in encoded.usable]
        if lengths[of]:  # else the run will say in its row that it has no prompts
            seconds += pace.estimate(Work.of(config, lengths[of])).seconds
    st.caption(
        f":material/timer: About {in_words(seconds / job_server().workers)} for all {len(sweep)} runs; measuring their "
        "circuits comes on top."
    )


def learn(run: Run) -> None:
    """Correct the pace by a run that was estimated and has finished."""
    config, seconds = st.session_state.pop(keys.ESTIMATED, (None, 0.0))
    key = (run.config.model, run.config.device, run.config.dtype)
    if config == run.config and key in paces():
        paces()[key] = paces()[key].corrected(seconds, run.provenance["seconds"])


def _say(config: RunConfig, pace: Pace) -> None:
    words = tokens.tokenizer()
    if words is None:
        return
    encoded = tokens.encoded(words)
    lengths = [len(encoded.clean[row]) for row in encoded.usable]
    try:
        work = Work.of(config, lengths)
    except CircuitError:
        return  # no prompt can be used, which the page says
    try:
        positions = lengths[0] if config.keep_positions else None
        check_scores(pace.shape.n_edges, positions, settings().most_scores)
    except OptionError as error:
        st.error(str(error))
        return
    cut = shards(attribute, config, job_server().workers)
    estimate = pace.estimate(work, 1 if cut is None else min(job_server().workers, len(cut.requests)))
    together = f" In {len(cut.requests)} parts on {job_server().workers} workers." if cut is not None else ""
    st.session_state[keys.ESTIMATED] = (config, estimate.seconds)
    st.caption(f":material/timer: {estimate.words}.{together}")
    if estimate.advice:
        st.warning(f"{estimate.advice} {explain.more('batch-size')}")
