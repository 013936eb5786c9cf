# SPDX-License-Identifier: GPL-2.0-only
"""Whatever a stranger writes, XML takes it and a person sees it."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.marktext import clipped, legal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[31mred\x00", "\\x1b[31mred\\x00"),
        ("a\u202eb\u200b", "a\\u202eb\\u200b"),
        ("\ud800\ufffe", "\\ud800\\ufffe"),
        ("one\r\ntwo\rthree", "one\ntwo\\x0dthree"),
        ("Grüße, 漢 😀", "Grüße, 漢 😀"),
    ],
)
def test_what_may_not_stand_is_spelt(text: str, shown: str) -> None:
    assert legal(text) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_survives_xml(text: str) -> None:
    element = ElementTree.Element("e")
    element.text = legal(text)
    assert (ElementTree.fromstring(ElementTree.tostring(element)).text or "") == legal(text)


def test_clipped_says_how_much_is_not_there() -> None:
    assert clipped("abc", 3) == "abc"
    assert clipped("abcdef", 2) == "ab\n… 4 more characters"
