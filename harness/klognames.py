# SPDX-License-Identifier: GPL-2.0-only
"""Which function of a stack names a report.

A stack begins in code that many share: the reporting machinery, allocators, locks, containers,
helpers of the big subsystems. The first function that is none of these is *guilty*. A processor
that is stuck is caught at a random instruction, so there the *operation* counts: what the
innermost function that calls through a table (system call entry, file operations, timers, work
items, protocol handlers) had called. For a task that sleeps, it is the first function that is no
waiting primitive.

A table holds expressions for names, separated by blanks; ``~`` before one says that it may stand
anywhere in a name; ``#`` begins a comment line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from harness.klogframes import Frame, strip_suffix


def names(table: str) -> re.Pattern[str]:
    """Pattern of the names in a table; ``match`` it against a name.

    A row is a whole name, or after ``~`` a word that a name may hold anywhere.
    """
    rows = [row for line in table.splitlines() if line[:1] != "#" for row in line.split()]
    whole = [row for row in rows if row[0] != "~"]
    words = [row[1:] for row in rows if row[0] == "~"]
    parts = ["(?:" + "|".join(whole) + ")$"] if whole else []
    parts += [".*(?:" + "|".join(words) + ")"] if words else []
    return re.compile("|".join(parts))


#: Functions that never are to blame, by what they do for their callers. A driver's wrapper of such
#: a function is called after it (``foo_writel``, ``bar_spin_lock``) and is to blame as little.
GENERIC = names(
    r"""
# Reports: printing, dumping, WARN and BUG, oops and panic.
~printk ~va_format ~dump_stack ~dump_backtrace ~show_stack ~walk_stack ~__warn
~warn_(?:slowpath|alloc|bogus) ~print_(?:report|usage_bug|unlock|address_desc|hex_dump|tainted)
~panic ~report_bug ~fixup_bug ~imbalance_bug ~assertfail ~__fortify_report ~hex_dump_to_buffer
~dev_(?:info|notice|warn|err|alert|crit|emerg) get_taint ~perf_trace ~stack_trace_(?:save|consume)
~arch_stack_walk
# Rust: the panic machinery, as it is called in C and mangled (v0).
rust_helper_\w+ ~rust_begin_unwind core::panicking::.*
# Exceptions and their entry.
~invalid_op ~do_error ~do_trap .*_trap ~do_(?:kernel|translation)_fault ~do_mem_abort ~el1_abort
~el1h_64_sync ~program_check_(?:exception|common) ~_indirect_thunk_
# Sanitizers and checkers of objects.
~kasan ~hwasan ~kmsan ~__[am]san ~__sanitizer ~kcsan_setup_watchpoint ~check_memory_region
~check_(?:heap_)?object ~read_word_at_a_time ~(?:read|write)_once_.*nocheck ~debug_object
~(?:timer|work)_is_static_object ~__phys_addr ~might_(?:fault|sleep) ~__might_resched
# Strings, memory, formatting, checksums.
~mem(?:cpy|cmp|set|chr|move|dup) ~str(?:n?cmp|n?cpy|lcpy|scpy|n?len|n?str|chr|n?dup) ~string
~pointer ~scnprintf ~snprintf ~kv?asprintf ~copy_(?:to|from)_(?:user|iter) copyin copyout
~copy_(?:page|folio)_to_iter ~copy_page_from_iter ~extract_(?:user|iter)_to_sg ~[gp][eu]t_user
crc\d+.* ~crc_itu_t
# Allocators and the page cache.
~[mzc]alloc ~krealloc ~kmem_cache ~slab_ ~allocate_slab ~alloc_page ~__alloc_frozen_pages_noprof
~folio_(?:alloc|unlock) ~filemap_alloc_folio ~__filemap_get_folio ~find_or_create_page
~do_read_cache_folio ~read_cache_page ~pagecache_get_page ~grab_cache_page_write_begin
(?:un)?lock_page.* ~find_lock_entries ~truncate_inode_pages_range kv?free ~kfree_skb ~ida_free
# Containers, counters, single bits.
~list_(?:add|del|replace|move|splice) (?:__)?rb_.* klist_.* ~rhashtable_lookup refcount_.* kref_.*
~ref_tracker ~xas_(?:start|load|find)
~atomic(?:64)?_(?:dec|inc|read|set|x?or|and|add|sub|fetch|(?:cmp)?xchg|try)
~(?:set|clear|change|test)_bit
# Locks, their checkers, wake-ups.
~lockdep ~lock_(?:acquire|release|class) ~mark_lock ~(?:reacquire|mark)_held_locks ~seqprop_assert
~(?:trace|lockdep)_(?:hard|soft)irq ~bh_(?:en|dis)able ~raw_spin_rq ~spin_(?:lock|trylock|unlock)
~(?:read|write)_(?:lock|trylock|unlock) down ~down_(?:read|write|trylock) ~up_(?:read|write)
(?:__)?mutex_.* rt_mutex_.* ~owner_on_cpu ~osq_(?:un)?lock ~__wake_up complete
~wait_for_completion ~finish_wait ~cleanup_srcu_struct
# Timers, work items and threads, on behalf of their users.
~lock_timer_base ~del_timer ~__mod_timer ~__timer_delete_sync ~sk_stop_timer_sync ~insert_work
~flush_work ~cancel_work_(?:sync|timer) ~try_to_grab_pending ~(?:drain|destroy)_workqueue
~queue_work ~queue_delayed_work_on ~__queue_delayed_work ~kthread_stop
# Inodes, dentries and buffers of somebody else.
iput iput_final ihold ~drop_nlink ~dput ~mark_buffer_dirty
# The driver core and buses, on behalf of their users.
~kobject_ ~add_uevent_var ~get_device_parent put_device ~device_(?:add|del|unregister|destroy)
~device_release ~devres_release_all ~device_for_each_child ~device_remove_file ~sysfs_remove
~tty_unregister_device ~unregister_netdev ~rollback_registered ~__unregister_client
~i2c_del_adapter ~hwrng_unregister ~dummy_urb_enqueue ~usb_kill_(?:anchored_)?urb ~usb_control_msg
~usb_(?:hcd_)?submit_urb
# Access to devices.
~(?:read|write)[bwlq]$ ~logic_(?:in|out)
"""
)

# Functions of headers that the compiler did not inline: they lie in the module that uses them, and
# are generic there too. Whatever else lies in a module is its own, however it is called.
_HEADER = names(
    r"""
