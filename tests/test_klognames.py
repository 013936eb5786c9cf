# SPDX-License-Identifier: GPL-2.0-only
import pytest

from harness.klogframes import Frame
from harness.klognames import (
    GENERIC,
    blocked,
    canonical,
    guilty,
    is_asleep,
    leftover,
    names,
    operation,
    simplify,
)


def stack(*functions: str) -> list[Frame]:
    return [Frame(func) for func in functions]


def test_table_holds_names_and_words() -> None:
    pattern = names("# a comment foo\nfoo ba[rz]\n  qux\\w*\n~spin_lock ~alloc$")
    known = ("foo", "baz", "quxx", "drv_spin_lock_bh", "kvm_alloc")
    others = ("fooo", "xfoo", "a", "spin", "allocate")
    assert all(pattern.match(name) for name in known)
    assert not any(pattern.match(name) for name in others)


@pytest.mark.parametrize(
    "func",
    [
        "dump_stack_lvl", "print_report", "kasan_report", "__asan_load8_noabort", "memcpy",
        "__list_add_valid", "__list_del_entry_valid_or_report", "refcount_warn_saturate",
        "_raw_spin_lock_irqsave", "__mutex_lock", "lock_acquire", "down_write", "kfree",
        "kmem_cache_free", "__kmalloc_cache_noprof", "do_error_trap", "kobject_put",
        "device_unregister", "del_timer_sync", "iput", "debug_object_activate", "panic", "__warn",
        "__timer_delete", "timer_delete_sync", "work_grab_pending", "cancel_delayed_work_sync",
        # A driver's own around them.
        "mlx_readl", "foo_spin_lock", "bar_copy_from_user", "uart_string_show", "set_bits_memset",
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
        # They sound like helpers, and are not.
        "raw_sendmsg", "csum_partial", "sysfs_create_file_ns", "find_next_bit", "skb_release_data",
        "lock_sock_nested", "print_graph_entry", "kvfree_call_rcu", "printer_open",
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
        ("__x64_sys_rmdir", "sys_rmdir", ("__x64_sys_rmdir", "rmdir")),
        ("__arm64_sys_futex", "sys_futex", ("__arm64_sys_futex", "futex")),
        ("__ia32_compat_sys_ioctl", "compat_sys_ioctl", ("__ia32_compat_sys_ioctl",)),
        ("__se_sys_mount", "mount", ("__se_sys_mount", "sys_mount")),
        ("__do_sys_mount", "mount", ("__do_sys_mount", "sys_mount")),
        ("SyS_mount", "mount", ("SyS_mount", "sys_mount")),
        ("compat_SyS_mount", "mount", ("compat_SyS_mount", "sys_mount")),
        ("sys_mount", "mount", ("sys_mount",)),
        ("ksys_write", "write", ("ksys_write", "sys_write")),
        ("____sys_sendmsg", "sendmsg", ("____sys_sendmsg", "sys_sendmsg")),
    ],
)
def test_system_calls_have_one_name(func: str, name: str, others: tuple[str, ...]) -> None:
    assert simplify(func) == (name, others)


def test_wrappers_of_a_system_call_have_one_lasting_name() -> None:
    wrappers = ("SyS_mount", "__x64_sys_mount", "__do_sys_mount", "__se_sys_mount", "sys_mount")
    assert {canonical(func) for func in wrappers} == {"sys_mount"}
    assert canonical("foo.isra.0") == "foo"


def test_sleeper_is_named_by_what_it_waits_in() -> None:
    assert blocked(stack("__schedule", "schedule", "__mutex_lock", "poolfs_write")) == Frame(
        "poolfs_write"
    )


def test_victims_of_a_common_lock_share_a_name() -> None:
    frames = stack("__schedule", "__mutex_lock", "foo_open", "rtnl_lock", "bar")
    assert blocked(frames) == Frame("rtnl_lock")


def test_waits_for_a_grace_period_share_a_name() -> None:
    frames = stack("__schedule", "wait_rcu_gp", "synchronize_rcu_expedited", "foo_close")
    assert blocked(frames) == Frame("synchronize_rcu")


def test_operation_is_what_the_innermost_dispatcher_called() -> None:
    frames = stack("memcpy", "poolfs_fill", "poolfs_write", "vfs_write", "ksys_write")
    assert operation(frames, GENERIC) == Frame("poolfs_write")


def test_processor_that_waits_for_others_is_named_so() -> None:
    frames = stack("csd_lock_wait", "smp_call_function_many", "on_each_cpu", "foo", "vfs_read")
    assert operation(frames, GENERIC) == Frame("smp_call_function")


def test_compat_ioctl_stands_back_for_the_native_one() -> None:
    frames = stack("foo_ioctl", "foo_compat_ioctl", "compat_SyS_ioctl")
    assert operation(frames, GENERIC) == Frame("foo_ioctl")


def test_module_that_does_not_finish_loading_is_named_by_its_own_function() -> None:
    frames = [*stack("cpu_relax"), Frame("pool_init", module="pool"), *stack("do_one_initcall")]
    frames += stack("__do_sys_finit_module", "do_syscall_64")
    assert operation(frames, GENERIC) == Frame("pool_init", module="pool")
    built_in = [Frame(frame.func) for frame in frames]
    assert operation(built_in, GENERIC) == Frame("__do_sys_finit_module")


def test_no_dispatcher_no_operation() -> None:
    assert operation(stack("a", "b", "c"), GENERIC) is None


def test_leftovers_name_an_operation_only_when_asked_for() -> None:
    frames = [Frame("foo", reliable=False), Frame("vfs_read", reliable=False)]
    assert operation(frames, GENERIC) is None
    assert operation(frames, GENERIC, leftovers=True) == Frame("foo", reliable=False)


def test_task_that_gave_up_its_processor_is_asleep() -> None:
    assert is_asleep([Frame(None, addr="1"), *stack("__schedule", "foo")])
    assert not is_asleep(stack("foo", "schedule"))
    assert not is_asleep([])
