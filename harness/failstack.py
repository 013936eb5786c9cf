# SPDX-License-Identifier: GPL-2.0-only
"""Where the kernel made something fail: the stacks that it prints at injected faults.

``lib/fault-inject.c`` prints a notice with the name of what failed (``failslab``,
``fail_page_alloc``, ``fail_function``) and a stack. An allocation that asks for silence
(``__GFP_NOWARN``) fails without either; all that is known of it is what came before and after.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from harness.klogframes import Frame, is_trace_start, strip_suffix
from harness.kloglines import Line, iter_lines
from harness.klognames import GENERIC, guilty, names

_NOTICE: Final = b"FAULT_INJECTION: forcing a failure"
_NAME: Final = re.compile(r"^name (?P<name>\w+), interval ")
_STAMP: Final = re.compile(rb"\[\s*(\d+)\.(\d{6})\]")
_CALL: Final = re.compile(
    r"^\s*(?P<weak>\? )?(?P<func>[A-Za-z_][\w.$]*)\+0x(?P<offset>[0-9a-f]+)/0x(?P<size>[0-9a-f]+)"
    r"(?: \[(?P<module>[A-Za-z_][\w-]*)[^\]]*\])?\s*$"
)
#: User space's registers are the last that old kernels print of a stack.
_ENDS: Final = re.compile(r"^\s*</TASK>|^RIP: 00(?:33|23|2b):")
#: Lines of a notice, frames included.
_MAX_LINES: Final = 200

#: What is between a fault and whoever asked.
_MACHINERY: Final = names(
    r"""
~dump_stack ~should_fail fail_dump ~kprobe ~ftrace fei_\w+
"""
)
#: Allocators: they fail for somebody else.
_ALLOCATORS: Final = names(
    r"""
~kmalloc ~kzalloc ~kmem_cache_alloc ~kvmalloc ~vmalloc ~vm_area_alloc_pages ~__vmalloc krealloc\w*
~krealloc ~alloc_pages ~alloc_page ~get_free_page ~get_zeroed_page ~slab_alloc ~allocate_slab
~new_slab slab_pre_alloc_hook memdup_user\w* kmemdup\w* kstrdup\w* kvasprintf\w* kasprintf\w*
~__folio_alloc folio_alloc ~pcpu_ ~__alloc_percpu ~kcalloc ~module_alloc
~alloc_slab_page ~prepare_alloc_pages ~alloc_slab_obj_exts ~_noprof
"""
)
#: The way from user space to a system call.
_ENTRY: Final = names(r"do_syscall_64 x64_sys_call entry_SYSCALL\w* do_int80\w* ret_from_fork\w*")


@dataclass(frozen=True, slots=True)
class Call:
    """A frame of a stack: innermost functions come first."""

    #: As printed, with what the compiler appended.
    symbol: str
    offset: int
    size: int
    module: str = ""

    @property
    def function(self) -> str:
        """Return the name without what the compiler appended."""
        return strip_suffix(self.symbol)

    def __str__(self) -> str:
        where = f" [{self.module}]" if self.module else ""
        return f"{self.symbol}+{self.offset:#x}/{self.size:#x}{where}"


@dataclass(frozen=True, slots=True)
class Fault:
    """One notice."""

    #: What failed: ``failslab``, ``fail_page_alloc`` or ``fail_function``.
    name: str
    #: When, microseconds of the kernel's clock.
    us: int
    #: From what was asked to fail to the system call.
    stack: tuple[Call, ...]


def read_faults(console: bytes) -> tuple[Fault, ...]:
    """Return the notices of a console, in order."""
    found = []
    at = console.find(_NOTICE)
    while at >= 0:
        start = console.rfind(b"\n", 0, at) + 1
        after = console.find(_NOTICE, at + 1)
        found.append(_read(console, start, after if after >= 0 else len(console)))
        at = after
    return tuple(found)


def _read(console: bytes, start: int, stop: int) -> Fault:
    stamp = _STAMP.search(console, start, start + 80)
    name, context = "", ""
    calls: list[Call] = []
    tracing = False
    for count, line in enumerate(iter_lines(console, start, stop)):
        if count == 0:
            context = line.ctx
        elif line.ctx != context:
            # An interrupt's, or another processor's.
            continue
        elif match := _NAME.match(line.text):
            name = match["name"]
        elif is_trace_start(line.text):
            tracing = True
        elif tracing and _ENDS.match(line.text):
            break
        elif tracing:
            _take(line, calls)
        if count > _MAX_LINES:
            break
    return Fault(
        name,
        int(stamp[1]) * 1_000_000 + int(stamp[2]) if stamp else 0,
        _own(calls),
    )


def _take(line: Line, calls: list[Call]) -> None:
    """Add a line's frame, if it is one that can be relied on."""
    match = _CALL.match(line.text)
    if match is not None and not match["weak"]:
        calls.append(
            Call(
                match["func"],
                int(match["offset"], 16),
                int(match["size"], 16),
                match["module"] or "",
            )
        )


def _own(calls: Sequence[Call]) -> tuple[Call, ...]:
    """The stack without what made it fail, nor the way into the kernel."""
    decided = (at for at, call in enumerate(calls) if "should_fail" in call.function)
    start = next(decided, 0)
    asked = itertools.dropwhile(lambda call: _MACHINERY.match(call.function), calls[start:])
    return tuple(call for call in asked if not _ENTRY.match(call.function))


def caller(stack: Sequence[Call]) -> Call | None:
    """Return who asked for what failed: the first that is no allocator."""
    return next((call for call in stack if not _ALLOCATORS.match(call.function)), None)


def subject(stack: Sequence[Call]) -> str:
    """Return the function that a stack is known by, as reports of the kernel are."""
    frames = [Frame(call.function, module=call.module or None) for call in stack]
    found = guilty(frames, GENERIC, _ALLOCATORS) or guilty(frames, GENERIC)
    return (found.func if found else None) or (stack[0].function if stack else "?")


def in_module(stack: Iterable[Call], modules: Iterable[str]) -> Call | None:
    """Return the innermost frame in one of some modules."""
    wanted = frozenset(modules)
    return next((call for call in stack if call.module in wanted), None)


def common_root(before: Sequence[Call], after: Sequence[Call]) -> tuple[Call, ...]:
    """Return what two stacks of a task share, the innermost function first.

    What happens between two moments happens in the functions that are active at both. Where
    they part, the same function may have gone on to another line.
    """
    shared: list[Call] = []
    for first, second in zip(reversed(before), reversed(after), strict=False):
        if (first.function, first.module) != (second.function, second.module):
            break
        shared.append(first)
        if first.offset != second.offset:
            break
    return tuple(reversed(shared))
