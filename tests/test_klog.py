# SPDX-License-Identifier: GPL-2.0-only
"""klog against logs of our own guests, and against what consoles do to logs.

Each log of tests/data/klog was printed by a guest in which the module of tests/data/klog/provoke
did one thing wrong. ``tools/klog_golden.py`` writes ``expected.json`` anew, for review.
"""

import dataclasses
import itertools
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.klog import Report, contains_report, parse

DATA = Path(__file__).parent / "data/klog"
LOGS = {path.name: path.read_bytes() for path in sorted(DATA.glob("*.log"))}
EXPECTED = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
HARMLESS = ("harmless.log", "out_of_memory.log")

thorough = settings(
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def titles(log: bytes) -> list[str]:
    return [report.title for report in parse(log)]


def check(log: bytes) -> None:
    """What holds for every input."""
    reports = parse(log)
    assert contains_report(log) == bool(reports)
    for report in reports:
        assert 0 <= report.start < report.end <= len(log)
        assert bool(report.reason) == report.corrupted
        assert report.title
        assert report.title not in report.alt
        assert report.title in titles(log[report.start : report.end])


# ---- recorded logs ------------------------------------------------------------------------------


def test_each_log_is_expected_to_hold_something() -> None:
    assert set(LOGS) == set(EXPECTED)


@pytest.mark.parametrize("name", LOGS)
def test_recorded_log_gives_the_expected_reports(name: str) -> None:
    found = [dataclasses.asdict(report) for report in parse(LOGS[name])]
    assert json.loads(json.dumps(found)) == EXPECTED[name]


@pytest.mark.parametrize("name", LOGS)
def test_invariants_hold_for_recorded_logs(name: str) -> None:
    check(LOGS[name])


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_log_holds_no_report(name: str) -> None:
    assert not contains_report(LOGS[name])


def test_first_report_names_what_was_provoked() -> None:
    """The functions of the module are called like the provocations."""
    provoked = [name for name in LOGS if name not in HARMLESS and not name.startswith("poolfs_")]
    named = [name for name in provoked if (parse(LOGS[name])[0].frame or "-") in name]
    assert len(named) > len(provoked) * 0.6


# ---- what consoles and loggers do to a log ------------------------------------------------------

STAMP = re.compile(rb"(?m)^\[ *\d+\.\d+\] ")


def _each_line(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda log: b"".join(change(line) for line in log.splitlines(keepends=True))


DISGUISES: dict[str, Callable[[bytes], bytes]] = {
    "no timestamps": lambda log: STAMP.sub(b"", log),
    "carriage returns": lambda log: log.replace(b"\r", b"").replace(b"\n", b"\r\n"),
    "colours": _each_line(lambda line: b"\x1b[32m" + line[:-1] + b"\x1b[0m\n"),
    "priorities": _each_line(lambda line: b"<4>" + line),
    "syslog": _each_line(lambda line: b"Nov 21 01:37:11 host kernel: " + line),
    "syslog without timestamps": lambda log: _each_line(
        lambda line: b"Nov 21 01:37:11 host kernel: " + line
    )(STAMP.sub(b"", log)),
    "journal": lambda log: _each_line(
        lambda line: b"2026-01-02T03:04:05.678901+0100 host kernel: " + line
    )(STAMP.sub(b"", log)),
    "dmesg -T": lambda log: STAMP.sub(b"[Thu Nov 21 01:37:11 2026] ", log),
    "caller ids": lambda log: STAMP.sub(lambda m: m[0].rstrip() + b"[  T123] ", log),
    "callers alone": lambda log: STAMP.sub(b"[  T123] ", log),
    "broken UTF-8 between": _each_line(lambda line: line + b"\xff\xfe\x80 caf\xe9\n"),
    "a login prompt before each line": _each_line(lambda line: b"host login: " + line),
    "nulls": _each_line(lambda line: b"\0\0" + line),
}


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("name", sorted(LOGS)[::5])
def test_disguised_log_gives_the_same_titles(name: str, disguise: str) -> None:
    if disguise == "a login prompt before each line" and name == "leak.log":
        pytest.skip("its lines are a program's and have no timestamp that ends the prompt")
    log = DISGUISES[disguise](LOGS[name])
    assert titles(log) == [report["title"] for report in EXPECTED[name]]


def _with_callers(log: bytes, caller: bytes) -> list[bytes]:
    return [
        STAMP.sub(lambda m: m[0].rstrip() + b"[" + caller + b"] ", line)
        for line in log.splitlines(keepends=True)
    ]


def test_two_processors_that_print_at_once_are_told_apart_by_their_callers() -> None:
    one = _with_callers(LOGS["kasan_oob_read.log"], b"   T11")
    two = _with_callers(LOGS["warn.log"], b"    C1")
    woven = b"".join(itertools.chain(*itertools.zip_longest(one, two, fillvalue=b"")))
    reports = parse(woven)
    assert sorted(report.title for report in reports) == [
        "KASAN: slab-out-of-bounds Read in kasan_oob_read",
        "WARNING in warn",
    ]
    assert not any(report.corrupted for report in reports)


def test_reports_that_two_processors_printed_at_once_are_whole() -> None:
    """Lines of both tasks alternate in the log; each report has the stack of its own task."""
    log = LOGS["two_at_once.log"]
    one, two = parse(log)
    assert max(one.start, two.start) < min(one.end, two.end)
    assert not one.corrupted
    assert not two.corrupted
    assert {(r.title, r.task, r.cpu) for r in (one, two)} == {
        ("KASAN: use-after-free Read in read_together", "two", 1),
        ("WARNING in warn_together", "one", 0),
    }
    # Without callers nobody could tell whose line it is, and the reader says so.
    mixed = re.sub(rb"\]\[ +[TC]\d+\]", b"]", log)
    assert any(report.corrupted for report in parse(mixed))


def test_two_tasks_that_cannot_be_told_apart_are_corrupted() -> None:
    log = LOGS["kasan_oob_read.log"].splitlines(keepends=True)
    head = next(n for n, line in enumerate(log) if b"BUG: KASAN" in line)
    other = LOGS["warn.log"]
    (first, second) = parse(b"".join(log[: head + 2]) + other)
    assert first.corrupted
    assert "cut off by another report" in first.reason
    assert second.title == "WARNING in warn"


def test_stack_of_another_task_is_noticed() -> None:
    log = LOGS["kasan_oob_read.log"]
    pid = re.search(rb"by task insmod/(\d+)", log)
    assert pid is not None
    mixed = log.replace(b" PID: " + pid[1], b" PID: 9999")
    assert parse(mixed)[0].reason == "output of another task is mixed into it"


@pytest.mark.parametrize("keep", [1, 3, 6])
def test_report_without_its_stack_is_corrupted(keep: int) -> None:
    log = LOGS["kasan_oob_read.log"].splitlines(keepends=True)
    head = next(n for n, line in enumerate(log) if b"BUG: KASAN" in line)
    (report,) = parse(b"".join(log[: head + keep]))
    assert report.corrupted


def test_log_that_ends_in_the_middle_of_a_stack_is_corrupted() -> None:
    log = LOGS["null_read_raw.log"]
    at = log.index(b"do_one_initcall")
    (report,) = parse(log[: log.index(b"+", at) + 12])
    assert report.reason == "its stack breaks off"


def test_output_of_programs_inside_a_stack_does_no_harm() -> None:
    lines = LOGS["kasan_oob_read.log"].splitlines(keepends=True)
    woven = b"".join(line + b"init: some program says something\n" for line in lines)
    assert titles(woven) == ["KASAN: slab-out-of-bounds Read in kasan_oob_read"]


# ---- what is one report, and what is none -------------------------------------------------------


def test_panic_belongs_to_its_oops() -> None:
    log = LOGS["null_read_raw.log"]
    assert b"Kernel panic - not syncing: Fatal exception" in log
    (report,) = parse(log)
    assert b"Kernel panic" in log[report.start : report.end]


def test_panic_far_behind_its_oops_is_no_report_either() -> None:
    log = LOGS["warn.log"] + b"[    9.000000] harmless\n" * 100
    log += b"[    9.500000] Kernel panic - not syncing: Fatal exception\n"
    assert titles(log) == ["WARNING in warn"]


def test_consequence_without_its_cause_is_a_corrupted_report() -> None:
    (report,) = parse(b"[    9.500000] Kernel panic - not syncing: Fatal exception in interrupt\n")
    assert report.title == "kernel panic: Fatal exception"
    assert report.corrupted


def test_reports_one_after_the_other_are_all_found() -> None:
    log = LOGS["warn.log"] + LOGS["list_del_twice.log"] + LOGS["null_read_raw.log"]
    assert len(parse(log)) == 3


def test_complaint_that_is_a_prelude_comes_last() -> None:
    log = LOGS["sysfs_duplicate.log"] + LOGS["warn.log"]
    first, second = parse(log)
    assert first.start > second.start
    assert first.title == "WARNING in warn"


def test_destroyed_cache_is_one_report() -> None:
    log = LOGS["slab_objects_remain.log"]
    assert b"Slab cache still has objects" in log
    assert b"WARNING: CPU" in log
    assert titles(log) == ["BUG: Objects remaining in provoke_pool on __kmem_cache_shutdown()"]


@pytest.mark.parametrize(
    "line",
    [
        b'write(2, "BUG: KASAN: use-after-free in foo+0x1/0x2\\n", 42) = 42',
        b"WARNING: /etc/ssh/moduli does not exist, using fixed modulus",
        b"WARNING: the mand mount option is being deprecated and",
        b"INFO: lockdep is turned off.",
        b"FAULT_INJECTION: forcing a failure.",
        b"Out of memory: Killed process 100 (dd) total-vm:1kB",
        b"a[1]: segfault at 4cb420 ip 00000000004cb420 sp 00007f27fd37a250 error 15",
        b"traps: a[1] general protection fault ip:400 sp:7ff error:0 in a[400000+1000]",
        b"kmem_cache_create(foo) failed with error -12",
        b"printk: 12 messages suppressed.",
        b"",
    ],
)
def test_line_is_no_report(line: bytes) -> None:
    assert parse(b"[    1.000000] " + line + b"\n") == ()


def test_injected_fault_is_no_report() -> None:
    log = (
        b"[    1.000000] FAULT_INJECTION: forcing a failure.\n"
        b"[    1.000001] name failslab, interval 1, probability 0, space 0, times 0\n"
        b"[    1.000002] CPU: 1 PID: 10708 Comm: a Not tainted 6.1.0 #1\n"
        b"[    1.000003] Call Trace:\n"
        b"[    1.000004]  dump_stack_lvl+0x1/0x2\n"
        b"[    1.000005]  should_fail+0x1/0x2\n"
        b"[    1.000006]  kmem_cache_alloc+0x1/0x2\n"
    )
    assert parse(log) == ()


def test_report_with_the_stack_of_an_injected_fault_in_it_is_corrupted() -> None:
    lines = LOGS["kasan_oob_read.log"].splitlines(keepends=True)
    head = next(n for n, line in enumerate(lines) if b"Call Trace" in line)
    stamp = lines[head][: lines[head].index(b"]") + 2]
    lines.insert(head + 1, stamp + b" should_fail+0x8c0/0xa40\n")
    (report,) = parse(b"".join(lines))
    assert report.reason == "the stack of an injected fault is mixed into it"


# ---- signatures ---------------------------------------------------------------------------------


def signature(text: str) -> str:
    (report,) = parse(text.encode())
    return report.signature


def test_age_of_the_wording_does_not_change_the_signature() -> None:
    form = "BUG: KASAN: {} in foo+0x1/0x2\nRead of size 8 by task a/1\nCall Trace:\n foo+0x1/0x2\n"
    assert signature(form.format("use-after-free")) == signature(form.format("slab-use-after-free"))
    assert signature(form.format("double-free")) == signature(
        form.format("double-free or invalid-free")
    )
    trace = "Call Trace:\n foo+0x1/0x2\n"
    old = f"[ INFO: suspicious RCU usage. ]\n{trace}"
    assert signature(old) == signature(f"WARNING: suspicious RCU usage\n{trace}")
    fault = "RIP: 0010:foo+0x1/0x2\n" + trace
    assert signature("BUG: unable to handle kernel paging request at ff\n" + fault) == signature(
        "BUG: unable to handle page fault for address: ff\n" + fault
    )


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("BUG: x at 0xffff8880deadbeef", "BUG: x at ADDR"),
        ("BUG: x in foo+0x12/0x40", "BUG: x in foo"),
        ("BUG: ret=-12 (5 of 32)", "BUG: ret=-NUM (NUM of NUM)"),
        ("BUG: x at fs/foo.c:12", "BUG: x at fs/foo.c:LINE"),
        ("BUG: ext4_x86 v6.1.2 int3", "BUG: ext4_x86 v6.1.2 int3"),
        ("IPv6: BUG: Address fc00:: on device lo", "BUG: Address IPV6ADDR on device lo"),
        ("IPv6: BUG: fe80::5054:ff:fe12:3456 x", "BUG: IPV6ADDR x"),
        ("BUG: crate::path x:y 12:34", "BUG: crate::path x:y NUM:NUM"),
    ],
)
def test_title_holds_nothing_that_differs_from_run_to_run(text: str, title: str) -> None:
    (report,) = parse(text.encode() + b"\n")
    assert report.title == title


