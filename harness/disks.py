# SPDX-License-Identifier: GPL-2.0-only
"""Disks in a guest, for filesystems that want one: a file in memory behind a loop device.

They are made by the guest's busybox, as steps of a scenario. Pure.
"""

from __future__ import annotations

import struct
from typing import Any, Final

Step = dict[str, Any]

_BLOCK: Final = 1024
_BLOCKS: Final = 512

# Version 1 of minix, names of 14 bytes: include/uapi/linux/minix_fs.h.
_MINIX_MAGIC: Final = 0x137F
_MINIX_INODES: Final = 32
_MINIX_LARGEST: Final = (7 + 512 + 512 * 512) * _BLOCK
#: Behind the boot block, the superblock, both maps and the inodes.
_MINIX_FIRST: Final = 5


def _minix() -> dict[int, bytes]:
    """Return an empty filesystem: offset on the disk → what is there; the rest is zero."""
    superblock = struct.pack(
        "<HHHHHHIHH", _MINIX_INODES, _BLOCKS, 1, 1, _MINIX_FIRST, 0, _MINIX_LARGEST, _MINIX_MAGIC,
        1,
    )  # fmt: skip
    root = struct.pack("<HHIIBB9H", 0o040755, 0, 32, 0, 0, 2, _MINIX_FIRST, *[0] * 8)
    entries = struct.pack("<H14sH14s", 1, b".", 1, b"..")
    used = bytes([0b11])
    parts = (superblock, used, used, root, entries)
    return {number * _BLOCK: part for number, part in enumerate(parts, start=1)}


#: Filesystem → how one is made on a file; each has a loop device of its own.
_MAKERS: Final[dict[str, str]] = {
    "msdos": "mkdosfs",
    "vfat": "mkdosfs",
    "ext2": "mke2fs -F",
    "minix": "",
}

#: Filesystems that a disk can be made for.
KNOWN: Final = tuple(_MAKERS)


def device(filesystem: str) -> str:
    """Return the block device that a filesystem of this name is on.

    Args:
        filesystem: one of :data:`KNOWN`.
    """
    return f"/dev/loop{KNOWN.index(filesystem)}"


def setup(filesystem: str) -> Step:
    """Return the step that makes a disk; where the kernel has no loop devices it makes none."""
    file = _file(filesystem)
    # Of one shell: each program that a guest starts takes its time.
    # Without holes: those that a user fills would be memory that each life takes.
    commands = [f"dd if=/dev/zero of={file} bs={_BLOCK} count={_BLOCKS} 2>/dev/null"]
    if filesystem == "minix":
        for offset, part in _minix().items():
            octal = "".join(f"\\{byte:03o}" for byte in part)
            commands.append(
                f"printf '{octal}' | dd of={file} bs=1 seek={offset} conv=notrunc 2>/dev/null"
            )
    else:
        commands.append(f"{_MAKERS[filesystem]} {file}")
    commands.append(f"losetup {device(filesystem)} {file}")
    return _shell(" && ".join(commands))


def teardown(filesystem: str) -> Step:
    """Return the step that takes the disk away again."""
    return _shell(f"losetup -d {device(filesystem)}; rm -f {_file(filesystem)}")


def _file(filesystem: str) -> str:
    return f"/tmp/disk-{filesystem}"


def _shell(command: str) -> Step:
    return {"exec": {"program": "/bin/sh", "args": ["-c", command]}, "expect": "any"}
