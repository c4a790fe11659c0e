"""Settings of a run put into the pages: from a link, from a file, or from the run that is shown.

    take         call on every page: use the settings that the address carries, once
    use          fill 1 · Prompts and 2 · Attribute with a run's settings
    start_from   the two ways to fill the form of 2 · Attribute: the run that is shown, or a settings file

What the forms cannot show is left out, with a word: a link may ask for anything.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from circuit.common.errors import LinkError
from circuit.common.words import MB, counted
from circuit.edges.kinds import OFFERED
from circuit.edges.method import Method
from circuit.models.catalogue import is_allowed, title_of
from circuit.runs.config import RunConfig
from circuit.runs.links import LARGEST_SETTINGS, read_settings, read_settings_file
from circuit.ui.frame import explain, keys, markdown, memory, session

MOST_SAMPLES = 30
STEPS = (50, 100, 200, 300, 500, 1000, 2000)
"""Steps of learning that the form offers."""
LARGEST_SEED = 10_000
HELD_OUT = {"none": 0.0, "a quarter": 0.25, "half": 0.5}
ENOUGH_TO_HOLD_OUT = 10
"""Prompt pairs of which half is held out where nobody has chosen: an interval needs five."""
LARGEST_BATCH = 512
DEVICES = ("auto", "cpu", "cuda", "mps")
_SECONDS = 10
"""For how many seconds the page says what was filled in."""


def take() -> None:
    """Use the settings in the address, if there are any, and take them out of it: what is chosen next counts."""
    text = st.query_params.get("settings")
    if text is None:
        return
    del st.query_params["settings"]
    try:
        use(read_settings(text), "the link")
    except LinkError as error:
        say(f"{error} Nothing was changed.", good=False)


def use(config: RunConfig, source: str) -> None:
    """Fill the forms. Call before any of their widgets is drawn on this page; `source` is what to call the origin."""
    missing: list[str] = []
    if is_allowed(config.model):
        st.session_state[keys.MODEL] = config.model
        model = title_of(config.model)
    else:
        missing.append(f"the model {config.model[:60]!r}, which this server does not offer")
        model = title_of(session.model_key())
    session.put_prompts(config.prompts)
    st.session_state[keys.BOS] = {None: session.BOS_CHOICES[0], True: "Yes", False: "No"}[config.prepend_bos]
    _use_method(config.method, missing)
    _use_running(config, missing)
    pairs = counted(len(config.prompts), "prompt pair")
    words = f"Taken from {source}: {pairs} ({config.prompts.name[:80]}), {model}, and {config.method.describe()}."
    if missing:
        words += f" Left out: {'; '.join(missing)}."
    say(words)


def start_from() -> None:
    """Two ways to fill the form, in one row."""
    run = session.current_run()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Use this run's settings",
            icon=":material/replay:",
            key="use-run",
            disabled=run is None,
            on_click=None if run is None else use,
            args=None if run is None else (run.config, "the run that is shown"),
            help="Fills this form, the model and the prompts from the run that the sidebar calls 'Run shown'."
            if run is not None
            else "There is no run yet.",
        )
        with st.popover("Settings from a file", key="open-settings", icon=":material/upload_file:"):
            _from_file()


def _from_file() -> None:
    file = st.file_uploader(
        "A settings file, from the Share button of a run",
        type=["json"],
        key="settings-file",
        max_upload_size=LARGEST_SETTINGS // MB,
        help="Fills this form, the model and the prompts with its settings.",
    )
    if file is None:
        return
    try:
        config = read_settings_file(file.getvalue())
    except LinkError as error:
        st.error(markdown.plain(str(error)))
    else:
        st.button("Use these settings", type="primary", on_click=use, args=(config, "the file"))


def say(words: str, *, good: bool = True) -> None:
    """Say what has just been filled in, at the top of the page, now and in the next seconds."""
    memory.remember("adopted", (words, good), _SECONDS)


def show_said() -> None:
    if said := memory.recall("adopted"):
        words, good = said
        words = markdown.plain(words)  # prompts and names may hold any of markdown's marks
        st.success(words, icon=":material/input:") if good else st.warning(f"{words} {explain.more('address')}")


def _use_method(method: Method, missing: list[str]) -> None:
    state: dict[str, Any] = {
        keys.ANSWER_FUNCTION: method.answer_function,
        keys.ABLATION: method.ablation_type,
        keys.BACKWARD: method.backward,
    }
    if method.clean_corrupt is not None:
        state[keys.SIDE] = method.clean_corrupt
    if method.kind not in OFFERED:
        missing.append(f"the method {method.kind.title!r}, which the page does not offer")
    else:
        state[keys.KIND] = method.kind.title
    if method.kind.asks == "mask_val":
        state[keys.MASK_VALUE] = float(method.mask_val or 0.0)
    elif method.kind.asks == "integrated_grad_samples":
        n = method.integrated_grad_samples or 1
        state |= {keys.SAMPLES: min(n, MOST_SAMPLES), keys.RULE: method.integration_rule}
        if n > MOST_SAMPLES:
            missing.append(f"{n:,} samples, of which the page offers {MOST_SAMPLES}")
    elif method.kind.asks == "learning_steps":
        steps, seed = method.learning_steps or 1, method.learning_seed
        state |= {keys.STEPS: min(STEPS, key=lambda each: abs(each - steps)), keys.SEED: min(seed, LARGEST_SEED)}
        if steps not in STEPS:
            missing.append(f"{steps:,} steps of learning, of which the page offers {', '.join(map(str, STEPS))}")
        if seed > LARGEST_SEED:
            missing.append(f"the seed {seed} of learning, of which the page offers up to {LARGEST_SEED:,}")
    st.session_state[keys.GRAD_FUNCTION] = st.session_state[keys.GRAD_WIDGET] = method.grad_function
    st.session_state.update(state)


def held_out_by_default(n_pairs: int) -> str:
    """Which share of so many pairs is held out, so that circuits are measured on prompts that they do not stem from."""
    return "half" if n_pairs >= ENOUGH_TO_HOLD_OUT else "none"


def _use_running(config: RunConfig, missing: list[str]) -> None:
    state: dict[str, Any] = {keys.PRECISION: config.dtype, keys.POSITIONS_APART: config.keep_positions}
    if config.device in DEVICES:
        state[keys.DEVICE] = config.device
    else:
        missing.append(f"the device {config.device[:20]!r}")
    if (size := config.batch_size or 0) <= LARGEST_BATCH:
        state[keys.BATCH_SIZE] = size
    else:
        missing.append(f"the batch size {size:,}, of which the page offers {LARGEST_BATCH}")
    share = next((words for words, value in HELD_OUT.items() if value == config.held_out), None)
    if share is None:
        missing.append(f"holding out {config.held_out:.0%}, which the page does not offer")
    state |= {keys.HELD_OUT: share or "none", keys.HELD_OUT_CHOSEN: True}
    if config.split_seed:
        missing.append(f"the seed {config.split_seed} of the split into scored and held-out pairs: the page uses 0")
    st.session_state.update(state)
