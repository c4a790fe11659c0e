"""The pages, driven without a browser, with real jobs on the real worker and a small random model.

A page is only ever looked at as its user sees it: widgets, words, and what the address says.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from circuit.edges.choose import choose_edges
from circuit.edges.graph import EdgeGraph
from circuit.edges.method import AblationType, AnswerFunction, GradFunction, IntegrationRule, Method
from circuit.edges.ranking import edges_for_share, top_edges
from circuit.edges.subgraph import connecting_size, live_edges, node_edges
from circuit.jobs.attribute import attribute
from circuit.jobs.check import CheckRequest, check_prompts
from circuit.jobs.inspect import AttentionRequest, EffectsRequest, measure_effects, read_attention
from circuit.jobs.measure import MeasureRequest, find_smallest, measure
from circuit.prompts.files import write
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.runs.examples import EXAMPLES
from circuit.runs.faithfulness import curve_sizes
from circuit.runs.library import RunLibrary
from circuit.runs.run import Baseline, Run
from circuit.ui.frame.markdown import JOINER
from circuit.ui.frame.server import job_server
from circuit.ui.prompts.table import from_table
from circuit.ui.run import estimate
from tests.job_functions import LONG, count, square, until

pytestmark = pytest.mark.timeout(150)

APP = str(Path(__file__).resolve().parents[2] / "app.py")
PROMPTS, ATTRIBUTE, SCORES, CIRCUIT = (
    f"pages/{name}.py" for name in ("1_Prompts", "2_Attribute", "3_Scores", "4_Circuit")
)
RUNS = "pages/5_Runs.py"
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


def seen(text: str) -> str:
    """What a reader sees of text with its marks escaped."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text).replace(JOINER, "")


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
        return [
            *at.selectbox,
            *at.segmented_control,
            *at.radio,
            *at.slider,
            *at.number_input,
            *at.toggle,
            *at.select_slider,
        ]

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
        return seen("\n".join(str(element.value) for elements in parts for element in elements))

    def metrics(self) -> dict[str, str]:
        return {metric.label: metric.value for metric in self.at.metric}

    def errors(self) -> str:
        return seen("\n".join(str(error.value) for error in self.at.error))

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

    def picture(self) -> str:
        """The circuit's SVG, empty where none is drawn."""
        drawn = self.at.get("bidi_component")
        return json.loads(drawn[0].proto.json)["svg"] if drawn else ""

    def query(self) -> dict[str, str]:
        """What the address says."""
        return {key: value if isinstance(value, str) else value[0] for key, value in self.at.query_params.items()}

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
    examples = [button for button in visitor.at.button if (button.key or "").startswith("example-")]
    assert len(examples) == len(EXAMPLES) == 3
    assert not any(button.disabled for button in examples)
    assert "On this server: Teaching model" in visitor.words()
    assert "Runs of this session" not in visitor.words()
    linked = {link.proto.page for link in visitor.at.get("page_link")}
    assert {Path(page).stem.split("_")[1] for page in PAGES} <= linked


def test_examples_of_models_that_the_owner_does_not_allow_are_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESCOPE_ALLOWED_MODELS", "teaching")
    visitor = Visitor()
    examples = {button.key for button in visitor.at.button if (button.key or "").startswith("example-")}
    assert examples == {f"example-{key}" for key, each in EXAMPLES.items() if each.config.model == "teaching"}


def test_the_landing_page_says_what_the_owner_lets_it_compute_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESCOPE_DEVICES", "cpu")
    assert re.search(r"Computing on \d+ CPU cores?\.", Visitor().words())


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_what_it_is_for_before_anything_is_done(page: str) -> None:
    visitor = Visitor(page)
    assert visitor.at.header[0].value
    assert len(visitor.at.markdown[0].value) > 60
    assert visitor.at.button  # a way on


@pytest.mark.parametrize("page", [SCORES, CIRCUIT])
def test_a_page_without_a_run_says_how_to_get_one(page: str) -> None:
    visitor = Visitor(page)
    assert "run attribution first, or open a ready example" in visitor.words()
    visitor.click("Set up a run")
    assert visitor.at.header[0].value == "1 · Prompts"
    visitor = Visitor(page)
    visitor.click("Ready examples")
    assert visitor.at.header[0].value == "Edgescope"


# --- prompts -------------------------------------------------------------------------------------------------------


def table(visitor: Visitor) -> PromptSet:
    """The prompts that the table shows."""
    return from_table(visitor.at.dataframe[0].value, PromptSet("shown", ()))


def test_a_preset_replaces_the_table_which_can_be_brought_back(small: str) -> None:
    visitor = Visitor()
    visitor.work_on(small, NUMBERS)
    visitor.go(PROMPTS)
    visitor.choose(preset="agreement")
    assert PRESETS["agreement"].about in visitor.words()
    visitor.click("Fill the table")
    assert table(visitor).pairs == PRESETS["agreement"].prompts.pairs
    assert list(visitor.at.dataframe[0].value["row"]) == [str(row) for row in range(1, 25)]
    assert "Subject-verb agreement, 24 pairs" in visitor.words()
    visitor.click("Bring back 3 pairs")
    assert table(visitor).pairs == NUMBERS.pairs
    visitor.click("Bring back 24 pairs")
    visitor.go(ATTRIBUTE)
    visitor.go(PROMPTS)
    assert visitor.at.selectbox("preset").value == "agreement"


def start_from(visitor: Visitor, source: str) -> None:
    sources: Any = visitor.at.get("button_group")[0]
    sources.set_value(source)
    visitor.run()


def test_templates_make_pairs_and_say_what_does_not_fit(small: str) -> None:
    visitor = Visitor()
    visitor.work_on(small, NUMBERS)
    visitor.go(PROMPTS)
    start_from(visitor, "Template")
    fields = {
        "clean": "{A} {B} {n.1}", "corrupt": "{B} {A} {n.2}", "answers": "{A}", "wrong_answers": "{B}",
    }  # fmt: skip
    for name, value in fields.items():
        visitor.at.text_input(f"template-{name}").set_value(value)
    visitor.at.text_area("template-slots").set_value("A, B: 1, 2, 3\nn: 4/5")
    visitor.at.number_input("template-n").set_value(7)
    visitor.run()
    assert "The lists allow 6 different pairs, and 7 were asked for" in visitor.errors()
    visitor.at.number_input("template-n").set_value(6)
    visitor.run()
    assert "6 different pairs are possible" in visitor.words()
    visitor.click("Add to it")
    assert len(table(visitor)) == 9
    pair = table(visitor).pairs[-1]
    a, b = pair.clean.split()[:2]
    assert pair == PromptPair(f"{a} {b} 4", f"{b} {a} 5", (a,), (b,))


