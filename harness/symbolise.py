# SPDX-License-Identifier: GPL-2.0-only
"""Addresses in kernel reports to function, file and line, inlined frames included.

A report names a frame as ``function+0xoffset/0xsize``, with the module in brackets. The function
is looked up in the symbol table of the kernel or the module (the size tells apart static functions
that share a name), and the place in its DWARF. Code that was unloaded has no name: the kernel
prints the bare address, and it is named after the record of where each module lay in each of its
lives.

The result reads as syzbot's reports do: the place is put behind the frame, and the functions that
the compiler inlined there stand on lines of their own before it, marked ``[inline]``.
"""

from __future__ import annotations

import itertools
import os.path
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import elf, proc
from harness.deadline import Deadline

#: How long reading debug information may take in all, seconds.
LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class ModuleLife:
    """Where a module lay between one load and its unload."""

    name: str
    #: The module with its symbols and debug information.
    ko: Path
    #: Address and size of its core, as /proc/modules shows them.
    base: int
    size: int
    #: Which load of this module it was, from 1.
    load: int
    #: When it was unloaded, microseconds of the guest's clock; None while it is loaded.
    unloaded_us: int | None
    #: Addresses of its sections by name, where the guest was asked for them.
    sections: tuple[tuple[str, int], ...] = ()

    def holds(self, address: int) -> bool:
        return self.base <= address < self.base + self.size


def name_address(address: int, modules: Sequence[ModuleLife]) -> str | None:
    """``foo_exit+0x12/0x40 [foo, 3rd load, unloaded]``, or None where no module lay there.

    Raises:
        UsageError: the module's file cannot be read.
    """
    life = _find_life(address, modules, None)
    return _Files(None, modules).name(address, life) if life else None


def decode(
    text: str,
    *,
    vmlinux: Path | None,
    modules: Sequence[ModuleLife],
    deadline: Deadline | None = None,
) -> str:
    """A report's text with functions, files and lines.

    What cannot be resolved stays as it is.

    Raises:
        UsageError: ``vmlinux`` or a module's file is not what it should be.
        InfrastructureError: addr2line is missing or failed.
        DeadlineExceeded: it took longer than ``deadline``, or LIMIT_S.
    """
    files = _Files(vmlinux, modules)
    shift = _kaslr_shift(text)
    lines = [_name_bare(line, files, shift) for line in text.split("\n")]
    tokens = [_tokens(line, files) for line in lines]
    places = _read_places(
        {token.spot for line in tokens for token in line},
        files,
        deadline or Deadline.after(LIMIT_S),
    )
    return "\n".join(
        _annotate(line, found, places) for line, found in zip(lines, tokens, strict=True)
    )


def read_lines(
    ko: Path, spots: Sequence[tuple[str, int]], deadline: Deadline | None = None
) -> list[tuple[tuple[str, str], ...]]:
    """Functions and ``file:line`` of places in a module's code, the innermost function first.

    Args:
        spots: section and offset in it; an instruction's own, not the one behind a call.

    Raises:
        InfrastructureError: addr2line is missing or failed.
        DeadlineExceeded: it took longer than ``deadline``, or LIMIT_S.
    """
    asked = [_Spot(ko, section, value) for section, value in spots]
    places = _read_places(set(asked), _Files(None, ()), deadline or Deadline.after(LIMIT_S))
    return [tuple((place.function, place.where) for place in places[spot]) for spot in asked]


def count_fitting(text: str, vmlinux: Path) -> tuple[int, int]:
    """How many of a report's frames name a function of a kernel, and of how many the size fits.

    A kernel that did not print the report knows most names, but few have its sizes.

    Raises:
        UsageError: ``vmlinux`` cannot be read, or is no ELF file with a symbol table.
    """
    by_name = elf.load(vmlinux).by_name
    frames = {
        (match["func"], int(match["size"], 16))
        for match in _FRAME.finditer(text)
        if not match["module"] and match["func"] in by_name
    }
    fitting = [name for name, size in frames if any(s.span == size for s in by_name[name])]
    return len(frames), len(fitting)


# ---- from text to places in files ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Spot:
    """A place in a file's code; ``section`` is empty where ``value`` is an address."""

    path: Path
    section: str
    value: int


