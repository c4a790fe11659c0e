"""Choose how importance is measured, and score every edge."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import streamlit as st

from circuit.common.errors import CircuitError, OptionError
from circuit.common.words import counted
from circuit.edges.method import AblationType, AnswerFunction, CleanCorrupt, GradFunction, IntegrationRule, Method
from circuit.edges.ranking import edge_table, top_edges
from circuit.jobs.attribute import attribute
from circuit.models.catalogue import title_of
from circuit.runs.config import RunConfig
from circuit.runs.run import Run
from circuit.ui.frame import click, explain, job_panel, keys, markdown, navigation, page, session, shared_settings
from circuit.ui.frame.page import ALL_ZERO
from circuit.ui.frame.shared_settings import DEVICES, EAP, HELD_OUT, INTEGRATED, LARGEST_BATCH, MOST_SAMPLES, ONE_POINT
from circuit.ui.prompts import tokens
from circuit.ui.run import estimate

page.begin(
    "2 · Attribute",
    "Every edge gets a mask between 0 (untouched) and 1 (ablated). Its **score** is the gradient of the loss with "
    "respect to that mask: a positive score says that ablating the edge hurts the task.",
)

METHODS = {
    EAP: "One gradient, at the untouched model. Fast, and blind where the model is saturated.",
    INTEGRATED: "The average gradient on the way from the untouched to the ablated model. Costs one pass a "
    "point, and is more faithful where the model is saturated.",
    ONE_POINT: "One gradient, with every edge ablated to the same degree.",
}
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
RULES: dict[IntegrationRule, str] = {
    "reference": "AutoCircuit's: N + 1 points from 0 to 1, equal weights.",
    "trapezoid": "The same points, ends weighted half: more accurate.",
    "midpoint": "N points between: most accurate for the cost.",
}


def choose_points() -> dict[str, float | int | str | None]:
    """Which mask values: exactly one of mask_val and integrated_grad_samples, by construction."""
    kind = st.radio(
        "Method", list(METHODS), captions=list(METHODS.values()), key=keys.KIND, persist_state="session",
        help="At which mask values the gradient is taken. Begin with edge attribution patching; take integrated "
        f"gradients where its circuit is not faithful. {explain.more('mask-value')}",
    )  # fmt: skip
    if kind == EAP:
        return {"mask_val": 0.0, "integrated_grad_samples": None}
    if kind == ONE_POINT:
        value = st.slider(
            "Mask value m", 0.0, 1.0, 0.5, 0.05, key=keys.MASK_VALUE, persist_state="session",
            help="How far all edges are ablated while the gradient is taken: 0 is the untouched model, 1 the fully "
            "ablated one.",
        )  # fmt: skip
        return {"mask_val": value, "integrated_grad_samples": None}
    n = st.slider(
        "Samples N", 1, MOST_SAMPLES, 5, key=keys.SAMPLES, persist_state="session",
        help="Mask values to average over: one forward and backward pass each. Five do for most models; take more "
        "where the circuit changes when you do.",
    )  # fmt: skip
    rule = st.selectbox(
        "Integration rule", list(RULES), key=keys.RULE, persist_state="session",
        help="Which mask values are averaged, with which weights. Midpoint is the most accurate for its cost; take "
        "reference to compare with AutoCircuit's numbers.",
    )  # fmt: skip
    st.caption(RULES[rule])
    return {"mask_val": None, "integrated_grad_samples": n, "integration_rule": rule}


def choose_loss() -> dict[str, str]:
    grad = session.choose_grad_function(
        "What is read off the model's output at the answers. Logits are the usual choice. "
        f"{explain.more('grad-function')}"
    )
    st.caption(GRAD_FUNCTIONS[grad])
    answer = st.selectbox(
        "Answer function",
        get_args(AnswerFunction),
        key=keys.ANSWER_FUNCTION,
        persist_state="session",
        help="How the answers become one number a prompt; the loss is minus that number. Take avg_diff where there are "
        f"wrong answers, avg_val where there are none. {explain.more('answer-function')}",
    )
    st.caption(ANSWER_FUNCTIONS[answer])
    return {"grad_function": grad, "answer_function": answer}


def choose_ablation() -> dict[str, AblationType | str | None]:
    ablation = st.selectbox(
        "Ablation type",
        list(ABLATIONS),
        format_func=lambda kind: str(kind).capitalize(),
        key=keys.ABLATION,
        persist_state="session",
        help="What replaces a part's activation along an ablated edge. Resample isolates what the two prompts differ "
        f"in: the usual choice. {explain.more('ablation')}",
    )
    st.caption(ABLATIONS[ablation])
    side = st.radio(
        "Ablated activations come from",
        get_args(CleanCorrupt)[::-1],
        format_func=lambda side: f"{side} prompts",
        key=keys.SIDE,
        persist_state="session",
        horizontal=True,
        disabled=not ablation.reads_batch,
        help="Which prompt of the pair the replacement is taken from: corrupt is the usual choice. "
        "Clean prompts go in, so with resample ablation 'clean' changes nothing at m = 0: every score is zero. "
        "Not used by zero ablation and by means over the whole set.",
    )
    return {"ablation_type": ablation, "clean_corrupt": side if ablation.reads_batch else None}


def choose_running() -> dict[str, object]:
    dtype = st.selectbox(
        "Precision",
        ["auto", "float32", "bfloat16", "float16"],
        key=keys.PRECISION,
        persist_state="session",
        help="Of the model's weights and activations. auto is float32 up to a billion parameters; bfloat16 halves the "
        "memory and is less exact. Scores always accumulate in float32.",
    )
    device = st.selectbox(
        "Device", DEVICES, key=keys.DEVICE, persist_state="session",
        help="What computes: auto takes NVIDIA's GPU (cuda), else Apple's (mps), else the CPU. Choose one to keep the "
        "others free.",
    )  # fmt: skip
    size = st.number_input(
        "Batch size",
        0,
        LARGEST_BATCH,
        0,
        key=keys.BATCH_SIZE,
        persist_state="session",
        help="Prompts at a time; 0 chooses by free memory. Scores do not depend on it, but for the batch means, which "
        "need one.",
    )
    apart = st.toggle(
        "Positions apart",
        key=keys.POSITIONS_APART,
        persist_state="session",
        help="Score every edge once a token position, to see where in the prompt something happens. Needs prompts of "
        f"one length, as the presets 'of one length' have. {explain.more('positions-apart')}",
    )
    held_out = st.select_slider(
        "Hold out",
        list(HELD_OUT),
        key=keys.HELD_OUT,
        persist_state="session",
        help="Pairs chosen at random that are not scored: circuits are then measured on pairs they do not stem from. "
        f"Do it before you believe a circuit, if there are a few dozen pairs. {explain.more('held-out')}",
    )
    return {
        "dtype": dtype,
        "device": device,
        "batch_size": int(size) or None,
        "keep_positions": apart,
        "held_out": HELD_OUT[held_out],
    }


shared_settings.start_from()
columns = st.columns(4, gap="medium")
with columns[0]:
    points = choose_points()
with columns[1]:
    loss = choose_loss()
with columns[2]:
    ablation = choose_ablation()
with columns[3]:
    running = choose_running()

told, beside = st.columns([4, 1], vertical_alignment="center")  # the button is seen without scrolling
prompts = session.prompts()
config: RunConfig | None = None
try:
    method = Method(**points, **loss, **ablation)  # type: ignore[arg-type]
    config = RunConfig(
        session.model_key(),
        prompts,
        method,
        prepend_bos=session.prepend_bos(),
        **running,  # type: ignore[arg-type]
    )
    if method.ablation_type.needs_batch_size and config.batch_size is None:
        raise OptionError(
            f"'{method.ablation_type}' depends on the batch size: choose one on the right. {explain.more('batch-size')}"
        )
    n_points = len(method.points)
    held_out = f" ({running['held_out']:.0%} of them held out)" if running["held_out"] else ""
    before = "No pass for the ablation"
    if method.ablation_type.reads_batch:
        before = f"One forward pass on the {method.clean_corrupt} prompts"
    elif method.ablation_type.averages_dataset:
        before = "Forward passes over all prompts for the mean"
    model = markdown.plain(title_of(session.model_key()))
    told.info(
        f"**{counted(len(prompts), 'prompt pair')}{held_out} on {model}**: {method.describe()}. {before}, "
        f"and {counted(n_points, 'forward and backward pass', 'forward and backward passes')} on the clean prompts.",
        icon=":material/functions:",
    )
except CircuitError as error:
    config = None
    told.error(str(error))

ready = config is not None and len(prompts) > 0
if not prompts.pairs:
    st.warning(f"There are no prompts yet: enter some on the page 1 · Prompts. {explain.more('clean-prompt')}")
tokens.say_what_is_used(apart=bool(running["keep_positions"]))
busy = job_panel.running("attribute") is not None
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
    st.rerun()
finished = job_panel.follow("attribute", in_address=True, now=config)
if finished is not None:
    estimate.learn(finished)
    session.show_run(finished)
    st.rerun()  # the sidebar stands above, and its links lead to the run that was shown


def summary(run: Run) -> None:
    st.subheader("Last run", anchor=False)
    st.caption(markdown.plain(run.caption))
    function = f"{run.config.method.grad_function} {run.config.method.answer_function}"
    cells = st.columns(5)
    cells[0].metric("Edges scored", f"{run.graph.n_edges:,}")
    cells[1].metric("Time", f"{run.provenance.get('seconds', math.nan):.1f} s", help="Without loading the model.")
    cells[2].metric(f"{function}, clean", f"{run.baseline.clean:+.3f}", help="The whole model, mean over pairs.")
    cells[3].metric(f"{function}, corrupt", f"{run.baseline.corrupt:+.3f}", help="The whole model, corrupt prompts.")
    right = "–" if np.isnan(run.baseline.accuracy) else f"{run.baseline.accuracy:.0%}"
    judged, n = run.baseline.judged, len(run.used_rows)
    counted_over = (
        "" if judged is None or round(judged) == n else f", of the {judged:.0f} of {n} pairs that have wrong ones"
    )
    cells[4].metric(
        "Right above wrong",
        right,
        help=f"Share of clean prompts with every right answer above every wrong{counted_over}.",
    )
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
    elif run.baseline.accuracy < 0.5:
        st.warning(
            f"The model gets fewer than half of the clean prompts right{counted_over}: read these scores with care. "
            f"{explain.more('prompt-check')}"
        )
    for note in run.notes:
        st.warning(f"{note} {explain.more('batch-size')}")
    if not run.scores.any():
        st.error(ALL_ZERO)
        return
    strongest = edge_table(run.graph, run.scores, top_edges(run.scores, 5))
    st.markdown(
        "Strongest edges: "
        + ", ".join(f"`{row.source} → {row.destination}` ({row.score:+.3g})" for row in strongest.itertuples())
    )
    navigation.next_step(navigation.SCORES, "See the scores")


if (shown := session.current_run()) is not None and not busy:
    summary(shown)
