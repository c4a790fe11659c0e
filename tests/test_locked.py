"""The lock files name what the requirements ask for: every package, one version of it, with the hashes of its files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LISTS = ("requirements", "requirements-dev")


def asked(name: str) -> list[Requirement]:
    """The requirements of a list, and of those that it includes."""
    found = []
    for line in (ROOT / f"{name}.txt").read_text().splitlines():
        if line.startswith("-r "):
            found += asked(line.removeprefix("-r ").removesuffix(".txt"))
        elif line and not line.startswith("#"):
            found.append(Requirement(line))
    return found


def locked(name: str) -> dict[str, dict[str, set[str]]]:
    """Of every package the version, or one for each of several Pythons, with hashes."""
    text = (ROOT / f"{name}.lock").read_text().replace("\\\n", " ")
    found: dict[str, dict[str, set[str]]] = {}
    for line in text.splitlines():
        requirement, *hashes = line.split(" --hash=")
        package = Requirement(requirement.strip())
        (pin,) = package.specifier
        assert pin.operator == "==", line
        assert package.url is None, line
        known = found.setdefault(canonicalize_name(package.name), {})
        assert not known or package.marker is not None, f"two versions of {package.name}"
        known[pin.version] = {each.strip() for each in hashes}
    return found


@pytest.mark.parametrize("name", LISTS)
def test_what_is_asked_for_is_locked_with_hashes(name: str) -> None:
    lock = locked(name)
    for requirement in asked(name):
        for version in lock[canonicalize_name(requirement.name)]:
            assert requirement.specifier.contains(version), requirement
    for package, versions in lock.items():
        for hashes in versions.values():
            assert hashes, package
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), package


@pytest.mark.parametrize("name", LISTS)
def test_requirements_have_upper_bounds(name: str) -> None:
    for requirement in asked(name):
        assert any(each.operator in ("<", "==", "<=", "~=") for each in requirement.specifier), requirement


@pytest.mark.parametrize("name", LISTS)
def test_a_lock_names_no_place(name: str) -> None:
    assert not re.search(r"://|@ |^-|^/", (ROOT / f"{name}.lock").read_text(), re.MULTILINE)


def test_who_develops_has_what_users_have() -> None:
    users, developers = map(locked, LISTS)
    assert {package: developers.get(package) for package in users} == users
