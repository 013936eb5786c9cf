# SPDX-License-Identifier: GPL-2.0-only
"""Stale pointers: what still leads to where a module was, before anybody follows it.

When the guest has ended, each word of its memory is looked at. One that points to where an
unloaded module was is named after what holds it (``harness/memowners.py``), unless nobody
follows what is written there, and after what of the module was there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from harness import elf
from harness.kernels import Kernel, require_vmlinux
from harness.memlists import Reader, find_list
from harness.memowners import MODULE_AREA, UNKNOWN, Holder, Memory
from harness.memtypes import plain_symbol
from harness.ram import open_ram
from harness.symbolise import ModuleLife
from harness.verdict import Finding, Kind, MemoryScan

#: Beyond the highest address that a module is known to have had, bytes: a load that was
#: refused, of which nobody knows where it was, was put there at most.
_SLACK: Final = 1 << 20

_UNSETTLED: Final = "the guest died: what it was about to free is named with the rest"

_PAGE_MASK: Final = 0xFFF

#: Pointers of one title that are listed.
_LISTED: Final = 8


@dataclass(frozen=True, slots=True)
class Target:
    """What was where a pointer leads to."""

    #: Without a number, such as ``poolfs_fs_type``.
    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class _Part:
    """A section of a module that was unloaded, where it lay."""

    begin: int
    end: int
    life: ModuleLife
    index: int


class Gone:
    """The modules that were unloaded, and where they were."""

    def __init__(self, lives: Iterable[ModuleLife]) -> None:
        # Who lay there last is asked first.
        self._lives = sorted(
            (life for life in lives if life.unloaded_us is not None and life.base),
            key=lambda life: life.unloaded_us or 0,
            reverse=True,
        )
        self._parts = [part for life in self._lives for part in _parts(life)]
        self._files = {life.name: life for life in reversed(self._lives)}

    def __bool__(self) -> bool:
        return bool(self._lives)

    @property
    def ranges(self) -> list[tuple[int, int, str]]:
        """Where modules were: first address, the first behind, which."""
        found = [(part.begin, part.end, part.life.name) for part in self._parts]
        found += [
            (life.base, life.base + life.size, life.name)
            for life in self._lives
            if _is_one_range(life)
        ]
        return sorted(set(found))

    @property
    def end(self) -> int:
        """The first address behind all of them."""
        return max(end for _, end, _ in self.ranges)

    def find(self, address: int) -> Target | None:
        """Return what was at an address; None where no module is known to have been."""
        for part in self._parts:
            if part.begin <= address < part.end:
                return _target(part.life, part.index, address - part.begin)
        for life in self._lives:
            if _is_one_range(life) and life.holds(address):
                offset = f"{life.name}+{address - life.base:#x}"
                return Target(life.name, f"{offset} [{life.name}]")
        return None

    def guess(self, address: int) -> Target | None:
        """Return what an address was where no module is known to have been, by its place in a page.

        Modules are laid out in pages, each time in the same way: one that was refused when it
        was loaded had its parts at the same places in a page as when it was not. Only the
        first byte of a function or variable counts.
        """
        found = {}
        for life in self._files.values():
            file = elf.load_all(life.ko)
            for section, begin in life.sections:
                for index, known in enumerate(file.sections):
                    if known.name != section:
                        continue
                    for symbol in file.by_section.get(index, ()):
                        if (begin + symbol.value ^ address) & _PAGE_MASK == 0:
                            name = plain_symbol(symbol.name)
                            found[name] = Target(
                                name, f"{name} [{life.name}, by its place in a page]"
                            )
        return next(iter(found.values())) if len(found) == 1 else None


def _parts(life: ModuleLife) -> Iterable[_Part]:
    file = elf.load_all(life.ko)
    by_name = {section.name: index for index, section in enumerate(file.sections)}
    for name, begin in life.sections:
        index = by_name.get(name)
        # A per-CPU section lies elsewhere, once for each processor.
        if index is not None and file.sections[index].size and "percpu" not in name:
            yield _Part(begin, begin + file.sections[index].size, life, index)


def _is_one_range(life: ModuleLife) -> bool:
    """Whether all of a module is in one range, as it is before 6.4 (struct module_memory)."""
    return all(life.holds(begin) for name, begin in life.sections if "percpu" not in name)


def _target(life: ModuleLife, index: int, offset: int) -> Target:
    file = elf.load_all(life.ko)
    section = file.sections[index]
    symbol = file.find(index, offset)
    state = f"[{life.name}, load {life.load}]"
    if symbol is None or section.name.startswith(".rodata.str"):
        what = "a string" if ".str" in section.name else section.name
        return Target(f"{what} of {life.name}", f"{section.name}+{offset:#x} {state}")
    return Target(plain_symbol(symbol.name), f"{symbol.name}+{offset - symbol.value:#x} {state}")


def scan(
    path: Path, kernel: Kernel, lives: Sequence[ModuleLife], *, settled: bool = True
) -> MemoryScan:
    """Look through a guest's memory for pointers to where modules were.

    Args:
        path: the memory, of a guest that runs no more.
        lives: where modules lay; those that were not unloaded are left alone.
        settled: the guest has rested at its end; of one that has not, some that is named
            was just about to be freed.

    Raises:
        GuestError: the memory cannot be read, or is not that of the kernel.
        UsageError: the kernel has no debug information.
    """
    started = time.monotonic()
    vmlinux = require_vmlinux(kernel)
    gone = Gone(lives)
    with open_ram(path) as ram:
        memory = Memory(ram, kernel.release, vmlinux)
        found = ram.words_between(MODULE_AREA[0], gone.end + _SLACK)
        words = outside(found, memory.used_areas)
        holders = [(memory.find_holder(at), value) for at, value in words]
        findings = judge(holders, gone, memory)
        remarks = reused(gone.ranges, memory.used_areas) + unknown(holders)
    if not settled:
        findings = tuple(
            replace(found, detail=f"{found.detail}\n{_UNSETTLED}") for found in findings
        )
    return MemoryScan(findings, len(words), time.monotonic() - started, remarks)


def outside(
    words: Iterable[tuple[int, int]], areas: Sequence[tuple[int, int, str]]
) -> list[tuple[int, int]]:
    """Return the words that do not point to where somebody is."""
    return [
        (at, value)
        for at, value in words
        if not any(begin <= value < end for begin, end, _ in areas)
    ]


class View(Reader, Protocol):
    """What a judgement needs of a memory."""

    def find_references(self, addresses: frozenset[int]) -> Mapping[int, Holder]: ...


def judge(holders: Iterable[tuple[Holder, int]], gone: Gone, memory: View) -> tuple[Finding, ...]:
    """Return a finding for each holder that counts and what it leads to.

    Args:
        holders: whose memory each word is, and what it says.
    """
    found = []
    for holder, value in holders:
        target = None if holder.dead else gone.find(value) or gone.guess(value)
        if target is not None:
            found.append((holder, target, f"{holder.detail} = {value:#x}, {target.detail}"))
    starts = {holder.untyped for holder, _, _ in found if holder.untyped}
    leading = memory.find_references(frozenset(starts))
    lines: dict[str, list[str]] = {}
    for holder, target, line in found:
        name = holder.name
        head = find_list(memory, holder) or leading.get(holder.untyped or 0)
        if head is not None:
            name = f"*{head.name}" if holder.untyped else head.name
            line += f"; {head.detail} leads there"
        lines.setdefault(f"stale pointer: {name} → {target.name}", []).append(line)
    return tuple(
        Finding(Kind.STALE, title, "\n".join(_shorten(found))) for title, found in lines.items()
    )


def _shorten(lines: list[str]) -> list[str]:
    more = len(lines) - _LISTED
    return [*lines[:_LISTED], f"and {more} more"] if more > 0 else lines


def reused(
    ranges: Iterable[tuple[int, int, str]], areas: Sequence[tuple[int, int, str]]
) -> tuple[str, ...]:
    """Return who is where modules were: pointers to there cannot be told from good ones."""
    found = {
        f"where {module} was there is {who} now: pointers to there were not looked at"
        for begin, end, module in ranges
        for first, behind, who in areas
        if begin < behind and first < end
    }
    return tuple(sorted(found))


def unknown(holders: Iterable[tuple[Holder, int]]) -> tuple[str, ...]:
    """Return that there are words of which nobody knows whose they are, if there are any."""
    reasons = [holder.dead for holder, _ in holders if holder.dead.startswith(UNKNOWN)]
    if not reasons:
        return ()
    return (f"whose {len(reasons)} words are {reasons[0]}: they were left out",)
