# SPDX-License-Identifier: GPL-2.0-only
"""The table of reports that kernels print: how each begins, and how it is called.

A row is a :class:`Rule`. The engine (:mod:`harness.klog`) takes, for each line that holds a
marker, the first row whose ``head`` matches; so a special case stands before the general one.
Titles follow what syzbot and the kernel's lists use; a title never holds an address, a PID or a
count, which would give one bug many names.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from harness.klogframes import FUNC, names

_Re = re.Pattern[str]


class Where(enum.Enum):
    """Where a report's guilty frame stands."""

    #: The title needs no frame.
    NONE = enum.auto()
    #: Function in the header (group ``func``) if it is to blame, else the stack.
    HEAD = enum.auto()
    #: Program counter if it lies in a function that is to blame, else the stack.
    PC = enum.auto()
    #: The first stack.
    TRACE = enum.auto()
    #: The lock that a lockdep report names first ("at: func+0x1/0x2").
    LOCK = enum.auto()
    #: The operation that does not get on: what the innermost dispatcher called.
    STALL = enum.auto()
    #: The stack of a sleeping task: the first that is no waiting primitive.
    SLEEP = enum.auto()


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of report."""

    #: Name of the row; rows refer to each other by it.
    id: str
    #: Group that the report belongs to, as syzbot counts them.
    type: str
    #: A string that each header holds; one substring search decides whether to look closer.
    marker: str
    #: Finds the header in a message; its groups are available to the titles.
    head: _Re
    #: Title; ``{frame}`` is the guilty frame, other fields are groups of ``head`` and ``more``.
    title: str
    where: Where = Where.NONE
    #: Further titles, with the same fields.
    alt: tuple[str, ...] = ()
    #: Expressions that must match some line of the report, or it is corrupted.
    more: tuple[_Re, ...] = ()
    #: Frames to pass over in reports of this kind, besides the generic ones.
    skip: _Re | None = None
    #: The report's own stack is its first, not the one after "Call Trace:".
    first_stack: bool = False
    #: Inside a report of one of these rows ("*": any), the line is a part of it and begins none.
    part_of: frozenset[str] = frozenset()
    #: A header that matches this is no report.
    unless: _Re | None = None
    #: Wording-independent name of the bug class, for the signature; default: the title.
    sig: str = ""


def _re(pattern: str) -> _Re:
    return re.compile(pattern)


BAD_ACCESS = ("bad-access in {frame}",)
STALL = ("stall in {frame}",)
HANG = ("hang in {frame}",)
OVERFLOW = ("stack-overflow in {frame}",)

# Where oopses begin; a later line of the same oops is no new report.
_FAULTS = frozenset(
    {
        "fault-null",
        "fault-paging",
        "arm-fault",
        "bug",
        "bug-list",
        "bug-usercopy",
        "rust-panic",
        "guard-page",
        "unhandled-fault",
        "gpf",
        "trap",
        "double-fault",
    }
)
_PANIC_CONSEQUENCE = (
    r"Fatal exception|panic_on_(?:warn|oops)|hung_task: blocked tasks|softlockup: hung tasks|"
    r"Hard LOCKUP|RCU Stall|[Ff]atal (?:machine check|hardware)|kernel: panic_on|kasan\.fault|"
    r"(?:kasan|kfence|kmsan|ubsan|kcsan)[:.]|Oops|Unrecoverable|System is deadlocked|"
    r"corrupted shadow|die_nmi|Attempted to kill|Non maskable|Watchdog"
)

# Stacks of bugs that WARN or BUG in a helper: the caller is to blame.
_WARN_SKIP = names(r"kobject_\w+ refcount_\w+")
_SLEEP_SKIP = names(
    r"""
_{0,2}schedule\w* __switch_to\w* context_switch io_schedule\w* preempt_schedule\w*
_{0,3}wait_(?:for_common|on_bit|event|rcu_gp|for_completion\w*|on_page_bit|for_common)\w*
do_wait_for_common out_of_line_wait\w* wait_on_(?:page|buffer|bit)\w*
_{0,2}wait_for_(?:completion|common)\w* bit_wait\w* folio_(?:wait|lock)\w* __folio_lock\w*
__?lock_(?:page|buffer|sock|sock_nested)\w* __lock_page\w* schedule_\w+ __rwsem\w* rwsem\w*
call_rwsem\w* autoremove_wake_function prepare_to_wait\w* do_wait\w* _?cond_resched flush_work\w*
__flush_work\w* start_flush_work do_read_cache_\w+ wait_woken percpu_rwsem\w* might_\w+
__refrigerator
"""
)
_ATOMIC_SKIP = names(
    r"""