@dataclass(frozen=True, slots=True)
class _Place:
    """What debug information says: innermost function first."""

    function: str
    where: str


@dataclass(frozen=True, slots=True)
class _Token:
    """A frame in a line: ``line[start:end]``."""

    start: int
    end: int
    spot: _Spot
    #: The line is a frame that can be relied on, so inlined functions get lines of their own.
    is_frame: bool


_OFFSET = r"\+0x(?P<off>[0-9a-f]+)/0x(?P<size>[0-9a-f]+)"
# "[foo]", "[foo 0123abcd]" with CONFIG_STACKTRACE_BUILD_ID, "[foo, 3rd load, unloaded]" of ours.
_IN_MODULE = (
    r"(?: \[(?P<module>[A-Za-z_][\w-]*)"
    r"(?:, (?P<load>\d+)(?:st|nd|rd|th) load[^\]]*| [0-9a-f]+)?\])?"
)
_FRAME = re.compile(rf"(?<![\w.])(?P<func>[A-Za-z_][\w.$]*){_OFFSET}{_IN_MODULE}")
# A frame or program counter without a name; the rest of the line must not be hexadecimal too,
# or it is a dump of memory or registers.
_BARE = re.compile(
    r"(?P<head>(?:^|\])\s+(?:\? )?(?:\[<[^>]+>\] )?(?:\? )?"
    r"|RIP: 0010:(?:\[<[0-9a-f]+>\] {1,2})?|(?:PC is at|pc :) (?:\[<)?"
    r"|, kernel paging request at |for address: |paging request at (?:virtual address )?)"
    r"(?P<addr>0x[0-9a-f]{8,16}|(?<=address: )[0-9a-f]{8,16}|(?<= at )[0-9a-f]{8,16})(?=\s*$)"
)
_STACK_LINE = re.compile(
    r"^(?:<\d+>)?(?:\[[\s\d.]+\])?(?:\[\s*[TC]\d+\])?\s+(?:\? )?(?:\[<[^>]+>\] )?(?:\? )?$"
)
_PC_LINE = re.compile(r"(?:RIP: \d+:|PC is at |pc : |NIP \[[0-9a-f]+\] |epc : )$")
_STAMP = re.compile(r"\[\s*(\d+)\.(\d{6})\]")
_KASLR = re.compile(r"Kernel Offset: 0x([0-9a-f]+)")


def _kaslr_shift(text: str) -> int:
    found = _KASLR.search(text)
    return int(found[1], 16) if found else 0


_ENDINGS = {1: "st", 2: "nd", 3: "rd"}


