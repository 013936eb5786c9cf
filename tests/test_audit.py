# SPDX-License-Identifier: GPL-2.0-only
import pytest

from harness import audit
from harness.audit import Change


def test_specification_has_one_line_a_section() -> None:
    lines = audit.specification().splitlines()
    assert len(lines) == len(audit.SECTIONS)
    for line, section in zip(lines, audit.SECTIONS, strict=True):
        assert line.split(" ") == [section.name, section.kind, section.path, *section.skip]


@pytest.mark.parametrize(
    ("change", "title"),
    [
        (Change("slab", "+", "poolfs_inode"), "residue: slab cache poolfs_inode"),
        (Change("filesystem", "+", "nodev\tpoolfs"), "residue: filesystem poolfs"),
        (Change("module", "+", "poolfs"), "residue: module poolfs"),
        (Change("thread", "+", "pooler/0"), "residue: kernel thread pooler/0"),
        (Change("sysfs", "-", "/sys/class/tty"), "vanished: sysfs entry /sys/class/tty"),
        (Change("event", "+", "synthetic:late"), "residue: trace event synthetic:late"),
        (
            Change("packet", "+", "0800          m_receive"),
            "residue: packet handler 0800 m_receive",
        ),
        (Change("logger", "+", " 2 NONE (m_log)"), "residue: netfilter logger 2 NONE (m_log)"),
        (Change("congestion", "+", "m_cc"), "residue: TCP congestion control m_cc"),
        (Change("unheard-of", "+", "x"), "residue: unheard-of x"),
    ],
)
def test_change_is_named(change: Change, title: str) -> None:
    assert audit.residue([change]) == (title,)


@pytest.mark.parametrize(
    "change",
    [
        Change("thread", "+", "kworker/0:2"),
        Change("thread", "-", "kworker/u4:1-events_unbound"),
        Change("procfs", "+", "4711"),
        Change("slab", "+", ":0000192"),
        # What is there in its place is named; and it is one thing, not two.
        Change("logger", "-", " 2 NONE ()"),
    ],
)
def test_what_comes_and_goes_by_itself_is_ignored(change: Change) -> None:
    assert audit.residue([change]) == ()


def test_entries_below_a_named_one_are_not_named_again() -> None:
    changes = [
        Change("sysfs", "+", path) for path in ("/sys/bus/dk/a", "/sys/bus/dk", "/sys/bus/dkx")
    ]
    assert audit.residue(changes) == (
        "residue: sysfs entry /sys/bus/dk",
        "residue: sysfs entry /sys/bus/dkx",
    )