_{0,2}schedule\w* preempt_schedule\w* schedule_\w+ _?cond_resched\w* io_schedule\w*
_{0,2}cond_resched\w* do_wait_for_common _{0,2}wait_for_\w+ _{0,3}might_\w+ __?lock_sock\w*
_?lock_sock\w*
"""
)

# Who allocated is of no interest, but for whom.
_LEAK_SKIP = names(
    r"""
\w*alloc\w* idr_get_\w+ k?vasprintf\w* kasprintf\w* \w*str\w*dup\w* \w*memdup\w*
"""
)
_TIMER_SKIP = names(
    r"""
(?:try_to_)?(?:del|add|mod)_timer\w* timer_\w+ hrtimer_\w+
_{0,2}(?:flush|cancel|queue|mod)_\w*work\w* _{0,2}mod_timer\w* call_rcu\w* __call_rcu\w* rcu_\w+
work_\w+ percpu_\w+ vunmap\w* sk_\w*timer\w* init_\w+ prepare_to_\w+ add_wait_queue\w*
skb_\w*queue\w*
"""
)

RULES: tuple[Rule, ...] = (
    # ---- sanitizers ---------------------------------------------------------------------------
    Rule(
        "kasan-free",
        "KASAN-INVALID-FREE",
        "BUG: KASAN: ",
        _re(rf"BUG: KASAN: (?:double-free or invalid-free|double-free|invalid-free) in {FUNC}"),
        "KASAN: invalid-free in {frame}",
        Where.HEAD,
        alt=("invalid-free in {frame}",),
        sig="invalid-free in {frame}",
    ),
    Rule(
        "kasan",
        "KASAN",
        "BUG: KASAN: ",
        _re(rf"BUG: KASAN: (?P<bug>[a-z-]+(?: [a-z-]+)?) in {FUNC}"),
        "KASAN: {bug} {access} in {frame}",
        Where.HEAD,
        alt=BAD_ACCESS,
        more=(_re(r"(?:^|\W)(?P<access>Read|Write) (?:of size \d|at addr)"),),
    ),
    Rule(
        "kasan-nofunc",
        "KASAN",
        "BUG: KASAN: ",
        _re(r"BUG: KASAN: (?P<bug>[a-z-]+(?: [a-z-]+)?)(?: (?:on|at|in)|$)"),
        "KASAN: {bug} {access} in {frame}",
        Where.TRACE,
        alt=BAD_ACCESS,
        more=(_re(r"(?:^|\W)(?P<access>Read|Write) (?:of size \d|at addr)"),),
    ),
    Rule(
        "kfence-free",
        "KFENCE-INVALID-FREE",
        "BUG: KFENCE: ",
        _re(rf"BUG: KFENCE: (?P<bug>invalid free) in {FUNC}"),
        "KFENCE: {bug} in {frame}",
        Where.HEAD,
        first_stack=True,
        alt=("invalid-free in {frame}",),
        sig="invalid-free in {frame}",
    ),
    Rule(
        "kfence-corruption",
        "KFENCE-MEMORY-CORRUPTION",
        "BUG: KFENCE: ",
        _re(rf"BUG: KFENCE: (?P<bug>memory corruption) in {FUNC}"),
        "KFENCE: {bug} in {frame}",
        Where.HEAD,
        first_stack=True,
    ),
    Rule(
        "kfence",
        "KFENCE",
        "BUG: KFENCE: ",
        _re(rf"BUG: KFENCE: (?P<bug>[a-z-]+) (?P<access>read|write) in {FUNC}"),
        "KFENCE: {bug} {access} in {frame}",
        Where.HEAD,
        first_stack=True,
        alt=BAD_ACCESS,
    ),
    Rule(
        "kcsan-assert",
        "KCSAN-ASSERT",
        "BUG: KCSAN: ",
        _re(rf"BUG: KCSAN: assert: race in {FUNC}"),
        "KCSAN: assert: race in {frame}",
        Where.HEAD,
        first_stack=True,
    ),
    Rule(
        "kcsan-race",
        "KCSAN-DATARACE",
        "BUG: KCSAN: ",
        _re(rf"BUG: KCSAN: (?P<bug>[a-z-]+) in {FUNC} / (?P<func2>[\w.]+)\+0x"),
        "KCSAN: {bug} in {frame} / {func2}",
        Where.HEAD,
        first_stack=True,
    ),
    Rule(
        "kcsan",
        "KCSAN-DATARACE",
        "BUG: KCSAN: ",
        _re(rf"BUG: KCSAN: (?P<bug>[a-z-]+) in {FUNC}"),
        "KCSAN: {bug} in {frame}",
        Where.HEAD,
        first_stack=True,
    ),
    Rule(
        "kmsan",
        "KMSAN",
        "BUG: KMSAN: ",
        _re(rf"BUG: KMSAN: (?P<bug>[a-z-]+) in {FUNC}"),
        "KMSAN: {bug} in {frame}",
        Where.HEAD,
        first_stack=True,
        alt=BAD_ACCESS,
    ),
    Rule(
        "ubsan-old",
        "UBSAN",
        "UBSAN: ",
        _re(r"UBSAN: Undefined behaviour in "),
        "UBSAN: undefined-behaviour in {frame}",
        Where.TRACE,
    ),
    Rule(
        "ubsan-bounds",
        "MEMORY_SAFETY_UBSAN",
        "UBSAN: ",
        _re(r"UBSAN: (?P<bug>array-index-out-of-bounds) in "),
        "UBSAN: {bug} in {frame}",
        Where.TRACE,
        alt=BAD_ACCESS,
    ),
    Rule(
        "ubsan",
        "UBSAN",
        "UBSAN: ",
        _re(r"UBSAN: (?P<bug>[a-z-]+) in "),
        "UBSAN: {bug} in {frame}",
        Where.TRACE,
    ),
    # ---- page faults and other exceptions -----------------------------------------------------
    Rule(
        "fault-null",
        "NULL-POINTER-DEREFERENCE",
        "NULL pointer dereference",
        _re(
            r"(?:BUG: (?:unable to handle )?[kK]ernel|Unable to handle kernel) NULL pointer dereference"
        ),
        "BUG: unable to handle kernel NULL pointer dereference in {frame}",
        Where.PC,
        alt=BAD_ACCESS,
        sig="null-ptr-deref in {frame}",
    ),
    Rule(
        "fault-paging",
        "MEMORY_SAFETY_BUG",
        "nable to handle ",
        _re(
            r"(?:BUG: [uU]|\bU)nable to handle (?:kernel )?(?:paging request|page fault for address|"
            r"access to user memory|execute from non-executable|read from unreadable|write to read-only|"
            r"instruction fetch|data access|pointer dereference|execution of user)"
        ),
        "BUG: unable to handle kernel paging request in {frame}",
        Where.PC,
        alt=BAD_ACCESS,
        sig="page-fault in {frame}",
    ),
    Rule(
        "arm-fault",
        "MEMORY_SAFETY_BUG",
        "Internal error: Oops",
        _re(r"Internal error: Oops: [0-9a-f]+ \[#\d+\]"),
        "BUG: unable to handle kernel paging request in {frame}",
        Where.PC,
        alt=BAD_ACCESS,
        part_of=_FAULTS,
        sig="page-fault in {frame}",
    ),
    Rule(
        "unhandled-fault",
        "DoS",
        "Unhandled fault: ",
        _re(r"Unhandled fault: "),
        "Unhandled fault in {frame}",
        Where.PC,
        alt=BAD_ACCESS,
    ),
    Rule(
        "alignment-trap",
        "DoS",
        "Alignment trap: ",
        _re(r"Alignment trap: .*PC=0x"),
        "Alignment trap in {frame}",
        Where.PC,
    ),
    Rule(
        "internal-error-bug",
        "BUG",
        "Internal error: Oops - BUG",
        _re(r"Internal error: Oops - BUG: "),
        "kernel BUG in {frame}",
        Where.PC,
        part_of=_FAULTS,
    ),
    Rule(
        "internal-error",
        "DoS",
        "Internal error: ",
        _re(r"Internal error: "),
        "Internal error in {frame}",
        Where.PC,
        alt=BAD_ACCESS,
        part_of=_FAULTS,
    ),
    Rule(
        "double-fault",
        "DoS",
        "double fault",
        _re(r"PANIC: double fault|(?:^|\W)double fault: 0000 \[#"),
        "PANIC: double fault in {frame}",
        Where.PC,
        part_of=frozenset({"guard-page", "double-fault"}),
    ),
    Rule(
        "gpf",
        "DoS",
        "general protection fault",
        _re(r"general protection fault(?:,|:| ?$|.*\[#\d)"),
        "general protection fault in {frame}",
        Where.PC,
        alt=BAD_ACCESS,
        part_of=_FAULTS,
        unless=_re(r"traps: |segfault|ip:[0-9a-f]+ sp:"),
    ),
    Rule(
        "divide",
        "DoS",
        ": 0000 [#",
        _re(r"(?:^|\W)divide[ _]error: 0000 \[#"),
        "divide error in {frame}",
        Where.PC,
    ),
    Rule(
        "trap",
        "DoS",
        ": 0000 [#",
        _re(
            r"(?:^|: |\s)(?P<what>invalid opcode|stack segment|int3|alignment check|bounds|overflow|segment not present|"
            r"control protection|device not available|invalid TSS|coprocessor \w+|SIMD exception|debug): 0000 \[#"
        ),
        "{what} in {frame}",
        Where.PC,
        part_of=_FAULTS,
    ),
    Rule(
        "oops",
        "DoS",
        "Oops: ",
        _re(r"(?:^|\W)Oops: (?:[\w ]+: )?[0-9a-f]{4,16} \[#\d"),
        "Oops in {frame}",
        Where.PC,
        part_of=frozenset("*"),
    ),
    # ---- BUG() --------------------------------------------------------------------------------
    Rule(
        "bug-list",
        "MEMORY_SAFETY_BUG",
        "kernel BUG at ",
        _re(r"kernel BUG at \S*lib/list_debug\.c:\d"),
        "BUG: corrupted list in {frame}",
        Where.PC,
        alt=BAD_ACCESS,
        part_of=frozenset({"list"}),
    ),
    Rule(
        "bug-usercopy",
        "BUG",
        "kernel BUG at ",
        _re(r"kernel BUG at \S*mm/usercopy\.c:\d"),
        "BUG: bad usercopy in {frame}",
        Where.PC,
    ),
    Rule(
        "bug",
        "BUG",
        "kernel BUG at ",
        _re(r"kernel BUG at "),
        "kernel BUG in {frame}",
        Where.PC,
        part_of=frozenset({"rust-panic", "list"}),
    ),
    Rule(
        "list",
        "MEMORY_SAFETY_BUG",
        "list_",
        _re(r"(?:^|\W)list_(?:add|del) (?:corruption|double add)"),
        "BUG: corrupted list in {frame}",
        Where.PC,
        alt=BAD_ACCESS,
    ),
    Rule(
        "rust-panic",
        "DoS",
        "panicked at",
        _re(r"rust_kernel: panicked at "),
        "{msg} in {frame}",
        Where.TRACE,
        more=(_re(r"^(?P<msg>(?!rust_kernel|-{3}|kernel BUG)[A-Za-z][^:]{4,100})$"),),
        skip=names(
            r"""
