# SPDX-License-Identifier: GPL-2.0-only
"""The table itself: that its rows hang together, and that each is reached.

Rows that no guest of ours can print (other architectures, detectors that the kernel does not have,
older kernels) are reached by short texts after the formats in the kernel's sources, named beside
them.
"""

import re
import string
from pathlib import Path

import pytest

from harness import klog, klogextent
from harness.klogrules import RULES, Where

DATA = Path(__file__).parent / "data/klog"

TRACE = "Call Trace:\n dump_stack_lvl+0x1/0x2\n foo+0x1/0x2\n do_syscall_64+0x2b/0x50\n"
CODE = "RIP: 0010:foo+0x1/0x2\n"

SAMPLES = {
    # mm/kasan/report.c before v4.10: the address instead of a function
    "kasan-unnamed": (
        "KASAN: use-after-free Read",
        "BUG: KASAN: use-after-free on address ffff8800b46111c0\n"
        "Read of size 8 by task a/1\n" + TRACE,
    ),
    # mm/kfence/report.c
    "kfence": (
        "KFENCE: use-after-free read in foo",
        "BUG: KFENCE: use-after-free read in memcmp+0x1/0x2\n\n"
        "Use-after-free read at 0xffff8882 (in kfence-#69):\n memcmp+0x1/0x2\n foo+0x1/0x2\n\n"
        "freed by task 9:\n bar+0x1/0x2\n",
    ),
    "kfence-free": (
        "KFENCE: invalid free in foo",
        "BUG: KFENCE: invalid free in foo+0x1/0x2\n\nInvalid free of 0xff:\n foo+0x1/0x2\n",
    ),
    "kfence-corruption": (
        "KFENCE: memory corruption in foo",
        "BUG: KFENCE: memory corruption in foo+0x1/0x2\n\n"
        "Corrupted memory at 0xff:\n foo+0x1/0x2\n",
    ),
    # kernel/kcsan/report.c
    "kcsan": (
        "KCSAN: data-race in foo / bar",
        "BUG: KCSAN: data-race in foo / bar\n\nwrite to 0xff of 8 bytes by task 1 on cpu 0:\n"
        " foo+0x1/0x2\n\nread to 0xff of 8 bytes by task 2 on cpu 1:\n bar+0x1/0x2\n",
    ),
    # mm/kmsan/report.c
    "kmsan": (
        "KMSAN: uninit-value in foo",
        "BUG: KMSAN: uninit-value in foo+0x1/0x2\n foo+0x1/0x2\n bar+0x1/0x2\n\nUninit was created "
        "at:\n slab_alloc+0x1/0x2\n",
    ),
    # lib/ubsan.c before and after v5.10
    "ubsan-old": (
        "UBSAN: undefined-behaviour in foo",
        "UBSAN: Undefined behaviour in drivers/foo.c:12:3\nshift exponent -1 is negative\n" + TRACE,
    ),
    "ubsan": (
        "UBSAN: shift-out-of-bounds in foo",
        "UBSAN: shift-out-of-bounds in drivers/foo.c:12:3\n" + TRACE,
    ),
    "ubsan-bounds": (
        "UBSAN: array-index-out-of-bounds in foo",
        "UBSAN: array-index-out-of-bounds in drivers/foo.c:12:3\n" + TRACE,
    ),
    # kernel/locking/lockdep.c before v4.11
    "lock-state-old": (
        "inconsistent lock state in foo",
        "[ INFO: inconsistent lock state ]\na/1 [HC0[0]:SC1[1]:HE1:SE0] takes:\n"
        " (&lock){+.?...}, at: [<ffffffff8123>] foo+0x1/0x2\n" + TRACE,
    ),
    # arch/arm64/mm/fault.c, arch/arm/mm/fault.c, arch/arm/mm/alignment.c
    "internal": (
        "Internal error in foo",
        "Internal error: synchronous external abort: 96000010 [#1] SMP\npc : foo+0x1/0x2\n"
        "Call trace:\n foo+0x1/0x2\n",
    ),
    "unhandled-fault": (
        "Unhandled fault in foo",
        "Unhandled fault: page domain fault (0x01b) at 0x00000ea3\nInternal error: : 1b [#1] ARM\n"
        "PC is at foo+0x1/0x2\nBacktrace:\n[<80b12478>] (foo) from [<801349a8>] (bar+0x1/0x2)\n",
    ),
    "alignment-trap": (
        "Alignment trap in foo",
        "Alignment trap: not handling instruction e1932f9f at [<8028bd58>]\n"
        "Unhandled fault: alignment exception (0x001) at 0x000008ad\nPC is at foo+0x1/0x2\n"
        "Backtrace:\n[<80b12478>] (foo) from [<801349a8>] (bar+0x104/0x2cc)\n",
    ),
    # arch/x86/kernel/traps.c, arch/x86/kernel/dumpstack.c
    "double-fault": (
        "PANIC: double fault in foo",
        "PANIC: double fault, error_code: 0x0\n" + CODE + TRACE,
    ),
    "stack-overflow": (
        "BUG: stack guard page was hit in foo",
        "kernel stack overflow (double-fault): 0000 [#1] PREEMPT SMP KASAN\n" + CODE + TRACE,
    ),
    "stack-segment": (
        "stack segment fault in foo",
        "stack segment: 0000 [#1] SMP\n" + CODE + TRACE,
    ),
    # arch/x86/kernel/unwind_frame.c
    "stack-regs": (
        "WARNING: kernel stack regs has bad 'bp' value",
        "WARNING: kernel stack regs at ffff8801d100fea8 in a:1 has bad 'bp' value ff28\n",
    ),
    "stack-frame": (
        "WARNING: kernel stack frame pointer has bad value",
        "WARNING: kernel stack frame pointer at ffff88003e1f7f40 in a:14 has bad value ffff88\n",
    ),
    "stack-unwind": (
        "WARNING: kernel stack regs has bad value",
        "WARNING: kernel stack regs at     (ptrval) in a:1 has bad 'bp' value     (ptrval)\n",
    ),
    # lib/list_debug.c and mm/usercopy.c with BUG_ON_DATA_CORRUPTION, HARDENED_USERCOPY
    "bug-list": (
        "BUG: corrupted list in foo",
        "kernel BUG at lib/list_debug.c:56!\ninvalid opcode: 0000 [#1] SMP KASAN\n"
        "RIP: 0010:__list_del_entry_valid+0x1/0x2\nCall Trace:\n foo+0x1/0x2\n",
    ),
    "bug-usercopy": (
        "BUG: bad usercopy in foo",
        "kernel BUG at mm/usercopy.c:102!\ninvalid opcode: 0000 [#1] SMP KASAN\n"
        "RIP: 0010:usercopy_abort+0x1/0x2\nCall Trace:\n foo+0x1/0x2\n",
    ),
    "warn-usercopy": (
        "WARNING: bad usercopy in foo",
        "WARNING: CPU: 0 PID: 1 at mm/usercopy.c:81 usercopy_warn+0x1/0x2\n" + TRACE,
    ),
    # drivers/../rust: the panic handler prints where and why, then calls BUG()
    "rust-panic": (
        "attempt to subtract with overflow in <demo::Type>::call",
        "rust_kernel: panicked at drivers/demo.rs:1:2:\nattempt to subtract with overflow\n"
        "kernel BUG at rust/helpers/bug.c:7!\nOops: invalid opcode: 0000 [#1] SMP\n"
        "RIP: 0010:rust_helper_BUG+0x8/0x10\nCall Trace:\n"
        " _RNvCscSpY9Juk0HT_7___rustc17rust_begin_unwind+0x1/0x2\n"
        " _RNvMs_CsAB_4demoNtB4_4Type4call+0x1/0x2\n",
    ),
    # lib/smp_processor_id.c
    "preemptible": (
        "BUG: using smp_processor_id() in preemptible code in foo",
        "BUG: using smp_processor_id() in preemptible [00000000] code: a/1\ncaller is foo+0x1/0x2\n"
        "Call Trace:\n dump_stack_lvl+0x1/0x2\n check_preemption_disabled+0x1/0x2\n foo+0x1/0x2\n",
    ),
    # kernel/workqueue.c, kernel/watchdog_hld.c, kernel/hung_task.c
    "work-lockup": (
        "BUG: workqueue lockup",
        "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 32s!\n",
    ),
    "hard-lockup": (
        "BUG: hard lockup in foo",
        "NMI watchdog: Watchdog detected hard LOCKUP on cpu 1\n" + CODE + TRACE,
    ),
    "undying-task": (
        "INFO: task can't die in foo",
        "INFO: task a:1 can't die for more than 143 seconds.\nCall Trace:\n __schedule+0x1/0x2\n"
        " schedule+0x1/0x2\n foo+0x1/0x2\n",
    ),
    # kernel/fork.c
    # mm/slab_common.c since v6.12 and before v3.?, mm/slab.c
    "slab-duplicate": (
        "kmem_cache of name 'foo_inode' already exists",
        "kmem_cache of name 'foo_inode' already exists\n"
        "WARNING: CPU: 0 PID: 1 at mm/slab_common.c:107 __kmem_cache_create_args+0x1/0x2\n" + TRACE,
    ),
    "slab-error": (
        "slab error in verify_redzone_free(): cache foo: double free detected",
        "slab error in verify_redzone_free(): cache `foo': double free detected\n" + TRACE,
    ),
    # mm/slub.c, with the header lost
    "slab-track": (
        "INFO: Freed in foo age=NUM cpu=NUM pid=NUM",
        "INFO: Freed in foo+0x14/0x20 age=57 cpu=0 pid=18338\n",
    ),
    "leak-header": (
        "memory leak in foo",
        'BUG: memory leak\nunreferenced object 0xff (size 96):\n  comm "a", pid 1, jiffies 1\n'
        "  backtrace (crc c9a1c131):\n    kmalloc_noprof+0x1/0x2\n    foo_alloc+0x1/0x2\n"
        "    foo+0x1/0x2\n",
    ),
    # lib/refcount.c with a kernel that no longer names the caller
    "warn-refcount-unnamed": (
        "WARNING: refcount bug in foo",
        "WARNING: lib/refcount.c:19 at 0x0, CPU#1: a/1\nRIP: 0010:refcount_warn_saturate+0x1/0x2\n"
        "Call Trace:\n foo+0x1/0x2\n",
    ),
    "warn-unnamed": (
        "WARNING in foo",
        "WARNING: CPU: 0 PID: 1 at 0xffffffffa0001234\n" + CODE + TRACE,
    ),
    # drivers/usb/core/urb.c
    "warn-urb": (
        "WARNING in foo/usb_submit_urb",
        "WARNING: CPU: 1 PID: 81 at drivers/usb/core/urb.c:478 usb_submit_urb+0x1/0x2\n" + TRACE,
    ),
    # fs/open.c
    # kernel/panic.c, kernel/sched/core.c, kernel/exit.c, mm/oom_kill.c
    "panic-protector": (
        "kernel panic: stack is corrupted in foo",
        "Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: foo+0x1/0x2\n",
    ),
    "panic-stack-end": (
        "kernel panic: corrupted stack end in foo",
        "Kernel panic - not syncing: corrupted stack end detected inside scheduler\n" + TRACE,
    ),
    "bug-other": ("BUG: MAX_LOCK_DEPTH too low!", "BUG: MAX_LOCK_DEPTH too low!\n"),
    "warn-other": ("WARNING: foo", "WARNING: foo\n"),
}  # fmt: skip