_{0,2}list_(?:add|del|move|replace|splice|cut)(?:_tail|_rcu|_init|_entry|_head|_position|_bulk)*
_{0,2}list_(?:del_entry|empty(?:_careful)?|is_\w+|first_\w+)
hlist_(?:add|del)_(?:head|init|rcu|tail_rcu)
_{0,2}refcount_(?:inc|dec|add|sub|read|set)(?:_and_test|_not_zero|_checked)?
kref_(?:get|put|init)\w*
(?:arch_|raw_)?atomic(?:64|_long)?_(?:inc|dec|add|sub|read|set|xchg|cmpxchg|fetch_\w+|try_cmpxchg)\w*
_{0,2}(?:arch_)?(?:test|set|clear|change)_(?:and_(?:set|clear|change)_)?bit
k[mvzc]*alloc\w* copy_(?:to|from)_user _{0,2}(?:get|put)_user
(?:raw_)?(?:spin|read|write)_(?:un|try)?lock(?:_bh|_irq\w*)? mem(?:cpy|set|cmp|move)
strn?(?:cpy|cmp|len|cat|chr) instrument_\w+ rcu_read_(?:un)?lock
"""
)

#: What it takes to be put to sleep.
SLEEP = names(
    r"""
_{0,2}schedule\w* schedule_\w+ __switch_to\w* context_switch io_schedule\w* preempt_schedule\w*
_{0,2}cond_resched\w* do_wait_for_common wait_woken
"""
)
#: What a task that does not wake up may wait for on behalf of its caller.
_WAITING = names(
    r"""
