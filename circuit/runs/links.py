"""The settings of a run in a link or a small file: model, prompts and method, without the scores.

    settings_text     RunConfig -> text for a link's `settings` parameter
    read_settings     the inverse
    settings_file     RunConfig -> JSON file
    read_settings_file
    link              an address with parameters

    text = settings_text(run.config)
    read_settings(text) == run.config

The text is JSON, deflated (RFC 1951), in the alphabet of base64url. Links come from anywhere, so what they hold is
bounded before it is unpacked, and checked before it is used: whatever is wrong with one is a `LinkError`. Nothing here
imports torch.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Mapping
from urllib.parse import urlencode

from circuit.common.errors import CircuitError, LinkError
from circuit.common.files import parse_json
from circuit.common.words import MB, size
from circuit.runs.config import RunConfig

LONGEST_LINK = 6000
"""Characters of settings in a link: browsers and servers take more, chats and mail programs often do not."""
LARGEST_SETTINGS = 5 * MB
"""Bytes of settings, unpacked, and of a settings file: as large as a file of prompts may be."""
FORMAT = "edgescope-settings-1"

_PARTS = re.compile(r"[A-Za-z0-9_-]+={0,2}")


def settings_text(config: RunConfig) -> str:
    """The settings as text that may stand in an address.

    Raises:
        LinkError: When they are too long for one.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(_json(config, indent=None).encode()) + packer.flush()
    text = base64.urlsafe_b64encode(packed).decode().rstrip("=")
    if len(text) > LONGEST_LINK:
        raise LinkError(
            f"These settings are too long for a link: {len(config.prompts)} prompt pairs take {len(text):,} "
            f"characters, and {LONGEST_LINK:,} fit. Send the settings file instead."
        )
    return text


def read_settings(text: str) -> RunConfig:
    """The inverse of `settings_text`.

    Raises:
        LinkError: When it is not that of settings which can be used; says why.
    """
    if len(text) > LONGEST_LINK:
        raise LinkError(f"The link's settings have {len(text):,} characters, more than a link can hold.")
    if not _PARTS.fullmatch(text):
        raise LinkError("The link's settings are damaged: it may have been cut off when it was copied.")
    unpacker = zlib.decompressobj(-15)
    try:
        packed = base64.urlsafe_b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))
        content = unpacker.decompress(packed, LARGEST_SETTINGS + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise LinkError("The link's settings are damaged: it may have been cut off when it was copied.") from error
    if len(content) > LARGEST_SETTINGS:
        raise LinkError(f"The link's settings unpack to more than {size(LARGEST_SETTINGS)}.")
    if not unpacker.eof:
        raise LinkError("The link's settings are damaged: it may have been cut off when it was copied.")
    return _config(content, "The link's settings")


def settings_file(config: RunConfig) -> str:
    """The settings as a JSON file."""
    return _json(config, indent=1)


def read_settings_file(content: bytes) -> RunConfig:
    """The inverse of `settings_file`.

    Raises:
        LinkError: When the file is too large, or does not hold settings which can be used; says why.
    """
    if len(content) > LARGEST_SETTINGS:
        raise LinkError(f"The file is larger than {size(LARGEST_SETTINGS)}: it is no settings file.")
    return _config(content, "The settings file")


def link(address: str, parameters: Mapping[str, str]) -> str:
    """The address with these parameters."""
    return f"{address}?{urlencode(parameters)}" if parameters else address


def _json(config: RunConfig, indent: int | None) -> str:
    content = {"format": FORMAT, "config": config.to_dict()}
    return json.dumps(content, ensure_ascii=False, indent=indent, separators=None if indent else (",", ":"))


def _config(content: bytes, what: str) -> RunConfig:
    try:
        values = parse_json(content.decode("utf-8"))
        if values.get("format") != FORMAT or not isinstance(values.get("config"), dict):
            raise LinkError(f"{what} cannot be used: there are no settings of a run in it.")
        return RunConfig.from_dict(values["config"])
    except LinkError:
        raise
    except CircuitError as error:
        raise LinkError(f"{what} cannot be used. {error}") from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise LinkError(f"{what} cannot be read: this is not JSON as it should be.") from error
