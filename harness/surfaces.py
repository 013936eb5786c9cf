# SPDX-License-Identifier: GPL-2.0-only
"""What a module exposes: learned from one trial that loads it and looks.

The executor's op ``survey`` reports the lines of the audit that were not there when
the guest was saved (``harness/audit.py`` has the sections), with mode and number of
what is a file. Which of them are ways into the module is decided here. What cannot be
seen by loading it, such as the kinds of interfaces that somebody may ask for, is in its
modinfo. Pure.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

#: Surveys of a scenario: before the module's load, after it, with a filesystem mounted, with
#: a folder made in its configfs, and of the sockets that can be opened.
BEFORE: Final = "before"
LOADED: Final = "loaded"
MOUNTED: Final = "mounted"
MADE: Final = "made"
SOCKETS: Final = "sockets"

#: The folder that is made in configfs to see what such folders hold.
MADE_FOLDER: Final = "made-by-check"


class Kind(enum.StrEnum):
    """What sort of thing a module brings; the value is for people."""

    CHARACTER = "character device"
    BLOCK = "block device"
    FILESYSTEM = "filesystem"
    #: Mounted from a block device.
    DISK_FILESYSTEM = "filesystem on a block device"
    INTERFACE = "network interface"
    #: Somebody may ask for interfaces of it: ``ip link add type NAME``.
    LINK = "kind of network interface"
    #: What `socket(2)` gives for a family, a type and a protocol.
    SOCKET = "socket"
    SYSFS = "sysfs file"
    DEBUGFS = "debugfs file"
    PROC = "proc file"
    SYSCTL = "sysctl"
    CONFIGFS = "configfs folder"
    CONFIGFS_FILE = "configfs file"
    #: Another module that uses its symbols.
    DEPENDENT = "dependent module"
    # From here on: what only shows what the module is.
    NUMBER = "device number"
    PROTOCOL = "network protocol"
    THREAD = "kernel thread"
    INTERRUPT = "interrupt handler"
    CACHE = "slab cache"


#: Kinds of files that are read and written as a whole.
FILES: Final = (Kind.SYSFS, Kind.DEBUGFS, Kind.PROC, Kind.SYSCTL, Kind.CONFIGFS_FILE)
#: Kinds that say something about a module, and are no way into it.
SIGNS: Final = (Kind.NUMBER, Kind.PROTOCOL, Kind.THREAD, Kind.INTERRUPT, Kind.CACHE)


@dataclass(frozen=True, slots=True)
class Surface:
    """One thing that was not there before the module was."""

    kind: Kind
    #: Path of a file, or what the kernel calls it.
    name: str
    #: As :func:`os.stat` has it; 0 for what is no file.
    mode: int = 0
    #: Major and minor of a device.
    number: str = ""
    #: Requests for ``ioctl()`` that its module's code knows, see :mod:`harness.ioctls`.
    requests: tuple[int, ...] = ()

    @property
    def readable(self) -> bool:
        return bool(self.mode & 0o444)

    @property
    def writable(self) -> bool:
        return bool(self.mode & 0o222)

    @property
    def slug(self) -> str:
        """A name for scenarios and files."""
        return re.sub(r"[^A-Za-z0-9_]+", "-", self.name.removeprefix("/dev/")).strip("-")[:40]

    def record(self) -> dict[str, Any]:
        """Return it as it stands in a JSON document."""
        record: dict[str, Any] = {"kind": self.kind.value, "name": self.name}
        if self.mode:
            record["mode"] = f"{stat.S_IMODE(self.mode):04o}"
        if self.number:
            record["number"] = self.number
        if self.requests:
            record["requests"] = [f"{request:#x}" for request in self.requests]
        return record


#: Sections of the audit whose lines are files of one kind.
_FILE_SECTIONS: Final[Mapping[str, Kind]] = {
    "sysfs": Kind.SYSFS,
    "debugfs": Kind.DEBUGFS,
    "procfs": Kind.PROC,
    "sysctl": Kind.SYSCTL,
}
#: Of one family and type so many are told: who takes any protocol takes each in the same way.
_PROTOCOLS: Final = 2
_NAME_SECTIONS: Final[Mapping[str, Kind]] = {
    "interface": Kind.INTERFACE,
    "protocol": Kind.PROTOCOL,
    "thread": Kind.THREAD,
    "slab": Kind.CACHE,
}
#: Files that the kernel makes for every module, and that are none of the module's own.
_EVERY_MODULE: Final = re.compile(r"/sys/module/[^/]+/(?!parameters/).*")
#: Files that the kernel makes for every device: used last.
_EVERY_DEVICE: Final = re.compile(
    r"/sys/.*/(uevent|dev|power/\w+|queue/.*|integrity/.*|mq/.*|trace/.*|statistics/\w+)"
)


def learn(events: Iterable[Mapping[str, Any]], survey: str = LOADED) -> tuple[Surface, ...]:
    """Return what one survey has found and the one before had not, a module's own things first.

    Args:
        events: the executor's report.
        survey: name of the survey, as its op has it.
    """
    seen = [event for event in events if event["ev"] == "surface"]
    before = {(event["section"], event["line"]) for event in seen if event["survey"] == BEFORE}
    found: dict[tuple[Kind, str], Surface] = {}
    for event in seen:
        if event["survey"] != survey or (event["section"], event["line"]) in before:
            continue
        surface = _surface(
            event["section"], event["line"], int(event["mode"], 8), event.get("number", "")
        )
        if surface is not None:
            found.setdefault((surface.kind, surface.name), surface)
    return tuple(
        sorted(
            found.values(),
            key=lambda one: (
                [*Kind].index(one.kind),
                bool(_EVERY_DEVICE.fullmatch(one.name)),
                one.name,
            ),
        )
    )


def _surface(section: str, line: str, mode: int, number: str) -> Surface | None:
    if section in _NAME_SECTIONS:
        # The audit reads network interfaces by name from a folder.
        return Surface(_NAME_SECTIONS[section], line.rpartition("/")[2])
    if section in _FILE_SECTIONS:
        if not stat.S_ISREG(mode) or _EVERY_MODULE.fullmatch(line):
            return None
        return Surface(_FILE_SECTIONS[section], line, mode)
    match section:
        case "node" if stat.S_ISCHR(mode):
            return Surface(Kind.CHARACTER, line, mode, number)
        case "node" if stat.S_ISBLK(mode):
            return Surface(Kind.BLOCK, line, mode, number)
        case "filesystem":
            flag, _, name = line.partition("\t")
            return Surface(Kind.FILESYSTEM if flag == "nodev" else Kind.DISK_FILESYSTEM, name)
        case "socket":
            return Surface(Kind.SOCKET, f"family {line}")
        case "device":
            return Surface(Kind.NUMBER, " ".join(line.split()))
        case "configfs" if stat.S_ISDIR(mode):
            return Surface(Kind.CONFIGFS, line, mode)
        case "configfs" if stat.S_ISREG(mode):
            return Surface(Kind.CONFIGFS_FILE, line, mode)
        case "interrupt" if match := re.fullmatch(r"/proc/irq/(\d+)/([^/]+)", line):
            return Surface(Kind.INTERRUPT, f"{match[1]} {match[2]}") if stat.S_ISDIR(mode) else None
    return None


def with_requests(several: Iterable[Surface], requests: tuple[int, ...]) -> Iterator[Surface]:
    """Yield surfaces, devices and sockets with the requests that their module knows."""
    for one in several:
        asked = one.kind in (Kind.CHARACTER, Kind.BLOCK, Kind.SOCKET)
        yield dataclasses.replace(one, requests=requests) if asked else one


def learn_sockets(events: Iterable[Mapping[str, Any]]) -> tuple[Surface, ...]:
    """Return the sockets that can be opened since the module is there, by family and type.

    Of protocols that one type of a family takes only the lowest are told.
    """
    found: dict[tuple[int, str], list[Surface]] = {}
    several = (one for one in learn(events, SOCKETS) if one.kind is Kind.SOCKET)
    for one in sorted(several, key=socket_arguments):
        found.setdefault(socket_arguments(one)[:2], []).append(one)
    return tuple(one for same in found.values() for one in same[:_PROTOCOLS])


def socket_arguments(surface: Surface) -> tuple[int, str, int]:
    """Return family, type and protocol of a socket, as the op ``open_socket`` takes them."""
    _, family, kind, protocol = surface.name.split()
    return int(family), kind, int(protocol)


def learn_inside(events: Sequence[Mapping[str, Any]]) -> tuple[Surface, ...]:
    """Return what is only there with a filesystem mounted, or with a folder made in configfs.

    Of the latter only its files: everything else that it brings goes with it.
    """
    made = (one for one in learn(events, MADE) if one.kind is Kind.CONFIGFS_FILE)
    return (*learn(events, MOUNTED), *made)


def learn_links(modinfo: Iterable[tuple[str, str]]) -> tuple[Surface, ...]:
    """Return the kinds of network interfaces that a module makes when it is asked to.

    Args:
        modinfo: its fields and values; ``MODULE_ALIAS_RTNL_LINK()`` is one of them.
    """
    prefix = "rtnl-link-"
    names = [value.removeprefix(prefix) for name, value in modinfo
             if name == "alias" and value.startswith(prefix)]  # fmt: skip
    # What is no plain word would mean something to a shell.
    return tuple(Surface(Kind.LINK, name) for name in dict.fromkeys(names)
                 if re.fullmatch(r"[\w-]{1,32}", name))  # fmt: skip


def left_out(events: Iterable[Mapping[str, Any]]) -> int:
    """Return how many things surveys found and had no room to tell."""
    return max((int(event["more"]) for event in events if event["ev"] == "surface-cut"), default=0)
