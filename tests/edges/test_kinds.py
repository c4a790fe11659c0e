"""A method says what it is called, what its scores are, and what it costs: in one place, for every method there is."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from circuit.edges.kinds import EAP, INTEGRATED_GRADIENTS, KINDS, OFFERED, ONE_MASK_VALUE, RULES
from circuit.edges.method import AblationType, Backward, Method
from circuit.edges.method import Path as MethodPath

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "app.py", *sorted((ROOT / "pages").glob("*.py")), *sorted((ROOT / "circuit" / "ui").rglob("*.py"))]

METHODS = [
    Method(),
    Method(mask_val=0.5),
    Method(mask_val=None, integrated_grad_samples=5, integration_rule="midpoint"),
    Method(mask_val=None, integrated_grad_samples=5, path="inputs"),
    Method(mask_val=None, integrated_grad_samples=5, path="activations"),
    Method(mask_val=None, path="ends"),
    Method(mask_val=0.3, path="activations"),
    Method(mask_val=None, path="learned", learning_steps=300),
    Method(mask_val=None, path="averaged"),
]


def test_every_kind_is_that_of_a_method() -> None:
    assert [method.kind for method in METHODS] == [
        EAP,
        ONE_MASK_VALUE,
        INTEGRATED_GRADIENTS,
        *KINDS[3:],
    ]


@pytest.mark.parametrize("path", get_args(MethodPath))
def test_every_path_has_a_kind(path: str) -> None:
    assert any(path in kind.paths for kind in KINDS)


def test_every_backward_rule_is_explained() -> None:
    assert set(RULES) == set(get_args(Backward))
    assert Method(backward="gim").title == "Edge attribution patching, GIM"
    assert Method(backward="gim").score == "linear estimate, by the rules of GIM"


def test_keys_titles_and_sentences_are_of_one_kind_each() -> None:
    for said in (
        [kind.key for kind in KINDS],
        [kind.title for kind in KINDS],
        [kind.sentence for kind in KINDS],
        [kind.caption for kind in KINDS],
    ):
        assert len(set(said)) == len(said)
    assert all(text.endswith(".") for kind in KINDS for text in (kind.sentence, kind.limits))


@pytest.mark.parametrize(
    ("method", "caption", "points", "score"),
    [
        (Method(), "edge attribution patching", "m = 0", "linear estimate"),
        (Method("prob"), "mask gradient at m = 0", "m = 0", "linear estimate"),
        (
            Method(mask_val=0.5),
            "mask gradient at m = 0.5",
            "m = 0.5",
            "slope of the loss where all edges are ablated by 0.5",
        ),
        (
            Method(mask_val=None, integrated_grad_samples=4),
            "integrated gradients, 5 points (reference rule)",
            "5 points, reference rule",
            "mean slope of the loss while all edges are ablated together",
        ),
        (
            Method(mask_val=None, integrated_grad_samples=4, path="inputs", integration_rule="midpoint"),
            "integrated gradients over inputs, 4 points (midpoint rule)",
            "4 points over inputs, midpoint rule",
            "mean estimate while the clean prompt's embedding turns into the other's",
        ),
        (
            Method(mask_val=None, path="ends"),
            "gradient at the clean and the corrupt prompt",
            "both ends",
            "mean of the linear estimates from the clean and from the corrupt prompt",
        ),
        (
            Method(mask_val=0.5, path="inputs"),
            "gradient over inputs at m = 0.5",
            "m = 0.5 over inputs",
            "estimate some way, 0.5 of it, along the path over inputs",
        ),
        (
            Method(mask_val=None, path="learned", learning_steps=1200, learning_seed=3),
            "learned masks, 1,200 steps (seed 3)",
            "1,200 steps, seed 3",
            "inverse size of the circuits from which on the edge belongs, as learned, with integrated gradients' sign",
        ),
    ],
)
def test_a_method_says_what_it_is(method: Method, caption: str, points: str, score: str) -> None:
    assert method.describe().startswith(f"{caption}; ")
    assert method.points_in_words == points
    assert method.score == score


def test_only_a_plain_gradient_at_the_model_foretells_what_ablating_does() -> None:
    assert [method.foretells for method in METHODS] == [True] + [False] * 8
    assert not Method(backward="relp").foretells
    assert [method.kind.averages for method in METHODS] == [False, False, True, True, True, True, False, True, True]


@pytest.mark.parametrize("kind", OFFERED, ids=lambda kind: kind.key)
def test_what_a_form_takes_from_a_kind_makes_a_method_of_it(kind) -> None:  # type: ignore[no-untyped-def]
    asked = {"mask_val": 0.5} if kind.asks == "mask_val" else {"mask_val": kind.mask_val}
    samples = 5 if kind.asks == "integrated_grad_samples" else None
    steps = 300 if kind.asks == "learning_steps" else None
    method = Method(
        path=kind.paths[0],
        integrated_grad_samples=samples,
        ablation_type=AblationType.RESAMPLE,
        learning_steps=steps,
        **asked,
    )
    assert method == Method(**kind.options(0.5, 5, "reference", 300))
    assert method.kind is kind


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_ask_the_method_and_not_its_mask_value(path: Path) -> None:
    compared = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Compare)]
    assert not [node for node in compared if "mask_val" in ast.unparse(node.left)]


def test_probabilities_are_flat_only_for_a_gradient_at_a_model_that_is_certain() -> None:
    probability = Method(grad_function="prob")
    assert probability.is_flat_at(0.999)
    assert not probability.is_flat_at(0.9)
    assert not Method().is_flat_at(0.999)
    assert not replace(probability, mask_val=None, integrated_grad_samples=5).is_flat_at(0.999)


def test_only_resampling_from_the_clean_prompts_replaces_nothing() -> None:
    assert Method(clean_corrupt="clean").replaces_nothing
    assert not Method().replaces_nothing
    assert not Method(ablation_type=AblationType.BATCH_ALL_TOK_MEAN, clean_corrupt="clean").replaces_nothing
