"""The pages, driven without a browser, with real jobs on the real worker and a small random model.

A page is only ever looked at as its user sees it: widgets, words, and what the address says.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from circuit.graph import EdgeGraph
from circuit.method import AblationType, AnswerFunction, GradFunction, IntegrationRule, Method
from circuit.prompts import PRESETS, PromptPair, PromptSet
from circuit.runs import Baseline, Run, RunConfig
from circuit.tasks import attribute
from circuit.ui.server import job_server

pytestmark = pytest.mark.timeout(150)

APP = str(Path(__file__).parent.parent / "app.py")
PROMPTS, ATTRIBUTE, SCORES, CIRCUIT = (
    f"pages/{name}.py" for name in ("1_Prompts", "2_Attribute", "3_Scores", "4_Circuit")
)
PAGES = [PROMPTS, ATTRIBUTE, SCORES, CIRCUIT]
NUMBERS = PromptSet(
    "numbers",
    tuple(PromptPair(f"{i} 2 3 4", f"{i} 9 3 4", ("6", "45"), ("68",)) for i in (1, 8, 11)),  # the model does it
)


@pytest.fixture(scope="module", autouse=True)
def server(small: str) -> Iterator[None]:
    """One worker for all tests here, which finds the small model; it ends with them."""
    yield
    job_server.clear()


class Visitor:
    """A session of the app in a browser of its own."""

    def __init__(self, page: str | None = None, **query: str) -> None:
        self.at = AppTest.from_file(APP, default_timeout=30)
        self.at.query_params.update(query)
        if page is None:
            self.at.run()
        else:
            self.go(page)
        self.check()

    def check(self) -> None:
        assert not self.at.exception, self.at.exception

    def go(self, page: str) -> None:
        self.at.switch_page(page)
        self.run()

    def run(self) -> None:
        self.at.run()
        self.check()

    def work_on(self, model: str, prompts: PromptSet) -> None:
        """Choose a model and prompts, as 1 · Prompts would."""
        self.at.session_state["model"] = model
        self.at.session_state["prompts"] = prompts
        self.at.session_state["prompt_table"] = 1

    def choose(self, **values: Any) -> None:
        """Set widgets by key."""
        for key, value in values.items():
            (widget,) = [widget for widget in self.widgets() if widget.key == key]
            widget.set_value(value)
            self.run()

    def widgets(self) -> list[Any]:
        at = self.at
        return [*at.selectbox, *at.radio, *at.slider, *at.number_input, *at.toggle, *at.select_slider]

    def button(self, label: str) -> Any:
        (button,) = [button for button in self.at.button if button.label == label]
        return button

    def click(self, label: str) -> None:
        self.button(label).click()
        self.run()

    def wait(self, done: Callable[[], object], seconds: float = 30) -> None:
        """Look again and again, as the page's own timer does, until something is there."""
        until = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < until, self.words()
            time.sleep(0.05)
            self.run()

    def words(self) -> str:
        """All that the page says in words."""
        at = self.at
        parts = [at.header, at.subheader, at.markdown, at.info, at.warning, at.error, at.success, at.caption]
        return "\n".join(str(element.value) for elements in parts for element in elements)

    def metrics(self) -> dict[str, str]:
        return {metric.label: metric.value for metric in self.at.metric}

    def errors(self) -> str:
        return "\n".join(str(error.value) for error in self.at.error)

    def result(self) -> Run | None:
        """The run that this session looks at."""
        run: Run | None = self.at.session_state["run"] if "run" in self.at.session_state else None  # noqa: SIM401
        return run

    def finish(self) -> Run:
        """Run attribution with what is chosen, and wait for the new run."""
        before = self.result()
        self.click("Run attribution")
        self.wait(lambda: self.errors() or self.result() is not before)
        run = self.result()
        assert run is not None, self.errors()
        assert run is not before, self.errors()
        return run

    def fail(self) -> str:
        """Run attribution with what is chosen, and wait for the sentence that says why not."""
        self.click("Run attribution")
        self.wait(self.errors)
        return self.errors()

    def figure(self) -> Any:
        """The first chart of the page."""
        return json.loads(self.at.get("plotly_chart")[0].proto.spec)


@pytest.fixture
def visitor(small: str) -> Visitor:
    """A session on 2 · Attribute that works with the small model."""
    visitor = Visitor()
    visitor.work_on(small, NUMBERS)
    visitor.go(ATTRIBUTE)
    return visitor


