# SPDX-License-Identifier: GPL-2.0-only
import json
import re

import pytest

from harness import klog, verdict
from harness.errors import GuestError
from harness.machine import EXECUTOR_DONE
from harness.verdict import Evidence, Kind

LOADED = {"ev": "loaded", "module": "foo", "loaded": 1, "unloaded": 1}
NEEDED = {"ev": "errnos", "where": "needs[0]", "op": "finit_module", "counts": {"ok": 1}}
AUDITED = {"ev": "audited", "sections": 3}
DETECTORS = {"ev": "detectors", "lockdep": 1, "printk_lost": 0}
END = {"ev": "end", "us": 1, "ok": True}
OOPS = b"""[    1.000000] BUG: kernel NULL pointer dereference, address: 0000000000000000
[    1.000001] #PF: supervisor read access in kernel mode
[    1.000002] #PF: error_code(0x0000) - not-present page
[    1.000003] Oops: 0000 [#1] PREEMPT SMP KASAN
[    1.000004] CPU: 0 PID: 77 Comm: user Tainted: G           O       6.1.0 #1
[    1.000005] RIP: 0010:foo_read+0x1a/0x40 [foo]
[    1.000006] Call Trace:
[    1.000007]  <TASK>
[    1.000008]  vfs_read+0x1a/0x40
[    1.000009]  </TASK>
[    1.000010] ---[ end trace 0000000000000000 ]---
"""


def evidence(
    *events: dict, console: bytes = b"", status: int | None = EXECUTOR_DONE, cut: bytes = b""
) -> Evidence:
    report = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    return Evidence(console, report + cut, status, 60.0)


def titles(*events: dict, **rest: object) -> list[tuple[Kind, str]]:
    found = verdict.judge(evidence(*events, **rest))  # type: ignore[arg-type]
    return [(finding.kind, finding.title) for finding in found]


def test_complete_evidence_without_a_finding_passes() -> None:
    assert titles(LOADED, AUDITED, DETECTORS, END) == []


def test_module_is_loaded_beside_what_it_needs() -> None:
    assert titles({**LOADED, "loaded": 2}, NEEDED, AUDITED, DETECTORS, END) == []


def test_report_on_the_console_is_a_finding() -> None:
    assert titles(LOADED, console=OOPS, status=0) == [
        (Kind.SPLAT, "BUG: unable to handle kernel NULL pointer dereference in foo_read")
    ]


KNOWN = (("BUG: unable to handle .* in foo_read", r"last unloaded|task sh/\d+|foo_read"),)


def test_report_of_the_kernels_own_is_no_finding() -> None:
    ended = evidence(LOADED, AUDITED, DETECTORS, END, console=OOPS)
    assert verdict.judge(ended)
    assert verdict.judge(ended, known=KNOWN) == ()
    # Both the whole title and something of the text must be as it is known.
    assert verdict.judge(ended, known=[("BUG", "foo_read")])
    assert verdict.judge(ended, known=[(KNOWN[0][0], "another_module")])


def test_finding_that_comes_again_stays_where_it_was_first() -> None:
    again = OOPS + UNWINDER.replace(b"proc_pid_stack", b"foo_show") + OOPS
    found = verdict.judge(evidence(LOADED, AUDITED, DETECTORS, END, console=again))
    assert [finding.title for finding in found] == [
        "BUG: unable to handle kernel NULL pointer dereference in foo_read",
        "KASAN: stack-out-of-bounds Read in unwind_next_frame",
    ]
    assert found[0].detail.count("RIP: ") == 1


