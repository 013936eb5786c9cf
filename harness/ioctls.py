# SPDX-License-Identifier: GPL-2.0-only
"""Requests for ``ioctl()`` that a module knows: read from its code.

A handler compares the request with numbers, and they stand in its instructions. What looks
like a number that ``_IOC()`` makes (include/uapi/asm-generic/ioctl.h) and is compared with
is one. A constant that only looks like it is one request more that the module must refuse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from harness import elf

#: More than a handler has, as a rule; what is beyond is left to chance.
MAX_REQUESTS: Final = 24

#: ``cmp imm32, %eax`` and ``cmp imm32, reg``: Intel's manual, volume 2, CMP. They may overlap
#: with what is no instruction, so each byte is the first of one that is looked at.
_COMPARES: Final = re.compile(rb"(?=(?:\x3d|\x81[\xf8-\xff])(.{4}))", re.DOTALL)
#: Nobody passes more by a pointer; _IOC_SIZEBITS would allow 16383.
_MAX_SIZE: Final = 4096


def looks_like_request(number: int) -> bool:
    """Return whether a number of 32 bits is one that ``_IOC()`` may have made."""
    direction, size, kind = number >> 30, number >> 16 & 0x3FFF, number >> 8 & 0xFF
    if not direction:
        return not size and chr(kind).isalnum() and chr(kind).isascii()
    return 0 < size <= _MAX_SIZE and kind > 0


def read_requests(ko: Path) -> tuple[int, ...]:
    """Return the requests that a module's code compares with, each once.

    Raises:
        UsageError: it cannot be read, or is no module.
    """
    return tuple(dict.fromkeys(_compared(ko)))[:MAX_REQUESTS]


def _compared(ko: Path) -> Iterator[int]:
    found = elf.load(ko)
    if found.machine != "x86-64":
        return
    with ko.open("rb") as file:
        for section in found.sections:
            if not section.executable:
                continue
            file.seek(section.offset)
            for match in _COMPARES.finditer(file.read(section.size)):
                number = int.from_bytes(match[1], "little")
                if looks_like_request(number):
                    yield number
