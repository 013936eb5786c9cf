# SPDX-License-Identifier: GPL-2.0-only
"""One user of what a module exposes: how each kind of surface is held, and how it is used.

Steps are those of a scenario's YAML; :mod:`harness.workloads` makes scenarios of them.
What a seed may choose is chosen by the generator that comes with it. Pure.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from harness import disks
from harness.surfaces import FILES, MADE_FOLDER, SIGNS, Kind, Surface, socket_arguments

Step = dict[str, Any]

#: Files of one kind that one scenario uses, and that are held at a time.
MAX_FILES: Final = 12
#: Sockets of one family that one user takes.
MAX_SOCKETS: Final = 6
#: Requests that any device may be asked: FIONREAD, TCGETS, BLKGETSIZE64, BLKFLSBUF, HDIO_GETGEO.
_KNOWN_REQUESTS: Final = (0x541B, 0x5401, 0x80081272, 0x1261, 0x0301)
#: And any socket: SIOCINQ, SIOCOUTQ, SIOCGSTAMP (include/uapi/linux/sockios.h).
_SOCKET_REQUESTS: Final = (0x541B, 0x5411, 0x8906)
#: Levels of options that are none of a family's own: SOL_IP, SOL_RAW; and most families' own
#: (include/linux/socket.h).
_LEVELS: Final = (0, 255)
_FAMILY_LEVELS: Final = (256, 290)
#: What is written to files that take text. No large numbers: what asks for as much memory as it
#: is told to is no finding.
_TEXTS: Final = ("0\n", "1\n", "2\n", "-1\n", "on\n", "off\n", "\n", "x" * 40)
#: An address of an interface and of somebody beyond it, of those that are for tests (RFC 2544).
_ADDRESS: Final = "198.18.0.1"
_PEER: Final = "198.18.0.2"
#: How long unload may be refused after the last release: so many times 10 ms.
LAST_RELEASE: Final = 50
#: Kinds that must keep the module from going while they are held; of configfs it is a folder
#: that somebody has made.
_PINNING: Final = (Kind.CHARACTER, Kind.BLOCK, Kind.CONFIGFS, Kind.SOCKET)


@dataclass(frozen=True, slots=True)
class Group:
    """Surfaces that one user takes together.

    A device, a filesystem, all sockets of a family, all files of a kind.
    """

    name: str
    surfaces: tuple[Surface, ...]

    @property
    def kind(self) -> Kind:
        return self.surfaces[0].kind


def groups(surfaces: Iterable[Surface]) -> tuple[Group, ...]:
    """Return what can be used, each as one user takes it."""
    found: list[Group] = []
    files: dict[Kind, list[Surface]] = {}
    families: dict[int, list[Surface]] = {}
    for surface in surfaces:
        if surface.kind in FILES:
            files.setdefault(surface.kind, []).append(surface)
        elif surface.kind is Kind.SOCKET:
            families.setdefault(socket_arguments(surface)[0], []).append(surface)
        elif surface.kind not in SIGNS and not _lacks_disk(surface):
            found.append(Group(surface.slug, (surface,)))
    for family, several in families.items():
        found.append(Group(f"sockets-{family}", tuple(several[:MAX_SOCKETS])))
    for kind, several in files.items():
        found.append(Group(f"{kind.value.split()[0]}-files", tuple(several[:MAX_FILES])))
    return tuple(found)


def _lacks_disk(surface: Surface) -> bool:
    return surface.kind is Kind.DISK_FILESYSTEM and surface.name not in disks.KNOWN


def is_mountable(surface: Surface) -> bool:
    """Return whether it is a filesystem that a workload can mount."""
    return surface.kind in (Kind.FILESYSTEM, Kind.DISK_FILESYSTEM) and not _lacks_disk(surface)


def shows_more(surface: Surface) -> bool:
    """Return whether somebody who uses it may bring what a load alone does not."""
    return is_mountable(surface) or surface.kind is Kind.CONFIGFS


def not_used(surfaces: Iterable[Surface]) -> tuple[tuple[Surface, str], ...]:
    """Return the surfaces that no workload uses, each with the reason."""
    files: dict[Kind, int] = {}
    left: list[tuple[Surface, str]] = []
    opened = any(one.kind is Kind.SOCKET for one in surfaces)
    numbers = [one for one in surfaces if one.kind in (Kind.CHARACTER, Kind.BLOCK)]
    for surface in surfaces:
        if _lacks_disk(surface):
            left.append((surface, "needs a block device with such a filesystem on it"))
        elif surface.kind is Kind.PROTOCOL and not opened:
            left.append((surface, "no socket can be opened that could not be before"))
        elif surface.kind is Kind.NUMBER and not numbers:
            left.append((surface, "no node in /dev has it"))
        elif surface.kind in FILES:
            files[surface.kind] = files.get(surface.kind, 0) + 1
            if files[surface.kind] > MAX_FILES:
                left.append((surface, f"beyond the first {MAX_FILES} of its kind"))
    return tuple(left)


def must_pin(surface: Surface) -> bool:
    """Return whether it must keep the module from going while it is held."""
    return surface.kind in _PINNING or is_mountable(surface)


def attempt(op: str, value: Any = None, **fields: Any) -> Step:
    """Return a step that may have any result."""
    return {op: value, "expect": "any", **fields}


def gone(name: str) -> Step:
    """Return the step that unloads another module, whoever else does."""
    return {"delete_module": name, "expect": ["ok", "ENOENT"], "retries": LAST_RELEASE}


def _mount(surface: Surface, target: str) -> Step:
    source = disks.device(surface.name) if surface.kind is Kind.DISK_FILESYSTEM else "none"
    return {"source": source, "target": target, "fstype": surface.name}


def hold(surface: Surface, name: str = "held") -> tuple[list[Step], list[Step], str]:
    """Return the steps that take hold of a surface, those that let go, and what that is.

    Args:
        name: of the folder that is made in configfs.
    """
    if is_mountable(surface):
        target = f"/mnt/{surface.slug}"
        take = [attempt("mkdir", target), attempt("mount", _mount(surface, target))]
        return take, [attempt("umount", target), attempt("rmdir", target)], "A mount is held."
    if surface.kind is Kind.CONFIGFS:
        folder = f"{surface.name}/{name}"
        take, give = [attempt("mkdir", folder)], [attempt("rmdir", folder)]
        return take, give, "A folder in configfs is held."
    if surface.kind is Kind.SOCKET:
        return [_open_socket(surface)], [attempt("close", 0)], "A socket is held open."
    open_both = [
        attempt("open", {"slot": 0, "path": surface.name, "flags": ["rdwr", "nonblock"]}),
        attempt("open", {"slot": 1, "path": surface.name, "flags": ["rdonly", "nonblock"]}),
    ]
    return open_both, [attempt("close", 0), attempt("close", 1)], "A device is held open."


def held_by(surface: Surface) -> tuple[str, str, str]:
    """Return the op of :func:`hold` that holds a surface, what it holds, and the state of that."""
    if is_mountable(surface):
        return "mount", f"a mount of {surface.name}", "there"
    if surface.kind is Kind.CONFIGFS:
        return "mkdir", f"a folder in {surface.name}", "there"
    if surface.kind is Kind.SOCKET:
        return "open_socket", f"a socket of {surface.name}", "open"
    return "open", surface.name, "open"


def use_in_order(group: Group) -> list[Step]:
    """Return the steps of somebody who does what can be done, always in the same order."""
    surface = group.surfaces[0]
    if group.kind in FILES:
        steps = [step for act in _file_acts(group.surfaces, random.Random(1)) for step in act]
        first, last = folders_of(group.surfaces)
        return [*first, *steps, *last]
    if surface.kind in (Kind.CHARACTER, Kind.BLOCK):
        rng = random.Random(1)
        opened = {"slot": 0, "path": surface.name, "flags": ["rdwr", "nonblock"]}
        acts = _device_acts(rng, (*surface.requests, *_KNOWN_REQUESTS))
        return [
            attempt("open", opened),
            *(step for act in acts for step in act),
            attempt("close", 0),
        ]
    if surface.kind is Kind.SOCKET:
        return _each_socket(group, random.Random(1))
    return use(group, random.Random(1), "o")


def use_whole(group: Group, rng: random.Random, tag: str) -> list[Step]:
    """Return the steps of somebody who leaves out nothing that can be done, in any order.

    Args:
        tag: as in :func:`use`.
    """
    surface = group.surfaces[0]
    before: list[Step] = []
    after: list[Step] = []
    if group.kind in FILES:
        before, after = folders_of(group.surfaces)
        acts = _file_acts(group.surfaces, rng)
    elif surface.kind in (Kind.CHARACTER, Kind.BLOCK):
        for how in ("wronly", "rdonly", "rdwr"):
            flags = {"slot": 0, "path": surface.name, "flags": [how, "nonblock"]}
            before += [attempt("close", 0), attempt("open", flags)]
        acts, after = _device_acts(rng, _requests(rng, surface)), [attempt("close", 0)]
    elif surface.kind is Kind.SOCKET:
        return _each_socket(group, rng)
    else:
        return use(group, rng, tag)
    rng.shuffle(acts)
    return [*before, *(step for act in acts for step in act), *after]


def use(group: Group, rng: random.Random, tag: str) -> list[Step]:
    """Return the steps of somebody who does some of what can be done.

    Args:
        tag: in the names of what is made, so that no two users make the same.
    """
    if group.kind in FILES:
        return _use_files(group.surfaces, rng)
    surface = group.surfaces[0]
    match surface.kind:
        case Kind.CHARACTER | Kind.BLOCK:
            return _use_device(surface, rng)
        case Kind.FILESYSTEM | Kind.DISK_FILESYSTEM:
            return _use_filesystem(surface, tag)
        case Kind.INTERFACE:
            return _use_interface(surface.name)
        case Kind.SOCKET:
            opens = _choose([[_open_socket(one)] for one in group.surfaces])
            acts = _choose(_socket_acts(surface, rng))
            return [opens, {"loop": 6, "do": [acts]}, attempt("close", 0)]
        case Kind.LINK:
            name = f"chk{tag}"
            link = _shell(f"ip link add name {name} type {surface.name}")
            return [link, *_use_interface(name), _shell(f"ip link del {name}")]
        case Kind.DEPENDENT:
            # Another user may be faster, and who unloads may come between.
            return [attempt("finit_module", f"/payload/{surface.name}.ko"), {"delay": 2000},
                    gone(surface.name)]  # fmt: skip
        case _:
            folder = f"{surface.name}/check{tag}"
            return [attempt("mkdir", folder), {"delay": 2000}, attempt("rmdir", folder)]


def _use_interface(name: str) -> list[Step]:
    """Return the steps of somebody who sends a packet through an interface and takes it down."""
    # Nobody answers: who waits for that is ended. In a scenario $$ stands for $.
    send = (
        f"exec >/dev/null 2>&1; ip addr add {_ADDRESS}/24 dev {name}; "
        f"ping -c 1 -W 1 -I {name} {_PEER} & sleep 0.01; kill $$!; wait; "
        f"ip addr del {_ADDRESS}/24 dev {name}"
    )
    return [attempt("ifup", name), _shell(send), attempt("ifdown", name)]


def _shell(command: str) -> Step:
    return attempt("exec", {"program": "/bin/sh", "args": ["-c", command]})


def _use_device(surface: Surface, rng: random.Random) -> list[Step]:
    acts = _device_acts(rng, _requests(rng, surface))
    opens = [
        [attempt("open", {"slot": 0, "path": surface.name, "flags": [how, "nonblock"]})]
        for how in ("rdwr", "rdwr", "rdonly", "wronly")
    ]
    return [_choose(opens), {"loop": 6, "do": [_choose(acts)]}, attempt("close", 0)]


def _device_acts(rng: random.Random, requests: Sequence[int]) -> list[list[Step]]:
    """Return what may be done with a device that is open in slot 0."""
    return [
        [attempt("read", {"slot": 0, "count": 200})],
        [attempt("write", {"slot": 0, "count": 200})],
        [attempt("pread", {"slot": 0, "offset": 0, "count": 4096})],
        [attempt("pwrite", {"slot": 0, "offset": rng.choice((0, 100, 4096)), "count": 4096})],
        [attempt("lseek", {"slot": 0, "offset": 0, "whence": "end"})],
        [attempt("poll", {"slot": 0, "events": ["in", "out"]})],
        [attempt("fsync", 0)],
        [
            attempt("mmap", {"map": 0, "slot": 0, "length": 4096}),
            attempt("touch", {"map": 0}),
            attempt("munmap", 0),
        ],
        [
            attempt("mmap", {"map": 0, "slot": 0, "length": 8192, "prot": ["read", "write"]}),
            attempt("touch", {"map": 0, "how": "write"}),
            attempt("munmap", 0),
        ],
        *([attempt("ioctl", {"slot": 0, "request": request, "arg": rng.choice((0, 1))}),
           attempt("ioctl", {"slot": 0, "request": request, "data": "abc"})]
          for request in requests),
    ]  # fmt: skip


def _open_socket(surface: Surface) -> Step:
    family, kind, protocol = socket_arguments(surface)
    asked = {"slot": 0, "family": family, "type": kind, "protocol": protocol}
    return attempt("open_socket", asked)


def _each_socket(group: Group, rng: random.Random) -> list[Step]:
    """Return the steps of somebody who does with each socket what can be done, in any order."""
    steps: list[Step] = []
    for one in group.surfaces:
        acts = _socket_acts(one, rng)
        rng.shuffle(acts)
        # What is shut down does nothing more.
        last = _call("shutdown", number=2)
        steps += [_open_socket(one), *(step for act in acts for step in act), last,
                  attempt("close", 0)]  # fmt: skip
    return steps


def _call(what: str, **fields: int | str) -> Step:
    return attempt("socket_call", {"slot": 0, "call": what, **fields})


def _socket_acts(surface: Surface, rng: random.Random) -> list[list[Step]]:
    """Return what may be done with a socket that is open in slot 0.

    Addresses are all zeros, so that nothing is sent to anybody else.
    """
    levels = (*_LEVELS, socket_arguments(surface)[2], rng.randrange(*_FAMILY_LEVELS))
    # An address of the usual length, and the longest: sizeof(struct sockaddr_storage).
    lengths = (16, 128)
    options = [
        [_call("setsockopt", level=level, number=option, data="\x01"),
         _call("getsockopt", level=level, number=option)]
        for level in dict.fromkeys(levels)
        for option in (rng.randrange(4), rng.randrange(4, 32))
    ]  # fmt: skip
    requests = dict.fromkeys((*_SOCKET_REQUESTS, *_requests(rng, surface)))
    return [
        *([_call(what, number=length)] for what in ("bind", "connect", "sendto")
          for length in lengths),
        [_call("listen", number=4), _call("accept")],
        [_call("send")],
        [_call("recvfrom")],
        [attempt("read", {"slot": 0, "count": 200})],
        [attempt("poll", {"slot": 0, "events": ["in", "out"]})],
        [_call("getsockname"), _call("getpeername")],
        [attempt("mmap", {"map": 0, "slot": 0, "length": 4096}), attempt("munmap", 0)],
        *options,
        *([attempt("ioctl", {"slot": 0, "request": request, "data": "abc"})]
          for request in requests),
    ]  # fmt: skip


def _requests(rng: random.Random, device: Surface) -> list[int]:
    """Return what a device is asked: what its module knows, what any may know, and by chance."""
    by_chance = [rng.choice(_KNOWN_REQUESTS), *(_request(rng) for _ in range(3))]
    return [*device.requests, *by_chance]


def _request(rng: random.Random) -> int:
    """Return an ioctl number as ``_IOC`` makes them: direction, size, type and number."""
    size = rng.choice((0, 4, 8, 16))
    direction = rng.randrange(1, 4) if size else 0
    kind = ord(rng.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    return direction << 30 | size << 16 | kind << 8 | rng.randrange(16)


def _choose(bodies: Sequence[Sequence[Step]]) -> Step:
    return {"choose": [{"do": list(body)} for body in bodies]}


def _use_files(files: Sequence[Surface], rng: random.Random) -> list[Step]:
    first, last = folders_of(files)
    return [*first, {"loop": 8, "do": [_choose(_file_acts(files, rng))]}, *last]


def folders_of(files: Iterable[Surface]) -> tuple[list[Step], list[Step]]:
    """Return the steps that make the folders some files of configfs are in, and that remove them.

    Files of other kinds are there by themselves.
    """
    pattern = re.compile(rf"(.*/{MADE_FOLDER})/.*")
    found = [match[1] for one in files if (match := pattern.fullmatch(one.name))]
    folders = list(dict.fromkeys(found))
    return [attempt("mkdir", one) for one in folders], [attempt("rmdir", one) for one in folders]


def _file_acts(files: Sequence[Surface], rng: random.Random) -> list[list[Step]]:
    """Return what may be done with each file."""
    acts: list[list[Step]] = []
    for one in files:
        if one.readable or not one.writable:
            opened = {"slot": 0, "path": one.name, "flags": ["rdonly", "nonblock"]}
            acts.append(
                [
                    attempt("open", opened),
                    attempt("read", {"slot": 0, "count": 4096}),
                    attempt("close", 0),
                ]
            )
        if one.writable:
            data = {"path": one.name, "data": rng.choice(_TEXTS)}
            acts.append([attempt("write_file", data)])
    return acts


def _use_filesystem(surface: Surface, tag: str) -> list[Step]:
    target = f"/mnt/{surface.slug}-{tag}"
    file, folder = f"{target}/file", f"{target}/folder"
    missing = ["EINVAL", "ENODEV", "ENOENT", "ENOMEM", "EBUSY", "EAGAIN", "EPERM", "ENOTBLK",
               "ENXIO", "EIO"]  # fmt: skip
    steps = [
        attempt("mkdir", target),
        # Without a mount the files would be the guest's own.
        attempt("mount", _mount(surface, target), stop_on=missing),
        attempt("open", {"slot": 0, "path": file, "flags": ["rdwr", "creat"]}),
        attempt("pwrite", {"slot": 0, "offset": 0, "count": 3000}),
        attempt("pread", {"slot": 0, "offset": 0, "count": 4096}),
        attempt("mkdir", folder),
        attempt("open", {"slot": 1, "path": target, "flags": ["rdonly", "directory"]}),
        attempt("readdir", {"slot": 1}),
        attempt("rename", {"from": file, "to": f"{target}/renamed"}),
        attempt("close", 0),
        attempt("close", 1),
        attempt("unlink", f"{target}/renamed"),
        attempt("rmdir", folder),
        attempt("umount", target),
    ]
    # A list of its own: a mount that fails ends it, and nothing else.
    return [{"loop": 1, "do": steps}]