def test_a_paste_becomes_rows_and_what_is_wrong_with_it_is_named_by_its_line() -> None:
    visitor = Visitor(PROMPTS)
    start_from(visitor, "Paste")
    visitor.at.text_area("pasted").set_value("a\tb\t c\t d\na\t")
    visitor.run()
    visitor.at.text_area("pasted").set_value("a\tb\t c\t d\na")
    visitor.run()
    assert "Line 2 has 1 cell" in visitor.errors()
    visitor.at.text_area("pasted").set_value("a\tb\t c| e\t d\n")
    visitor.run()
    visitor.click("Fill the table")
    assert table(visitor).pairs == (PromptPair("a", "b", (" c", " e"), (" d",)),)


def test_more_rows_than_a_page_can_hold_are_refused_however_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("circuit.prompts.pairs.MOST_ROWS", 3)
    visitor = Visitor()
    visitor.work_on("teaching", NUMBERS)
    visitor.go(PROMPTS)
    start_from(visitor, "Paste")
    visitor.at.text_area("pasted").set_value("a\tb\t c\t d")
    visitor.run()
    visitor.click("Add to it")
    assert "Nothing was added. There are 4 prompt pairs, and 3 are the most." in visitor.errors().replace("\\", "")
    row = {"clean": "1", "corrupt": "2", "answers": "3"}
    visitor.at.session_state["table-1"] = {"edited_rows": {}, "added_rows": [row], "deleted_rows": []}
    visitor.run()
    assert "The last edit was not taken over. There are 4 prompt pairs" in visitor.errors()
    assert visitor.at.session_state["prompts"] == NUMBERS


def test_what_is_wrong_with_a_template_or_a_paste_is_shown_as_it_is_written() -> None:
    visitor = Visitor(PROMPTS)
    start_from(visitor, "Template")
    visitor.at.number_input("template-n").set_value(1)
    visitor.at.text_area("template-slots").set_value("A: x/*y*")
    visitor.at.text_input("template-clean").set_value("{A.3}")
    for name in ("corrupt", "answers", "wrong_answers"):
        visitor.at.text_input(f"template-{name}").set_value("")
    visitor.run()
    assert r"\*y\*" in visitor.at.error[0].value
    start_from(visitor, "Paste")
    visitor.at.text_area("pasted").set_value("clean\t*x*\n1\t2")
    visitor.run()
    assert r"\*x\*" in visitor.at.error[0].value


def test_a_template_that_was_rewritten_does_not_keep_the_presets_name() -> None:
    visitor = Visitor(PROMPTS)
    start_from(visitor, "Template")
    title = visitor.at.selectbox("template").options[0]
    assert f"in {title}, from templates" in visitor.words()
    visitor.at.text_input("template-clean").set_value("{A} and {B} at the {place}: {B} has a {object}")
    visitor.run()
    assert "in My prompts, from templates" in visitor.words()
    assert f"in {title}, from templates" not in visitor.words()


def test_names_in_the_sidebar_are_no_markdown_and_one_pair_is_no_pairs() -> None:
    visitor = Visitor()
    visitor.work_on("teaching", PromptSet("[*mine*](x)", NUMBERS.pairs[:1]))
    visitor.run()
    (said,) = [caption.value for caption in visitor.at.caption if caption.value.startswith("**Prompts**")]
    assert said == r"**Prompts**  " + "\n" + r"\[\*mine\*\]\(x\), 1 pair"


def test_a_file_becomes_rows_with_its_labels() -> None:
    visitor = Visitor(PROMPTS)
    start_from(visitor, "File")
    prompts = PromptSet("mine", NUMBERS.pairs, ("one", "two"), (("one", 0),))
    visitor.at.file_uploader("prompt-file").upload("mine.jsonl", write(prompts, "jsonl").encode(), "application/jsonl")
    visitor.run()
    visitor.click("Fill the table")
    assert visitor.at.session_state["prompts"] == prompts
    visitor.at.file_uploader("prompt-file").set_value(("bad.json", b"{\n?", "application/json"))
    visitor.run()
    assert "Line 2 is not JSON" in visitor.errors().replace("\\", "")


def test_an_empty_table_has_a_row_to_type_into_and_no_verdict(small: str) -> None:
    visitor = checked(small, NUMBERS)
    start_from(visitor, "Empty table")
    visitor.click("Empty the table")
    assert len(visitor.at.dataframe[0].value) == 1
    assert len(table(visitor)) == 0
    assert "The table is empty" in visitor.words()
    assert visitor.metrics() == {}
    assert visitor.button("Check prompts").disabled


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
    visitor.at.selectbox[0].set_value("teaching")  # the name still stands in the field
    visitor.run()
    assert visitor.at.session_state["model"] == "teaching"
    visitor.run()
    assert visitor.at.session_state["model"] == "teaching"


def test_an_edited_preset_does_not_keep_its_name() -> None:
    visitor = Visitor(PROMPTS)
    name = visitor.at.session_state["prompts"].name
    visitor.at.session_state["table-0"] = {
        "edited_rows": {0: {"clean": "Something else"}}, "added_rows": [], "deleted_rows": [],
    }  # fmt: skip
    visitor.run()
    assert visitor.at.session_state["prompts"].pairs[0].clean == "Something else"
    assert visitor.at.session_state["prompts"].name == f"{name} (edited)"


def open_prompts(small: str, prompts: PromptSet) -> Visitor:
    """A session on 1 · Prompts whose tokens are there."""
    visitor = Visitor()
    visitor.work_on(small, prompts)
    visitor.go(PROMPTS)
    visitor.wait(lambda: "pairs will be used" in visitor.words())
    return visitor


def checked(small: str, prompts: PromptSet) -> Visitor:
    """The same after a check."""
    visitor = open_prompts(small, prompts)
    visitor.click("Check prompts")
    visitor.wait(visitor.metrics)
    return visitor


BAD = (PromptPair("1 2", "1", ("5",), ("6",)), PromptPair("1 2", "1 3", ("5 6",), ("7",)))
MIXED = PromptSet("mixed", (BAD[0], *NUMBERS.pairs, BAD[1]))


def test_prompts_are_checked_as_tokens_before_anything_is_computed(small: str) -> None:
    visitor = open_prompts(small, MIXED)
    assert "3 of 5 pairs will be used" in visitor.words()
    assert "Row 1: clean and corrupt differ in length.** The clean prompt has 2 tokens" in visitor.words()
    assert "Row 5: answer of several tokens.** The right answer '5·6' is 2 tokens" in visitor.words()
    assert visitor.metrics() == {}
    visitor.go(ATTRIBUTE)
    assert "3 of 5 pairs will be used: rows 1 and 5 have problems" in visitor.words()
    visitor.go(PROMPTS)
    visitor.click("Remove the 2 broken rows")
    assert table(visitor).pairs == NUMBERS.pairs
    assert "3 of 3 pairs will be used" in visitor.words()
    visitor.go(ATTRIBUTE)
    assert "will be used" not in visitor.words()


