"""Six lessons on circuit discovery, live on the models that ship with the app."""

from __future__ import annotations

import streamlit as st

from circuit.ui.frame import address, keys, page
from circuit.ui.lessons import by_hand, game, go_wrong, known_truth, mask_slider, residual

LESSONS = (residual, by_hand, mask_slider, game, go_wrong, known_truth)


def open_lesson(number: int | None) -> None:
    address.put("lesson", number)


def choose_lesson(number: int) -> None:
    st.session_state[keys.LESSON] = number
    st.segmented_control(
        "Lesson",
        range(1, len(LESSONS) + 1),
        format_func=lambda n: f"{n} · {LESSONS[n - 1].TITLE}",
        key=keys.LESSON,
        required=True,
        width="stretch",
        help="In any order; what a lesson shows is computed when it is opened.",
        on_change=lambda: open_lesson(st.session_state[keys.LESSON]),
    )


def neighbours(number: int) -> None:
    """The lesson before and the next one."""
    back, _, on = st.columns([1, 2, 1])
    for at, to, icon in ((back, number - 1, "arrow_back"), (on, number + 1, "arrow_forward")):
        if 1 <= to <= len(LESSONS):
            at.button(
                f"{to} · {LESSONS[to - 1].TITLE}",
                key=f"lesson_{icon}",
                icon=f":material/{icon}:",
                type="primary" if to > number else "secondary",
                on_click=open_lesson,
                args=(to,),
                help="The next lesson." if to > number else "The lesson before.",
            )


# --- the page ------------------------------------------------------------------------------------------------------

page.begin("Learn", "Six short lessons on the models that ship with the app. All numbers are computed as you look.")
number = address.numbered("lesson", 1, len(LESSONS), of="this page") or 1
choose_lesson(number)
LESSONS[number - 1].draw()
neighbours(number)
