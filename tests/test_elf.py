# SPDX-License-Identifier: GPL-2.0-only
import struct
from pathlib import Path

import pytest

from harness import elf, proc
from harness.deadline import Deadline
from harness.errors import UsageError

SOURCE = """
static int helper(int x) { return x + 1; }
int first(int x) { return helper(x) * 3; }
__attribute__((section(".exit.text"))) int leave(int x) { return x - 1; }
int second(int x) { return x * 2; }
"""


def compile_object(folder: Path, *options: str, source: str = SOURCE, name: str = "a") -> Path:
    """Compile an object file without linking it, like a module."""
    (folder / f"{name}.c").write_text(source)
    out = folder / f"{name}.o"
    argv = ["gcc", "-g", "-O1", "-c", *options, "-o", str(out), str(folder / f"{name}.c")]
    proc.run(argv, deadline=Deadline.after(60))
    return out


def test_functions_are_found_by_name_and_by_place(tmp_path: Path) -> None:
    file = elf.load(compile_object(tmp_path))
    assert file.relocatable
    (second,) = file.by_name["second"]
    assert file.sections[second.section].name == ".text"
    assert file.find(second.section, second.value) == second
    assert file.find(second.section, second.value + second.span - 1) == second
    assert file.find(second.section, second.value + 10_000) is None
    assert file.find(99, 0) is None


def test_file_of_a_variable_whose_name_is_anothers_too(tmp_path: Path) -> None:
    text = "static int alg[4]; int *{0}(void) {{ return alg; }} int of_{0};"
    objects = [
        compile_object(tmp_path, source=text.format(name), name=name) for name in ("one", "two")
    ]
    linked = tmp_path / "linked"
    argv = ["gcc", "-nostdlib", "-static", "-Wl,-e,0", "-o", str(linked), *map(str, objects)]
    proc.run(argv, deadline=Deadline.after(60))
    shown = proc.run(["nm", str(linked)], deadline=Deadline.after(60)).stdout.decode().split("\n")
    places = {line[19:]: [] for line in shown if line}  # type: dict[str, list[int]]
    for line in filter(None, shown):
        places[line[19:]].append(int(line[:16], 16))
    files = {elf.find_file(linked, "alg", value) for value in places["alg"]}
    assert files == {"one.c", "two.c"}
    # Of all files, and not there.
    assert elf.find_file(linked, "of_one", places["of_one"][0]) is None
    assert elf.find_file(linked, "alg", places["of_one"][0]) is None
    (tmp_path / "no").write_text("no")
    with pytest.raises(UsageError, match="not an ELF file"):
        elf.find_file(tmp_path / "no", "alg", 0)


def test_span_reaches_to_the_next_function(tmp_path: Path) -> None:
    file = elf.load(compile_object(tmp_path))
    text = sorted(
        (s for s in file.by_section[file.by_name["first"][0].section]), key=lambda s: s.value
    )
    assert [a.value + a.span for a in text[:-1]] == [b.value for b in text[1:]]
    assert text[-1].value + text[-1].span == file.sections[text[-1].section].size


def test_what_others_have_is_undefined_and_a_section_can_be_read(tmp_path: Path) -> None:
    source = 'int out(void); const char about[] __attribute__((section(".modinfo"))) = "a=b";' \
        "int f(void) { return out(); }"  # fmt: skip
    path = compile_object(tmp_path, source=source)
    assert elf.load(path).undefined == {"out"}
    assert elf.read_section(path, ".modinfo") == b"a=b\0"
    assert elf.read_section(path, ".nothing") == b""
    path.write_bytes(b"no object")
    with pytest.raises(UsageError, match="not an ELF file"):
        elf.read_section(path, ".modinfo")


def test_each_section_has_its_own_functions(tmp_path: Path) -> None:
    file = elf.load(compile_object(tmp_path))
    (leave,) = file.by_name["leave"]
    assert file.sections[leave.section].name == ".exit.text"
    assert leave.value == 0


def test_names_that_several_share_are_all_kept(tmp_path: Path) -> None:
    one = compile_object(tmp_path, name="one")
    two = compile_object(
        tmp_path, name="two", source="static int __attribute__((noinline, used)) helper(void)"
        "{ return 7; } int main(void) { return helper(); }"
    )  # fmt: skip
    compile_object(tmp_path, "-fno-inline", name="one")
    linked = tmp_path / "linked"
    proc.run(["gcc", "-o", str(linked), str(one), str(two)], deadline=Deadline.after(60))
    file = elf.load(linked)
    assert not file.relocatable
    assert len(file.by_name["helper"]) == 2


def test_same_file_is_read_once(tmp_path: Path) -> None:
    path = compile_object(tmp_path)
    assert elf.load(path) is elf.load(path)


def test_32_bit_file_of_the_other_byte_order_is_read(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(_big_endian_32())
    file = elf.load(path)
    assert file.by_name["f"][0].value == 0x10
    assert file.by_name["f"][0].span == 0x30


def _big_endian_32() -> bytes:
    """An ELF file with one function ``f`` at 0x10 in a .text of 0x40 bytes."""
    names = b"\0.text\0.symtab\0.strtab\0"
    strings = b"\0f\0"
    symbols = struct.pack(">IIIBBH", 1, 0x10, 0, 2, 0, 1)
    at = 52
    bodies = [(strings, 3), (symbols, 2), (names, 3)]
    offsets = []
    for body, _ in bodies:
        offsets.append(at)
        at += len(body)
    sections = [
        (0,) * 10,
        (1, 1, elf.SHF_ALLOC | elf.SHF_EXECINSTR, 0, 0, 0x40, 0, 0, 16, 0),
        (7, 2, 0, 0, offsets[1], len(symbols), 3, 0, 4, 16),
        (15, 3, 0, 0, offsets[0], len(strings), 0, 0, 1, 0),
        (15, 3, 0, 0, offsets[2], len(names), 0, 0, 1, 0),
    ]
    header = b"\x7fELF\x01\x02\x01" + bytes(9)
    header += struct.pack(">HHIIIIIHHHHHH", 1, 8, 1, 0, 0, at, 0, 52, 0, 0, 40, 5, 4)
    table = b"".join(struct.pack(">10I", *section) for section in sections)
    return header + b"".join(body for body, _ in bodies) + table


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"#!/bin/sh\n", "not an ELF file"),
        (b"\x7fELF\x02\x01", "not a complete ELF file"),
        (b"\x7fELF\x02\x01\x01" + b"\xff" * 57, "not a complete ELF file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        elf.load(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        elf.load(tmp_path / "absent")


def test_stripped_file_is_refused(tmp_path: Path) -> None:
    path = compile_object(tmp_path)
    proc.run(["strip", str(path)], deadline=Deadline.after(60))
    with pytest.raises(UsageError, match="no symbol table"):
        elf.load(path)


def test_variables_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    source = "int kept = 3; static int zero[4]; int *get(void) { return zero; }"
    path = compile_object(tmp_path, source=source)
    assert "kept" not in elf.load(path).by_name
    file = elf.load_all(path)
    places = {
        name: file.sections[file.by_name[name][0].section].name for name in ("kept", "zero", "get")
    }
    assert places == {"kept": ".data", "zero": ".bss", "get": ".text"}
    (zero,) = file.by_name["zero"]
    assert file.find(zero.section, zero.value + 15) == zero