def test_one_click_mends_every_row_of_a_kind(small: str) -> None:
    twice = PromptPair("1 2 3 4", "1 9 3 4", ("6",), ("68", "6"))
    visitor = open_prompts(small, PromptSet("twice", (*NUMBERS.pairs, twice, twice, twice)))
    assert "3 of 6 pairs will be used" in visitor.words()
    assert "Rows 4, 5 and 6: answer both right and wrong.** Row 4: '6' is both" in visitor.words()
    visitor.click("Keep it right only")
    assert "6 of 6 pairs will be used" in visitor.words()
    assert table(visitor).pairs[3:] == (PromptPair("1 2 3 4", "1 9 3 4", ("6",), ("68",)),) * 3
    visitor.click("Keep it once")
    assert len(table(visitor)) == 4


def test_checking_prompts_measures_the_rows_that_can_be_used(small: str) -> None:
    visitor = checked(small, MIXED)
    report = visitor.at.dataframe[1].value
    assert report["state"].tolist() == ["✗ left out", "✓", "✓", "✓", "✗ left out"]
    assert report["P(right)"].notna().tolist() == [False, True, True, True, False]
    assert [text.count("%") for text in report["first choices"]] == [0, 5, 5, 5, 0]
    expected = check_prompts(CheckRequest(small, NUMBERS))
    np.testing.assert_allclose(report["clean"][1:4], expected.difference_clean, rtol=1e-4)
    assert visitor.metrics()["Right above wrong"] == f"{expected.right.mean():.0%}"
    assert visitor.metrics()["Difference, corrupt"] == f"{expected.difference_corrupt.mean():+.2f}"


def test_only_what_has_changed_is_measured_again(small: str) -> None:
    visitor = checked(small, NUMBERS)
    assert visitor.button("Check prompts").disabled
    before = visitor.at.dataframe[1].value["clean"].tolist()
    key = f"table-{visitor.at.session_state['prompt_table']}"
    visitor.at.session_state[key] = {
        "edited_rows": {1: {"clean": "8 2 3 5", "corrupt": "8 9 3 5"}}, "added_rows": [], "deleted_rows": [],
    }  # fmt: skip
    visitor.run()
    assert "1 of 3 pairs have no numbers yet" in visitor.words()
    assert "does this task" not in visitor.words()
    after = visitor.at.dataframe[1].value["clean"]
    assert after.notna().tolist() == [True, False, True]
    visitor.click("Check prompts")
    assert "Checking 1 pairs" in visitor.words() or visitor.button("Check prompts").disabled
    visitor.wait(lambda: "no numbers yet" not in visitor.words())
    numbers = visitor.at.dataframe[1].value["clean"].tolist()
    assert [numbers[0], numbers[2]] == [before[0], before[2]]
    assert numbers[1] != before[1]


def test_numbers_belong_to_the_settings_they_were_measured_with(small: str) -> None:
    visitor = checked(small, NUMBERS)
    assert "without a BOS token" in visitor.words()
    without = visitor.metrics()
    visitor.choose(bos="Yes")
    assert visitor.metrics() == {}
    assert "with a BOS token" in visitor.words()
    visitor.click("Check prompts")
    visitor.wait(visitor.metrics)
    assert visitor.metrics() != without
    visitor.choose(bos="As the tokenizer does")
    assert visitor.metrics() == without  # still known


def test_differences_are_in_the_grad_function_that_attribution_will_use(small: str) -> None:
    visitor = checked(small, NUMBERS)
    logits = visitor.metrics()
    visitor.choose(grad="logprob")
    visitor.click("Check prompts")
    visitor.wait(visitor.metrics)
    assert visitor.metrics() == logits  # differences of logits are differences of log probabilities
    visitor.choose(grad="prob")
    visitor.click("Check prompts")
    visitor.wait(visitor.metrics)
    assert visitor.metrics() != logits
    visitor.go(ATTRIBUTE)
    assert {widget.key: widget.value for widget in visitor.widgets()}["grad"] == "prob"
    visitor.choose(grad="logit")
    visitor.go(PROMPTS)
    assert visitor.metrics() == logits


def test_a_row_can_be_looked_at_by_number_and_by_a_click_on_its_point_or_line(small: str) -> None:
    visitor = checked(small, MIXED)

    def tokens_shown() -> str:
        (view,) = [html.proto.body for html in visitor.at.get("html") if "▼ parts" in html.proto.body]
        return str(view)

    visitor.choose(row=3)
    assert tokens_shown().count("underline") == 2
    assert "position 0: token 8" in tokens_shown()
    assert "P(right)" in visitor.words()
    visitor.at.session_state["prompt-plot"] = {"selection": {"points": [{"customdata": [3]}]}}
    visitor.run()
    assert "position 0: token 11" in tokens_shown()
    visitor.at.session_state["checked-rows"] = {"selection": {"rows": [0], "columns": []}}
    visitor.run()
    assert "The clean prompt has 2 tokens and the corrupt one 1" in visitor.words()
    assert visitor.at.number_input("row").value == 1


def test_a_check_can_be_found_again_after_a_reload(small: str) -> None:
    visitor = open_prompts(small, NUMBERS)
    visitor.click("Check prompts")
    reloaded = Visitor(PROMPTS, **dict(visitor.at.query_params))
    reloaded.wait(reloaded.metrics)
    assert table(reloaded).pairs == NUMBERS.pairs


def test_a_reload_finds_the_model_the_prompts_and_the_choice_of_bos(small: str) -> None:
    visitor = open_prompts(small, MIXED)
    visitor.choose(bos="Yes")
    address = dict(visitor.at.query_params)
    reloaded = Visitor(PROMPTS, **address)
    assert reloaded.at.session_state["model"] == small
    assert reloaded.at.session_state["prompts"] == MIXED
    assert reloaded.at.selectbox("bos").value == "Yes"
    assert table(reloaded).pairs == MIXED.pairs
    reloaded.choose(bos="No")  # from here on it is a draft of its own
    assert reloaded.at.query_params["draft"] != visitor.at.query_params["draft"]
    assert Visitor(PROMPTS, **address).at.selectbox("bos").value == "Yes"


