# SPDX-License-Identifier: GPL-2.0-only
import pytest

from harness.klogextent import (
    MAX_GAP_LINES,
    MAX_REPORT_LINES,
    Extent,
    find_headers,
    gather,
    match_header,
)

HEADER = "BUG: KASAN: use-after-free in foo+0x1/0x2"
HARMLESS = "all is well now\n"
STACK = "Call Trace:\n foo+0x1/0x2\n bar+0x1/0x2\n"


def extent_of(log: str) -> Extent:
    """The extent of the first report."""
    return gather(log.encode(), next(find_headers(log.encode())))


def span_of(log: str) -> str:
    header = next(find_headers(log.encode()))
    return log[header.line.start : extent_of(log).end]


def test_most_special_row_takes_the_header() -> None:
    found = match_header(
        "WARNING: CPU: 0 PID: 1 at lib/refcount.c:19 refcount_warn_saturate+0x1/0x2"
    )
    assert found is not None
    assert found[0].id == "warn-refcount"
    assert match_header("nothing of interest") is None


def test_quoted_header_is_none() -> None:
    assert match_header(f'write(1, "{HEADER}", 40) = 40') is None


def test_headers_are_found_in_order_wherever_they_stand_in_a_line() -> None:
    log = f"x\nlogin: [    1.000000] {HEADER}[    2.000000] kernel BUG at a.c:1!\n{HEADER}"
    assert [header.rule.id for header in find_headers(log.encode())] == ["kasan", "bug", "kasan"]


def test_harmless_lines_behind_a_report_are_not_part_of_it() -> None:
    report = f"{HEADER}\n{STACK}"
    assert span_of(f"before\n{report}{HARMLESS * 200}") == report


@pytest.mark.parametrize("strangers", [1, MAX_GAP_LINES - 1])
def test_report_goes_on_behind_a_few_strangers(strangers: int) -> None:
    log = f"{HEADER}\n{HARMLESS * strangers}{STACK}"
    assert span_of(log) == log


def test_report_does_not_go_on_behind_many() -> None:
    log = f"{HEADER}\n{HARMLESS * (MAX_GAP_LINES + 1)}{STACK}"
    assert span_of(log) == f"{HEADER}\n"


def test_mark_of_the_end_shortens_patience() -> None:
    report = f"{HEADER}\n{STACK}---[ end trace 0000000000000000 ]---\n"
    assert span_of(f"{report}{HARMLESS * 6}{STACK}") == report


def test_report_has_a_greatest_length() -> None:
    log = f"{HEADER}\n" + " foo+0x1/0x2\n" * (MAX_REPORT_LINES * 2)
    assert len(extent_of(log).lines) == MAX_REPORT_LINES


def test_next_report_ends_the_one_before() -> None:
    log = f"{HEADER}\n{STACK}kernel BUG at a.c:1!\n{STACK}"
    extent = extent_of(log)
    assert extent.cut_at == log.index("kernel BUG")
    assert extent.end == extent.cut_at


def test_parts_are_taken_in() -> None:
    log = f"BUG: kernel NULL pointer dereference, address: 0\nOops: 0000 [#1] SMP\n{STACK}"
    extent = extent_of(log)
    assert extent.cut_at is None
    assert extent.absorbed == [log.index("Oops")]
    assert extent.ids == {"fault-null", "oops"}


def test_report_of_one_line_does_not_cut_another_in_two() -> None:
    notice = "unregister_netdevice: waiting for lo to become free. Usage count = 6\n"
    log = f"INFO: task a:1 blocked for more than 120 seconds.\nCall Trace:\n{notice} foo+0x1/0x2\n"
    extent = extent_of(log)
    assert extent.has_frames
    assert extent.end == len(log)
    assert span_of(notice + STACK) == notice


def test_other_tasks_lines_are_passed_over() -> None:
    mine, other = "[    1.000000][   T1] ", "[    1.000000][   T2] "
    log = f"{mine}{HEADER}\n{other}Call Trace:\n{other} bar+0x1/0x2\n{mine} foo+0x1/0x2\n"
    extent = extent_of(log)
    assert [line.text for line, _ in extent.lines] == [HEADER, " foo+0x1/0x2"]


def test_many_reports_of_others_end_it() -> None:
    mine = "[    1.000000][   T1] "
    others = "".join(f"[    1.000000][   T{n}] {HEADER}\n" for n in range(2, 30))
    log = f"{mine}{HEADER}\n{others}{mine} foo+0x1/0x2\n"
    assert not extent_of(log).has_frames
