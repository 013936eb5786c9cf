# SPDX-License-Identifier: GPL-2.0-only
"""The timeline: what has a time on record is placed, what has none is said."""

import json
from typing import Any

import pytest

from harness import timeline
from harness.errors import GuestError
from harness.timeline import Bar, Mark, Row, Step

PROGRAM = """\
kmod-program 1
setup
op setup[0] ok - 0 mkdir /mnt 0755
end
actor cycler process 0 actors[0] 5 -
op actors[0].do[0] ok - 0 finit_module /payload/m.ko % -
op actors[0].do[1] EAGAIN ok 0 delete_module m nonblock
end
"""

WARNING = (
    b"[    7.050000][   T43] ------------[ cut here ]------------\n"
    b"[    7.050100][   T43] WARNING: CPU: 0 PID: 43 at kernel/m.c:5 broken_fn+0x1/0x2\n"
    b"[    7.050200][   T43] CPU: 0 PID: 43 Comm: cycler Tainted: G           O       6.1.1 #1\n"
    b"[    7.050300][   T43] RIP: 0010:broken_fn+0x1/0x2\n"
    b"[    7.050400][   T43] Call Trace:\n"
    b"[    7.050500][   T43]  <TASK>\n"
    b"[    7.050600][   T43]  broken_fn+0x1/0x2\n"
    b"[    7.050700][   T43]  </TASK>\n"
    b"[    7.050800][   T43] ---[ end trace 0000000000000000 ]---\n"
)


