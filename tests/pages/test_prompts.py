"""1 · Prompts, driven without a browser, with real jobs and a small random model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuit.jobs.check import CheckRequest, check_prompts
from circuit.prompts.files import write
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.prompts.presets import PRESETS
from circuit.ui.prompts.table import from_table
from circuit.workers.job import Job
from tests.visitor import ATTRIBUTE, NUMBERS, PROMPTS, Visitor


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
    assert "The last edit was not kept. There are 4 prompt pairs" in visitor.errors()
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
    (said,) = [caption.value for caption in visitor.at.caption if caption.value.startswith("**For the next run**")]
    assert said == r"**For the next run**  " + "\n" + r"\[\*mine\*\]\(x\), 1 pair, on Teaching model"


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


def test_a_check_can_be_found_again_after_a_reload(small: str, busy: Job) -> None:
    visitor = open_prompts(small, NUMBERS)
    visitor.click("Check prompts")
    reloaded = Visitor(PROMPTS, **dict(visitor.at.query_params))
    busy.cancel()
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


def test_no_button_removes_every_pair(small: str) -> None:
    visitor = Visitor()
    broken = (PromptPair("1 2", "1", ("4",), ("5",)), PromptPair("1 2", "2", ("4",), ("5",)))
    visitor.work_on(small, PromptSet("broken", broken))
    visitor.go(PROMPTS)
    visitor.wait(lambda: "None of 2 pairs can be used" in visitor.words())
    assert not any(button.label.startswith("Remove the") for button in visitor.at.button)
