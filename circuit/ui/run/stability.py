"""Which edges of the circuit would be there with other draws of the same prompts? One control, and what it shows.

choose      the control: Off, or one of three ways to ask
Shown       what is shown of the edges: marks in the picture, columns of the table, words
of_circuit  what there is to show of the drawn edges; None while it is off or not known yet
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from circuit.common.interval import FEWEST
from circuit.common.words import counted
from circuit.edges.stable import Certificate, Verdict, certificate
from circuit.jobs.stability import Stability, StabilityRequest, edge_stability, too_many
from circuit.plots.graph_svg import Mark
from circuit.runs.run import Run
from circuit.ui.frame import explain, job_panel, keys
from circuit.ui.frame.widgets import in_address
from circuit.ui.run.choice import Choice

OFF, FADE, SIGNS, CERTIFIED = WAYS = ("Off", "Fade unstable", "Signs that hold", "Certified")
SHARES = {"50%": 0.5, "70%": 0.7, "90%": 0.9, "95%": 0.95}
"""Of halves of the prompts, that a certified edge is in."""

_MOST = 1000
"""Larger circuits are not drawn."""
_DRAWS = 200
_HOLDS = 0.95
"""Of the bootstrap's draws: a sign that is the same in fewer does not hold."""
_CONFIDENCE = 0.95

_VERDICTS: dict[Verdict, Mark] = {
    "certified": Mark("certified"),
    "abstention": Mark("an abstention, as these halves do not tell", 0.6, "?", "abstention"),
    "rejected": Mark("rejected", 0.4, "×", "rejected"),
}


