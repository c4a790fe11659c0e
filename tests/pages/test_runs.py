"""5 · Runs, sharing, and what a session remembers of its runs, driven without a browser."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from circuit.edges.method import AblationType, Method
from circuit.jobs.attribute import attribute
from circuit.jobs.measure import MeasureRequest, measure
from circuit.runs.config import RunConfig
from circuit.runs.library import RunLibrary
from circuit.runs.links import settings_file, settings_text
from circuit.runs.run import Run
from circuit.ui.frame.server import job_server
from tests.job_functions import LONG, count
from tests.visitor import ATTRIBUTE, CIRCUIT, NUMBERS, PROMPTS, SCORES, Visitor, seen

RUNS = "pages/5_Runs.py"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunLibrary:
    """A runs directory of this test's own."""
    monkeypatch.setenv("EDGESCOPE_RUNS", str(tmp_path / "runs"))
    return RunLibrary(tmp_path / "runs")


@pytest.fixture(scope="module")
def computed(small: str) -> list[Run]:
    zero = Method(ablation_type=AblationType.ZERO, clean_corrupt=None)
    return [attribute(RunConfig(small, NUMBERS)), attribute(RunConfig(small, NUMBERS, zero))]


@pytest.fixture
def runs(library: RunLibrary, computed: list[Run]) -> list[Run]:
    """Two runs in the directory; the second was made later."""
    for number, run in enumerate(computed):
        run.provenance["date"] = f"2026-01-0{number + 1}T00:00:00+00:00"
        library.save(run)
    return computed


def table(visitor: Visitor) -> Any:
    return visitor.at.dataframe[0].value


def select(visitor: Visitor, *rows: int) -> None:
    ids = tuple(entry.id for entry in RunLibrary(Path(os.environ["EDGESCOPE_RUNS"])).listing().entries)
    if (mine := visitor.query().get("mine")) is not None:  # a session of a shared server lists its own
        own = json.loads((Path(os.environ["EDGESCOPE_RUNS"]) / "sessions" / f"{mine}.json").read_text())
        ids = tuple(run_id for run_id in ids if run_id in own)
    selection = {"rows": list(rows), "columns": [], "cells": []}
    visitor.at.session_state[f"runs-{hash(ids)}"] = {"selection": selection}
    visitor.run()


def shared(visitor: Visitor) -> list[str]:
    """The links of the Share button."""
    return [code.value for code in visitor.at.code]


def parameters(link: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(link).query))


# --- the list ------------------------------------------------------------------------------------------------------


def test_without_runs_the_page_says_how_to_get_one(library: RunLibrary) -> None:
    visitor = Visitor(RUNS)
    assert "No run is kept yet" in visitor.words()
    visitor.click("Set up a run")
    assert visitor.at.header[0].value == "1 · Prompts"


def test_runs_are_listed_the_newest_first_and_one_is_opened(runs: list[Run]) -> None:
    visitor = Visitor(RUNS)
    assert list(table(visitor)["Method"]) == [run.config.method.describe() for run in reversed(runs)]
    assert list(table(visitor)["Edges"]) == [190, 190]
    select(visitor, 1)
    visitor.click("Open")
    assert visitor.at.header[0].value == "3 · Scores"
    assert runs[0].caption in visitor.words()


def test_a_run_gets_a_name_and_a_note_which_other_sessions_see(runs: list[Run], library: RunLibrary) -> None:
    visitor = Visitor(RUNS)
    select(visitor, 0)
    visitor.at.text_input[0].set_value("*zero* ../ablation")
    visitor.at.text_area[0].set_value("compare with resample")
    visitor.button("Save").click()
    visitor.run()
    assert table(Visitor(RUNS))["Name"].iloc[0] == "*zero* ../ablation"
    assert table(Visitor(RUNS))["Note"].iloc[0] == "compare with resample"
    assert library.load(runs[1].id).scores.tolist() == runs[1].scores.tolist()


