# SPDX-License-Identifier: GPL-2.0-only
import struct
from pathlib import Path

from harness.mempages import walk
from harness.ram import open_ram

TOP, UPPER, MIDDLE, LAST = 0x1000, 0x2000, 0x3000, 0x4000
PRESENT, LARGE = 0x1, 0x80
#: Where vmalloc() begins: entry 402 of the top table, 0 of all below it.
BASE = 0xFFFFC90000000000
SIZE = 1 << 30


def entry(memory: bytearray, table: int, index: int, value: int) -> None:
    struct.pack_into("<Q", memory, table + 8 * index, value)


def pages(folder: Path, memory: bytearray, low: int, high: int, levels: int = 4) -> dict[int, int]:
    path = folder / "memory"
    with path.open("wb") as file:
        file.write(memory)
        file.truncate(64 << 20)
    with open_ram(path) as ram:
        return dict(walk(ram, TOP, low, high, levels=levels))


def tables() -> bytearray:
    memory = bytearray(0x5000)
    entry(memory, TOP, 402, UPPER | PRESENT)
    entry(memory, UPPER, 0, MIDDLE | PRESENT)
    entry(memory, MIDDLE, 0, LAST | PRESENT)
    return memory


def test_page_has_the_address_that_leads_to_it(tmp_path: Path) -> None:
    memory = tables()
    # The bit that forbids execution, and the one that says it was written to.
    entry(memory, LAST, 5, 1 << 63 | 0x7000 | 0x40 | PRESENT)
    entry(memory, LAST, 6, 0x8000)
    assert pages(tmp_path, memory, BASE, BASE + SIZE) == {7: BASE + 0x5000}


def test_large_page_is_many_small_ones(tmp_path: Path) -> None:
    memory = tables()
    entry(memory, MIDDLE, 3, 0x400000 | LARGE | PRESENT)
    found = pages(tmp_path, memory, BASE, BASE + SIZE)
    assert len(found) == 512
    assert found[0x400] == BASE + 3 * 0x200000
    assert found[0x5FF] == BASE + 3 * 0x200000 + 0x1FF000


def test_what_is_outside_of_the_range_or_of_memory_is_left_out(tmp_path: Path) -> None:
    memory = tables()
    entry(memory, LAST, 0, 0x7000 | PRESENT)
    entry(memory, LAST, 9, 0x8000 | PRESENT)
    entry(memory, LAST, 10, 0xFEE00000 | PRESENT)
    assert pages(tmp_path, memory, BASE + 0x1000, BASE + SIZE) == {8: BASE + 0x9000}


def test_fifth_level_is_above_the_others(tmp_path: Path) -> None:
    """Where modules are: the last entry of each of the two top tables."""
    memory = tables()
    entry(memory, TOP, 402, 0)
    entry(memory, TOP, 511, UPPER | PRESENT)
    entry(memory, UPPER, 0, 0)
    entry(memory, UPPER, 511, MIDDLE | PRESENT)
    entry(memory, MIDDLE, 0, 0)
    entry(memory, MIDDLE, 510, LAST | PRESENT)
    entry(memory, LAST, 256, 0x400000 | LARGE | PRESENT)
    found = pages(tmp_path, memory, 0xFFFFFFFFA0000000, 0xFFFFFFFFFF000000, levels=5)
    assert min(found.values()) == 0xFFFFFFFFA0000000
    assert found[0x400] == 0xFFFFFFFFA0000000
    assert len(found) == 512
