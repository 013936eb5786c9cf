# SPDX-License-Identifier: GPL-2.0-only
"""Sections and function symbols of ELF files: kernels and modules, 32 and 64 bits, both orders.

Only what naming an address needs; the rest of an object's debug information is binutils' matter.
Layouts follow the System V ABI, chapters "ELF Header", "Sections" and "Symbol Table".
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import UsageError

SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 0x1, 0x2, 0x4
_SHT_SYMTAB = 2
_SHN_UNDEF = 0
_STT_NOTYPE, _STT_OBJECT, _STT_FUNC, _STT_FILE = 0, 1, 2, 4
_STB_LOCAL = 0
_ET_REL = 1
_MACHINES = {3: "i386", 40: "arm", 62: "x86-64", 183: "aarch64", 243: "riscv"}


@dataclass(frozen=True, slots=True)
class Section:
    """A section: ``address`` is 0 in relocatable files."""

    name: str
    flags: int
    address: int
    size: int
    align: int
    #: Where its bytes begin in the file.
    offset: int

    @property
    def executable(self) -> bool:
        return self.flags & (SHF_ALLOC | SHF_EXECINSTR) == SHF_ALLOC | SHF_EXECINSTR


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function. ``value`` is an address, or an offset in its section in relocatable files."""

    name: str
    value: int
    #: Distance to the next function of the section, as kallsyms counts it.
    span: int
    section: int


@dataclass(frozen=True, slots=True)
class Elf:
    """What an ELF file says about its functions."""

    path: Path
    #: What its code is for, such as ``x86-64``; the number of an unknown machine.
    machine: str
    relocatable: bool
    sections: tuple[Section, ...]
    #: Functions by name; static ones of several files may share it.
    by_name: dict[str, tuple[Symbol, ...]] = field(repr=False)
    #: Functions of each executable section, by value.
    by_section: dict[int, tuple[Symbol, ...]] = field(repr=False)
    #: What a relocatable file needs of others.
    undefined: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def has_debug_information(self) -> bool:
        """Whether it holds DWARF, plain or compressed."""
        return any(section.name in (".debug_info", ".zdebug_info") for section in self.sections)

    def find(self, section: int, value: int) -> Symbol | None:
        """The function that holds ``value``, or None."""
        symbols = self.by_section.get(section, ())
        at = bisect.bisect_right(symbols, value, key=lambda symbol: symbol.value) - 1
        if at < 0 or value >= symbols[at].value + symbols[at].span:
            return None
        return symbols[at]


def load(path: Path) -> Elf:
    """Read sections and functions of a file; the last few are remembered.

    Raises:
        UsageError: it cannot be read, or is no ELF file with a symbol table.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    return _load(path, state.st_mtime_ns, state.st_size)


def load_all(path: Path) -> Elf:
    """Like :func:`load`, with the variables beside the functions: for modules, which are small.

    Raises:
        UsageError: it cannot be read, or is no ELF file with a symbol table.
    """
    state = load(path).path.stat()
    return _load(path, state.st_mtime_ns, state.st_size, variables=True)


def read_section(path: Path, name: str) -> bytes:
    """Return the bytes of a section, or none where a file has no section of that name.

    Raises:
        UsageError: it cannot be read, or is no ELF file.
    """
    with _open(path) as data:
        for section in _head(path, data).sections:
            if section.name == name:
                return data[section.offset : section.offset + section.size]
    return b""


def find_file(path: Path, name: str, value: int) -> str | None:
    """Return the source file of a symbol that several files may have, without its folder.

    None for what is not there, and for what is not a file's own: a table has the name of each
    file before its local symbols.

    Raises:
        UsageError: it cannot be read, or is no ELF file.
    """
    with _open(path) as data:
        head = _head(path, data)
        table = _symbol_table(head)
        if table is None:
            return None
        strings = head.headers[table[6]][4]
        entries, (name_at, value_at, info_at, _) = _entries(data, table, _form(head))
        at = None
        for fields in entries:
            kind, binding = fields[info_at] & 0xF, fields[info_at] >> 4
            if kind == _STT_FILE:
                at = fields[name_at]
                continue
            if fields[value_at] != value or binding != _STB_LOCAL or at is None:
                continue
            if _string(data, strings + fields[name_at]) == name:
                return _string(data, strings + at) or None
    return None


# A kernel's symbol table takes a third of a second to read, and each report needs it.
@functools.lru_cache(maxsize=8)
def _load(path: Path, mtime_ns: int, size: int, variables: bool = False) -> Elf:
    with _open(path) as data:
        return _parse(path, data, variables)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[mmap.mmap]:
    """Map a file for who reads it as ELF; what goes wrong is the file's fault."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    except (struct.error, IndexError, OverflowError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a complete ELF file: {error}") from error


@dataclass(frozen=True, slots=True)
class _Head:
    """What the headers of an ELF file say."""

    wide: bool
    #: Byte order, as :mod:`struct` has it.
    order: str
    kind: int
    machine: int
    #: Of each section, the fields in the file's order.
    headers: tuple[tuple[int, ...], ...]
    sections: tuple[Section, ...]


