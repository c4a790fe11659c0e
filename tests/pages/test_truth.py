"""4 · Circuit and the methods tried, on a model whose circuit is known."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from circuit.edges.method import AblationType, Method
from circuit.jobs.attribute import attribute
from circuit.jobs.known import known_run
from circuit.prompts.pairs import PromptPair
from circuit.runs.run import Run
from circuit.runs.truth import truth_of
from tests.visitor import CIRCUIT, Visitor


def kept(config: object) -> Run:
    run = attribute(config)  # type: ignore[arg-type]
    run.save(Path(os.environ["EDGESCOPE_RUNS"]) / f"{run.id}.safetensors")
    return run


@pytest.fixture(scope="module")
def known() -> Run:
    return kept(known_run("known-selection"))


def expander(visitor: Visitor) -> str:
    return "\n".join(each.label for each in visitor.at.expander)


def test_a_circuit_is_held_against_the_one_that_is_known(known: Run) -> None:
    visitor = Visitor(CIRCUIT, run=known.id, by="|score|", edges_are="one by one, dead ends too", edges="9")
    truth = truth_of(known)
    assert truth is not None
    edges = known.order[:9]
    hits = len(truth.hits(edges))
    assert f"The circuit of this model is known: {hits} of its 9 edges are kept" in expander(visitor)
    metrics = visitor.metrics()
    assert metrics["Precision"] == metrics["Recall"] == f"{hits / 9:.0%}"
    assert metrics["AUROC"] == f"{truth.auroc(known.scores):.2f}"
    assert "decoy" in visitor.words()
    assert visitor.words().count("**missed**:") == 9 - hits
    assert "these are others" not in visitor.words()


def test_other_prompts_and_other_ablations_are_told_apart(known: Run) -> None:
    mine = PromptPair("When Anna and Ben went home , Ben waved to", "When Ida and Leo went home , Kate waved to", (" Anna",), (" Ben",))  # fmt: skip  # noqa: E501
    prompts = replace(known.config.prompts, pairs=(mine,))
    other = Visitor(CIRCUIT, run=kept(replace(known.config, prompts=prompts)).id)
    assert "these are others, for which other edges may matter" in other.words()
    method = Method(ablation_type=AblationType.ZERO, clean_corrupt=None)
    zero = Visitor(CIRCUIT, run=kept(replace(known.config, method=method)).id)
    assert "known under the ablation 'resample', and this run used 'zero'" in zero.words()
    assert "The circuit of this model is known" not in expander(zero)


def test_nothing_is_said_of_models_whose_circuit_is_not_known(stored: Run) -> None:
    visitor = Visitor(CIRCUIT, run=stored.id)
    assert "known" not in expander(visitor).lower()
    assert "AUROC" not in visitor.metrics()
