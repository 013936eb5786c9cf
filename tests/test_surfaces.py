# SPDX-License-Identifier: GPL-2.0-only
"""What a survey's lines mean."""

import pytest

from harness import surfaces
from harness.surfaces import Kind, Surface


def event(section: str, line: str, mode: int = 0, number: str = "") -> dict[str, object]:
    return {"ev": "surface", "survey": "loaded", "section": section, "line": line,
            "mode": f"{mode:o}", "number": number}  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "kind", "name"),
    [
        (event("node", "/dev/dk0", 0o020600, "240:0"), Kind.CHARACTER, "/dev/dk0"),
        (event("node", "/dev/brd0", 0o060600, "1:0"), Kind.BLOCK, "/dev/brd0"),
        (event("filesystem", "nodev\tpoolfs"), Kind.FILESYSTEM, "poolfs"),
        (event("filesystem", "\tminix"), Kind.DISK_FILESYSTEM, "minix"),
        (event("interface", "/sys/class/net/dummy0", 0o120777), Kind.INTERFACE, "dummy0"),
        (event("sysfs", "/sys/module/m/parameters/p", 0o100644), Kind.SYSFS,
         "/sys/module/m/parameters/p"),
        (event("procfs", "/proc/hooknet", 0o100600), Kind.PROC, "/proc/hooknet"),
        (event("debugfs", "/sys/kernel/debug/m/x", 0o100400), Kind.DEBUGFS,
         "/sys/kernel/debug/m/x"),
        (event("sysctl", "/proc/sys/m", 0o100644), Kind.SYSCTL, "/proc/sys/m"),
        (event("configfs", "/sys/kernel/config/m", 0o040755), Kind.CONFIGFS,
         "/sys/kernel/config/m"),
        (event("configfs", "/sys/kernel/config/m/version", 0o100444), Kind.CONFIGFS_FILE,
         "/sys/kernel/config/m/version"),
        (event("device", "240 knobs"), Kind.NUMBER, "240 knobs"),
        (event("thread", "kpool"), Kind.THREAD, "kpool"),
        (event("interrupt", "/proc/irq/9/mine", 0o040555), Kind.INTERRUPT, "9 mine"),
        (event("slab", "poolfs_inode"), Kind.CACHE, "poolfs_inode"),
    ],
)  # fmt: skip
def test_line_is_a_surface(seen: dict[str, object], kind: Kind, name: str) -> None:
    (found,) = surfaces.learn([seen])
    assert (found.kind, found.name) == (kind, name)


@pytest.mark.parametrize(
    "seen",
    [
        event("sysfs", "/sys/module/m/sections/.text", 0o100400),
        event("sysfs", "/sys/module/m/refcnt", 0o100444),
        event("sysfs", "/sys/class/knobs/dk0", 0o120777),
        event("node", "/dev/folder", 0o040755),
        event("module", "knobs"),
        event("interrupt", "/proc/irq/9/smp_affinity", 0o100644),
    ],
)
def test_what_is_no_way_in_is_left_out(seen: dict[str, object]) -> None:
    assert surfaces.learn([seen]) == ()


def test_other_surveys_and_events_are_left_alone() -> None:
    mounted = {**event("procfs", "/proc/fs/m/x", 0o100444), "survey": "mounted"}
    seen = [mounted, {"ev": "baseline"}]
    assert surfaces.learn(seen) == ()
    assert [one.name for one in surfaces.learn(seen, "mounted")] == ["/proc/fs/m/x"]


def test_what_was_there_before_belongs_to_others() -> None:
    needed, own = event("procfs", "/proc/core", 0o100444), event("procfs", "/proc/m", 0o100444)
    before = {**needed, "survey": "before"}
    assert [one.name for one in surfaces.learn([before, needed, own])] == ["/proc/m"]


def test_own_attributes_come_before_those_of_every_device() -> None:
    folder = "/sys/devices/virtual/misc/m"
    names = [f"{folder}/power/control", f"{folder}/uevent", f"{folder}/zeal"]
    found = surfaces.learn(event("sysfs", name, 0o100644) for name in names)
    assert found[0].name == f"{folder}/zeal"


def test_record_says_mode_and_number() -> None:
    device = Surface(Kind.CHARACTER, "/dev/dk0", 0o020600, "240:0")
    assert device.record() == {
        "kind": "character device", "name": "/dev/dk0", "mode": "0600", "number": "240:0",
    }  # fmt: skip
    (device, tree) = surfaces.with_requests(
        [device, Surface(Kind.FILESYSTEM, "poolfs")], (0x5401, 0x80081272)
    )
    assert device.record()["requests"] == ["0x5401", "0x80081272"]
    assert tree.record() == {"kind": "filesystem", "name": "poolfs"}


def test_of_a_folder_that_was_made_only_the_files_are_told() -> None:
    made = "/sys/kernel/config/m/made-by-check"
    seen = [
        {**event("configfs", made, 0o040755), "survey": "made"},
        {**event("configfs", f"{made}/size", 0o100644), "survey": "made"},
        {**event("node", "/dev/m0", 0o060600, "240:0"), "survey": "made"},
        {**event("procfs", "/proc/fs/m", 0o100444), "survey": "mounted"},
    ]
    found = [(one.kind, one.name) for one in surfaces.learn_inside(seen)]
    assert found == [(Kind.PROC, "/proc/fs/m"), (Kind.CONFIGFS_FILE, f"{made}/size")]


def test_kinds_of_interfaces_are_in_the_modinfo() -> None:
    modinfo = [("alias", "rtnl-link-dummy"), ("license", "GPL"), ("alias", "net-pf-16-proto-12"),
               ("alias", "rtnl-link-$(reboot)"), ("depends", "rtnl-link-x")]  # fmt: skip
    assert surfaces.learn_links(modinfo) == (Surface(Kind.LINK, "dummy"),)


def test_sockets_are_those_that_could_not_be_opened_before() -> None:
    before = {**event("socket", "1 stream 0"), "survey": "before"}
    lines = ["1 stream 0", "16 raw 31", "27 stream 3", "27 stream 10", "27 stream 2", "27 dgram 0"]
    seen = [before, *({**event("socket", line), "survey": "sockets"} for line in lines)]
    found = surfaces.learn_sockets(seen)
    # Of a type that takes many protocols the lowest two, as numbers.
    assert [one.name for one in found] == [
        "family 16 raw 31", "family 27 dgram 0", "family 27 stream 2", "family 27 stream 3",
    ]  # fmt: skip
    assert {one.kind for one in found} == {Kind.SOCKET}
    assert surfaces.socket_arguments(found[2]) == (27, "stream", 2)
    assert found[0].record() == {"kind": "socket", "name": "family 16 raw 31"}
    (asked,) = surfaces.with_requests(found[:1], (0x8941,))
    assert asked.requests == (0x8941,)


def test_how_much_was_left_out() -> None:
    cut = [{"ev": "surface-cut", "more": 3}, {"ev": "surface-cut", "more": 7}]
    assert surfaces.left_out(cut) == 7
    assert surfaces.left_out([]) == 0
