"""The glossary: it holds the words of the pages, its entries lead to each other, and links to it are of entries."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from circuit.edges.method import AblationType
from circuit.ui.frame import explain
from circuit.ui.glossary import GROUPS, TERMS, find
from circuit.ui.prompts.report import finding_words

pytestmark = pytest.mark.usefixtures("pages_worker")

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [ROOT / "app.py", *(ROOT / "pages").glob("*.py"), *(ROOT / "circuit" / "ui").rglob("*.py")]


def glossary(**query: str) -> AppTest:
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    at.query_params.update(query)
    at.switch_page("pages/9_Glossary.py").run()
    assert not at.exception
    return at


def test_the_words_of_the_pages_are_explained() -> None:
    wanted = {
        "node", "edge", "source", "destination", "residual-stream", "clean-prompt", "corrupt-prompt", "answer",
        "wrong-answer", "ablation", "mask-value", "eap", "integrated-gradients", "score", "grad-function",
        "answer-function", "circuit", "dead-end", "faithfulness", "cpr", "cmd", "held-out",
    }  # fmt: skip
    assert wanted <= set(TERMS)


def test_every_ablation_has_an_entry() -> None:
    keys = {kind.name.lower().replace("_", "-") for kind in AblationType}
    assert len(keys) == 7
    assert keys <= set(TERMS)


def test_entries_are_short_and_lead_to_each_other() -> None:
    for key, term in TERMS.items():
        assert term.key == key
        assert re.fullmatch(r"[a-z0-9-]+", key)
        assert term.group in GROUPS
        assert 40 < len(term.words) < 400, key
        assert term.words.endswith(".")
        assert key not in term.also
        assert set(term.also) <= set(TERMS), key
        assert term.source is None or term.source.url.startswith("https://")
    assert {term.group for term in TERMS.values()} == set(GROUPS)


def test_terms_are_found_by_name_before_words() -> None:
    assert find("FAITHFUL")[0].key == "faithfulness"
    assert find("  ") == list(TERMS.values())
    assert find("no such word") == []


def test_every_link_from_a_page_is_to_an_entry() -> None:
    keys = [key for path in SOURCES for key in re.findall(r"explain\.(?:more|link)\(['\"]([^'\"]+)", path.read_text())]
    assert len(keys) > 10
    assert set(keys) <= set(TERMS)
    assert explain.more("dead-end") == "More: [Dead end](Glossary?term=dead-end)."


def calls_of(path: Path) -> list[str]:
    return [ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def test_every_warning_leads_to_its_explanation() -> None:
    for path in SOURCES:
        for call in calls_of(path):
            chosen = re.match(r"getattr\(st, .*?\)\(", call)  # of a level that may be a warning
            if (
                call.startswith("st.warning(") or chosen
            ) and call != "st.warning(words)":  # circuit.ui.frame.address adds it
                assert "explain.more" in call, f"{path.name}: {call}"


def test_every_finding_leads_to_its_explanation() -> None:
    assert finding_words("length", [0, 2], "It is *long*.").endswith(
        f"It is \\*long\\*\\. {explain.more('prompt-check')}"
    )


def test_every_chart_has_words_for_who_cannot_see_it() -> None:
    for path in SOURCES:
        for call in calls_of(path):
            if re.match(r"\w+\.plotly_chart\(", call):
                assert "alt=" in call, f"{path.name}: {call}"


def test_the_page_shows_every_entry_and_finds_one() -> None:
    at = glossary()
    assert {element.value for element in at.subheader} == {term.name for term in TERMS.values()}
    at.text_input("find-term").set_value("dead end").run()
    assert at.subheader[0].value == "Dead end"
    assert len(at.subheader) < 6
    at.text_input("find-term").set_value("xyzzy").run()
    assert "No entry holds these letters" in at.info[0].value


@pytest.mark.parametrize("key", ["faithfulness", "cpr"])
def test_a_link_to_an_entry_shows_it_first(key: str) -> None:
    at = glossary(term=key)
    assert at.subheader[0].value == TERMS[key].name
    assert at.code[0].value == TERMS[key].formula


def test_a_link_to_no_entry_says_so() -> None:
    assert "not in the glossary" in glossary(term="nonsense").info[0].value
