# SPDX-License-Identifier: GPL-2.0-only
"""Stack frames and program counters, as each architecture and age of the kernel prints them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.kloglines import Line
from harness.rustnames import demangle

# A C identifier with the compiler's suffixes, or a Rust path ("<a::B as c::D>::e").
_C_NAME = r"[A-Za-z_][\w.$]{0,200}"
_RUST_NAME = r"(?:<[A-Za-z_&][^\n+]{1,240}>|[A-Za-z_]\w{0,100})(?:::[\w<>{}#]{1,100}){1,12}"
_OFFSET = r"\+0x[0-9a-f]{1,8}(?:/0x[0-9a-f]{1,8})?"
NAME = rf"(?:{_RUST_NAME}|{_C_NAME})"
FUNC = rf"(?P<func>{NAME}){_OFFSET}"

# "[<ffffffff81234567>] ", "[<(____ptrval____)>] ", "[<     inline     >] ", ppc's pairs of them.
_ADDR = r"(?:\(?\[<?\s{0,8}(?:[0-9a-f]{6,16}|inline|\(_*ptrval_*\))\s{0,8}>?\]\)?[ :]{0,3}){0,2}"
_FRAME = re.compile(
    rf"^\s{{0,40}}(?:</?[A-Z#]{{2,8}}>\s{{1,4}})?(?:#\d{{1,3}}:?\s)?{_ADDR}(?P<weak>\? ?)?"
    rf"(?:(?:{FUNC})|(?P<bare>0x[0-9a-f]{{1,16}})(?=$|\s))"
    r"(?P<rest>.{0,200})"
)
# After symbolisation: "  func file.c:12 [inline]".
_INLINE = re.compile(
    rf"^\s{{0,16}}(?:\[<\s*inline\s*>\]\s*)?(?P<func>{NAME}) "
    r"[\w./+-]+\.(?:[chS]|rs):\d+(?: \[inline\])?$"
)
# 32-bit ARM: "(caller) from (callee's caller)"; each line names the frame and its caller.
_FROM = re.compile(
    rf"^\s{{0,16}}(?:\[<[0-9a-f]{{6,16}}>\] )?\(?(?P<func>{NAME})(?:{_OFFSET})?(?: \[\w+\])?\)?"
    rf" from (?:\[<[0-9a-f]{{6,16}}>\] )?\(?(?P<caller>{NAME}){_OFFSET}"
)
_MODULE = re.compile(r"\[(?P<module>[A-Za-z_][\w-]{0,60})[^\]\n]{0,40}\]")
# Program counters: x86 old and new, ARM, arm64, powerpc, riscv, s390, MIPS.
_PC = re.compile(
    r"^\s{0,8}(?:(?:[RE]?IP|EIP): |(?:PC|pc) is at |(?:pc|epc|era) : |NIP )"
    r"(?:(?:[0-9a-f]{4}:)?(?P<val>.{0,300}))"
)
_PSW = re.compile(r"^\s{0,8}Krnl PSW : [0-9a-f]{16} [0-9a-f]{16} \((?P<val>[^)]{1,200})\)")
_USER_PC = re.compile(r"^\s{0,8}RIP: (?:0033|0023|002b):|^\s{0,8}EIP: 00(?:73|23):")
_PC_FUNC = re.compile(rf"^\s*{_ADDR}(?:\[<[0-9a-f]+>\]\s*)?(?P<func>{NAME}){_OFFSET}")
_PC_BARE = re.compile(
    r"^\s*(?:\[<(?P<a>[0-9a-f]+)>\]\s*)?(?:\[<[0-9a-f]+>\]\s*)?"
    r"(?:(?P<b>0x[0-9a-f]+)|\(null\)|(?P<c>[0-9a-f]{8,16})|$)"
)

_TRACE_START = re.compile(
    r"(?:^|[ :])(?:Call [Tt]race|Backtrace|Call Backtrace|stack backtrace|backtrace|Trace|"
    r"Krnl Stack|Stack trace|Call Trace)\s{0,2}(?::|\(|$)"
)
# Marks between frames that do not end a stack.
_MARK = re.compile(
    r"^\s{0,16}(?:</?(?:IRQ|EOI|NMI|EOE|TASK|SOFTIRQ|UNK|#\w{1,4}|ENTRY_TRAMPOLINE)>|"
    r"<<(?:EOE|NMI|IRQ)>>|-{3,} ?.{0,20}|Exception stack|\[\.{3}\]|={0,3}$)"
)

_SUFFIX = re.compile(
    r"\.(?:isra|constprop|part|cold|llvm|lto_priv|clone|unlikely|warm|kcfi|cfi|resume|destroy)\b"
    r"(?:\.\d+)*.*$|\.\d+$|\$[\w.]*$"
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a stack, or a program counter."""

    #: Function without compiler suffixes; None for a bare address.
    func: str | None
    #: False for x86's "? func", a leftover on the stack.
    reliable: bool = True
    module: str | None = None
    #: The bare address, lower-case hex without 0x, where no function is known.
    addr: str | None = None


def strip_suffix(func: str) -> str:
    """``foo.isra.0.cold`` -> ``foo``: what the compiler appended says nothing of the bug.

    Rust's names become readable.
    """
    if func.startswith("__pfx_"):
        func = func[6:]
    return demangle(_SUFFIX.sub("", func) or func)


