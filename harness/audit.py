# SPDX-License-Identifier: GPL-2.0-only
"""What a guest must look like again after unload, and how a difference is named.

The executor reads the sections below before a trial and after it and reports
the lines that came and went; that part is mechanical. What a line means, and
which lines come and go by themselves, is decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """One thing that is read in the guest."""

    name: str
    #: How the executor reads it, see images/executor/audit.c.
    kind: str
    path: str
    #: What one line of it is called in a finding's title.
    noun: str
    #: Lines that come and go on a healthy kernel.
    ignore: str = r"(?!)"
    #: Folders of a tree that are left out.
    skip: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """A line that came (``+``) or went (``-``)."""

    section: str
    sign: str
    line: str


#: Memory that code asked for which is gone.
ORPHANS = "vmalloc"
#: Functions that get every packet of a kind.
PACKETS = "packet"
#: Sections whose lines end with a function's name, or with its bare address when it has gone.
BY_ADDRESS = (ORPHANS, PACKETS)

#: Kernel threads whose number follows the load.
_BUSY_THREADS = r"(kworker|kswapd|kcompactd|ksoftirqd|migration|cpuhp|rcu|khugepaged)\b.*"

#: A family of protocols of which nobody logs packets.
_NO_LOGGER = r" *\d+ NONE \(\)"
_CONGESTION = "/proc/sys/net/ipv4/tcp_available_congestion_control"

SECTIONS = (
    Section("slab", "slabs", "/sys/kernel/slab", "slab cache", r":.*"),
    Section("filesystem", "lines", "/proc/filesystems", "filesystem"),
    Section("module", "first", "/proc/modules", "module"),
    Section("device", "lines", "/proc/devices", "device number"),
    Section("misc", "lines", "/proc/misc", "misc device"),
    Section("node", "tree", "/dev", "device node", r"/dev/pts/\d+"),
    Section("thread", "kthreads", "/proc", "kernel thread", _BUSY_THREADS),
    Section("mount", "lines", "/proc/self/mounts", "mount"),
    Section("interface", "names", "/sys/class/net", "network interface"),
    Section("sysfs", "tree", "/sys/block", "sysfs entry"),
    Section("sysfs", "tree", "/sys/bus", "sysfs entry"),
    Section("sysfs", "tree", "/sys/class", "sysfs entry"),
    Section("sysfs", "tree", "/sys/devices/virtual", "sysfs entry"),
    Section("sysfs", "tree", "/sys/devices/platform", "sysfs entry"),
    Section("sysfs", "names", "/sys/devices", "sysfs entry"),
    Section("sysfs", "tree", "/sys/fs", "sysfs entry"),
    Section("sysfs", "names", "/sys/module", "sysfs entry"),
    Section("sysfs", "names", "/sys/kernel", "sysfs entry"),
    Section("debugfs", "names", "/sys/kernel/debug", "debugfs entry"),
    Section("procfs", "names", "/proc", "proc entry", r"\d+"),
    Section("procfs", "names", "/proc/net", "proc entry"),
    Section("procfs", "tree", "/proc/fs", "proc entry"),
    Section("procfs", "tree", "/proc/driver", "proc entry"),
    # One folder for each interface and protocol: interfaces are named above.
    Section("sysctl", "tree", "/proc/sys", "sysctl", skip=("/proc/sys/net/ipv4",)),
    Section("configfs", "names", "/sys/kernel/config", "configfs entry"),
    # A folder for each name that somebody has asked for interrupts under.
    Section("interrupt", "tree", "/proc/irq", "interrupt handler"),
    Section("protocol", "first", "/proc/net/protocols", "network protocol"),
    Section("probe", "lines", "/sys/kernel/debug/kprobes/list", "kprobe"),
    # `system:event`; those of a module's own go with it (trace_module_remove_events(),
    # kernel/trace/trace_events.c), and not those that it has made from others.
    Section("event", "quiet-lines", "/sys/kernel/tracing/available_events", "trace event"),
    Section("instance", "quiet-names", "/sys/kernel/tracing/instances", "trace instance"),
    Section("traced", "quiet-first", "/sys/kernel/tracing/enabled_functions", "traced function"),
    # Bare addresses, which verdict.py names by the function that they were in.
    Section(ORPHANS, "orphans", "/proc/vmallocinfo", "vmalloc area of"),
    Section("ioport", "lines", "/proc/ioports", "I/O port range"),
    Section("iomem", "lines", "/proc/iomem", "I/O memory range"),
    Section("multicast", "quiet-lines", "/proc/net/dev_mcast", "multicast address"),
    # Last, for the kernel follows a pointer into a module that has left one of these. Netfilter's
    # own hooks are in no list without a further option (NETFILTER_NETLINK_HOOK): one that stays
    # is found by its pointer, see memscan.py.
    Section(PACKETS, "quiet-lines", "/proc/net/ptype", "packet handler"),
    Section("logger", "quiet-lines", "/proc/net/netfilter/nf_log", "netfilter logger", _NO_LOGGER),
    Section("congestion", "quiet-words", _CONGESTION, "TCP congestion control"),
)


def specification() -> str:
    """Return the text that tells the executor what to read."""
    return "".join(
        " ".join((section.name, section.kind, section.path, *section.skip)) + "\n"
        for section in SECTIONS
    )


def residue(changes: Iterable[Change]) -> tuple[str, ...]:
    """Return one title for each thing that is not as it was before, in order.

    An entry below another one that is named already is not named again.
    """
    titles: list[str] = []
    reported: list[str] = []
    for change in sorted(changes, key=lambda change: (_rank(change.section), change.line)):
        sections = [section for section in SECTIONS if section.name == change.section]
        if any(re.fullmatch(section.ignore, change.line) for section in sections):
            continue
        noun = sections[0].noun if sections else change.section
        line = " ".join(change.line.split())
        if any(line.startswith(f"{path}/") for path in reported):
            continue
        reported.append(line)
        fate = "residue" if change.sign == "+" else "vanished"
        titles.append(f"{fate}: {noun} {line.removeprefix('nodev ')}")
    return tuple(dict.fromkeys(titles))


def _rank(section: str) -> int:
    names = [known.name for known in SECTIONS]
    return names.index(section) if section in names else len(names)
