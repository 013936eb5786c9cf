# SPDX-License-Identifier: GPL-2.0-only
"""Where the reports of a log begin, and which lines belong to each.

A header is a line that a row of the table (:mod:`harness.klogrules`) recognises. What follows it
belongs to the report as long as it looks like the innards of one; lines of other tasks and
processors, where the kernel names them, are passed over. Some headers are parts of a report that
has already begun (an oops and the panic after it), and some stand in the middle of another's
report by accident.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from harness.klogframes import Frame, parse_frame
from harness.kloglines import Line, iter_lines, line_bounds, split_line
from harness.klogrules import RULES, Rule, Where

#: A report has at most this many lines; a kernel that dumps all tasks goes on for longer.
MAX_REPORT_LINES = 2000
#: Lines that look like no part of a report, in a row, after which it has ended.
MAX_GAP_LINES = 24
# The same after the mark that ends most reports.
_GAP_AFTER_END = 4
# What a line of user space, or of another task, counts in a gap.
_USER_SPACE_GAP, _OTHER_TASK_GAP = 0.25, 0.1
# Headers of other contexts that a report may run through before it is cut off: bounds the work
# on a log in which every line begins a report.
_MAX_FOREIGN = 8


@dataclass(frozen=True, slots=True)
class Header:
    """A line that begins a report, and the row that says so."""

    rule: Rule
    match: re.Match[str]
    line: Line


def _shortest(markers: set[str]) -> list[str]:
    """The markers without those that hold another marker."""
    return sorted(m for m in markers if not any(o != m and o in m for o in markers))


_MARKERS = _shortest({rule.marker for rule in RULES})
_NEEDLES = tuple(marker.encode() for marker in _MARKERS)
_ANY_MARKER = re.compile("|".join(map(re.escape, _MARKERS)))


def match_header(text: str) -> tuple[Rule, re.Match[str]] | None:
    """The first row of the table that sees the header of a report in a message."""
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


def find_headers(log: bytes) -> Iterator[Header]:
    for start, end in _marked_lines(log):
        for line in split_line(log, start, end):
            found = match_header(line.text)
            if found is not None:
                yield Header(*found, line)


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
# What comes with a stack of its own and is no report; it begins none, but ends one.
_NOTICE = re.compile(r"FAULT_INJECTION: forcing a failure|vmalloc: allocation failure:")
_LAST = re.compile(r"---\[ end Kernel panic|^Rebooting in \d")


@dataclass(slots=True)
class Extent:
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

    def take(self, line: Line, rule: Rule | None) -> bool:
        """Add a line, the header of ``rule`` if it is one; say whether it belongs here."""
        frames = parse_frame(line.text)
        self.lines.append((line, frames))
        self.has_frames = self.has_frames or any(f.func and f.reliable for f in frames)
        self.has_leftovers = self.has_leftovers or any(f.func for f in frames)
        if rule is not None:
            self.absorbed.append(line.start)
            self.ids.add(rule.id)
        elif not (frames or _BELONGS.match(line.text)):
            return False
        if line.text:
            self.end = line.end
        return True


def gather(log: bytes, header: Header) -> Extent:
    """The report's own lines, from the header to its end."""
    extent = Extent([(header.line, ())], header.line.end, {header.rule.id})
    if header.rule.alone:
        return extent
    foreign, gap = 0, 0.0
    gap_limit = MAX_GAP_LINES
    for line in iter_lines(log, header.line.start, len(log)):
        if line.start <= header.line.start:
            continue
        other = bool(header.line.ctx and line.ctx and line.ctx != header.line.ctx)
        found = match_header(line.text)
        if found is not None and not _is_part(found[0], header.rule, extent):
            if not other and not found[0].alone:
                extent.cut_at = line.start
                break
            foreign += 1
            if foreign > _MAX_FOREIGN:
                break
            continue
        if not other and extent.has_frames and _NOTICE.search(line.text):
            break
        if other:
            gap += _OTHER_TASK_GAP
        else:
            part = extent.take(line, found[0] if found is not None else None)
            stranger = _USER_SPACE_GAP if header.line.stamped and not line.stamped else 1
            gap = 0.0 if part else gap + stranger
            if _LAST.search(line.text) or len(extent.lines) >= MAX_REPORT_LINES:
                break
            if _END_TRACE.search(line.text):
                gap_limit = _GAP_AFTER_END
        if gap > gap_limit:
            break
    # What came after the last line that belongs is not read: the span alone must say the same.
    extent.lines = [pair for pair in extent.lines if pair[0].start < extent.end]
    return extent


def _is_part(rule: Rule, of: Rule, extent: Extent) -> bool:
    """Whether a header line of ``rule`` inside a report of ``of`` belongs to that report."""
    if "*" in rule.part_of or not rule.part_of.isdisjoint(extent.ids):
        return True
    # The code that dumps a stalled processor's stack may itself warn, on that very stack.
    return of.where is Where.TICK and not extent.has_frames and rule.id.startswith("warn")
