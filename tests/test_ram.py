# SPDX-License-Identifier: GPL-2.0-only
import struct
from pathlib import Path

import pytest

from harness.errors import GuestError
from harness.ram import open_ram

MIB = 1 << 20
LOW, HIGH = 0xFFFFFFFFA0000000, 0xFFFFFFFFA0004000


def image(folder: Path, words: dict[int, int], size: int = 16 * MIB) -> Path:
    """Write a memory with some words in it and holes elsewhere."""
    path = folder / "memory"
    with path.open("wb") as file:
        file.truncate(size)
        for at, value in words.items():
            file.seek(at)
            file.write(struct.pack("<Q", value))
    return path


def test_words_are_found_by_value_wherever_they_lie(tmp_path: Path) -> None:
    words = {0: LOW, 8: HIGH - 1, 5 * MIB: LOW + 8, 16 * MIB - 8: LOW + 16}
    others = {16: LOW - 1, 24: HIGH, 32: 0, 40: (1 << 64) - 1}
    with open_ram(image(tmp_path, words | others)) as ram:
        assert dict(ram.words_between(LOW, HIGH)) == words


def test_words_have_their_places(tmp_path: Path) -> None:
    with open_ram(image(tmp_path, {4: LOW << 32 & (1 << 64) - 1, 64 + 4: LOW})) as ram:
        assert ram.words_between(LOW, HIGH) == []


def test_words_of_several_values(tmp_path: Path) -> None:
    words = {8: 1, 4 * MIB: 0xFFFF888000001000, 4 * MIB + 8: 3, 8 * MIB: (1 << 64) - 1}
    with open_ram(image(tmp_path, words)) as ram:
        wanted = frozenset({1, (1 << 64) - 1, 77})
        assert dict(ram.words_equal(wanted)) == {8: 1, 8 * MIB: (1 << 64) - 1}
        assert ram.words_equal(frozenset()) == []


def test_what_lies_behind_the_end_is_left_out(tmp_path: Path) -> None:
    with open_ram(image(tmp_path, {}, size=MIB)) as ram:
        assert ram.size == MIB
        assert len(ram.read(MIB - 4, 16)) == 4
        assert ram.read(MIB, 16) == b""


def test_notes_for_debuggers_are_told_from_what_looks_like_them(tmp_path: Path) -> None:
    path = image(tmp_path, {}, size=MIB)
    notes = b"OSRELEASE=6.1.0-x\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=ffffffff81000000\n"
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"OSRELEASE=6.1.0-x\nand nothing else\0")
        file.seek(5000)
        file.write(notes + b"\0rest")
    with open_ram(path) as ram:
        assert ram.vmcoreinfo("6.1.0-x") == notes
        with pytest.raises(GuestError, match=r"no VMCOREINFO of kernel 6\.1\.0\n"):
            ram.vmcoreinfo("6.1.0")


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_memory_that_is_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").touch()
    with (
        pytest.raises(GuestError, match="the guest's memory is not there"),
        open_ram(tmp_path / name),
    ):
        pass