def _head(path: Path, data: mmap.mmap) -> _Head:
    if data[:4] != b"\x7fELF" or data[4] not in (1, 2) or data[5] not in (1, 2):
        raise UsageError(f"{path}: not an ELF file")
    wide = data[4] == 2
    order = "<" if data[5] == 1 else ">"
    kind, machine = struct.unpack_from(order + "HH", data, 16)
    offset = struct.unpack_from(order + ("Q" if wide else "I"), data, 40 if wide else 32)[0]
    size, count, names_at = struct.unpack_from(order + "HHH", data, 58 if wide else 46)
    layout = struct.Struct(order + ("IIQQQQIIQQ" if wide else "10I"))
    headers = tuple(layout.unpack_from(data, offset + n * size) for n in range(count))
    strings = headers[names_at][4]
    sections = tuple(
        Section(_string(data, strings + h[0]), h[2], h[3], h[5], h[8] or 1, h[4]) for h in headers
    )
    return _Head(wide, order, kind, machine, headers, sections)


def _parse(path: Path, data: mmap.mmap, variables: bool) -> Elf:
    head = _head(path, data)
    headers, sections, kind = head.headers, head.sections, head.kind
    table = _symbol_table(head)
    if table is None:
        raise UsageError(f"{path}: has no symbol table", hint="use the file that was not stripped")
    wanted = frozenset(
        n for n, section in enumerate(sections)
        if section.executable or (variables and section.flags & SHF_ALLOC)
    )  # fmt: skip
    kinds = (_STT_NOTYPE, _STT_OBJECT, _STT_FUNC) if variables else (_STT_NOTYPE, _STT_FUNC)
    strings_at = headers[table[6]][4]
    form = _form(head)
    symbols = _symbols(data, table, strings_at, wanted, kinds, form)
    by_section = _spans(symbols, sections, relocatable=kind == _ET_REL)
    undefined: frozenset[str] = frozenset()
    if kind == _ET_REL:
        needed = _symbols(data, table, strings_at, frozenset({_SHN_UNDEF}), (_STT_NOTYPE,), form)
        undefined = frozenset(symbol for symbol, _, _ in needed)
    by_name: dict[str, tuple[Symbol, ...]] = {}
    for members in by_section.values():
        for symbol in members:
            by_name[symbol.name] = (*by_name.get(symbol.name, ()), symbol)
    name = _MACHINES.get(head.machine, str(head.machine))
    return Elf(path, name, kind == _ET_REL, sections, by_name, by_section, undefined)


def _string(data: mmap.mmap, at: int) -> str:
    return data[at : data.find(b"\0", at)].decode()


# Layout of a symbol and the places of name, value, type and section in it.
_SYMBOL = {"64": ("IBBHQQ", (0, 4, 1, 3)), "32": ("IIIBBH", (0, 1, 3, 5))}


def _symbol_table(head: _Head) -> tuple[int, ...] | None:
    return next((header for header in head.headers if header[1] == _SHT_SYMTAB), None)


def _form(head: _Head) -> str:
    """Return the order and the width of a file's symbols."""
    return head.order + ("64" if head.wide else "32")


def _entries(
    data: mmap.mmap, table: tuple[int, ...], form: str
) -> tuple[Iterator[tuple[int, ...]], tuple[int, int, int, int]]:
    """Return a table's symbols, and where in one are its name, value, type and section."""
    layout, places = _SYMBOL[form[1:]]
    entry = struct.Struct(form[0] + layout)
    return entry.iter_unpack(
        data[table[4] : table[4] + table[5] // entry.size * entry.size]
    ), places


def _symbols(
    data: mmap.mmap, table: tuple[int, ...], strings: int, wanted: frozenset[int],
    kinds: tuple[int, ...], kind: str,
) -> list[tuple[str, int, int]]:  # fmt: skip
    """Name, value and section of each function; labels of assembly code are functions too."""
    entries, (name_at, value_at, info_at, section_at) = _entries(data, table, kind)
    found = []
    for fields in entries:
        if fields[section_at] in wanted and fields[info_at] & 0xF in kinds:
            name = _string(data, strings + fields[name_at])
            # The assembler's own labels are no functions, nor is what precedes one.
            if name and not name.startswith((".L", "__pfx_", "$")):
                found.append((name, fields[value_at], fields[section_at]))
    return found


def _spans(
    symbols: list[tuple[str, int, int]], sections: tuple[Section, ...], *, relocatable: bool
) -> dict[int, tuple[Symbol, ...]]:
    by_section: dict[int, tuple[Symbol, ...]] = {}
    grouped: dict[int, list[tuple[int, str]]] = {}
    for name, value, index in symbols:
        grouped.setdefault(index, []).append((value, name))
    for index, members in grouped.items():
        section = sections[index]
        end = section.size if relocatable else section.address + section.size
        members.sort()
        starts = [*sorted({value for value, _ in members}), end]
        by_section[index] = tuple(
            Symbol(name, value, starts[bisect.bisect_right(starts, value)] - value, index)
            for value, name in members
            if value < end
        )
    return by_section
