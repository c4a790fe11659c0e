"""2 · Attribute, driven without a browser, with real jobs and a small random model."""

from __future__ import annotations

import os
import re
import uuid
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from circuit.edges.kinds import EAP, OFFERED
from circuit.edges.method import (
    DEFAULT_METHOD,
    WHY_DEFAULT,
    AblationType,
    AnswerFunction,
    Backward,
    GradFunction,
    IntegrationRule,
    Method,
)
from circuit.edges.shape import ModelShape
from circuit.jobs.attribute import attribute
from circuit.jobs.audition import METHODS
from circuit.jobs.estimate import Line, Pace
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig
from circuit.ui.frame.server import job_server
from circuit.ui.run import estimate
from tests.job_functions import square
from tests.visitor import ATTRIBUTE, CIRCUIT, NUMBERS, PROMPTS, RUNS, SCORES, Visitor, seen

CHOICES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"kind": "Gradient at one mask value"}, asdict(Method(mask_val=0.5))),
    ({"kind": "Gradient at one mask value", "mask_val": 0.85}, asdict(Method(mask_val=0.85))),
    ({"kind": "Edge attribution patching"}, asdict(Method())),
    ({"kind": "EAP-IG over inputs"}, {"path": "inputs"}),
    (
        {"kind": "EAP-IG over inputs", "integration_rule": "reference"},
        {"path": "inputs", "integration_rule": "reference"},
    ),
    ({"kind": "EAP-IG over activations", "samples": 2}, {"path": "activations", "integrated_grad_samples": 2}),
    ({"kind": "Clean-corrupted"}, asdict(Method(path="ends", mask_val=None))),
    *(({"backward": backward}, {"backward": backward}) for backward in get_args(Backward)[1:]),
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
    assert run.config.method == replace(DEFAULT_METHOD, **expected)
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
    assert job.wait(300)
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
    assert "every score will be zero" not in visitor.words()
    visitor.choose(side="clean")
    assert "every score will be zero" in visitor.words()
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
    visitor.wait(lambda: not visitor.button("Run attribution").disabled)  # to try again, once the page knows it is over


def test_rows_without_wrong_answers_are_named_before_the_run_where_they_are_needed(
    visitor: Visitor, small: str
) -> None:
    said = "Row 4 has no wrong answer, and avg_diff compares right with wrong ones"
    visitor.work_on(small, UNANSWERED)
    visitor.wait(lambda: said in visitor.words())
    visitor.choose(answer="avg_val")
    assert said not in visitor.words()


def test_scores_of_saturated_probabilities_are_warned_of(visitor: Visitor, small: str) -> None:
    said = "the model is all but certain"
    run = attribute(RunConfig(small, NUMBERS, Method(grad_function="prob", answer_function="avg_val")))
    for clean, flat in ((0.9, False), (0.9991, True)):
        one = replace(run, baseline=replace(run.baseline, clean=clean, corrupt=0.1), id=uuid.uuid4().hex)
        one.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{one.id}.safetensors")
        assert (said in Visitor(ATTRIBUTE, run=one.id).words()) is flat


def test_choices_survive_a_page_switch(visitor: Visitor) -> None:
    visitor.choose(kind="Integrated gradients", samples=9, grad="prob", ablation=AblationType.ZERO, apart=True)
    visitor.go(PROMPTS)
    visitor.go(ATTRIBUTE)
    values = {widget.key: widget.value for widget in visitor.widgets()}
    assert (values["kind"], values["samples"], values["grad"]) == ("Integrated gradients", 9, "prob")
    assert (values["ablation"], values["apart"]) == (AblationType.ZERO, True)


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
    assert job.wait(300)
    job.told = ["The batch was *halved* to 2 prompts."]
    job._value = run
    visitor.at.session_state["job-attribute"] = job.id
    visitor.run()
    assert "The batch was *halved* to 2 prompts." in visitor.words()
    visitor.run()
    assert "The batch was *halved* to 2 prompts." in visitor.words()
    visitor.choose(kind=EAP.title)
    assert "halved" not in visitor.words()