\w*sched\w* __switch_to\w* context_switch \w*_(?:slow)?lock \w*_lock_\w+ \w*down\w* \w*rwsem\w*
\w*completion\w* kthread\w* \w*wait\w* \w*synchronize\w* \w*cancel_(?:delayed_)?work\w*
rcu_barrier\w* _{0,2}flush_(?:delayed_)?work\w* do_read_cache_\w+ __refrigerator freezer_\w+
usleep\w* msleep\w* do_nanosleep trace_\w+
"""
)
# Victims of these are found all over the kernel; the culprit is elsewhere.
_BUCKETS = names(r"rtnl_lock\w* synchronize_(?:s?rcu|net|sched)\w*")

#: Timers, work items and RCU on behalf of those that armed or freed them.
TIMERS = names(
    r"""
timer_\w+ hrtimer_\w+ _{0,2}(?:call|kvfree_call)_rcu\w* rcu_\w+ work_\w+ percpu_\w+ init_\w+
_{0,2}(?:queue|mod|flush|drain)_\w*work\w* prepare_to_\w+ add_wait_queue\w* destroy_\w*timer\w*
"""
)

# Frames at which an interrupt entered: what is inner to the first belongs to the detector.
_INTERRUPT = names(
    r"""
(?:asm_)?(?:sysvec_|smp_|local_)?(?:trace_)?apic_timer_interrupt\w* asm_sysvec_\w+ asm_exc_nmi
end_repeat_nmi nmi el1_irq el1h?_\d+_irq\w* el1_interrupt __irq_svc ret_from_intr common_interrupt
handle_exception reschedule_interrupt call_function_\w*interrupt timer_interrupt
hardware_interrupt_common\w* decrementer_common\w*
"""
)
# The tick, which finds stalls: no operation, although it is called through a table.
_TICK = names(
    r"""
tick_\w+ update_process_times _{0,2}hrtimer_\w+ rcu_\w+ nmi_\w+ watchdog_\w+ perf_\w+ irq_\w+
\w*_interrupt check_cpu_stall sched_show_task
"""
)
# Functions that call through a table: what they called is the operation.
_DISPATCHER = names(
    r"""
# system calls
do_syscall_\w+ x64_sys_call _{0,2}do_fast_syscall_32 do_int80_\w+ do_SYSENTER_32
entry_(?:SYS|INT)\w+ (?:__)?invoke_syscall\w* el0_svc\w* do_el0_svc\w* ret_fast_syscall
system_call\w* sysenter_\w+ tracesys\w* __sys_trace_return cstar_dispatch ia32_sys\w*
int_ret_from_sys_call ret_from_syscall __sys_(?:[gs]etsockopt|bind|connect|listen|accept4?\w*)
# files and sockets
vfs_(?:ioctl|read|write|iter_read|iter_write|readv|writev) ksys_(?:read|write)
(?:do_|ksys_)(?:vfs_)?ioctl (?:compat_)?(?:sys|SyS|SYSC)_ioctl
__(?:do|se|x64|ia32|arm64)_(?:compat_)?sys_ioctl compat_blkdev_ioctl blkdev_ioctl do_iter_\w+
new_sync_(?:read|write) __vfs_(?:read|write) call_(?:read|write)_iter do_loop_readv_writev __fput
__sock_release sock_release _{0,2}sock_sendmsg\w* rtnetlink_rcv_msg nfnetlink_rcv_msg
# bottom halves, work items, threads
call_timer_fn _{0,2}run_timers expire_timers __hrtimer_run_queues tasklet_action\w* task_work_run
_{0,2}do_softirq\w* handle_softirqs do_softirq_own_stack process_one_work kthread ret_from_fork\w*
kernel_thread_helper do_one_initcall __(?:do|se)_sys_delete_module smpboot_thread_fn run_ksoftirqd
start_secondary cpu_startup_entry run_timer_softirq process_scheduled_works worker_thread do_idle
_{0,2}netif_receive_skb\w*
"""
)
# Where stacks begin: below these there is no kernel code.
ROOT = names(
    r"""