@pytest.fixture(scope="module")
def stored(small: str) -> Run:
    """A finished run in the runs folder, as an earlier session left it."""
    run = attribute(RunConfig(small, NUMBERS))
    run.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{run.id}.safetensors")
    return run


# --- nothing done yet ----------------------------------------------------------------------------------------------


def test_the_landing_page_offers_the_example_and_every_page() -> None:
    visitor = Visitor()
    assert not visitor.button("Run the example").disabled
    assert "Runs of this session" not in visitor.words()
    linked = {link.proto.page for link in visitor.at.get("page_link")}
    assert {Path(page).stem.split("_")[1] for page in PAGES} <= linked


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_what_it_is_for_before_anything_is_done(page: str) -> None:
    visitor = Visitor(page)
    assert visitor.at.header[0].value
    assert len(visitor.at.markdown[0].value) > 60
    assert visitor.at.button  # a way on


@pytest.mark.parametrize("page", [SCORES, CIRCUIT])
def test_a_page_without_a_run_says_how_to_get_one(page: str) -> None:
    visitor = Visitor(page)
    assert "run attribution first, or open the ready example" in visitor.words()
    visitor.click("Set up a run")
    assert visitor.at.header[0].value == "1 · Prompts"
    visitor = Visitor(page)
    visitor.click("Ready example")
    assert visitor.at.header[0].value == "Edgescope"


# --- prompts -------------------------------------------------------------------------------------------------------


def test_a_preset_replaces_the_table() -> None:
    visitor = Visitor(PROMPTS)
    visitor.choose(preset="agreement")
    assert PRESETS["agreement"].about in visitor.words()
    visitor.at.button("load-preset").click()
    visitor.run()
    table = visitor.at.dataframe[0].value
    assert list(table["clean"]) == [pair.clean for pair in PRESETS["agreement"].prompts.pairs]
    assert list(table.index) == list(range(1, len(table) + 1))


def test_the_models_offered_include_the_owners(small: str) -> None:
    visitor = Visitor(PROMPTS)
    assert [*visitor.at.selectbox[0].options][-1] == "small"
    visitor.at.selectbox[0].select_index(len(visitor.at.selectbox[0].options) - 1)
    visitor.run()
    assert visitor.at.session_state["model"] == small


def test_loading_a_model_shows_what_it_is(small: str) -> None:
    visitor = Visitor()
    visitor.work_on(small, NUMBERS)
    visitor.go(PROMPTS)
    assert "edges**" not in visitor.words()
    visitor.at.button("load-model").click()
    visitor.run()
    visitor.wait(lambda: "edges**" in visitor.words())
    assert "3 layers of 4 heads (2 key-value heads); **190 edges**; float32 on" in visitor.words()


def test_a_hub_model_can_be_named_only_where_the_owner_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Visitor(PROMPTS).at.text_input
    monkeypatch.setenv("EDGESCOPE_ALLOW_HUB", "1")
    visitor = Visitor(PROMPTS)
    before = visitor.at.session_state["model"]
    visitor.at.text_input[0].set_value("/etc/passwd")
    visitor.run()
    assert "is no hub id" in visitor.errors()
    assert visitor.at.session_state["model"] == before
    visitor.at.text_input[0].set_value("someone/something")
    visitor.run()
    assert visitor.at.session_state["model"] == "someone/something"


def test_an_edited_preset_does_not_keep_its_name() -> None:
    visitor = Visitor(PROMPTS)
    name = visitor.at.session_state["prompts"].name
    visitor.at.session_state["table-0"] = {
        "edited_rows": {0: {"clean": "Something else"}}, "added_rows": [], "deleted_rows": [],
    }  # fmt: skip
    visitor.run()
    assert visitor.at.session_state["prompts"].pairs[0].clean == "Something else"
    assert visitor.at.session_state["prompts"].name == f"{name} (edited)"


def test_checking_prompts_names_bad_rows_and_measures_the_others(small: str) -> None:
    visitor = Visitor()
    bad = (PromptPair("1 2", "1", ("5",), ("6",)), PromptPair("1 2", "1 3", ("5 6",), ("7",)))
    visitor.work_on(small, PromptSet("mixed", (bad[0], *NUMBERS.pairs, bad[1])))
    visitor.go(PROMPTS)
    visitor.click("Check prompts")
    visitor.wait(visitor.metrics)
    assert "3 of 5 pairs can be used" in visitor.words()
    errors = [str(error.value) for error in visitor.at.error]
    assert errors[0].startswith("Row 1: The clean prompt has 2 tokens and the corrupt one 1")
    assert errors[1].startswith("Row 5: The right answer '5·6' is 2 tokens")
    report = visitor.at.dataframe[1].value
    assert report["problem"].astype(bool).tolist() == [True, False, False, False, True]
    assert report["P(right)"].notna().tolist() == [False, True, True, True, False]