@dataclass(frozen=True)
class Shown:
    """What is shown of the drawn edges."""

    marks: dict[int, Mark]
    columns: dict[str, Sequence[Any]]
    """Of the table, one value per drawn edge."""
    caption: str
    """What the marks mean, after the picture's caption."""
    count: str
    """How many edges are what, in a line."""

    def beside(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table of the drawn edges with these columns."""
        found = table.copy()
        for place, (name, values) in enumerate(self.columns.items(), start=found.columns.get_loc("share")):
            found.insert(place, name, values)
        return found


def choose(run: Run, choice: Choice) -> None:
    """The control, and for certificates the share that is asked for."""
    if st.query_params.pop("fade", None) == "true" and keys.STABLE not in st.query_params:
        st.session_state.setdefault(keys.STABLE, FADE)  # of links from when this was a switch
    refused = why_not(run, choice)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        way = st.segmented_control(
            "With other draws of the prompts",
            WAYS,
            default=OFF,
            required=True,
            disabled=refused is not None,
            on_change=job_panel.forget_error,
            args=(_slot(run, choice),),
            help=refused
            or f"Fade unstable draws as many prompts anew {_DRAWS} times, with replacement, and fades an edge by how "
            "seldom the circuit then holds it. Signs that hold marks edges whose score changes its sign in more than "
            f"{1 - _HOLDS:.0%} of these draws. Certified asks which edges are in the circuits of most halves of the "
            "prompts, and says where it cannot tell. Takes about one more attribution, for all sizes and all three.",
            **in_address(keys.STABLE, WAYS),
        )
        if way == CERTIFIED and refused is None:
            st.selectbox(
                "Of halves at least",
                list(SHARES),
                index=list(SHARES).index("90%"),
                width=130,
                help="The share of all halves of the prompts whose circuits must hold an edge for it to be certified.",
                **in_address(keys.OF_HALVES, SHARES),
            )
    if refused is not None and way != OFF:
        st.caption(f"{way}: {refused[0].lower()}{refused[1:]}")


def why_not(run: Run, choice: Choice) -> str | None:
    """Why stability cannot be told; None where it can."""
    if run.config.keep_positions:
        return "Not where token positions are kept apart."
    if not run.config.method.points:
        return "Not where scores do not come from single prompts, as learned masks and means of runs."
    if run.config.method.ablation_type.needs_batch_size:
        return "Not with an ablation that mixes the prompts of a batch."
    if len(run.used_rows) < FEWEST:
        return f"{counted(len(run.used_rows), 'prompt pair')}: too few to draw from."
    if words := too_many(len(run.used_rows), run.graph.n_edges):
        return words
    return None if 0 < choice.n <= _MOST else f"Only for circuits of up to {_MOST:,} edges."


def of_circuit(run: Run, choice: Choice, drawn: np.ndarray) -> Shown | None:
    """What there is to show of the `drawn` edges. Computed without being asked for, once for all sizes; where a job is
    needed, its panel is drawn here."""
    way = st.session_state.get(keys.STABLE)
    if way not in (FADE, SIGNS, CERTIFIED) or why_not(run, choice):
        return None
    found = job_panel.computed(
        _slot(run, choice),
        edge_stability,
        StabilityRequest(run.config, _MOST, choice.importance, choice.rule, _DRAWS),
        "Drawing the prompts anew",
        known=lambda: _known(run, choice, way),
        keep=lambda asked, found: _all().__setitem__((run.id, asked.importance, asked.rule), found),
    )
    if found is None:
        return None
    ways: dict[str, Callable[[Run, Choice, np.ndarray, Stability], Shown]] = {
        FADE: _faded,
        SIGNS: _signs,
        CERTIFIED: _certified,
    }
    return ways[way](run, choice, drawn, found)


def _slot(run: Run, choice: Choice) -> str:
    return f"stability-{run.id}-{choice.importance}-{choice.rule}"


def _all() -> dict[tuple[str, str, str], Stability]:
    """What this session knows, by run, rank and rule."""
    known: dict[tuple[str, str, str], Stability] = st.session_state.setdefault(keys.STABILITY, {})
    return known


def _known(run: Run, choice: Choice, way: str) -> Stability | None:
    if way == SIGNS:  # which no rank and no rule changes
        return next((found for (run_id, *_), found in _all().items() if run_id == run.id), None)
    return _all().get((run.id, choice.importance, choice.rule))


def _faded(run: Run, choice: Choice, drawn: np.ndarray, found: Stability) -> Shown:
    among = found.among(choice.wanted)
    shares = [among.get(edge, 0.0) for edge in drawn.tolist()]
    marks = {
        edge: Mark(f"In {share:.0%} of the draws of prompts it is in a circuit of this size.", 0.15 + 0.85 * share)
        for edge, share in zip(drawn.tolist(), shares, strict=True)
    }
    often = sum(share >= 0.5 for share in shares)
    return Shown(
        marks,
        {"in draws": shares},
        f"faded: in few of {_DRAWS} bootstrap draws of the prompts",
        f"**{often} of {counted(len(drawn), 'edge')}** are in the circuits of this size of at least half of {_DRAWS} "
        f"bootstrap draws of the {counted(len(run.used_rows), 'prompt pair')}. {explain.more('stability')}",
    )


def _signs(run: Run, choice: Choice, drawn: np.ndarray, found: Stability) -> Shown:
    shares = found.signs[drawn].tolist()
    said = [f"Its score has the same sign in {share:.0%} of the draws of prompts" for share in shares]
    fails = "sign does not hold"
    marks = {
        edge: Mark(f"{words}.") if share >= _HOLDS else Mark(f"{words}: the {fails}.", 0.4, "±", fails)
        for edge, share, words in zip(drawn.tolist(), shares, said, strict=True)
    }
    hold = sum(share >= _HOLDS for share in shares)
    return Shown(
        marks,
        {"sign in draws": shares, "sign holds": ["yes" if share >= _HOLDS else "± no" for share in shares]},
        f"±: the sign holds in less than {_HOLDS:.0%} of {_DRAWS} bootstrap draws of the prompts",
        f"**{hold} signs hold, {len(drawn) - hold} do not (±)**: a sign holds where an edge's score has it in at least "
        f"{_HOLDS:.0%} of {_DRAWS} bootstrap draws of the {counted(len(run.used_rows), 'prompt pair')}. "
        f"{explain.more('sign-holds')}",
    )


def _certified(run: Run, choice: Choice, drawn: np.ndarray, found: Stability) -> Shown:
    share = SHARES[st.session_state.get(keys.OF_HALVES) or "90%"]
    told = certificate(drawn, found.halved, choice.wanted, share, _CONFIDENCE)
    marks = {
        edge: Mark(_verdict(told, i), _VERDICTS[verdict].opacity, _VERDICTS[verdict].sign, _VERDICTS[verdict].meaning)
        for i, (edge, verdict) in enumerate(zip(drawn.tolist(), told.verdicts, strict=True))
    }
    pairs = counted(len(run.used_rows), "prompt pair")
    return Shown(
        marks,
        {
            "in halves": (told.held / told.n_subsets).tolist(),
            "verdict": [f"{_VERDICTS[verdict].sign} {verdict}".strip() for verdict in told.verdicts],
        },
        f"unmarked: certified to be in the circuits of at least {share:.0%} of all halves of the prompts",
        f"**{len(told.certified)} certified, {len(told.rejected)} rejected (×), "
        f"{counted(len(told.abstentions), 'abstention')} (?)**: certified edges are in the circuits of at least "
        f"{share:.0%} of all halves of these {pairs}, rejected ones of fewer, each at {_CONFIDENCE:.0%} confidence; of "
        f"the others {told.n_subsets} random halves do not tell. {explain.more('certified')}",
    )


def _verdict(told: Certificate, i: int) -> str:
    """The verdict on one edge, with the numbers it stems from."""
    low, high = (float(bound[i]) for bound in told.bounds)
    return (
        f"{told.held[i]} of {told.n_subsets} random halves of the prompts have it in a circuit of this size, so at "
        f"{told.confidence:.0%} confidence each, at least {low:.0%} and at most {high:.0%} of all do: "
        f"{_VERDICTS[told.verdicts[i]].words}."
    )
