"""Every weight in a model's files has its place in the model, and only plain files in its folder are read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from circuit.common.errors import ModelError
from circuit.common.progress import collected
from circuit.jobs.attribute import attribute
from circuit.models.identity import model_identity
from circuit.models.load import load_model
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.runs.config import RunConfig
from tests.small_models import D_VOCAB, random_hf_model, tokenizer

PROMPTS = PromptSet("p", (PromptPair("3 4 5 6 7", "3 4 9 6 7", ("11",), ("12",)),))
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LAYER = "model.layers.0.self_attn"


def saved(folder: Path, architecture: str = "llama", *, shards: bool = False, **changes: Any) -> Path:
    options: dict[str, Any] = {"max_shard_size": "40KB"} if shards else {}
    random_hf_model(architecture, **changes).save_pretrained(folder, **options)
    tokenizer().save_pretrained(folder)
    return folder


def configure(folder: Path, **changes: object) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))


def add(folder: Path, **weights: torch.Tensor) -> None:
    save_file(load_file(folder / WEIGHTS) | weights, folder / WEIGHTS, {"format": "pt"})


# --- weights that the model has no place for -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "config", "names"),
    [
        (
            {"attention_bias": True},
            {"attention_bias": False},
            r"12 weights that the model has no place for, among them model\.layers\.0\.self_attn\.k_proj\.bias",
        ),
        (
            {"mlp_bias": True},
            {"mlp_bias": False},
            r"9 weights that the model has no place for, among them model\.layers\.0\.mlp\.down_proj\.bias",
        ),
        (
            {},
            {"num_hidden_layers": 2},
            r"9 weights that the model has no place for, among them model\.layers\.2\.input_layernorm",
        ),
    ],
)
def test_weights_that_the_configuration_leaves_out_are_refused(
    tmp_path: Path, options: dict[str, Any], config: dict[str, Any], names: str
) -> None:
    configure(saved(tmp_path, **options), **config)
    with pytest.raises(ModelError, match=names) as caught:
        load_model(tmp_path, device="cpu")
    assert "without them it would be another model" in str(caught.value)
    with pytest.raises(ModelError, match=names):
        attribute(RunConfig(str(tmp_path), PROMPTS, device="cpu"))


@pytest.mark.parametrize("name", [f"{LAYER}.q_proj.weight_scale_inv", f"{LAYER}.q_norm.weight", "v_head.weight"])
def test_a_weight_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    add(saved(tmp_path), **{name: torch.ones(3)})
    with pytest.raises(ModelError, match=rf"1 weight that the model has no place for, among them {name}"):
        load_model(tmp_path, device="cpu")


MASK, SCALAR = torch.ones(1, 1, 32, 32).tril(), torch.tensor(-1e4)


@pytest.mark.parametrize(
    ("architecture", "left"),
    [
        ("llama", {f"{LAYER}.rotary_emb.inv_freq": torch.ones(4)}),
        ("gpt2", {"transformer.h.0.attn.bias": MASK, "transformer.h.0.attn.masked_bias": SCALAR}),
        (
            "gpt_neo",
            {"transformer.h.0.attn.attention.bias": MASK, "transformer.h.0.attn.attention.masked_bias": SCALAR},
        ),
        (
            "gpt_neox",
            {
                "gpt_neox.layers.0.attention.bias": MASK,
                "gpt_neox.layers.0.attention.masked_bias": SCALAR,
                "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(4),
            },
        ),
    ],
)
def test_known_left_overs_of_older_files_are_not(
    tmp_path: Path, architecture: str, left: dict[str, torch.Tensor]
) -> None:
    add(saved(tmp_path, architecture), **left)
    load_model(tmp_path, device="cpu")


def test_a_head_beside_tied_embeddings_counts(tmp_path: Path) -> None:
    tokens, last = torch.tensor([[3, 1, 4, 1, 5]]), torch.tensor([4])
    hf_model = random_hf_model("llama", tie_word_embeddings=True)
    add(saved(tmp_path, tie_word_embeddings=True), **{"lm_head.weight": hf_model.lm_head.weight.detach().clone()})
    with torch.no_grad():
        torch.testing.assert_close(
            load_model(tmp_path, device="cpu").logits(tokens, last), hf_model(tokens).logits[:, -1]
        )
        head = torch.randn(D_VOCAB, 32, generator=torch.Generator().manual_seed(1))
        add(tmp_path, **{"lm_head.weight": head})
        hidden = hf_model.model(tokens).last_hidden_state[:, -1]
        torch.testing.assert_close(load_model(tmp_path, device="cpu").logits(tokens, last), hidden @ head.T)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_beside_the_weights_is_refused(tmp_path: Path, name: str) -> None:
    (saved(tmp_path) / name).write_text("{}")
    with pytest.raises(ModelError, match=rf"holds an adapter \({name}\), which would not be applied\. Merge it"):
        load_model(tmp_path, device="cpu")


def test_a_single_file_beside_shards_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "whole")
    folder = saved(tmp_path / "shards", shards=True)
    assert len(list(folder.glob("*.safetensors"))) > 1
    load_model(folder, device="cpu")
    shutil.copy(tmp_path / "whole" / WEIGHTS, folder / WEIGHTS)
    with pytest.raises(ModelError, match=rf"holds {WEIGHTS} and, in several files, {INDEX}.*Take the one"):
        load_model(folder, device="cpu")


def test_files_of_weights_that_are_not_read_are_noted_in_every_run(tmp_path: Path) -> None:
    shutil.copy(saved(tmp_path) / WEIGHTS, tmp_path / "consolidated.safetensors")
    said = "1 file of weights in the model's folder is not read: consolidated.safetensors."
    for _ in range(2):
        assert attribute(RunConfig(str(tmp_path), PROMPTS, device="cpu")).notes == [said]
    with collected() as notes:
        load_model(tmp_path, device="cpu")
    assert notes == [said]


# --- names in an index ---------------------------------------------------------------------------------------------


class Evil:
    """Unpickling it leaves a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path, str]]:
        return Path.write_text, (self.trace, "unpickled")


