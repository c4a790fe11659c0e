"""Does the circuit still do the task? The measured answer beside the graph, and the curve over all sizes below it.

    Setting      what a measurement depends on, beside the run and the size
    ask          the setting that the page's controls ask for
    panel        the chosen circuit: faithfulness, verdict, numbers; measured by itself when the choice changes
    curve        all sizes, with CPR and CMD, random circuits, and the smallest circuit that keeps 90 %

What was measured is kept with the run, by setting (`session.curves`).
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace

import numpy as np
import streamlit as st

from circuit.faithfulness import Curve, Measured, curve_sizes
from circuit.measuring import Direction, MeasureRequest, find_smallest, measure, measure_all
from circuit.method import AblationType
from circuit.plots.faithfulness import faithfulness_curve
from circuit.pruning import IMPORTANCE_WORDS, Importance
from circuit.runs import Run
from circuit.ui import address, click, explain, job_panel, page, session
from circuit.ui.choice import Choice

_RANDOM_SEEDS = (0, 1, 2)
_TARGET = 0.9
_DIRECTIONS: dict[str, Direction] = {"Is it enough?": "keep", "Is it needed?": "remove"}


@dataclass(frozen=True)
class Setting:
    """What a measurement depends on, beside the run and the size."""

    held_out: bool
    importance: Importance
    drop_dead_ends: bool
    direction: Direction = "keep"
    shuffled: int | None = None

    @property
    def key(self) -> str:
        return "/".join(map(str, astuple(self)))

    def request(self, run: Run, *sizes: int) -> MeasureRequest:
        rows = run.held_out_rows if self.held_out else run.used_rows
        return MeasureRequest(
            run.config,
            run.scores,
            sizes,
            self.importance,
            self.drop_dead_ends,
            self.direction,
            run.config.method.ablation_type,
            tuple(rows),
            self.shuffled,
        )

    def pairs(self, run: Run) -> str:
        """Which pairs, in words."""
        if self.held_out:
            return f"the {len(run.held_out_rows)} prompt pairs that were held out from the scores"
        return (
            f"the {len(run.used_rows)} prompt pairs that the scores were made from: new prompts may do worse (hold "
            "some out on 2 · Attribute)"
        )


def panel(run: Run, choice: Choice, setting: Setting) -> None:
    """The chosen circuit, measured when it is new."""
    slot = f"measure-{run.id}-{setting.key}"
    if (found := job_panel.follow(slot)) is not None:
        session.keep_curve(run, setting.key, found)
    curve = session.curves(run).get(setting.key)
    failed = f"error-{slot}" in st.session_state
    circuit = None if curve is None else curve.whole if choice.n == run.graph.n_edges else curve.at(choice.n)
    if curve is None or circuit is None:
        if failed and st.button("Measure again", help="Runs the circuit over the prompts once more."):
            del st.session_state[f"error-{slot}"]
            st.rerun()
        if not failed and job_panel.running(slot) is None:
            title = f"Measuring the circuit of {choice.n:,} edges"
            job_panel.start(slot, measure, setting.request(run, choice.n), title=title)
            job_panel.follow(slot)
        return
    _report(run, circuit, setting, curve)


def ask(run: Run, choice: Choice) -> Setting:
    """What to measure: the chosen edges, on pairs that were scored or, where there are any, held out."""
    held_out = False
    if run.held_out_rows:
        address.chosen("measured_on", ("held out", "scored"))
        held_out = st.segmented_control(
            "Measured on", ["held out", "scored"], default="held out", required=True, key="measured_on",
            bind="query-params", persist_state="session",
            help="Pairs that the scores were not made from say what the circuit is worth on new prompts.",
        ) == "held out"  # fmt: skip
    return Setting(held_out, choice.importance, choice.drop_dead_ends)


def _report(run: Run, circuit: Measured, setting: Setting, curve: Curve) -> None:
    method, n = run.config.method, circuit.n_edges
    if curve.too_close:
        st.warning(f"{curve.too_close} {explain.more('faithfulness')}")
    else:
        point = Curve((circuit,), curve.whole, curve.ablated)
        share = float(point.faithfulness[0])
        low, high = (float(end[0]) for end in point.interval())
        interval = f", 95 % interval {low:.0%} to {high:.0%} by resampling these pairs" if curve.n_prompts > 4 else ""
        st.metric(
            "Faithfulness",
            f"{share + 0.0:.0%}" if abs(share) >= 0.005 else "0%",
            help="(circuit − ablated) / (whole model − ablated), of the mean answer value: 100 % is as good as the "
            f"whole model, 0 % as bad as with every edge ablated{interval}.",
        )
        st.markdown(verdict(n, run.graph.n_edges, share, circuit.accuracy, setting.importance))
        if interval:
            st.caption(f"Drawn again from these pairs, it lies between {low:.0%} and {high:.0%} (95 % of draws).")
    function = f"{method.grad_function} {method.answer_function}"
    columns = [curve.whole, circuit, curve.ablated]
    lines = [
        [function, *(f"{of.mean:+.2f}" for of in columns)],
        ["right", *map(_right, columns)],
        ["P", *(f"{of.probability.mean():.2f}" for of in columns)],
        ["KL", *(f"{of.divergence.mean():.2f}" for of in columns)],
    ]
    head = f"| | whole | **{n:,}** | none |\n| --- | ---: | ---: | ---: |"
    st.markdown("\n".join([head, *("| " + " | ".join(line) + " |" for line in lines)]))
    source = " from the corrupt prompts" if method.ablation_type.reads_batch else ""
    st.caption(
        f"Whole model, these {n:,} edges, and no edge: means over {setting.pairs(run)}. Clean prompts in; all edges "
        f"but the circuit's carry {method.ablation_type} ablation{source}. Right: every right answer above every wrong "
        "one. P: of the right answers together. KL: divergence from the whole model's next-token distribution, in nats."
    )
    if method.ablation_type is AblationType.RESAMPLE and method.clean_corrupt == "clean":
        st.caption("The scores patched clean activations; the circuit is measured with corrupt ones.")


def verdict(n: int, n_edges: int, share: float, accuracy: float, importance: Importance) -> str:
    """The answer to the question above it, in words: by how much of the difference is left, and by who is ahead."""
    if n == n_edges:
        return "These are all the edges: the whole model."
    strongest = "strongest edges" if importance == "absolute" else "edges of largest positive score"
    kept = f"the {n:,} {strongest} keep {share:.0%} of the difference between the whole and the ablated model"
    if accuracy < 0.5:
        return (
            f"**No**: {kept}, but a wrong answer comes out ahead on {1 - accuracy:.0%} of the prompts. Keep more edges."
        )
    if share < 0.2:
        return f"**No**: {kept}. Keep more edges, or score with integrated gradients."
    return f"**{'Largely yes' if share >= 0.8 else 'Partly'}**: {kept}" + (
        "." if math.isnan(accuracy) else f", and the right answer stays ahead on {accuracy:.0%} of the prompts."
    )


def _right(of: Measured) -> str:
    return "–" if math.isnan(of.accuracy) else f"{of.accuracy:.0%}"


# --- all sizes -----------------------------------------------------------------------------------------------------


def curve(run: Run, choice: Choice, setting: Setting) -> None:
    """Faithfulness of circuits of all sizes, on demand."""
    st.subheader("How much do circuits of other sizes keep?", anchor=False)
    left, middle, right, _ = st.columns([1.5, 1.5, 2, 1], vertical_alignment="bottom")
    address.chosen("direction", _DIRECTIONS)
    asked = left.segmented_control(
        "Question", list(_DIRECTIONS), default="Is it enough?", required=True, key="direction", bind="query-params",
        persist_state="session",
        help="Enough: all edges but the circuit's are ablated. Needed: the circuit's edges alone are ablated, and what "
        "is left should fall.",
    )  # fmt: skip
    setting = replace(setting, direction=_DIRECTIONS[asked or "Is it enough?"])
    sizes = curve_sizes(run.graph.n_edges)
    slot = f"curve-{run.id}-{setting.key}"
    settings = [setting]
    with_random = middle.toggle(
        "Random edges too", True, key="with_random", bind="query-params", persist_state="session",
        help=f"The same sizes with random edges, {len(_RANDOM_SEEDS)} draws: what any circuit of that size keeps.",
    )  # fmt: skip
    if with_random:
        settings += [replace(setting, shuffled=seed) for seed in _RANDOM_SEEDS]
    busy = job_panel.running(slot) is not None
    if click.button(
        "Measure all sizes", at=right, disabled=busy, icon=":material/show_chart:", key="measure-curve",
        help="Runs circuits from a thousandth of the edges to all of them, to see how many the task needs.",
    ):  # fmt: skip
        requests = [each.request(run, *sizes) for each in settings]
        job_panel.start(slot, measure_all, requests, title=f"Measuring circuits of {len(sizes)} sizes")
        st.rerun()
    if (found := job_panel.follow(slot, in_address=True)) is not None:
        all_settings = [setting, *(replace(setting, shuffled=seed) for seed in _RANDOM_SEEDS)]
        for each, measured in zip(all_settings, found, strict=False):  # the random ones may not have been asked for
            session.keep_curve(run, each.key, measured)
        st.rerun()
    kept = session.curves(run)
    main = kept.get(setting.key)
    if main is None or not set(sizes) <= set(main.sizes):
        st.caption(
            f"Circuits of {', '.join(f'{n:,}' for n in sizes[:-1])} and all {sizes[-1]:,} edges on "
            f"{setting.pairs(run)}; a few seconds to a minute, and it can be stopped."
        )
        return
    if main.too_close:
        st.warning(f"{main.too_close} {explain.more('faithfulness')}")
        return
    random = [kept[key] for key in (replace(setting, shuffled=seed).key for seed in _RANDOM_SEEDS) if key in kept]
    _figure(run, choice, setting, main, random if with_random else [])
    if setting.direction == "keep":
        _summary(run, setting, main, random, sizes)
        _smallest(run, setting, main)


def _figure(run: Run, choice: Choice, setting: Setting, main: Curve, random: list[Curve]) -> None:
    words = IMPORTANCE_WORDS[setting.importance]
    caption = f"Edges by {words}; measured on {setting.pairs(run).partition(':')[0]}; {run.caption}"
    figure = faithfulness_curve(
        main, caption=caption, chosen=choice.n, random=random, removed=setting.direction == "remove",
        dark=page.is_dark(),
    )  # fmt: skip
    kept = ", ".join(f"{n:,} edges {share:.0%}" for n, share in zip(main.sizes, main.faithfulness, strict=True))
    event = st.plotly_chart(
        figure, key=f"curve-{setting.key}", on_select="rerun", selection_mode="points",
        alt=f"Faithfulness by size of circuit: {kept}. {caption}",
    )  # fmt: skip
    points = event["selection"]["points"]
    if address.changed(f"curve-{setting.key}", points) and (n := points[0].get("x")) is not None:
        _choose(int(n))
        st.rerun()
    st.caption("**Click** a point to see the circuit of that size above.")


def _choose(n: int) -> None:
    """Show the circuit of n edges: at the next run of the page, before its slider is drawn."""
    st.session_state["choose_size"] = n


def _summary(run: Run, setting: Setting, main: Curve, random: list[Curve], sizes: tuple[int, ...]) -> None:
    benchmark = _only(main, sizes)
    cells = st.columns(4)
    cells[0].metric(
        "CPR", f"{benchmark.cpr:.3f}", help="Area under faithfulness over the share of edges: larger is better."
    )
    cells[1].metric("CMD", f"{benchmark.cmd:.3f}", help="Area between faithfulness and 100 %: 0 is best.")
    if random:
        cells[2].metric("CPR of random edges", f"{np.mean([_only(each, sizes).cpr for each in random]):.3f}")
    cells[3].metric(
        f"Smallest that keeps {_TARGET:.0%}", f"{n:,} edges" if (n := main.smallest(_TARGET)) is not None else "none",
        help="Of the sizes measured so far.",
    )  # fmt: skip
    st.caption(
        "CPR and CMD are those of the Mechanistic Interpretability Benchmark: trapezoids over the share of edges, from "
        f"0.1 % to 100 % of this model's {run.graph.n_edges:,} edges. Large sizes dominate the area: a curve "
        "that reaches 100 % early has CPR near 1 and CMD near 0."
    )


def _only(curve: Curve, sizes: tuple[int, ...]) -> Curve:
    """The curve at the benchmark's sizes alone."""
    return Curve(tuple(point for point in curve.points if point.n_edges in sizes), curve.whole, curve.ablated)


def _smallest(run: Run, setting: Setting, main: Curve) -> None:
    slot = f"smallest-{run.id}-{setting.key}"
    if click.button(
        f"Find the smallest circuit that keeps {_TARGET:.0%}", key="find-smallest", icon=":material/compress:",
        disabled=job_panel.running(slot) is not None,
        help="Tries sizes between those measured, and shows the circuit that it finds.",
    ):  # fmt: skip
        request = setting.request(run, *curve_sizes(run.graph.n_edges))
        job_panel.start(slot, find_smallest, request, title="Looking for the smallest circuit")
        st.rerun()
    if (found := job_panel.follow(slot, in_address=True)) is not None:
        session.keep_curve(run, setting.key, found)
        if (n := found.smallest(_TARGET)) is not None:
            _choose(n)
        st.rerun()
