# SPDX-License-Identifier: GPL-2.0-only
import pytest

from harness.klogframes import (
    Frame,
    collect_stacks,
    first_pc,
    is_mark,
    is_trace_start,
    own_stacks,
    parse_frame,
    parse_pc,
    strip_suffix,
)
from harness.kloglines import Line


def lines(text: str) -> list[tuple[Line, tuple[Frame, ...]]]:
    return [(Line(0, 0, "", line, True), parse_frame(line)) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("line", "frame"),
    [
        (" foo+0x1a/0x80", Frame("foo")),
        ("  ? foo+0x1a/0x80", Frame("foo", reliable=False)),
        (" foo+0x1a/0x80 [bar]", Frame("foo", module="bar")),
        (" foo+0x1a/0x80 [bar 0123456789abcdef]", Frame("foo", module="bar")),
        (" [<ffffffff81234567>] foo+0x1a/0x80", Frame("foo")),
        (" [<ffffffff81234567>] ? foo+0x1a/0x80", Frame("foo", reliable=False)),
        ("    [<(____ptrval____)>] foo+0x1a/0x80", Frame("foo")),
        (" <IRQ>  [<ffffffff81234567>] foo+0x1a/0x80", Frame("foo")),
        (" foo.isra.0.cold+0x1a/0x80 file.c:12", Frame("foo")),
        (" 0xffffffffa0001234", Frame(None, addr="ffffffffa0001234")),
        ("  ? 0xffffffffa0001234", Frame(None, reliable=False, addr="ffffffffa0001234")),
        # powerpc
        ("[c000000012345678] [c0000000008abcde] .foo+0x1a/0x80", None),
        ("[c000000012345678] [c0000000008abcde] foo+0x1a/0x80 (unreliable)",
         Frame("foo", reliable=False)),
        # after symbolisation
        (" foo include/linux/foo.h:12 [inline]", Frame("foo")),
        (" [<     inline     >] foo include/linux/foo.h:12", Frame("foo")),
        # Rust
        (" <a::b::Type as c::Trait>::call+0x1a/0x80", Frame("<a::b::Type as c::Trait>::call")),
        (" _RNvMs_CsAB_4demoNtB4_4Type4call+0x1a/0x80", Frame("<demo::Type>::call")),
    ],
)  # fmt: skip
def test_frame_is_read(line: str, frame: Frame | None) -> None:
    assert parse_frame(line) == (() if frame is None else (frame,))


def test_arm_line_holds_frame_and_caller() -> None:
    line = "[<80b12478>] (dump_stack) from [<801349a8>] (panic+0x104/0x2cc)"
    assert parse_frame(line) == (Frame("dump_stack"), Frame("panic"))
    assert parse_frame(" dump_stack from panic+0x104/0x2cc") == (
        Frame("dump_stack"),
        Frame("panic"),
    )


@pytest.mark.parametrize(
    "line",
    [
        "RAX: 0000000000000000 RBX: ffff88811d7373f8",
        "Code: 8b 0b 49 81 c6 f8 03 00 00",
        "Modules linked in: foo bar",
        "Hardware name: QEMU Standard PC",
        "foo: loaded at 12:30",
        "invalid mapping:0000000000001234",
        "",
    ],
)
def test_other_lines_hold_no_frame(line: str) -> None:
    assert parse_frame(line) == ()