def test_a_check_is_marked_old_when_the_choices_change(small: str) -> None:
    visitor = Visitor()
    visitor.work_on(small, NUMBERS)
    visitor.go(PROMPTS)
    visitor.click("Check prompts")
    visitor.wait(visitor.metrics)
    assert "check again" not in visitor.words()
    visitor.choose(bos="Yes")
    assert "check again" in visitor.words()
    assert "without a BOS token" in visitor.words()  # what the old numbers are
    visitor.click("Check prompts")
    visitor.wait(lambda: "check again" not in visitor.words())
    assert "with a BOS token" in visitor.words()


def test_a_model_that_cannot_be_loaded_is_said_where_the_prompts_are_checked() -> None:
    visitor = Visitor()
    folder = Path(os.environ["EDGESCOPE_MODELS"]) / "broken"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "martian"}')
    visitor.work_on("local/broken", NUMBERS)
    visitor.go(PROMPTS)
    visitor.click("Check prompts")
    visitor.wait(visitor.errors)
    assert "local/broken could not be loaded" in visitor.errors()
    assert "martian" in visitor.errors()


def test_an_empty_table_cannot_be_checked_or_run(small: str) -> None:
    visitor = Visitor()
    visitor.work_on(small, PromptSet("none", ()))
    visitor.go(PROMPTS)
    assert visitor.button("Check prompts").disabled
    visitor.go(ATTRIBUTE)
    assert visitor.button("Run attribution").disabled
    assert "no prompts yet" in visitor.words()


def test_prompts_and_model_are_the_same_on_every_page(small: str) -> None:
    visitor = Visitor()
    visitor.work_on(small, NUMBERS)
    for page in (PROMPTS, ATTRIBUTE, PROMPTS, SCORES, PROMPTS):
        visitor.go(page)
        assert visitor.at.session_state["prompts"] == NUMBERS
        assert visitor.at.session_state["model"] == small
        assert "numbers, 3 pairs" in visitor.words()
    assert list(visitor.at.dataframe[0].value["corrupt"]) == [pair.corrupt for pair in NUMBERS.pairs]


# --- attribution ---------------------------------------------------------------------------------------------------

CHOICES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"kind": "Gradient at one mask value"}, {"mask_val": 0.5}),
    ({"kind": "Gradient at one mask value", "mask_val": 0.85}, {"mask_val": 0.85}),
    ({"kind": "Integrated gradients"}, {"mask_val": None, "integrated_grad_samples": 5}),
    *(
        (
            {"kind": "Integrated gradients", "samples": 3, "rule": rule},
            {"mask_val": None, "integrated_grad_samples": 3, "integration_rule": rule},
        )
        for rule in get_args(IntegrationRule)
    ),
    *(({"grad": grad}, {"grad_function": grad}) for grad in get_args(GradFunction)),
    *(({"answer": answer}, {"answer_function": answer}) for answer in get_args(AnswerFunction)),
    *(
        (
            {"ablation": ablation, **({"batch": 2} if ablation.needs_batch_size else {})},
            {"ablation_type": ablation, "clean_corrupt": "corrupt" if ablation.reads_batch else None},
        )
        for ablation in AblationType
    ),
    (
        {"ablation": AblationType.BATCH_ALL_TOK_MEAN, "side": "clean", "batch": 3},
        {"ablation_type": AblationType.BATCH_ALL_TOK_MEAN, "clean_corrupt": "clean"},
    ),
]


@pytest.mark.parametrize(("chosen", "expected"), CHOICES, ids=lambda choice: "-".join(map(str, choice.values())))
def test_every_choice_is_what_is_run(visitor: Visitor, chosen: dict[str, Any], expected: dict[str, Any]) -> None:
    visitor.choose(**chosen)
    run = visitor.finish()
    assert run.config.method == Method(**expected)
    assert run.config.batch_size == chosen.get("batch")
    assert run.config.prompts == NUMBERS
    np.testing.assert_allclose(run.scores, attribute(run.config).scores, rtol=1e-4, atol=1e-7)
    assert np.any(run.scores)
    assert visitor.metrics()["Edges scored"] == "190"
    assert run.caption in visitor.words()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_lower_precision_is_run_and_named(visitor: Visitor, dtype: str) -> None:
    visitor.choose(dtype=dtype)
    run = visitor.finish()
    assert run.config.dtype == dtype
    assert f"({dtype})" in visitor.words()