def test_a_run_is_deleted_once_that_is_confirmed(runs: list[Run], library: RunLibrary) -> None:
    visitor = Visitor(SCORES, run=runs[1].id)
    visitor.go(RUNS)
    select(visitor, 0)
    visitor.click("Delete")
    assert len(library.listing().entries) == 2
    visitor.at.button("delete-yes").click()
    visitor.run()
    assert [entry.id for entry in library.listing().entries] == [runs[0].id]
    assert list(table(visitor)["Method"]) == [runs[0].config.method.describe()]
    visitor.go(SCORES)
    assert "run attribution first" in visitor.words()


def test_several_are_deleted_or_compared(runs: list[Run], library: RunLibrary) -> None:
    visitor = Visitor(RUNS)
    select(visitor, 0, 1)
    visitor.click("Compare 2 runs")
    assert visitor.at.header[0].value == "6 · Compare"
    assert "**They differ in" in visitor.words()
    visitor.go(RUNS)
    select(visitor, 0, 1)
    visitor.click("Delete 2 runs")
    visitor.at.button("delete-no").click()
    visitor.run()
    assert len(library.listing().entries) == 2


def test_damaged_files_are_named_and_the_others_listed(runs: list[Run], library: RunLibrary) -> None:
    (library.folder / f"{'b' * 32}.safetensors").write_bytes(b"PK")
    (library.folder / "mine.safetensors").write_bytes(b"")
    visitor = Visitor(RUNS)
    assert len(table(visitor)) == 2
    assert f"{'b' * 32}.safetensors** is left out of the list" in visitor.words()
    assert "mine.safetensors** is left out of the list. Its name is not that of a run" in visitor.words()
    assert str(library.folder) not in visitor.words()


def test_a_directory_that_is_none_is_a_sentence(library: RunLibrary) -> None:
    library.folder.parent.mkdir(exist_ok=True)
    library.folder.touch()
    for page in (RUNS, None):
        visitor = Visitor(page)
        if page:
            assert "The runs directory cannot be read: Not a directory." in visitor.words()


def test_the_landing_page_leads_to_the_last_runs(runs: list[Run]) -> None:
    visitor = Visitor()
    assert "Recent runs" in visitor.words()
    visitor.at.button(f"open-{runs[0].id}").click()
    visitor.run()
    assert visitor.at.header[0].value == "3 · Scores"
    assert runs[0].caption in visitor.words()


def test_a_run_deleted_by_somebody_else_does_not_make_a_click_hit_another(runs: list[Run], library: RunLibrary) -> None:
    visitor = Visitor(RUNS)
    select(visitor, 0)
    library.delete(runs[1].id)
    visitor.button("Open").click()
    visitor.run()
    assert visitor.at.header[0].value == "5 · Runs"
    assert len(table(visitor)) == 1
    assert "**Select** a run" in visitor.words()


# --- files from elsewhere ------------------------------------------------------------------------------------------


def upload(visitor: Visitor, content: bytes, name: str = "theirs.safetensors") -> None:
    visitor.at.file_uploader[0].upload(name, content, "application/octet-stream")
    visitor.run()


def test_a_run_made_elsewhere_is_taken_in_and_shown(computed: list[Run], library: RunLibrary, tmp_path: Path) -> None:
    computed[0].save(tmp_path / "file")
    visitor = Visitor(RUNS)
    upload(visitor, (tmp_path / "file").read_bytes())
    assert [entry.id for entry in library.listing().entries] == [computed[0].id]
    assert "was taken in" in visitor.words()
    visitor.go(CIRCUIT)
    assert computed[0].caption in visitor.words()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04K\x01.", b"\xff" * 1000])
def test_what_is_no_run_is_refused_with_a_sentence(library: RunLibrary, content: bytes) -> None:
    visitor = Visitor(RUNS)
    upload(visitor, content, "<b>*x*</b>.safetensors")
    assert "is damaged, or is not a saved run" in visitor.words()
    assert not library.listing().entries


