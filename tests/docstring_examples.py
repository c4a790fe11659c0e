"""The examples in the docstrings of the package's modules, as code."""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import textwrap
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
_LOOKS_LIKE_CODE = re.compile(r"^\s*(\w+(, \w+)* = [\w.]+\(|from [\w.]+ import|import \w+$|with \w+\()", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """The examples of one docstring, in their order: later ones go on from earlier ones."""

    path: Path
    code: str

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")

    @cached_property
    def module(self) -> ModuleType:
        return importlib.import_module(self.name)

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.code)

    @property
    def unknown(self) -> set[str]:
        """Names that are read, and that neither the example, its module, another one nor Python has."""
        names = [node for node in ast.walk(self.tree) if isinstance(node, ast.Name)]
        bound = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        bound |= {node.arg for node in ast.walk(self.tree) if isinstance(node, ast.arg)}
        bound |= {node.name for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)}
        bound |= {
            (alias.asname or alias.name).partition(".")[0]
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        known = bound | set(vars(self.module)) | names_of_the_house() | set(vars(builtins))
        return {node.id for node in names} - known

    @property
    def calls(self) -> list[tuple[str, ast.Call]]:
        """Calls of functions and classes by their plain name, or by `circuit.` and their name."""
        found = []
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.Call):
                continue
            words = ast.unparse(node.func).removeprefix("circuit.")
            if words.isidentifier():
                found.append((words, node))
        return found


@cache
def names_of_the_house() -> frozenset[str]:
    """Modules, and the functions, classes and constants of their first level."""
    names = {"circuit"}
    for path in (ROOT / "circuit").rglob("*.py"):
        names |= {path.stem, path.parent.name}
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(names)


def is_example(tree: ast.Module) -> bool:
    """Whether it does something: a table of names, and a formula of subscripts, are none."""
    formula = any(isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) for node in ast.walk(tree))
    return not formula and any(isinstance(node, ast.Call | ast.Import) for node in ast.walk(tree))


def examples() -> list[Example]:
    """Of all modules.

    Raises:
        SyntaxError: What looks like code and is none.
    """
    found = []
    for path in sorted((ROOT / "circuit").rglob("*.py")):
        parts = []
        for block in re.split(r"\n\s*\n", ast.get_docstring(ast.parse(path.read_text())) or ""):
            code = textwrap.dedent(block)
            try:
                tree = ast.parse(code)
            except SyntaxError:
                if _LOOKS_LIKE_CODE.search(block):
                    raise SyntaxError(f"{path}: {block}") from None
                continue
            if is_example(tree):
                parts.append(code)
        if parts:
            found.append(Example(path, "\n".join(parts)))
    return found