@pytest.mark.parametrize("ablation", [AblationType.BATCH_TOKENWISE_MEAN, AblationType.BATCH_ALL_TOK_MEAN])
def test_a_batch_mean_without_a_batch_size_is_refused_before_it_runs(visitor: Visitor, ablation: AblationType) -> None:
    visitor.choose(ablation=ablation)
    assert visitor.button("Run attribution").disabled
    assert "depends on the batch size" in visitor.errors()
    visitor.choose(batch=2)
    assert not visitor.button("Run attribution").disabled
    assert visitor.errors() == ""


def test_the_side_is_asked_only_where_it_matters(visitor: Visitor) -> None:
    def side() -> Any:
        return next(radio for radio in visitor.at.radio if radio.key == "side")

    assert not side().disabled
    visitor.choose(ablation=AblationType.ZERO)
    assert side().disabled


def test_scores_that_are_all_zero_are_called_so(visitor: Visitor) -> None:
    visitor.choose(side="clean")
    assert not np.any(visitor.finish().scores)
    assert "Every score is zero" in visitor.errors()


def test_pairs_that_cannot_be_used_are_counted(visitor: Visitor, small: str) -> None:
    visitor.work_on(small, PromptSet("mixed", (PromptPair("1 2", "1", ("5",), ("6",)), *NUMBERS.pairs)))
    run = visitor.finish()
    assert run.used_rows == [1, 2, 3]
    assert "1 of 4 pairs could not be used" in visitor.words()


LENGTHS = PromptSet("lengths", (*NUMBERS.pairs, PromptPair("1 2", "1 3", ("5",), ("6",))))
UNANSWERED = PromptSet("unanswered", (*NUMBERS.pairs, PromptPair("1 2 3 4", "1 2 3 9", ("5",))))


@pytest.mark.parametrize(
    ("prompts", "chosen", "words"),
    [
        (LENGTHS, {"apart": True}, "Row 4 has 2 tokens and row 1 has 4"),
        (LENGTHS, {"ablation": AblationType.TOKENWISE_MEAN_CLEAN}, "tokens"),
        (UNANSWERED, {}, "wrong answer"),
        (PromptSet("bad", (PromptPair("1", "1", ("5",)),)), {}, "None of the 1 prompt pairs"),
    ],
)
def test_what_cannot_be_scored_is_said_on_the_page(
    visitor: Visitor, small: str, prompts: PromptSet, chosen: dict[str, Any], words: str
) -> None:
    visitor.work_on(small, prompts)
    visitor.choose(**chosen)
    assert words in visitor.fail()
    assert not visitor.button("Run attribution").disabled  # to try again


def test_choices_survive_a_page_switch(visitor: Visitor) -> None:
    visitor.choose(kind="Integrated gradients", samples=9, grad="prob", ablation=AblationType.ZERO, apart=True)
    visitor.go(PROMPTS)
    visitor.go(ATTRIBUTE)
    values = {widget.key: widget.value for widget in visitor.widgets()}
    assert (values["kind"], values["samples"], values["grad"]) == ("Integrated gradients", 9, "prob")
    assert (values["ablation"], values["apart"]) == (AblationType.ZERO, True)


# --- long jobs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def long_job(visitor: Visitor, small: str) -> Visitor:
    """A session whose attribution runs for minutes, if nobody stops it."""
    many = PromptSet("many", tuple(PromptPair(f"{i} 2 3 4", f"{i} 9 3 4", ("5",), ("7",)) for i in range(1, 10)) * 100)
    visitor.work_on(small, many)
    visitor.choose(kind="Integrated gradients", samples=30, batch=1)
    visitor.click("Run attribution")
    visitor.wait(lambda: "— running" in visitor.words())
    return visitor


def test_a_cancelled_job_says_so_and_the_next_one_runs(long_job: Visitor, small: str) -> None:
    assert long_job.button("Run attribution").disabled
    long_job.click("Cancel")
    long_job.wait(long_job.errors)
    assert "cancelled" in long_job.errors()
    assert long_job.result() is None
    long_job.work_on(small, NUMBERS)
    long_job.choose(batch=0)
    assert long_job.finish().used_rows == [0, 1, 2]
    assert "cancelled" not in long_job.errors()


