# SPDX-License-Identifier: GPL-2.0-only
"""Linux console logs: find every report, name it, say where it lies. Bytes in, values out.

``parse(log)`` returns the reports of a log in the order in which they begin. What a report is and
how it is called stands in the table of :mod:`harness.klogrules`; which function of a stack is to
blame, in :mod:`harness.klogframes`; this module finds headers, gathers each report's lines and
puts title, frame and span together.

Reading a log costs one substring search per marker over the bytes, plus work on the lines that
hold a marker and on those of the reports; so a long harmless log costs next to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from harness.klogframes import (
    GENERIC,
    Frame,
    guilty,
    is_mark,
    is_trace_start,
    parse_frame,
    parse_pc,
    simplify,
    strip_suffix,
)
from harness.kloglines import Line, iter_lines, line_bounds, split_line
from harness.klogrules import RULES, Rule, Where
from harness.klogstall import blocked_frame, stalled_frame

#: A report has at most this many lines; a kernel that dumps all tasks goes on for longer.
MAX_REPORT_LINES = 2000
#: Lines that look like no part of a report, in a row, after which it has ended.
MAX_GAP_LINES = 24
# Headers of other contexts that a report may run through before it is cut off: bounds the work
# on a log in which every line begins a report.
_MAX_FOREIGN = 8


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


@dataclass(slots=True)
class _Stack:
    """Consecutive frames; ``intro`` is the line that announced them."""

    intro: str
    is_trace: bool
    frames: list[Frame] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Header:
    rule: Rule
    match: re.Match[str]
    line: Line


def contains_report(log: bytes) -> bool:
    """Whether :func:`parse` would find a report."""
    return next(_reports(log), None) is not None


def parse(log: bytes) -> tuple[Report, ...]:
    """All reports of ``log``, in the order in which they begin. Never raises."""
    return tuple(_reports(log))


# ---- headers ------------------------------------------------------------------------------------

_RULES_BY_MARKER: dict[str, tuple[Rule, ...]] = {}
for _rule in RULES:
    _RULES_BY_MARKER[_rule.marker] = (*_RULES_BY_MARKER.get(_rule.marker, ()), _rule)
_ORDER = {id(rule): n for n, rule in enumerate(RULES)}


def _search_strings() -> tuple[bytes, ...]:
    """The markers, without those that hold another marker."""
    markers = sorted(_RULES_BY_MARKER, key=len)
    kept: list[str] = []
    for marker in markers:
        if not any(shorter in marker for shorter in kept):
            kept.append(marker)
    return tuple(marker.encode() for marker in kept)


_SEARCH = _search_strings()


def _match_header(text: str) -> tuple[Rule, re.Match[str]] | None:
    """The first row of the table that sees a header in ``text``."""
    candidates = [
        rule for marker, rules in _RULES_BY_MARKER.items() if marker in text for rule in rules
    ]
    if not candidates:
        return None
    candidates.sort(key=lambda rule: _ORDER[id(rule)])
    for rule in candidates:
        match = rule.head.search(text)
        if match is not None:
            if rule.unless is not None and rule.unless.search(text):
                return None
            return rule, match
    return None


def _marked_lines(log: bytes) -> Iterator[tuple[int, int]]:
    """Bounds of the physical lines that hold a marker, in order."""
    nexts = {needle: log.find(needle) for needle in _SEARCH}
    nexts = {needle: at for needle, at in nexts.items() if at >= 0}
    pos = 0
    while nexts:
        at = min(nexts.values())
        start, end = line_bounds(log, at)
        start = max(start, pos)
        yield start, end
        pos = end
        for needle, found in list(nexts.items()):
            if found < pos:
                found = log.find(needle, pos)
                if found < 0:
                    del nexts[needle]
                else:
                    nexts[needle] = found


def _headers(log: bytes) -> Iterator[_Header]:
    for start, end in _marked_lines(log):
        for line in split_line(log, start, end):
            found = _match_header(line.text)
            if found is not None:
                yield _Header(*found, line)


# ---- extent -------------------------------------------------------------------------------------

_BELONGS = re.compile(
    r"^\s{0,4}$|^\s{0,16}(?:"
    r"(?:[ER]?[A-Z][A-Z0-9]{1,3}|[xrX]\d{1,2}|sp|lr|pc|fp|ip|psr|pstate|gp|tp|[ast]\d{1,2}|epc|status|"
    r"ORIG_RAX|EFLAGS|CS|CR\d|DR\d|FS|GS|PKRU|NIP|LR|CTR|MSR|CFAR|IRQMASK|GPR\d\d)\s?:\s{0,8}[\[<(]?[0-9a-fx*(]"
    r"|[RE]IP|Code\b|CPU|Hardware name|Modules linked in|Call |Backtrace|Stack|Process |task:|Workqueue|Tainted"
    r"|---\[|[-=*]{6,}|\[?[<0-9a-f]{6,}|[0-9a-f]{2}(?: [0-9a-f]{2}){3}|[>^]|>?[0-9a-f]{8,16}:|#\d|->"
    r"|(?:Read|Write) of size|Allocated by|[Ff]reed by|The buggy|Memory state|page[: ]|raw:|flags:|head:|which |allocated |object |Object |located |Last potentially|Second to last"
    r"|\w{1,40} (?:is trying|lock)|but task|other info|the existing|stack backtrace|lock\(|<Interrupt>|CPU\d|\d+ locks? held|irq event|(?:hard|soft)irqs last|to a |.{0,60}\}, at: |Possible |Chain exists|\(.{1,80}\)\{|"
    r"|PGD|P4D|PUD|#PF|Oops|Internal error|Mem abort|ESR|EC =|SET =|EA =|FSC|Data abort|ISV|CM =|\[[0-9a-f]{8,16}\]|invalid opcode|KASAN: |Dumping ftrace|\(ftrace|Kernel Offset|Kernel panic|Rebooting in|SMP: stopping|Fixing recursive|note:|BUG|INFO:|WARNING|list_|rcu|NMI|Sending NMI|Showing|in_atomic|preempt_count|RCU nest|Preemption disabled|\"echo|disabling|comm |hex dump|backtrace|kobject|Slab |Padding|Redzone|Bytes|FIX |Disabling|\(detected|\d+-"
    r")"
)
_END_TRACE = re.compile(r"---\[ end (?:trace|Kernel panic)")
_LAST = re.compile(r"---\[ end Kernel panic|^Rebooting in \d")


@dataclass(slots=True)
class _Extent:
    lines: list[Line]
    end: int
    #: Starts of later header lines that are parts of this report.
    absorbed: list[int]
    #: Rows of the table that the report's header and its absorbed lines match.
    ids: set[str]
    #: Header of another report that cut this one off, if one did.
    cut_by: _Header | None = None
    #: The log ended inside the report.
    at_eof: bool = False


def _gather(log: bytes, header: _Header) -> _Extent:
    """The report's own lines, from the header to its end."""
    own = header.line.ctx
    extent = _Extent([header.line], header.line.end, [], {header.rule.id})
    foreign = 0
    gap = 0.0
    gap_limit = MAX_GAP_LINES
    for line in iter_lines(log, header.line.start, len(log)):
        if line.start <= header.line.start:
            continue
        if len(extent.lines) >= MAX_REPORT_LINES:
            return extent
        other = bool(own and line.ctx and line.ctx != own)
        found = _match_header(line.text)
        if found is not None and not _is_part(found[0], extent):
            if not other:
                extent.cut_by = _Header(*found, line)
                return extent
            foreign += 1
            if foreign > _MAX_FOREIGN:
                return extent
        if other:
            gap += 1
            if gap > 10 * MAX_GAP_LINES:
                return extent
            continue
        extent.lines.append(line)
        if found is not None:
            extent.absorbed.append(line.start)
            extent.ids.add(found[0].id)
        if header.line.stamped and not line.stamped and found is None:
            gap += 0.25
        elif found is not None or _BELONGS.match(line.text) or parse_frame(line.text):
            extent.end = line.end
            gap = 0
        else:
            gap += 1
        if _LAST.search(line.text):
            return extent
        if _END_TRACE.search(line.text):
            gap_limit = 4
        if gap > gap_limit:
            return extent
    extent.at_eof = True
    return extent


