# SPDX-License-Identifier: GPL-2.0-only
"""Archives for the guest, the same bytes for the same content.

The kernel unpacks an initramfs and busybox a payload from the ``newc`` format
(kernel, Documentation/driver-api/early-userspace/buffer-format.rst). GNU cpio
would do, but it takes owners, times and inode numbers from files on disk.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive."""

    content: bytes
    #: Permission bits.
    mode: int = 0o644


def archive(entries: Mapping[str, Entry]) -> bytes:
    """Return a ``newc`` archive of files, their folders included.

    Args:
        entries: path relative to the root → file.
    """
    folders = {
        "/".join(parts[:depth])
        for parts in (name.split("/") for name in entries)
        for depth in range(1, len(parts))
    }
    members = [(name, b"", stat.S_IFDIR | 0o755) for name in folders]
    members += [(name, entry.content, stat.S_IFREG | entry.mode) for name, entry in entries.items()]
    # A folder sorts before what is in it.
    blocks = [
        _member(name, content, mode, number)
        for number, (name, content, mode) in enumerate(sorted(members), start=1)
    ]
    blocks.append(_member("TRAILER!!!", b"", 0, 0))
    return b"".join(blocks)


def _member(name: str, content: bytes, mode: int, inode: int) -> bytes:
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    numbers = (inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    return _padded(header + encoded) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