def test_names_of_prompts_are_shown_as_they_are(visitor: Visitor, small: str) -> None:
    name = "![x](http://elsewhere/x.png)"
    visitor.work_on(small, replace(NUMBERS, name=name))
    visitor.click("Run attribution")
    job = job_server().get(visitor.at.session_state["job-attribute"])
    assert job is not None
    seen = [str(each.value) for each in (*visitor.at.main.markdown, *visitor.at.main.caption)]
    assert job.wait(300)
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
        return seen(" ".join(str(progress.proto.text) for progress in long_job.at.get("progress")))

    long_job.wait(lambda: re.search(r"prompts to \d+ of 500, sample point \d+ of 30 · \d+% · \d+ s so far", said()))
    long_job.click("Cancel")
    long_job.wait(lambda: "The job was cancelled." in long_job.words())


def test_half_of_ten_pairs_or_more_is_held_out_until_somebody_chooses(small: str) -> None:
    pairs = [PromptPair(f"{i} 2 3 4", f"{i} 9 3 4", ("6", "45"), ("68",)) for i in range(1, 13)]
    visitor = Visitor()
    visitor.work_on(small, PromptSet("twelve", tuple(pairs)))
    visitor.go(ATTRIBUTE)
    assert visitor.at.session_state["held_out"] == "half"
    visitor.work_on(small, PromptSet("nine", tuple(pairs[:9])))
    visitor.run()
    assert visitor.at.session_state["held_out"] == "none"
    visitor.choose(held_out="a quarter")
    visitor.work_on(small, PromptSet("twelve", tuple(pairs)))
    visitor.run()
    assert visitor.at.session_state["held_out"] == "a quarter"


