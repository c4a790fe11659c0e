"""Which method suits these prompts? Several are tried on them at a click, and one is adopted at another.

panel    the button, the table of what was found, the recommendation
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from circuit.common.errors import CircuitError
from circuit.common.words import counted
from circuit.jobs.audition import TARGET, Audition, AuditionRequest, Tried, audition
from circuit.runs.config import RunConfig
from circuit.ui.frame import click, explain, job_panel, keys, markdown, session, shared_settings

_SLOT = "audition"


def panel(config: RunConfig) -> None:
    """Try methods on the prompts of this run, with its loss and its ablation."""
    known: tuple[AuditionRequest, Audition] | None = st.session_state.get(keys.AUDITION)
    busy = job_panel.running(_SLOT) is not None
    try:
        request = AuditionRequest(config)
        n = len(request.configs())
    except CircuitError as error:
        st.caption(f"Methods cannot be tried on these prompts: {markdown.plain(str(error))}")
        return
    here = known is not None and _same(known[0], request)
    with st.expander("Which method suits these prompts?", expanded=busy or here, icon=":material/balance:"):
        st.caption(
            f"Scores these prompts by {counted(n, 'method')}, really ablates {counted(request.n_edges, 'edge')} spread "
            "over the whole range of scores, and measures circuits of each method. With **Hold out** above, circuits "
            f"are measured on pairs that were not scored. {explain.more('believe')}"
        )
        if click.button(
            "Try the methods",
            key="try-methods",
            icon=":material/play_arrow:",
            disabled=busy,
            help="Takes some twenty times as long as one run; goes on when you leave the page, and can be cancelled.",
        ):
            job_panel.start(_SLOT, audition, request, title=f"Methods tried on {config.prompts.name}")
            st.session_state[keys.AUDITION_ASKED] = request
            click.run_again()
        if (found := job_panel.follow(_SLOT, in_address=True)) is not None:
            st.session_state[keys.AUDITION] = st.session_state.get(keys.AUDITION_ASKED, request), found
            click.run_again()
        if known is not None and here:
            _show(known[1])


def _same(tried: AuditionRequest, now: AuditionRequest) -> bool:
    """Whether an answer is one to what the form asks now, whichever path and backward rule that has."""
    return tried == now or tried.configs() == now.configs()


def _show(found: Audition) -> None:
    pairs = counted(found.n_pairs, "held-out pair" if found.held_out else "scored pair")
    st.success(f"**Recommended**: {markdown.plain(found.recommendation)}", icon=":material/recommend:")
    if not found.held_out:
        st.caption("Circuits were measured on the pairs that the scores were made from: new prompts may do worse.")
    best = found.best
    st.button(
        f"Adopt {best.run.config.method.title}",
        key="adopt-method",
        icon=":material/check:",
        on_click=_adopt,
        args=(best,),
        help="Fills the form with this method, and shows the run that it gave.",
    )
    st.dataframe(
        _table(found),
        hide_index=True,
        width="stretch",
        column_config={
            "Method": st.column_config.TextColumn(width="medium"),
            "Correlation": st.column_config.NumberColumn(
                format="%.2f",
                help=f"Spearman's rank correlation of the scores with what really ablating {len(found.effects)} edges "
                "does.",
            ),
            "Same sign": st.column_config.NumberColumn(
                format="percent", help="Of the edges ablated that do something, those whose score has the sign of it."
            ),
            "CMD": st.column_config.NumberColumn(
                format="%.3f",
                help=f"Of circuits by absolute score, on the {pairs}: 0 is best, and keeping nothing gives 0.749.",
            ),
            "Accuracy, area": st.column_config.NumberColumn(
                format="%.3f",
                help=f"Under the share of the {pairs} that circuits get right, over the share of edges: 1 is best.",
            ),
            f"Edges for {TARGET:.0%}": st.column_config.NumberColumn(
                format="%d",
                help=f"The fewest edges, by signed score and connected, that keep {TARGET:.0%} on the {pairs}.",
            ),
            "AUROC": st.column_config.NumberColumn(
                format="%.3f",
                help="The circuit of this model is known: how often an edge of it has a larger |score| than one "
                "outside. 1 finds the circuit, 0.5 is chance.",
            ),
            "Seconds": st.column_config.NumberColumn(format="%.1f", help="Of scoring."),
        },
    )


def _table(found: Audition) -> pd.DataFrame:
    """A row for each method; AUROC where the model's circuit is known."""
    table = pd.DataFrame(
        [
            {
                "Method": each.run.config.method.title,
                "Correlation": each.correlation,
                "Same sign": each.same_sign,
                "CMD": each.cmd,
                "Accuracy, area": each.accuracy_area,
                f"Edges for {TARGET:.0%}": each.smallest,
                "AUROC": each.auroc,
                "Seconds": each.run.provenance.get("seconds", np.nan),
            }
            for each in found.tried
        ]
    )
    return table if any(each.auroc is not None for each in found.tried) else table.drop(columns="AUROC")


def _adopt(tried: Tried) -> None:
    shared_settings.use(tried.run.config, "the methods tried")
    session.show_run(tried.run)