entry_\w+ ret_from_\w+ ret_fast_syscall el0\w* el1\w* work_pending
sys(?:enter|call|tem_call|ret)\w* \w*int_ret_from_sys_call secondary_startup\w* start_secondary
start_kernel x86_64_start_\w+ asm_\w+ \w*_interrupt do_fast_syscall_32 do_syscall_\w+
kernel_thread_helper tracesys\w* stub_\w+ cstar_dispatch __irq_\w+ syscall_return\w*
cpu_startup_entry kernel_init common_startup\w*
"""
)
# A processor that waits for others is stuck by what it asked of them.
_CROSS_CALL = names(r"smp_call_function\w* smp_cfm_core\w* on_each_cpu\w*")

_SYSCALL_ARCH = re.compile(
    r"^__(?:x64|x32|ia32|arm64|riscv|s390x?|arm|powerpc)_(?P<name>(?:compat_)?sys_\w+)$"
)
_SYSCALL_BODY = re.compile(
    r"^(?:__(?:do|se)_(?:compat_)?sys_|(?:compat_|C_)?S[yY]S[C]?_|compat_S[yY]S_)(?P<name>\w+)$"
)
# One mechanism under several names, by age or flavour of the kernel.
_FAMILIES = (
    (_CROSS_CALL, "smp_call_function"),
    (names(r"synchronize_(?:s?rcu|net|sched)\w*"), "synchronize_rcu"),
)


def simplify(func: str) -> tuple[str, tuple[str, ...]]:
    """The name that a title uses for a function, and the others under which it is known."""
    func = strip_suffix(func)
    arch = _SYSCALL_ARCH.match(func)
    if arch is not None:
        return arch["name"], (func,)
    body = _SYSCALL_BODY.match(func)
    if body is not None:
        return body["name"], (func, f"sys_{body['name']}")
    for pattern, name in _FAMILIES:
        if pattern.match(func) and func != name:
            return name, (func,)
    return func, ()


def is_guilty(frame: Frame, *skips: re.Pattern[str]) -> bool:
    """Whether a frame has a name that is in none of the tables ``skips``."""
    if frame.func is None:
        return False
    return not any((_HEADER if frame.module else skip).match(frame.func) for skip in skips)


def guilty(frames: Sequence[Frame], *skips: re.Pattern[str]) -> Frame | None:
    """The first reliable frame that is guilty; None if there is none."""
    return next((frame for frame in frames if frame.reliable and is_guilty(frame, *skips)), None)


def leftover(frames: Sequence[Frame], *skips: re.Pattern[str]) -> Frame | None:
    """As :func:`guilty` in a stack of which the unwinder could make nothing.

    It starts at the program counter, and where that is no code (a call through a bad pointer, into
    a module that is gone), all it has is what looks like return addresses on the stack; the first
    is that of the call itself.
    """
    if any(frame.reliable and frame.func for frame in frames):
        return None
    return next((frame for frame in frames if is_guilty(frame, *skips)), None)


def blocked(frames: Sequence[Frame]) -> Frame | None:
    """The function in which a sleeping task waits."""
    for frame in frames:
        if frame.reliable and frame.func and _BUCKETS.match(frame.func):
            return frame
    return guilty(frames, GENERIC, _WAITING)


def operation(
    stack: Sequence[Frame], *, interrupted: bool = False, leftovers: bool = False
) -> Frame | None:
    """What the innermost dispatcher of a stack had called.

    ``interrupted``: the detector itself ran in an interrupt on top of this stack, so everything
    inner to the first interrupt entry is the detector's. ``leftovers``: take frames that the
    unwinder does not vouch for, too.
    """
    frames = [frame for frame in stack if frame.func and (frame.reliable or leftovers)]
    if interrupted:
        for n, frame in enumerate(frames):
            if _INTERRUPT.match(frame.func or ""):
                rest = n + 1
                while rest < len(frames) and _INTERRUPT.match(frames[rest].func or ""):
                    rest += 1
                frames = frames[rest:]
                break
    for n, (inner, outer) in enumerate(itertools.pairwise(frames)):
        func = inner.func or ""
        if _CROSS_CALL.match(func):
            return inner
        if (
            _DISPATCHER.match(outer.func or "")
            and not _DISPATCHER.match(func)
            and not _TICK.match(func)
            and is_guilty(inner, GENERIC, SLEEP)
        ):
            # foo_compat_ioctl() does nothing but call foo_ioctl().
            native = func.replace("compat_", "", 1)
            return frames[n - 1] if n and frames[n - 1].func == native else inner
    return None