def _is_part(rule: Rule, extent: _Extent) -> bool:
    """Whether a header line of ``rule`` inside a report belongs to that report."""
    return "*" in rule.part_of or not rule.part_of.isdisjoint(extent.ids)


# ---- stacks -------------------------------------------------------------------------------------

_REGISTERS = re.compile(
    r"^\s{0,8}(?:Code|RSP|R[A-D]X|R\d\d|RBP|FS|GS|CS|CR\d|DR\d|PKRU|ORIG_RAX|EAX|ESI|DS|ESP|[xr]\d+ ?):"
)


def _stacks(lines: list[Line]) -> list[_Stack]:
    """All stacks of a report, in order."""
    stacks: list[_Stack] = []
    current: _Stack | None = None
    intro = ""
    misses = 0
    for line in lines:
        text = line.text
        if is_trace_start(text):
            current = _Stack(text, True)
            stacks.append(current)
            misses = 0
            tail = text.partition(":")[2]
            frames = parse_frame(tail) if tail.strip() else ()
        else:
            frames = parse_frame(text)
        if frames:
            if current is None:
                current = _Stack(intro, False)
                stacks.append(current)
            current.frames.extend(frames)
            misses = 0
            continue
        if current is not None:
            pc = parse_pc(text)
            if pc is not None:
                current.frames.append(pc)
            elif text and not (
                is_mark(text)
                or _REGISTERS.match(text)
                or is_trace_start(text)
                or (lines[0].stamped and not line.stamped)
            ):
                misses += 1
                if misses > 2 or text.endswith(":") or not current.frames:
                    if not (current.is_trace and not current.frames and misses <= 2):
                        current = None
        intro = text or intro
    return stacks


