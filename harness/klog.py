# SPDX-License-Identifier: GPL-2.0-only
"""Linux console logs: find every report, name it, say where it lies. Bytes in, values out.

``parse(log)`` returns the reports of a log in the order in which they begin. What a report is and
how it is called stands in the table of :mod:`harness.klogrules`; which function of a stack is to
blame, in :mod:`harness.klognames`; how frames and lines look, in :mod:`harness.klogframes` and
:mod:`harness.kloglines`; which lines make up a report, in :mod:`harness.klogextent`. This module
puts title, frame, task and signature together.

Reading a log costs one substring search per marker over the bytes, plus work on the lines that
hold a marker and on those of the reports; so a long harmless log costs next to nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from harness.klogextent import Extent, Header, find_headers, gather
from harness.klogframes import (
    Frame,
    Stack,
    collect_stacks,
    first_pc,
    interrupted_stacks,
    own_stacks,
    parse_frame,
    strip_suffix,
)
from harness.klognames import (
    ROOT,
    blocked,
    canonical,
    guilty,
    is_asleep,
    leftover,
    operation,
    simplify,
)
from harness.klogrules import Rule, Where

#: Signature of the line by which kmemleak says that it found something, not what.
LEAK_COUNT = "kmemleak: new suspected memory leaks"
# The first lines of a report, which say who reported.
_HEAD_LINES = 12


@dataclass(frozen=True, slots=True)
class Report:
    """One report of the kernel."""

    #: As syzbot and the kernel's lists name it.
    title: str
    #: Other titles under which the same thing is known.
    alt: tuple[str, ...]
    #: The kind of trouble, such as ``KASAN-USE-AFTER-FREE-READ``, ``HANG`` or ``WARNING``.
    type: str
    #: The function to blame, without compiler suffixes; None where the kind has none.
    frame: str | None
    #: Command name of the task that reported.
    task: str | None
    #: Processor that reported.
    cpu: int | None
    #: The report is cut off or mixed up with another: title and frame are not to be relied on.
    corrupted: bool
    #: Why it is corrupted, else empty.
    reason: str
    #: Byte span in the log, ``log[start:end]``.
    start: int
    end: int
    #: Same for the same bug, whatever kernel, build, address or task.
    signature: str


def contains_report(log: bytes) -> bool:
    """Whether :func:`parse` would find a report."""
    return next(_reports(log), None) is not None


def parse(log: bytes) -> tuple[Report, ...]:
    """All reports of ``log`` in the order in which they begin, those that matter first.

    A complaint that is often but the prelude of something worse (a duplicate name in sysfs, say)
    comes after the others. Never raises.
    """
    found = sorted(_reports(log), key=lambda pair: pair[0].minor)
    return tuple(report for _, report in found)


# ---- frames -------------------------------------------------------------------------------------

_AT = re.compile(r"(?:^|[, ])at: (?:\[<\s*[0-9a-f]+\s*>\]\s*)?(?P<func>[A-Za-z_][\w.]*)(?:\+0x| )")
_AT_NEXT = re.compile(r"^\s*(?:\[<\s*[0-9a-f]+\s*>\]\s*)?(?P<func>[A-Za-z_][\w.]*)\+0x")


def _lock_frames(extent: Extent) -> list[Frame]:
    """Where the locks that a report names were taken or released, in order."""
    lines = extent.lines
    frames = []
    for n, (line, _) in enumerate(lines):
        match = _AT.search(line.text)
        if match is None and line.text.rstrip().endswith(" at:") and n + 1 < len(lines):
            match = _AT_NEXT.match(lines[n + 1][0].text)
        if match is not None:
            frames.append(Frame(strip_suffix(match["func"])))
    return frames


def _find_operation(extent: Extent, stacks: list[Stack], rule: Rule) -> Frame | None:
    """The operation that does not get on."""
    pc = first_pc(extent.lines)
    tries = interrupted_stacks(extent.lines) if rule.where is Where.TICK else []
    # The stack of a thread that waits for the stalled one says nothing of it.
    running = [stack for stack in stacks if not is_asleep(stack.frames)] or stacks
    tries += [[pc, *s.frames] if pc and s is stacks[0] else s.frames for s in running]
    found = (operation(frames, *rule.skip) for frames in tries)
    rest = (operation(frames, *rule.skip, leftovers=True) for frames in tries)
    return next(filter(None, itertools.chain(found, rest)), None)


def _find_frame(header: Header, extent: Extent) -> Frame | None:
    """The frame to blame, from where the rule says it stands."""
    rule = header.rule
    where = rule.where
    stacks = collect_stacks(extent.lines)
    if where in (Where.STALL, Where.TICK):
        return _find_operation(extent, stacks, rule)
    announced = where in (Where.HEAD, Where.PC, Where.TRACE, Where.SLEEP, Where.LOCK)
    every = [stack for stack in stacks if stack.announced]
    stacks = own_stacks(stacks, announced=announced)
    if where is Where.SLEEP:
        return blocked(stacks[0].frames) if stacks else None
    candidates: list[Frame] = []
    bad_pc = False
    if where in (Where.HEAD, Where.HEAD_FIRST) and header.match.groupdict().get("func"):
        named = header.match.string[header.match.start("func") :]
        candidates = [*parse_frame(named), Frame(strip_suffix(header.match["func"]))][:1]
    elif where is Where.PC:
        pc = first_pc(extent.lines)
        candidates = [pc] if pc is not None else []
        bad_pc = pc is not None and pc.func is None
    elif where in (Where.LOCK, Where.LOCKS):
        candidates = _lock_frames(extent)[: 1 if where is Where.LOCK else 2]
    for frames in (candidates, *(stack.frames for stack in stacks)):
        frame = guilty(frames, *rule.skip)
        if frame is not None:
            return frame
    return leftover(every[0].frames, *rule.skip) if bad_pc and every else None


# ---- putting a report together ------------------------------------------------------------------

_CPU_LINE = re.compile(
    r"CPU: (?P<cpu>\d{1,5}) (?:UID: \d+ )?PID: (?P<pid>\d+) Comm: "
    r"(?P<task>.{1,40}?)(?: Not tainted| Tainted|$)"
)
_WARN_LINE = re.compile(r"CPU(?:: |#)(?P<cpu>\d{1,5})(?: PID: \d+ at|: (?P<task>.{1,40})/\d+$)?")
# The task that a report is about, which need not be the one that prints it.
_TASK_LINES = (
    re.compile(r"INFO: task (?P<task>.{1,40}):(?P<pid>\d+) (?:blocked|can't die)"),
    re.compile(r" by task (?P<task>.{1,40})/(?P<pid>\d+)$"),
    re.compile(r"stuck for \d+s! \[(?P<task>.{1,40}):(?P<pid>\d+)\]"),
    re.compile(r"^\s*comm \"(?P<task>[^\"]{1,40})\", pid (?P<pid>\d+)"),
    re.compile(r"^(?P<task>\S{1,40})/(?P<pid>\d+) is (?:trying|freeing|leaving)"),
    re.compile(r"locks? held by (?P<task>\S{1,40})/(?P<pid>\d+):$"),
)
_OFFSET = re.compile(r"\+0x[0-9a-f]+(?:/0x[0-9a-f]+)?")
_ADDR = re.compile(r"\b(?:0x)?(?=[0-9a-f]*\d)[0-9a-f]{8,16}\b|\b0x[0-9a-f]+\b")
_IPV6 = re.compile(
    r"(?<![\w:./])(?:(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|(?:[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){0,6})?::"
    r"(?:[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){0,6})?)(?![\w:])"
)
_LINE = re.compile(r"(?<=\.[chS]):\d+")
_NUMBER = re.compile(r"(?<![\w.])\d+(?![\w.]*\w)")


def _plain(text: str) -> str:
    """Free text of a header without what differs from run to run."""
    text = _IPV6.sub("IPV6ADDR", _OFFSET.sub("", text))
    text = _LINE.sub(":LINE", _ADDR.sub("ADDR", text))
    return _NUMBER.sub("NUM", text).strip()


@dataclass(frozen=True, slots=True)
class _Who:
    """Task and processor of a report; ``mixed`` when two tasks speak in it."""

    task: str | None
    cpu: int | None
    mixed: bool


def _who(header: Header, extent: Extent) -> _Who:
    named = printed = None
    for line, _ in extent.lines[:_HEAD_LINES]:
        for pattern in _TASK_LINES:
            named = named or pattern.search(line.text)
    for line, _ in extent.lines:
        printed = _CPU_LINE.search(line.text)
        if printed is not None:
            break
    warned = _WARN_LINE.search(header.line.text)
    task = next((m["task"] for m in (named, printed, warned) if m and m["task"]), None)
    same = named is None or printed is None or named["pid"] == printed["pid"]
    cpu = header.match.groupdict().get("cpu")
    if cpu is None and printed is not None and same:
        cpu = printed["cpu"]
    if cpu is None and warned is not None:
        cpu = warned["cpu"]
    # A hang is found by somebody else; any other report is printed by the task that it is about.
    hang = header.rule.where in (Where.SLEEP, Where.STALL, Where.TICK)
    return _Who(task, int(cpu) if cpu else None, not same and not hang)


def _type(rule: Rule, fields: dict[str, str]) -> str:
    """KASAN and its like have a type per kind of access."""
    bug, access = fields.get("bug", ""), fields.get("access", "")
    if rule.type == "KCSAN":
        return "KCSAN-ASSERT" if bug.startswith("assert") else "KCSAN-DATARACE"
    if rule.type not in ("KASAN", "KFENCE", "KMSAN"):
        return rule.type
    if "use-after-free" in bug:
        parts = [rule.type, "USE-AFTER-FREE", access]
    elif "null-ptr" in bug:
        parts = [rule.type, "NULL-POINTER-DEREFERENCE", access]
    elif rule.type == "KMSAN":
        parts = [rule.type, "INFO-LEAK" if "leak" in bug else "UNINIT-VALUE"]
    else:
        parts = [rule.type, access]
    return "-".join(part for part in parts if part).upper()


# Wordings of one kind of bug, by age of the kernel.
_SAME = ((re.compile(r"\bslab-(?=use-after-free)"), ""), (re.compile(r"\d+"), "N"))


def _signature(text: str) -> str:
    for pattern, replacement in _SAME:
        text = pattern.sub(replacement, text)
    return text


def _fields(header: Header, extent: Extent) -> tuple[dict[str, str], str]:
    """Values for the title, and why the report is corrupted if one is missing."""
    fields = {k: _plain(v) for k, v in header.match.groupdict().items() if v}
    for pattern in header.rule.more:
        if pattern.groupindex.keys() <= fields.keys():
            continue
        for line, _ in extent.lines:
            match = pattern.search(line.text)
            if match is not None:
                fields.update({k: v for k, v in match.groupdict().items() if v})
                break
        else:
            return fields, f"no line matches {pattern.pattern!r}"
    return fields, ""


_SEPARATOR = re.compile(r"^\s*(?:[-=*]{6,}.*|-+\[ cut here.*)?$")


# Printed together with "FAULT_INJECTION: forcing a failure", which is no report.
_INJECTED = re.compile(r"should_fail(?:slab|_alloc_page)?(?:_ex)?$")


def _torn(log: bytes, header: Header, extent: Extent) -> str:
    """Why the report's stack is not all there, else empty."""
    if header.rule.where is Where.NONE or header.rule.stackless:
        return ""
    if not (extent.has_frames or (extent.has_leftovers and header.rule.where is Where.PC)):
        return "no stack"
    first = own_stacks(collect_stacks(extent.lines), announced=True)[:1]
    if any(f.reliable and _INJECTED.match(f.func or "") for stack in first for f in stack.frames):
        return "the stack of an injected fault is mixed into it"
    at_end = extent.end == len(log) and log[-1:] != b"\n"
    if extent.cut_at is None and not at_end:
        return ""
    for line, frames in reversed(extent.lines):
        if not _SEPARATOR.match(line.text):
            if frames and not any(frame.func is None or ROOT.match(frame.func) for frame in frames):
                return "its stack breaks off"
            break
    return ""


