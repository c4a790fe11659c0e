"""The owner's settings: from a file, from variables, and the sentence about one that cannot be used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import FrozenInstanceError, asdict, fields
from pathlib import Path
from typing import Any

import pytest

from circuit.common.errors import SettingsError
from circuit.common.settings import PREFIX, Settings, cache_folder, read_settings, runs_folder, settings
from circuit.models.catalogue import hub_allowed, known, offered

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "edgescope.example.toml"


def in_file(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "edgescope.toml"
    file.write_text(text)
    return file


def test_without_a_file_and_variables_every_setting_has_its_default() -> None:
    assert read_settings({}) == Settings()


def test_the_example_explains_every_setting_and_gives_its_default() -> None:
    text = EXAMPLE.read_text()
    assert list(tomllib.loads(text)) == [field.name for field in fields(Settings)]
    assert read_settings({}, EXAMPLE) == Settings()
    for field in fields(Settings):
        assert re.search(rf"^# .+\n{field.name} = ", text, re.MULTILINE), field.name


def test_the_servers_page_lists_every_setting_with_its_default() -> None:
    page = (ROOT / "docs" / "server.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", page, re.MULTILINE))
    assert rows == {key: default.strip() for key, default in re.findall(r"^(\w+) = (.+)$", EXAMPLE.read_text(), re.M)}


def test_a_variable_goes_before_the_file_and_the_file_before_the_default(tmp_path: Path) -> None:
    file = in_file(tmp_path, 'devices = ["cuda:0"]\nmost_prompts = 50\nmodel_memory = 4\nallow_hub = true\n')
    found = read_settings({f"{PREFIX}MOST_PROMPTS": "70", f"{PREFIX}ALLOW_HUB": "0", f"{PREFIX}DEVICES": ""}, file)
    assert (found.devices, found.most_prompts, found.model_memory) == (("cuda:0",), 70, 4.0)
    assert not found.allow_hub
    assert found.cpu_workers == Settings().cpu_workers
    with pytest.raises(FrozenInstanceError):
        found.most_prompts = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("ALLOW_HUB", "yes", "allow_hub", True),
        ("DEVICES", "cuda:0, cuda:1", "devices", ("cuda:0", "cuda:1")),
        ("ALLOWED_MODELS", "teaching,gpt2", "allowed_models", ("teaching", "gpt2")),
        ("MODEL_MEMORY", "2.5", "model_memory", 2.5),
        ("MEMORY_LIMIT", "8 GB", "memory_limit", "8 GB"),
        ("MEMORY_LIMIT", "0.4", "memory_limit", "0.4"),
        ("SCHEDULER", "tls://10.0.0.5:8786", "scheduler", "tls://10.0.0.5:8786"),
        ("JOBS_PER_SESSION", "4", "jobs_per_session", 4),
        ("REQUIRE_LOGIN", "TRUE", "require_login", True),
        ("CACHE", "/data/cache", "cache", Path("/data/cache")),
        ("RUNS", "~/runs", "runs", Path.home() / "runs"),
    ],
)
def test_variables_are_read_as_their_setting_is_meant(variable: str, text: str, key: str, value: Any) -> None:
    assert getattr(read_settings({PREFIX + variable: text}), key) == value


def test_folders_in_the_file_are_relative_to_it(tmp_path: Path) -> None:
    assert read_settings({}, in_file(tmp_path, 'runs = "here"')).runs == tmp_path / "here"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("most_prompt = 5", "there is no setting 'most_prompt'. There are: allowed_models,"),
        ("most_prompts = 0", "most_prompts must be a whole number from 1 to 10000; it is 0."),
        ("most_prompts = 2.5", "most_prompts must be a whole number"),
        ("most_prompts = true", "most_prompts must be a whole number"),
        ('allow_hub = "maybe"', "allow_hub must be true or false; it is 'maybe'."),
        ('devices = ["gpu"]', 'devices must be a list of different ones of "cpu", "mps", "cuda:0"'),
        ('devices = ["cpu", "cpu"]', "devices must be"),
        ('devices = "cpu"', "devices must be a list"),
        ('memory_limit = "much"', 'memory_limit must be a size such as "8 GB"'),
        ("unwatched_minutes = -1", "unwatched_minutes must be a number of minutes above 0.1"),
        ('scheduler = "somewhere"', "scheduler must be an address"),
        ("runs = 5", "runs must be a folder"),
        ("devices = [", "this is not a TOML file"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence_with_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    file = in_file(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        read_settings({}, file)
    assert str(caught.value).startswith(f"{file}: ")
    assert words in str(caught.value)


def test_a_variable_that_cannot_be_used_is_named() -> None:
    with pytest.raises(SettingsError, match="The environment variable EDGESCOPE_JOBS_IN_QUEUE must be a whole number"):
        read_settings({"EDGESCOPE_JOBS_IN_QUEUE": "many"})


def run_settings(**variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, "-m", "circuit.common.settings"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_owner_can_ask_what_is_in_force_before_he_starts(tmp_path: Path) -> None:
    good = run_settings(EDGESCOPE_SETTINGS=str(in_file(tmp_path, "most_prompts = 77")))
    assert good.returncode == 0
    assert "most_prompts = 77" in good.stdout
    bad = run_settings(EDGESCOPE_SETTINGS=str(in_file(tmp_path, "most_prompts = 0")))
    assert bad.returncode == 1
    assert bad.stderr.count("\n") == 1
    assert "most_prompts must be" in bad.stderr
    missing = run_settings(EDGESCOPE_SETTINGS=str(tmp_path / "nowhere.toml"))
    assert "nowhere.toml: the file of settings cannot be read: No such file or directory." in missing.stderr


def test_settings_are_cheap_to_import() -> None:
    heavy = "{'torch', 'streamlit', 'numpy', 'distributed'}"
    code = f"import sys, circuit.common.settings; print({heavy} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert printed.stdout.strip() == "set()"


def test_settings_reach_what_they_settle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESCOPE_SETTINGS", str(in_file(tmp_path, 'cache = "kept"\nallowed_models = ["teaching"]\n')))
    monkeypatch.delenv("EDGESCOPE_RUNS")
    monkeypatch.delenv("EDGESCOPE_CACHE", raising=False)
    assert cache_folder() == tmp_path / "kept"
    assert runs_folder() == tmp_path / "kept" / "runs"
    assert list(offered()) == ["teaching"]
    assert "gpt2" in known()
    assert not hub_allowed()
    assert asdict(settings())["allowed_models"] == ("teaching",)
