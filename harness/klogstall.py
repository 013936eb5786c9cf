# SPDX-License-Identifier: GPL-2.0-only
"""Which operation does not get on: the frame that names a stall, a lockup or a hang.

A processor that is stuck was interrupted at a random instruction, so the innermost frame says
little and differs each time. What stays is the operation: the function that the innermost
*dispatcher* called. A dispatcher is a function of the kernel that calls through a table: system
call entry, file operations, softirq and timer callbacks, work items, protocol handlers.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.klogframes import GENERIC, Frame, guilty, names

# Frames at which an interrupt entered: everything inner belongs to the detector.
_INTERRUPT = names(
    r"""
(?:asm_|sys)?\w*apic_timer_interrupt asm_sysvec_\w+ asm_exc_nmi end_repeat_nmi nmi el1_irq
el1h?_\d+_irq\w* el1_interrupt __irq_svc apic_timer_interrupt reschedule_interrupt
call_function_\w*interrupt ret_from_intr common_interrupt handle_exception
"""
)
_DETECTOR = names(
    r"""
tick_\w+ update_process_times __?hrtimer_\w+ hrtimer_\w+ rcu_\w+ nmi_\w+ watchdog_\w+ perf_\w+
\w*_interrupt irq_\w+ print_\w+ check_cpu_stall sched_show_task timer_interrupt
"""
)
_DISPATCHER = names(
    r"""
# system calls
do_syscall_\w+ do_fast_syscall_32 __do_fast_syscall_32 do_int80_\w+ do_SYSENTER_32 entry_SYS\w+
entry_INT80\w* invoke_syscall el0_svc\w* do_el0_svc\w* ret_fast_syscall system_call\w*
sysenter_\w+ tracesys\w* __sys_trace_return cstar_dispatch ia32_sysenter\w*
# files, sockets
vfs_(?:ioctl|read|write|iter_read|iter_write|readv|writev|fsync\w*) do_vfs_ioctl
(?:compat_)?(?:sys|SyS|SYSC)_ioctl __(?:do|se|x64|ia32)_(?:compat_)?sys_ioctl compat_blkdev_ioctl
do_iter_\w+ new_sync_(?:read|write) __vfs_(?:read|write) call_(?:read|write)_iter
do_loop_readv_writev ksys_ioctl sock_sendmsg __sock_sendmsg sock_sendmsg_nosec compat_ioctl\w*
__sock_release rtnetlink_rcv_msg nfnetlink_rcv_msg
# bottom halves
call_timer_fn __run_timers expire_timers process_one_work __hrtimer_run_queues tasklet_action\w*
__do_softirq handle_softirqs do_softirq\w* task_work_run _{0,2}netif_receive_skb\w*
netif_receive_skb\w* kthread ret_from_fork\w* kernel_thread_helper
"""
)
_SLEEP = names(
    r"""
_{0,2}schedule\w* __switch_to\w* context_switch io_schedule\w* preempt_schedule\w*
_{0,3}wait_on_\w+ (?:do_|_{0,2})wait_for_\w+ out_of_line_wait\w* bit_wait\w* folio_wait\w*
_{0,2}folio_lock\w* _{0,2}lock_(?:page|buffer|sock)\w* autoremove_wake_function prepare_to_wait\w*
wait_woken _?cond_resched _{0,2}flush_work\w* start_flush_work rcu_barrier\w* console_lock
do_read_cache_\w+ __refrigerator freezer_\w+ trace_\w+
"""
)


def blocked_frame(frames: Sequence[Frame]) -> Frame | None:
    """The function in which a sleeping task waits."""
    return guilty(frames, GENERIC, _SLEEP)


def stalled_frame(pc: Frame | None, stacks: Sequence[Sequence[Frame]]) -> Frame | None:
    """The operation that keeps a processor busy; ``pc`` is that of the report's registers."""
    for stack in stacks:
        frames = [frame for frame in stack if frame.func and frame.reliable]
        if not frames:
            continue
        frame = _operation(_interrupted(frames))
        if frame is not None:
            return frame
    return None


def _interrupted(frames: Sequence[Frame]) -> Sequence[Frame]:
    """The stack below the interrupt that brought the detector, if it came by one."""
    for n, frame in enumerate(frames):
        func = frame.func or ""
        if _INTERRUPT.match(func):
            return frames[n + 1 :]
        if (
            _DISPATCHER.match(func)
            and not _DETECTOR.match(func)
            and n
            and not _DETECTOR.match(frames[n - 1].func or "")
        ):
            return frames
    return frames


def _operation(frames: Sequence[Frame]) -> Frame | None:
    for inner, outer in zip(frames, frames[1:], strict=False):
        if (
            _DISPATCHER.match(outer.func or "")
            and not _DISPATCHER.match(inner.func or "")
            and not _DETECTOR.match(inner.func or "")
            and guilty([inner], GENERIC)
        ):
            return inner
    return None
