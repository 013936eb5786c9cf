# SPDX-License-Identifier: GPL-2.0-only
import pytest

from harness import seeds
from harness.errors import UsageError


@pytest.mark.parametrize(("text", "wanted"), [("7", range(7, 8)), ("0:32", range(32))])
def test_ranges(text: str, wanted: range) -> None:
    assert seeds.parse(text) == wanted


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x", "not a range"), ("1:2:3", "not a range"), ("-1", "not a range"), ("", "not a range"),
        ("5:5", "empty range"), ("9:3", "empty range"), ("0:9999999999999999999", "larger than"),
    ],
)  # fmt: skip
def test_what_is_no_range(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        seeds.parse(text)