def test_rust_panic_of_either_age_is_named_by_its_message() -> None:
    old = "rust_kernel: panicked at 'index out of bounds', drivers/demo.rs:1:2\n" + TRACE
    new = "rust_kernel: panicked at drivers/demo.rs:1:2:\ncalled `Option::unwrap()` on a `None`\n"
    assert klog.parse(old.encode())[0].title == "index out of bounds in foo"
    (report,) = klog.parse((new + TRACE).encode())
    assert report.title == "called `Option::unwrap()` on a `None` in foo"


@pytest.mark.parametrize("row", SAMPLES, ids=str)
def test_text_after_the_kernels_format_is_named(row: str) -> None:
    title, text = SAMPLES[row]
    stamped = "".join(f"[    1.000000] {line}\n" for line in text.splitlines())
    for form in (text, stamped):
        titles = [report.title for report in klog.parse(form.encode())]
        assert titles == [title]


def reached(log: bytes) -> set[str]:
    """Rows that see a header in a log."""
    return {
        found[0].id
        for line in log.decode(errors="backslashreplace").splitlines()
        if (found := klogextent.match_header(line)) is not None
    }


def test_each_row_is_reached_by_a_recorded_log_or_a_sample() -> None:
    rows = {rule.id for rule in RULES}
    logs = set().union(*(reached(path.read_bytes()) for path in DATA.glob("*.log")))
    samples = set().union(*(reached(text.encode()) for _, text in SAMPLES.values()))
    assert rows - logs - samples == set()