def test_build_does_not_change_title_or_signature() -> None:
    one = LOGS["kasan_oob_read.log"]
    two = one.replace(b"kasan_oob_read+0x", b"kasan_oob_read.isra.0.cold+0x1")
    assert two != one
    assert [(r.title, r.signature) for r in parse(two)] == [
        (r.title, r.signature) for r in parse(one)
    ]


def test_report_is_a_value() -> None:
    (report,) = parse(LOGS["warn.log"])
    assert report == parse(LOGS["warn.log"])[0]
    assert isinstance(hash(report), int)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.title = "x"  # type: ignore[misc]
    assert {field.name for field in dataclasses.fields(Report)} == {
        "title", "alt", "type", "frame", "task", "cpu", "corrupted", "reason", "start", "end",
        "signature",
    }  # fmt: skip


# ---- anything at all ----------------------------------------------------------------------------

recorded = st.sampled_from(sorted(LOGS)).map(LOGS.__getitem__)
FRAGMENTS = [
    b"\n", b"\r", b"[    1.000000] ", b"[    1.000000][   T1] ", b"[    1.000000][   C1] ",
    b"BUG: KASAN: use-after-free in foo+0x1/0x2", b"Read of size 8 by task a/1",
    b"Call Trace:", b" foo+0x1/0x2", b" ? bar+0x1/0x2", b" <IRQ>", b" </TASK>",
    b"WARNING: CPU: 0 PID: 1 at a.c:1 foo+0x1/0x2", b"------------[ cut here ]------------",
    b"kernel BUG at a.c:1!", b"general protection fault: 0000 [#1] SMP", b"RIP: 0010:0xffff",
    b"INFO: task a:1 blocked for more than 120 seconds.", b"Kernel panic - not syncing: x",
    b"Kernel panic - not syncing: Fatal exception", b"rcu: INFO: rcu_sched self-detected stall on",
    b" CPU", b"unregister_netdevice: waiting for a to become free", b"x is trying to acquire lock:",
    b"WARNING: possible circular locking dependency detected", b" (a){+.+.}, at: foo+0x1/0x2",
    b"list_del corruption. ", b"sysfs: cannot create duplicate filename '/a'", b"\xff\xfe",
    b"BUG: Bad page state in process a", b"---[ end trace 0 ]---", b"\x1b[31m", b"\0",
]  # fmt: skip


