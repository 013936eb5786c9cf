# SPDX-License-Identifier: GPL-2.0-only
"""A guest over SSH."""

import pytest

from harness.deadline import Deadline
from harness.errors import DeadlineExceeded, GuestError
from harness.guest import Guest
from harness.plugin import Build

pytestmark = pytest.mark.vm


def soon() -> Deadline:
    return Deadline.after(120)


def test_run_put_get(guest: Guest) -> None:
    assert guest.run("uname -s; id -un", deadline=soon()).text == "Linux\nroot"
    data = bytes(range(256)) * 1000
    guest.put(data, "/tmp/a file", deadline=soon())
    assert guest.get("/tmp/a file", deadline=soon()) == data
    done = guest.run("echo out; echo err >&2; exit 3", deadline=soon(), check=False)
    assert (done.status, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    with pytest.raises(GuestError, match="`exit 4` failed in the guest with status 4"):
        guest.run("exit 4", deadline=soon())
    with pytest.raises(DeadlineExceeded, match="did not end in the guest"):
        guest.run("cat /dev/zero > /dev/null", deadline=Deadline.after(1))


def test_module_is_loaded_and_unloaded(guest: Guest, build: Build) -> None:
    with guest.loaded(build("poolfs")):
        assert "poolfs" in guest.run("cat /proc/filesystems", deadline=soon()).text
    assert "poolfs" not in guest.run("cat /proc/filesystems", deadline=soon()).text


def test_guest_reaches_nothing_outside(guest: Guest) -> None:
    done = guest.run("nc -w 2 10.0.2.2 22 < /dev/null", deadline=soon(), check=False)
    assert done.status != 0


def test_lives_of_modules_are_kept(guest: Guest, build: Build) -> None:
    module = build("poolfs")
    for _ in range(2):
        with guest.loaded(module):
            (*_, now) = guest.lives
            assert now.unloaded_us is None
    first, second = guest.lives
    assert [life.load for life in (first, second)] == [1, 2]
    assert first.base % 4096 == 0
    assert first.base > 0xFFFF << 48
    assert first.size > 4096
    assert first.unloaded_us is not None
    assert second.unloaded_us is not None
    assert 0 < first.unloaded_us < second.unloaded_us