def parse_frame(text: str) -> tuple[Frame, ...]:
    """The frames that a line of a stack holds: none, one, or two on 32-bit ARM."""
    if " from " in text:
        arm = _FROM.match(text)
        if arm is not None:
            return (Frame(strip_suffix(arm["func"])), Frame(strip_suffix(arm["caller"])))
    match = _FRAME.match(text)
    if match is not None:
        func = match["func"]
        module = _MODULE.search(match["rest"])
        return (
            Frame(
                strip_suffix(func) if func else None,
                reliable=not match["weak"] and "(unreliable)" not in match["rest"],
                module=module["module"] if module and module["module"] != "inline" else None,
                addr=match["bare"].removeprefix("0x") if match["bare"] else None,
            ),
        )
    match = _INLINE.match(text)
    if match is not None:
        return (Frame(strip_suffix(match["func"])),)
    return ()


def is_mark(text: str) -> bool:
    """A line inside a stack that is no frame and does not end it."""
    return _MARK.match(text) is not None


def is_trace_start(text: str) -> bool:
    """``Call Trace:`` in its spellings."""
    return _TRACE_START.search(text) is not None


def parse_pc(text: str) -> Frame | None:
    """The program counter of a register dump, unless it is a user-space one."""
    match = _PC.match(text) or _PSW.match(text)
    if match is None or _USER_PC.match(text):
        return None
    value = match["val"]
    func = _PC_FUNC.match(value)
    if func is not None:
        module = _MODULE.search(value[func.end() :])
        return Frame(strip_suffix(func["func"]), module=module["module"] if module else None)
    bare = _PC_BARE.match(value)
    if bare is None:
        return None
    addr = bare["b"] or bare["a"] or bare["c"] or "0"
    return Frame(None, addr=addr.removeprefix("0x").lower())


# ---- stacks -------------------------------------------------------------------------------------

_REGISTERS = re.compile(
    r"^\s{0,8}(?:Code|R[A-D]X|R\d\d|R[BS]P|[CDFG]S|[CD]R\d|PKRU|ORIG_RAX|E[A-D]X|ES[IP]|[xr]\d+ ?):"
    r"|^\s{0,8}r\d+:[0-9a-f]{8}"
)
# Lines of somebody else that may stand between two frames of a stack.
_MAX_STRANGERS = 2


@dataclass(slots=True)
class Stack:
    """Consecutive frames."""

    #: The line before the first frame, which tells whose stack it is.
    intro: str
    #: Announced by "Call Trace:" or the like.
    announced: bool
    frames: list[Frame] = field(default_factory=list)

    def is_usable(self) -> bool:
        """Whether some frame can be relied on."""
        return any(frame.func and frame.reliable for frame in self.frames)


def collect_stacks(lines: Sequence[tuple[Line, tuple[Frame, ...]]]) -> list[Stack]:
    """All stacks of a report, in order, from its lines and the frames that each holds."""
    stacks: list[Stack] = []
    current: Stack | None = None
    intro = ""
    strangers = 0
    stamped = bool(lines) and lines[0][0].stamped
    for line, frames in lines:
        text = line.text
        if is_trace_start(text):
            current = Stack(text, True)
            stacks.append(current)
            strangers = 0
        elif frames:
            if current is None:
                current = Stack(intro, False)
                stacks.append(current)
            current.frames.extend(frames)
            strangers = 0
            continue
        elif current is not None and (pc := parse_pc(text)) is not None:
            current.frames.append(pc)
        elif current is not None and _is_stranger(line, stamped):
            strangers += 1
            if strangers > _MAX_STRANGERS or text.endswith(":"):
                current = None
        intro = text or intro
    return stacks


def _is_stranger(line: Line, stamped: bool) -> bool:
    """A line that does not belong into a stack; user-space output does not count as one."""
    text = line.text
    return bool(
        text
        and not (stamped and not line.stamped)
        and not is_mark(text)
        and not _REGISTERS.match(text)
    )


def first_pc(lines: Sequence[tuple[Line, tuple[Frame, ...]]]) -> Frame | None:
    """The first kernel program counter of a report's register dumps."""
    for line, _ in lines:
        pc = parse_pc(line.text)
        if pc is not None:
            return pc
    return None


# Where the tick, or an NMI, entered on top of what it interrupted; and the same elsewhere.
_TICK = re.compile("apic_timer_interrupt")
_TICK_ELSEWHERE = re.compile("apic_timer_interrupt|Exception stack|el1h_64_irq")


def interrupted_stacks(lines: Sequence[tuple[Line, tuple[Frame, ...]]]) -> list[list[Frame]]:
    """What the timer interrupt interrupted: the program counter and the frames behind it.

    Second, for architectures that print no registers there, the frames alone.
    """
    found = [_behind(lines, _TICK, registers=True), _behind(lines, _TICK_ELSEWHERE)]
    return [frames for frames in found if frames]


def _behind(
    lines: Sequence[tuple[Line, tuple[Frame, ...]]],
    entry: re.Pattern[str],
    *,
    registers: bool = False,
) -> list[Frame]:
    rest = iter(lines)
    for line, frames in rest:
        if entry.search(line.text) and (not frames or any(frame.reliable for frame in frames)):
            break
    found: list[Frame] = []
    if registers:
        for line, _ in rest:
            if _PC.match(line.text):
                pc = parse_pc(line.text)
                found += [pc] if pc is not None and pc.func else []
                break
        else:
            return []
    for line, frames in rest:
        if is_trace_start(line.text):
            break
        found.extend(frames)
    return found


def own_stacks(stacks: Sequence[Stack], *, announced: bool) -> list[Stack]:
    """The stacks that can be used, in the order in which they speak for the report.

    ``announced``: those after "Call Trace:" come first.
    """
    usable = [stack for stack in stacks if stack.is_usable()]
    return sorted(usable, key=lambda stack: not stack.announced) if announced else usable