UNWINDER = b"""[   10.395206][   T54] ===========================================
[   10.395206][   T54] BUG: KASAN: stack-out-of-bounds in unwind_next_frame+0xea/0x94a
[   10.395206][   T54] Read of size 8 at addr ffffc9000028fac0 by task remover/54
[   10.395206][   T54] Call Trace:
[   10.395206][   T54]  <TASK>
[   10.395206][   T54]  dump_stack_lvl+0x4c/0x5f
[   10.395206][   T54]  print_report+0x160/0x47a
[   10.395206][   T54]  kasan_report+0x9c/0xbb
[   10.395206][   T54]  unwind_next_frame+0xea/0x94a
[   10.395206][   T54]  arch_stack_walk+0xa7/0xb8
[   10.395206][   T54]  stack_trace_save_tsk+0x99/0xc6
[   10.395206][   T54]  proc_pid_stack+0x95/0xfa
[   10.395206][   T54]  proc_single_show+0x8d/0xa7
[   10.395206][   T54]  </TASK>
[   10.395206][   T54] ==================================================================
"""


def test_stack_that_changed_while_it_was_read_is_nobodys_mistake() -> None:
    ended = (LOADED, AUDITED, DETECTORS, END)
    assert titles(*ended, console=UNWINDER) == []
    # Somebody else's unwinding is another matter.
    other = UNWINDER.replace(b"proc_pid_stack", b"foo_show")
    assert titles(*ended, console=other) == [
        (Kind.SPLAT, "KASAN: stack-out-of-bounds Read in unwind_next_frame")
    ]


def test_lockdep_is_spent_by_a_report_of_the_kernels_own() -> None:
    spent = evidence(LOADED, AUDITED, {**DETECTORS, "lockdep": 0}, END, console=OOPS)
    assert verdict.judge(spent, known=KNOWN) == ()


@pytest.mark.parametrize(
    ("event", "wanted"),
    [
        ({"ev": "unexpected", "op": "mount none", "errno": "ENOMEM"},
         (Kind.ERRNO, "errno: mount returned ENOMEM")),
        ({"ev": "unexpected", "op": "delete_module foo", "errno": "ok"},
         (Kind.ERRNO, "unloaded while in use: delete_module succeeded")),
        ({"ev": "data", "op": "pread 0", "offset": 3},
         (Kind.DATA, "lost data: pread returned other bytes")),
        ({"ev": "hang", "op": "umount /mnt"}, (Kind.HANG, "hang: umount did not return")),
        ({"ev": "residue", "section": "slab", "sign": "+", "line": "foo"},
         (Kind.RESIDUE, "residue: slab cache foo")),
        ({"ev": "inside", "module": "foo", "stack": "[<0>] 0xffffffffa0000010"},
         (Kind.INSIDE, "unloaded under task of foo")),
    ],
)  # fmt: skip
def test_event_becomes_a_finding(event: dict, wanted: tuple[Kind, str]) -> None:
    assert titles(LOADED, event, END) == [wanted]


@pytest.mark.parametrize(("wanted", "count"), [(False, 1), (True, 0)])
def test_task_that_died_without_a_report(wanted: bool, count: int) -> None:
    event = {"ev": "died", "op": "read 0", "signal": "SIGSEGV", "wanted": wanted}
    found = titles(LOADED, event, AUDITED, DETECTORS, END)
    assert found == [(Kind.DIED, "died: SIGSEGV during read")] * count


def test_task_inside_an_unloaded_module_is_named_by_function() -> None:
    event = {"ev": "inside", "module": "foo", "stack": "[<0>] 0xffffffffa0000010"}
    found = verdict.judge(
        evidence(LOADED, event, END), lambda module, address: f"foo_store+{address & 0xFFF:#x}"
    )
    assert [finding.title for finding in found] == ["unloaded under task in foo_store"]


def test_same_title_is_one_finding() -> None:
    event = {"ev": "unexpected", "op": "mount none", "errno": "ENOMEM"}
    assert len(titles(LOADED, event, event, END)) == 1


def test_guest_that_stops_answering_is_a_hang() -> None:
    assert titles(LOADED, status=None) == [(Kind.HANG, "hang: guest stopped answering")]