@thorough
@given(st.binary(max_size=400))
def test_random_bytes(log: bytes) -> None:
    check(log)


@thorough
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=60).map(b"".join))
@example(b"WARNING: CPU: 0 PID: 1 at a.c:1 foo+0x1/0x2")
def test_random_fragments_of_reports(log: bytes) -> None:
    check(log)


@thorough
@given(recorded, st.data())
def test_cut_out_piece_of_a_log(log: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(log)))
    end = data.draw(st.integers(start, len(log)))
    check(log[start:end])


@thorough
@given(recorded, recorded, st.integers(0, 2**32), st.sampled_from(("shuffle", "weave", "drop")))
def test_lines_in_any_order(one: bytes, two: bytes, seed: int, how: str) -> None:
    pick = random.Random(seed)
    lines = one.splitlines(keepends=True)[:200]
    if how == "shuffle":
        pick.shuffle(lines)
    elif how == "weave":
        for line in two.splitlines(keepends=True)[:200]:
            lines.insert(pick.randint(0, len(lines)), line)
    else:
        lines = [line for line in lines if pick.random() < 0.7]
    check(b"".join(lines))


@thorough
@given(recorded, st.lists(st.tuples(st.integers(0, 20_000), st.binary(max_size=3)), max_size=20))
def test_damaged_bytes(log: bytes, damage: list[tuple[int, bytes]]) -> None:
    broken = bytearray(log)
    for at, content in damage:
        broken[at : at + 3] = content
    check(bytes(broken))


HEADER = b"[    1.000000][    T1] BUG: KASAN: use-after-free in foo+0x1/0x2\n"


@pytest.mark.parametrize(
    "unit",
    [
        b"A", b" ", b"\n", b"\r", b"[<[<[ ] ? ", b"[    1.000000]", b" foo+0x1/0x2\n",
        b"<a::b::c::d>::", b" <a::b::c::d>::\n", b"a(", b"(((", b"at: ", b"BUG: ", b"[ BUG: ",
        b"general protection fault ", b"_R" + b"N" * 40, b"\x1b[", b"\x1b]", HEADER,
    ],
)  # fmt: skip
def test_hostile_repetition_is_survived(unit: bytes) -> None:
    check(HEADER + (unit * (20_000 // len(unit)))[:20_000])