def test_a_job_goes_on_while_its_page_is_left_and_a_reload_finds_it(long_job: Visitor) -> None:
    address = dict(long_job.at.query_params)
    long_job.go(PROMPTS)
    long_job.go(ATTRIBUTE)
    assert "— running" in long_job.words()
    reloaded = Visitor(ATTRIBUTE, **address)
    assert "— running" in reloaded.words()
    reloaded.click("Cancel")
    for visitor in (reloaded, long_job):
        visitor.wait(visitor.errors)
        assert "cancelled" in visitor.errors()


def test_a_job_that_nobody_knows_is_said_to_be_unknown() -> None:
    visitor = Visitor(ATTRIBUTE, attribute="0" * 32)
    assert "no longer known" in visitor.errors()
    assert not visitor.button("Run attribution").disabled


# --- scores --------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_one_click_from_its_scores(visitor: Visitor) -> None:
    run = visitor.finish()
    visitor.click("See the scores")
    assert visitor.at.header[0].value == "3 · Scores"
    assert visitor.at.query_params["run"] in (run.id, [run.id])
    assert [trace["type"] for trace in visitor.figure()["data"]].count("heatmap") == 1
    table = visitor.at.dataframe[0].value
    order = np.argsort(-np.abs(run.scores), kind="stable")[:50]
    np.testing.assert_allclose(table["score"], run.scores[order], rtol=1e-5)
    assert table["source"].iloc[0] == run.graph.sources[run.graph.edge_source[order[0]]].name
    assert "all 190 edges" in visitor.words()
    assert run.caption in visitor.words()


def test_an_address_with_a_run_shows_it_to_a_new_session(stored: Run) -> None:
    for page in (SCORES, CIRCUIT):
        visitor = Visitor(page, run=stored.id)
        shown = visitor.result()
        assert shown is not None
        np.testing.assert_array_equal(shown.scores, stored.scores)


@pytest.mark.parametrize("page", [SCORES, CIRCUIT])
@pytest.mark.parametrize("run_id", ["0" * 32, "../../etc/passwd", "", "x" * 5000, "0" * 31 + "\n"])
def test_an_address_with_an_unknown_run_is_met_with_a_word(page: str, run_id: str) -> None:
    visitor = Visitor(page, run=run_id)
    assert "run attribution first" in visitor.words()
    if run_id:
        assert "cannot be shown" in visitor.words()
    assert os.environ["EDGESCOPE_RUNS"] not in visitor.words()


