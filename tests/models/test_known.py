"""The compiled models: they do their tasks, and their circuits are what lies beside them as data."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import circuit
from circuit.common.errors import ModelError
from circuit.engine.model import PatchableModel
from circuit.engine.patching import run_edge_masks
from circuit.models.catalogue import CATALOGUE
from circuit.models.known import FOLDER, KEYS
from circuit.models.known.circuits import FILE, KnownCircuit, known_circuit, read_circuit
from circuit.models.known.compile import write
from circuit.models.known.programs import PROGRAMS
from circuit.models.known.tasks import TASKS, depths
from circuit.prompts.presets import PRESETS
from circuit.runs.truth import Truth, truth_for

ROUNDING = 1e-4
"""Of logits that are about 8."""


@functools.cache
def loaded(key: str) -> PatchableModel:
    """Loaded once for all tests: leave it as it was."""
    return circuit.load_model(key, device="cpu")


def found(key: str) -> KnownCircuit:
    known = known_circuit(key)
    assert known is not None
    return known


def truth(key: str) -> Truth:
    return truth_for(found(key), loaded(key).graph)


def loader_of(key: str, pairs: tuple[circuit.PromptPair, ...]) -> circuit.PromptDataLoader:
    model = loaded(key)
    encoded = circuit.encode(circuit.PromptSet(key, pairs), model.tokenizer, model.prepend_bos, model.n_ctx)
    assert len(encoded.usable) == len(pairs), encoded.findings
    return circuit.PromptDataLoader(encoded.dataset(), batch_size=len(pairs))


def logits_of(key: str, circuits: list[np.ndarray], seed: int = 1) -> list[torch.Tensor]:
    """Of the prompts of a seed; that of the preset is 1."""
    pairs = tuple(circuit.PromptPair(*pair) for pair in TASKS[key].pairs(24, seed))
    return run_edge_masks(loaded(key), loader_of(key, pairs), circuits)


def differences(key: str, logits: torch.Tensor, seed: int = 1) -> np.ndarray:
    """Right minus wrong, for every prompt."""
    words = loaded(key).tokenizer.get_vocab()
    return np.array(
        [
            float(row[words[pair.answers[0].strip()]] - row[words[pair.wrong_answers[0].strip()]])
            for row, pair in zip(logits, TASKS[key].pairs(24, seed), strict=True)
        ]
    )


@pytest.mark.parametrize("key", KEYS)
def test_the_models_do_their_presets_and_change_their_answer_with_the_prompt(key: str) -> None:
    assert PRESETS[key].suits == (key,)
    graph = loaded(key).graph
    whole, none = logits_of(key, [np.ones(graph.n_edges, dtype=bool), np.zeros(graph.n_edges, dtype=bool)])
    right = [loaded(key).tokenizer.get_vocab()[pair.answers[0].strip()] for pair in TASKS[key].pairs(24)]
    assert whole.argmax(-1).tolist() == right
    assert differences(key, whole).min() > 7
    assert differences(key, none).max() < ROUNDING


@pytest.mark.parametrize("seed", [1, 5])
@pytest.mark.parametrize("key", KEYS)
def test_ablating_all_edges_outside_the_circuit_leaves_the_output_as_it_is(key: str, seed: int) -> None:
    inside = truth(key).inside
    whole, kept = logits_of(key, [np.ones_like(inside), inside], seed)
    torch.testing.assert_close(kept, whole, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("key", KEYS)
def test_each_edge_of_the_circuit_matters_and_no_other_does(key: str) -> None:
    inside = truth(key).inside
    alone = list(~np.eye(len(inside), dtype=bool))
    whole, *without = logits_of(key, [np.ones_like(inside), *alone])
    clean = differences(key, whole).mean()
    for edge, logits in enumerate(without):
        name = loaded(key).graph.edge_name(edge)
        if inside[edge]:
            assert differences(key, logits).mean() < clean / 4, name
        else:
            assert float((logits - whole).abs().max()) < ROUNDING, name


@pytest.mark.parametrize("key", [key for key in KEYS if PROGRAMS[key].decoys])
def test_a_gradient_takes_decoys_for_part_of_the_circuit(key: str) -> None:
    model, known = loaded(key), truth(key)
    loader = loader_of(key, PRESETS[key].prompts.pairs[:24])
    scores = np.abs(model.graph.flatten(circuit.score_edges(model, loader, circuit.Method())))
    decoys = [edge for edge in range(len(scores)) if known.carries(edge) and not known.inside[edge]]
    assert len(decoys) == len(known.circuit.decoys) > 0
    assert scores[decoys].min() > 0.005 * scores.max()


def test_the_files_are_what_the_script_writes(tmp_path: Path) -> None:
    for key, name in KEYS.items():
        write(PROGRAMS[key], tmp_path / name)
        files = {path.name for path in (FOLDER / name).iterdir()}
        assert files == {path.name for path in (tmp_path / name).iterdir()}
        for file in files:
            assert (tmp_path / name / file).read_bytes() == (FOLDER / name / file).read_bytes(), (name, file)


def test_together_they_have_less_than_3_mb() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 3_000_000
    assert set(KEYS) <= set(CATALOGUE)


def test_circuits_are_connected_and_every_edge_is_explained() -> None:
    for key in KEYS:
        known = truth(key)
        assert set(circuit.live_edges(known.graph, known.edges).tolist()) == set(known.edges.tolist())
        assert all(known.circuit.edges.values())
        assert known.circuit.edges == PROGRAMS[key].edges


def test_prompts_have_one_length_and_brackets_are_what_their_answers_say() -> None:
    for key in KEYS:
        lengths = {len(loaded(key).tokenizer(pair.clean).input_ids) for pair in PRESETS[key].prompts.pairs}
        assert len(lengths) == 1
    for pair in PRESETS["known-brackets"].prompts.pairs:
        for prompt, answers in ((pair.clean, pair.answers), (pair.corrupt, pair.wrong_answers)):
            depth = depths(prompt.replace(" ", "").removesuffix("="))
            assert answers == ((" yes",) if min(depth) == depth[-1] == 0 else (" no",))


def test_a_model_of_the_owners_folder_may_have_its_circuit_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.setenv("EDGESCOPE_MODELS", str(tmp_path))
    assert known_circuit("local/mine") is None
    (folder / FILE).write_text(json.dumps({"edges": ["Resid Start->Resid End"]}))
    assert known_circuit("local/mine") == KnownCircuit({"Resid Start->Resid End": ""})
    assert known_circuit("teaching") is None
    assert known_circuit("owner/name") is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("no json", "cannot be read"),
        ("[]", 'it has no "edges"'),
        ('{"edges": {}}', "names no edge"),
        ('{"edges": [1]}', "names of edges"),
        ('{"edges": {"a": 1}}', "names of edges"),
        ('{"edges": ["a"], "decoys": 3}', "names of edges"),
        ('{"edges": ["a"], "prompts": 3}', "must be texts"),
        ("[" * 100_000, "cannot be read"),
        (" " * 4_000_001, "more than 4,000,000 bytes"),
    ],
    ids=range(9),
)
def test_a_file_that_holds_no_circuit_is_refused_in_a_sentence(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ModelError, match=says):
        read_circuit(tmp_path / FILE)
