"""Text that others typed is made fit to stand in a line, in XML, and as the name of a file."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuit.common.text import file_name, for_xml, one_line

TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text("a \x00\n\r\u2028\u202e/\\.:\ufffe\x1b")


@given(TEXT)
def test_a_line_is_one_without_control_characters(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e]", line)
    assert one_line(line) == line


def test_a_line_keeps_what_is_no_control_character() -> None:
    assert one_line("naïve · 数 👩\u200d🔬  x") == "naïve · 数 👩\u200d🔬 x"
    assert one_line("a" * 20, 10) == "aaaaaaaa …"


@given(TEXT)
def test_any_text_can_stand_in_xml(text: str) -> None:
    found = ElementTree.fromstring(f"<a>{for_xml(text).replace('&', '&amp;').replace('<', '&lt;')}</a>").text or ""
    assert len(found) <= len(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../../etc/passwd", "etc_passwd"),
        ("..", "prompts"),
        (".htaccess", "htaccess"),
        ("a\r\nSet-Cookie: x", "a_Set-Cookie_x"),
        ("C:\\x", "C_x"),
        ("\x00", "prompts"),
        ("IOI, edited · 数", "IOI_edited_数"),
        ("exe.\u202efdp", "exe._fdp"),
    ],
)
def test_a_file_name_is_no_path_and_no_line(text: str, name: str) -> None:
    assert file_name(text, "prompts") == name


@given(TEXT)
def test_any_text_makes_a_file_name(text: str) -> None:
    assert re.fullmatch(r"[^\W_]([\w.-]*)", file_name(text, "prompts"))