@pytest.mark.parametrize(
    ("line", "frame"),
    [
        ("RIP: 0010:foo+0x1a/0x80", Frame("foo")),
        ("RIP: 0010:foo+0x1a/0x80 [bar]", Frame("foo", module="bar")),
        ("RIP: 0010:[<ffffffff81234567>]  [<ffffffff81234567>] foo+0x1a/0x80", Frame("foo")),
        ("RIP: 0010:0xffffffffa0001234", Frame(None, addr="ffffffffa0001234")),
        ("RIP: 0010:          (null)", Frame(None, addr="0")),
        ("RIP: 0010:0x0", Frame(None, addr="0")),
        ("RIP: 0033:0x7f3", None),
        ("EIP: foo+0x1a/0x80", Frame("foo")),
        ("EIP: 0073:[<b7701c29>]", None),
        ("pc : foo+0x1a/0x80", Frame("foo")),
        ("PC is at foo+0x1a/0x80", Frame("foo")),
        ("PC is at 0xffffffffdeadbeef", Frame(None, addr="ffffffffdeadbeef")),
        ("pc : [<ffffffffdeadbeef>] lr : [<ffffff90080ed944>] pstate: 60400145",
         None),
        ("NIP [c0000000008abcde] foo+0x1a/0x80", Frame("foo")),
        ("epc : foo+0x1a/0x80 ra : bar+0x1/0x2", Frame("foo")),
        ("Krnl PSW : 0404c00180000000 00000000001a2b3c (foo+0x1a/0x80)", Frame("foo")),
        ("lr : foo+0x1a/0x80", None),
    ],
)  # fmt: skip
def test_program_counter_is_read_unless_it_is_a_users(line: str, frame: Frame | None) -> None:
    assert parse_pc(line) == frame


@pytest.mark.parametrize(
    ("name", "stripped"),
    [
        ("foo.isra.0", "foo"),
        ("foo.constprop.12.isra.3", "foo"),
        ("foo.part.0.cold", "foo"),
        ("foo.cold.78", "foo"),
        ("foo.llvm.1234567890", "foo"),
        ("__pfx_foo", "foo"),
        ("foo.7", "foo"),
        ("foo", "foo"),
    ],
)
def test_suffixes_of_the_compiler_go(name: str, stripped: str) -> None:
    assert strip_suffix(name) == stripped


def test_traces_and_marks_are_known() -> None:
    starts = ("Call Trace:", "Call trace:", "Backtrace: ", "  backtrace (crc c9a1c131):")
    assert all(is_trace_start(text) for text in (*starts, "stack backtrace:"))
    assert not is_trace_start("Tracer: no call")
    assert all(is_mark(text) for text in (" <TASK>", " </IRQ>", " <#DF>", " <NMI>"))
    assert not is_mark(" foo+0x1/0x2")


REPORT = """\
RIP: 0010:first+0x1/0x2
Call Trace:
 <IRQ>
 a+0x1/0x2
 ? b+0x1/0x2
 </IRQ>
RIP: 0010:interrupted+0x1/0x2
RSP: 0018:ffff8801999a67c0 EFLAGS: 00000286
 c+0x1/0x2

Allocated by task 1:
 d+0x1/0x2
"""


def test_stack_goes_on_behind_registers_and_ends_at_the_next_heading() -> None:
    stacks = collect_stacks(lines(REPORT))
    assert [[frame.func for frame in stack.frames] for stack in stacks] == [
        ["a", "b", "interrupted", "c"],
        ["d"],
    ]
    assert [stack.intro for stack in stacks] == ["Call Trace:", "Allocated by task 1:"]


def test_first_program_counter_is_that_of_the_report() -> None:
    assert first_pc(lines(REPORT)) == Frame("first")
    assert first_pc(lines("nothing here")) is None


def test_stack_survives_two_strangers_but_not_three() -> None:
    two = lines("Call Trace:\n a+0x1/0x2\nx\ny\n b+0x1/0x2")
    three = lines("Call Trace:\n a+0x1/0x2\nx\ny\nz\n b+0x1/0x2")
    assert len(collect_stacks(two)) == 1
    assert len(collect_stacks(three)) == 2


def test_announced_stacks_speak_first() -> None:
    stacks = collect_stacks(lines("page_owner\n a+0x1/0x2\nCPU: 1\nx:\nCall Trace:\n b+0x1/0x2"))
    assert [stack.frames[0].func for stack in own_stacks(stacks, announced=True)] == ["b", "a"]
    assert [stack.frames[0].func for stack in own_stacks(stacks, announced=False)] == ["a", "b"]


def test_stack_of_leftovers_is_not_usable() -> None:
    stacks = collect_stacks(lines("Call Trace:\n ? a+0x1/0x2\n ? b+0x1/0x2"))
    assert own_stacks(stacks, announced=True) == []