def lines(*events: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


START = {"ev": "start", "program": "p", "seed": 1, "us": 7_000_000}
LIFE = {"ev": "life", "module": "m", "number": 1, "base": "0x1", "size": 5,
        "loaded_us": 7_010_000, "unloaded_us": 7_040_000}  # fmt: skip
OPEN = {**LIFE, "number": 2, "loaded_us": 7_045_000}
del OPEN["unloaded_us"]
DONE = {"ev": "done", "actor": "cycler", "iterations": 5}
END = {"ev": "end", "us": 7_090_000, "ok": True}


def read(title: str, *events: dict[str, Any], console: bytes = b"") -> timeline.Timeline:
    found = timeline.read(title, PROGRAM, console, lines(*events))
    assert found is not None
    return found


def test_lives_actors_and_the_finding_on_the_task_that_it_hit() -> None:
    line = read("WARNING in broken_fn", START, DONE, LIFE, OPEN, END, console=WARNING)
    assert line.rows == (
        Row("m", "module", (Bar(7_010_000, 7_040_000, "life 1", "life"),
                            Bar(7_045_000, None, "life 2, not unloaded", "life"))),
        Row("cycler", "actor", (Bar(7_000_000, None, "5 rounds", "run"),),
            (Mark(7_050_100, "WARNING in broken_fn", finding=True),)),
    )  # fmt: skip
    assert (line.begin_us, line.end_us) == (7_000_000, 7_090_000)


def test_a_report_of_another_task_gets_a_row_of_its_own() -> None:
    line = read("WARNING in broken_fn", START, END,
                console=WARNING.replace(b"cycler", b"kworker"))  # fmt: skip
    assert line.rows[-1].name == "kworker"
    assert line.rows[-1].sort == "kernel"
    assert [mark.us for mark in line.rows[-1].marks] == [7_050_100]


def test_what_the_audit_saw_is_placed_at_the_end_and_said_to_be() -> None:
    residue = {"ev": "residue", "section": "slab", "sign": "+", "line": "m_inode"}
    line = read("residue: slab cache m_inode", START, LIFE, residue, END)
    assert line.rows[-1] == Row("audit", "kernel", (), (
        Mark(7_090_000, "residue: slab cache m_inode (seen by then)", finding=True),
    ))  # fmt: skip
    assert "after unload: + slab m_inode" in line.notes


def test_after_a_panic_the_console_stands_in() -> None:
    console = b"[    7.020000][   T43] m: loading out-of-tree module taints kernel.\n" + WARNING
    line = read("WARNING in broken_fn", START, console=console)
    assert line.rows[0] == Row("m", "module", (), (
        Mark(7_020_000, "first load, says the console"),
    ))  # fmt: skip
    assert not line.summed
    assert line.rows[1].bars[0].label == "its end is not on record"
    assert line.end_us == 7_050_800
    assert line.notes[-1] == "The guest did not live to report the end of the program."


def test_a_long_audit_does_not_squeeze_what_came_before() -> None:
    line = read("WARNING in broken_fn", START, LIFE, {**END, "us": 99_000_000}, console=WARNING)
    assert line.end_us == 7_050_100
    assert line.notes[-1] == "The program and the audit after it ended at 92000 ms."


def test_a_task_that_a_plan_held() -> None:
    parked = {"ev": "parked", "plan": "p", "actor": "cycler", "us": 7_020_000}
    kernel = {**parked, "actor": "kernel", "thread": "kworker/0:1"}
    let_go = {"ev": "let-go", "took_us": 9_000}
    line = read("x", START, parked, let_go, END)
    assert line.rows[0].bars[1] == Bar(7_020_000, 7_029_000, "held: p", "hold")
    line = read("x", START, kernel, END)
    assert line.rows[1] == Row("kworker/0:1", "kernel", (
        Bar(7_020_000, None, "held: p", "hold"),
    ))  # fmt: skip


def test_operations_stand_in_the_order_of_the_program_with_what_they_returned() -> None:
    errnos = {"ev": "errnos", "actor": "cycler", "where": "actors[0].do[1]",
              "op": "delete_module", "counts": {"EAGAIN": 4, "ok": 1}}  # fmt: skip
    line = read("x", START, errnos, END)
    assert line.summed
    assert line.steps == (
        Step("setup", "setup[0]", "mkdir /mnt 0755", ""),
        Step("cycler", "actors[0].do[0]", "finit_module /payload/m.ko % -", ""),
        Step("cycler", "actors[0].do[1]", "delete_module m nonblock", "EAGAIN ×4, ok ×1"),
    )


def test_what_has_no_time_is_told_in_words() -> None:
    at = {"actor": "a", "where": "w"}
    line = read(
        "x", START,
        {"ev": "unexpected", "op": "delete_module m", "errno": "ok", **at},
        {"ev": "data", "op": "pread", **at},
        {"ev": "inside", "module": "m", "by": "remover", **at},
        {"ev": "hang", "op": "umount /mnt", **at},
        {"ev": "died", "signal": "SIGSEGV", "wanted": False, **at},
        {"ev": "died", "signal": "SIGKILL", "wanted": True, **at},
    )  # fmt: skip
    assert line.notes == (
        "a at w: delete_module m returned ok, which is not allowed",
        "a at w: pread read other bytes than were written",
        "a at w: inside m when remover unloaded it",
        "a at w: umount /mnt did not return",
        "a at w: died of SIGSEGV",
        "The guest did not live to report the end of the program.",
    )


def test_many_notes_are_counted() -> None:
    line = read("x", START, *[{"ev": "data", "op": "pread"}] * 50)
    assert len(line.notes) == 42
    assert line.notes[40] == "10 more are in report.jsonl"


def test_nothing_with_a_time_is_no_timeline() -> None:
    assert timeline.read("x", PROGRAM, b"", lines(END)) is None
    assert timeline.read("x", PROGRAM, b"", b"") is None


def test_a_report_that_is_none_is_the_guests_trouble() -> None:
    with pytest.raises(GuestError):
        timeline.read("x", PROGRAM, b"", b"junk\n")


@pytest.mark.parametrize("us", ["7", -1, 1.5, 10**30, None, True, [], {}])
def test_a_time_that_is_none_is_passed_over(us: object) -> None:
    assert timeline.read("x", PROGRAM, b"", lines({**START, "us": us})) is None
    line = read("x", START, {**LIFE, "loaded_us": us}, {**LIFE, "unloaded_us": us},
                {"ev": "parked", "actor": "cycler", "us": us}, {"ev": ["x"]},
                {"ev": "errnos", "where": us, "counts": us})  # fmt: skip
    assert line.rows[0].bars == (Bar(7_010_000, None, "life 1, not unloaded", "life"),)
