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
