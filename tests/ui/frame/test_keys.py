"""Session keys are named in one place: what several modules read cannot be misspelt in one of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from circuit.ui.frame import keys

ROOT = Path(__file__).resolve().parents[3]
FILES = [ROOT / "app.py", *sorted((ROOT / "pages").glob("*.py")), *sorted((ROOT / "circuit" / "ui").rglob("*.py"))]
NAMED = {value for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)}


def spelled_out(source: str) -> Iterator[str]:
    """Session keys that are written as strings, and widget keys written as strings that have a name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "st.session_state":
            found: list[ast.AST] = [node.slice]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("st.session_state."):
            found = list(node.args[:1])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("kept", "in_address"):
            found = [each for each in node.args[:1] if isinstance(each, ast.Constant) and each.value in NAMED]
        elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[-1]) == "st.session_state":
            found = [node.left]
        elif isinstance(node, ast.keyword) and node.arg == "key":
            found = [node.value] if isinstance(node.value, ast.Constant) and node.value.value in NAMED else []
        else:
            continue
        yield from (str(each.value) for each in found if isinstance(each, ast.Constant))


def test_such_keys_are_found() -> None:
    assert [*spelled_out("st.session_state['a'] = st.session_state.get('b', 'c')")] == ["a", "b"]
    assert [*spelled_out("'run' in st.session_state")] == ["run"]
    assert [*spelled_out("st.toggle('Row', key='row'); st.toggle('Other', key='mine alone')")] == ["row"]
    assert [*spelled_out("st.toggle('Row', **in_address('row')); st.toggle('Other', **kept('mine alone'))")] == ["row"]
    assert not [*spelled_out("st.session_state[keys.RUN], st.session_state[f'seen-{key}']")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_session_keys_are_named_in_one_place(path: Path) -> None:
    assert not [*spelled_out(path.read_text("utf-8"))]


def test_no_two_names_stand_for_one_key() -> None:
    names = [value for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)]
    assert len(names) == len(set(names))
