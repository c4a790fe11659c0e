"""Choose how importance is measured, and score every edge."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import streamlit as st

from circuit.common.errors import CircuitError, OptionError
from circuit.common.words import counted
from circuit.edges.kinds import EAP, OFFERED, RULES, Kind
from circuit.edges.method import (
    DEFAULT_METHOD,
    DEFAULT_STEPS,
    WHY_DEFAULT,
    AblationType,
    AnswerFunction,
    Backward,
    CleanCorrupt,
    GradFunction,
    IntegrationRule,
    Method,
    Precision,
)
from circuit.edges.ranking import top_edges
from circuit.jobs.attribute import attribute
from circuit.models.catalogue import title_of
from circuit.runs.config import RunConfig
from circuit.runs.run import Run
from circuit.ui.frame import click, explain, job_panel, keys, markdown, navigation, page, session, shared_settings
from circuit.ui.frame.page import ALL_ZERO
from circuit.ui.frame.shared_settings import (
    DEVICES,
    ENOUGH_TO_HOLD_OUT,
    HELD_OUT,
    LARGEST_BATCH,
    LARGEST_SEED,
    MOST_SAMPLES,
    STEPS,
    held_out_by_default,
)
from circuit.ui.frame.widgets import kept
from circuit.ui.prompts import tokens
from circuit.ui.run import audition, estimate

GRAD_FUNCTIONS: dict[GradFunction, str] = {
    "logit": "Logits of the answers: linear, the usual choice.",
    "prob": "Probabilities of the answers: vanishes where the model is sure.",
    "logprob": "Log probabilities of the answers: also counts what takes probability away from other tokens.",
    "logit_exp": "Exponentials of the logits over their sum held constant: like prob, without vanishing near 1.",
}
ANSWER_FUNCTIONS: dict[AnswerFunction, str] = {
    "avg_diff": "Mean of the right answers minus mean of the wrong ones.",
    "avg_val": "Mean of the right answers; wrong ones are not used.",
    "mse": "Minus the squared distance, over the vocabulary, from the uniform distribution over the right answers.",
}
ABLATIONS = {
    AblationType.RESAMPLE: "The same part's activation on the other prompt of the pair. Isolates what they differ in.",
    AblationType.ZERO: "Zeros: the part is taken out altogether.",
    AblationType.TOKENWISE_MEAN_CLEAN: "The mean over all clean prompts, token position by token position.",
    AblationType.TOKENWISE_MEAN_CORRUPT: "The mean over all corrupt prompts, token position by token position.",
    AblationType.TOKENWISE_MEAN_CLEAN_AND_CORRUPT: "The mean over all clean and corrupt prompts, position by position.",
    AblationType.BATCH_TOKENWISE_MEAN: "The mean over the prompts of the batch, position by position.",
    AblationType.BATCH_ALL_TOK_MEAN: "One mean over all prompts and positions of the batch.",
}
INTEGRATION_RULES: dict[IntegrationRule, str] = {
    "reference": "The published points, equal weights: to compare with AutoCircuit's or EAP-IG's numbers.",
    "trapezoid": "N + 1 points from 0 to 1, ends weighted half: more accurate.",
    "midpoint": "N points between: most accurate for the cost.",
}


def choose_kind() -> Kind:
    kinds = {kind.title: kind for kind in OFFERED}
    title = st.selectbox(
        "Method",
        list(kinds),
        list(kinds).index(DEFAULT_METHOD.kind.title),
        help="Where gradients are taken, on which way from the model to its ablation. "
        f"{EAP.title} is the fastest and often misleads. {', '.join(explain.link(kind.key) for kind in OFFERED)}.",
        **kept(keys.KIND),
    )
    kind = kinds[title]
    st.caption(f"{kind.sentence} {kind.limits}")
    return kind


def choose_mask_value() -> float:
    return st.slider(
        "Mask value m",
        0.0,
        1.0,
        0.5,
        0.05,
        help="How far all edges are ablated while the gradient is taken: 0 is the untouched model, 1 the fully ablated "
        "one.",
        **kept(keys.MASK_VALUE),
    )


def choose_samples() -> int:
    return st.slider(
        "Samples N",
        1,
        MOST_SAMPLES,
        DEFAULT_METHOD.integrated_grad_samples,
        help="Points to average over: one forward and backward pass each, and over activations as many for every group "
        "of parts. Five do for most models; take more where the circuit changes when you do.",
        **kept(keys.SAMPLES),
    )


def choose_steps() -> dict[str, int]:
    steps = st.select_slider(
        "Steps",
        STEPS,
        DEFAULT_STEPS,
        help="How often a circuit is drawn, run on eight prompts and corrected. A curve shows how far circuits still "
        "are from the model: learning can be ended early, and keeps what it has.",
        **kept(keys.STEPS),
    )
    seed = st.number_input(
        "Seed",
        0,
        LARGEST_SEED,
        0,
        help="Of what is drawn at random: edges that another seed finds too are to be trusted more.",
        **kept(keys.SEED),
    )
    return {"learning_steps": int(steps), "learning_seed": int(seed)}


def choose_rule() -> IntegrationRule:
    rule = st.selectbox(
        "Integration rule",
        list(INTEGRATION_RULES),
        list(INTEGRATION_RULES).index(DEFAULT_METHOD.integration_rule),
        help="Which points are averaged, with which weights. Midpoint is the most accurate for its cost; take "
        f"reference to compare with published numbers. {explain.more('integration-rule')}",
        **kept(keys.RULE),
    )
    st.caption(INTEGRATION_RULES[rule])
    return rule


def choose_backward() -> Backward:
    backward = st.selectbox(
        "Backward pass",
        get_args(Backward),
        format_func=lambda rule: RULES[rule].title,
        help="By which rules the loss is led back to the edges. The gradient is the usual choice. "
        f"{', '.join(explain.link(rule.key, rule.title) for rule in RULES.values())}.",
        **kept(keys.BACKWARD),
    )
    st.caption(f"{RULES[backward].sentence} {explain.more(RULES[backward].key)}")
    return backward


def choose_loss() -> dict[str, Any]:
    grad = session.choose_grad_function(
        "What is read off the model's output at the answers. Logits are the usual choice. "
        f"{explain.more('grad-function')}"
    )
    st.caption(GRAD_FUNCTIONS[grad])
    answer = st.selectbox(
        "Answer function",
        get_args(AnswerFunction),
        help="How the answers become one number per prompt; the loss is minus that number. Take avg_diff where there "
        f"are wrong answers, avg_val where there are none. {explain.more('answer-function')}",
        **kept(keys.ANSWER_FUNCTION),
    )
    st.caption(ANSWER_FUNCTIONS[answer])
    return {"grad_function": grad, "answer_function": answer}


def choose_ablation() -> dict[str, Any]:
    ablation = st.selectbox(
        "Ablation type",
        list(ABLATIONS),
        format_func=lambda kind: str(kind).capitalize(),
        help="What replaces a part's activation along an ablated edge. Resample isolates what the two prompts differ "
        f"in: the usual choice. {explain.more('ablation')}",
        **kept(keys.ABLATION),
    )
    st.caption(ABLATIONS[ablation])
    side = st.radio(
        "Ablated activations come from",
        get_args(CleanCorrupt)[::-1],
        format_func=lambda side: f"{side} prompts",
        horizontal=True,
        disabled=not ablation.reads_batch,
        help="Which prompt of the pair the replacement is taken from: corrupt is the usual choice. "
        "Clean prompts go in, so with resample ablation 'clean' changes nothing at m = 0: every score is zero. "
        "Not used by zero ablation and by means over the whole set.",
        **kept(keys.SIDE),
    )
    return {"ablation_type": ablation, "clean_corrupt": side if ablation.reads_batch else None}


def choose_pairs() -> dict[str, Any]:
    """Which pairs are scored, and whether their positions are."""
    if not st.session_state.get(keys.HELD_OUT_CHOSEN):
        st.session_state[keys.HELD_OUT] = held_out_by_default(len(session.prompts()))
    held_out = st.select_slider(
        "Hold out",
        list(HELD_OUT),
        help="Pairs chosen at random that are not scored: circuits are then measured on pairs they were not made from. "
        f"Half of {ENOUGH_TO_HOLD_OUT} pairs or more, unless you choose otherwise. {explain.more('held-out')}",
        on_change=st.session_state.update,
        args=({keys.HELD_OUT_CHOSEN: True},),
        **kept(keys.HELD_OUT),
    )
    apart = st.toggle(
        "Positions apart",
        help="Scores every edge at each token position, to see where in the prompt something happens. Needs prompts "
        f"of one length, as the presets 'of one length' have. {explain.more('positions-apart')}",
        **kept(keys.POSITIONS_APART),
    )
    return {"held_out": HELD_OUT[held_out], "keep_positions": apart}


def choose_machine() -> dict[str, Any]:
    """What computes, how exactly, and how many prompts at a time."""
    dtype = st.selectbox(
        "Precision",
        get_args(Precision),
        help="Of the model's weights and activations. auto is float32 up to a billion parameters; bfloat16 halves the "
        "memory and is less exact. Scores always accumulate in float32.",
        **kept(keys.PRECISION),
    )
    device = st.selectbox(
        "Device",
        DEVICES,
        help="What computes: auto takes NVIDIA's GPU (cuda), else Apple's (mps), else the CPU. Choose one to keep the "
        "others free.",
        **kept(keys.DEVICE),
    )
    size = st.number_input(
        "Batch size",
        0,
        LARGEST_BATCH,
        0,
        help="Prompts at a time; 0 chooses by free memory. Scores do not depend on it, except with the batch means, "
        "which need one.",
        **kept(keys.BATCH_SIZE),
    )
    return {"dtype": dtype, "device": device, "batch_size": int(size) or None}


def choose() -> tuple[Method, dict[str, Any]]:
    """The whole form: the method, and how it is run.

    Raises:
        OptionError: When the choices do not fit together.
    """
    columns = st.columns(4, gap="medium")
    with columns[0]:
        kind = choose_kind()
        mask_val = choose_mask_value() if kind.asks == "mask_val" else 0.0
        samples = choose_samples() if kind.asks == "integrated_grad_samples" else 1
        learning = choose_steps() if kind.asks == "learning_steps" else {}
    with columns[1]:
        loss = choose_loss()
    with columns[2]:
        ablation = choose_ablation()
    with columns[3]:
        running = choose_pairs()
        with st.popover("More options", icon=":material/tune:", width="stretch"):
            rule = choose_rule() if kind.asks == "integrated_grad_samples" else "reference"
            backward = choose_backward()
            running |= choose_machine()
        if others := less_usual(rule, backward, running):
            st.caption(f"Set there: {', '.join(others)}.")
    method = Method(**kind.options(mask_val, samples, rule, **learning), **loss, **ablation, backward=backward)
    if method == DEFAULT_METHOD:
        st.caption(WHY_DEFAULT)
    return method, running


def less_usual(rule: IntegrationRule, backward: Backward, running: dict[str, Any]) -> list[str]:
    """What was chosen among the options that are folded away, so that nobody overlooks it."""
    chosen = [f"{rule} points"] if rule not in ("reference", DEFAULT_METHOD.integration_rule) else []
    chosen += [RULES[backward].title] if backward != DEFAULT_METHOD.backward else []
    chosen += [running[name] for name in ("dtype", "device") if running[name] != "auto"]
    return chosen + ([f"batches of {running['batch_size']}"] if running["batch_size"] else [])


def in_words(config: RunConfig) -> str:
    """What the run will do.

    Raises:
        OptionError: When it cannot.
    """
    method = config.method
    if method.ablation_type.needs_batch_size and config.batch_size is None:
        raise OptionError(
            f"'{method.ablation_type}' depends on the batch size: choose one under More options. "
            f"{explain.more('batch-size')}"
        )
    method.check_positions(config.keep_positions)
    held_out = f" ({config.held_out:.0%} of them held out)" if config.held_out else ""
    return (
        f"**{counted(len(config.prompts), 'prompt pair')}{held_out} on {markdown.plain(title_of(config.model))}**: "
        f"{method.describe()}. {passes_in_words(method, estimate.layers_of(config.model))}"
    )


def passes_in_words(method: Method, n_layers: int | None) -> str:
    """What the run costs, in passes over the prompts; `n_layers` is None where the model has not been seen yet."""
    if method.path == "learned":
        return f"{len(DEFAULT_METHOD.points)} passes to begin with, then {method.passes_in_words(n_layers)}."
    before = "No pass for the ablation"
    if method.ablation_type.reads_batch:
        before = f"One forward pass on the {method.clean_corrupt} prompts"
    elif method.ablation_type.averages_dataset:
        before = "Forward passes over all prompts for the mean"
    if method.path != "masks":
        before += ", one on the clean ones for what the parts write there"
    return f"{before}, and {method.passes_in_words(n_layers)}."


def summary(run: Run) -> None:
    """The run that is shown, in a few numbers, and what is wrong with it."""
    st.subheader("Last run", anchor=False)
    st.caption(markdown.plain(run.caption))
    function = f"{run.config.method.grad_function} {run.config.method.answer_function}"
    cells = st.columns(5)
    cells[0].metric("Edges scored", f"{run.graph.n_edges:,}")
    cells[1].metric("Time", f"{run.provenance.get('seconds', math.nan):.1f} s", help="Without loading the model.")
    cells[2].metric(f"{function}, clean", f"{run.baseline.clean:+.3f}", help="The whole model, mean over pairs.")
    cells[3].metric(f"{function}, corrupt", f"{run.baseline.corrupt:+.3f}", help="The whole model, corrupt prompts.")
    right = "–" if np.isnan(run.baseline.accuracy) else f"{run.baseline.accuracy:.0%}"
    cells[4].metric(
        "Right above wrong",
        right,
        help="Share of clean prompts with every right answer above every wrong one, of those that have a wrong one.",
    )
    warnings(run)
    if not run.scores.any():
        st.error(ALL_ZERO)
        return
    strongest = top_edges(run.scores, 5).tolist()
    st.markdown(
        "Strongest edges: "
        + ", ".join(f"`{run.graph.edge_label(edge)}` ({run.scores[edge]:+.3g})" for edge in strongest)
    )
    navigation.next_step(navigation.SCORES, "See the scores")


def warnings(run: Run) -> None:
    """Why to read the scores with care."""
    if left_out := len(run.config.prompts) - len(run.used_rows) - len(run.held_out_rows):
        st.warning(
            f"{left_out} of {len(run.config.prompts)} pairs could not be used: check them on 1 · Prompts. "
            f"{explain.more('prompt-check')}"
        )
    if run.baseline.clean <= run.baseline.corrupt:
        st.error(
            "On average the model does no better on clean than on corrupt prompts: these scores mean little. "
            f"{explain.more('prompt-check')}"
        )
    elif run.config.method.is_flat_at(run.baseline.clean):
        st.warning(
            f"After the clean prompts the model is all but certain ({run.baseline.clean:.3f} of at most 1): its "
            "probabilities hardly move there, so gradients, and with them the scores, are close to zero. Take logit as "
            f"grad function, or integrated gradients. {explain.more('grad-function')}"
        )
    elif run.baseline.accuracy < 0.5:
        st.warning(
            "The model gets fewer than half of the clean prompts right: read these scores with care. "
            f"{explain.more('prompt-check')}"
        )
    for note in run.notes:
        st.warning(f"{markdown.plain(note)} {explain.more('batch-size')}")


# --- the page ------------------------------------------------------------------------------------------------------

page.begin(
    "2 · Attribute",
    "Every edge gets a mask between 0 (untouched) and 1 (ablated). Its **score** is the gradient of the loss with "
    "respect to that mask: a positive score estimates that ablating the edge hurts the task.",
)
shared_settings.start_from()
form = st.container()
told, beside = st.columns([4, 1], vertical_alignment="center")  # the button is seen without scrolling
prompts = session.prompts()
config: RunConfig | None = None
try:
    with form:
        method, running = choose()
    config = RunConfig(session.model_key(), prompts, method, prepend_bos=session.prepend_bos(), **running)
    told.info(in_words(config), icon=":material/functions:")
except CircuitError as error:
    config = None
    told.error(str(error))

ready = config is not None and len(prompts) > 0
busy = job_panel.running("attribute") is not None
with st.container():  # one place, whatever there is to say
    if not prompts.pairs:
        st.warning(f"There are no prompts yet: enter some on the page 1 · Prompts. {explain.more('clean-prompt')}")
    if config is not None and config.method.replaces_nothing:
        st.warning(
            "Resample ablation from the clean prompts replaces every activation by itself, so every score will be "
            f"zero: let activations come from the corrupt prompts. {explain.more('ablation')}"
        )
    tokens.say_what_is_used(
        apart=bool(st.session_state[keys.POSITIONS_APART]),
        compares=st.session_state[keys.ANSWER_FUNCTION] == "avg_diff",
    )
    if config is not None and ready and not busy:
        estimate.show(config)
with beside:
    clicked = click.button(
        "Run attribution",
        key="run-attribution",
        type="primary",
        icon=":material/play_arrow:",
        disabled=busy or not ready,
        width="stretch",
        help="Scores every edge with these options. It goes on when you leave the page, and can be cancelled.",
    )
if clicked:
    job_panel.start("attribute", attribute, config, title=f"{prompts.name} on {title_of(session.model_key())}")
    click.run_again()
finished = job_panel.follow("attribute", in_address=True, now=config)
if finished is not None:
    estimate.learn(finished)
    session.show_run(finished)
    click.run_again()  # the sidebar stands above, and its links lead to the run that was shown
with st.container():
    if (shown := session.current_run()) is not None and not busy:
        summary(shown)
if config is not None and ready:
    audition.panel(config)
