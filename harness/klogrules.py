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

from harness.klogframes import FUNC
from harness.klognames import GENERIC, names


class Where(enum.Enum):
    """Where a report's guilty frame stands."""

    #: The title needs no frame.
    NONE = enum.auto()
    #: Function in the header (group ``func``) if it is to blame, else as TRACE.
    HEAD = enum.auto()
    #: As HEAD, else as FIRST.
    HEAD_FIRST = enum.auto()
    #: Program counter if it lies in a function that is to blame, else as TRACE.
    PC = enum.auto()
    #: The first stack that is announced by "Call Trace:" or the like.
    TRACE = enum.auto()
    #: The first stack, announced or not.
    FIRST = enum.auto()
    #: Where the first lock of a lockdep report is taken ("at: func+0x1/0x2"), else as TRACE.
    LOCK = enum.auto()
    #: As LOCK, then the second lock, else as FIRST.
    LOCKS = enum.auto()
    #: The operation that does not get on: what the innermost dispatcher called.
    STALL = enum.auto()
    #: As STALL, where the detector ran in an interrupt on top of the stalled stack.
    TICK = enum.auto()
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
    head: re.Pattern[str]
    #: Title; ``{frame}`` is the guilty frame, other fields are groups of ``head`` and ``more``.
    title: str
    where: Where = Where.NONE
    #: Further titles, with the same fields.
    alt: tuple[str, ...] = ()
    #: Expressions that must match some line of the report, or it is corrupted.
    more: tuple[re.Pattern[str], ...] = ()
    #: Frames to pass over in reports of this kind.
    skip: tuple[re.Pattern[str], ...] = (GENERIC,)
    #: Inside a report of one of these rows ("*": any), the line is a part of it and begins none.
    part_of: frozenset[str] = frozenset()
    #: The report is this one line, and may stand in the middle of another.
    alone: bool = False
    #: Shown after reports that matter more: it may be the prelude of one of them.
    minor: bool = False
    #: The report may come without a stack.
    stackless: bool = False
    #: Why such a report is always corrupted: its beginning is missing.
    torn: str = ""
    #: A header that matches this is no report.
    unless: re.Pattern[str] | None = None
    #: Wording-independent name of the bug, for the signature; default: the title.
    sig: str = ""


