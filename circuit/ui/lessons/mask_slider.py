"""Lesson 3: the loss along one edge's mask, and what a slope at its beginning can and cannot tell."""

from __future__ import annotations

import streamlit as st

from circuit.jobs.lessons import (
    LESSON,
    CurveRequest,
    LossCurve,
    Shape,
    Survey,
    SurveyRequest,
    loss_curve,
    scored_rows,
    survey,
)
from circuit.plots.lessons import mask_curve
from circuit.ui.frame import page
from circuit.ui.frame.widgets import kept
from circuit.ui.lessons.asking import ask
from circuit.ui.lessons.board import edge_label

TITLE = "The mask slider"
_MISLEADS, _HONEST, _OTHER = "misleads", "is right", "another edge"


def draw() -> None:
    found = ask(survey, SurveyRequest(LESSON), "Scoring all edges of the teaching model")
    if found is None:
        return
    _text()
    edge, m = _choose(found)
    curve = ask(loss_curve, CurveRequest(LESSON, edge), f"Moving the mask of {edge_label(edge)}")
    if curve is None:
        return
    st.markdown(verdict(float(found.at_zero[edge]), curve))
    figure = mask_curve(curve, found, edge, m, dark=page.is_dark())
    st.plotly_chart(
        figure,
        key="lesson3_figure",
        config={"displayModeBar": False},
        alt=f"Loss and its slope against the mask value of {edge_label(edge)}. The words above and below "
        "have its numbers.",
    )
    _report(found, curve, edge, m)


def _text() -> None:
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown(
            "Between untouched ($m=0$) and ablated ($m=1$), an edge carries $(1-m)\\,c_s + m\\,a_s$. Attribution "
            "patching ([Nanda 2023](https://www.neelnanda.io/mechanistic-interpretability/attribution-patching), "
            "[EAP](https://arxiv.org/abs/2310.10348)) follows the tangent at 0:\n\n"
            r"$\quad L(1)-L(0)\;\approx\;\left.\dfrac{\partial L}{\partial m_{ds}}\right|_{m=0}"
            r"=\Big\langle \dfrac{\partial L}{\partial x_d},\,a_s-c_s\Big\rangle$"
        )
    with right:
        st.markdown(
            "The mean slope along the edge's **own** path is exactly $L(1)-L(0)$. "
            "[Integrated gradients](https://arxiv.org/abs/1703.01365), as in AutoCircuit, average along another path, "
            "on which all masks move together ([EAP-IG](https://arxiv.org/abs/2403.17806) moves the inputs):\n\n"
            r"$\quad \mathrm{IG}_{ds}=\displaystyle\int_0^1\left.\dfrac{\partial L}{\partial m_{ds}}"
            r"\right|_{\text{all masks}=m}\!\!dm$"
        )


def _choose(found: Survey) -> tuple[int, float]:
    which_at, edge_at, slider_at = st.columns([1.2, 1.2, 1.2], vertical_alignment="bottom")
    which = which_at.segmented_control(
        "Where the tangent …",
        [_MISLEADS, _HONEST, _OTHER],
        default=_MISLEADS,
        required=True,
        help=f"Found among the {len(found.effects)} edges of largest score: where the real effect is farthest from the "
        "tangent's, and where it is closest in proportion.",
        **kept("lesson3_which"),
    )
    edge = {_MISLEADS: found.misleading, _HONEST: found.honest}.get(which or _MISLEADS)
    if edge is None:
        edges = sorted(found.effects, key=lambda edge: -abs(found.effects[edge]))
        edge = edge_at.selectbox(
            "Edge",
            edges,
            format_func=edge_label,
            help="Those whose real effect has been measured, the largest first.",
            **kept("lesson3_edge"),
        )
    else:
        edge_at.selectbox(
            "Edge",
            [edge_label(edge)],
            key=f"lesson3_shown_{edge}",
            help="The edge of the choice beside it; take 'another edge' to choose.",
        )
    m = slider_at.slider(
        "Mask value m",
        0.0,
        1.0,
        0.5,
        0.05,
        help="How far this edge is ablated: 0 leaves it as it is, 1 replaces all that it carries.",
        **kept("lesson3_m"),
    )
    return int(edge), float(m)


def _report(found: Survey, curve: LossCurve, edge: int, m: float) -> None:
    """The figure in words and numbers."""
    slope, together = float(found.at_zero[edge]), float(found.integrated[edge])
    i = round(m * (len(curve.m) - 1))
    st.caption(
        f"At m = {m:.2f} the loss is {curve.loss[i]:+.3f}, and the tangent says {curve.loss[0] + slope * m:+.3f}. "
        f"Slope at 0, the score of attribution patching: **{slope:+.3f}**. Mean slope of the edge's own curve, "
        f"L(1) − L(0): **{curve.effect:+.3f}**. Mean slope with all masks together, integrated gradients over "
        f"{len(found.m)} points by the trapezoid rule: **{together:+.3f}**. At m = 0 both paths have the same slope. "
        "Dotted lines on the right are the means. Loss: logit of the wrong answer minus that of the right one, mean "
        f"over {len(scored_rows(LESSON))} prompt pairs; {LESSON.method.ablation_type} ablation."
    )


_SHAPES: dict[Shape, str] = {
    "straight": "The curve is nearly straight, so the tangent is right.",
    "bent": "At its end the tangent is right, but the curve is not straight: on the way they are up to {off} apart.",
    "flat": "At 0 the curve is flat: saturation.",
    "steeper": "The curve gets steeper after its beginning.",
    "flattens": "The curve flattens after its beginning.",
    "turns": "The slope changes its sign on the way, which no tangent shows.",
    "wrong sign": "The tangent has the wrong sign: the slope changes its own on the way.",
}


def verdict(slope: float, curve: LossCurve) -> str:
    """What the tangent promises, what ablating does, and how the curve gets there."""
    effect, shape = curve.effect, curve.shape(slope)
    words = f"The tangent promises a change of **{slope:+.2f}**; ablating changes the loss by **{effect:+.2f}**"
    if shape in ("flat", "steeper", "flattens") and slope:
        words += f", {effect / slope:.{1 if effect / slope > 1 else 2}f} times as much"
    off = f"{curve.off(slope):.0%} of the largest change"
    return f"{words}. **{_SHAPES[shape].format(off=off)}**"
