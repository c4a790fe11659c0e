"""GGUF files, the hub's refusals, precision and memory: where models come from, and how many are held."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from circuit.common.errors import JobCancelled, ModelError, NotEnoughMemoryError
from circuit.common.settings import cache_folder
from circuit.models.catalogue import LOCAL, offered
from circuit.models.load import load_model, model_card, wrap
from circuit.models.store import ModelStore
from tests.small_models import random_hf_model, tokenizer
from tests.tiny_gguf import D_MODEL, N_HEADS, N_KV_HEADS, N_LAYERS, write_gguf

# --- GGUF ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def owners_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models directory and an empty cache."""
    monkeypatch.setenv("EDGESCOPE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("EDGESCOPE_MODELS", str(folder))
    return folder


def test_a_gguf_file_of_the_owner_is_offered_and_dequantised(owners_folder: Path) -> None:
    written = write_gguf(owners_folder / "tiny.gguf")
    assert offered()[f"{LOCAL}tiny.gguf"].title == "tiny"
    model = load_model(f"{LOCAL}tiny.gguf", device="cpu")
    assert (model.n_layers, model.n_heads, model.n_kv_heads, model.d_model) == (N_LAYERS, N_HEADS, N_KV_HEADS, D_MODEL)
    embedding = model.bridge.original_model.get_input_embeddings().weight
    torch.testing.assert_close(embedding, torch.from_numpy(written["token_embd"]), rtol=0, atol=0)
    assert model.tokenizer.decode(model.tokenizer("hello", add_special_tokens=False).input_ids) == "hello"


def test_a_gguf_file_is_converted_once_and_again_when_it_changes(owners_folder: Path) -> None:
    file = owners_folder / "tiny.gguf"
    write_gguf(file)
    told: list[str] = []
    for _ in range(2):
        load_model(file, device="cpu", progress=lambda step, total, message: told.append(message))
    assert [words.split()[0] for words in told] == ["Converting", "Loading", "Loading"]
    os.utime(file, ns=(1, 1))
    load_model(file, device="cpu", progress=lambda step, total, message: told.append(message))
    assert told[3].startswith("Converting")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + bytes(100), b"no model at all" * 10])
def test_a_damaged_gguf_file_is_a_sentence_and_leaves_nothing_behind(owners_folder: Path, content: bytes) -> None:
    (owners_folder / "bad.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.gguf could not be loaded"):
        load_model(f"{LOCAL}bad.gguf", device="cpu")
    assert list((cache_folder() / "gguf").iterdir()) == []


def test_a_gguf_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no GGUF file"):
        load_model(tmp_path / "none.gguf", device="cpu")


# --- the hub -------------------------------------------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub where one model is gated and no other exists."""

    def do_HEAD(self) -> None:
        gated = "gated" in self.path
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def said_of(name: str, tmp_path: Path, **environment: str) -> str:
    """What loading from a hub says, in a process of its own, since libraries read the hub's address once."""
    script = (
        "from circuit.common.errors import ModelError\nfrom circuit.models.load import load_model\n"
        f"try:\n    load_model({name!r}, device='cpu')\nexcept ModelError as error:\n    print(error)"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), **environment}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_gated_model_says_what_to_accept_and_set(hub: str, tmp_path: Path) -> None:
    said = said_of("someone/gated", tmp_path, HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
    assert "someone/gated is gated: accept its licence" in said
    assert "HF_TOKEN" in said


def test_a_model_that_does_not_exist_says_so(hub: str, tmp_path: Path) -> None:
    said = said_of("someone/nothing", tmp_path, HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
    assert "There is no model someone/nothing on the Hugging Face hub" in said


def test_without_a_network_a_model_of_the_hub_says_what_to_check(tmp_path: Path) -> None:
    assert "Check the network" in said_of("someone/else", tmp_path, HF_HUB_OFFLINE="1")


# --- precision and memory ------------------------------------------------------------------------------------------


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


def held_names(store: ModelStore) -> list[str]:
    return [name for name, _, _ in store.held]


def test_a_model_is_loaded_once_and_shared(small: str) -> None:
    store = ModelStore(budget=10**9)
    with store.use(small, "cpu", "auto") as first, store.use(small, "cpu", "auto") as second:
        assert first is second
    with store.use(small, "cpu", "auto") as third:
        assert third is first


def test_the_least_recently_used_model_goes_first(small_folder: Path) -> None:
    a, b, c = (f"{small_folder}{'/' * i}" for i in range(3))
    with ModelStore(budget=10**9).use(a, "cpu", "auto") as model:
        two = 2 * model.n_bytes
    store = ModelStore(budget=two)
    for name in (a, b, a, c):
        with store.use(name, "cpu", "auto"):
            pass
    assert held_names(store) == [a, c]


def test_a_model_in_use_stays_even_over_the_budget(small_folder: Path) -> None:
    a, b = str(small_folder), f"{small_folder}/"
    store = ModelStore(budget=1)
    with store.use(a, "cpu", "auto"), store.use(b, "cpu", "auto"):
        assert held_names(store) == [a, b]


def test_idle_models_make_room_for_one_that_does_not_fit(small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = str(small_folder), f"{small_folder}/"
    store = ModelStore(budget=10**9)
    with store.use(a, "cpu", "auto"):
        pass
    monkeypatch.setattr("circuit.engine.memory.free_memory", lambda device: 10**9 if not store.held else 0)
    with store.use(b, "cpu", "auto"):
        assert held_names(store) == [b]


def test_a_model_that_cannot_be_loaded_leaves_the_others(small: str) -> None:
    store = ModelStore(budget=10**9)
    with store.use(small, "cpu", "auto"):
        pass
    with pytest.raises(ModelError), store.use("/nowhere", "cpu", "auto"):
        pass
    assert held_names(store) == [small]


# --- what TransformerLens makes of a model -------------------------------------------------------------------------


def test_a_model_that_transformer_lens_computes_differently_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hf_model = random_hf_model("gpt2", scale_attn_weights=False)
    monkeypatch.setattr("circuit.engine.supported._REFUSED_VARIANTS", ())  # as if nobody had known of this option
    with pytest.raises(ModelError, match="TransformerLens computes other logits than the model itself"):
        wrap(hf_model, tokenizer())
