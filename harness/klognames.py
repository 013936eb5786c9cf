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

import re
from collections.abc import Sequence
from dataclasses import replace

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
~lookup_object ~(?:timer|work)_is_static_object ~__phys_addr ~might_(?:fault|sleep) ~__might_resched
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
~free_unref_page ~free_pages_prepare
# Containers, counters, single bits.
~list_(?:add|del|replace|move|splice) (?:__)?rb_.* klist_.* ~rhashtable_lookup refcount_.* kref_.*
~ref_tracker ~xas_(?:start|load|find)
~atomic(?:64)?_(?:dec|inc|read|set|x?or|and|add|sub|fetch|(?:cmp)?xchg|try)
~(?:set|clear|change|test)_bit
# Locks, their checkers, wake-ups.
~lockdep ~lock_(?:acquire|release|class) ~mark_lock ~(?:reacquire|mark)_held_locks valid_state
~seqprop_assert
~(?:trace|lockdep)_(?:hard|soft)irq ~bh_(?:en|dis)able ~raw_spin_rq ~spin_(?:lock|trylock|unlock)
~(?:read|write)_(?:lock|trylock|unlock) down ~down_(?:read|write|trylock) ~up_(?:read|write)
(?:__)?mutex_.* rt_mutex_.* ~owner_on_cpu ~osq_(?:un)?lock ~__wake_up complete
~wait_for_completion ~finish_wait ~cleanup_srcu_struct
# Timers, work items and threads, on behalf of their users.
~lock_timer_base ~del_timer ~__mod_timer ~timer_delete ~sk_stop_timer_sync ~insert_work
~flush_work ~cancel_work_(?:sync|timer) __cancel_work ~cancel_delayed_work
~(?:try_to|work)_grab_pending ~(?:drain|destroy)_workqueue
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

# What a task that does not wake up may wait for on behalf of its caller.
_WAITING = names(
    r"""
~sched ~_(?:slow)?lock ~down ~rwsem ~completion ~kthread ~wait ~synchronize ~context_switch
~__switch_to ~cancel_delayed_work ~rcu_barrier
"""
)
_ASLEEP = names("(?:__)?schedule __switch_to context_switch")
# Victims of these are found all over the kernel; the culprit is elsewhere.
_BUCKETS = names("~rtnl_lock ~synchronize_(?:s?rcu|net|sched)")

# Functions that call through a table: what they called is the operation.
_DISPATCHER = names(
    r"""
# System calls, and what the kernel does on the way back from one.
~do_(?:fast_)?syscall_ ~sysenter_dispatch ~tracesys_phase2 ~el0_svc_handler ~invoke_syscall
~ret_fast_syscall (?:sys_)?(?:socketpair|connect|ioctl).* ~exit_to_usermode ~task_work_run
# Files.
~vfs_(?:iter_)?(?:read|write) ~do_iter_(?:read|write) ~call_(?:read|write)_iter
~new_sync_(?:read|write) ~(?:vfs|ksys|compat|compat_sys|blkdev|blkdev_driver)_ioctl ~__fput
call_mmap.* ~mmap_region ~do_mmap ~do_dentry_open ~vfs_open ~__do_fault ~do_page_fault page_fault
# Sockets.
(?:__)?sock_release.* sock_(?:sendmsg|recvmsg|mmap|do_ioctl|ioctl).* compat_sock_ioctl.*
setsockopt listen accept ~kernel_(?:setsockopt|listen|accept) ~sock_common_setsockopt
~sk_common_release nfnetlink_rcv_msg.* rtnetlink_rcv_msg.* netlink_dump.* ~netif_receive_skb
# Bottom halves, work items, threads.
~do_softirq ~call_timer_fn ~_run_timers ~run_timer_softirq ~hrtimer_run ~tasklet_(?:hi_)?action
~run_ksoftirqd ~smpboot_thread_fn ~process_one_work kthread ~ret_from_fork ~start_secondary
~cpu_startup_entry
# A processor that waits for others is stuck by what it asked of them.
~smp_call_function
"""
)
# These call a module's functions for loading and unloading it.
_LOADER = names("~do_one_initcall ~delete_module")
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
# One mechanism under several names, by age or flavour of the kernel.
_CROSS_CALL = ("smp_call_function", names("~smp_call_function"))
_GRACE = ("synchronize_rcu", names("~synchronize_(?:s?rcu|net|sched)"))

# What system call macros put before the name of a system call or of its body, and its kernel-side
# callers before that of the shared code.
_SYSCALL = re.compile(
    r"^(?:__(?:x64|ia32|arm64)_|__se_(?:sys_)?|__do_sys_|_{2,4}sys_|ksys_|(?:compat_)?(?:SYSC|SyS)_|sys_)"
)


def plain(func: str) -> str:
    """The name that titles use: without compiler suffixes, and without system call wrapping."""
    return _SYSCALL.sub("", strip_suffix(func), count=1)


def simplify(func: str) -> tuple[str, tuple[str, ...]]:
    """The name that a title uses for a function, and the others under which it is known."""
    func = strip_suffix(func)
    name = plain(func)
    if name == func:
        return func, ()
    if name.startswith("compat_"):
        return name, (func,)
    bare = name.removeprefix("sys_")
    return name, tuple(
        other for other in dict.fromkeys((func, bare, f"sys_{bare}")) if other != name
    )


def canonical(func: str) -> str:
    """One name for all the wrappers and bodies of a system call, whatever the kernel."""
    name, others = simplify(func)
    return f"sys_{name.removeprefix('sys_')}" if others else name


def is_guilty(frame: Frame, *skips: re.Pattern[str]) -> bool:
    """Whether a frame has a name that is in none of the tables ``skips``."""
    if frame.func is None:
        return False
    name = plain(frame.func)
    return not any((_HEADER if frame.module else skip).match(name) for skip in skips)


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


def _called(frame: Frame, family: tuple[str, re.Pattern[str]]) -> Frame:
    """The frame under the name of its family, if it is of that."""
    name, pattern = family
    return replace(frame, func=name) if pattern.match(frame.func or "") else frame


def is_asleep(frames: Sequence[Frame]) -> bool:
    """Whether a stack is that of a task that has given up its processor."""
    first = next((frame.func for frame in frames if frame.func), None)
    return first is not None and _ASLEEP.match(first) is not None


def blocked(frames: Sequence[Frame]) -> Frame | None:
    """The function in which a sleeping task waits."""
    for frame in frames:
        if frame.reliable and is_guilty(frame, GENERIC) and _BUCKETS.match(frame.func or ""):
            return _called(frame, _GRACE)
    return guilty(frames, GENERIC, _WAITING)


def operation(
    frames: Sequence[Frame], *skips: re.Pattern[str], leftovers: bool = False
) -> Frame | None:
    """What the innermost dispatcher of a stack had called; None if there is no dispatcher.

    ``leftovers``: take frames that the unwinder does not vouch for, too.
    """
    called = None
    for frame in frames:
        if not (frame.reliable or leftovers) or not is_guilty(frame, *skips):
            continue
        name = plain(frame.func or "")
        if called is not None and called.module and _LOADER.match(name):
            return called
        if _DISPATCHER.match(name):
            crossed = _called(frame, _CROSS_CALL)
            return crossed if called is None or crossed is not frame else called
        called = frame
    return None
