"""What the server's owner has settled: one frozen `Settings`, from a TOML file and environment variables.

    settings         the settings of this process
    read_settings    the same from given variables and a given file
    serving          a block of work that is held to the owner's limits
    cuda_devices     the CUDA devices that this process may use, found without torch

    settings().allow_hub
    python -m circuit.common.settings           # print the settings, or say what is wrong with them

The file is the one that EDGESCOPE_SETTINGS names, or else `edgescope.toml`: in a clone's folder, or where Edgescope was
installed as a package, in the user's folder of settings (on Linux `~/.config/edgescope`). `edgescope.example.toml`
explains every key. The variable of a key is EDGESCOPE_ and the key in capitals; where it is set and not empty, it goes
before the file. Lists in variables are separated by commas. Paths in the file are relative to the file.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs

from circuit.common.errors import SettingsError

PROJECT = Path(__file__).resolve().parents[2]
_PACKED = Path(__file__).resolve().parents[1] / "_app"
APP = _PACKED if _PACKED.is_dir() else PROJECT
"""Where `app.py`, `pages/` and `.streamlit/` lie: in a clone at its top, in an installed package in a folder of it."""
SETTINGS_FILE = (PROJECT if APP == PROJECT else platformdirs.user_config_path("edgescope")) / "edgescope.toml"
"""The file of settings, unless a variable names another."""
PREFIX = "EDGESCOPE_"
FILE_VARIABLE = f"{PREFIX}SETTINGS"


def _setting(default: Any, allowed: str, accepts: Callable[[Any], bool] = lambda value: True) -> Any:
    """A key with its default, the values it takes in words, and the check of a value that has the right type."""
    return field(default=default, metadata={"allowed": allowed, "accepts": accepts})


def _is_size(text: str) -> bool:
    return not text or re.fullmatch(r"0?\.\d+|1(\.0)?|\d+(\.\d+)? ?[kMGT]i?B", text) is not None


def _are_devices(names: tuple[str, ...]) -> bool:
    return len(set(names)) == len(names) and all(re.fullmatch(r"cpu|mps|cuda:\d{1,2}", name) for name in names)


@dataclass(frozen=True)
class Settings:
    """Every key that the file and the environment may set, with its default."""

    # Models
    allowed_models: tuple[str, ...] = _setting((), "a list of keys of models; an empty one allows all")
    allow_hub: bool = _setting(False, "true or false")
    models: Path | None = _setting(None, "a folder")
    # Workers
    devices: tuple[str, ...] = _setting(
        (), 'a list of different ones of "cpu", "mps", "cuda:0", "cuda:1" …', _are_devices
    )
    cpu_workers: int = _setting(1, "a whole number from 1 to 256", lambda n: 1 <= n <= 256)
    scheduler: str = _setting(
        "", 'an address such as "tls://10.0.0.5:8786"', lambda text: re.fullmatch(r"(\w+://\S+:\d+)?", text) is not None
    )
    memory_limit: str = _setting("", 'a size such as "8 GB", or a share of the memory such as "0.4"', _is_size)
    model_memory: float = _setting(0.0, "a number of gigabytes, not negative", lambda n: n >= 0)
    # Jobs
    jobs_per_session: int = _setting(10, "a whole number from 3 to 1000", lambda n: 3 <= n <= 1000)
    jobs_per_address: int = _setting(50, "a whole number from 3 to 10000", lambda n: 3 <= n <= 10_000)
    jobs_in_queue: int = _setting(100, "a whole number from 1 to 10000", lambda n: 1 <= n <= 10_000)
    unwatched_minutes: float = _setting(10.0, "a number of minutes above 0.1", lambda n: n > 0.1)
    longest_job_minutes: float = _setting(0.0, "a number of minutes, not negative", lambda n: n >= 0)
    most_prompts: int = _setting(10_000, "a whole number from 1 to 10000", lambda n: 1 <= n <= 10_000)
    most_scores: int = _setting(5_000_000, "a whole number from 10000", lambda n: n >= 10_000)
    # Folders
    cache: Path | None = _setting(None, "a folder")
    runs: Path | None = _setting(None, "a folder")
    most_runs: int = _setting(0, "a whole number, not negative", lambda n: n >= 0)
    largest_upload: float = _setting(20.0, "a number of megabytes from 0.1 to 2000", lambda n: 0.1 <= n <= 2000)
    list_runs: str = _setting("auto", '"auto", "all" or "own"', lambda text: text in ("auto", "all", "own"))
    # Visitors
    require_login: bool = _setting(False, "true or false")


_serving: ContextVar[bool] = ContextVar("serving", default=False)


@contextmanager
def serving() -> Iterator[None]:
    """What runs within is a visitor's, and held to the owner's limits; a script that imports the package is not."""
    token = _serving.set(True)
    try:
        yield
    finally:
        _serving.reset(token)


def most_scores() -> int:
    """How many scores a run may have here; 0: any number."""
    return settings().most_scores if _serving.get() else 0


def settings() -> Settings:
    """The settings of this process: read once, and again only where its environment variables have changed.

    Raises:
        SettingsError: Names the file or the variable, the key, and what is allowed.
    """
    return _read_once(tuple(sorted(item for item in os.environ.items() if item[0] in _VARIABLES)))


def read_settings(variables: Mapping[str, str], file: Path | None = None) -> Settings:
    """Settings from environment variables, over those of a TOML file, over the defaults.

    Raises:
        SettingsError: As `settings`.
    """
    values: dict[str, Any] = {}
    for key, value in ({} if file is None else _table(file)).items():
        if key not in _FIELDS:
            raise SettingsError(f"{file}: there is no setting '{key}'. There are: {', '.join(_FIELDS)}.")
        values[key] = _checked(key, value, f"{file}: {key}", file.parent if file else Path())
    for key in _FIELDS:
        variable = PREFIX + key.upper()
        if text := variables.get(variable, ""):
            values[key] = _checked(key, _from_text(key, text), f"The environment variable {variable}", Path())
    return Settings(**values)


_FIELDS = {each.name: each for each in fields(Settings)}
_VARIABLES = {FILE_VARIABLE, *(PREFIX + key.upper() for key in _FIELDS)}


@cache
def _read_once(variables: tuple[tuple[str, str], ...]) -> Settings:
    named = dict(variables).get(FILE_VARIABLE)
    file = Path(named) if named else SETTINGS_FILE
    return read_settings(dict(variables), file if named or file.exists() else None)


def _table(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: the file of settings cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: this is not a TOML file: {error}.") from error


def _from_text(key: str, text: str) -> Any:
    """The value of a variable as TOML would have it; the text itself where it is nothing of the kind."""
    default = _FIELDS[key].default
    if isinstance(default, bool):
        return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(text.lower(), text)
    if isinstance(default, tuple):
        return [part.strip() for part in text.split(",") if part.strip()]
    if isinstance(default, int | float):
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    return text


def _checked(key: str, value: Any, where: str, folder: Path) -> Any:
    """The value as the field holds it."""
    default, about = _FIELDS[key].default, _FIELDS[key].metadata
    right: bool
    if default is None:
        right = isinstance(value, str)
        result: Any = folder / Path(value).expanduser() if right and value else None
    elif isinstance(default, tuple):
        right = isinstance(value, list) and all(isinstance(part, str) for part in value)
        result = tuple(value) if right else ()
    elif isinstance(default, float):
        right = isinstance(value, int | float) and not isinstance(value, bool)
        result = float(value) if right else 0.0
    else:
        right, result = type(value) is type(default), value
    if not right or not about["accepts"](result):
        raise SettingsError(f"{where} must be {about['allowed']}; it is {value!r}.")
    return result


def cuda_devices(variables: Mapping[str, str] = os.environ) -> list[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them; `cuda:1` is the second."""
    if (visible := variables.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for part in visible.split(",") if (name := part.strip()) and name != "-1"]
    if (tool := shutil.which("nvidia-smi")) is None:
        return []
    command = [tool, "--query-gpu=index", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # a driver that does not answer is a machine without a GPU
        return []
    return [line.strip() for line in listed.splitlines() if line.strip().isdecimal()]


def main() -> int:
    try:
        now = settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 1
    for key in _FIELDS:
        print(f"{key} = {getattr(now, key)!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())


def cache_folder() -> Path:
    """Where fetched models are kept: the owner's `cache`, or the user's cache folder."""
    return settings().cache or platformdirs.user_cache_path("edgescope")


def runs_folder() -> Path:
    """Where finished runs and drafts of prompts are kept: the owner's `runs`, or a folder in the cache."""
    return settings().runs or cache_folder() / "runs"


MEMORY_LIMIT = "EDGESCOPE_WORKER_BYTES"  # environment variable, set here: bytes above which the worker is ended
