# SPDX-License-Identifier: GPL-2.0-only
import pytest

from harness.klogframes import Frame
from harness.klognames import GENERIC, blocked, guilty, leftover, names, operation, simplify


def stack(*functions: str) -> list[Frame]:
    return [Frame(func) for func in functions]


def test_table_is_whole_names_between_blanks() -> None:
    pattern = names("# a comment foo\nfoo ba[rz]\n  qux\\w*")
    assert [bool(pattern.match(name)) for name in ("foo", "baz", "quxx", "fooo", "xfoo", "a")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "func",
    [
        "dump_stack_lvl", "print_report", "kasan_report", "__asan_load8_noabort", "memcpy",
        "__list_add_valid", "__list_del_entry_valid_or_report", "refcount_warn_saturate",
        "_raw_spin_lock_irqsave", "__mutex_lock", "lock_acquire", "down_write", "kfree",
        "kmem_cache_free", "__kmalloc_cache_noprof", "vfree", "exc_page_fault", "do_error_trap",
        "asm_exc_invalid_op", "kobject_put", "device_unregister", "del_timer_sync", "iput",
        "debug_object_activate", "usercopy_abort", "__fortify_panic", "panic", "__warn",
    ],
)  # fmt: skip
def test_helpers_are_not_to_blame(func: str) -> None:
    assert GENERIC.match(func)


@pytest.mark.parametrize(
    "func",
    [
        "poolfs_evict", "i_callback", "process_one_work", "vfs_read", "ext4_evict_inode",
        "rtnl_lock", "consume_skb", "evict", "unregister_filesystem", "timerqueue_del",
        "rcu_core", "d_walk", "synchronize_rcu", "put_ucounts", "remove_proc_entry",
    ],
)  # fmt: skip
def test_others_are(func: str) -> None:
    assert not GENERIC.match(func)


def test_first_frame_that_is_none_of_the_helpers_is_guilty() -> None:
    assert guilty(stack("dump_stack", "kfree", "poolfs_exit", "rmmod"), GENERIC) == Frame(
        "poolfs_exit"
    )


def test_leftovers_and_bare_addresses_are_not_guilty() -> None:
    frames = [Frame("a", reliable=False), Frame(None, addr="1"), Frame("b")]
    assert guilty(frames, GENERIC) == Frame("b")
    assert guilty(frames[:2], GENERIC) is None


def test_functions_of_a_module_are_its_own_whatever_they_are_called() -> None:
    frames = [Frame("kasan_report"), Frame("print_pool", module="poolfs")]
    assert guilty(frames, GENERIC) == Frame("print_pool", module="poolfs")


def test_header_functions_in_a_module_are_helpers() -> None:
    frames = [Frame("list_add", module="poolfs"), Frame("pool_add", module="poolfs")]
    assert guilty(frames, GENERIC) == Frame("pool_add", module="poolfs")


def test_leftovers_speak_only_where_nothing_better_does() -> None:
    weak = [Frame(None, reliable=False, addr="1"), Frame("caller", reliable=False)]
    assert leftover(weak, GENERIC) == Frame("caller", reliable=False)
    assert leftover([*weak, Frame("b")], GENERIC) is None


@pytest.mark.parametrize(
    ("func", "name", "others"),
    [
        ("foo", "foo", ()),
        ("__x64_sys_rmdir", "sys_rmdir", ("__x64_sys_rmdir",)),
        ("__arm64_sys_futex", "sys_futex", ("__arm64_sys_futex",)),
        ("__ia32_compat_sys_ioctl", "compat_sys_ioctl", ("__ia32_compat_sys_ioctl",)),
        ("__se_sys_mount", "mount", ("__se_sys_mount", "sys_mount")),
        ("__do_sys_mount", "mount", ("__do_sys_mount", "sys_mount")),
        ("SyS_mount", "mount", ("SyS_mount", "sys_mount")),
        ("compat_SyS_mount", "mount", ("compat_SyS_mount", "sys_mount")),
        ("synchronize_rcu_expedited", "synchronize_rcu", ("synchronize_rcu_expedited",)),
        ("smp_call_function_many_cond", "smp_call_function", ("smp_call_function_many_cond",)),
    ],
)
def test_system_calls_and_families_have_one_name(
    func: str, name: str, others: tuple[str, ...]
) -> None:
    assert simplify(func) == (name, others)


def test_sleeper_is_named_by_what_it_waits_in() -> None:
    assert blocked(stack("__schedule", "schedule", "__mutex_lock", "poolfs_write")) == Frame(
        "poolfs_write"
    )


def test_victims_of_a_common_lock_share_a_name() -> None:
    frames = stack("__schedule", "__mutex_lock", "foo_open", "rtnl_lock", "bar")
    assert blocked(frames) == Frame("rtnl_lock")


def test_operation_is_what_the_innermost_dispatcher_called() -> None:
    frames = stack("memcpy", "poolfs_fill", "poolfs_write", "vfs_write", "ksys_write")
    assert operation(frames, interrupted=False) == Frame("poolfs_write")


def test_detector_on_top_of_the_stalled_stack_is_passed_over() -> None:
    tick = ("rcu_dump_cpu_stacks", "update_process_times", "tick_sched_timer",
            "__hrtimer_run_queues", "hrtimer_interrupt", "apic_timer_interrupt")  # fmt: skip
    frames = stack(*tick, "poolfs_spin", "poolfs_ioctl", "vfs_ioctl", "do_syscall_64")
    assert operation(frames, interrupted=True) == Frame("poolfs_ioctl")


def test_processor_that_waits_for_others_is_named_so() -> None:
    frames = stack("smp_call_function_many", "on_each_cpu", "foo", "vfs_read")
    assert operation(frames, interrupted=False) == Frame("smp_call_function_many")


def test_compat_ioctl_stands_back_for_the_native_one() -> None:
    frames = stack("foo_ioctl", "foo_compat_ioctl", "compat_SyS_ioctl")
    assert operation(frames, interrupted=False) == Frame("foo_ioctl")


def test_no_dispatcher_no_operation() -> None:
    assert operation(stack("a", "b", "c"), interrupted=False) is None
