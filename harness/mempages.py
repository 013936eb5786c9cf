# SPDX-License-Identifier: GPL-2.0-only
"""x86-64 page tables: which frame of memory has which address."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from harness.ram import Ram

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT

# Intel SDM, volume 3, chapter 4.5.
_PRESENT, _LARGE, _FRAME = 0x1, 0x80, 0x000FFFFFFFFFF000
_LEVEL_BITS: Final = 9
_ENTRIES: Final = struct.Struct("<512Q")


def walk(ram: Ram, top: int, low: int, high: int, *, levels: int = 4) -> Iterator[tuple[int, int]]:
    """Yield frame and address of each page that a range of the kernel's addresses has.

    Args:
        top: physical address of the table of the highest level.
    """
    shift = PAGE_SHIFT + _LEVEL_BITS * (levels - 1)
    # All bits above the highest that is used are set in the upper half of addresses.
    base = (1 << 64) - (1 << shift + _LEVEL_BITS)
    yield from _walk(ram, top, shift, base, low, high)


def _walk(
    ram: Ram, table: int, shift: int, base: int, low: int, high: int
) -> Iterator[tuple[int, int]]:
    for index, entry in enumerate(_ENTRIES.unpack(ram.read(table, PAGE_SIZE))):
        if not entry & _PRESENT:
            continue
        address = base | index << shift
        if address >= high or address + (1 << shift) <= low:
            continue
        target = entry & _FRAME
        # Devices have addresses, too.
        if target >= ram.size:
            continue
        if shift > PAGE_SHIFT and not entry & _LARGE:
            yield from _walk(ram, target, shift - _LEVEL_BITS, address, low, high)
            continue
        first = target >> shift << shift - PAGE_SHIFT
        for page in range(1 << shift - PAGE_SHIFT):
            yield first + page, address + (page << PAGE_SHIFT)