def test_the_owners_limits_are_said_in_sentences(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESCOPE_MOST_PROMPTS", "2")
    assert "There are 3 prompt pairs, and this server allows 2 a run" in visitor.fail()
    monkeypatch.delenv("EDGESCOPE_MOST_PROMPTS")
    monkeypatch.setenv("EDGESCOPE_ALLOWED_MODELS", "teaching")
    visitor.run()
    assert "Teaching model" in visitor.words()  # the session has gone over to a model that is allowed


def test_a_job_that_nobody_knows_is_said_to_be_unknown() -> None:
    visitor = Visitor(ATTRIBUTE, attribute="0" * 32)
    assert "no longer known" in visitor.errors()
    assert not visitor.button("Run attribution").disabled


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


def test_more_scores_than_can_be_shown_are_refused_before_the_run(visitor: Visitor, small: str) -> None:
    shape = ModelShape(30, 9, 3, 576, 1536, 49_152, 2_000_000, 4, "cpu")
    line = Line(1.0, 0.0)
    estimate.paces()[small, "auto", "auto"] = Pace(shape, "cpu", 10**10, line, line)
    visitor.wait(lambda: "and at most" in visitor.words())
    visitor.choose(apart=True)
    visitor.wait(visitor.errors)
    assert "2,000,000 edges at 4 token positions are 8,000,000 scores" in visitor.errors()
    assert "shorten the prompts to 2 tokens" in visitor.errors()
    visitor.choose(apart=False)
    assert visitor.errors() == ""
    estimate.paces.clear()


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


@pytest.mark.parametrize("kind", ["EAP-IG over inputs", "Clean-corrupted"])
def test_a_path_between_the_prompts_with_another_ablation_is_refused_before_it_runs(
    visitor: Visitor, kind: str
) -> None:
    visitor.choose(kind=kind, ablation=AblationType.ZERO)
    assert visitor.button("Run attribution").disabled
    assert "so it needs the resample ablation, and this is the 'zero' one." in visitor.errors()
    visitor.choose(ablation=AblationType.RESAMPLE)
    assert not visitor.button("Run attribution").disabled


def test_the_form_begins_with_the_default_and_says_why(visitor: Visitor) -> None:
    assert visitor.at.selectbox("kind").options == [kind.title for kind in OFFERED]
    assert WHY_DEFAULT in visitor.words()
    assert "5 forward and backward passes on the clean prompts" in visitor.words()
    assert visitor.finish().config.method == DEFAULT_METHOD


def test_masks_are_learned_with_a_curve_and_kept_as_they_are_when_one_has_seen_enough(visitor: Visitor) -> None:
    prompts = PRESETS["teaching-ioi"].prompts
    visitor.work_on("teaching", replace(prompts, pairs=prompts.pairs[:8]))
    visitor.choose(kind="Learned masks")
    visitor.choose(learning_steps=2000, learning_seed=3)
    assert "5 passes to begin with, then 2,000 forward and backward passes on batches of the clean prompts" in (
        visitor.words()
    )
    visitor.click("Run attribution")
    visitor.wait(lambda: [button for button in visitor.at.button if button.label == "End here and keep"])
    assert visitor.at.get("plotly_chart")
    visitor.click("End here and keep")
    visitor.wait(visitor.result)
    run = visitor.result()
    assert run is not None
    assert run.config.method == Method(path="learned", mask_val=None, learning_steps=2000, learning_seed=3)
    assert "learned masks, 2,000 steps (seed 3)" in run.caption
    (note,) = run.notes
    assert re.fullmatch(r"Learning was ended after [\d,]+ of 2,000 steps\.", note)
    assert note in visitor.words()


def test_masks_are_not_learned_with_positions_apart(visitor: Visitor) -> None:
    visitor.choose(kind="Learned masks", apart=True)
    assert visitor.button("Run attribution").disabled
    assert "Masks are learned for all token positions together" in visitor.errors()


def test_passes_of_other_paths_are_said_before_the_run(visitor: Visitor) -> None:
    visitor.work_on("teaching", PRESETS["teaching-ioi"].prompts)
    visitor.choose(kind="EAP-IG over activations")
    assert "35 forward and backward passes" in visitor.words()  # five for each of 1 + 2 x 3 groups
    visitor.choose(kind="Clean-corrupted")
    assert "a forward and backward pass on either prompt of the pair" in visitor.words()


def test_methods_are_tried_on_the_prompts_and_the_recommended_one_is_adopted(visitor: Visitor) -> None:
    prompts = PRESETS["teaching-ioi"].prompts
    visitor.work_on("teaching", replace(prompts, pairs=prompts.pairs[:4]))
    visitor.choose(kind=EAP.title)
    visitor.click("Try the methods")
    visitor.wait(lambda: "Recommended" in visitor.words())
    (table,) = [frame.value for frame in visitor.at.dataframe if "Correlation" in frame.value]
    assert list(table["Method"]) == [method.title for method in METHODS]
    assert table["Edges for 90%"].min() > 0
    assert "Circuits were measured on the pairs that the scores were made from" in visitor.words()
    (adopt,) = [button for button in visitor.at.button if button.key == "adopt-method"]
    adopt.click()
    visitor.run()
    run = visitor.result()
    assert run is not None
    assert adopt.label == f"Adopt {run.config.method.title}"
    assert visitor.at.selectbox("kind").value == run.config.method.kind.title
    assert "Taken from the methods tried" in visitor.words()
    assert visitor.finish().config == run.config


def test_a_model_that_gets_few_prompts_right_is_warned_of_where_some_pairs_have_no_wrong_answer(small: str) -> None:
    """Pairs that the model gets wrong, as right and wrong answers are swapped, and one that cannot be judged."""
    swapped = [PromptPair(p.clean, p.corrupt, p.wrong_answers, p.answers) for p in NUMBERS.pairs]
    alone = [PromptPair("1 2 3 4", "1 9 3 4", ("6",))]
    run = attribute(RunConfig(small, PromptSet("few", (*swapped, *alone)), Method(answer_function="avg_val")))
    assert run.baseline.judged == len(swapped)
    assert run.baseline.accuracy < 0.5
    better = replace(run, baseline=replace(run.baseline, clean=run.baseline.corrupt + 1), id=uuid.uuid4().hex)
    better.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{better.id}.safetensors")
    visitor = Visitor(ATTRIBUTE, run=better.id)
    assert visitor.metrics()["Right above wrong"] == f"{run.baseline.accuracy:.0%}"
    assert "fewer than half of the clean prompts right" in visitor.words()