rust_helper_\w+ rust_begin_unwind .*core::panicking::.* _R\w*panic\w* .*panic_fmt.*
.*panic_const.*
"""
        ),
    ),
    # ---- locks --------------------------------------------------------------------------------
    Rule(
        "spinlock",
        "LOCKDEP",
        "BUG: ",
        _re(
            r"BUG: (?P<what>(?:spinlock|rwlock|rwlock-lockup|write-lock|read-lock|mutex) ?(?:bad magic|recursion|wrong owner|wrong CPU|already unlocked|trylock failure on UP|lockup suspected|cpu recursion|lockup|uninitialized)?)(?: on CPU| on \w|,|$)"
        ),
        "BUG: {what} in {frame}",
        Where.TRACE,
    ),
    Rule(
        "deadlock",
        "LOCKDEP",
        "possible ",
        _re(
            r"(?:WARNING|INFO): possible (?:circular locking dependency|recursive locking|irq lock inversion dependency) detected"
        ),
        "possible deadlock in {frame}",
        Where.LOCK,
    ),
    Rule(
        "deadlock-irq",
        "LOCKDEP",
        "lock order detected",
        _re(r"(?:WARNING|INFO): \w+-(?:READ-)?safe -> \w+-(?:READ-)?unsafe lock order detected"),
        "possible deadlock in {frame}",
        Where.LOCK,
    ),
    Rule(
        "irq-deadlock-bug",
        "LOCKDEP",
        "deadlock scenario",
        _re(r"(?:WARNING|INFO): possible (?:irq|recursive)[\w -]* deadlock"),
        "possible deadlock in {frame}",
        Where.LOCK,
    ),
    Rule(
        "lock-state",
        "LOCKDEP",
        "inconsistent lock state",
        _re(r"(?:WARNING|INFO): inconsistent lock state"),
        "inconsistent lock state in {frame}",
        Where.LOCK,
    ),
    Rule(
        "lock-wait",
        "LOCKDEP",
        "nvalid wait context",
        _re(r"\[? ?(?:BUG|WARNING): Invalid wait context ?\]?"),
        "WARNING: locking bug in {frame}",
        Where.TRACE,
    ),
    Rule(
        "lock-unbalance",
        "LOCKDEP",
        "bad unlock balance",
        _re(r"(?P<kind>BUG|WARNING|INFO): bad (?:contention )?unlock balance detected"),
        "{kind}: bad unlock balance in {frame}",
        Where.LOCK,
        sig="bad unlock balance in {frame}",
    ),
    Rule(
        "lock-freed",
        "LOCKDEP",
        "held lock freed",
        _re(r"(?P<kind>BUG|WARNING|INFO): held lock freed"),
        "{kind}: held lock freed in {frame}",
        Where.TRACE,
        sig="held lock freed in {frame}",
    ),
    Rule(
        "lock-user",
        "None",
        "lock held when returning to user space",
        _re(r"(?P<kind>BUG|WARNING|INFO): lock held when returning to user space"),
        "{kind}: lock held when returning to user space in {frame}",
        Where.LOCK,
        sig="lock held when returning to user space in {frame}",
    ),
    Rule(
        "lock-held",
        "LOCKDEP",
        "still has locks held",
        _re(r"(?P<kind>BUG|WARNING): .{1,40} still has locks held"),
        "{kind}: still has locks held in {frame}",
        Where.LOCK,
        sig="still has locks held in {frame}",
    ),
    Rule(
        "lock-nested",
        "LOCKDEP",
        "Nested lock was not taken",
        _re(r"(?P<kind>BUG|WARNING): Nested lock was not taken"),
        "{kind}: nested lock was not taken in {frame}",
        Where.LOCK,
        sig="nested lock was not taken in {frame}",
    ),
    Rule(
        "rcu-usage",
        "LOCKDEP",
        "uspicious ",
        _re(r"(?P<kind>INFO|WARNING): [sS]uspicious (?:RCU usage|rcu_dereference_check\(\) usage)"),
        "{kind}: suspicious RCU usage in {frame}",
        Where.TRACE,
        sig="suspicious RCU usage in {frame}",
    ),
    Rule(
        "lock-key",
        "None",
        "INFO: trying to register non-static key",
        _re(r"INFO: trying to register non-static key"),
        "INFO: trying to register non-static key in {frame}",
        Where.TRACE,
        skip=_TIMER_SKIP,
    ),
    # ---- atomicity ----------------------------------------------------------------------------
    Rule(
        "atomic-sleep",
        "ATOMIC_SLEEP",
        "BUG: sleeping function",
        _re(r"BUG: sleeping function called from invalid context"),
        "BUG: sleeping function called from invalid context in {frame}",
        Where.TRACE,
        skip=_ATOMIC_SKIP,
    ),
    Rule(
        "atomic-schedule",
        "ATOMIC_SLEEP",
        "BUG: scheduling while atomic",
        _re(r"BUG: scheduling while atomic"),
        "BUG: scheduling while atomic in {frame}",
        Where.TRACE,
        skip=_ATOMIC_SKIP,
    ),
    Rule(
        "preemptible",
        "LOCKDEP",
        "in preemptible",
        _re(r"BUG: using (?P<what>\w+)\(\) in preemptible"),
        "BUG: using {what}() in preemptible code in {frame}",
        Where.TRACE,
    ),
    Rule(
        "work-leak",
        "None",
        "BUG: workqueue leaked",
        _re(r"BUG: workqueue leaked (?:lock or atomic|atomic, lock or RCU)"),
        "BUG: workqueue leaked lock or atomic in {frame}",
        Where.NONE,
        more=(_re(r"last function: (?P<frame>[\w.]+)"),),
    ),
    # ---- hangs --------------------------------------------------------------------------------
    Rule(
        "work-lockup",
        "None",
        "BUG: workqueue lockup",
        _re(r"BUG: workqueue lockup"),
        "BUG: workqueue lockup",
    ),
    Rule(
        "soft-lockup",
        "HANG",
        "soft lockup - CPU#",
        _re(r"BUG: soft lockup - CPU#(?P<cpu>\d+)"),
        "BUG: soft lockup in {frame}",
        Where.STALL,
        alt=STALL,
    ),
    Rule(
        "hard-lockup",
        "HANG",
        "LOCKUP",
        _re(
            r"Watchdog detected hard LOCKUP on cpu ?(?P<cpu>\d+)|BUG: hard LOCKUP|CPU ?(?P<cpu2>\d+) self-detected hard LOCKUP|Watchdog CPU:\d+ Hard LOCKUP"
        ),
        "BUG: hard lockup in {frame}",
        Where.STALL,
        alt=STALL,
    ),
    Rule(
        "rcu-stall",
        "HANG",
        "INFO: rcu",
        _re(r"INFO: rcu\w* (?:self-)?detected (?:expedited )?stalls? on (?:CPU|tasks)"),
        "INFO: rcu detected stall in {frame}",
        Where.STALL,
        alt=STALL,
    ),
    Rule(
        "hung-task",
        "HANG",
        "INFO: task ",
        _re(r"INFO: task .{1,64} blocked (?:in I/O wait )?for more than \d+ seconds"),
        "INFO: task hung in {frame}",
        Where.SLEEP,
        alt=HANG,
    ),
    Rule(
        "undying-task",
        "HANG",
        "INFO: task ",
        _re(r"INFO: task .{1,64} can't die for more than \d+ seconds"),
        "INFO: task can't die in {frame}",
        Where.SLEEP,
        alt=HANG,
    ),
    # ---- stacks -------------------------------------------------------------------------------
    Rule(
        "guard-page",
        "None",
        "stack guard page was hit",
        _re(r"BUG: (?:\w+ )?stack guard page was hit"),
        "BUG: stack guard page was hit in {frame}",
        Where.PC,
        alt=OVERFLOW,
    ),
    Rule(
        "stack-bad-fp",
        "None",
        "WARNING: kernel stack",
        _re(
            r"WARNING: kernel stack (?P<what>frame pointer|regs) at \S+ in .{1,40}:\d+ has (?P<bad>bad (?:'\w+' )?value)"
        ),
        "WARNING: kernel stack {what} has {bad}",
    ),
    # ---- memory bookkeeping -------------------------------------------------------------------
    Rule(
        "page-state",
        "None",
        "BUG: Bad page ",
        _re(r"BUG: Bad page (?P<what>state|map|cache) in process"),
        "BUG: Bad page {what} in {frame}",
        Where.TRACE,
    ),
    Rule(
        "rss",
        "None",
        "BUG: Bad rss-counter",
        _re(r"BUG: Bad rss-counter state"),
        "BUG: Bad rss-counter state",
    ),
    Rule(
        "pgtables",
        "None",
        "BUG: non-zero pgtables_bytes",
        _re(r"BUG: non-zero pgtables_bytes on freeing mm"),
        "BUG: non-zero pgtables_bytes on freeing mm",
    ),
    Rule(
        "slab-remaining",
        "DoS",
        "bjects remaining ",
        _re(
            r"BUG (?P<cache>\S{1,64}) \(.{1,80}\): Objects remaining (?:in \S+ )?on __kmem_cache_shutdown"
        ),
        "BUG: Objects remaining in {cache} on __kmem_cache_shutdown()",
        sig="slab cache {cache} destroyed with objects",
    ),
    Rule(
        "slab-destroy",
        "DoS",
        "Slab cache still has objects",
        _re(r"kmem_cache_destroy (?P<cache>\S{1,64}): Slab cache still has objects"),
        "kmem_cache_destroy {cache}: Slab cache still has objects",
        part_of=frozenset({"slab-remaining"}),
        sig="slab cache {cache} destroyed with objects",
    ),
    Rule(
        "slab",
        "DoS",
        "BUG ",
        _re(
            r"(?:^|\W)BUG (?P<cache>[\w:-]\S{0,63}) \((?:Not t|T)ainted.{0,60}\): (?P<what>\S.{0,120})"
        ),
        "BUG: {what}",
        alt=("BUG {cache}: {what}",),
        unless=_re(r"kasan: bad access detected"),
    ),
    Rule(
        "slab-duplicate-warn",
        "WARNING",
        "kmem_cache of name",
        _re(r"kmem_cache of name '(?P<cache>[^']{1,64})' already exists"),
        "kmem_cache of name '{cache}' already exists",
        sig="duplicate slab cache {cache}",
    ),
    Rule(
        "slab-duplicate",
        "WARNING",
        "kmem_cache_sanity_check",
        _re(r"kmem_cache_sanity_check \((?P<cache>[^)]{1,64})\): Cache name already exists"),
        "kmem_cache of name '{cache}' already exists",
        sig="duplicate slab cache {cache}",
    ),
    Rule(
        "slab-error",
        "DoS",
        "slab error in ",
        _re(r"slab error in (?P<what>\w+)\(\): cache `?(?P<cache>[^']{1,64})'?: (?P<msg>.{1,80})"),
        "slab error in {what}(): cache {cache}: {msg}",
    ),
    Rule(
        "slab-track",
        "None",
        "INFO: ",
        _re(r"INFO: (?P<what>Allocated|Freed) in (?P<func>[\w.]+)\+0x[0-9a-f/x]+ age="),
        "INFO: {what} in {func} age=NUM cpu=NUM pid=NUM",
        part_of=frozenset("*"),
    ),
    Rule(
        "leak",
        "LEAK",
        "unreferenced object 0x",
        _re(r"(?:^|\s)unreferenced object 0x[0-9a-f]+"),
        "memory leak in {frame}",
        Where.TRACE,
        part_of=frozenset({"leak-header"}),
        skip=_LEAK_SKIP,
    ),
    Rule(
        "leak-header",
        "LEAK",
        "BUG: memory leak",
        _re(r"BUG: memory leak"),
        "memory leak in {frame}",
        Where.TRACE,
        skip=_LEAK_SKIP,
    ),
    Rule(
        "leak-count",
        "LEAK",
        "new suspected memory leaks",
        _re(r"kmemleak: \d+ new suspected memory leaks"),
        "kmemleak: new suspected memory leaks",
    ),
    # ---- WARN() -------------------------------------------------------------------------------
    *(
        Rule(
            f"warn-{name}",
            type_,
            "WARNING: ",
            _re(rf"WARNING: (?:CPU: \d+ PID: \d+ )?(?:at )?{where} (?:at )?{func}"),
            title,
            Where.HEAD,
            skip=skip,
            part_of=part_of,
            sig=sig,
        )
        for name, type_, where, func, title, skip, part_of, sig in (
            (
                "refcount",
                "REFCOUNT_WARNING",
                r"\S*lib/refcount\.c:\d+",
                FUNC,
                "WARNING: refcount bug in {frame}",
                None,
                frozenset(),
                "",
            ),
            (
                "refcount-bare",
                "REFCOUNT_WARNING",
                r"\S*lib/refcount\.c:\d+ at 0x",
                r"[0-9a-f]",
                "WARNING: refcount bug in {frame}",
                None,
                frozenset(),
                "",
            ),
            (
                "odebug",
                "WARNING",
                r"\S*lib/debugobjects\.c:\d+",
                FUNC,
                "WARNING: ODEBUG bug in {frame}",
                _TIMER_SKIP,
                frozenset(),
                "",
            ),
            (
                "list",
                "MEMORY_SAFETY_BUG",
                r"\S*lib/list_debug\.c:\d+",
                FUNC,
                "WARNING: corrupted list in {frame}",
                None,
                frozenset({"list"}),
                "BUG: corrupted list in {frame}",
            ),
            (
                "usercopy",
                "WARNING",
                r"\S*mm/usercopy\.c:\d+",
                FUNC,
                "WARNING: bad usercopy in {frame}",
                None,
                frozenset(),
                "",
            ),
            (
                "kobject",
                "WARNING",
                r"\S*lib/kobject\.c:\d+",
                FUNC,
                "WARNING: kobject bug in {frame}",
                names(r"kobject_\w+ device_\w+ kset_\w+"),
                frozenset({"sysfs-dup"}),
                "",
            ),
            (
                "proc",
                "WARNING",
                r"\S*fs/proc/generic\.c:\d+",
                FUNC,
                "WARNING: proc registration bug in {frame}",
                names(r"proc_\w+ __proc_\w+ remove_proc_\w+"),
                frozenset(),
                "",
            ),
            (
                "lockdep",
                "LOCKDEP",
                r"\S*kernel/locking/lockdep\.c:\d+",
                FUNC,
                "WARNING: locking bug in {frame}",
                None,
                frozenset(),
                "",
            ),
            (
                "kmalloc",
                "WARNING",
                r"\S*mm/slab_common\.c:\d+",
                r"(?P<func>kmalloc_slab)\+0x",
                "WARNING: kmalloc bug in {frame}",
                None,
                frozenset(),
                "",
            ),
            (
                "vmalloc",
                "WARNING",
                r"\S*mm/vmalloc\.c:\d+",
                FUNC,
                "WARNING: zero-size vmalloc in {frame}",
                None,
                frozenset(),
                "",
            ),
            (
                "slab-destroy",
                "DoS",
                r"\S*mm/slab_common\.c:\d+",
                r"(?P<func>kmem_cache_destroy)\+0x",
                "WARNING in {frame}",
                None,
                frozenset({"slab-remaining", "slab-destroy"}),
                "",
            ),
            (
                "dentry",
                "WARNING",
                r"\S*fs/dcache\.c:\d+",
                r"(?P<func>umount_check)\+0x",
                "WARNING in {frame}",
                None,
                frozenset({"dentry"}),
                "",
            ),
            (
                "slab-dup",
                "WARNING",
                r"\S*mm/slab_common\.c:\d+",
                FUNC,
                "WARNING in {frame}",
                None,
                frozenset({"slab-duplicate-warn"}),
                "",
            ),
        )
    ),
    Rule(
        "warn",
        "WARNING",
        "WARNING: ",
        _re(rf"WARNING: (?:CPU: \d+ PID: \d+ )?(?:at )?\S+:\d+ (?:at )?{FUNC}"),
        "WARNING in {frame}",
        Where.HEAD,
        part_of=frozenset({"busy-inodes"}),
    ),
    Rule(
        "warn-module",
        "WARNING",
        "WARNING: ",
        _re(r"WARNING: (?:CPU: \d+ PID: \d+ at |\S+:\d+ at 0x[0-9a-f]+, CPU#)"),
        "WARNING in {frame}",
        Where.PC,
    ),
    # ---- bookkeeping of objects that outlive or meet each other --------------------------------
    Rule(
        "sysfs-dup",
        "WARNING",
        "cannot create duplicate filename",
        _re(r"sysfs: cannot create duplicate filename '(?P<path>[^']{1,200})"),
        "sysfs: cannot create duplicate filename '{path}'",
    ),
    Rule(
        "kobject-dup",
        "WARNING",
        "with -EEXIST",
        _re(r"kobject(?:_add_internal)? ?.{0,40}failed for (?P<name>.{1,80}) with -EEXIST"),
        "kobject_add_internal failed for {name} with -EEXIST",
        part_of=frozenset({"sysfs-dup", "warn", "warn-kobject"}),
    ),
    Rule(
        "kobject-reinit",
        "WARNING",
        "tried to init an initialized object",
        _re(r"kobject .{1,60}: tried to init an initialized object"),
        "kobject: tried to init an initialized object in {frame}",
        Where.TRACE,
        skip=names(r"kobject_\w+ kset_\w+ device_\w+"),
    ),
    Rule(
        "kobject-uninit",
        "WARNING",
        "tried to add an uninitialized object",
        _re(r"kobject .{1,60}: tried to add an uninitialized object"),
        "kobject: tried to add an uninitialized object in {frame}",
        Where.TRACE,
        skip=names(r"kobject_\w+ kset_\w+ device_\w+"),
    ),
    Rule(
        "busy-inodes",
        "DoS",
        "VFS: Busy inodes after unmount",
        _re(r"VFS: Busy inodes after unmount"),
        "VFS: Busy inodes after unmount (use-after-free)",
    ),
    Rule(
        "dentry",
        "None",
        "still in use",
        _re(r"BUG: Dentry .{1,200} still in use .{0,8}\[(?P<what>unmount of [^\]]{1,64})"),
        "BUG: Dentry still in use in unmount",
        alt=("BUG: Dentry still in use [{what}]",),
    ),
    Rule(
        "netdevice",
        "HANG",
        "unregister_netdevice: waiting for",
        _re(r"unregister_netdevice: waiting for \S+ to become free"),
        "unregister_netdevice: waiting for DEV to become free",
    ),
    # ---- panic --------------------------------------------------------------------------------
    Rule(
        "panic-stack-protector",
        "DoS",
        "Kernel panic - not syncing: stack",
        _re(
            r"Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: (?:(?P<func>[\w.]+)\+0x|[0-9a-f]+|\w)"
        ),
        "kernel panic: stack is corrupted in {frame}",
        Where.HEAD,
    ),
    Rule(
        "panic-stack-end",
        "DoS",
        "corrupted stack end detected",
        _re(r"Kernel panic - not syncing: corrupted stack end detected inside scheduler"),
        "kernel panic: corrupted stack end in {frame}",
        Where.STALL,
        alt=OVERFLOW,
    ),
    Rule(
        "panic-oom",
        "DoS",
        "Kernel panic - not syncing: ",
        _re(r"Kernel panic - not syncing: (?:Out of memory|System is deadlocked on memory)"),
        "",
        unless=_re("."),
    ),
    Rule(
        "panic-after",
        "DoS",
        "Kernel panic - not syncing: ",
        _re(rf"Kernel panic - not syncing: (?P<what>(?:{_PANIC_CONSEQUENCE}).{{0,80}})"),
        "kernel panic: {what}",
        part_of=frozenset("*"),
    ),
    Rule(
        "panic",
        "DoS",
        "Kernel panic - not syncing: ",
        _re(r"Kernel panic - not syncing: (?P<what>.{1,100})"),
        "kernel panic: {what}",
        part_of=frozenset("*"),
    ),
    # ---- whatever else calls itself a bug ------------------------------------------------------
    Rule(
        "bug-other",
        "None",
        "BUG: ",
        _re(r"(?:^|\[ )BUG: (?P<what>\S.{0,120}?)(?: \])?$"),
        "BUG: {what}",
        unless=_re(r"recent printk recursion"),
    ),
    Rule(
        "warn-other",
        "WARNING",
        "WARNING: ",
        _re(r"^WARNING: (?P<what>[A-Za-z_]\w{0,60})$"),
        "WARNING: {what}",
    ),
)
