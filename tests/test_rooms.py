"""The rooms of the package: which may import which, and where torch and Streamlit are imported."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import circuit

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "circuit"

ORDER = ("common", "edges", "engine", "models", "prompts", "runs", "jobs", "plots", "ui")
"""Each room imports itself and those before it alone."""
BESIDE = {"workers": {"common"}, "jobs": {"workers"}, "plots": {"workers"}, "ui": {"workers"}}
"""`workers` stands beside the tower: it knows `common` alone, and is used from `jobs` upwards."""
BESIDE["command"] = {*ORDER, "workers"} - {"ui"}
"""The command line stands beside `ui`, at the top."""
TRAINING = PACKAGE / "models" / "teaching" / "train.py"

FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}


def imported(path: Path, *, inside: bool = True, for_types: bool = True) -> Iterator[str]:
    """The modules that a file imports: also `inside` functions, and `for_types` alone, unless told otherwise."""
    left: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif not (
            (isinstance(node, ast.FunctionDef) and not inside)
            or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not for_types)
        ):
            left += ast.iter_child_nodes(node)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def test_the_package_has_few_rooms_and_each_is_in_the_order() -> None:
    assert {*ORDER, "workers", "command"} == ROOMS
    assert len([path for path in PACKAGE.iterdir() if path.stem not in ("__init__", "__pycache__")]) <= 12


@pytest.mark.parametrize(
    "room", [*sorted(ROOMS), "ui/frame", "ui/prompts", "ui/run", "ui/lessons", "models/teaching", "models/known"]
)
def test_a_room_says_what_lives_there(room: str) -> None:
    assert ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text("utf-8")))


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    below = {*ORDER[: ORDER.index(room)]} if room in ORDER else set()
    may = below | BESIDE.get(room, set()) | {room}
    for path in (PACKAGE / room).rglob("*.py"):
        rooms = {name.split(".")[1] for name in imported(path) if name.startswith("circuit.")}
        assert rooms & ROOMS <= may, f"{path.relative_to(ROOT)} imports {sorted(rooms & ROOMS - may)}"


def test_no_files_import_each_other_not_even_for_types() -> None:
    module_of = {
        path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES
    }
    arrows: dict[str, set[str]] = defaultdict(set)
    for path, module in module_of.items():
        arrows[module] = {name for name in imported(path) if name in module_of.values()} - {module}
    while loose := [module for module, to in arrows.items() if not to & set(arrows)]:
        for module in loose:
            del arrows[module]
    # what is left imports something that is left: circles, and what leads into them
    assert not arrows, f"files that import each other, or lead to such: {sorted(arrows)}"


def test_only_the_engine_and_the_training_script_import_torch_when_they_are_imported() -> None:
    heavy = {"torch", "transformers", "transformer_lens"}
    for path in FILES:
        if room_of(path) != "engine" and path != TRAINING:
            found = {name.split(".")[0] for name in imported(path, inside=False, for_types=False)} & heavy
            assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_only_ui_pages_and_app_import_streamlit() -> None:
    for path in FILES:
        if room_of(path) != "ui":
            assert "streamlit" not in {name.split(".")[0] for name in imported(path)}, path.relative_to(ROOT)


def test_the_web_process_imports_no_torch() -> None:
    """Read off a process, since a package may import it too."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
        if room_of(path) != "engine" and path != TRAINING
    ]
    code = f"""
import importlib, sys
for name in {modules}:
    importlib.import_module(name)
    heavy = {{"torch", "transformers", "transformer_lens"}} & set(sys.modules)
    assert not heavy, f"{{name}} imports {{heavy}}"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(dir(circuit)))
def test_public_names_are_there_and_say_what_they_are(name: str) -> None:
    found = getattr(circuit, name)
    assert found is not None
    if isinstance(found, type) or callable(found):
        assert found.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        circuit.nothing  # type: ignore[attr-defined] # noqa: B018


def test_no_test_imports_from_another_test() -> None:
    """What tests share lies in modules of its own, and in fixtures."""
    for path in (ROOT / "tests").rglob("*.py"):
        found = [name for name in imported(path) if re.match(r"tests\.(\w+\.)*(test_|conftest)", name)]
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


def page_files() -> list[Path]:
    return [ROOT / "app.py", *(ROOT / "pages").glob("*.py"), *(ROOT / "circuit" / "ui").rglob("*.py")]


def test_only_the_job_panel_touches_its_keys() -> None:
    touching = {path.name for path in page_files() if re.search(r"f[\"'](job|error|request|told)-\{", path.read_text())}
    assert touching == {"job_panel.py"}


def test_pages_run_again_only_in_the_way_that_loses_no_click() -> None:
    assert {path.name for path in page_files() if "st.rerun(" in path.read_text()} == {"click.py"}


def test_keys_of_the_session_are_named_in_one_place() -> None:
    """What is written out where it is used belongs to one module alone, and is made from something."""
    spelt = re.compile(r"session_state(?:\[|\.get\(|\.pop\(|\.setdefault\()[\"'](\w+)[\"']")
    assert {path.name: spelt.findall(path.read_text()) for path in page_files() if spelt.search(path.read_text())} == {}