def _ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``3rd``, ``11th``."""
    last = number % 10 if number // 10 % 10 != 1 else 0
    return f"{number}{_ENDINGS.get(last, 'th')}"


def _printed_us(line: str) -> int | None:
    stamp = _STAMP.search(line)
    return int(stamp[1]) * 1_000_000 + int(stamp[2]) if stamp else None


def _find_life(
    address: int, modules: Sequence[ModuleLife], printed_us: int | None
) -> ModuleLife | None:
    """The life that an address belongs to: the last one that was over when it was printed."""
    lives = [life for life in modules if life.holds(address)]
    over = [life for life in lives if life.unloaded_us is not None]
    if printed_us is not None:
        # The clocks of printk and of the executor may differ a little.
        over = [life for life in over if (life.unloaded_us or 0) <= printed_us + 1000] or over
    over.sort(key=lambda life: (life.unloaded_us or 0, life.load))
    return (over or lives)[-1] if lives else None


class _Files:
    """The kernel and the modules, each file read once."""

    def __init__(self, vmlinux: Path | None, modules: Sequence[ModuleLife]) -> None:
        self.vmlinux = vmlinux
        self.modules = modules
        self._loaded: dict[Path, elf.Elf] = {}

    def load(self, path: Path) -> elf.Elf:
        if path not in self._loaded:
            self._loaded[path] = elf.load(path)
        return self._loaded[path]

    def name(self, address: int, life: ModuleLife, printed_us: int | None = None) -> str:
        """Name an address in a module's life, and say how long ago that was over."""
        state = "loaded" if life.unloaded_us is None else "unloaded"
        if life.unloaded_us is not None and printed_us is not None:
            # The clocks of printk and of the executor may differ a little.
            state += f" {max(0, printed_us - life.unloaded_us) / 1000:.0f} ms before"
        suffix = f"[{life.name}, {_ordinal(life.load)} load, {state}]"
        file = self.load(life.ko)
        for index, start in text_layout(file):
            offset = address - life.base - start
            if 0 <= offset < file.sections[index].size:
                symbol = file.find(index, offset)
                if symbol is not None:
                    return f"{symbol.name}+{offset - symbol.value:#x}/{symbol.span:#x} {suffix}"
        return f"{life.name}+{address - life.base:#x}/{life.size:#x} {suffix}"

    def name_kernel(self, address: int) -> str | None:
        """Name an address in the kernel's own text."""
        if self.vmlinux is None:
            return None
        file = self.load(self.vmlinux)
        for index, section in enumerate(file.sections):
            if section.executable and 0 <= address - section.address < section.size:
                symbol = file.find(index, address)
                if symbol is not None:
                    return f"{symbol.name}+{address - symbol.value:#x}/{symbol.span:#x}"
        return None

    def spot(self, match: re.Match[str], *, is_return: bool) -> _Spot | None:
        """Where a frame lies; None for one that is not known, or could be several."""
        path = self.vmlinux
        if match["module"]:
            lives = [life for life in self.modules if life.name == match["module"]]
            if match["load"]:
                lives = [life for life in lives if life.load == int(match["load"])]
            path = lives[-1].ko if lives else None
        if path is None:
            return None
        file = self.load(path)
        offset, size = int(match["off"], 16), int(match["size"], 16)
        symbols = file.by_name.get(match["func"], ())
        fitting = [s for s in symbols if s.span == size] or [s for s in symbols if offset < s.span]
        if len({(s.section, s.value) for s in fitting}) != 1:
            return None
        # A return address is that of the next instruction, which may be another line.
        value = fitting[0].value + offset - (1 if is_return and offset else 0)
        section = file.sections[fitting[0].section].name if file.relocatable else ""
        return _Spot(path, section, value)