def _re(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _ids(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What syzbot calls a class of reports whatever the detector: the alternative titles.
_ACCESS = ("bad-access in {frame}",)
_FREE = ("invalid-free in {frame}",)
_STALL = ("stall in {frame}",)
_HANG = ("hang in {frame}",)
_OVERFLOW = ("stack-overflow in {frame}",)

# Where an oops begins; a later line of the same oops is no new report.
_FAULTS = _ids(
    "fault-null fault-paging bug bug-list bug-usercopy rust-panic guard-page "
    "stack-overflow unhandled-fault alignment-trap internal gpf divide trap "
    "double-fault list"
)
# Panics that are the consequence of a report that stands before them, or was lost.
_AFTER = (
    r"Fatal exception|panic_on_(?:warn|oops)|kernel: panic_on|hung_task: blocked|softlockup: hung|"
    r"Hard LOCKUP|RCU Stall|[Ff]atal (?:machine check|hardware)|Oops|Unrecoverable|die_nmi|"
    r"Non maskable|(?:[Kk][A-Z]SAN|k[a-z]san|[Kk]fence|UBSAN)\b|Attempted to kill the idle"
)
_LOCKS = r"(?P<kind>BUG|WARNING|INFO): "
_OOPS_CODE = r"(?:0000|[0-9a-f]{4}) \[#\d"

# ---- what reports of one kind pass over beyond GENERIC, because every such stack has it ----
# Who allocated is of no interest, but for whom.
_LEAK = names(
    "~kmemleak ~mmap ~kmem ~slab ~alloc ~create_object ~idr_get ~list_lru_init ~asprintf "
    "~pcpu_create ~strn?dup ~memdup"
)
# A bad page was allocated by the same few functions always.
_PAGE = names(
    "~(?:free|put|get|update|release)_page ~free_unref _*folio.* ~truncate_inode_pages "
    "~page_frag_free ~alloc ~vmap ~page_owner"
)
_PTE = names("~print_bad_ ~vm_normal_")
_FREE_SKIP = names("~slab_ ~kfree ~vunmap ~vfree")
# The exception by which the processor reports a bad tag.
_TAGS = names("~kernel_fault ~tag_check ~mem_abort el1h?_.*")
# Code that works on whatever bytes it is given; the bytes are somebody else's.
_BYTES = names(
    "~alloc_skb netlink_ack.* ~netlink_rcv_skb ~_encrypt$ (?:crypto|cipher|drbg|rng)_.* "
    "~usb_start_wait_urb ~usb_(?:bulk|interrupt)_msg"
)
_URBS = names("~usb_submit_urb ~usb_start_wait_urb ~usb_(?:bulk|interrupt|control)_msg ~alloc_skb")
_UBSAN = names("~ubsan ~overflow")
# Wrappers check what they are given with BUG_ON(): it was the caller's.
_SKB = names("skb_.*")
_SPINS = names("~spin_ ~_lock ~_unlock")
_RCU = names("~rcu ~kmem ~slab")
_KEYS = names("~stack ~lock ~IRQ")
# Every work item is a lock to lockdep, taken by the code that runs them.
_WORK = names("~process_one_work ~(?:flush|drain|destroy)_workqueue")
_SOCKS = names("~lock_sock ~release_sock")
_SCHED = names("~schedule ~retint_kernel")
# The tick that found the stall, and what it looked at.
_TICK = names("~apic_timer_interrupt ~rcu")
# The kernel itself names the caller of the function that must not be preempted.
_PREEMPT = names("~preempt ~debug_ ~processor_id ~this_cpu")
_USERCOPY = names("~usercopy ~__check")
# What is freed may be a whole page: kfree() of something large ends in folio_put().
_ODEBUG = names(
    "~debug_ ~rcu ~timer_ ~work_ ~percpu_ ~vunmap ~vfree ~__free_ ~kobject_ "
    "~free_unref __folio_put ~free_large_kmalloc"
)
_REFCOUNT = names("~refcount ~kobject_")
_PROC = names("~proc_")
_KMALLOC = names("~kmalloc ~krealloc ~slab ~kmem")
_PROTECTOR = names("~stack_chk")
_RUST = names(r"rust_\w+")

_SPIN = (
    r"BUG: (?P<what>(?:spinlock|rwlock|write-lock|read-lock|mutex)"
    r"(?: bad magic| recursion| wrong owner| wrong CPU| already unlocked| trylock failure on UP"
    r"| lockup suspected| cpu recursion| lockup|-lockup| uninitialized)?)(?: on |,|$)"
)
_PAGE_FAULT = (
    r"(?:BUG: [uU]|\b[uU])nable to handle (?:kernel )?(?:paging request|page fault for address|"
    r"access to user memory|execute from non-execut|read from unreadable|write to read-only|"
    r"instruction fetch|data access|pointer dereference|execution of user)"
)
_TRAP = (
    r"(?:^|: |\s)(?P<what>invalid opcode|int3|alignment check|bounds|overflow|"
    r"segment not present|control protection|device not available|invalid TSS|coprocessor \w+|"
    r"SIMD exception|debug): " + _OOPS_CODE
)
_HARD_LOCKUP = (
    r"detected hard LOCKUP on cpu ?(?P<cpu>\d+)|BUG: hard LOCKUP|self-detected hard LOCKUP|"
    r"Watchdog CPU:\d+ Hard LOCKUP"
)
_SLAB = r"(?:^|\W)BUG (?P<cache>[\w:-]\S{0,63}) \((?:Not t|T)ainted.{0,60}\): "
# "[condition]" came with 6.19, before the file.
_WARN = r"WARNING: (?:\[.{1,200}\] )?(?:CPU: \d+ PID: \d+ )?(?:at )?"
_KASAN_ACCESS = _re(r"(?:^|\W)(?P<access>Read|Write) (?:of size \d|at addr)")


def _warn(id: str, file: str, func: str, title: str, type: str = "WARNING", **more: object) -> Rule:
    """A WARN() in a file whose reports have names of their own."""
    head = rf"{_WARN}\S*{file}:\d+ (?:at )?(?P<func>{func})(?:\.[\w.]+)?\+0x"
    values: dict[str, object] = {"where": Where.HEAD, **more}
    return Rule(f"warn-{id}", type, "WARNING: ", _re(head), title, **values)  # type: ignore[arg-type]


# fmt: off
RULES: tuple[Rule, ...] = (
    # ---- sanitizers ---------------------------------------------------------------------------
    Rule("kasan-free", "KASAN-INVALID-FREE", "BUG: KASAN: ",
         _re(rf"BUG: KASAN: (?:double-free|invalid-free|double-free or invalid-free) in {FUNC}"),
         "KASAN: invalid-free in {frame}", Where.HEAD, _FREE, skip=(GENERIC, _FREE_SKIP),
         sig="invalid-free in {frame}"),
    Rule("kasan", "KASAN", "BUG: KASAN: ",
         _re(rf"BUG: KASAN: (?P<bug>[a-z-]+(?: [a-z-]+)?) in {FUNC}"),
         "KASAN: {bug} {access} in {frame}", Where.HEAD, _ACCESS, more=(_KASAN_ACCESS,),
         skip=(GENERIC, _TAGS)),
    Rule("kasan-unnamed", "KASAN", "BUG: KASAN: ",
         _re(r"BUG: KASAN: (?P<bug>[a-z-]+)(?: (?:on|at|in)\b|$)"),
         "KASAN: {bug} {access}", Where.TRACE,
         ("KASAN: {bug} {access} in {frame}", *_ACCESS), more=(_KASAN_ACCESS,),
         sig="KASAN: {bug} {access} in {frame}"),
    Rule("kfence-free", "KFENCE-INVALID-FREE", "BUG: KFENCE: ",
         _re(rf"BUG: KFENCE: invalid free in {FUNC}"),
         "KFENCE: invalid free in {frame}", Where.HEAD_FIRST, _FREE, sig="invalid-free in {frame}"),
    Rule("kfence-corruption", "KFENCE-MEMORY-CORRUPTION", "BUG: KFENCE: ",
         _re(rf"BUG: KFENCE: memory corruption in {FUNC}"),
         "KFENCE: memory corruption in {frame}", Where.HEAD_FIRST),
    Rule("kfence", "KFENCE", "BUG: KFENCE: ",
         _re(rf"BUG: KFENCE: (?P<bug>[a-z-]+) (?P<access>read|write) in {FUNC}"),
         "KFENCE: {bug} {access} in {frame}", Where.HEAD_FIRST, _ACCESS),
    Rule("kcsan", "KCSAN", "BUG: KCSAN: ",
         _re(r"BUG: KCSAN: (?P<what>(?P<bug>[a-z-]+(?:: race)?) in (?P<func>[\w.]+).{0,120})"),
         "KCSAN: {what}", Where.HEAD_FIRST),
    Rule("kmsan", "KMSAN", "BUG: KMSAN: ",
         _re(rf"BUG: KMSAN: (?P<bug>[a-z-]+) in {FUNC}"),
         "KMSAN: {bug} in {frame}", Where.HEAD_FIRST, _ACCESS, skip=(GENERIC, _BYTES)),
    Rule("ubsan-old", "UBSAN", "UBSAN: ", _re(r"UBSAN: Undefined behaviour in "),
         "UBSAN: undefined-behaviour in {frame}", Where.TRACE, skip=(GENERIC, _UBSAN)),
    Rule("ubsan-bounds", "MEMORY_SAFETY_UBSAN", "UBSAN: ",
         _re(r"UBSAN: (?P<bug>array-index-out-of-bounds) in "),
         "UBSAN: {bug} in {frame}", Where.TRACE, _ACCESS, skip=(GENERIC, _UBSAN)),
    Rule("ubsan", "UBSAN", "UBSAN: ", _re(r"UBSAN: (?P<bug>[a-z-]+) in "),
         "UBSAN: {bug} in {frame}", Where.TRACE, skip=(GENERIC, _UBSAN)),
    # ---- page faults and other exceptions -----------------------------------------------------
    Rule("fault-null", "NULL-POINTER-DEREFERENCE", "NULL pointer dereference",
         _re(r"(?:BUG: (?:unable to handle )?[kK]ernel|nable to handle kernel) NULL pointer deref"),
         "BUG: unable to handle kernel NULL pointer dereference in {frame}", Where.PC, _ACCESS,
         sig="null-ptr-deref in {frame}"),
    Rule("fault-paging", "MEMORY_SAFETY_BUG", "nable to handle ", _re(_PAGE_FAULT),
         "BUG: unable to handle kernel paging request in {frame}", Where.PC, _ACCESS,
         sig="page-fault in {frame}"),
    Rule("unhandled-fault", "DoS", "Unhandled ", _re(r"Unhandled (?:prefetch abort|fault): "),
         "Unhandled fault in {frame}", Where.PC, _ACCESS,
         part_of=_ids("alignment-trap")),
    Rule("alignment-trap", "DoS", "Alignment trap: ", _re(r"Alignment trap: "),
         "Alignment trap in {frame}", Where.PC),
    Rule("internal", "DoS", "Internal error: ", _re(r"Internal error: "),
         "Internal error in {frame}", Where.PC, _ACCESS, part_of=_FAULTS),
    Rule("double-fault", "DoS", "double fault",
         _re(r"PANIC: double fault|(?:^|\W)double fault: 0000 \[#"),
         "PANIC: double fault in {frame}", Where.PC,
         part_of=_ids("guard-page stack-overflow double-fault")),
    Rule("stack-overflow", "OTHER", "kernel stack overflow",
         _re(rf"kernel stack overflow \(.{{1,20}}\): {_OOPS_CODE}"),
         "BUG: stack guard page was hit in {frame}", Where.STALL, _OVERFLOW,
         part_of=_ids("guard-page")),
    Rule("gpf", "DoS", "general protection fault",
         _re(r"general protection fault(?:,|:| ?$|.{0,200}\[#\d)"),
         "general protection fault in {frame}", Where.PC, _ACCESS, part_of=_FAULTS,
         unless=_re(r"traps: |ip:[0-9a-f]+ sp:")),
    Rule("divide", "DoS", "[#", _re(rf"(?:^|\W)divide[ _]error: {_OOPS_CODE}"),
         "divide error in {frame}", Where.PC),
    Rule("stack-segment", "DoS", "[#", _re(rf"(?:^|\W)stack segment: {_OOPS_CODE}"),
         "stack segment fault in {frame}", Where.PC, _ACCESS),
    Rule("trap", "DoS", "[#", _re(_TRAP),
         "{what} in {frame}", Where.PC, part_of=_FAULTS),
    Rule("oops", "DoS", "Oops: ", _re(r"(?:^|\W)Oops: (?:[\w ]{1,40}: )?[0-9a-f]{4,16} \[#\d"),
         "Oops in {frame}", Where.PC, part_of=_ids("*")),
    # ---- BUG() --------------------------------------------------------------------------------
    Rule("bug-list", "MEMORY_SAFETY_BUG", "ernel BUG at ",
         _re(r"[kK]ernel BUG at \S{0,100}lib/list_debug\.c:\d"),
         "BUG: corrupted list in {frame}", Where.PC, _ACCESS, part_of=_ids("list")),
    Rule("bug-usercopy", "BUG", "ernel BUG at ",
         _re(r"[kK]ernel BUG at \S{0,100}mm/usercopy\.c:\d"),
         "BUG: bad usercopy in {frame}", Where.TRACE, skip=(GENERIC, _USERCOPY)),
    Rule("bug", "BUG", "ernel BUG at ", _re(r"[kK]ernel BUG at "),
         "kernel BUG in {frame}", Where.PC, skip=(GENERIC, _SKB), part_of=_ids("rust-panic list")),
    Rule("list", "MEMORY_SAFETY_BUG", "list_",
         _re(r"(?:^|\W)list_(?:add|del) (?:corruption|double add)"),
         "BUG: corrupted list in {frame}", Where.PC, _ACCESS),
    Rule("rust-panic", "OTHER", "panicked at",
         _re(r"rust_kernel: panicked at (?:'(?P<what>.{1,100}?)', )?"),
         "{what} in {frame}", Where.TRACE, skip=(GENERIC, _RUST),
         more=(_re(r"^(?P<what>(?!rust_kernel|-{3}|kernel BUG|Oops|CPU:)[A-Za-z`\"].{3,100})$"),)),
    # ---- locks --------------------------------------------------------------------------------
    Rule("spinlock", "LOCKDEP", "BUG: ", _re(_SPIN), "BUG: {what} in {frame}", Where.TRACE,
         skip=(GENERIC, _SPINS)),
    Rule("deadlock-circular", "LOCKDEP", "possible circular",
         _re(r"WARNING: possible circular locking dependency detected"),
         "possible deadlock in {frame}", Where.LOCKS, skip=(GENERIC, _WORK)),
    Rule("deadlock", "LOCKDEP", "possible ",
         _re(r": possible (?:circular locking|recursive locking|irq lock inversion)"
             r"(?: dependency)? detected"),
         "possible deadlock in {frame}", Where.LOCK, skip=()),
    Rule("deadlock-irq", "LOCKDEP", "lock order detected",
         _re(r": [A-Z_]+-(?:READ-)?safe -> [A-Z_]+-(?:READ-)?unsafe lock order detected"),
         "possible deadlock in {frame}", Where.FIRST),
    Rule("lock-state", "LOCKDEP", "nconsistent lock state",
         _re(r"WARNING: inconsistent lock state"),
         "inconsistent lock state in {frame}", Where.TRACE),
    Rule("lock-state-old", "LOCKDEP", "nconsistent lock state",
         _re(r"INFO: inconsistent lock state"),
         "inconsistent lock state in {frame}", Where.LOCK, skip=()),
    Rule("lock-wait", "LOCKDEP", "nvalid wait context",
         _re(r"(?:BUG|WARNING): Invalid wait context"),
         "WARNING: locking bug in {frame}", Where.TRACE, skip=(GENERIC, _SOCKS)),
    Rule("lock-unbalance", "LOCKDEP", "unlock balance",
         _re(_LOCKS + r"bad (?:contention )?unlock balance detected"),
         "{kind}: bad unlock balance in {frame}", Where.LOCK, sig="bad unlock balance in {frame}"),
    Rule("lock-freed", "LOCKDEP", "held lock freed", _re(_LOCKS + r"held lock freed"),
         "{kind}: held lock freed in {frame}", Where.LOCK, skip=(),
         sig="held lock freed in {frame}"),
    Rule("lock-user", "OTHER", "lock held when returning",
         _re(_LOCKS + r"lock held when returning to user space"),
         "{kind}: lock held when returning to user space in {frame}", Where.LOCK,
         skip=(), stackless=True, sig="lock held when returning to user space in {frame}"),
    Rule("lock-held", "LOCKDEP", "still has locks held",
         _re(_LOCKS + r".{1,40} still has locks held"),
         "{kind}: still has locks held in {frame}", Where.LOCK, skip=(),
         sig="still has locks held in {frame}"),
    Rule("lock-nested", "LOCKDEP", "ested lock was not taken",
         _re(_LOCKS + r"Nested lock was not taken"),
         "{kind}: nested lock was not taken in {frame}", Where.TRACE,
         sig="nested lock was not taken in {frame}"),
    Rule("rcu-usage", "LOCKDEP", "uspicious ",
         _re(_LOCKS + r"[sS]uspicious (?:RCU usage|rcu_dereference_\w+\(\) usage)"),
         "{kind}: suspicious RCU usage in {frame}", Where.TRACE, skip=(GENERIC, _RCU),
         sig="suspicious RCU usage in {frame}"),
    Rule("lock-key", "OTHER", "INFO: trying to register",
         _re(r"INFO: trying to register non-static key"),
         "INFO: trying to register non-static key in {frame}", Where.TRACE, skip=(GENERIC, _KEYS)),
    # ---- atomicity ----------------------------------------------------------------------------
    Rule("atomic-sleep", "ATOMIC_SLEEP", "BUG: sleeping function",
         _re(r"BUG: sleeping function called from invalid context"),
         "BUG: sleeping function called from invalid context in {frame}", Where.TRACE),
    Rule("atomic-schedule", "ATOMIC_SLEEP", "BUG: scheduling while",
         _re(r"BUG: scheduling while atomic"),
         "BUG: scheduling while atomic in {frame}", Where.TRACE, skip=(GENERIC, _SCHED)),
    Rule("preemptible", "LOCKDEP", "in preemptible",
         _re(r"BUG: using (?P<what>\w+)\(\) in preempt"),
         "BUG: using {what}() in preemptible code in {frame}", Where.TRACE,
         skip=(GENERIC, _PREEMPT)),
    Rule("work-leak", "OTHER", "BUG: workqueue leaked",
         _re(r"BUG: workqueue leaked (?:lock or atomic|atomic, lock or RCU)"),
         "BUG: workqueue leaked lock or atomic in {frame}",
         more=(_re(r"last function: (?P<frame>[\w.]+)"),)),
    # ---- hangs --------------------------------------------------------------------------------
    Rule("work-lockup", "OTHER", "BUG: workqueue lockup", _re(r"BUG: workqueue lockup"),
         "BUG: workqueue lockup"),
    Rule("soft-lockup", "HANG", "soft lockup", _re(r"BUG: soft lockup - CPU#(?P<cpu>\d+)"),
         "BUG: soft lockup in {frame}", Where.STALL, _STALL),
    Rule("hard-lockup", "HANG", "LOCKUP", _re(_HARD_LOCKUP),
         "BUG: hard lockup in {frame}", Where.STALL, _STALL),
    Rule("rcu-stall", "HANG", "INFO: rcu",
         _re(r"INFO: rcu\w* (?:self-)?detected (?:expedited )?stalls? on (?:CPU|tasks)"),
         "INFO: rcu detected stall in {frame}", Where.TICK, _STALL, skip=(GENERIC, _TICK)),
    Rule("hung-task", "HANG", "INFO: task ",
         _re(r"INFO: task .{1,64} blocked (?:in I/O wait |on a \w+ )?(?:.{1,40})?for more than \d"),
         "INFO: task hung in {frame}", Where.SLEEP, _HANG),
    Rule("undying-task", "HANG", "INFO: task ",
         _re(r"INFO: task .{1,64} can't die for more than \d"),
         "INFO: task can't die in {frame}", Where.TRACE, _HANG, skip=(GENERIC, _SCHED)),
    # ---- stacks -------------------------------------------------------------------------------
    Rule("guard-page", "OTHER", "stack guard page was hit",
         _re(r"BUG: (?:\S{1,16} )?stack guard page was hit"),
         "BUG: stack guard page was hit in {frame}", Where.STALL, _OVERFLOW),
    Rule("stack-regs", "OTHER", "WARNING: kernel stack",
         _re(r"WARNING: kernel stack regs at [0-9a-f]+ in \S{1,40} has bad (?P<what>'\w+') value"),
         "WARNING: kernel stack regs has bad {what} value"),
    Rule("stack-frame", "OTHER", "WARNING: kernel stack",
         _re(r"WARNING: kernel stack frame pointer at [0-9a-f]+ in \S{1,40} has bad value"),
         "WARNING: kernel stack frame pointer has bad value"),
    Rule("stack-unwind", "OTHER", "WARNING: kernel stack",
         _re(r"WARNING: kernel stack (?:frame pointer|regs) at .{1,80} has bad "),
         "WARNING: kernel stack regs has bad value"),
    # ---- memory bookkeeping -------------------------------------------------------------------
    Rule("page-map", "OTHER", "BUG: Bad page map", _re(r"BUG: Bad page map"), "BUG: Bad page map",
         Where.TRACE, skip=(GENERIC, _PTE), sig="BUG: Bad page map in {frame}"),
    Rule("page-state", "OTHER", "BUG: Bad page ",
         _re(r"BUG: Bad page (?P<what>state|cache) in process"),
         "BUG: Bad page {what} in {frame}", Where.FIRST, skip=(GENERIC, _PAGE)),
    Rule("rss", "OTHER", "BUG: Bad rss-counter", _re(r"BUG: Bad rss-counter state"),
         "BUG: Bad rss-counter state", alone=True),
    Rule("pgtables", "OTHER", "BUG: non-zero ",
         _re(r"BUG: non-zero (?P<what>nr_p(?:md|te)s on freeing mm|\w+ on freeing mm: -?\d+)"),
         "BUG: non-zero {what}", alone=True),
    Rule("slab-remaining", "DoS", "bjects remaining ",
         _re(_SLAB + r"Objects remaining (?:in \S+ )?on __kmem_cache_shutdown"),
         "BUG: Objects remaining in {cache} on __kmem_cache_shutdown()",
         sig="slab cache {cache} destroyed with objects"),
    Rule("slab-destroy", "DoS", "Slab cache still has objects",
         _re(r"(?:kmem_cache_destroy )?(?P<cache>\S{1,64}): Slab cache still has objects"),
         "kmem_cache_destroy {cache}: Slab cache still has objects",
         part_of=_ids("slab-remaining"), sig="slab cache {cache} destroyed with objects"),
    Rule("slab", "DoS", "BUG ", _re(_SLAB + r"(?P<what>\S.{0,120})"),
         "BUG: {what}", alt=("BUG {cache}: {what}",), unless=_re(r"kasan: bad access detected")),
    Rule("slab-duplicate", "WARNING", "already exists",
         _re(r"kmem_cache_?\w* \(?(?:of name ')?(?P<cache>[\w:-]{1,64})(?:'|\):)"
             r" (?:Cache name )?already exists"),
         "kmem_cache of name '{cache}' already exists", sig="duplicate slab cache {cache}"),
    Rule("slab-error", "DoS", "slab error in ",
         _re(r"slab error in (?P<what>\w+)\(\): cache `?(?P<cache>[\w:-]+)'?: (?P<msg>.{1,80})"),
         "slab error in {what}(): cache {cache}: {msg}"),
    Rule("slab-track", "OTHER", " age=",
         _re(r"INFO: (?P<what>Allocated|Freed) in (?P<func>[\w.]+)\+0x[0-9a-f/x]+ age="),
         "INFO: {what} in {func} age=NUM cpu=NUM pid=NUM", part_of=_ids("*"),
         torn="the report that it is a part of is missing"),
    Rule("leak", "LEAK", "unreferenced object 0x", _re(r"(?:^|\s)unreferenced object 0x[0-9a-f]+"),
         "memory leak in {frame}", Where.FIRST, skip=(GENERIC, _LEAK),
         part_of=_ids("leak-header")),
    Rule("leak-header", "LEAK", "BUG: memory leak", _re(r"BUG: memory leak"),
         "memory leak in {frame}", Where.FIRST, skip=(GENERIC, _LEAK)),
    Rule("leak-count", "LEAK", "new suspected memory leaks",
         _re(r"kmemleak: \d+ new suspected memory leaks"),
         "kmemleak: new suspected memory leaks", alone=True, minor=True),
    # ---- WARN() -------------------------------------------------------------------------------
    _warn("refcount", r"lib/refcount\.c", r"\w+", "WARNING: refcount bug in {frame}",
          "REFCOUNT_WARNING", skip=(GENERIC, _REFCOUNT)),
    Rule("warn-refcount-unnamed", "REFCOUNT_WARNING", "WARNING: ",
         _re(_WARN + r"\S{0,100}lib/refcount\.c:\d+ at 0x"),
         "WARNING: refcount bug in {frame}", Where.PC, skip=(GENERIC, _REFCOUNT)),
    _warn("odebug", r"lib/debugobjects\.c", r"\w+", "WARNING: ODEBUG bug in {frame}",
          skip=(GENERIC, _ODEBUG)),
    _warn("list", r"lib/list_debug\.c", r"\w+", "WARNING: corrupted list in {frame}",
          "MEMORY_SAFETY_BUG", part_of=_ids("list"), sig="BUG: corrupted list in {frame}"),
    _warn("usercopy", r"mm/usercopy\.c", r"\w+", "WARNING: bad usercopy in {frame}",
          skip=(GENERIC, _USERCOPY)),
    _warn("kobject", r"lib/kobject\.c", r"\w+", "WARNING: kobject bug in {frame}",
          part_of=_ids("sysfs-dup")),
    _warn("proc", r"fs/proc/generic\.c", r"proc_register",
          "WARNING: proc registration bug in {frame}",
          skip=(GENERIC, _PROC)),
    _warn("lockdep", r"kernel/locking/lockdep\.c", r"\w*lock_\w+",
          "WARNING: locking bug in {frame}", "LOCKDEP", skip=(GENERIC, _SOCKS)),
    _warn("kmalloc", r"mm/\w+\.c", r"k?v?malloc\w*", "WARNING: kmalloc bug in {frame}",
          skip=(GENERIC, _KMALLOC)),
    _warn("vmalloc", r"mm/vmalloc\.c", r"__vmalloc_node_range\w*",
          "WARNING: zero-size vmalloc in {frame}"),
    _warn("urb", r"drivers/usb/core/urb\.c", r"usb_submit_urb",
          "WARNING in {frame}/usb_submit_urb",
          skip=(GENERIC, _URBS)),
    _warn("slab-destroy", r"mm/slab_common\.c", r"kmem_cache_destroy", "WARNING in {frame}",
          part_of=_ids("slab-remaining slab-destroy")),
    _warn("slab-duplicate", r"mm/slab_common\.c", r"\w+", "WARNING in {frame}",
          part_of=_ids("slab-duplicate")),
    _warn("dentry", r"fs/dcache\.c", r"umount_check", "WARNING in {frame}", part_of=_ids("dentry")),
    _warn("file-count", r"fs/open\.c", r"filp_(?:close|flush)", "WARNING in {frame}",
          part_of=_ids("file-count")),
    _warn("busy", r"fs/super\.c", r"generic_shutdown_super", "WARNING in {frame}",
          part_of=_ids("busy-inodes")),
    Rule("warn", "WARNING", "WARNING: ", _re(rf"{_WARN}\S+:\d+ (?:at )?{FUNC}"),
         "WARNING in {frame}", Where.HEAD),
    Rule("warn-unnamed", "WARNING", "WARNING: ",
         _re(r"WARNING: (?:CPU: \d+ PID: \d+ at |\S+:\d+ at 0x[0-9a-f]+, CPU#)"),
         "WARNING in {frame}", Where.PC),
    # ---- objects that outlive their owner or meet their double ---------------------------------
    Rule("sysfs-dup", "WARNING", "create duplicate filename",
         _re(r"sysfs: cannot create duplicate filename '(?P<path>[^']{1,200})"),
         "sysfs: cannot create duplicate filename '{path}'", minor=True),
    Rule("kobject-dup", "WARNING", "with -EEXIST",
         _re(r"kobject(?:_add_internal)?:? .{0,40}failed for (?P<name>.{1,80}) with -EEXIST"),
         "kobject_add_internal failed for {name} with -EEXIST",
         part_of=_ids("sysfs-dup warn warn-kobject"), minor=True),
    Rule("kobject-state", "WARNING", "something is seriously wrong",
         _re(r"kobject .{1,80}: tried to (?P<what>(?:init|add) an \w+) object"),
         "kobject: tried to {what} object in {frame}", Where.TRACE),
    Rule("busy-inodes", "DoS", "VFS: Busy inodes after unmount",
         _re(r"VFS: Busy inodes after unmount"), "VFS: Busy inodes after unmount (use-after-free)"),
    Rule("file-count", "DoS", "VFS: Close: file count",
         _re(r"VFS: Close: file count is (?:0|zero)"),
         "VFS: Close: file count is zero (use-after-free)"),
    Rule("dentry", "OTHER", "still in use",
         _re(r"BUG: Dentry .{1,200} still in use .{0,8}\[(?P<what>unmount of [^\]]{1,64})"),
         "BUG: Dentry still in use in unmount", alt=("BUG: Dentry still in use [{what}]",)),
    Rule("netdevice", "HANG", "unregister_netdevice: waiting for",
         _re(r"unregister_netdevice: waiting for \S+ to become free"),
         "unregister_netdevice: waiting for DEV to become free", alone=True),
    # ---- panic --------------------------------------------------------------------------------
    Rule("panic-protector", "DoS", "Kernel panic - not",
         _re(r"Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: "
             r"(?:(?P<func>[\w.]+)\+0x|[0-9a-f]+|[\w.]+)"),
         "kernel panic: stack is corrupted in {frame}", Where.HEAD, part_of=_FAULTS,
         skip=(GENERIC, _PROTECTOR), stackless=True),
    Rule("panic-stack-end", "DoS", "Kernel panic - not",
         _re(r"Kernel panic - not syncing: corrupted stack end detected inside scheduler"),
         "kernel panic: corrupted stack end in {frame}", Where.STALL, _OVERFLOW,
         skip=(GENERIC, _SCHED)),
    Rule("panic-after", "DoS", "Kernel panic - not",
         _re(rf"Kernel panic - not syncing: (?P<what>(?:{_AFTER}))"),
         "kernel panic: {what}", part_of=_ids("*"), torn="the report that it follows is missing"),
    Rule("panic-init", "DoS", "Kernel panic - not",
         _re(r"Kernel panic - not syncing: (?P<what>Attempted to kill init!)"),
         "kernel panic: {what}", part_of=_ids("*")),
    Rule("panic", "DoS", "Kernel panic - not",
         _re(r"Kernel panic - not syncing: (?P<what>.{1,100}?)(?: for \S+ --- .*)?$"),
         "kernel panic: {what}", part_of=_ids("*")),
    # ---- whatever else calls itself a bug ------------------------------------------------------
    Rule("bug-other", "OTHER", "BUG: ", _re(r"(?:^|\[ |\w: )BUG: (?P<what>\S.{0,120}?)(?: \])?$"),
         "BUG: {what}", unless=_re(r"recent printk recursion")),
    Rule("warn-other", "WARNING", "WARNING: ", _re(r"^WARNING: (?P<what>[A-Za-z_]\w{0,60})$"),
         "WARNING: {what}"),
)
# fmt: on
