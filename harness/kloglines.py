# SPDX-License-Identifier: GPL-2.0-only
"""Console bytes to logical lines: everything that consoles and loggers wrap around a message.

A *physical* line ends at ``\\n``. Consoles mix several messages into one (two processors print at
once, a message without its newline is followed by the next, a login prompt stands before it), so
a physical line is cut into *logical* lines at each printk timestamp and at each bare ``\\r``.
A logical line carries the bytes it came from, the context that printed it where the kernel says
so (``CONFIG_PRINTK_CALLER``: ``[ T123]`` for a task, ``[ C0]`` for a processor in an interrupt),
and the message itself.

All expressions here are matched at a position or search for a delimiter that cannot nest, so the
time is proportional to the input.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

# A console line is at most LOG_LINE_MAX (1024) bytes in the kernel plus prefixes; what is longer
# is not one message, and is read in pieces of this size.
MAX_LINE_BYTES = 4096
# Only this much of a message is looked at: enough for the longest header with its prefixes.
MAX_TEXT_CHARS = 1024

# Terminal escapes: CSI sequences, OSC titles, two-character escapes; and what a UART invents.
_JUNK = re.compile(
    rb"\x1b\[[0-9;?]{0,32}[@-~]|\x1b\][^\x07\n]{0,128}\x07|\x1b[@-Z\\-_=>78c]|[\0\b]"
)
# printk's timestamp, with the caller (PRINTK_CALLER) or the "[cpu:comm: pid]" of vendor kernels.
_STAMP = re.compile(
    rb"(?:<\d{1,3}>)?\[\s{0,8}\d{1,8}\.\d{3,9}\](?:\[\s{0,8}(?P<ctx>[TC]\d{1,10})\])?"
    rb"(?:\s{0,4}\[\d{1,4}:[^\]\n]{1,32}:\s{0,6}\d{1,8}\])?"
)
# Priority alone, as /proc/kmsg and `dmesg -r` write it; caller alone, with printk.time=0.
_BARE = re.compile(rb"(?:<\d{1,3}>)?(?:\[\s{0,8}(?P<ctx>[TC]\d{1,10})\] )?")
# syslog ("Sep 23 02:31:17 host kernel: "), journalctl -o short-iso, go's log package, `dmesg -T`.
_LOGGER = re.compile(
    rb"(?:<\d{1,3}>)?(?:\d{1,10} )?"
    rb"(?:"
    rb"(?:[A-Z][a-z]{2} [ \d]\d |\d{4}[-/]\d\d[-/]\d\d[T ])\d\d:\d\d:\d\d(?:[.,]\d{1,9})?"
    rb"(?:Z|[+-]\d\d:?\d\d)?"
    rb"|\d\d:\d\d:\d\d(?:[.,]\d{1,9})?"
    rb"|\[[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}\]"
    rb")\s{1,3}"
    rb"(?:[\w.:-]{1,64} (?:[\w.]{1,24} )?kernel(?:\[\d{1,8}\])?: ?)?"
)


@dataclass(frozen=True, slots=True)
class Line:
    """One message as printed: ``start``/``end`` are byte offsets in the log."""

    start: int
    end: int
    #: ``T<pid>`` or ``C<cpu>`` where the kernel prints its caller, else empty.
    ctx: str
    text: str
    #: The message carries a printk timestamp.
    stamped: bool = False


def decode(raw: bytes) -> str:
    """Bytes of a message as text; broken UTF-8 shows as ``\\xNN``."""
    return raw.decode("utf-8", "backslashreplace")


def line_bounds(log: bytes, pos: int) -> tuple[int, int]:
    """Start and end (after the newline) of the physical line that holds ``pos``.

    Both lie within MAX_LINE_BYTES of ``pos``, so that a log without newlines costs no more.
    """
    floor = max(0, pos - MAX_LINE_BYTES)
    start = log.rfind(b"\n", floor, pos) + 1
    ceiling = min(len(log), pos + MAX_LINE_BYTES)
    end = log.find(b"\n", pos, ceiling)
    return max(start, floor), (ceiling if end < 0 else end + 1)


def split_line(log: bytes, start: int, end: int) -> list[Line]:
    """The logical lines of the physical line ``log[start:end]``, in order."""
    raw = log[start:end]
    cuts = [m.start() for m in _STAMP.finditer(raw)]
    if raw.find(b"\r", 0, len(raw.rstrip(b"\r\n"))) >= 0:
        cuts += [m.end() for m in re.finditer(rb"\r+(?=[^\r\n])", raw)]
        cuts.sort()
    if not cuts or cuts[0] != 0:
        cuts.insert(0, 0)
    cuts.append(len(raw))
    lines = []
    for a, b in itertools.pairwise(cuts):
        if a == b:
            continue
        ctx, stamped, text = _clean(raw[a:b])
        if text or len(cuts) == 2:
            lines.append(Line(start + a, start + b, ctx, text, stamped))
    return lines


def _clean(raw: bytes) -> tuple[str, bool, str]:
    """Context, whether it is stamped, and message of one logical line."""
    if b"\x1b" in raw or b"\0" in raw or b"\b" in raw:
        raw = _JUNK.sub(b"", raw)
    head = _STAMP.match(raw)
    if head is None:
        logger = _LOGGER.match(raw)
        if logger is not None:
            raw = raw[logger.end() :]
        head = _STAMP.match(raw)
    stamped = head is not None
    if head is None:
        head = _BARE.match(raw)
    ctx = ""
    if head is not None:
        ctx = (head["ctx"] or b"").decode("ascii")
        raw = raw[head.end() :]
        if raw[:1] == b" ":
            raw = raw[1:]
    return ctx, stamped, decode(raw[:MAX_TEXT_CHARS]).rstrip()


def iter_lines(log: bytes, start: int, stop: int) -> Iterator[Line]:
    """Logical lines of the physical lines that begin in ``[start, stop)``."""
    pos = start
    while pos < stop:
        end = log.find(b"\n", pos, min(len(log), pos + MAX_LINE_BYTES))
        end = min(len(log), pos + MAX_LINE_BYTES) if end < 0 else end + 1
        yield from split_line(log, pos, end)
        pos = end
