# SPDX-License-Identifier: GPL-2.0-only
import itertools

import pytest

from harness.kloglines import MAX_LINE_BYTES, MAX_TEXT_CHARS, iter_lines, line_bounds, split_line


def texts(raw: bytes) -> list[str]:
    return [line.text for line in split_line(raw, 0, len(raw))]


@pytest.mark.parametrize(
    "raw",
    [
        b"BUG: foo",
        b"BUG: foo\r\n",
        b"[    1.234567] BUG: foo\n",
        b"<4>[    1.234567] BUG: foo\n",
        b"<4>BUG: foo\n",
        b"[    1.234567][  T123] BUG: foo\n",
        b"[    1.234567][    C0] BUG: foo\n",
        b"[  T123] BUG: foo\n",
        b"[ 1234.567890]  [4:SdpManagerServi: 3874] BUG: foo\n",
        b"Sep 23 02:31:17 host kernel: BUG: foo\n",
        b"Sep  3 02:31:17 host kernel: [    1.234567] BUG: foo\n",
        b"Sep 23 02:31:17 host kern.err kernel: [    1.234567] BUG: foo\n",
        b"2026-01-02T03:04:05.678901+01:00 host kernel: BUG: foo\n",
        b"2026-01-02 03:04:05 BUG: foo\n",
        b"[Thu Nov 21 01:37:11 2024] BUG: foo\n",
        b"\x1b[1;31m[    1.234567] \x1b[0mBUG: foo\x1b[K\n",
        b"\0\0[    1.234567] BUG: foo\n",
    ],
)
def test_what_loggers_wrap_around_a_message_is_taken_off(raw: bytes) -> None:
    assert texts(raw)[-1] == "BUG: foo"


def test_caller_is_kept_as_context() -> None:
    task, interrupt = b"[    1.234567][  T123] a", b"[    1.234567][    C2] a"
    assert split_line(task, 0, len(task))[0].ctx == "T123"
    assert split_line(interrupt, 0, len(interrupt))[0].ctx == "C2"


def test_line_says_whether_it_is_stamped() -> None:
    assert [split_line(raw, 0, len(raw))[0].stamped for raw in (b"[    1.000000] a", b"a")] == [
        True,
        False,
    ]


def test_messages_that_share_a_line_are_parted() -> None:
    raw = b"login: [    1.000000] one[    2.000000] two\n"
    assert texts(raw) == ["login:", "one", "two"]


def test_bare_carriage_return_parts_messages_but_the_one_at_the_end_does_not() -> None:
    assert texts(b"one\rtwo\r\n") == ["one", "two"]


def test_spans_cover_the_line_without_gaps() -> None:
    raw = b"login: [    1.000000] one[    2.000000] two\n"
    lines = split_line(raw, 0, len(raw))
    assert [line.start for line in lines[1:]] == [line.end for line in lines[:-1]]
    assert (lines[0].start, lines[-1].end) == (0, len(raw))


def test_broken_utf8_shows_as_escapes() -> None:
    assert texts(b"caf\xe9\n") == ["caf\\xe9"]


def test_long_message_is_cut() -> None:
    assert len(texts(b"x" * 3000)[0]) == MAX_TEXT_CHARS


def test_bounds_stay_near_the_place_in_a_log_without_newlines() -> None:
    log = b"x" * 100_000
    assert line_bounds(log, 50_000) == (50_000 - MAX_LINE_BYTES, 50_000 + MAX_LINE_BYTES)


def test_bounds_are_those_of_the_line() -> None:
    log = b"one\ntwo\nthree"
    assert line_bounds(log, 5) == (4, 8)
    assert line_bounds(log, 9) == (8, 13)


def test_iterating_covers_the_whole_log() -> None:
    log = b"one\n\ntwo\r\n" + b"x" * 10_000 + b"\nlast"
    lines = list(iter_lines(log, 0, len(log)))
    assert lines[0].start == 0
    assert lines[-1].end == len(log)
    assert all(a.end == b.start for a, b in itertools.pairwise(lines))