@pytest.mark.parametrize("draft", ["0" * 32, "../../etc/passwd", "x"])
def test_an_unknown_draft_in_the_address_is_an_untouched_page(draft: str) -> None:
    visitor = Visitor(PROMPTS, draft=draft)
    assert len(table(visitor)) == 12


def test_a_model_that_would_have_to_be_downloaded_is_not_without_a_click() -> None:
    visitor = Visitor()
    visitor.work_on("pythia-70m", NUMBERS)
    visitor.go(PROMPTS)
    assert "once the model has been loaded" in visitor.words()
    assert visitor.at.button("load-model").label == "Download (166 MB)"


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
            {"kind": "Integrated gradients", "samples": 3, "integration_rule": rule},
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


def test_a_click_is_not_lost_where_the_speed_of_the_model_has_just_been_measured(visitor: Visitor, small: str) -> None:
    estimate.paces.clear()
    visitor.run()
    job = job_server().get(visitor.at.session_state[f"job-pace-{small}-auto-auto"])
    assert job is not None
    assert "Measuring how fast this model runs here" in visitor.words()
    assert job.wait(60)
    assert visitor.finish().config.prompts == NUMBERS
    assert "Measuring how fast this model runs here" not in visitor.words()


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
    long_job.wait(lambda: "The job was cancelled." in [seen(info.value) for info in long_job.at.info])
    assert not long_job.errors()
    assert long_job.result() is None
    long_job.work_on(small, NUMBERS)
    long_job.choose(batch=0)
    assert long_job.finish().used_rows == [0, 1, 2]
    assert "cancelled" not in long_job.words()


def test_a_job_goes_on_while_its_page_is_left_and_a_reload_finds_it(long_job: Visitor) -> None:
    address = dict(long_job.at.query_params)
    long_job.go(PROMPTS)
    long_job.go(ATTRIBUTE)
    assert "— running" in long_job.words()
    reloaded = Visitor(ATTRIBUTE, **address)
    assert "— running" in reloaded.words()
    reloaded.click("Cancel")
    for visitor in (reloaded, long_job):
        visitor.wait(lambda at=visitor.at: "The job was cancelled." in [seen(info.value) for info in at.info])  # type: ignore[misc]


def test_any_open_page_of_the_session_keeps_its_jobs(long_job: Visitor) -> None:
    job = job_server().get(long_job.at.session_state["job-attribute"])
    assert job is not None
    for page in (RUNS, "pages/9_Glossary.py", PROMPTS):
        job._asked = 0.0  # long ago
        long_job.go(page)
        assert job._asked > 0, page
    job.cancel()


def test_what_was_done_otherwise_than_asked_is_said_until_the_settings_are_others(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = visitor.finish()
    job = job_server().submit(square, 3, note="attribute")
    assert job.wait(60)
    job.told = ["The batch was *halved* to 2 prompts."]
    job._value = run
    visitor.at.session_state["job-attribute"] = job.id
    visitor.run()
    assert "The batch was *halved* to 2 prompts." in visitor.words()
    visitor.run()
    assert "The batch was *halved* to 2 prompts." in visitor.words()
    visitor.choose(kind="Integrated gradients")
    assert "halved" not in visitor.words()


def test_names_of_prompts_are_shown_as_they_are(visitor: Visitor, small: str) -> None:
    name = "![x](http://elsewhere/x.png)"
    visitor.work_on(small, replace(NUMBERS, name=name))
    visitor.click("Run attribution")
    job = job_server().get(visitor.at.session_state["job-attribute"])
    assert job is not None
    seen = [str(each.value) for each in (*visitor.at.main.markdown, *visitor.at.main.caption)]
    assert job.wait(60)
    visitor.wait(visitor.result)
    seen += [str(each.value) for each in (*visitor.at.main.markdown, *visitor.at.main.caption)]
    assert any("elsewhere" in words for words in seen)
    assert not any(name in words for words in seen)


def test_what_was_said_of_a_job_goes_when_the_settings_are_others(long_job: Visitor) -> None:
    long_job.click("Cancel")
    long_job.wait(lambda: "The job was cancelled." in long_job.words())
    long_job.go(PROMPTS)
    long_job.go(ATTRIBUTE)
    assert "The job was cancelled." in long_job.words()
    long_job.choose(samples=29)
    assert "The job was cancelled." not in long_job.words()


def test_a_running_job_says_how_far_it_is_in_prompts_and_sample_points(long_job: Visitor) -> None:
    def said() -> str:
        (progress,) = long_job.at.get("progress")
        return seen(str(progress.proto.text))

    long_job.wait(lambda: re.search(r"prompts to \d+ of 900, sample point \d+ of 31 · \d+% · \d+ s so far", said()))
    long_job.click("Cancel")
    long_job.wait(lambda: "The job was cancelled." in long_job.words())


@pytest.fixture
def busy() -> Iterator[None]:
    """The one worker works for somebody else, so that jobs wait."""
    job = job_server().submit(count, LONG, owner="somebody else")
    until(lambda: job.state == "running")
    job._asked = math.inf  # they have its page open
    yield
    job.cancel()
    assert job.wait(30)


def reloaded(visitor: Visitor, page: str, name: str) -> None:
    """A reload of the page finds the job that waits; it can be cancelled there."""
    assert re.fullmatch("[0-9a-f]{32}", visitor.query()[name])
    again = Visitor(page, **visitor.query())
    assert re.search(r"number \d in the queue, waiting for the job of another tab or visitor", again.words())
    assert again.query()[name] == visitor.query()[name]
    again.at.button(f"cancel-{slot_of(visitor, name)}").click()
    again.run()
    again.wait(lambda: "The job was cancelled." in again.words())
    assert name not in again.query()


def slot_of(visitor: Visitor, name: str) -> str:
    job = job_server().get(visitor.query()[name])
    assert job is not None
    return str(job.note)


def test_a_reload_finds_the_jobs_of_the_prompts_page(small: str, busy: None) -> None:
    visitor = Visitor()
    visitor.work_on(small, NUMBERS)
    visitor.go(PROMPTS)
    visitor.at.button("load-model").click()
    visitor.run()
    reloaded(visitor, PROMPTS, "load")
    visitor.click("Check prompts")
    reloaded(visitor, PROMPTS, "check")


def test_a_reload_finds_the_jobs_of_the_pages_that_show_a_run(stored: Run, busy: None) -> None:
    visitor = Visitor(SCORES, run=stored.id)
    visitor.choose(view="Score and effect")
    visitor.click("Measure 30 edges")
    reloaded(visitor, SCORES, "effects")
    visitor = Visitor(CIRCUIT, run=stored.id)
    visitor.click("Measure all sizes")
    reloaded(visitor, CIRCUIT, "curve")


def test_a_job_in_the_address_is_not_taken_for_another_runs(stored: Run, small: str, busy: None) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id)
    visitor.click("Measure all sizes")
    other = attribute(RunConfig(small, NUMBERS))
    other.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{other.id}.safetensors")
    elsewhere = Visitor(CIRCUIT, run=other.id, curve=visitor.query()["curve"])
    assert "curve" not in elsewhere.query()
    assert not elsewhere.button("Measure all sizes").disabled


