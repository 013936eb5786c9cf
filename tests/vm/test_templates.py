# SPDX-License-Identifier: GPL-2.0-only
"""Templates: what they depend on, and what becomes of one that cannot be made."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cpio, store, template
from harness.errors import GuestError, StorageError
from harness.lab import Lab
from harness.machine import Lane

pytestmark = pytest.mark.vm

#: It is busy and idle.
PAYLOAD = cpio.archive(
    {"payload/setup": cpio.Entry(b"#!/bin/sh\nsleep 0.05\nmkdir /tmp/made\n", 0o755)}
)


def test_det_template_made_twice_is_the_same_bytes(harness_lab: Lab, tmp_path: Path) -> None:
    base = harness_lab.base("6.1", "kasan", Lane.DET)
    made = [template.boot_template(store.Store.open(tmp_path / name), base) for name in "ab"]
    stacked = [
        template.stack_template(store.Store.open(tmp_path / name), one, PAYLOAD)
        for name, one in zip("ab", made, strict=True)
    ]
    for first, second in (made, stacked):
        assert first.key == second.key
        assert store.digest_file(first.memory) == store.digest_file(second.memory)
        assert first.state.read_bytes() == second.state.read_bytes()


def test_set_up_that_fails_is_an_error(harness_lab: Lab) -> None:
    from harness import template

    payload = {"payload/setup": cpio.Entry(b"#!/bin/sh\necho what went wrong\nexit 7\n", 0o755)}
    below = harness_lab.booted("6.1", "kasan", Lane.DET)
    with pytest.raises(GuestError, match="set-up failed") as caught:
        template.stack_template(harness_lab.cache, below, cpio.archive(payload))
    assert "what went wrong" in caught.value.evidence


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system on which a guest's memory does not find room."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)], timeout=60, check=False
    )
    if done.returncode != 0:
        pytest.skip("no mounts here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=60)


def test_disk_that_fills_up_under_a_guest(
    harness_lab: Lab, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was large enough when it was looked at; QEMU then gets SIGBUS."""
    monkeypatch.setattr(store, "free_mib", lambda path: 1 << 20)
    cache = store.Store.open(small_disk / "cache")
    with pytest.raises(StorageError, match="MiB"):
        template.boot_template(cache, harness_lab.base("6.1", "kasan", Lane.DET))
    assert not list((cache.root / "template").glob("*"))


def test_templates_make_room_for_each_other(
    harness_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = harness_lab.booted("6.1", "kasan", Lane.DET)
    cache = store.Store.open(tmp_path / "cache")
    monkeypatch.setattr(template, "cache_limit_mib", lambda: 1)

    def stacked(name: str) -> template.Template:
        return template.stack_template(cache, below, cpio.archive({name: cpio.Entry(b"", 0o644)}))

    first = stacked("first")
    second = stacked("second")
    assert first.memory.exists()  # held
    del first
    stacked("third")
    assert second.memory.exists()
    assert len(list((cache.root / "template").iterdir())) == 2