def text_layout(file: elf.Elf) -> list[tuple[int, int]]:
    """Executable sections of a module and their offsets in its core.

    The kernel's ``layout_sections()`` (kernel/module/main.c) lays them out first, in the order of
    the file, each aligned; sections whose name begins with ``.init`` go elsewhere and are freed.
    """
    layout = []
    end = 0
    for index, section in enumerate(file.sections):
        if section.executable and not section.name.startswith(".init"):
            end = -(-end // section.align) * section.align
            layout.append((index, end))
            end += section.size
    return layout


def _name_bare(line: str, files: _Files, shift: int) -> str:
    """Give the bare address of a frame its name, and say how long the code had been gone."""
    match = _BARE.search(line)
    if match is None:
        return line
    address = int(match["addr"], 16)
    printed_us = _printed_us(line)
    life = _find_life(address, files.modules, printed_us)
    name = files.name(address, life, printed_us) if life else files.name_kernel(address - shift)
    if name is None:
        return line
    if "address" in match["head"] or "request" in match["head"]:
        return f"{line} ({name})"
    return line[: match.start("addr")] + name


def _tokens(line: str, files: _Files) -> list[_Token]:
    tokens = []
    for match in _FRAME.finditer(line):
        before = line[: match.start()]
        is_pc = _PC_LINE.search(before) is not None
        is_exact = is_pc or "WARNING" in before or before.endswith("(")
        spot = files.spot(match, is_return=not is_exact)
        if spot is not None:
            is_stack = _STACK_LINE.match(before) is not None and "?" not in before
            tokens.append(_Token(match.start(), match.end(), spot, is_pc or is_stack))
    return tokens


# ---- from places in files to lines --------------------------------------------------------------


def _read_places(
    spots: set[_Spot], files: _Files, deadline: Deadline
) -> dict[_Spot, tuple[_Place, ...]]:
    """Look all spots up, with one run of addr2line for each file and section."""
    groups: dict[tuple[Path, str], list[_Spot]] = {}
    for spot in sorted(spots, key=lambda spot: (str(spot.path), spot.section, spot.value)):
        groups.setdefault((spot.path, spot.section), []).append(spot)
    roots = _source_roots(files, deadline) if groups else ()
    places: dict[_Spot, tuple[_Place, ...]] = {}
    for (path, section), members in groups.items():
        values = [spot.value for spot in members]
        answers = _addr2line(path, section, values, deadline)
        known = (*roots, *_module_roots(answers, roots, path))
        for spot, answer in zip(members, answers, strict=True):
            places[spot] = tuple(
                _Place(place.function, _shorten(place.where, known)) for place in answer
            )
    return places


def _addr2line(
    path: Path, section: str, values: Sequence[int], deadline: Deadline
) -> list[tuple[_Place, ...]]:
    tool = proc.require_program("addr2line", "binutils")
    argv = [str(tool), "--functions", "--inlines", "--addresses", "--exe", str(path)]
    if section:
        argv += ["--section", section]
    asked = "".join(f"{value:#x}\n" for value in values).encode()
    done = proc.run(argv, deadline=deadline, input=asked)
    answers: list[list[_Place]] = []
    lines = iter(done.stdout.decode(errors="backslashreplace").splitlines())
    for line in lines:
        if line.startswith("0x"):
            answers.append([])
        elif answers:
            where = re.sub(r" \(discriminator \d+\)$", "", next(lines, "??:0"))
            if not where.startswith("??") and not where.endswith((":0", ":?")):
                answers[-1].append(_Place(line, where))
    return [tuple(answer) for answer in answers]


# Functions whose places tell the folders of the kernel's sources: those of C files and those of
# assembly may be named differently in one and the same kernel.
_LANDMARKS = {
    "start_kernel": "init/main.c",
    "kernel_init": "init/main.c",
    "entry_SYSCALL_64": "arch/x86/entry/entry_64.S",
}


def _source_roots(files: _Files, deadline: Deadline) -> tuple[str, ...]:
    """The folders of the kernel's sources, as its debug information names them."""
    if files.vmlinux is None:
        return ()
    by_name = files.load(files.vmlinux).by_name
    asked = [(by_name[name][0].value, end) for name, end in _LANDMARKS.items() if name in by_name]
    answers = _addr2line(files.vmlinux, "", [value for value, _ in asked], deadline)
    roots = set()
    for (_, end), places in zip(asked, answers, strict=True):
        for place in places:
            where = os.path.normpath(place.where.rpartition(":")[0])
            if where.endswith("/" + end):
                roots.add(where.removesuffix(end))
    return tuple(sorted(roots))


def _module_roots(
    answers: Iterable[Iterable[_Place]], roots: Iterable[str], path: Path
) -> tuple[str, ...]:
    """The folders that hold a module's sources, as its debug information names them.

    A module may have been built elsewhere; its sources lie, as a rule, in a folder of its name.
    """
    found = {f"{os.path.abspath(path.parent)}/"}
    own = path.name.partition(".ko")[0]
    for place in itertools.chain.from_iterable(answers):
        where = os.path.normpath(place.where)
        if os.path.isabs(where) and not where.startswith((*roots, *found)):
            for folder in (own, own.replace("_", "-")):
                before, slash, _ = where.rpartition(f"/{folder}/")
                if slash and before:
                    found.add(f"{before}/")
    return tuple(sorted(found, key=len, reverse=True))


def _shorten(where: str, roots: Iterable[str]) -> str:
    """A place relative to the sources that it belongs to."""
    name, _, line = where.rpartition(":")
    name = os.path.normpath(name)
    for prefix in roots:
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    return f"{name}:{line}"


def _annotate(line: str, tokens: Iterable[_Token], places: dict[_Spot, tuple[_Place, ...]]) -> str:
    """Put places behind the frames of a line, and inlined functions before it."""
    inlined: list[str] = []
    pieces = []
    at = 0
    for token in tokens:
        found = places.get(token.spot, ())
        if not found:
            continue
        pieces += [line[at : token.end], " ", found[-1].where]
        at = token.end
        if token.is_frame:
            prefix = re.sub(r"\[<[^>]+>\] *", "", line[: token.start])
            inlined += [f"{prefix}{place.function} {place.where} [inline]" for place in found[:-1]]
    return "\n".join([*inlined, "".join([*pieces, line[at:]])])