def test_a_damaged_run_is_met_with_a_word(stored: Run) -> None:
    folder = Path(os.environ["EDGESCOPE_RUNS"])
    whole = (folder / f"{stored.id}.safetensors").read_bytes()
    (folder / f"{'a' * 32}.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "damaged" in Visitor(SCORES, run="a" * 32).words()


def test_clicking_a_cell_shows_its_edges_and_clicking_one_explains_it(stored: Run) -> None:
    visitor = Visitor(SCORES, run=stored.id)
    visitor.at.session_state["overview"] = {"selection": {"points": [{"y": "A2.V", "x": "A0"}]}}
    visitor.run()
    (block,) = [words.value for words in visitor.at.subheader if "→" in words.value]
    assert block == "A0 → A2.V"
    name, edge = "A0.1->A2.0.V", None
    for number in range(stored.graph.n_edges):
        if stored.graph.edge_name(number) == name:
            edge = number
    visitor.at.session_state["block-A2.V-A0"] = {"selection": {"points": [{"customdata": [edge]}]}}
    visitor.at.session_state["overview"] = {"selection": {"points": []}}
    visitor.run()
    assert f"**{name}**: score {stored.scores[edge]:+.5f}" in visitor.words()


def test_a_block_looked_at_in_one_model_does_not_break_a_smaller_one(stored: Run) -> None:
    visitor = Visitor(SCORES, run=stored.id)
    visitor.at.session_state["overview"] = {"selection": {"points": [{"y": "A2.V", "x": "A0"}]}}
    visitor.run()
    graph = EdgeGraph(1, 1, 1)
    other = Run(stored.config, graph, np.arange(graph.n_edges, dtype=np.float32), Baseline(1, 0, 1), [0, 1, 2])
    other.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{other.id}.safetensors")
    visitor.at.session_state["overview"] = {"selection": {"points": []}}
    visitor.at.query_params["run"] = other.id
    for page in (SCORES, CIRCUIT):
        visitor.go(page)
        shown = visitor.result()
        assert shown is not None
        assert shown.id == other.id


def test_positions_kept_apart_can_be_chosen(visitor: Visitor) -> None:
    visitor.choose(apart=True)
    run = visitor.finish()
    assert run.graph.seq_len == 4
    visitor.go(SCORES)
    together = visitor.figure()["data"][0]["z"]
    visitor.choose(position=1)
    assert visitor.figure()["data"][0]["z"] != together
    visitor.go(CIRCUIT)
    visitor.wait(visitor.metrics)


# --- circuits ------------------------------------------------------------------------------------------------------


def test_a_circuit_is_drawn_and_measured(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id)
    visitor.wait(visitor.metrics)
    assert visitor.at.get("echarts_chart")
    assert "3 prompt pairs" in visitor.words()
    assert f"| Whole model | {stored.baseline.clean:+.2f} |" in visitor.words()
    assert f"| No edge | {stored.baseline.corrupt:+.2f} |" in visitor.words()


def test_all_edges_keep_the_whole_behaviour(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id)
    visitor.wait(visitor.metrics)
    visitor.at.select_slider[0].set_value(stored.graph.n_edges)
    visitor.run()
    assert visitor.metrics() == {"Faithfulness": "100%"}  # measured already, so there at once


def test_another_size_is_measured_anew_and_kept(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id)
    visitor.wait(visitor.metrics)
    for size in (26, 121):
        visitor.at.select_slider[0].set_value(size)
        visitor.run()
        row = f"**{size} edges**"
        visitor.wait(lambda row=row: row in visitor.words())  # type: ignore[misc]
    visitor.go(SCORES)
    visitor.go(CIRCUIT)
    assert visitor.at.select_slider[0].value == 121
    assert visitor.metrics()


def test_a_circuit_without_a_path_says_so(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id)
    scores = np.zeros(stored.graph.n_edges, np.float32)
    scores[0] = 1  # one edge into the first head's query leads nowhere
    lonely = Run(stored.config, stored.graph, scores, stored.baseline, stored.used_rows)
    visitor.at.session_state["run"] = lonely
    visitor.at.query_params["run"] = lonely.id
    visitor.run()
    visitor.at.select_slider[0].set_value(5)
    visitor.run()
    assert "No path leads from the embedding" in visitor.words()


def test_a_run_whose_model_is_gone_can_still_be_looked_at(stored: Run) -> None:
    gone = Run(RunConfig("local/gone", NUMBERS), stored.graph, stored.scores, stored.baseline, stored.used_rows)
    gone.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{gone.id}.safetensors")
    visitor = Visitor(CIRCUIT, run=gone.id)
    visitor.wait(visitor.errors)
    assert "There is no model gone in this server's models folder any more" in visitor.errors()
    assert visitor.at.get("echarts_chart")
    visitor.at.query_params["run"] = stored.id  # and its error is not that of another run
    visitor.run()
    visitor.wait(visitor.metrics)
    assert visitor.errors() == ""


# --- sessions ------------------------------------------------------------------------------------------------------


def test_sessions_do_not_see_each_others_prompts_or_runs(visitor: Visitor, small: str) -> None:
    run = visitor.finish()
    other = Visitor(ATTRIBUTE)
    assert other.result() is None
    assert other.at.session_state["prompts"] != NUMBERS
    assert other.at.session_state["model"] != small
    other.go(SCORES)
    assert "run attribution first" in other.words()
    assert run.caption not in other.words()


def test_a_sessions_runs_are_listed_on_its_landing_page_only(visitor: Visitor) -> None:
    first, second = visitor.finish(), visitor.finish()
    visitor.go("app.py")
    keys = [button.key for button in visitor.at.button if str(button.key).startswith("open-")]
    assert keys == [f"open-{second.id}", f"open-{first.id}"]
    visitor.at.button(f"open-{first.id}").click()
    visitor.run()
    shown = visitor.result()
    assert shown is not None
    assert shown.id == first.id
    assert visitor.at.header[0].value == "3 · Scores"
    assert "Runs of this session" not in Visitor().words()


def test_a_reload_of_the_attribution_page_finds_its_result(visitor: Visitor) -> None:
    run = visitor.finish()
    assert visitor.at.query_params["run"] in (run.id, [run.id])
    again = Visitor(ATTRIBUTE, run=run.id)
    found = again.result()
    assert found is not None
    assert found.id == run.id
    assert "Edges scored" in again.metrics()