def _first_pc(lines: list[Line]) -> Frame | None:
    for line in lines:
        pc = parse_pc(line.text)
        if pc is not None:
            return pc
    return None


def _trace(stacks: list[_Stack]) -> list[Frame]:
    """The stack of the report itself: the first that is announced as one and has frames."""
    for stack in stacks:
        if stack.is_trace and any(frame.func and frame.reliable for frame in stack.frames):
            return stack.frames
    for stack in stacks:
        if any(frame.func and frame.reliable for frame in stack.frames):
            return stack.frames
    return []


_AT = re.compile(r"(?:, |^|\s)at: (?:\[<\s*[0-9a-f]+\s*>\]\s*)?(?P<func>[A-Za-z_][\w.]*)(?:\+0x| )")
_AT_NEXT = re.compile(r"^\s*(?:\[<\s*[0-9a-f]+\s*>\]\s*)?(?P<func>[A-Za-z_][\w.]*)\+0x")


def _lock_frame(lines: list[Line], stacks: list[_Stack]) -> Frame | None:
    """Where the first lock that the report names was taken or released."""
    for n, line in enumerate(lines):
        match = _AT.search(line.text)
        if match is None and line.text.rstrip().endswith(" at:") and n + 1 < len(lines):
            match = _AT_NEXT.match(lines[n + 1].text)
        if match is not None:
            frame = Frame(strip_suffix(match["func"]))
            if guilty([frame], GENERIC):
                return frame
            break
    return None


def _find_frame(header: _Header, extent: _Extent) -> Frame | None:
    """The frame to blame, by the rule's ``where``."""
    rule = header.rule
    skips = (GENERIC, rule.skip) if rule.skip is not None else (GENERIC,)
    stacks = _stacks(extent.lines)
    if rule.where is Where.HEAD:
        func = header.match.groupdict().get("func")
        if func:
            frame = guilty([Frame(strip_suffix(func))], *skips)
            if frame is not None:
                return frame
    elif rule.where is Where.PC:
        pc = _first_pc(extent.lines)
        if pc is not None:
            frame = guilty([pc], *skips)
            if frame is not None:
                return frame
    elif rule.where is Where.LOCK:
        frame = _lock_frame(extent.lines, stacks)
        if frame is not None:
            return frame
    elif rule.where is Where.STALL:
        return stalled_frame(_first_pc(extent.lines), [stack.frames for stack in stacks])
    elif rule.where is Where.SLEEP:
        return blocked_frame(_trace(stacks))
    if rule.first_stack:
        return guilty([frame for stack in stacks for frame in stack.frames][:64], *skips)
    return guilty(_trace(stacks), *skips)


# ---- putting a report together ------------------------------------------------------------------

_CPU_LINE = re.compile(
    r"CPU: (?P<cpu>\d{1,5}) (?:UID: \d+ )?PID: \d+ Comm: (?P<task>.{1,40}?)(?: Not tainted| Tainted|$)"
)
_WARN_LINE = re.compile(r"CPU(?:: |#)(?P<cpu>\d{1,5})(?: PID: \d+ at|: (?P<task>[^/]{1,40})/\d+)?")
_TASK_LINES = (
    re.compile(r"INFO: task (?P<task>.{1,40}):\d+ (?:blocked|can't die)"),
    re.compile(r" by task (?P<task>.{1,40})/\d+$"),
    re.compile(r"stuck for \d+s! \[(?P<task>.{1,40}):\d+\]"),
    re.compile(r"^\s*comm \"(?P<task>[^\"]{1,40})\", pid"),
    re.compile(r"^(?P<task>\S{1,40})/\d+ is (?:trying|freeing|leaving)"),
)
_ADDR = re.compile(r"\b(?:0x)?(?=[0-9a-f]*\d)[0-9a-f]{8,16}\b|\b0x[0-9a-f]+\b")
_OFFSET = re.compile(r"\+0x[0-9a-f]+(?:/0x[0-9a-f]+)?")
_NUMBER = re.compile(r"(?<![A-Za-z_\d.-])\d{2,}(?![A-Za-z_\d])|(?<==)\d+")