def name_in_index(folder: Path, name: object) -> None:
    """Let the index name one of its weights' files so."""
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = name
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "name",
    [
        "x.bin", "pytorch_model.bin", "x.safetensors.bin", "../outside.safetensors", "sub/inside.safetensors", "",
        "..\\outside.safetensors", "C:outside.safetensors", ".hidden.safetensors", "x.safetensors\n", 7, None,
    ],
)  # fmt: skip
def test_an_index_that_names_something_else_than_a_plain_file_is_refused(tmp_path: Path, name: object) -> None:
    folder = saved(tmp_path / "model", shards=True)
    trace = tmp_path / "trace"
    torch.save({"lm_head.weight": Evil(trace)}, folder / "x.bin")
    shutil.copy(next(folder.glob("*.safetensors")), tmp_path / "outside.safetensors")
    name_in_index(folder, name)
    with pytest.raises(ModelError, match=r"Only \*\.safetensors files in the model's own folder are read|not an index"):
        load_model(folder, device="cpu")
    assert not trace.exists()


def test_an_absolute_path_in_an_index_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", shards=True)
    name_in_index(folder, str(next(folder.glob("*.safetensors"))))
    with pytest.raises(ModelError, match=r"Only \*\.safetensors files"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("shards", [True, False])
def test_a_link_out_of_the_folder_is_refused_and_one_within_is_not(tmp_path: Path, shards: bool) -> None:
    folder = saved(tmp_path / "model", shards=shards)
    file = sorted(folder.glob("*.safetensors"))[0]
    (folder / "blobs").mkdir()
    inside = file.rename(folder / "blobs" / "data")
    file.symlink_to(inside)
    load_model(folder, device="cpu")
    file.unlink()
    file.symlink_to(inside.rename(tmp_path / "outside"))
    with pytest.raises(ModelError, match=rf"{file.name} of this model is a link to a file outside its folder"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": {}}}'])
def test_an_index_that_is_none_is_refused_with_a_sentence(tmp_path: Path, content: str) -> None:
    folder = saved(tmp_path, shards=True)
    (folder / INDEX).write_text(content)
    with pytest.raises(ModelError):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../outside.safetensors", "adapter_model.bin", 3])
def test_a_file_that_the_configuration_names_is_held_to_the_same(tmp_path: Path, name: object) -> None:
    configure(saved(tmp_path), transformers_weights=name)
    with pytest.raises(ModelError, match=r"config\.json of this model names .*Only \*\.safetensors files"):
        load_model(tmp_path, device="cpu")
    (tmp_path / WEIGHTS).rename(tmp_path / "other.safetensors")
    configure(tmp_path, transformers_weights="other.safetensors")
    load_model(tmp_path, device="cpu")


# --- models of the hub ---------------------------------------------------------------------------------------------


@pytest.fixture
def in_hub_cache(tmp_path: Path) -> Path:
    """A model as the hub's library keeps it: links in a snapshot to files under their hashes."""
    whole = saved(tmp_path / "source", shards=True)
    repository = tmp_path / "home" / "hub" / "models--someone--small"
    snapshot = repository / "snapshots" / ("0" * 40)
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    for number, file in enumerate(whole.iterdir()):
        shutil.copy(file, repository / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    return snapshot


def in_new_process(snapshot: Path, script: str, cwd: Path) -> str:
    home = snapshot.parents[3]
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LOAD = """
from circuit.common.errors import ModelError
from circuit.models.load import load_model, load_tokenizer
from circuit.models.identity import model_identity
try:
    load_tokenizer("someone/small")
    print(float(load_model("someone/small", device="cpu").bridge.original_model.lm_head.weight.detach().sum()))
    print(model_identity("someone/small"))
except ModelError as error:
    print(error)
"""


def test_a_name_of_the_hub_is_never_a_folder_where_the_program_was_started(in_hub_cache: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    other = saved(here / "someone" / "small")
    add(other, **{"lm_head.weight": torch.ones(D_VOCAB, 32)})
    said = in_new_process(in_hub_cache, LOAD, here).splitlines()
    assert float(said[0]) == pytest.approx(float(random_hf_model("llama").lm_head.weight.detach().sum()), abs=1e-3)
    assert said[1] == str({"source": "someone/small", "revision": "0" * 40})


def test_an_index_in_the_hubs_cache_is_held_to_the_same(in_hub_cache: Path, tmp_path: Path) -> None:
    index = (in_hub_cache / INDEX).resolve()
    content = json.loads(index.read_text())
    content["weight_map"]["lm_head.weight"] = "x.bin"
    index.write_text(json.dumps(content))
    torch.save({"lm_head.weight": Evil(tmp_path / "trace")}, in_hub_cache / "x.bin")
    assert "names 'x.bin' as a file of its weights. Only" in in_new_process(in_hub_cache, LOAD, tmp_path)
    assert not (tmp_path / "trace").exists()


def test_a_snapshot_of_the_hubs_cache_can_be_named_as_a_folder(in_hub_cache: Path) -> None:
    load_model(in_hub_cache, device="cpu")


@pytest.mark.parametrize("name", ["models/small", "small", "models/tiny.gguf", "tiny.gguf"])
def test_a_text_that_does_not_begin_as_a_path_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    saved(tmp_path / "models" / "small")
    saved(tmp_path / "small")
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="hub"):
        load_model(name, device="cpu")
    assert model_identity(name) == {"source": name}
    if "gguf" not in name:
        for path in (Path(name), f"./{name}", str(tmp_path / name)):
            load_model(path, device="cpu")


def test_a_path_is_a_path_even_where_the_catalogue_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    assert load_model(Path("gpt2"), device="cpu").n_kv_heads == 2
