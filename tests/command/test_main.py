"""The command line does what its page says, and says in a sentence what it cannot do."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import circuit
from circuit.command.main import main, parser
from circuit.runs.links import link, settings_file, settings_text
from circuit.runs.run import Run
from tests.runs_made import make_run

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "command-line.md").read_text("utf-8")
EXAMPLES = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
CONFIG = circuit.RunConfig("teaching", circuit.PRESETS["teaching-ioi"].prompts, held_out=0.5, device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with settings, the run that the command made of them, and what is no input at all."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "settings.json").write_text(settings_file(CONFIG), "utf-8")
    assert main(["run", str(folder / "settings.json"), "-o", str(folder / "run.safetensors")]) == 0
    (folder / "folder").mkdir()
    for name in ("binary.csv", "binary.json", "binary.safetensors"):
        (folder / name).write_bytes(np.random.default_rng(0).bytes(3000))
    (folder / "empty.csv").touch()
    (folder / "none.json").write_text('{"prompts": []}')
    (folder / "cut.safetensors").write_bytes((folder / "run.safetensors").read_bytes()[:2000])
    other = make_run()
    other.config = CONFIG
    other.save(folder / "other-shape.safetensors")
    changed = Run.load(folder / "run.safetensors")
    changed.scores = np.roll(changed.scores, 7)
    changed.save(folder / "changed.safetensors")
    weaker = Run.load(folder / "run.safetensors")
    weaker.scores = weaker.scores * np.float32(0.99)
    weaker.save(folder / "weaker.safetensors")
    return folder


@pytest.fixture(autouse=True)
def in_the_folder(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_examples_of_its_page_run_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(EXAMPLES) == 7
    for example in EXAMPLES:
        name, *arguments = shlex.split(example)
        assert name == "edgescope"
        assert main(arguments) == 0, example
    printed = capsys.readouterr().out
    for shown in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL):
        assert shown in printed
    assert Path("circuit.svg").read_text().startswith("<svg")


def test_every_command_stands_on_its_page() -> None:
    (group,) = [action for action in parser()._actions if action.choices and action.dest == "==SUPPRESS=="]
    assert group.choices is not None
    for name in group.choices:
        assert f"`edgescope {name} " in PAGE


def test_a_run_is_that_of_the_package(files: Path) -> None:
    made = Run.load(files / "run.safetensors")
    expected = circuit.attribute(CONFIG)
    assert made.config == CONFIG
    np.testing.assert_allclose(made.scores, expected.scores, rtol=1e-5, atol=1e-7)
    assert made.held_out_rows == expected.held_out_rows


def test_a_link_is_as_good_as_a_settings_file(capsys: pytest.CaptureFixture[str]) -> None:
    address = link("http://localhost:8501/Attribute", {"settings": settings_text(CONFIG)})
    assert main(["verify", "run.safetensors", address, "--json"]) == 0
    result = lines(capsys.readouterr().out)[-1]
    assert result["drifted"] is False
    assert result["difference"] < 1e-5
    assert result["overlap"] == 1


def test_json_lines_are_progress_and_a_result_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", "run.safetensors", "--json"]) == 0
    *before, last = lines(capsys.readouterr().out)
    assert {line["event"] for line in before} == {"progress"}
    assert last["event"] == "result"
    run = Run.load(Path("run.safetensors"))
    sizes = circuit.curve_sizes(run.graph.n_edges)
    curve = circuit.measure(circuit.MeasureRequest(run.config, run.scores, sizes, rows=tuple(run.held_out_rows)))
    assert [point["edges"] for point in last["points"]] == curve.sizes
    np.testing.assert_allclose([point["faithfulness"] for point in last["points"]], curve.faithfulness, atol=1e-4)
    assert last["cpr"] == pytest.approx(curve.cpr, abs=1e-4)


def test_a_circuit_lists_its_edges_strongest_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["circuit", "run.safetensors", "--edges", "15", "--scored", "--json"]) == 0
    result = lines(capsys.readouterr().out)[-1]
    run = Run.load(Path("run.safetensors"))
    assert [edge["edge"] for edge in result["edges"]] == circuit.top_edges(run.scores, 15).tolist()
    assert 0.8 < result["faithfulness"] < 1.1


@pytest.mark.parametrize(
    ("ending", "begins"), [("graphml", "<?xml"), ("json", "{"), ("dot", "digraph"), ("csv", "# "), ("py", '"""')]
)
def test_what_is_exported_follows_from_the_ending(ending: str, begins: str) -> None:
    assert main(["export", "run.safetensors", f"out.{ending}"]) == 0
    assert Path(f"out.{ending}").read_text("utf-8").startswith(begins)


