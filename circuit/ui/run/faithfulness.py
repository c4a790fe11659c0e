"""Does the circuit still do the task? The measured answer beside the graph, and the curve over all sizes below it.

    Setting      what a measurement depends on, beside the run and the size
    ask          the setting that the page's controls ask for
    panel        the chosen circuit: faithfulness, verdict, numbers; measured by itself when the choice changes
    measuring    whether that is being done
    keeping      the smallest circuits that keep some shares of the behaviour, each at a click
    curve        all sizes, with CPR and CMD, random circuits, and the smallest circuit that keeps 90 %

What was measured is kept with the run, by setting (`session.curves`).
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace
from functools import partial

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from circuit.common.interval import FEWEST
from circuit.edges.choose import SelectionRule
from circuit.edges.method import AblationType
from circuit.edges.ranking import IMPORTANCE_WORDS, Importance
from circuit.edges.subgraph import connecting_size, live_edges
from circuit.jobs.measure import Direction, MeasureRequest, find_smallest, measure, measure_all
from circuit.plots.faithfulness import faithfulness_curve
from circuit.runs.benchmark import beside, outdoing
from circuit.runs.faithfulness import Curve, Measured, curve_sizes
from circuit.runs.run import Run
from circuit.runs.verdict import judge
from circuit.ui.frame import address, click, explain, job_panel, keys, page, session
from circuit.ui.frame.widgets import in_address
from circuit.ui.run.choice import Choice, hanging_words, show_size

_RANDOM_SEEDS = (0, 1, 2)
_TARGET = 0.9
_TARGETS = (0.5, 0.8, 0.9)
"""Shares of the behaviour whose smallest circuit is a click away."""
_DIRECTIONS: dict[str, Direction] = {"Is it enough?": "keep", "Is it needed?": "remove"}


@dataclass(frozen=True)
class Setting:
    """What a measurement depends on, beside the run and the size."""

    held_out: bool
    importance: Importance
    drop_dead_ends: bool
    ablation: AblationType
    direction: Direction = "keep"
    shuffled: int | None = None
    rule: SelectionRule = "top"

    @property
    def key(self) -> str:
        """What is kept with a run under this setting; of edges one by one as before there were other rules."""
        *others, rule = astuple(self)
        return "/".join(map(str, others if rule == "top" else [*others, rule]))

    @property
    def order(self) -> str:
        """What the edges of its circuits are chosen by, in words."""
        return f"{IMPORTANCE_WORDS[self.importance]}, {hanging_words(self.rule, self.drop_dead_ends)}"

    def asking(self, direction: Direction) -> Setting:
        """The same for the other question. Whatever is removed is removed whole, dead ends too."""
        return replace(self, direction=direction, drop_dead_ends=self.drop_dead_ends and direction == "keep")

    def request(self, run: Run, *sizes: int) -> MeasureRequest:
        rows = run.held_out_rows if self.held_out else run.used_rows
        return MeasureRequest(
            run.config,
            run.scores,
            sizes,
            self.importance,
            self.drop_dead_ends,
            self.direction,
            self.ablation,
            tuple(rows),
            self.shuffled,
            rule=self.rule,
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
    """The chosen circuit, measured when it is new; or that it is none."""
    if not len(live_edges(run.graph, choice.edges)):
        _no_circuit(run, choice)
        return

    def known() -> tuple[Measured, Curve] | None:
        curve = session.curves(run).get(setting.key)
        circuit = None if curve is None else curve.whole if choice.n == run.graph.n_edges else curve.at(choice.n)
        return None if curve is None or circuit is None else (circuit, curve)

    found = job_panel.computed(
        _slot(run, setting),
        measure,
        setting.request(run, choice.n),
        f"Measuring the circuit of {choice.n:,} edges",
        known=known,
        keep=lambda _, curve: session.keep_curve(run, setting.key, curve),
        again="Measure again",
    )
    if found is not None:
        circuit, curve = found
        _report(run, circuit, setting, curve)


def measuring(run: Run, setting: Setting) -> bool:
    """Whether the chosen circuit is being measured now."""
    return job_panel.running(_slot(run, setting)) is not None


def _slot(run: Run, setting: Setting) -> str:
    return f"measure-{run.id}-{setting.key}"


def keeping(run: Run, setting: Setting) -> None:
    """The smallest circuits that keep some shares of the behaviour, each at a click."""
    st.caption("Show the smallest circuit that keeps")
    for at, target in zip(st.columns(len(_TARGETS)), _TARGETS, strict=True):
        slot = f"keeps{target:.0%}-{run.id}-{setting.key}"
        request = setting.request(run, *curve_sizes(run.graph.n_edges))
        if click.button(
            f"{target:.0%}",
            key=f"keeps-{target}",
            at=at,
            width="stretch",
            disabled=job_panel.running(slot) is not None,
            help=f"Looks for the fewest edges that keep {target:.0%} of the difference between the whole and the "
            f"ablated model, measured on {setting.pairs(run).partition(':')[0]}.",
        ):
            job_panel.start(slot, partial(find_smallest, target=target), request, title=f"Looking for {target:.0%}")
            click.run_again()
        if (found := job_panel.follow(slot)) is not None:
            session.keep_curve(run, setting.key, found)
            if (n := found.smallest(target, request.most(run.graph))) is not None:
                show_size(run, n)
                click.run_again()
            st.info(f"No circuit by {setting.order} keeps {target:.0%}: rank or take the edges otherwise.")


def _no_circuit(run: Run, choice: Choice) -> None:
    """All edges are dead ends: there is nothing to measure, and a larger circuit to look at."""
    which = "no edge is" if not choice.n else "its one edge is" if choice.n == 1 else f"all {choice.n:,} edges are"
    st.warning(
        f"**Not a circuit**: {which} on no path from Resid Start to Resid End, so nothing of the prompt can reach the "
        f"answer, and there is nothing to measure. {explain.more('dead-end')}"
    )
    if (smallest := _connects(run, choice.importance, choice.rule)) is None:
        st.caption(f"No circuit by {IMPORTANCE_WORDS[choice.importance]} connects: rank the edges otherwise.")
    else:
        st.button(
            f"Show the smallest that connects: {smallest:,} edges",
            key="connect",
            icon=":material/conversion_path:",
            on_click=show_size,
            args=(run, smallest),
            help="The fewest edges, strongest first, that hold a path from Resid Start to Resid End.",
        )


def _connects(run: Run, importance: Importance, rule: SelectionRule) -> int | None:
    """The smallest size whose circuit holds a path; None where none does."""
    ranked = run.ranked(importance, rule)
    if rule == "top":
        return connecting_size(run.graph, ranked.edges)
    return int(ranked.sizes[1]) if len(ranked.sizes) > 1 else None


def ask(run: Run, choice: Choice) -> Setting:
    """What to measure: the chosen edges, on pairs that were scored or, where there are any, held out."""
    held_out = False
    if run.held_out_rows:
        held_out = (
            st.segmented_control(
                "Measured on",
                ["held out", "scored"],
                default="held out",
                required=True,
                help="Pairs that the scores were not made from say what the circuit is worth on new prompts.",
                **in_address(keys.MEASURED_ON, ("held out", "scored")),
            )
            == "held out"
        )
    return Setting(
        held_out, choice.importance, choice.drop_dead_ends, run.config.method.ablation_type, rule=choice.rule
    )


def _report(run: Run, circuit: Measured, setting: Setting, curve: Curve) -> None:
    method, n = run.config.method, circuit.n_edges
    if curve.too_close:
        st.warning(f"{curve.too_close} {explain.more('faithfulness')}")
    else:
        point = Curve((circuit,), curve.whole, curve.ablated)
        share = float(point.faithfulness[0])
        low, high = (float(end[0]) for end in point.interval())
        interval = f", 95 % interval {low:.0%} to {high:.0%}" if curve.n_prompts >= FEWEST else ""
        st.metric(
            "Faithfulness",
            f"{share + 0.0:.0%}" if abs(share) >= 0.005 else "0%",
            help="(circuit − ablated) / (whole model − ablated), of the mean answer value: 100 % is as good as the "
            f"whole model, 0 % as bad as with every edge ablated{interval}.",
        )
        st.markdown(verdict(circuit, curve, share, setting, integrated=method.kind.averages))
        if interval and curve.uncertain:
            st.warning(f"{curve.uncertain} {explain.more('interval')}")
        elif interval:
            st.caption(
                f"For other pairs of this kind it may lie between {low:.0%} and {high:.0%} (95 % interval, from "
                f"{curve.n_prompts} pairs)."
            )
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
    judged = (
        "" if curve.whole.n_judged in (0, curve.n_prompts) else f", in the {curve.whole.n_judged} pairs that have one"
    )
    ends = ", dead ends too," if setting.drop_dead_ends else ""
    st.caption(
        f"Whole model, these {n:,} edges, and no edge: means over {setting.pairs(run)}. Clean prompts in; all other "
        f"edges{ends} carry {_ablation(setting.ablation)}. Right: every right answer above every wrong one"
        f"{judged}. P: of the right answers together. KL: D(whole ‖ circuit) = Σ p log(p / q) over the next token, p "
        "the whole model's probabilities and q the circuit's, in nats."
    )
    if method.ablation_type.reads_batch and method.clean_corrupt == "clean":
        st.caption("The scores patched clean activations; the circuit is measured with corrupt ones.")


def _ablation(ablation: AblationType) -> str:
    source = " from the corrupt prompts" if ablation.reads_batch else ""
    return f"{ablation} ablation{source}" + (" of the scored pairs" if ablation.averages_dataset else "")


_STRONGEST: dict[Importance, str] = {
    "absolute": "strongest edges",
    "positive": "edges of largest positive score",
    "signed": "edges of largest signed score",
}
_ADVICE = {"Off": "Look for a size that keeps about 100 %.", "No task": "Use prompts that the model does better on."}


def verdict(circuit: Measured, curve: Curve, share: float, setting: Setting, integrated: bool) -> str:
    """The answer to the question above it (`circuit.runs.verdict.judge`), in words: by how much of the difference is
    left, and by who is ahead, beside the whole model. `integrated`: whether the scores are those of integrated
    gradients."""
    n, right, whole = circuit.n_edges, circuit.accuracy, curve.whole.accuracy
    found = judge(circuit, curve, share)
    if found.answer == "Whole model":
        return "These are all the edges: the whole model."
    if found.answer == "No task":
        return f"**{found.answer}**: {found.why}. {_ADVICE['No task']}"
    kept = (
        f"**{found.answer}**: the {n:,} {_STRONGEST[setting.importance]}, "
        f"{hanging_words(setting.rule, setting.drop_dead_ends)}, keep {share:.0%} of the difference between the whole "
        "and the ablated model"
    )
    if found.answer == "Off":
        return f"{kept}. {found.why[0].upper()}{found.why[1:]}. {_ADVICE['Off']}"
    if found.answer == "No" and found.why:
        return f"{kept}, but {found.why}. Keep more edges."
    if found.answer == "No":
        return f"{kept}. Keep more edges" + ("." if integrated else ", or score with integrated gradients.")
    if not math.isnan(right):
        kept += f", and the right answer is ahead on {right:.0%} of the prompts, with the whole model on {whole:.0%}"
    return f"{kept}: {found.why}." if found.why else f"{kept}."


def verdict_line(run: Run, curve: Curve, n: int, setting: Setting) -> str:
    """The verdict on the circuit of the measured size next to `n`, which it names."""
    circuit = min((point for point in curve.points if point.n_edges), key=lambda point: abs(np.log(point.n_edges / n)))
    if not len(live_edges(run.graph, run.ranked(setting.importance, setting.rule).first(circuit.n_edges))):
        return (
            f"**No path**: the {circuit.n_edges:,} {_STRONGEST[setting.importance]} are all dead ends, so no circuit."
        )
    share = float(Curve((circuit,), curve.whole, curve.ablated).faithfulness[0])
    return verdict(circuit, curve, share, setting, integrated=run.config.method.kind.averages)


def no_task(curve: Curve) -> str | None:
    """A sentence where the whole model does not do the task, so that no size of circuit can; else None."""
    found = judge(curve.whole, curve, share=1.0)
    return f"{found.why[0].upper()}{found.why[1:]}. {_ADVICE['No task']}" if found.answer == "No task" else None


def _right(of: Measured) -> str:
    return "–" if math.isnan(of.accuracy) else f"{of.accuracy:.0%}"


# --- all sizes -----------------------------------------------------------------------------------------------------


def curve(run: Run, choice: Choice, setting: Setting) -> None:
    """Faithfulness of circuits of all sizes, on demand."""
    st.subheader("How much do circuits of other sizes keep?", anchor=False)
    left, ablation_at, middle, right = st.columns([1.5, 1.4, 1.2, 1.4], vertical_alignment="bottom")
    asked = left.segmented_control(
        "Question",
        list(_DIRECTIONS),
        default="Is it enough?",
        required=True,
        help="Enough: all edges but the circuit's are ablated. Needed: the circuit's edges alone are ablated, and what "
        "is left should fall.",
        **in_address("direction", _DIRECTIONS),
    )
    setting = replace(setting, ablation=_other_ablation(run, ablation_at)).asking(_DIRECTIONS[asked or "Is it enough?"])
    sizes = setting.request(run, *curve_sizes(run.graph.n_edges)).measured_sizes(run.graph)
    slot = f"curve-{run.id}-{setting.key}"
    settings = [setting]
    with_random = middle.toggle(
        "Random edges too",
        True,
        help=f"The same sizes with random edges, {len(_RANDOM_SEEDS)} draws: what any circuit of that size keeps.",
        **in_address("with_random"),
    )
    if with_random:
        settings += [replace(setting, shuffled=seed) for seed in _RANDOM_SEEDS]
    busy = job_panel.running(slot) is not None
    if click.button(
        "Measure all sizes",
        at=right,
        disabled=busy,
        icon=":material/show_chart:",
        key="measure-curve",
        help="Runs circuits from a thousandth of the edges to all of them, to see how many the task needs.",
    ):
        requests = [each.request(run, *sizes) for each in settings]
        job_panel.start(slot, measure_all, requests, title=f"Measuring circuits of {len(sizes)} sizes")
        click.run_again()
    if (found := job_panel.follow(slot, in_address=True)) is not None:
        all_settings = [setting, *(replace(setting, shuffled=seed) for seed in _RANDOM_SEEDS)]
        for each, measured in zip(all_settings, found, strict=False):  # the random ones may not have been asked for
            session.keep_curve(run, each.key, measured)
        click.run_again()
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
    if (why := no_task(main)) is not None:
        st.warning(f"{why} {explain.more('faithfulness')}")
    if main.uncertain and setting.ablation is not run.config.method.ablation_type:  # else the panel says so
        st.warning(f"{main.uncertain} {explain.more('interval')}")
    random = [kept[key] for key in (replace(setting, shuffled=seed).key for seed in _RANDOM_SEEDS) if key in kept]
    _figure(run, choice, setting, main, random if with_random else [])
    if setting.direction == "keep":
        _summary(run, setting, main, random)
        _smallest(run, setting, main)


def _other_ablation(run: Run, at: DeltaGenerator) -> AblationType:
    """What the curve ablates with: as the scores were, unless another is chosen."""
    can_be = {str(each): each for each in AblationType if run.config.batch_size or not each.needs_batch_size}
    same = "as scored"
    chosen = at.selectbox(
        "Ablation",
        [same, *can_be],
        help="What replaces the edges that are not kept. A circuit that is faithful under one ablation need not be "
        f"under another. As scored: {run.config.method.ablation_type}. {explain.more('ablation')}",
        **in_address("curve_ablation", (same, *can_be)),
    )
    return can_be.get(chosen, run.config.method.ablation_type)


def _figure(run: Run, choice: Choice, setting: Setting, main: Curve, random: list[Curve]) -> None:
    caption = (
        f"Edges by {setting.order}; measured with {_ablation(setting.ablation)} on "
        f"{setting.pairs(run).partition(':')[0]}; scores: {run.caption}"
    )
    figure = faithfulness_curve(
        main,
        caption=caption,
        chosen=choice.n,
        random=random,
        removed=setting.direction == "remove",
        dark=page.is_dark(),
    )
    kept = ", ".join(f"{n:,} edges {share:.0%}" for n, share in zip(main.sizes, main.faithfulness, strict=True))
    event = st.plotly_chart(
        figure,
        key=f"curve-{setting.key}",
        on_select="rerun",
        selection_mode="points",
        alt=f"Faithfulness by size of circuit: {kept}. {caption}",
    )
    points = event["selection"]["points"]
    if address.changed(f"curve-{setting.key}", points) and (n := points[0].get("x")) is not None:
        show_size(run, int(n))
        click.run_again()
    said = "**Click** a point to see the circuit of that size above."
    connects = _connects(run, setting.importance, setting.rule)
    if setting.direction == "keep" and connects is not None and connects > min(size for size in main.sizes if size):
        said += f" Circuits of fewer than {connects:,} edges are all dead ends, and no circuits."
    st.caption(said)


def _summary(run: Run, setting: Setting, main: Curve, random: list[Curve]) -> None:
    words, most = setting.order, setting.request(run).most(run.graph)
    cells = st.columns(4)
    for cell, name, of, area in (
        (cells[0], "CPR", main.cpr, "Area under faithfulness over the share of edges: larger is better"),
        (cells[1], "CMD", main.cmd, "Area between faithfulness and 100 %: 0 is best"),
    ):
        cell.metric(name, f"{of:.3f}" if main.is_benchmark else "–", help=f"{area}. Circuits by {words}.")
    if random:
        cells[2].metric(
            "CPR of random edges",
            f"{np.mean([each.cpr for each in random]):.3f}",
            help=f"The mean of {len(random)} draws: circuits of random edges, of the same sizes.",
        )
    smallest = main.smallest(_TARGET, most)
    none = "none by positive score" if setting.importance == "positive" else "none"
    cells[3].metric(
        f"Smallest that keeps {_TARGET:.0%}",
        none if smallest is None else f"{smallest:,} edges",
        help=f"Of the sizes measured so far. Circuits by {words}.",
    )
    if not main.is_benchmark:
        st.caption(
            f"Only {most:,} of {run.graph.n_edges:,} edges have a positive score, too few for the sizes that CPR and "
            f"CMD are made of. Rank by signed score, which goes on into the others. {outdoing(main)}"
        )
        return
    how = hanging_words(setting.rule, setting.drop_dead_ends)
    st.caption(" ".join(beside(main, run.graph)))
    st.caption(
        f"Circuits are by **{IMPORTANCE_WORDS[setting.importance]}**, {how}. CPR and CMD are areas over the shares of "
        "edges of the Mechanistic Interpretability Benchmark, which are ten from 0.1 % to 100 %; each circuit has as "
        f"many of this model's {run.graph.n_edges:,} edges, rounded down. The benchmark takes CPR of circuits by "
        "signed score and CMD of circuits by absolute score: choose these under *Ranked by* to compare with it. Large "
        "sizes dominate the area."
    )


def _smallest(run: Run, setting: Setting, main: Curve) -> None:
    slot = f"smallest-{run.id}-{setting.key}"
    request = setting.request(run, *curve_sizes(run.graph.n_edges))
    if click.button(
        f"Find the smallest circuit that keeps {_TARGET:.0%}",
        key="find-smallest",
        icon=":material/compress:",
        disabled=job_panel.running(slot) is not None,
        help="Tries sizes between those measured, and shows the circuit that it finds.",
    ):
        job_panel.start(slot, find_smallest, request, title="Looking for the smallest circuit")
        click.run_again()
    if (found := job_panel.follow(slot, in_address=True)) is not None:
        session.keep_curve(run, setting.key, found)
        if (n := found.smallest(_TARGET, request.most(run.graph))) is not None:
            show_size(run, n)
        click.run_again()
