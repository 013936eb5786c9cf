# SPDX-License-Identifier: GPL-2.0-only
"""Which function of a stack names a report.

A stack begins in code that many share: the reporting machinery, allocators, locks, containers,
helpers of the big subsystems. The first function that is none of these is *guilty*. A processor
that is stuck is caught at a random instruction, so there the *operation* counts: what the
innermost function that calls through a table (system call entry, file operations, timers, work
items, protocol handlers) had called. For a task that sleeps, it is the first function that is no
waiting primitive.

A table holds whole-name expressions separated by blanks; ``#`` begins a comment line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from harness.klogframes import Frame, strip_suffix


def names(table: str) -> re.Pattern[str]:
    """Whole-name pattern from a table."""
    rows = [row for line in table.splitlines() if line[:1] != "#" for row in line.split()]
    return re.compile("^(?:" + "|".join(rows) + ")$")


#: Functions that never are to blame, by what they belong to.
GENERIC = names(
    r"""
# Reports: printing, dumping, WARN and BUG, oops and panic.
_?dump_stack(?:_lvl|_print_info)? show_(?:stack|trace|regs)\w* __dump_stack
dump_(?:backtrace|trace|page)\w* va_format \w*dev_v?printk\w*
_?dev_(?:info|notice|warn|err|alert|crit|emerg) unwind_backtrace walk_stackframe _?v?printk\w*
vprintk\w* _{0,2}n?panic\w* vpanic nmi_panic __warn\w* warn_\w+ report_bug\w* fixup_bug\w*
handle_bug oops_\w+ _{0,2}die\w* bust_spinlocks print_\w+ show_\w+_log_lvl check_panic_on_warn
_{0,2}fortify_\w+ __stack_chk_fail\w* assertfail __bug\w* bug_handler brk_handler object_err
slab_(?:err|bug|fix)\w* __schedule_bug __dump_page \w*_panic debug_smp_processor_id
check_preemption_disabled __this_cpu_preempt_check _{0,3}might_(?:sleep|resched|fault)\w*
__cant_(?:sleep|migrate)\w* bad_page\w* free_(?:pages_prepare|page_is_bad)\w*
check_(?:new|free)_page\w* __ubsan_\w+ ubsan_\w+ val_to_string
handle_(?:overflow|object_size_mismatch) ftrace_\w+_caller trace_(?:hard|soft)irqs_\w+
save_(?:trace|stack)\w* stack_trace_\w+ arch_stack_walk\w* _{0,2}stack_depot_\w+
_{0,2}ref_tracker\w* _{0,2}perf_trace_\w+ trace_event_(?:raw|buffer)_\w+ trace_\w+_lock\w*
# Rust: the panic machinery, as it is called in C and mangled (v0).
rust_helper_\w+ .*rust_begin_unwind core::panicking::.*
# Speculation mitigations, coverage.
__x86_\w*thunk\w* retpoline_\w+ srso_\w+ __sanitizer_\w+ write_comp_data check_kcov_mode
# Exceptions and their entry.
do_(?:invalid_op|error_trap|trap\w*|general_protection|int3|divide_error|double_fault|bug\w*)
do_(?:page|user_addr|kern_addr|kernel|sect|translation|und|cp)_fault do_(?:Data|Prefetch)Abort
do_(?:mem_abort|debug_exception|tag_\w+|sp_pc_abort|undefinstr|alignment\w*|bad|bad_area|address_error)
do_(?:el1\w*|el0_\w+|sea|ade|be) __do_(?:page|kernel|user)_fault no_context _{0,2}bad_area\w*
page_fault\w* kernelmode_fixup_or_oops (?:asm_|__)?exc_\w+ (?:async_|double_)?page_fault invalid_op
general_protection divide_error error_(?:entry|code|exit) handle_exception el1[th]?_\w+
el1h?_\d+_\w+ die_kernel_fault mm_fault_error spurious_(?:kernel_)?fault\w* \w*stack_overflow\w*
__bad_stack call_on_stack\w* __[dp]abt_\w+ __und_\w+ vector_(?:dabt|pabt|und|swi|irq|fiq)\w*
machine_check\w* stack_segment arm_notify_die baddataabort (?:asm_)?sysvec_\w+ bad_mode
common_(?:interrupt|exception)\w*
# Sanitizers.
_{0,3}kasan_\w+ _{2,3}h?w?asan_\w+ check_memory_region\w* (?:memory|bytes)_is_\w+ hw_tags\w*
(?:start|end)_report describe_object\w* object_is_\w+ quarantine_\w+ qlink_\w+
poison_(?:slab|kmalloc|object|page|element)\w* set_track get_\w+_bug_type set_report_info
check_(?:access|region_inline) tag_check_\w+ tagged_\w+_fault
_{0,2}(?:kcsan|kmsan|msan|tsan|kfence|csan)_\w+ find_watchpoint __tsan\w* __msan\w*
# Strings, memory, formatting, checksums, hashes.
_{0,2}(?:x86_|pi_)?mem(?:cpy|move|set|cmp|chr|scan|zero|dup)\w*
_{0,2}(?:pi_)?str(?:n?cpy|scpy|n?cmp|n?casecmp|n?len|n?chr|rchr|n?cat|lcpy|lcat|n?str|pbrk)\w*
_{0,2}str(?:n?dup|sep|c?spn|im|size)\w* clear_page\w* copy_page(?:_erms|_rep)? copy_highpage
__arch_(?:copy|clear)_\w+ raw_copy_\w+ v?s?c?n?printf v?sn?c?printf kv?asprintf\w* kvasprintf\w*
string(?:_nocheck)? format_decode pointer number bcmp
_{0,2}bitmap_(?:set|clear|and|or|weight|copy|zero|fill|find|parse|empty|full|equal|subset)\w*
_?find_(?:next|first|last|nth)_\w*bit\w* hex_dump_to_buffer \w*copy_(?:to|from|in)_user\w*
_{0,2}copy_(?:to|from)_\w*(?:iter|nofault)\w* simple_copy_to_iter copy_user_\w+ copy(?:in|out)\w*
(?:_{0,2}|_)clear_user\w* _{0,2}(?:get|put)_user\w* _{0,2}probe_kernel_\w+ __check_\w*object\w*
check_(?:heap|stack|kernel_text|bogus)_\w+ usercopy_\w+ strict_\w+_iter instrument_\w+  _?csum_\w+
rep_(?:movs|stos)\w* _{0,2}jhash\w* siphash\w* \w*crc\w*(?:le|be|itu|16|32|t)\w*
(?:get|put)_unaligned\w* __f?swab\w*
# Allocators.
_{0,3}k[mvz]*alloc\w* \w*krealloc\w* _{0,2}kv?z?free\w* kvfree(?:_call_rcu|_sensitive)?
kfree_(?:const|sensitive|bulk) do_slab_free _{0,2}kmem_cache_\w+ _{0,3}slab_\w+
\w*cache_(?:free|alloc|from|grow)\w* slub_\w+
free_(?:debug_processing|to_partial_list|consistency_checks|large_kmalloc|unref_\w+|the_page|hot_cold_page|one_page|pcppages_bulk|frozen_pages\w*)
alloc_(?:debug|slab|pages?|frozen|percpu)\w* _{0,2}alloc_(?:pages|frozen|percpu)\w* allocate_slab
_{0,3}new_slab\w* get_(?:from_)?(?:any_)?partial\w* get_page_from_freelist kmemdup\w* kstrn?dup\w*
\w*memdup\w* kmalloc_(?:order|large|slab|node|trace|reserve|array|fix)\w* large_kmalloc\w*
kmemleak_\w+ _{0,2}get_free_pages?\w* prep_new_page post_alloc_hook _{0,2}rmqueue\w*
_{0,2}free_pages?\w* __free_(?:pages\w*|slab|one_page|object) _{0,2}put_page _{0,2}folio_put\w*
check_(?:slab|object|bytes_and_report) init_object on_freelist verify_mem_\w+ list_slab_objects
fallback_alloc _{0,2}vmalloc\w* _{0,2}v(?:free|zalloc|realloc|malloc|unmap)\w* vmap_\w+_range\w*
\w*should_fail\w* fail_dump memalloc_\w+ pcpu_\w+ mempool_(?:alloc|free|kmalloc|kfree)\w*
\w*(?:alloc|dup)\w*_noprof
# Containers, counters, single bits.
_{0,2}h?list_(?:add|del|move|replace|splice|empty|cut|swap|rotate|is_|first|bulk|unhashed)\w*
[pk]list_(?:add|del|init|next|remove|dec|put)\w* llist_(?:add|del|reverse)\w*
_{0,3}rb_(?:erase|insert|next|prev|first|last|replace|find|add|link|rotate)\w* __rb_\w+
_{0,2}refcount_\w+ kref_\w+ _?(?:raw_|arch_)?atomic(?:64|_long)?_\w+
_{0,2}(?:arch_)?(?:test|set|clear|change)_\w*bit\w* __?c?m?p?xchg\w* __?cmpxchg\w*
_{0,2}(?:read|write)_once\w* READ_ONCE\w* read_word_at_a_time
rcu_(?:read_\w+|dereference\w*|lock_\w+|is_\w+) __rcu_(?:dereference|access)\w* xas_\w+
_{0,2}xa_\w+
# Locks and their checkers.
_{0,3}(?:raw_)?(?:spin|read|write)_(?:lock|unlock|trylock|rt_\w+)\w* _{0,2}(?:do_)?raw_\w+ _raw_\w+
(?:native_)?queued_\w+ _{0,2}pv_(?:queued|wait|kick|init|hybrid)\w* osq_\w+ _{0,2}mutex_\w+
_{0,2}ww_\w+ _{0,2}rt_mutex\w* rtlock_\w+ _{0,3}down(?:_\w+)? _{0,2}up(?:_(?:read|write)\w*)?
_{0,2}rwsem_\w+ call_rwsem_\w+
lock_(?:acquire|release|downgrade|is_held|acquired|contended|map_\w+|set_\w+)\w* __lock_\w+
_{0,2}lock_(?:page|buffer|sock)\w* _{0,2}release_sock _{0,2}lockdep_\w+ validate_chain
check_(?:prevs?_add|noncircular|deadlock|irq_usage|usage\w*|wait_context|flags)
mark_(?:lock|usage|held)\w* register_lock_class assign_lock_key look_up_lock_class match_held_lock
find_held_lock spin_(?:bug|dump)\w* rwlock_bug valid_state
debug_(?:lock|mutex|rt_mutex|spin|locks|check_no|object|work|timer|hrtimer|print|deactivate)\w*
lookup_object\w*
debug_(?:activate|rcu|dma|assert)\w* __debug_\w+ seq(?:count|lock)_\w+ read_seq\w* usage_match
_{0,2}percpu_(?:down|up|rwsem|is)\w* _{0,2}ldsem_\w+ owner_on_cpu _{0,2}bit_spin_\w+
(?:prepare|finish)_lock_switch _{0,2}local_bh_\w+ _{0,2}preempt_(?:count|schedule)\w*
_{0,2}task_rq_lock \w+_(?:read|write)_lock
# Called with somebody else's inode, dentry, page or buffer.
iput(?:_final)? ihold (?:drop|inc|clear|set)_nlink mark_buffer_dirty\w*  (?:fast_)?dput
retain_dentry folio_(?:un)?lock unlock_page find_(?:lock|get)_(?:entries|pages)\w*
truncate_inode_pages\w* pagevec_\w+ copy_(?:page|folio)_(?:to|from)_iter\w*
# Packets.
_{0,2}p?skb_(?:put|push|pull|trim)\w*
# The driver core, timers, work items and wait queues, on behalf of their users.
(?:kobject|kset|devres)_\w+ device_(?:add|del|register|unregister|create\w*|destroy|release)
device_(?:initialize|private_init|links_\w+) add_uevent_var dev_uevent bus_(?:add|remove)_device
(?:get|put)_device\w* get_device_parent klist_\w+ tty_(?:un)?register_device\w* cdev_device_\w+
(?:try_to_)?(?:del|add|mod)_timer\w* __mod_timer _{0,2}timer_delete\w* timer_(?:delete|shutdown)\w*
_{0,2}cancel_(?:delayed_)?work\w* _{0,2}cancel_work_timer _{0,2}flush_(?:delayed_)?work\w*
start_flush_work _{0,2}wake_up(?:_(?:common|locked|sync|bit|var|poll|process|q|state)\w*)?
try_to_wake_up complete(?:_all)? swake_up_\w+ (?:do_|_{0,2})wait_for_(?:common|completion)\w*
kthread_(?:stop|unpark|park)\w* kill_fasync usb_(?:kill|unlink|poison|free|put|get)_urb
usb_(?:control|bulk|interrupt)_msg\w* usb_start_wait_urb usb_kill_anchored_urbs
(?:try_to|work)_grab_pending
lock_timer_base (?:timer|work|hrtimer)_is_static_object _{0,2}queue_(?:delayed_)?work\w*
mod_delayed_work\w* (?:flush|drain|destroy)_workqueue __flush_workqueue  usb_hcd_submit_urb
dummy_urb_enqueue device_remove_(?:file|bin_file|groups?|attrs) detach_(?:if_pending|timer)
internal_add_timer enqueue_timer insert_work get_work_p\w+ finish_wait   sysfs_\w+ dpm_\w+
device_for_each_\w+ i2c_(?:del|unregister)_\w+ _{0,2}unregister_client
(?:hwrng|led_classdev|power_supply)_unregister rollback_registered\w*
unregister_netdevice_(?:many|queue)
# Access to devices.
_{0,2}raw_(?:read|write)[bwlq] logic_(?:in|out)s?[bwl] io(?:read|write)\w+ (?:read|write)[bwlq]
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
k[mvz]*alloc(?:_array|_node)? copy_(?:to|from)_user _{0,2}(?:get|put)_user
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
