"""GGUF files and the hub's refusals: where models come from."""

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

from circuit.common.errors import ModelError
from circuit.common.settings import cache_folder
from circuit.models.catalogue import LOCAL, offered
from circuit.models.load import load_model
from tests.tiny_gguf import D_MODEL, N_HEADS, N_KV_HEADS, N_LAYERS, write_gguf


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