def _plain(text: str) -> str:
    """Free text of a header without what differs from run to run."""
    text = _OFFSET.sub("", text)
    text = _ADDR.sub("ADDR", text)
    return _NUMBER.sub("NUM", text).strip()


def _who(header: _Header, lines: list[Line]) -> tuple[str | None, int | None]:
    """Task and processor of the report."""
    task: str | None = None
    cpu: int | None = None
    groups = header.match.groupdict()
    if groups.get("cpu"):
        cpu = int(groups["cpu"])
    for pattern in _TASK_LINES:
        for line in lines[:12]:
            match = pattern.search(line.text)
            if match is not None:
                task = task or match["task"]
                break
    for line in lines:
        match = _CPU_LINE.search(line.text)
        if match is not None:
            own = task is None or task == match["task"]
            task = task or match["task"]
            if cpu is None and own:
                cpu = int(match["cpu"])
            break
    if cpu is None:
        match = _WARN_LINE.search(header.line.text)
        if match is not None:
            cpu = int(match["cpu"])
            task = task or match["task"]
    return task, cpu


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


_SIGN = (
    (re.compile(r"\bslab-use-after-free\b"), "use-after-free"),
    (re.compile(r"\b(?:double-free|invalid free)\b"), "invalid-free"),
    (re.compile(r"\d+"), "N"),
)


def _signature(text: str) -> str:
    for pattern, replacement in _SIGN:
        text = pattern.sub(replacement, text)
    return text


def _fields(header: _Header, extent: _Extent) -> tuple[dict[str, str], str]:
    """Values for the title, and why the report is corrupted if one is missing."""
    fields = {k: _plain(v) for k, v in header.match.groupdict().items() if v}
    for pattern in header.rule.more:
        for line in extent.lines:
            match = pattern.search(line.text)
            if match is not None:
                fields.update({k: v for k, v in match.groupdict().items() if v})
                break
        else:
            return fields, f"no line matches {pattern.pattern!r}"
    return fields, ""


def _report(log: bytes, header: _Header, extent: _Extent) -> Report:
    rule = header.rule
    fields, reason = _fields(header, extent)
    alt: list[str] = []
    names: tuple[str, ...] = ()
    name: str | None = fields.get("frame")
    if rule.where is not Where.NONE:
        frame = _find_frame(header, extent)
        if frame is not None and frame.func is not None:
            name, names = simplify(frame.func)
        elif not reason:
            reason = "no frame that is to blame"
            if extent.cut_by is not None:
                reason += f"; cut off by another report at byte {extent.cut_by.line.start}"
            elif extent.at_eof:
                reason += "; the log ends inside the report"
    elif name:
        name, names = simplify(name)
    fields["frame"] = name or "corrupted"
    title = _format(rule.title, fields)
    for form in rule.alt:
        alt.append(_format(form, fields))
    for other in names:
        for form in (rule.title, *rule.alt):
            alt.append(_format(form, {**fields, "frame": other}))
    task, cpu = _who(header, extent.lines)
    return Report(
        title=title,
        alt=tuple(dict.fromkeys(form for form in alt if form != title)),
        type=_type(rule, fields),
        frame=name,
        task=task,
        cpu=cpu,
        corrupted=bool(reason),
        reason=reason,
        start=header.line.start,
        end=extent.end,
        signature=_signature(_format(rule.sig or rule.title, fields)),
    )


class _Missing(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return ""


def _format(form: str, fields: dict[str, str]) -> str:
    return " ".join(form.format_map(_Missing(fields)).split())


def _reports(log: bytes) -> Iterator[Report]:
    absorbed: set[int] = set()
    seen = False
    for header in _headers(log):
        if header.line.start in absorbed:
            absorbed.discard(header.line.start)
            continue
        if seen and header.rule.id == "panic-after":
            continue
        extent = _gather(log, header)
        absorbed.update(extent.absorbed)
        seen = True
        yield _report(log, header, extent)
