# SPDX-License-Identifier: GPL-2.0-only
"""Linux console logs: find every report, name it, say where it lies. Bytes in, values out.

``parse(log)`` returns the reports of a log in the order in which they begin. What a report is and
how it is called stands in the table of :mod:`harness.klogrules`; which function of a stack is to
blame, in :mod:`harness.klognames`; how frames and lines look, in :mod:`harness.klogframes` and
:mod:`harness.kloglines`. This module finds headers, gathers each report's lines and puts title,
frame and span together.

Reading a log costs one substring search per marker over the bytes, plus work on the lines that
hold a marker and on those of the reports; so a long harmless log costs next to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from harness.klogframes import (
    Frame,
    collect_stacks,
    first_pc,
    own_stacks,
    parse_frame,
    strip_suffix,
)
from harness.kloglines import Line, iter_lines, line_bounds, split_line
from harness.klognames import ROOT, blocked, guilty, leftover, operation, simplify
from harness.klogrules import RULES, Rule, Where

#: A report has at most this many lines; a kernel that dumps all tasks goes on for longer.
MAX_REPORT_LINES = 2000
#: Lines that look like no part of a report, in a row, after which it has ended.
MAX_GAP_LINES = 24
# Headers of other contexts that a report may run through before it is cut off: bounds the work
# on a log in which every line begins a report.
_MAX_FOREIGN = 8
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


# ---- headers ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Header:
    rule: Rule
    match: re.Match[str]
    line: Line


def _shortest(markers: set[str]) -> list[str]:
    """The markers without those that hold another marker."""
    return sorted(m for m in markers if not any(o != m and o in m for o in markers))


_MARKERS = _shortest({rule.marker for rule in RULES})
_NEEDLES = tuple(marker.encode() for marker in _MARKERS)
_ANY_MARKER = re.compile("|".join(map(re.escape, _MARKERS)))


def _match_header(text: str) -> tuple[Rule, re.Match[str]] | None:
    """The first row of the table that sees a header in ``text``."""
    if _ANY_MARKER.search(text) is None:
        return None
    for rule in RULES:
        if rule.marker not in text:
            continue
        match = rule.head.search(text)
        if match is not None:
            # A program that quotes a report, as strace does, has not found one.
            quoted = match.start() > 0 and text[match.start() - 1] == '"'
            if quoted or (rule.unless is not None and rule.unless.search(text)):
                return None
            return rule, match
    return None


def _marked_lines(log: bytes) -> Iterator[tuple[int, int]]:
    """Bounds of the physical lines that hold a marker, in order."""
    ahead = {needle: at for needle in _NEEDLES if (at := log.find(needle)) >= 0}
    pos = 0
    while ahead:
        start, end = line_bounds(log, min(ahead.values()))
        yield max(start, pos), end
        pos = end
        for needle in [needle for needle, at in ahead.items() if at < pos]:
            at = log.find(needle, pos)
            if at < 0:
                del ahead[needle]
            else:
                ahead[needle] = at


def _headers(log: bytes) -> Iterator[_Header]:
    for start, end in _marked_lines(log):
        for line in split_line(log, start, end):
            found = _match_header(line.text)
            if found is not None:
                yield _Header(*found, line)


# ---- extent -------------------------------------------------------------------------------------

# How lines of a report begin that are neither frames nor headers. Precision is not needed: it
# decides where a report ends among harmless lines.
_WORDS = """
CPU|Hardware|Modules|Call |Backtrace|backtrace|stack backtrace|task:|Workqueue|Tainted|Not tainted
Process |Stack|Code|IP|RIP|EIP|Flags:|Control:|Register |Exception |Preemption disabled|in_atomic
preempt_count|RCU nest|irq event|hardirqs last|softirqs last|PGD|P4D|PUD|#PF|Oops|Internal error
Mem abort|Data abort|KASAN|Read of size|Write of size|Allocated by|Freed by|freed by|The buggy
Memory state|page:|page |raw:|head:|which |object |located |Last potentially|Second to last
Local variable|Uninit |Byte|Reported by|kfence-|read |write |race |value |Padding|Redzone|Object
Slab |FIX |INFO|but |other info|the existing|lock(|<Interrupt>|***|to a |and |...|Possible |Chain
"echo|rcu|NMI|Sending NMI|Showing|(detected|(t=|Task dump|Kernel |Rebooting|SMP: |Fixing|Dumping
note:|Disabling|disabling|turning off|the code is|comm "|hex dump|kobject|---[|-----|=====|*****
>|^|->
"""
_PREFIXES = "|".join(map(re.escape, _WORDS.strip().replace("\n", "|").split("|")))
_BELONGS = re.compile(
    rf"^\s{{0,16}}(?:$|{_PREFIXES}|#\d|\d+ locks? |\d+-|\(.{{1,80}}\)\{{|.{{0,80}}\bat: "
    r"|>?[0-9a-f]{2}(?: [0-9a-f]{2}){3}|>?[0-9a-f]{8,16}[: ]|\[[0-9a-f]{8,16}\]|[A-Z]{2,4} = "
    r"|[A-Za-z][A-Za-z0-9_]{0,8}\s?:\s{0,8}[\[<(]?[0-9a-fx*(]{2}"
    r"|.{1,40} is (?:trying|freeing|leaving))"
)
_END_TRACE = re.compile(r"---\[ end trace")
_LAST = re.compile(r"---\[ end Kernel panic|^Rebooting in \d")


@dataclass(slots=True)
class _Extent:
    """The lines of a report and where it ends."""

    lines: list[tuple[Line, tuple[Frame, ...]]]
    end: int
    #: Rows of the table that the report's header and its absorbed lines match.
    ids: set[str]
    #: Starts of later header lines that are parts of this report.
    absorbed: list[int] = field(default_factory=list)
    #: Where another report cut this one off.
    cut_at: int | None = None
    has_frames: bool = False
    #: There are frames, if only such as cannot be relied on.
    has_leftovers: bool = False


def _gather(log: bytes, header: _Header) -> _Extent:
    """The report's own lines, from the header to its end."""
    extent = _Extent([(header.line, ())], header.line.end, {header.rule.id})
    if header.rule.alone:
        return extent
    own = header.line.ctx
    foreign, gap, gap_limit = 0, 0.0, MAX_GAP_LINES
    for line in iter_lines(log, header.line.start, len(log)):
        if line.start <= header.line.start:
            continue
        other = bool(own and line.ctx and line.ctx != own)
        found = _match_header(line.text)
        if found is not None and not _is_part(found[0], header.rule, extent):
            if not other and not found[0].alone:
                extent.cut_at = line.start
                return extent
            foreign += 1
            if foreign > _MAX_FOREIGN:
                return extent
            continue
        frames = parse_frame(line.text) if not other else ()
        if other:
            gap += 0.1
        elif found is not None:
            extent.absorbed.append(line.start)
            extent.ids.add(found[0].id)
            gap = 0
        elif frames or _BELONGS.match(line.text):
            gap = 0
        else:
            gap += 0.25 if header.line.stamped and not line.stamped else 1
        if not other:
            extent.lines.append((line, frames))
            extent.has_frames = extent.has_frames or any(f.func and f.reliable for f in frames)
            extent.has_leftovers = extent.has_leftovers or any(f.func for f in frames)
            if gap == 0 and line.text:
                extent.end = line.end
        if _END_TRACE.search(line.text):
            gap_limit = 4
        if (
            gap > gap_limit
            or len(extent.lines) >= MAX_REPORT_LINES
            or (not other and _LAST.search(line.text))
        ):
            return extent
    return extent


def _is_part(rule: Rule, of: Rule, extent: _Extent) -> bool:
    """Whether a header line of ``rule`` inside a report of ``of`` belongs to that report."""
    if "*" in rule.part_of or not rule.part_of.isdisjoint(extent.ids):
        return True
    # The code that dumps a stalled processor's stack may itself warn, on that very stack.
    return of.where is Where.TICK and not extent.has_frames and rule.id.startswith("warn")


# ---- frames -------------------------------------------------------------------------------------

_AT = re.compile(r"(?:^|[, ])at: (?:\[<\s*[0-9a-f]+\s*>\]\s*)?(?P<func>[A-Za-z_][\w.]*)(?:\+0x| )")
_AT_NEXT = re.compile(r"^\s*(?:\[<\s*[0-9a-f]+\s*>\]\s*)?(?P<func>[A-Za-z_][\w.]*)\+0x")


def _lock_frames(extent: _Extent) -> list[Frame]:
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


def _find_frame(header: _Header, extent: _Extent) -> Frame | None:
    """The frame to blame, from where the rule says it stands."""
    rule = header.rule
    where = rule.where
    stacks = collect_stacks(extent.lines)
    if where in (Where.STALL, Where.TICK):
        pc = first_pc(extent.lines)
        for stack in stacks:
            frames = [pc, *stack.frames] if pc is not None and stack is stacks[0] else stack.frames
            frame = operation(frames, interrupted=where is Where.TICK)
            if frame is not None:
                return frame
        return None
    announced = where in (Where.HEAD, Where.PC, Where.TRACE, Where.SLEEP)
    every = [stack for stack in stacks if stack.announced]
    stacks = own_stacks(stacks, announced=announced)
    if where is Where.SLEEP:
        return blocked(stacks[0].frames) if stacks else None
    candidates: list[Frame] = []
    bad_pc = False
    if where in (Where.HEAD, Where.HEAD_FIRST) and header.match.groupdict().get("func"):
        candidates = list(parse_frame(header.match.string[header.match.start("func") :]))
    elif where is Where.PC:
        pc = first_pc(extent.lines)
        candidates = [pc] if pc is not None else []
        bad_pc = pc is not None and pc.func is None
    elif where is Where.LOCK:
        candidates = _lock_frames(extent)
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
_WARN_LINE = re.compile(r"CPU(?:: |#)(?P<cpu>\d{1,5})(?: PID: \d+ at|: (?P<task>[^/]{1,40})/\d+)?")
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
_NUMBER = re.compile(r"(?<![A-Za-z_\d.-])\d{2,}(?![A-Za-z_\d])|(?<==)\d+")


def _plain(text: str) -> str:
    """Free text of a header without what differs from run to run."""
    return _NUMBER.sub("NUM", _ADDR.sub("ADDR", _OFFSET.sub("", text))).strip()


@dataclass(frozen=True, slots=True)
class _Who:
    """Task and processor of a report; ``mixed`` when two tasks speak in it."""

    task: str | None
    cpu: int | None
    mixed: bool


def _who(header: _Header, extent: _Extent) -> _Who:
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


def _fields(header: _Header, extent: _Extent) -> tuple[dict[str, str], str]:
    """Values for the title, and why the report is corrupted if one is missing."""
    fields = {k: _plain(v) for k, v in header.match.groupdict().items() if v}
    for pattern in header.rule.more:
        for line, _ in extent.lines:
            match = pattern.search(line.text)
            if match is not None:
                fields.update({k: v for k, v in match.groupdict().items() if v})
                break
        else:
            return fields, f"no line matches {pattern.pattern!r}"
    return fields, ""


_SEPARATOR = re.compile(r"^\s*(?:[-=*]{6,}.*|-+\[ cut here.*)?$")


def _torn(log: bytes, header: _Header, extent: _Extent) -> str:
    """Why the report's stack is not all there, else empty."""
    if header.rule.where is Where.NONE or header.rule.stackless:
        return ""
    if not (extent.has_frames or (extent.has_leftovers and header.rule.where is Where.PC)):
        return "no stack"
    at_end = extent.end == len(log) and log[-1:] != b"\n"
    if extent.cut_at is None and not at_end:
        return ""
    for line, frames in reversed(extent.lines):
        if not _SEPARATOR.match(line.text):
            if frames and not any(ROOT.match(frame.func or "") for frame in frames):
                return "its stack breaks off"
            break
    return ""


class _Missing(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "corrupted" if key == "frame" else ""


def _format(form: str, fields: dict[str, str]) -> str:
    return " ".join(form.format_map(_Missing(fields)).split())


def _build(log: bytes, header: _Header, extent: _Extent) -> Report:
    rule = header.rule
    fields, reason = _fields(header, extent)
    if rule.where is not Where.NONE:
        frame = _find_frame(header, extent)
        if frame is not None and frame.func is not None:
            fields["frame"] = frame.func
        else:
            reason = reason or "no frame that is to blame"
    who = _who(header, extent)
    reason = reason or rule.torn or _torn(log, header, extent)
    if not reason and who.mixed:
        reason = "output of another task is mixed into it"
    if reason and extent.cut_at is not None:
        reason += f"; cut off by another report at byte {extent.cut_at}"
    names: tuple[str, ...] = ()
    if "frame" in fields:
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
        signature=_signature(_format(rule.sig or rule.title, fields)),
    )


def _reports(log: bytes) -> Iterator[tuple[Rule, Report]]:
    absorbed: set[int] = set()
    seen = False
    for header in _headers(log):
        if header.line.start in absorbed:
            absorbed.discard(header.line.start)
            continue
        # Its cause stands before it, further up than a report reaches.
        if seen and header.rule.id == "panic-after":
            continue
        extent = _gather(log, header)
        absorbed.update(extent.absorbed)
        seen = True
        yield header.rule, _build(log, header, extent)