def test_samples_stand_only_for_rows_without_a_log() -> None:
    logs = set().union(*(reached(path.read_bytes()) for path in DATA.glob("*.log")))
    assert set(SAMPLES) & logs == set()


def test_rows_have_names_of_their_own() -> None:
    names = [rule.id for rule in RULES]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_rows_refer_to_rows_that_exist(rule: object) -> None:
    assert rule.part_of <= {other.id for other in RULES} | {"*"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_titles_use_fields_that_their_row_finds(rule: object) -> None:
    known = {"frame"} if rule.where is not Where.NONE else set()  # type: ignore[attr-defined]
    for pattern in (rule.head, *rule.more):  # type: ignore[attr-defined]
        known |= set(pattern.groupindex)
    for form in (rule.title, rule.sig, *rule.alt):  # type: ignore[attr-defined]
        used = {name for _, name, _, _ in string.Formatter().parse(form) if name}
        assert used <= known, form


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_expressions_are_bounded(rule: object) -> None:
    for pattern in (rule.head, *rule.more):  # type: ignore[attr-defined]
        # Two unbounded repetitions of anything in one expression could run away together.
        assert len(re.findall(r"(?<!\\)\.[*+]", pattern.pattern)) <= 1, pattern.pattern


def test_object_in_a_page_is_freed_by_whoever_freed_the_page() -> None:
    """Since 6.12 kfree() of something large ends in folio_put()."""
    text = b"""\
[    8.101589][   T47] ------------[ cut here ]------------
[    8.101589][   T47] ODEBUG: free active (active state 0) object: 0 object type: work_struct
[    8.101589][   T47] WARNING: CPU: 0 PID: 47 at lib/debugobjects.c:515 debug_print_object+0x5/0x6
[    8.101589][   T47] Modules linked in: hooknet(O-)
[    8.101589][   T47] CPU: 0 UID: 0 PID: 47 Comm: cycler Tainted: G      O      6.12.117-kasan #1
[    8.101589][   T47] RIP: 0010:debug_print_object+0xe4/0x104
[    8.101589][   T47] RSP: 0018:ffffc90000207b80 EFLAGS: 00000286
[    8.101589][   T47] Call Trace:
[    8.101589][   T47]  <TASK>
[    8.101589][   T47]  debug_check_no_obj_freed+0x1c6/0x2b5
[    8.101589][   T47]  free_unref_page+0x292/0x3cd
[    8.101589][   T47]  __folio_put+0xa0/0xbf
[    8.101589][   T47]  ? free_large_kmalloc+0x72/0x89
[    8.101589][   T47]  hooknet_ledger_exit+0x15/0x16 [hooknet]
[    8.101589][   T47]  hooknet_exit+0x177/0x198 [hooknet]
[    8.101589][   T47]  </TASK>
[    8.101589][   T47] ---[ end trace 0000000000000000 ]---
"""
    (report,) = klog.parse(text)
    assert report.title == "WARNING: ODEBUG bug in hooknet_ledger_exit"
