"""Every widget of every page says what it changes and when to use it: a walk over all of them, page by page."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from streamlit.proto.LabelVisibility_pb2 import LabelVisibility
from streamlit.testing.v1 import AppTest

from circuit.runs.examples import EXAMPLES
from circuit.runs.run import Run

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["app.py", *sorted(f"pages/{path.name}" for path in (ROOT / "pages").glob("*.py"))]

EXEMPT = {
    r"cancel-.*": "A job's panel: the button says all there is, and stands beside the job that it cancels.",
    r"open-.*": "Earlier runs: the label is the run.",
}
"""Keys of widgets that need no help, and why."""


@pytest.fixture(scope="module")
def run() -> Run:
    from circuit.jobs.attribute import attribute

    run = attribute(EXAMPLES["teaching-ioi"].config)
    run.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{run.id}.safetensors")
    return run


def visit(page: str, **query: str) -> AppTest:
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    at.query_params.update(query)
    at.session_state["model"] = "teaching"
    at.session_state["prompts"] = EXAMPLES["teaching-ioi"].config.prompts
    at.switch_page(page) if page != "app.py" else None
    at.run()
    assert not at.exception, at.exception
    return at


def without_help(at: AppTest) -> list[str]:
    """Widgets that say nothing when they are asked (help stands beside the label): their kind, label and key."""
    found = []
    for element in at.main:
        found += _without_help(element)
    for element in at.sidebar:
        found += _without_help(element)
    return found


def _without_help(element: object) -> list[str]:
    proto: Any = getattr(element, "proto", None)
    fields = {field.name for field in proto.DESCRIPTOR.fields} if hasattr(proto, "DESCRIPTOR") else set()
    if not {"id", "help"} <= fields or not proto.id:
        return []
    key = str(getattr(element, "key", None) or "")
    hidden = "label_visibility" in fields and proto.label_visibility.value == LabelVisibility.COLLAPSED
    if (proto.help.strip() and not hidden) or any(re.fullmatch(pattern, key) for pattern in EXEMPT):
        return []
    return [f"{proto.DESCRIPTOR.name} {proto.label!r} (key {key!r})"]


@pytest.mark.parametrize("page", PAGES)
def test_every_widget_has_help(page: str, run: Run) -> None:
    at = visit(page, run=run.id)
    assert len(list(at.main)) > 3
    assert without_help(at) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_widget_of_an_empty_page_has_help(page: str) -> None:
    assert without_help(visit(page)) == []


@pytest.mark.parametrize("source", ["Template", "Paste", "File", "Empty table"])
def test_every_widget_of_a_source_of_prompts_has_help(source: str) -> None:
    at = visit("pages/1_Prompts.py")
    sources: Any = at.get("button_group")[0]
    sources.set_value(source).run()
    assert without_help(at) == []


def test_naming_a_model_of_the_hub_has_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESCOPE_ALLOW_HUB", "1")
    at = visit("pages/1_Prompts.py")
    assert "hub" in at.text_input[0].label
    assert without_help(at) == []


@pytest.mark.parametrize("kind", ["Integrated gradients", "Gradient at one mask value"])
def test_every_widget_of_a_method_has_help(kind: str) -> None:
    at = visit("pages/2_Attribute.py")
    at.selectbox("kind").set_value(kind).run()
    assert without_help(at) == []


@pytest.mark.parametrize("view", ["Nodes", "Every edge", "Fall-off", "Score and effect"])
def test_every_widget_of_a_view_of_the_scores_has_help(view: str, run: Run) -> None:
    assert without_help(visit("pages/3_Scores.py", run=run.id, view=view, edge=str(run.order[0]))) == []


@pytest.mark.parametrize("rule", ["Score at least", "Share of total"])
def test_every_widget_of_a_circuit_has_help(rule: str, run: Run) -> None:
    at = visit("pages/4_Circuit.py", run=run.id, rule=rule, share="95", look="node:A0.0")
    assert without_help(at) == []
    at.toggle("attention").set_value(True).run()
    assert without_help(at) == []


def test_every_card_of_the_tour_has_help(run: Run) -> None:
    for step, page in enumerate(["1_Prompts", "2_Attribute", "2_Attribute", "3_Scores", "4_Circuit", "4_Circuit"], 1):
        assert without_help(visit(f"pages/{page}.py", run=run.id, tour=str(step))) == []


def test_a_widget_without_help_is_found() -> None:
    def page() -> None:
        import streamlit as st

        st.button("Helpless")
        with st.expander("Inside"):
            st.selectbox("Helpful", ["a"], help="Chooses.")
            st.slider("Helpless too")

    at = AppTest.from_function(page, default_timeout=300).run()
    assert [words.split(" (")[0] for words in without_help(at)] == ["Button 'Helpless'", "Slider 'Helpless too'"]