def test_nothing_is_run_on_a_path_that_a_run_from_elsewhere_names(
    computed: list[Run], library: RunLibrary, small_folder: Path
) -> None:
    """The run's model is a folder of the server that is not offered under this name."""
    run = replace(computed[0], config=replace(computed[0].config, model=str(small_folder)), id="d" * 32)
    library.save(run)
    visitor = Visitor(CIRCUIT, run=run.id)
    assert "is not offered by this server" in visitor.errors()


# --- a disk that is full -------------------------------------------------------------------------------------------


def test_a_run_that_cannot_be_saved_stays_with_the_session(library: RunLibrary, small: str, tmp_path: Path) -> None:
    library.folder.touch()  # a file where the directory should be
    visitor = Visitor()
    visitor.work_on(small, NUMBERS)
    visitor.go(ATTRIBUTE)
    run = visitor.finish()
    assert "could not be saved in the runs directory: Not a directory." in visitor.words() or (
        "could not be saved in the runs directory: File exists." in visitor.words()
    )
    visitor.go(SCORES)
    assert run.caption in visitor.words()
    visitor.go(RUNS)
    assert f"Not saved yet: {run.caption}" in visitor.words()
    visitor.click("Save again")
    assert "Not saved yet" in visitor.words()
    library.folder.unlink()
    visitor.click("Save again")
    assert "Not saved yet" not in visitor.words()
    np.testing.assert_array_equal(library.load(run.id).scores, run.scores)


def test_a_run_is_saved_though_its_visitor_has_gone(library: RunLibrary, small: str) -> None:
    visitor = Visitor()
    visitor.work_on(small, NUMBERS)
    visitor.go(ATTRIBUTE)
    visitor.click("Run attribution")
    job = job_server().get(visitor.at.session_state["job-attribute"])
    assert job is not None
    assert job.wait(300)  # nobody looks at the page any more
    assert [entry.id for entry in library.listing().entries] == [job.result().id]


def test_what_others_have_measured_of_a_run_is_kept_beside_what_a_session_measures(
    runs: list[Run], library: RunLibrary
) -> None:
    request = MeasureRequest(runs[0].config, runs[0].scores, (5,))
    first, second = measure(request), measure(replace(request, sizes=(9,)))

    def page() -> None:
        import streamlit as st

        from circuit.ui.frame import session

        for run, key, curve in st.session_state.get("to keep", []):
            session.keep_curve(run, key, curve)

    one, other = (
        AppTest.from_function(page, default_timeout=300).run(),
        AppTest.from_function(page, default_timeout=300).run(),
    )
    for at, curves in ((one, [("a", first)]), (other, [("a", second), ("b", second)]), (one, [("c", first)])):
        at.session_state["to keep"] = [(runs[0], key, curve) for key, curve in curves]
        at.run()
        assert not at.exception
    kept = library.curves(runs[0].id)
    assert {key: [n for n in curve.sizes if n in (5, 9)] for key, curve in kept.items()} == {
        "a": [5, 9], "b": [9], "c": [5],
    }  # fmt: skip
    assert set(one.session_state["curves"][runs[0].id]) == {"a", "b", "c"}


def test_names_and_notes_are_shown_as_they_are(runs: list[Run], library: RunLibrary) -> None:
    library.label(runs[1].id, "![x](http://elsewhere/x.png)", "[a link](http://elsewhere) $x$")
    visitor = Visitor(RUNS)
    select(visitor, 0)
    (caption,) = [each.value for each in visitor.at.caption if "elsewhere" in each.value]
    assert "![" not in caption
    assert "](" not in caption
    assert "![x](http://elsewhere/x.png)" in visitor.words()


# --- who sees what -------------------------------------------------------------------------------------------------