def test_the_owners_limits_are_said_in_sentences(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESCOPE_MOST_PROMPTS", "2")
    assert "There are 3 prompt pairs, and this server allows 2 a run" in visitor.fail()
    monkeypatch.delenv("EDGESCOPE_MOST_PROMPTS")
    monkeypatch.setenv("EDGESCOPE_ALLOWED_MODELS", "teaching")
    visitor.run()
    assert "Teaching model" in visitor.words()  # the session has gone over to a model that is allowed


def test_settings_that_cannot_be_used_show_no_page_and_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    job_server.clear()
    monkeypatch.setenv("EDGESCOPE_CPU_WORKERS", "none")
    for page in (None, *PAGES):
        visitor = Visitor(page)
        assert "This server's settings cannot be used." in visitor.errors()
        assert not visitor.at.header


def test_who_has_not_signed_in_sees_nothing_where_the_owner_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESCOPE_REQUIRE_LOGIN", "true")
    for page in (None, *PAGES):
        visitor = Visitor(page)
        assert "its owner has not named a provider" in visitor.errors()
        assert not visitor.at.header
        assert not visitor.at.button
    monkeypatch.setattr("circuit.ui.frame.page.st.user", {"is_logged_in": False})
    for page in (None, *PAGES):
        visitor = Visitor(page)
        assert [button.label for button in visitor.at.button] == ["Sign in"]
    monkeypatch.setattr("circuit.ui.frame.page.st.user", {"is_logged_in": True, "sub": "7", "email": "ann@example.org"})
    visitor = Visitor(ATTRIBUTE)
    assert visitor.at.header[0].value == "2 · Attribute"
    assert visitor.button("Sign out")


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
    order = np.argsort(-np.abs(run.scores), kind="stable")[:100]
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


def number_of(run: Run, name: str) -> int:
    """The number of the edge of this name."""
    (edge,) = (edge for edge in range(run.graph.n_edges) if run.graph.edge_name(edge) == name)
    return edge


def test_clicking_a_cell_shows_its_edges_and_clicking_one_explains_it(stored: Run) -> None:
    visitor = Visitor(SCORES, run=stored.id)
    assert "Click a cell" in visitor.words()
    visitor.at.session_state[f"overview-{stored.id}"] = {"selection": {"points": [{"y": "A2.V", "x": "A0"}]}}
    visitor.run()
    assert "**A0 → A2.V**" in visitor.words()
    edge = number_of(stored, "A0.1->A2.0.V")
    visitor.at.session_state[f"block-{stored.id}-A2.V-A0"] = {"selection": {"points": [{"customdata": [edge]}]}}
    visitor.run()
    assert "**A0.1 → A2.0.V** · number" in visitor.words()
    assert "Head 1 of layer 0 writes into the value input of key-value head 0 (heads 0 to 1)" in visitor.words()
    assert f"the loss by about {abs(stored.scores[edge]):.3g}, as its score estimates" in visitor.words()
    assert visitor.query()["edge"] == str(edge)
    again = Visitor(SCORES, **visitor.query())  # a reload, or a link
    assert "**A0.1 → A2.0.V** · number" in again.words()
    assert "**A0 → A2.V**" in again.words()


def test_an_edge_is_measured_by_really_ablating_it(stored: Run) -> None:
    edge = int(np.abs(stored.scores).argmax())
    visitor = Visitor(SCORES, run=stored.id, edge=str(edge))
    visitor.click("Measure by ablating it")
    visitor.wait(lambda: "really ablating it" in visitor.words())
    effect = measure_effects(EffectsRequest(stored.config, (edge,)))[edge]
    assert f"measured by really ablating it: {abs(effect):.3g}" in visitor.words()
    foretold = 0.5 < abs(effect / stored.scores[edge]) < 2
    assert ("lesson 3 of Learn" in visitor.words()) == (not foretold)
    visitor.go(CIRCUIT)
    visitor.at.query_params["look"] = f"edge:{edge}"
    visitor.run()
    assert f"measured by really ablating it: {abs(effect):.3g}" in visitor.words()  # kept over pages


def test_an_edge_that_does_the_opposite_of_its_score_is_marked_and_found_again_after_a_reload(stored: Run) -> None:
    library = RunLibrary(Path(os.environ["EDGESCOPE_RUNS"]))
    again = replace(stored, id=uuid.uuid4().hex)
    library.save(again)
    edges = live_edges(again.graph, top_edges(again.scores, 40))
    edge = int(edges[0])
    library.keep_effects(again.id, {edge: -3 * float(again.scores[edge])})
    visitor = Visitor(CIRCUIT, run=again.id, edges="40", look=f"edge:{edge}")
    assert visitor.picture().count('class="opposite"') == 2
    assert "≠ Measured, it does the opposite" in visitor.words()
    assert "the score has the wrong sign" in visitor.words()
    visitor = Visitor(SCORES, run=again.id)
    table = next(frame.value for frame in visitor.at.dataframe if "agrees" in frame.value)
    assert table.loc[edge, "agrees"] == "≠ opposite"
    visitor.choose(view="Score and effect")
    said = visitor.words()
    assert said.index("Furthest from their scores: ") < said.index("have the sign of their score")
    assert "≠ the opposite" in said


def test_the_strongest_edges_are_measured_beside_their_scores(stored: Run) -> None:
    visitor = Visitor(SCORES, run=stored.id)
    visitor.choose(view="Score and effect")
    visitor.click("Measure 30 edges")
    visitor.wait(lambda: "of 30 have the sign of their score" in visitor.words())
    points = visitor.figure()["data"][1]
    assert [edge for (edge,) in points["customdata"]] == top_edges(stored.scores, 30).tolist()


def test_filters_apply_to_heatmap_and_table_and_stay_over_pages(stored: Run) -> None:
    visitor = Visitor(SCORES, run=stored.id)
    visitor.choose(inputs=["Q", "K"], sign="negative")
    visitor.at.text_input(key="from").set_value("A0, MLP 0")
    visitor.run()
    table = visitor.at.dataframe[0].value
    assert set(table["input"]) == {"Q", "K"}
    assert (table["score"] < 0).all()
    assert table["source"].str.match(r"A0\.|MLP 0").all()
    assert "Showing **only into Q, K, sources A0, MLP 0, score < 0**" in visitor.words()
    shown = np.array(visitor.figure()["data"][2]["text"])
    assert (shown == "no edge fits the filter").sum() > 0
    visitor.go(CIRCUIT)
    visitor.go(SCORES)
    assert visitor.at.dataframe[0].value.equals(table)
    visitor.at.text_input(key="from").set_value("A9")
    visitor.run()
    assert "No source of this model is called 'a9'" in visitor.words()
    assert len(visitor.at.dataframe[0].value)


def test_a_filter_of_one_run_does_not_hide_another(stored: Run, small: str) -> None:
    other = attribute(RunConfig(small, replace(NUMBERS, name="others")))
    other.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{other.id}.safetensors")
    visitor = Visitor(SCORES, run=stored.id)
    visitor.choose(inputs=["Final"])
    assert len(visitor.at.dataframe[0].value) == stored.graph.n_sources
    visitor.at.query_params.clear()
    visitor.at.query_params["run"] = other.id
    visitor.run()
    assert len(visitor.at.dataframe[0].value) == 100


@pytest.mark.parametrize("view", ["Every edge", "Fall-off"])
def test_the_other_views_show_a_figure_with_the_runs_caption(stored: Run, view: str) -> None:
    visitor = Visitor(SCORES, run=stored.id)
    visitor.choose(view=view)
    caption = visitor.figure()["layout"]["annotations"][-1]["text"].replace("<br>", " ")
    assert caption == stored.caption


BAD_QUERIES = {
    SCORES: [
        {"edge": "-1"}, {"edge": "9" * 30}, {"edge": "x"}, {"block": "A9,A0"}, {"block": ""}, {"block": "A0,A2"},
        {"view": "nothing"}, {"cell": "?"}, {"sign": "loud"}, {"inputs": "Z"}, {"min": "abc"}, {"to_layers": "7"},
        {"position": "12"},
    ],
    CIRCUIT: [
        {"edges": "abc"}, {"edges": "0"}, {"edges": "99999999999"}, {"rule": "?"}, {"by": "?"}, {"look": "node:"},
        {"look": "edge:999999"}, {"look": "<b>"}, {"threshold": "x"}, {"share": "-5"}, {"dead_ends": "maybe"},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("page", "query"), [(page, query) for page, queries in BAD_QUERIES.items() for query in queries], ids=str
)
def test_what_an_address_asks_for_in_vain_is_left_out(stored: Run, page: str, query: dict[str, str]) -> None:
    visitor = Visitor(page, run=stored.id, **query)
    shown = visitor.result()
    assert shown is not None
    assert shown.id == stored.id
    if set(query) & {"edge", "edges", "block", "view", "cell", "sign", "rule", "by"}:
        assert "left out" in visitor.words()


def test_a_block_looked_at_in_one_model_does_not_break_a_smaller_one(stored: Run) -> None:
    visitor = Visitor(SCORES, run=stored.id)
    visitor.at.session_state[f"overview-{stored.id}"] = {"selection": {"points": [{"y": "A2.V", "x": "A0"}]}}
    visitor.run()
    graph = EdgeGraph(1, 1, 1)
    other = Run(stored.config, graph, np.arange(graph.n_edges, dtype=np.float32), Baseline(1, 0, 1), [0, 1, 2])
    other.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{other.id}.safetensors")
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
    visitor.choose(position="1 " + run.tokens[1])
    assert visitor.figure()["data"][0]["z"] != together
    assert set(visitor.at.dataframe[0].value["position"]) == {1}
    visitor.choose(view="Position by layer")
    assert visitor.figure()["data"][0]["x"] == [f"{i} {token}" for i, token in enumerate(run.tokens)]
    visitor.go(CIRCUIT)
    visitor.wait(visitor.metrics)


# --- circuits ------------------------------------------------------------------------------------------------------


def test_a_circuit_is_drawn_and_measured(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id)
    visitor.wait(visitor.metrics)
    assert visitor.picture()
    assert "3 prompt pairs" in visitor.words()
    row = next(line for line in visitor.words().splitlines() if line.startswith("| logit avg_diff |"))
    whole, _, none = row.split("|")[2:5]
    assert (whole.strip(), none.strip()) == (f"{stored.baseline.clean:+.2f}", f"{stored.baseline.corrupt:+.2f}")


@pytest.fixture(scope="module")
def halved() -> Run:
    """A run of the teaching model with half of its pairs held out."""
    prompts = PRESETS["teaching-ioi"].prompts
    run = attribute(RunConfig("teaching", PromptSet("IOI", prompts.pairs[:12]), held_out=0.5))
    run.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{run.id}.safetensors")
    return run


def test_a_circuit_is_measured_on_the_pairs_that_were_held_out(halved: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id, edges="26")
    visitor.wait(visitor.metrics)
    assert "the 6 prompt pairs that were held out from the scores" in visitor.words()
    point, whole = measure(
        MeasureRequest(halved.config, halved.scores, (26, 262), drop_dead_ends=True, rows=tuple(halved.held_out_rows))
    ).points
    assert f"| logit avg_diff | {whole.mean:+.2f} | {point.mean:+.2f} |" in visitor.words()
    visitor.choose(measured_on="scored")
    visitor.wait(lambda: "the 6 prompt pairs that the scores were made from" in visitor.words())
    assert f"| logit avg_diff | {point.mean + 0.0:+.2f} | " not in visitor.words()


def test_circuits_of_all_sizes_are_measured_shown_and_found_again_after_a_reload(halved: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id, edges="26")
    visitor.wait(visitor.metrics)
    visitor.click("Measure all sizes")
    visitor.wait(lambda: "CPR" in visitor.metrics())
    sizes = curve_sizes(262)
    request = MeasureRequest(halved.config, halved.scores, sizes, rows=tuple(halved.held_out_rows))
    curve = measure(request)
    shown = visitor.metrics()
    assert (shown["CPR"], shown["CMD"]) == (f"{curve.cpr:.3f}", f"{curve.cmd:.3f}")
    assert float(shown["CPR of random edges"]) < curve.cpr
    by_name = {trace["name"]: trace for trace in visitor.figure()["data"]}
    np.testing.assert_allclose(by_name["edges by score"]["y"][:4], curve.faithfulness[1:5], atol=1e-3)
    again = Visitor(CIRCUIT, run=halved.id, edges="26")
    assert again.metrics()["CPR"] == shown["CPR"]
    again.click("Find the smallest circuit that keeps 90%")
    smallest = find_smallest(request).smallest(0.9)
    again.wait(lambda: again.at.select_slider[0].value == smallest)
    assert again.metrics()["Smallest that keeps 90%"] == f"{smallest:,} edges"


def test_a_size_asked_for_by_the_curve_is_shown_whatever_the_rule(halved: Run, stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id, rule="Share of total")
    assert not visitor.at.select_slider
    visitor.at.session_state["choose_size"] = halved.id, 52  # as a click on a point of the curve does
    visitor.run()
    assert visitor.at.select_slider[0].value == 52
    assert "of 52 edges chosen by absolute score, without dead ends" in visitor.picture()
    visitor.choose(rule="Share of total")
    visitor.at.session_state["choose_size"] = stored.id, 26  # of a run that is no longer looked at
    visitor.run()
    assert not visitor.at.select_slider


def test_the_curve_can_be_measured_with_another_ablation(halved: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id, edges="26")
    visitor.wait(visitor.metrics)
    visitor.choose(curve_ablation="zero", with_random=False, by="score, signed")
    visitor.click("Measure all sizes")
    visitor.wait(lambda: "CPR" in visitor.metrics())
    curve = measure(
        MeasureRequest(
            halved.config, halved.scores, curve_sizes(262), "signed", True, ablation_type=AblationType.ZERO,
            rows=tuple(halved.held_out_rows),
        )
    )  # fmt: skip
    assert visitor.metrics()["CPR"] == f"{curve.cpr:.3f}"
    assert "Circuits are by **signed score**" in visitor.words()
    assert "measured with zero ablation" in str(visitor.figure()["layout"]["annotations"]).replace("<br>", " ")


def test_the_smallest_circuit_by_positive_score_may_be_none(stored: Run) -> None:
    scores = np.where(np.arange(stored.graph.n_edges) < 3, 1, -1).astype(np.float32)
    few = Run(stored.config, stored.graph, scores, stored.baseline, stored.used_rows)
    few.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{few.id}.safetensors")
    visitor = Visitor(CIRCUIT, run=few.id, edges="33", by="score > 0 only")
    assert "Only 3 edges have a positive score" in visitor.words()
    visitor.choose(with_random=False)
    visitor.click("Measure all sizes")
    visitor.wait(lambda: "CPR" in visitor.metrics())
    assert visitor.metrics()["CPR"] == "–"
    assert visitor.metrics()["Smallest that keeps 90%"] == "none by positive score"
    (line,) = [trace for trace in visitor.figure()["data"] if trace["name"] == "edges by score"]
    assert line["x"][-2:] == [3, stored.graph.n_edges]


def test_a_difference_that_other_prompts_would_turn_round_is_warned_of() -> None:
    """Four pairs, and three with clean and corrupt prompt swapped: what ablation takes from those it gives to these."""
    pairs = PRESETS["teaching-ioi"].prompts.pairs[:7]
    mixed = (*pairs[:4], *(replace(pair, clean=pair.corrupt, corrupt=pair.clean) for pair in pairs[4:]))
    run = attribute(RunConfig("teaching", PromptSet("mixed", mixed)))
    run.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{run.id}.safetensors")
    visitor = Visitor(CIRCUIT, run=run.id, edges="26")
    visitor.wait(visitor.metrics)
    assert "with 0 in this 95 % interval" in visitor.words()


def test_without_the_circuit_little_is_left(halved: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id, edges="26")
    visitor.wait(visitor.metrics)
    visitor.choose(direction="Is it needed?", with_random=False)
    visitor.click("Measure all sizes")
    visitor.wait(lambda: len(visitor.at.get("plotly_chart")) > 0)
    (line,) = [trace for trace in visitor.figure()["data"] if trace["name"] == "edges by score"]
    assert line["y"][-1] == pytest.approx(0, abs=1e-4)
    assert "CPR" not in visitor.metrics()  # an area over what is left would mean something else


def test_edges_that_other_draws_would_not_choose_are_faded(halved: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id, edges="26")
    visitor.wait(visitor.metrics)
    assert "of the draws of prompts" not in visitor.picture()
    visitor.choose(fade=True)
    visitor.wait(lambda: "of the draws of prompts" in visitor.picture())
    assert "faded: in few of 200 bootstrap draws" in visitor.picture()


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
        row = f"| **{size}** |"
        visitor.wait(lambda row=row: row in visitor.words())  # type: ignore[misc]
    visitor.go(SCORES)
    visitor.go(CIRCUIT)
    assert visitor.at.select_slider[0].value == 121
    assert visitor.metrics()


def test_the_circuits_size_stands_in_its_address(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id, edges="33")
    assert "of 33 edges chosen by absolute score" in visitor.picture()
    assert visitor.at.select_slider[0].value == 33
    assert visitor.at.number_input(key="exact").value == 33
    visitor.at.number_input(key="exact").set_value(71)
    visitor.run()
    assert visitor.at.select_slider[0].value == 71
    assert "of 71 edges chosen by absolute score" in visitor.picture()


def test_a_circuit_can_be_chosen_by_score_and_by_share(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id, by="|score|", edges_are="one by one")
    visitor.choose(rule="Score at least", threshold=0.05)
    n = int((np.abs(stored.scores) >= 0.05).sum())
    assert f"of {n} edges chosen by absolute score" in visitor.picture()
    visitor.choose(rule="Share of total", share=75.0)
    n = len(edges_for_share(stored.scores, 0.75))
    assert f"of {n} edges chosen by absolute score" in visitor.picture()
    visitor.choose(by="score > 0 only")
    n = len(edges_for_share(stored.scores, 0.75, "positive"))
    assert f"of {n} edges chosen by positive score only" in visitor.picture()


def test_by_positive_score_only_such_edges_are_drawn_and_measured(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id, edges="40")
    visitor.choose(by="score > 0 only")
    edges = {int(edge) for edge in re.findall(r'data-item="edge:(\d+)"', visitor.picture())}
    assert edges
    assert all(stored.scores[edge] > 0 for edge in edges)
    visitor.wait(visitor.metrics)
    assert "the 40 edges of largest positive score" in visitor.words()
    request = MeasureRequest(stored.config, stored.scores, (40,), importance="positive", drop_dead_ends=True)
    assert f" | {measure(request).points[0].mean:+.2f} | " in visitor.words()


def test_dead_ends_are_dropped_and_counted_unless_they_are_wanted(stored: Run) -> None:
    live = {n: len(live_edges(stored.graph, top_edges(stored.scores, n))) for n in range(5, 60)}
    n = next(n for n in live if live[n] and n - live[n] > 1)
    visitor = Visitor(CIRCUIT, run=stored.id, edges=str(n))
    assert f"{n - live[n]} of the {n} edges are dead ends" in visitor.words()
    assert visitor.picture().count('class="edge"') == live[n]
    visitor.choose(edges_are="one by one, dead ends too")
    assert visitor.picture().count('class="edge"') == n
    assert "drawn too" in visitor.words()
    n = next(n for n in live if n - live[n] == 1)
    assert f"1 of the {n} edges is a dead end" in Visitor(CIRCUIT, run=stored.id, edges=str(n)).words()


def test_a_node_shows_its_strongest_edges_and_a_head_its_attention(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id, edges="150", look="node:A1.2")
    into, out_of = node_edges(stored.graph, {"kind": "head", "layer": 1, "head": 2})
    total = np.abs(stored.scores[into]).sum()
    assert f"**In**: {len(into)} edges, sum of |score| {total:.3g}" in visitor.words()
    strongest = out_of[np.abs(stored.scores[out_of]).argmax()]
    assert (
        f"{stored.graph.edge_name(strongest).replace('->', ' → ')}: {stored.scores[strongest]:+.3g}" in visitor.words()
    )
    visitor.choose(attention=True)
    visitor.wait(lambda: visitor.at.get("plotly_chart"))
    pair = read_attention(AttentionRequest(stored.config, 0, 1, 2))
    shown = [
        np.frombuffer(base64.b64decode(trace["z"]["bdata"]), dtype=np.float32).reshape(4, 4)
        for trace in visitor.figure()["data"]
    ]
    for pattern, z in zip((pair.clean, pair.corrupt), shown, strict=True):
        np.testing.assert_allclose(z[np.tri(4, dtype=bool)], pattern[np.tri(4, dtype=bool)], atol=1e-4)
    visitor.click("Close")
    assert "A1.2**" not in visitor.words()


def test_every_export_is_offered(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id)
    labels = " ".join(button.proto.label for button in visitor.at.get("download_button"))
    for kind in ("SVG", "GraphML", "node-link JSON", "DOT", "safetensors", "CSV", "Python"):
        assert kind in labels


def test_a_page_opened_afresh_shows_a_connected_circuit_of_edges_that_help(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id)
    n = int(str(visitor.at.select_slider[0].value))
    edges = choose_edges(stored.graph, stored.scores, n, "signed", "connected")
    assert n == len(edges) == len(live_edges(stored.graph, edges)) > 5
    assert f"{n} of {n} edges chosen by signed score, connected" in visitor.picture()
    visitor.choose(edges_are="by paths")
    assert "edges chosen by signed score, path by path" in visitor.picture()


@pytest.mark.parametrize("dead_ends", [None, "false"])
def test_a_link_from_before_edges_could_be_connected_shows_what_it_showed(stored: Run, dead_ends: str | None) -> None:
    old = {"run": stored.id, "edges": "30"} | ({} if dead_ends is None else {"dead_ends": dead_ends})
    visitor = Visitor(CIRCUIT, **old)
    edges = top_edges(stored.scores, 30)
    drawn = edges if dead_ends else live_edges(stored.graph, edges)
    assert visitor.picture().count('class="edge"') == len(drawn)
    assert "of 30 edges chosen by absolute score" in visitor.picture()


def test_the_smallest_circuit_that_keeps_a_share_is_a_click_away(halved: Run) -> None:
    visitor = Visitor(CIRCUIT, run=halved.id)
    visitor.at.button("keeps-0.8").click()
    visitor.run()
    visitor.wait(lambda: not visitor.at.button("keeps-0.8").disabled and "keeps" not in str(visitor.query()))
    n = int(str(visitor.at.select_slider[0].value))
    rows = tuple(halved.held_out_rows)
    request = MeasureRequest(
        halved.config, halved.scores, (n,), importance="signed", rule="connected", drop_dead_ends=True, rows=rows
    )
    assert measure(request).faithfulness[0] >= 0.8


def test_a_circuit_without_a_path_says_so(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id, by="|score|", edges_are="one by one")
    scores = np.zeros(stored.graph.n_edges, np.float32)
    scores[0] = 1  # one edge into the first head's query leads nowhere
    lonely = Run(stored.config, stored.graph, scores, stored.baseline, stored.used_rows)
    visitor.at.session_state["run"] = lonely
    visitor.at.query_params["run"] = lonely.id
    visitor.run()
    visitor.at.select_slider[0].set_value(5)
    visitor.run()
    assert "No path leads from Resid Start to Resid End" in visitor.words()
    assert "**Not a circuit**: all 5 edges are on no path" in visitor.words()
    assert "keep" not in visitor.words().partition("Does it still do the task?")[2].partition("How much")[0]
    assert not visitor.metrics()
    smallest = connecting_size(lonely.graph, lonely.order)
    assert smallest is not None
    visitor.click(f"Show the smallest that connects: {smallest} edges")
    assert visitor.at.select_slider[0].value == smallest
    assert visitor.picture()


def test_a_run_whose_model_is_gone_can_still_be_looked_at(stored: Run) -> None:
    gone = Run(RunConfig("local/gone", NUMBERS), stored.graph, stored.scores, stored.baseline, stored.used_rows)
    gone.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{gone.id}.safetensors")
    visitor = Visitor(CIRCUIT, run=gone.id)
    visitor.wait(visitor.errors)
    assert "There is no model gone in this server's models folder any more" in visitor.errors()
    assert visitor.picture()
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


def test_the_last_runs_are_listed_on_the_landing_page(visitor: Visitor) -> None:
    first, second = visitor.finish(), visitor.finish()
    visitor.go("app.py")
    keys = [button.key for button in visitor.at.button if str(button.key).startswith("open-")]
    assert keys[:2] == [f"open-{second.id}", f"open-{first.id}"]
    visitor.at.button(f"open-{first.id}").click()
    visitor.run()
    shown = visitor.result()
    assert shown is not None
    assert shown.id == first.id
    assert visitor.at.header[0].value == "3 · Scores"


def test_a_reload_of_the_attribution_page_finds_its_result(visitor: Visitor) -> None:
    run = visitor.finish()
    assert visitor.at.query_params["run"] in (run.id, [run.id])
    again = Visitor(ATTRIBUTE, run=run.id)
    found = again.result()
    assert found is not None
    assert found.id == run.id
    assert "Edges scored" in again.metrics()


def test_options_of_attribution_do_not_choose_the_circuit(visitor: Visitor) -> None:
    visitor.choose(kind="Integrated gradients", integration_rule="trapezoid")
    visitor.finish()
    visitor.go(CIRCUIT)
    assert "left out" not in visitor.words()
    (rule,) = [widget for widget in visitor.widgets() if widget.key == "rule"]
    assert rule.value == "Number of edges"
