# SPDX-License-Identifier: GPL-2.0-only
"""Per-CPU memory: which variable is where for which processor, and what is allocated.

mm/percpu.c: a chunk has a unit for each processor; the first chunk begins with the kernel's
own per-CPU variables. A chunk's bitmap has a bit for each 4 bytes of a unit.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterator
from typing import Final

import drgn
from drgn import Object
from drgn.helpers.linux.list import list_for_each_entry

#: PCPU_MIN_ALLOC_SHIFT.
_BITS_SHIFT: Final = 2


class PerCpu:
    """The per-CPU memory of a kernel."""

    def __init__(self, prog: drgn.Program) -> None:
        self._prog = prog

    @functools.cached_property
    def _offsets(self) -> list[int]:
        count = int(self._prog["pcpu_nr_units"])
        return [int(self._prog["pcpu_unit_offsets"][unit]) for unit in range(count)]

    @functools.cached_property
    def _unit_size(self) -> int:
        return int(self._prog["pcpu_unit_size"])

    @functools.cached_property
    def _first(self) -> int:
        return int(self._prog["pcpu_base_addr"])

    @functools.cached_property
    def _symbols(self) -> list[tuple[int, int, str]]:
        """Address, size and name of each variable, as the image has it."""
        begin = self._prog.symbol("__per_cpu_start").address
        end = self._prog.symbol("__per_cpu_end").address
        return sorted(
            (symbol.address, symbol.size, symbol.name)
            for symbol in self._prog.symbols()
            if begin <= symbol.address < end and symbol.size
        )

    @functools.cached_property
    def _chunks(self) -> list[Object]:
        found = [self._prog["pcpu_first_chunk"], self._prog["pcpu_reserved_chunk"]]
        for name in ("pcpu_chunk_lists", "pcpu_slot"):
            try:
                lists = self._prog[name]
            except LookupError:
                continue
            for slot in range(int(self._prog["pcpu_nr_slots"])):
                head = lists + slot
                found += list_for_each_entry("struct pcpu_chunk", head, "list")
        return [chunk for chunk in found if chunk]

    def holds(self, address: int) -> bool:
        """Whether an address lies in some chunk."""
        return self._unit(self._first, address) is not None or self._find(address) is not None

    def find_symbol(self, address: int) -> tuple[int, str, int] | None:
        """Return the variable that holds an address, of whichever processor.

        Its address as debug information has it, its name, and where this one begins.
        """
        offset = self._unit(self._first, address)
        if offset is None:
            return None
        begin = self._prog.symbol("__per_cpu_start").address
        at = bisect.bisect_right(self._symbols, begin + offset, key=lambda symbol: symbol[0]) - 1
        if at < 0:
            return None
        known, size, name = self._symbols[at]
        inside = begin + offset - known
        return (known, name, address - inside) if inside < size else None

    def is_allocated(self, address: int) -> bool:
        """Whether somebody has been given the memory at an address."""
        found = self._find(address)
        if found is None:
            return False
        chunk, offset = found
        bit = offset >> _BITS_SHIFT
        return bool(int(chunk.alloc_map[bit // 64]) >> bit % 64 & 1)

    def variable(self, name: str) -> Iterator[Object]:
        """Yield a per-CPU variable of each processor; nothing where the kernel has none."""
        try:
            known = self._prog.variable(name)
        except LookupError:
            return
        begin = self._prog.symbol("__per_cpu_start").address
        for offset in self._offsets:
            at = self._first + offset + known.address_ - begin
            yield Object(self._prog, known.type_, address=at)

    def _find(self, address: int) -> tuple[Object, int] | None:
        for chunk in self._chunks:
            offset = self._unit(int(chunk.base_addr), address)
            if offset is not None:
                return chunk, offset
        return None

    def _unit(self, base: int, address: int) -> int | None:
        """Return how far an address lies in a unit of a chunk; None for outside."""
        for offset in self._offsets:
            if 0 <= address - base - offset < self._unit_size:
                return address - base - offset
        return None