class _Missing(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "corrupted" if key == "frame" else ""


def _format(form: str, fields: dict[str, str]) -> str:
    return " ".join(form.format_map(_Missing(fields)).split())


def _build(log: bytes, header: Header, extent: Extent) -> Report:
    rule = header.rule
    fields, reason = _fields(header, extent)
    if rule.where is not Where.NONE:
        frame = _find_frame(header, extent)
        if frame is not None and frame.func is not None:
            fields["frame"] = frame.func
            if not frame.reliable and rule.where is not Where.PC:
                reason = reason or "the unwinder vouches for no frame of its stack"
        else:
            reason = reason or "no frame that is to blame"
    who = _who(header, extent)
    reason = reason or rule.torn or _torn(log, header, extent)
    if not reason and who.mixed:
        reason = "output of another task is mixed into it"
    if reason and extent.cut_at is not None:
        reason += f"; cut off by another report at byte {extent.cut_at}"
    names: tuple[str, ...] = ()
    lasting = dict(fields)
    if "frame" in fields:
        lasting["frame"] = canonical(fields["frame"])
        fields["frame"], names = simplify(fields["frame"])
    title = _format(rule.title, fields)
    alt = [_format(form, fields) for form in rule.alt]
    for name in names:
        alt += [_format(form, {**fields, "frame": name}) for form in (rule.title, *rule.alt)]
    return Report(
        title=title,
        alt=tuple(dict.fromkeys(form for form in alt if form != title)),
        type=_type(rule, fields),
        frame=fields.get("frame"),
        task=who.task,
        cpu=who.cpu,
        corrupted=bool(reason),
        reason=reason,
        start=header.line.start,
        end=extent.end,
        signature=_signature(_format(rule.sig or rule.title, lasting)),
    )


def _reports(log: bytes) -> Iterator[tuple[Rule, Report]]:
    absorbed: set[int] = set()
    seen = False
    for header in find_headers(log):
        if header.line.start in absorbed:
            absorbed.discard(header.line.start)
            continue
        # Its cause stands before it, further up than a report reaches.
        if seen and header.rule.id == "panic-after":
            continue
        extent = gather(log, header)
        absorbed.update(extent.absorbed)
        seen = True
        yield header.rule, _build(log, header, extent)
