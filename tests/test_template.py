# SPDX-License-Identifier: GPL-2.0-only
import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness import template
from harness.errors import QemuError, UsageError
from harness.machine import Lane


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


def test_state_that_cannot_be_read_is_no_matter_of_the_guests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a QEMU that saves something else."""
    (tmp_path / "report").write_text("")
    qemu = SimpleNamespace(
        wait_paused=lambda deadline: None,
        save=lambda path: path.write_bytes(b"QEVM and nothing that is known"),
        quit=lambda: None,
    )

    @contextlib.contextmanager
    def start_qemu(machine: object, *, report: str) -> Iterator[object]:
        yield qemu

    monkeypatch.setattr(template, "start_qemu", start_qemu)
    base = SimpleNamespace(lane=Lane.DET, machine=lambda *words, **more: None)
    with pytest.raises(QemuError, match="saved a state that cannot be read: no description"):
        template._run_to_pause(cast(Any, base), tmp_path, None)
    base.lane = Lane.SMP
    template._run_to_pause(cast(Any, base), tmp_path, None)