def test_a_session_of_a_shared_server_lists_its_own_runs_also_after_a_reload(
    runs: list[Run], library: RunLibrary, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESCOPE_LIST_RUNS", "own")
    visitor = Visitor()
    assert "Recent runs" not in visitor.words()
    assert "mine" not in visitor.query()
    visitor.work_on(small, NUMBERS)
    visitor.go(ATTRIBUTE)
    run = visitor.finish()
    visitor.go(RUNS)
    assert len(table(visitor)) == 1
    address = visitor.query()["mine"]
    again = Visitor(RUNS, mine=address)  # a reload
    assert len(table(again)) == 1
    assert again.query()["mine"] == address
    assert "No run is kept yet" in Visitor(RUNS).words()  # somebody else
    assert runs[0].caption in Visitor(SCORES, run=runs[0].id).words()  # who has the id may look
    select(again, 0)
    again.click("Delete")
    again.at.button("delete-yes").click()
    again.run()
    assert run.id not in library
    assert len(library.listing().entries) == 2


def test_a_run_is_listed_though_its_tab_was_closed_before_it_finished(
    library: RunLibrary, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESCOPE_LIST_RUNS", "own")
    visitor = Visitor()
    visitor.work_on(small, NUMBERS)
    visitor.go(ATTRIBUTE)
    visitor.click("Run attribution")
    address = visitor.query()["mine"]
    job = job_server().get(visitor.at.session_state["job-attribute"])
    assert job is not None
    assert job.wait(300)  # nobody looks at the page any more
    assert len(table(Visitor(RUNS, mine=address))) == 1
    assert "No run is kept yet" in Visitor(RUNS).words()


def test_the_runs_of_a_sweep_are_listed_as_the_visitors_own(
    library: RunLibrary, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESCOPE_LIST_RUNS", "own")
    visitor = Visitor()
    visitor.work_on(small, NUMBERS)
    visitor.go("pages/7_Sweep.py")
    visitor.click("Run the sweep")
    visitor.wait(lambda: "2 of 2 runs are done" in visitor.words(), 90)
    visitor.go(RUNS)
    assert len(table(visitor)) == 2
    assert "No run is kept yet" in Visitor(RUNS).words()


def test_the_owners_limits_on_runs_hold(
    runs: list[Run], library: RunLibrary, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESCOPE_LARGEST_UPLOAD", "0.1")
    visitor = Visitor(RUNS)
    upload(visitor, bytes(2**20))
    assert "runs of up to 100 kB are taken" in visitor.errors()
    monkeypatch.setenv("EDGESCOPE_MOST_RUNS", "2")
    visitor.work_on(small, NUMBERS)
    visitor.go(ATTRIBUTE)
    visitor.finish()
    assert "this server keeps 2 runs, and has as many" in visitor.words()
    assert len(library.listing().entries) == 2


@pytest.mark.parametrize("mine", ["../../x", "0" * 32, "", "é"])
def test_an_unknown_list_is_an_empty_one(library: RunLibrary, mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESCOPE_LIST_RUNS", "own")
    assert "No run is kept yet" in Visitor(RUNS, mine=mine).words()


@pytest.mark.parametrize("content", ["{}", "[1, null]", "[" * 100_000, '["../../x"]'])
def test_a_damaged_list_is_an_empty_one(library: RunLibrary, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESCOPE_LIST_RUNS", "own")
    (library.folder / "sessions").mkdir(parents=True)
    (library.folder / "sessions" / f"{'a' * 32}.json").write_text(content)
    assert "No run is kept yet" in Visitor(RUNS, mine="a" * 32).words()


# --- links ---------------------------------------------------------------------------------------------------------


def test_the_sidebar_names_the_run_of_a_link_at_once(runs: list[Run]) -> None:
    for page in (SCORES, CIRCUIT, ATTRIBUTE):
        visitor = Visitor(page, run=runs[0].id)
        assert any(runs[0].caption in seen(caption.value) for caption in visitor.at.sidebar.caption), page


def test_a_link_shows_the_same_view_elsewhere_without_what_is_the_senders(runs: list[Run]) -> None:
    visitor = Visitor(CIRCUIT, run=runs[0].id, edges="17", direction="Is it needed?", draft="a" * 32, mine="b" * 32)
    (view, settings) = shared(visitor)
    assert parameters(view)["run"] == runs[0].id
    assert not {"draft", "mine"} & set(parameters(view))
    other = Visitor(CIRCUIT, **parameters(view))
    assert "17" in other.words()
    assert set(parameters(settings)) == {"settings"}


def test_a_link_gives_nobody_the_senders_jobs(runs: list[Run]) -> None:
    job = job_server().submit(count, LONG, note=f"curve-{runs[0].id}")
    visitor = Visitor(CIRCUIT, run=runs[0].id, curve=job.id, smallest=job.id, effects=job.id)
    assert job.id not in shared(visitor)[0]
    assert parameters(shared(visitor)[0])["run"] == runs[0].id
    job.cancel()


def test_a_link_of_settings_fills_the_form(runs: list[Run], small: str) -> None:
    method = Method(
        "prob", "avg_val", None, 7, AblationType.BATCH_TOKENWISE_MEAN, "clean", integration_rule="trapezoid"
    )
    config = RunConfig(small, NUMBERS, method, "float32", "cpu", True, False, 3, 0.5)
    visitor = Visitor(ATTRIBUTE, settings=settings_text(config))
    assert "settings" not in visitor.query()
    assert "Taken from the link: 3 prompt pairs (numbers), small, and integrated gradients" in visitor.words()
    assert "Left out" not in visitor.words()
    run = visitor.finish()
    assert run.config == config
    assert run.used_rows == attribute(config).used_rows
    visitor.go(PROMPTS)
    assert visitor.at.dataframe[0].value["clean"].tolist() == [pair.clean for pair in NUMBERS.pairs]


@pytest.mark.parametrize(
    "method",
    [
        Method(mask_val=None, integrated_grad_samples=4, path="inputs", backward="gim"),
        Method(mask_val=None, integrated_grad_samples=2, path="activations", integration_rule="trapezoid"),
        Method(mask_val=None, path="ends", backward="relp"),
        Method(backward="linear-mlp+gim-attention"),
    ],
)
def test_a_link_of_settings_carries_path_and_backward_rule(small: str, method: Method) -> None:
    config = RunConfig(small, NUMBERS, method)
    visitor = Visitor(ATTRIBUTE, settings=settings_text(config))
    assert "Left out" not in visitor.words()
    run = visitor.finish()
    assert run.config == config
    visitor.go(SCORES)
    assert parameters(shared(visitor)[1])["settings"] == settings_text(config)


def test_a_link_from_before_paths_and_backward_rules_still_opens(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(config: RunConfig) -> dict[str, Any]:
        values = as_now(config)
        values["method"] = {key: value for key, value in values["method"].items() if key not in ("path", "backward")}
        return values

    as_now = RunConfig.to_dict
    config = RunConfig(small, NUMBERS, Method(mask_val=None, integrated_grad_samples=3))
    with monkeypatch.context() as patch:
        patch.setattr(RunConfig, "to_dict", without)
        text = settings_text(config)
    assert text != settings_text(config)
    assert Visitor(ATTRIBUTE, settings=text).finish().config == config


def test_a_sweep_refuses_what_cannot_work_with_the_methods_own_sentence(small: str) -> None:
    visitor = Visitor()
    visitor.work_on(small, NUMBERS)
    visitor.go("pages/7_Sweep.py")
    visitor.at.multiselect("sweep_kinds").set_value(["EAP-IG over inputs"])
    visitor.at.multiselect("sweep_backward").set_value(["GIM"])
    visitor.run()
    assert "1 method " in visitor.words()
    visitor.at.multiselect("sweep_ablations").set_value(["Zero"])
    visitor.run()
    assert "so it needs the resample ablation" in visitor.errors()
    assert visitor.button("Run the sweep").disabled


def test_a_link_of_settings_may_also_lead_to_the_prompts(small: str) -> None:
    config = RunConfig(small, NUMBERS, Method(mask_val=0.25), prepend_bos=False)
    visitor = Visitor(PROMPTS, settings=settings_text(config))
    assert visitor.at.dataframe[0].value["clean"].tolist() == [pair.clean for pair in NUMBERS.pairs]
    visitor.go(ATTRIBUTE)
    assert visitor.finish().config == config


@pytest.mark.parametrize("text", ["", "x", "A" * 8000, "%", settings_text(RunConfig("m", NUMBERS))[:-5]])
def test_a_link_that_is_damaged_changes_nothing_and_says_so(small: str, text: str) -> None:
    for page in (ATTRIBUTE, PROMPTS):
        visitor = Visitor(page, settings=text)
        assert "Nothing was changed" in visitor.words()
        assert "settings" not in visitor.query()


def test_what_the_form_does_not_offer_is_left_out_with_a_word(small: str) -> None:
    method = Method(mask_val=None, integrated_grad_samples=5000)
    config = RunConfig(
        "/etc", NUMBERS, method, device="cuda:7", batch_size=100_000, held_out=0.1, split_seed=3, dtype="bfloat16"
    )
    visitor = Visitor(ATTRIBUTE, settings=settings_text(config))
    for words in (
        "the model '/etc', which this server does not offer", "5,000 samples", "the device 'cuda:7'",
        "the batch size 100,000", "holding out 10%", "the seed 3",
    ):  # fmt: skip
        assert words in visitor.words()
    assert visitor.at.session_state["model"] != "/etc"
    assert visitor.at.slider("samples").value == 30
    assert visitor.at.selectbox("dtype").value == "bfloat16"


def test_the_form_starts_from_the_run_that_is_shown(runs: list[Run]) -> None:
    visitor = Visitor(ATTRIBUTE, run=runs[1].id)
    visitor.click("Use this run's settings")
    assert "Taken from the run that is shown" in visitor.words()
    assert visitor.finish().config == runs[1].config


def test_the_form_starts_from_a_run_of_the_list_or_from_a_file(runs: list[Run]) -> None:
    visitor = Visitor(RUNS)
    select(visitor, 0)
    visitor.click("Use its settings")
    assert visitor.at.header[0].value == "2 · Attribute"
    assert visitor.at.selectbox("ablation").value == AblationType.ZERO
    assert visitor.at.session_state["prompts"] == NUMBERS
    visitor.go(ATTRIBUTE)
    content = settings_file(runs[0].config).encode()
    visitor.at.file_uploader("settings-file").upload("settings.json", content, "application/json")
    visitor.run()
    visitor.click("Use these settings")
    assert visitor.at.selectbox("ablation").value == AblationType.RESAMPLE
    visitor.at.file_uploader("settings-file").set_value(("bad.json", b"{\n?", "application/json"))
    visitor.run()
    assert "The settings file cannot be read" in visitor.errors()


def test_a_run_says_where_it_comes_from(runs: list[Run], small: str, small_folder: Path) -> None:
    about = runs[0].provenance
    weights = about["weights"]
    assert weights["source"] == small
    assert re.fullmatch("[0-9a-f]{64}", weights["sha256"])
    assert {"torch", "transformers", "transformer-lens", "numpy"} <= set(about["versions"])
    assert str(small_folder.parent) not in json.dumps(about)
    visitor = Visitor(RUNS)
    select(visitor, 1)
    said = json.loads(visitor.at.json[0].value)
    assert said["weights"] == weights
    assert said["split_seed"] == 0
    assert said["id"] == runs[0].id


def test_a_model_with_other_weights_has_another_hash(small: str, small_folder: Path, tmp_path: Path) -> None:
    from circuit.models.identity import model_identity

    for name, weights in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    a, b, c = (model_identity(str(tmp_path / name)) for name in "abc")
    assert a["sha256"] == b["sha256"] != c["sha256"]
    os.utime(tmp_path / "a" / "model.safetensors", (1, 1))
    assert model_identity(str(tmp_path / "a")) == a
