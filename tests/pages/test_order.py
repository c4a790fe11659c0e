"""A page reads from top to bottom: its functions first, which know nothing of what is drawn, then the page."""

from __future__ import annotations

import ast
import builtins
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "pages").glob("*.py"))
BAR = "# --- the page ---"


def parts(path: Path) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """The statements above and below the line that begins the page."""
    source = path.read_text("utf-8")
    assert source.count(BAR) == 1, f"{path.name} has no part of its own for the page"
    line = source[: source.index(BAR)].count("\n") + 1
    body = ast.parse(source).body
    return [node for node in body if node.lineno < line], [node for node in body if node.lineno > line]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_functions_stand_above_the_page_and_draw_nothing_by_themselves(path: Path) -> None:
    above, page = parts(path)
    assert not [node for node in page if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    for node in above:  # the docstring aside, names are bound and nothing is called for its own sake
        assert not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)), ast.unparse(node)
        assert not isinstance(node, ast.If | ast.With | ast.For | ast.Try), ast.unparse(node)
    assert ast.unparse(page[0]).startswith("page.begin(")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_no_function_reads_what_the_page_below_it_sets(path: Path) -> None:
    above, page = parts(path)
    set_below = {
        name.id
        for node in page
        for name in ast.walk(node)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    }
    for function in above:
        if isinstance(function, ast.FunctionDef):
            names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
            arguments = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
            own = arguments | {node.id for node in names if isinstance(node.ctx, ast.Store)}
            read = {node.id for node in names} - own - set(dir(builtins))
            assert not read & set_below, f"{function.name} reads {read & set_below}"