def test_report_cut_off_by_a_panic_is_read_as_far_as_it_goes() -> None:
    assert len(titles(LOADED, console=OOPS, status=0, cut=b'{"ev":"er')) == 1


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ((), "ended with QEMU's status"),
        ((END,), "module was never loaded"),
        (({**LOADED, "loaded": 0}, AUDITED, DETECTORS, END), "module was never loaded"),
        ((LOADED, NEEDED, AUDITED, DETECTORS, END), "module was never loaded"),
        ((LOADED, DETECTORS, END), "residue was not looked for"),
        ((LOADED, AUDITED, END), "no detectors"),
        (({"ev": "bad-program", "line": 3, "why": "no such op"},), "refused line 3: no such op"),
        ((LOADED, AUDITED, DETECTORS, {"ev": "truncated"}, END), "report was cut off"),
        ((LOADED, AUDITED, {**DETECTORS, "lockdep": 0}, END), "lockdep switched itself off"),
        ((LOADED, AUDITED, {**DETECTORS, "printk_lost": 4}, END), "lost 4 console messages"),
        ((LOADED, AUDITED, DETECTORS, {"ev": "leaks", "alive": False, "errno": "EPERM"}, END),
         "kmemleak did not work: EPERM"),
        (({"ev": "trouble", "what": "fork", "errno": "EAGAIN"}, LOADED, END),
         "trouble: fork EAGAIN"),
    ],
)  # fmt: skip
def test_missing_evidence_is_an_error_and_never_a_pass(events: tuple, why: str) -> None:
    with pytest.raises(GuestError, match=why):
        titles(*events)


@pytest.mark.parametrize("line", [b"nonsense", b"[" * 200_000], ids=["no-json", "deep"])
def test_line_that_is_no_event(line: bytes) -> None:
    shown = re.escape(line[:20].decode())
    with pytest.raises(GuestError, match=f"has a line that is none: {shown}"):
        verdict.parse_report(line + b"\n")


LEAK = """unreferenced object 0xff110000040d09b0 (size 1112):
  comm "cycler", pid 42, jiffies 4294898880
  hex dump (first 32 bytes):
    ed 01 00 00 00 00 00 00 00 00 00 04 00 00 00 00  ................
  backtrace:
    [<(____ptrval____)>] kmem_cache_alloc_lru+0xf7/0x123
    [<(____ptrval____)>] 0xffffffffa00001e2
    [<(____ptrval____)>] do_one_initcall+0xc3/0x320
"""


def test_leak_is_named_after_the_module_that_is_gone() -> None:
    gone = evidence(LOADED, AUDITED, DETECTORS, {"ev": "leak", "text": LEAK}, END)
    name = "foo_alloc+0x12/0x40 [foo, 1st load, unloaded]"
    (found,) = verdict.judge(gone, lambda module, at: name if at == 0xFFFFFFFFA00001E2 else None)
    assert found.title == "memory leak in foo_alloc"
    assert name in found.detail
    assert "0xff110000040d09b0" in found.detail
    (found,) = verdict.judge(gone)
    assert found.title == "memory leak in do_one_initcall"


def test_count_of_leaks_is_no_finding_beside_the_leaks() -> None:
    console = b"[   60.000000] kmemleak: 2 new suspected memory leaks (see /sys/kernel/debug)\n"
    assert titles(
        LOADED, AUDITED, DETECTORS, {"ev": "leak", "text": LEAK}, END, console=console
    ) == [(Kind.LEAK, "memory leak in do_one_initcall")]
    assert titles(LOADED, AUDITED, DETECTORS, END, console=console) == [
        (Kind.SPLAT, klog.LEAK_COUNT)
    ]


def test_length_of_a_trial_is_from_its_actors_to_the_last_unload() -> None:
    begun = {"ev": "schedule", "begun": True, "over": True, "at": 100_000}
    lives = [
        {"ev": "life", "loaded_us": 2000, "unloaded_us": 150_000},
        {"ev": "life", "loaded_us": 151_000},
    ]
    assert verdict.length_us(evidence(begun, *lives)) == 51_000
    # All that there was of it was the setup.
    assert verdict.length_us(evidence(begun, {"ev": "life", "loaded_us": 2000})) == 20_000


