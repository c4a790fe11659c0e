"""The wheel holds all that a clone does, needs what requirements.txt asks for, and starts the app without a clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import circuit
from tests.streamlit_server import page, serving, session

ROOT = Path(__file__).parents[1]
BUILT_FROM = (
    "app.py", "pages", "circuit", ".streamlit/config.toml", "pyproject.toml", "setup.py", "MANIFEST.in",
    "requirements.txt", "requirements-dev.txt", "README.md", "LICENSE", "edgescope.example.toml",
)  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since building leaves folders behind."""
    copy = tmp_path_factory.mktemp("copy")
    for name in BUILT_FROM:
        (copy / name).parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    offline = ("--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check")
    pip("wheel", *offline, "--wheel-dir", str(copy / "dist"), str(copy))
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's files alone; what it needs is that of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--no-compile", "--target", str(folder), str(wheel))
    return folder


def pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def needs(text: str) -> set[str]:
    """A list of requirements, in one spelling."""
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "-r "))]
    return {str(Requirement(line)) for line in lines}


def test_the_wheel_needs_what_the_requirements_ask_for(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith("/METADATA")]
        about = Parser().parsestr(file.read(name).decode())
    found = [Requirement(line) for line in about.get_all("Requires-Dist", [])]
    assert {str(each) for each in found if each.marker is None} == needs((ROOT / "requirements.txt").read_text())
    assert about["Name"] == "edgescope"
    assert about["Version"] == circuit.__version__


def test_the_extra_for_developers_is_the_list_for_developers() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert needs("\n".join(extras["dev"])) == needs((ROOT / "requirements-dev.txt").read_text())


def test_the_wheel_holds_every_file_of_package_and_app(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "circuit").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    app = {"app.py", ".streamlit/config.toml", "edgescope.example.toml"}
    app |= {str(path.relative_to(ROOT)) for path in (ROOT / "pages").glob("*.py")}
    assert held == package | {f"circuit/_app/{name}" for name in app}


def test_an_installed_package_finds_its_app_and_a_clone_its_own(installed: Path, tmp_path: Path) -> None:
    code = "from circuit.common.settings import APP, SETTINGS_FILE; print(APP, SETTINGS_FILE, sep='\\n')"
    for folder, app in ((installed, installed / "circuit" / "_app"), (ROOT, ROOT)):
        env = {**os.environ, "PYTHONPATH": str(folder), "XDG_CONFIG_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        found, settings = map(Path, done.stdout.splitlines())
        assert found == app
        assert (found / "app.py").is_file()
        assert settings.name == "edgescope.toml"
        assert (settings.parent == ROOT) == (folder == ROOT)
        assert installed not in settings.parents  # an update of the package would take it away


@pytest.mark.parametrize("name", ["", "Attribute"], ids=["start", "attribute"])
def test_the_command_of_an_installed_wheel_serves_its_pages(installed: Path, tmp_path: Path, name: str) -> None:
    start = (sys.executable, str(installed / "bin" / "edgescope"), "--no-browser")
    with (
        serving(tmp_path, start=start, where=tmp_path, PYTHONPATH=str(installed)) as server,
        session(server) as opened,
    ):
        said = page(opened, f"{server.address}/{name}", name=name)
    assert {"": b"Pick an example", "Attribute": b"2 \xc2\xb7 Attribute"}[name] in said.raw
    assert b"Traceback" not in said.raw
    assert "Traceback" not in server.log.read_text()
