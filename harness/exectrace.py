# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's log of executed instructions to counts: which point was reached, by whom, how often.

With ``-d exec,cpu,nochain -dfilter RANGES`` QEMU logs each block of straight code in the ranges
before it executes, with all registers. Tasks are told apart by their address space (CR3)
and thread (FS base); which actor each of them is says the executor itself: before every op it calls
``actor_mark()`` (images/executor/actor.c) with the numbers of actor and op in registers, and that
function is one of the ranges. What no actor executed was a thread of the kernel's, or of the
program's own life.

QEMU 7.2: accel/tcg/cpu-exec.c, ``log_cpu_exec`` and ``cpu_tb_exec``; target/i386/cpu-dump.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

#: What ``actor_mark`` finds in RSI; other programs may have code at its address.
MARK_MAGIC: Final = 0x6B6D6F64706B7273

#: Where x86-64 kernels put modules, whatever else they randomise (Documentation/x86/x86_64/mm.rst).
MODULE_AREA: Final = (0xFFFFFFFFA0000000, 0xFFFFFFFFFEFFFFFF)

# The two low bits of page number and the PCID tell kernel from user half of one address
# space (page table isolation), not one from another.
_CR3_MASK: Final = ~0x1FFF

_TRACE = re.compile(r"Trace \d+: \S+ \[[0-9a-f]+/([0-9a-f]+)/[0-9a-f]+/([0-9a-f]+)\]")
# CF_COUNT_MASK (include/exec/exec-all.h).
_COUNT_MASK: Final = 0x1FF
_STOPPED = re.compile(r"Stopped execution of TB chain before \S+ \[([0-9a-f]+)\]")
_FIELDS = re.compile(r"\b(R[A-Z0-9]{1,2} ?|CR3)=([0-9a-f]{8,16})")
_FS = re.compile(r"FS =\S+ ([0-9a-f]+) ")


@dataclass(frozen=True, slots=True)
class Step:
    """The beginning of a block that was executed."""

    address: int
    #: It has at most so many instructions; 0 says nothing.
    limit: int
    #: Address space and thread.
    context: tuple[int, int]
    rdi: int
    rsi: int
    rdx: int


@dataclass(frozen=True, slots=True)
class Visit:
    """The beginning of a block of a module that was executed, and by which actor."""

    address: int
    limit: int
    #: Number of the actor; None for a thread of the kernel.
    actor: int | None
    #: Number of the op that it was in.
    op: int | None = None


def parse(lines: Iterable[str]) -> Iterator[Step]:
    """Return the steps of a log, in order; a last one that was cut off is left out."""
    address: int | None = None
    fields: dict[str, int] = {}
    pending: Step | None = None
    limit = 0
    for line in lines:
        match = _TRACE.match(line)
        if match:
            if pending is not None:
                yield pending
            pending, address, fields = None, int(match[1], 16), {}
            limit = int(match[2], 16) & _COUNT_MASK
            continue
        stopped = _STOPPED.match(line)
        if stopped:
            # It was looked at and not executed: an interrupt came first.
            pending = address = None
            continue
        if address is None:
            continue
        fs = _FS.match(line)
        if fs:
            fields["FS"] = int(fs[1], 16)
        for name, value in _FIELDS.findall(line):
            fields[name.strip()] = int(value, 16)
        if "CR3" in fields:
            context = (fields["CR3"] & _CR3_MASK, fields.get("FS", 0))
            rdi, rsi, rdx = (fields.get(name, 0) for name in ("RDI", "RSI", "RDX"))
            pending = Step(address, limit, context, rdi, rsi, rdx)
            address = None
    if pending is not None:
        yield pending


def visits(steps: Iterable[Step], mark: int) -> Iterator[Visit]:
    """Return who executed what of the module, in order.

    Args:
        mark: address of ``actor_mark``.
    """
    actors: dict[tuple[int, int], tuple[int, int]] = {}
    for step in steps:
        if step.address == mark:
            if step.rsi == MARK_MAGIC:
                actors[step.context] = (step.rdi, step.rdx)
        elif step.address >= MODULE_AREA[0]:
            actor, op = actors.get(step.context, (None, None))
            yield Visit(step.address, step.limit, actor, op)