@pytest.mark.parametrize(
    "events",
    [
        (),
        ({"ev": "life", "loaded_us": 2000, "unloaded_us": 150_000},),
        ({"ev": "schedule", "begun": False, "at": 0},),
    ],
)
def test_trial_that_ended_at_once_counts_as_a_short_one(events: tuple[dict, ...]) -> None:
    assert verdict.length_us(evidence(*events)) == 20_000


def test_schedule_that_was_not_carried_out_is_no_pass() -> None:
    done = {"ev": "schedule", "schedule": "pct:3", "begun": True, "over": True}
    assert titles(LOADED, AUDITED, DETECTORS, END, done) == []
    with pytest.raises(GuestError, match="not carried out to its end"):
        titles(LOADED, AUDITED, DETECTORS, END, {**done, "over": False})


@pytest.mark.parametrize(
    ("taint", "before", "what"),
    [(1 << 9, 0, "warning"), (1 << 12 | 1 << 7, 1 << 12, "oops or BUG"),
     (1 << 14, 0, "soft lockup"), (1 << 5, 0, "bad page")],
)  # fmt: skip
def test_taint_without_a_report_is_a_finding(taint: int, before: int, what: str) -> None:
    seen = {**DETECTORS, "taint": taint, "taint_before": before}
    assert titles(LOADED, AUDITED, seen, END) == [
        (Kind.SPLAT, f"tainted: {what} that the console does not show")
    ]


@pytest.mark.parametrize(
    ("taint", "before"),
    # Proprietary, out of tree, unsigned; a warning at boot; a kernel that does not say.
    [(1, 0), (1 << 12 | 1 << 13, 0), (1 << 9, 1 << 9), (-1, -1)],
)
def test_what_a_module_is_taints_and_is_no_finding(taint: int, before: int) -> None:
    seen = {**DETECTORS, "taint": taint, "taint_before": before}
    assert titles(LOADED, AUDITED, seen, END) == []


def test_taint_is_not_told_beside_the_report_that_it_comes_from() -> None:
    seen = {**DETECTORS, "taint": 1 << 7, "taint_before": 0}
    assert len(titles(LOADED, AUDITED, seen, END, console=OOPS)) == 1
    known = verdict.judge(evidence(LOADED, AUDITED, seen, END, console=OOPS), known=KNOWN)
    assert known == ()


@pytest.mark.parametrize(
    ("seen", "has", "why"),
    [
        ({"hung_task": 0}, "hung task", "hung tasks was switched off"),
        ({"fault_injection": False}, "fault injection", "fault injection is gone"),
    ],
)
def test_detector_that_was_switched_off_is_an_error(
    seen: dict[str, object], has: str, why: str
) -> None:
    asleep = evidence(LOADED, AUDITED, {**DETECTORS, **seen}, END)
    with pytest.raises(GuestError, match=why):
        verdict.judge(asleep, detectors=[has])
    assert verdict.judge(asleep) == ()


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("88b5          0xffffffffc0001234", "residue: packet handler 88b5 foo_receive"),
        ("88b5 eth0     packet_rcv", "residue: packet handler 88b5 eth0 packet_rcv"),
    ],
)
def test_packet_handler_is_named_by_its_function(line: str, title: str) -> None:
    left = {"ev": "residue", "section": "packet", "sign": "+", "line": line}
    found = verdict.judge(
        evidence(LOADED, left, AUDITED, DETECTORS, END), lambda module, at: "foo_receive+0x0/0x4"
    )
    assert [finding.title for finding in found] == [title]


def test_vmalloc_area_is_named_by_the_function_that_asked_for_it() -> None:
    left = {"ev": "residue", "section": "vmalloc", "sign": "+", "line": "0xffffffffc0001234"}
    found = verdict.judge(
        evidence(LOADED, left, AUDITED, DETECTORS, END), lambda module, at: "foo_init+0x12/0x40"
    )
    assert [finding.title for finding in found] == ["residue: vmalloc area of foo_init"]
    assert titles(LOADED, left, AUDITED, DETECTORS, END) == [
        (Kind.RESIDUE, "residue: vmalloc area of code that has gone")
    ]
