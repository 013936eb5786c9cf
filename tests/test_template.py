# SPDX-License-Identifier: GPL-2.0-only
import pytest

from harness import template
from harness.errors import UsageError


def test_room_for_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KMOD_HARNESS_TEMPLATES_GIB", raising=False)
    assert template.cache_limit_mib() == 12 << 10
    monkeypatch.setenv("KMOD_HARNESS_TEMPLATES_GIB", "1.5")
    assert template.cache_limit_mib() == 1536


@pytest.mark.parametrize("text", ["much", "", "0.1", "-3", "nan", "inf"])
def test_room_for_templates_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMOD_HARNESS_TEMPLATES_GIB", text)
    with pytest.raises(UsageError, match="not a number of GiB from"):
        template.cache_limit_mib()
