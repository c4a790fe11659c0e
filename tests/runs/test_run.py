"""A saved run is whole or not there, says what it is a run of, and can be read without this package."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from circuit.common.errors import RunFileError
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.runs import run as runs
from circuit.runs.config import RunConfig
from circuit.runs.run import Baseline, Run
from tests.any_json import JSON
from tests.runs_made import header_of, make_run


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run.safetensors"
    make_run().save(path)
    return path


@pytest.mark.parametrize("seq_len", [None, 3])
def test_loading_gives_back_what_was_saved(seq_len: int | None, tmp_path: Path) -> None:
    run = make_run(seq_len)
    path = tmp_path / "new" / "folder" / "run.safetensors"
    run.save(path)
    again = Run.load(path)
    np.testing.assert_array_equal(again.scores, run.scores)
    assert again.scores.dtype == np.float32
    again.scores = run.scores
    assert vars(again) == vars(run)


def test_accuracy_may_be_unknown(tmp_path: Path) -> None:
    run = make_run()
    run.baseline = Baseline(1.0, 0.0, float("nan"))
    run.save(tmp_path / "run")
    assert np.isnan(Run.load(tmp_path / "run").baseline.accuracy)


def test_noise_is_what_the_precision_leaves_of_the_answer_value() -> None:
    run = make_run()
    assert run.noise == 2**-7 * 1.5  # bfloat16, and a baseline of 1.5 and -0.25
    run.provenance["dtype"] = "float32"
    assert run.noise == 2**-23 * 1.5


def test_parts_of_a_baseline_add_up_though_some_have_no_wrong_answers() -> None:
    parts = (Baseline(1.0, 0.5, 1.0, 2), Baseline(0.5, 0.25, float("nan"), 0), Baseline(0.25, 0.0, 0.25, 4))
    assert parts[0] + parts[1] + parts[2] == Baseline(1.75, 0.75, 0.5, 6)
    third = Baseline(3.0, 1.5, 0.5, 6).share(1 / 3)
    whole = third + third + third
    assert (whole.clean, whole.accuracy, whole.judged) == pytest.approx((3.0, 0.5, 6))


def test_a_baseline_from_before_prompts_were_judged_one_by_one_still_opens(saved: Path) -> None:
    header = header_of(saved)
    assert header["baseline"].pop("judged", "none") is None
    save_file(load_file(saved), saved, {"edgescope": json.dumps(header)})
    assert Run.load(saved).baseline == Baseline(1.5, -0.25, 0.5)


def pairs_of(*clean: str) -> PromptSet:
    return PromptSet("some", tuple(PromptPair(text, f"not {text}", (" a",)) for text in clean))


def test_pairs_of_one_clean_prompt_are_scored_together_or_held_out_together() -> None:
    for seed in range(20):
        config = RunConfig("m", pairs_of(*"aabbccddef"), held_out=0.5, split_seed=seed)
        scored, held_out = config.split(range(10))
        clean = [pair.clean for pair in config.prompts.pairs]
        assert not {clean[row] for row in scored} & {clean[row] for row in held_out}
        assert sorted([*scored, *held_out]) == list(range(10))
        assert 4 <= len(held_out) <= 5
    assert RunConfig("m", pairs_of(*"aaaa"), held_out=0.5).split(range(4)) == ([0, 1, 2, 3], [])


def test_a_set_without_duplicates_is_split_and_written_as_it_always_was() -> None:
    config = RunConfig("m", pairs_of(*"abcdefghij"), held_out=0.4, split_seed=7)
    chosen = sorted(np.random.default_rng(7).permutation(range(10))[:4].tolist())
    assert config.split(range(10)) == ([row for row in range(10) if row not in chosen], chosen)
    assert "duplicates_together" not in config.to_dict()


def test_a_saved_run_whose_duplicates_were_split_keeps_its_split() -> None:
    config = RunConfig("m", pairs_of(*"aabbccddef"), held_out=0.5, split_seed=7)
    values = config.to_dict()
    assert RunConfig.from_dict(values) == config
    del values["duplicates_together"]
    before = RunConfig.from_dict(values)
    chosen = sorted(np.random.default_rng(7).permutation(range(10))[:5].tolist())
    assert before.split(range(10))[1] == chosen
    assert RunConfig.from_dict(before.to_dict()) == before


def test_plain_safetensors_reads_it(saved: Path) -> None:
    run = make_run()
    tensors = load_file(saved)
    assert list(tensors) == sorted(block.module for block in run.graph.blocks)
    for name, part in run.graph.unflatten(run.scores).items():
        np.testing.assert_array_equal(tensors[name], part)
    header = header_of(saved)
    assert header["config"]["prompts"]["prompts"][0]["clean"] == " When Mary\n"
    assert header["config"]["method"]["ablation_type"] == "BATCH_ALL_TOK_MEAN"
    assert header["provenance"]["parameters"] == 123


def test_saving_again_replaces_the_file_and_leaves_no_other(saved: Path) -> None:
    other = make_run()
    other.scores = -other.scores
    other.save(saved)
    np.testing.assert_array_equal(Run.load(saved).scores, other.scores)
    assert list(saved.parent.iterdir()) == [saved]


def test_runs_have_ids_of_their_own() -> None:
    first, second = make_run(), make_run()
    assert first.id != second.id
    assert len(first.id) == 32


def test_the_caption_says_what_the_scores_are_of() -> None:
    caption = make_run().caption
    for part in (
        "Small (bfloat16)",
        "naïve · 数, 2 of 3 prompt pairs",
        "7 points (midpoint rule)",
        "logprob avg_diff",
        "batch all tok mean ablation from clean prompts",
        "score > 0: ablating the edge is estimated to hurt",
    ):
        assert part in caption


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error")])
@pytest.mark.parametrize("before", [None, b"what was there"])
def test_a_failed_write_leaves_the_folder_as_it_was(
    error: Exception, before: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.safetensors"
    if before is not None:
        path.write_bytes(before)

    def full_disk(tensors: Any, file: Path, metadata: Any) -> None:
        file.write_bytes(b"half a fi")
        raise error

    monkeypatch.setattr(runs, "save_file", full_disk)
    with pytest.raises(RunFileError, match="could not be saved"):
        make_run().save(path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == (
        {} if before is None else {path.name: before}
    )


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFileError, match="could not be saved"):
        make_run().save(tmp_path / "file" / "run.safetensors")


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> None:
    """Change header and tensors, and write a file that safetensors can read."""
    header, tensors = header_of(path), load_file(path)
    changed = change(header, tensors)
    save_file(tensors, path, {"edgescope": json.dumps(header if changed is None else changed)})


def assert_refused(path: Path, words: str = "damaged, or is not a saved run") -> None:
    with pytest.raises(RunFileError, match=words):
        Run.load(path)


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.001, 0.01, 0.2, 0.5, 0.9, 0.9999])
def test_a_file_cut_off_anywhere_is_refused(saved: Path, share: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(len(whole) * share)])
    assert_refused(saved)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 100, b"\xff" * 100, b"PK\x03\x04 a zip file", b'{"prompts": []}', b"\x02" + b"\0" * 7 + b"{}"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(content)
    assert_refused(path)


def test_no_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nothing.safetensors", "There is no run nothing.safetensors")
    assert_refused(tmp_path)


def test_a_models_weights_are_not_a_run(tmp_path: Path, small_folder: Path) -> None:
    assert_refused(small_folder / "model.safetensors")


def test_another_version_is_named(saved: Path) -> None:
    rewrite(saved, lambda header, tensors: header.update(format="edgescope-run-99"))
    assert_refused(saved, "'edgescope-run-99'; this version reads 'edgescope-run-1'")


@pytest.mark.parametrize("module", ["blocks.0.hook_q_input", "blocks.1.hook_mlp_in", "blocks.1.hook_resid_post"])
def test_scores_that_do_not_fit_the_graph_are_refused(saved: Path, module: str) -> None:
    whole = saved.read_bytes()
    rewrite(saved, lambda header, tensors: tensors.__delitem__(module))
    assert_refused(saved)
    saved.write_bytes(whole)
    rewrite(saved, lambda header, tensors: tensors.update({module: tensors[module][..., :-1].copy()}))
    assert_refused(saved)
    saved.write_bytes(whole)
    rewrite(saved, lambda header, tensors: tensors.update(extra=np.zeros(3, np.float32)))
    assert_refused(saved)


@pytest.mark.parametrize("changed", [{"held_out": 1.0}, {"held_out": -0.5}, {"split_seed": -1}, {"held_out": "half"}])
def test_a_split_that_cannot_be_made_is_refused(saved: Path, changed: dict[str, Any]) -> None:
    rewrite(saved, lambda header, tensors: header["config"].update(changed))
    assert_refused(saved, f"The run's {next(iter(changed))}")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"used_rows": []}, "no scored rows"),
        ({"used_rows": [2, 0]}, "not in ascending order"),
        ({"used_rows": [0, 0]}, "not in ascending order"),
        ({"used_rows": [0, 3]}, "not scored rows of its 3 prompts"),
        ({"used_rows": [True]}, "not scored rows"),
        ({"used_rows": "01"}, "not scored rows"),
        ({"held_out_rows": [2]}, "row 3 was both scored and held out"),
        ({"held_out_rows": [1, 1]}, "held-out rows are not in ascending order"),
        ({"held_out_rows": None}, "not held-out rows"),
    ],
)
def test_rows_are_some_in_order_and_either_scored_or_held_out(saved: Path, changed: dict[str, Any], words: str) -> None:
    rewrite(saved, lambda header, tensors: header.update(changed))
    assert_refused(saved, words)


def test_a_run_of_more_prompts_than_a_page_can_hold_is_refused(saved: Path) -> None:
    pair = {"clean": "a", "corrupt": "b", "answers": ["c"], "wrong_answers": []}
    for pairs, words in (
        ([pair] * 100_000, "There are 100,000 prompt pairs, and 10,000 are the most"),
        ([{**pair, "answers": ["c"] * 2000}], "Row 1 has 2,000 answers, and 1,000 are the most"),
        ([{**pair, "clean": "a" * 9999}] * 600, "The pairs have 6,000,600 characters together, and 5,000,000 are"),
    ):
        header = header_of(saved)
        header["config"]["prompts"]["prompts"] = pairs
        save_file(load_file(saved), saved, {"edgescope": json.dumps(header)})
        assert_refused(saved, words)


@pytest.mark.parametrize("deep", [100, 100_000])
def test_a_header_that_is_nested_deeply_is_refused(saved: Path, deep: int) -> None:
    text = json.dumps(header_of(saved))
    nested = text.replace('"parameters": 123', f'"parameters": {"[" * deep}{"]" * deep}')
    save_file(load_file(saved), saved, {"edgescope": nested})
    assert_refused(saved, "nested too deeply")


def test_a_file_is_refused_by_its_size_before_it_is_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(Run.load(saved, most_scores=82).scores) == 82
    with pytest.raises(RunFileError, match="82 scores, and runs of up to 81 are opened here"):
        Run.load(saved, most_scores=81)
    with saved.open("r+b") as file:
        file.truncate(200 * 2**20)
    monkeypatch.setattr(runs, "safe_open", None)
    with pytest.raises(RunFileError, match=r"has 52,4.* scores, and runs of up to 5,000,000 are.*most_scores"):
        Run.load(saved, most_scores=5_000_000)
    saved.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    assert_refused(saved, "its header is too large")


def test_control_characters_in_names_are_cleaned_or_refused(saved: Path) -> None:
    def names(header: dict[str, Any], tensors: Any) -> None:
        header["config"]["prompts"]["name"] = "a\x00b\u202e\r\nc"
        header["provenance"] |= {"model": "M\x1b[31m\u2028", "notes": ["a\x07b"]}

    rewrite(saved, names)
    run = Run.load(saved)
    assert run.config.prompts.name == "a b c"
    assert run.provenance["model"] == "M [31m"
    assert run.notes == ["a b"]
    assert run.caption.startswith("M [31m (bfloat16); a b c, 2 of 3")
    rewrite(saved, lambda header, tensors: header["config"].update(model="local/a\nb"))
    assert_refused(saved, "The run's model cannot be")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_refused_or_harmless(saved: Path, data: st.DataObject) -> None:
    whole = bytearray(saved.read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    load_or_refuse(saved.with_name("changed"), bytes(whole))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(data=st.data())
def test_a_changed_header_is_refused_or_a_run(saved: Path, data: st.DataObject) -> None:
    """Any value of the header replaced by anything, or left out."""
    header, tensors = copy.deepcopy(header_of(saved)), load_file(saved)
    place: Any = header
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            break
        place = inner
    if data.draw(st.booleans()):
        place[key] = data.draw(JSON)
    else:
        del place[key]
    path = saved.with_name("changed")
    save_file(tensors, path, {"edgescope": json.dumps(header)})
    load_or_refuse(path, path.read_bytes())


def load_or_refuse(path: Path, content: bytes) -> None:
    """What loads is a run that a page can show and that can be saved again; anything else is a RunFileError."""
    path.write_bytes(content)
    try:
        run = Run.load(path)
    except RunFileError:
        return
    assert run.scores.shape == (run.graph.n_edges,)
    assert all(0 <= row < len(run.config.prompts) for row in run.used_rows)
    run.config.split(run.used_rows)
    f"{run.baseline.clean:+.3f} {run.baseline.corrupt:+.3f} {run.baseline.accuracy:.0%} {run.caption}".encode()
    run.save(path)
    assert Run.load(path).config == run.config
