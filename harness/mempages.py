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
#: Address bits below an entry of the top one of four levels.
_TOP_SHIFT: Final = 39
_ENTRIES: Final = struct.Struct("<512Q")


def walk(ram: Ram, top: int, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Yield frame and address of each page that a range of the kernel's addresses has.

    Args:
        top: physical address of the table of the highest level, one of four.
    """
    yield from _walk(ram, top, _TOP_SHIFT, 0, low, high)


def _walk(
    ram: Ram, table: int, shift: int, base: int, low: int, high: int
) -> Iterator[tuple[int, int]]:
    for index, entry in enumerate(_ENTRIES.unpack(ram.read(table, PAGE_SIZE))):
        if not entry & _PRESENT:
            continue
        address = base | index << shift
        if shift == _TOP_SHIFT and index >= 256:
            # The upper half of addresses has all bits above set.
            address |= 0xFFFF000000000000
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
