# SPDX-License-Identifier: GPL-2.0-only
"""What QEMU saves of a stopped machine, made a function of what the machine did.

The stream has a section for each device and ends with a description of them all, names
and sizes of fields, as JSON (QEMU, docs/devel/migration.rst, "Stream structure").
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

from harness.errors import QemuError

#: What ends a section, before its number (``QEMU_VM_SECTION_FOOTER``, migration/savevm.h).
_FOOTER: Final = b"\x7e"

_BIAS: Final = "timer/icount.qemu_icount_bias"
_ICOUNT: Final = "timer/icount.qemu_icount"


def settle_clocks(stream: bytes, *, shift: int) -> bytes:
    """Return a saved state with nothing of the host's time in it.

    A guest that has stopped itself counts as idle until QEMU's main loop has stopped the
    machine, too. In an idle guest virtual time goes to the next timer at once (``-icount
    sleep=off``; icount_start_warp_timer(), softmmu/icount.c). Whether the main loop comes by
    for that is a race: two machines that did the same are apart by a part of a tick. Here
    time goes there always. No timer has run in the meantime, since where instructions are
    counted it is the stopped processor's thread that runs them.

    Args:
        shift: of ``-icount``: an instruction takes 2 to the power of it, ns.

    Raises:
        QemuError: it is no state of a machine with ``-icount`` and one processor.
    """
    description = _describe(stream)
    timer = _fields(stream, description, "timer")
    apic = _fields(stream, description, "apic")
    if _BIAS not in timer or "timer_expiry" not in apic:
        raise _strange("no instruction counter, or no timer")
    settled = bytearray(stream)
    passed = _read(stream, timer[_ICOUNT]) << shift
    now = _read(stream, timer[_BIAS]) + passed
    _write(settled, timer[_BIAS], max(now, _read(stream, apic["timer_expiry"])) - passed)
    # Of the host's clocks; nothing looks at them where instructions are counted.
    for name in ("cpu_ticks_offset", "cpu_clock_offset"):
        _write(settled, timer[name], 0)
    return bytes(settled)


def _describe(stream: bytes) -> Mapping[str, Any]:
    """Return the description at the end of a stream: device → what it says of it."""
    # Kind (the description), size.
    for found in re.finditer(rb"\x06(....)\{", stream, re.DOTALL):
        start = found.end() - 1
        (size,) = struct.unpack(">I", found[1])
        if start + size == len(stream):
            try:
                devices = json.loads(stream[start:])["devices"]
                return {one["name"]: one for one in devices if one["instance_id"] == 0}
            except (ValueError, KeyError, TypeError):
                break
    raise _strange("no description at its end")


def _fields(stream: bytes, description: Mapping[str, Any], name: str) -> dict[str, int]:
    """Return the plain fields of 8 bytes of a device: name → offset in the stream."""
    if name not in description:
        raise _strange(f"no {name}")
    said = description[name]
    # Kind (a device), number, name, instance 0, version.
    head = rb"\x04(....)%c%s\0{4}%s" % (
        len(name), re.escape(name.encode()), re.escape(struct.pack(">I", said["version"])),
    )  # fmt: skip
    for found in re.finditer(head, stream, re.DOTALL):
        offsets = dict(_walk(said, "", found.end()))
        # Names and numbers could be anywhere; what ends with its own number is a section.
        end = offsets.pop("")
        if stream[end : end + 5] == _FOOTER + found[1]:
            return offsets
    raise _strange(f"{name} is not as described")


def _walk(said: Mapping[str, Any], prefix: str, offset: int) -> Iterator[tuple[str, int]]:
    """Yield fields of 8 bytes with their offsets, and the end, under no name."""
    for field in said["fields"]:
        if field["size"] == 8 and "array_len" not in field:
            yield f"{prefix}{field['name']}", offset
        offset += field["size"] * field.get("array_len", 1)
    for below in said.get("subsections", ()):
        # Kind, length of the name, name, version.
        offset += 2 + len(below["vmsd_name"]) + 4
        for name, where in _walk(below, f"{below['vmsd_name']}.", offset):
            if name:
                yield name, where
            else:
                offset = where
    yield "", offset


def _read(stream: bytes, offset: int) -> int:
    return int(struct.unpack_from(">q", stream, offset)[0])


def _write(stream: bytearray, offset: int, value: int) -> None:
    struct.pack_into(">q", stream, offset, value)


def _strange(why: str) -> QemuError:
    return QemuError(
        f"QEMU saved a state that cannot be read: {why}",
        hint="the det lane is known to work with QEMU 7.2 and later",
    )
