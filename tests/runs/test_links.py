"""Settings travel in a link, and a link that is damaged or hostile is a sentence."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuit.common.errors import LinkError
from circuit.edges.method import AblationType, Method
from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.prompts.presets import PRESETS
from circuit.runs import links
from circuit.runs.config import RunConfig
from circuit.runs.links import link, read_settings, read_settings_file, settings_file, settings_text
from tests.any_json import JSON
from tests.runs_made import make_run


def packed(content: bytes) -> str:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return base64.urlsafe_b64encode(packer.compress(content) + packer.flush()).decode().rstrip("=")


def with_config(**changes: Any) -> bytes:
    """Settings in which some values are others."""
    config = make_run().config.to_dict() | changes
    return json.dumps({"format": links.FORMAT, "config": config}).encode()


@pytest.mark.parametrize(
    "config",
    [
        make_run().config,
        RunConfig("teaching", PRESETS["teaching-ioi"].prompts, Method(ablation_type=AblationType.ZERO), held_out=0.25),
        RunConfig("smollm2-135m", PRESETS["ioi"].prompts, prepend_bos=False, keep_positions=True, split_seed=7),
        RunConfig("m", PromptSet("empty", ())),
    ],
    ids=lambda config: config.model,
)
def test_settings_come_back_from_a_link_and_from_a_file(config: RunConfig) -> None:
    text = settings_text(config)
    (again,) = parse_qs(urlsplit(link("http://x/Attribute", {"settings": text})).query)["settings"]
    assert again == text  # nothing in it needs escaping
    assert read_settings(text) == config
    assert read_settings(text + "=" * (-len(text) % 4)) == config
    assert read_settings_file(settings_file(config).encode()) == config


def test_the_presets_fit_into_a_link() -> None:
    for preset in PRESETS.values():
        assert len(settings_text(RunConfig("smollm2-135m", preset.prompts))) <= links.LONGEST_LINK


def test_settings_that_are_too_long_for_a_link_go_into_a_file() -> None:
    pairs = tuple(PromptPair(f"{i * 7919 % 10007:x} x", f"{i * 104729 % 10007:x} y", (f" {i}",)) for i in range(1500))
    config = RunConfig("teaching", PromptSet("long", pairs))
    with pytest.raises(
        LinkError, match=r"too long for a link: 1500 prompt pairs take [\d,]+ characters, and 6,000 fit"
    ):
        settings_text(config)
    assert read_settings_file(settings_file(config).encode()) == config


# --- damaged and hostile -------------------------------------------------------------------------------------------


def test_a_link_cut_off_anywhere_is_a_sentence() -> None:
    text = settings_text(make_run().config)
    for end in range(len(text)):
        with pytest.raises(LinkError):
            read_settings(text[:end])


def sentence(text: str) -> str:
    with pytest.raises(LinkError) as caught:
        read_settings(text)
    assert len(str(caught.value)) < 600
    return str(caught.value)


def test_a_bomb_of_the_largest_link_costs_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link holds 4,500 bytes, which can unpack to 4.6 MB: with a smaller limit it is stopped there."""
    monkeypatch.setattr(links, "LARGEST_SETTINGS", 2**20)
    bomb = packed(b" " * 4_000_000)
    assert len(bomb) <= links.LONGEST_LINK
    given_out: list[int] = []
    real = zlib.decompressobj

    class Watched:
        def __init__(self, wbits: int) -> None:
            self.inner = real(wbits)

        def decompress(self, data: bytes, most: int) -> bytes:
            content = self.inner.decompress(data, most)
            given_out.append(len(content))
            return content

        @property
        def eof(self) -> bool:
            return self.inner.eof

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    assert "unpack to more than 1 MB" in sentence(bomb)
    assert given_out == [2**20 + 1]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"\x80\x04K\x01.",  # a pickle
        b'{"format": "edgescope-settings-1"}',
        b'{"format": "edgescope-settings-1", "config": []}',
        b'{"format": "edgescope-settings-2", "config": {}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"format": "edgescope-settings-1", "config": ' + b"9" * 5000 + b"}",
        with_config(model=5),
        with_config(model="\ud800"),
        with_config(method="EAP"),
        with_config(method={"mask_val": 1e999}),
        with_config(method={"integrated_grad_samples": 10**30, "mask_val": None}),
        with_config(method={"ablation_type": ["ZERO"]}),
        with_config(method={"__class__": "x"}),
        with_config(prompts=[]),
        with_config(prompts={"prompts": [1]}),
        with_config(prompts={"prompts": [{"clean": 1, "corrupt": "", "answers": []}]}),
        with_config(prompts={"prompts": [{"clean": "a", "corrupt": "b", "answers": "c"}]}),
        with_config(prompts={"prompts": [{"clean": "a", "corrupt": "b"}] * 10_001}),
        with_config(batch_size=0),
        with_config(batch_size=10**30),
        with_config(batch_size=True),
        with_config(held_out=float("nan")),
        with_config(held_out=1.0),
        with_config(held_out=-0.1),
        with_config(split_seed=-1),
        with_config(split_seed=10**40),
        with_config(dtype="int4"),
        with_config(keep_positions="yes"),
        with_config(unknown=1),
    ],
    ids=range(35),
)
def test_what_is_no_settings_is_a_sentence(content: bytes) -> None:
    assert sentence(packed(content)[: links.LONGEST_LINK])
    with pytest.raises(LinkError):
        read_settings_file(content)


@pytest.mark.parametrize("text", ["", "=", "%00", "a b", "é", "../..", "A" * 10_000, "\0", "a\n", "===="])
def test_what_is_no_text_of_a_link_is_a_sentence(text: str) -> None:
    sentence(text)


def test_a_file_that_is_too_large_is_refused() -> None:
    with pytest.raises(LinkError, match="larger than 5 MB"):
        read_settings_file(b" " * (links.LARGEST_SETTINGS + 1))


@settings(deadline=None, max_examples=300)
@given(content=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_is_a_sentence_or_settings(content: bytes) -> None:
    for text in (packed(content), base64.urlsafe_b64encode(content).decode().rstrip("=")):
        with pytest.raises(LinkError):
            read_settings(text)


@settings(deadline=None, max_examples=300)
@given(name=st.sampled_from(sorted(make_run().config.to_dict())), value=JSON)
def test_any_value_of_a_setting_is_a_sentence_or_usable(name: str, value: Any) -> None:
    try:
        config = read_settings_file(with_config(**{name: value}))
    except LinkError:
        return
    assert read_settings_file(settings_file(config).encode()) == config
    config.split(range(len(config.prompts)))
    config.method.describe()
    assert replace(config) == config


def test_an_address_without_parameters_stays_as_it_is() -> None:
    assert link("http://x/", {}) == "http://x/"
    assert link("http://x/a", {"q": "a b&c"}) == "http://x/a?q=a+b%26c"
