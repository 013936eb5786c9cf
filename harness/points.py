# SPDX-License-Identifier: GPL-2.0-only
"""Points: where the instructions of a module begin, each with function and source line.

A module's file has its code as the compiler wrote it. The kernel patches some of
it at load (calls of ``__fentry__``, jump labels, alternatives, return thunks),
always within the bytes of an instruction or a run of them, so the boundaries that
stay are boundaries still; one that was patched over is merely never reached.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import capstone  # type: ignore[import-untyped]

from harness import elf, symbolise
from harness.deadline import Deadline
from harness.errors import UsageError

#: Code that the author of a module wrote. The compiler's own constructors, which
#: register globals with KASAN, lie in ``.text.startup`` and ``.text.exit``.
SECTIONS: Final = (".text", ".text.hot", ".text.unlikely", ".init.text", ".exit.text")

#: What stands between functions, and is never run.
_PADDING: Final = ("nop", "int3")

#: What functions begin with under ftrace (``-mfentry``), behind an ``endbr64`` if there
#: is one; the kernel makes it a no-operation at load. Other calls that are filled in at
#: load look the same: a call of what follows.
TRACER_CALL: Final = "call __fentry__"
_TRACER_OFFSETS: Final = (0, 4)
_CALL_BYTES: Final = 5

_TARGET: Final = re.compile(r"^(call|j[a-z]+) (?:0x)?[0-9a-f]+$")

_MACHINES: Final = {"x86-64": (capstone.CS_ARCH_X86, capstone.CS_MODE_64)}


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """The beginning of an instruction."""

    section: str
    #: Bytes from the section's start.
    value: int
    function: str
    #: Bytes from the function's start.
    offset: int
    #: The instruction as an assembler reads it; operands that are filled in at load are 0.
    text: str

    @property
    def name(self) -> str:
        """``function+0x12``, as plans and reports have it."""
        return f"{self.function}+{self.offset:#x}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instruction comes from."""

    #: ``file:line``, or nothing where debug information says nothing.
    line: str
    #: Functions that the compiler inlined there, the innermost first.
    inlined: tuple[str, ...] = ()


def find_points(ko: Path) -> tuple[Point, ...]:
    """The points of a module's file, in the order of the file.

    Raises:
        UsageError: it cannot be read, or is no module for a known machine.
    """
    file = elf.load(ko)
    if file.machine not in _MACHINES:
        known = ", ".join(_MACHINES)
        raise UsageError(f"{ko}: code for {file.machine}; what is understood is {known}")
    decoder = capstone.Cs(*_MACHINES[file.machine])
    # A byte that begins no instruction is left out, and decoding goes on behind it.
    decoder.skipdata = True
    content = ko.read_bytes()
    points: list[Point] = []
    for index, section in enumerate(file.sections):
        if section.executable and section.name in SECTIONS:
            code = content[section.offset : section.offset + section.size]
            points += _decode(decoder, file, index, code)
    return tuple(points)


def _decode(decoder: capstone.Cs, file: elf.Elf, index: int, code: bytes) -> list[Point]:
    section = file.sections[index]
    points: list[Point] = []
    symbols = file.by_section.get(index, ())
    for symbol in {symbol.value: symbol for symbol in symbols}.values():
        found = []
        # From each function anew: what lies between two need not be code.
        body = code[symbol.value : symbol.value + symbol.span]
        for address, _, mnemonic, operands in decoder.disasm_lite(body, symbol.value):
            if mnemonic != ".byte":
                text = f"{mnemonic} {operands}".strip()
                offset = address - symbol.value
                # capstone writes numbers below 10 without 0x.
                unfilled = (f"call {address + _CALL_BYTES:#x}", f"call {address + _CALL_BYTES}")
                if offset in _TRACER_OFFSETS and text in unfilled:
                    text = TRACER_CALL
                found.append(Point(section.name, address, symbol.name, offset, text))
        while found and found[-1].text.split(" ")[0] in _PADDING:
            found.pop()
        points += found
    return points


def find_point(points: Sequence[Point], function: str, offset: int) -> Point:
    """The point at an offset in a function.

    Raises:
        UsageError: there is none, or the module has several functions of that name.
    """
    name = f"{function}+{offset:#x}"
    inside = [point for point in points if point.function == function]
    if not inside:
        raise UsageError(f"{name}: the module has no function {function}")
    found = [point for point in inside if point.offset == offset]
    if len(found) > 1:
        raise UsageError(f"{name}: the module has {len(found)} functions called {function}")
    if not found:
        near = min(inside, key=lambda point: abs(point.offset - offset))
        raise UsageError(
            f"{name}: no instruction begins there", hint=f"the nearest one is {near.name}"
        )
    return found[0]


def find_counterpart(
    before: Sequence[Point], after: Sequence[Point], function: str, offset: int
) -> Point:
    """The point of a changed module that a point of the module before has become.

    It is the one at the same offset where that is the same instruction, and else the one that
    stands in its place among the instructions of the function that are as they were.

    Raises:
        UsageError: the function has gone, or nothing stands in that place.
    """
    old = find_point(before, function, offset)
    then = [point for point in before if point.function == function]
    now = [point for point in after if point.function == function]
    same = [point for point in now if point.offset == offset and _what(point) == _what(old)]
    if len(same) == 1:
        return same[0]
    # Short and often the same: none of them is noise (difflib, "autojunk").
    matcher = difflib.SequenceMatcher(
        None, [_what(point) for point in then], [_what(point) for point in now], autojunk=False
    )
    at = then.index(old)
    for block in matcher.get_matching_blocks():
        if block.a <= at < block.a + block.size:
            return now[block.b + at - block.a]
    # Nothing is sure any more; what is there may still be what is meant.
    return find_point(after, function, offset)


def _what(point: Point) -> str:
    """An instruction without the place that it leads to, which moves with all that is changed."""
    return _TARGET.sub(r"\1", point.text)


def name_value(ko: Path, section: str, value: int) -> str | None:
    """``function+0x12`` of an offset in a section of a module's file, or None.

    Raises:
        UsageError: the file cannot be read.
    """
    file = elf.load(ko)
    for index, candidate in enumerate(file.sections):
        if candidate.name == section:
            symbol = file.find(index, value)
            if symbol is not None:
                return f"{symbol.name}+{value - symbol.value:#x}"
    return None


def read_places(
    ko: Path,
    points: Sequence[Point],
    *,
    roots: Sequence[Path] = (),
    deadline: Deadline | None = None,
) -> dict[Point, Place]:
    """Source lines of points, from the module's debug information.

    Args:
        roots: folders that a name is shortened by, the first that holds it.

    Raises:
        UsageError: the file cannot be read.
        InfrastructureError: addr2line is missing or failed.
        DeadlineExceeded: it took longer than ``deadline``, or symbolise.LIMIT_S.
    """
    spots = [(point.section, point.value) for point in points]
    chains = symbolise.read_lines(ko, spots, deadline)
    places = {}
    for point, chain in zip(points, chains, strict=True):
        # The innermost line is the one that runs; its function is named where it
        # is not the one that holds the instruction.
        line = chain[0][1] if chain else ""
        for root in roots:
            line = line.removeprefix(f"{root}/")
        places[point] = Place(line, tuple(function for function, _ in chain[:-1]))
    return places