def test_runs_that_differ_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "run.safetensors", "changed.safetensors", "--json"]) == 0
    (agreement,) = lines(capsys.readouterr().out)[-1]["agreement"]
    run, changed = (Run.load(Path(name)) for name in ("run.safetensors", "changed.safetensors"))
    assert agreement["spearman"] == pytest.approx(circuit.spearman(run.scores, changed.scores))


def test_verifying_fails_where_the_circuit_has_drifted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "changed.safetensors", "settings.json"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("Drifted: ")
    assert "of the circuit of 13 edges are the same, and at least 95.0% must be" in said


def test_verifying_fails_where_scores_have_drifted_further_than_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "weaker.safetensors", "settings.json"]) == 1
    assert "scores differ by 1.010% of their size, and 0.100% are allowed" in capsys.readouterr().out
    assert main(["verify", "weaker.safetensors", "settings.json", "--tolerance", "2%", "--overlap", "1"]) == 0


def test_checking_fails_where_the_model_does_not_do_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = circuit.PRESETS["teaching-ioi"].prompts.pairs
    swapped = tuple(replace(pair, answers=pair.wrong_answers, wrong_answers=pair.answers) for pair in pairs[:6])
    Path("swapped.json").write_text(circuit.PromptSet("swapped", swapped).to_json(), "utf-8")
    assert main(["check", "swapped.json", "--model", "teaching", "--pairs"]) == 1
    assert "No: The model does not do this task" in capsys.readouterr().out


UNUSABLE = {
    "check missing.csv --model teaching": "There is no file 'missing.csv'.",
    "check missing --model teaching": "no preset of that key",
    "check folder --model teaching": "is a folder",
    "check ./folder --model teaching": "is a folder",
    "check binary.csv --model teaching": "no text in UTF-8",
    "check empty.csv --model teaching": "expected prompt pairs",
    "check none.json --model teaching": "There are no prompt pairs",
    "check ioi --model teachin": "No model is called 'teachin'",
    "check ioi --model ./folder": "could not be loaded",
    "run missing.json": "There is no file 'missing.json'.",
    "run folder": "is a folder",
    "run binary.json": "cannot be read",
    "run none.json": "no settings of a run",
    "run http://localhost:8501/Circuit?run=1": "carries no settings",
    "run http://localhost:8501/Attribute?settings=abc": "damaged",
    "run http://[": "not a link",
    "run settings.json -o folder": "is a folder",
    "run settings.json --device banana": "no device 'banana'",
    "circuit missing.safetensors": "There is no run missing.safetensors.",
    "circuit folder": "damaged, or is not a saved run",
    "circuit cut.safetensors": "damaged, or is not a saved run",
    "circuit binary.safetensors": "damaged, or is not a saved run",
    "circuit run.safetensors --edges 999": "This model has 262 edges",
    "circuit other-shape.safetensors": "those of another model",
    "measure other-shape.safetensors --sizes 3": "those of another model",
    "export run.safetensors out.pdf": "follows from the file's ending",
    "export run.safetensors folder/missing/../../settings.json/x.svg": "cannot be written",
    "export run.safetensors few.svg --edges 1": "No path leads from Resid Start",
    "compare run.safetensors": "two runs or more",
    "compare run.safetensors other-shape.safetensors": "cannot be compared edge by edge",
    "verify binary.safetensors settings.json": "damaged, or is not a saved run",
    "--port 99999": "A port is a number",
}


@pytest.mark.parametrize("command", UNUSABLE)
def test_what_cannot_be_used_is_said_in_a_sentence(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(command)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("edgescope: ")
    assert UNUSABLE[command] in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("option", ["--keep 190%", "--keep nan", "--keep much", "--edges -3", "--edges 1.5"])
def test_a_number_that_is_none_is_an_error(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["circuit", "run.safetensors", *option.split()])
    assert ended.value.code == 2
    assert "error: argument" in capsys.readouterr().err


def test_an_error_is_a_json_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["circuit", "folder", "--json"]) == 2
    (line,) = lines(capsys.readouterr().out)
    assert line["event"] == "error"
    assert line["code"] == 2


def test_ctrl_c_stops_a_run_and_leaves_no_file() -> None:
    method = circuit.Method(mask_val=None, path="learned", learning_steps=2000)
    Path("long.json").write_text(settings_file(replace(CONFIG, method=method)), "utf-8")
    command = [sys.executable, "-m", "circuit.command", "run", "long.json", "-o", "long.safetensors", "--json"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "progress"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert lines(out)[-1] == {"event": "error", "message": "Stopped.", "code": 130}
    assert "Traceback" not in err
    assert not Path("long.safetensors").exists()
