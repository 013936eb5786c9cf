# SPDX-License-Identifier: GPL-2.0-only
"""Stacks of injected faults, from what kernels have printed."""

from __future__ import annotations

from harness import failstack, klog
from harness.failstack import Call

#: Linux 6.1, while a module's folder in sysfs is made.
SLAB = b"""\
[    7.963309][   T43] FAULT_INJECTION: forcing a failure.
[    7.963309][   T43] name failslab, interval 1, probability 0, space 0, times 1
[    7.963500][   T43] CPU: 0 PID: 43 Comm: cycler Tainted: G           O       6.1.192-kasan #1\x20
[    7.963668][   T43] Call Trace:
[    7.963777][   T43]  <TASK>
[    7.963893][   T43]  dump_stack_lvl+0x4c/0x5f
[    7.964082][   T43]  should_fail_ex+0x252/0x2a8
[    7.964337][   T43]  ? mod_sysfs_setup+0x48e/0x830
[    7.964499][   T43]  should_failslab+0xa/0x12
[    7.964674][   T43]  slab_pre_alloc_hook.constprop.0+0x3c/0x4d
[    7.964871][   T43]  __kmem_cache_alloc_node+0x29/0xf7
[    7.965104][   T43]  ? mod_sysfs_setup+0x48e/0x830
[    7.965279][   T43]  __kmalloc_node_track_caller+0x80/0xbc
[    7.965540][   T43]  kstrdup+0x31/0x55
[    7.965743][   T43]  mod_sysfs_setup+0x48e/0x830
[    7.966092][   T43]  load_module+0x275d/0x2a51
[    7.966645][   T43]  ? module_frob_arch_sections+0x10/0x10
[    7.967853][   T43]  __do_sys_finit_module+0xe3/0x116
[    7.968039][   T43]  ? __x64_sys_init_module+0x42/0x42
[    7.969233][   T43]  do_syscall_64+0x39/0x46
[    7.969409][   T43]  entry_SYSCALL_64_after_hwframe+0x4b/0xb5
[    7.969601][   T43] RIP: 0033:0x4627a9
[    7.969936][   T43] RSP: 002b:00007ffd102c3f48 EFLAGS: 00000246 ORIG_RAX: 0000000000000139
[    7.971089][   T43]  </TASK>
"""
PAGE = b"""\
[    7.932472][   T43] FAULT_INJECTION: forcing a failure.
[    7.932472][   T43] name fail_page_alloc, interval 1, probability 0, space 0, times 1
[    7.932931][   T43]  Call Trace:
[    7.933235][   T43]  should_fail_ex+0x252/0x2a8
[    7.933502][   T43]  prepare_alloc_pages.constprop.0+0xa7/0x10b
[    7.933763][   T43]  __alloc_pages_bulk+0x11e/0x473
[    7.933800][   T12]  somebody_else+0x11e/0x473
[    7.934612][   T43]  kasan_populate_vmalloc+0x198/0x221
[    7.938007][   T43]  kernel_read_file+0x192/0x2a7
[    7.938941][   T43]  __do_sys_finit_module+0xab/0x116
[    7.940689][   T43] RIP: 0033:0x4627a9
[    7.940700][   T43]  after_it+0x1/0x2
"""


def functions(stack: tuple[Call, ...]) -> list[str]:
    return [call.function for call in stack]


def test_stack_goes_from_what_failed_to_the_system_call() -> None:
    (fault,) = failstack.read_faults(SLAB)
    assert (fault.name, fault.us) == ("failslab", 7_963_309)
    assert functions(fault.stack) == [
        "slab_pre_alloc_hook", "__kmem_cache_alloc_node", "__kmalloc_node_track_caller", "kstrdup",
        "mod_sysfs_setup", "load_module", "__do_sys_finit_module",
    ]  # fmt: skip
    assert failstack.caller(fault.stack) == Call("mod_sysfs_setup", 0x48E, 0x830)
    assert failstack.subject(fault.stack) == "mod_sysfs_setup"
    # Debug information knows it by its whole name.
    assert str(fault.stack[0]) == "slab_pre_alloc_hook.constprop.0+0x3c/0x4d"


def test_each_notice_is_read_for_itself() -> None:
    faults = failstack.read_faults(b"boot\n" + SLAB + b"noise\n" + PAGE + SLAB[:200])
    assert [fault.name for fault in faults] == ["failslab", "fail_page_alloc", "failslab"]
    # Neither another task's frames nor what comes after the stack.
    assert functions(faults[1].stack) == [
        "prepare_alloc_pages", "__alloc_pages_bulk", "kasan_populate_vmalloc", "kernel_read_file",
        "__do_sys_finit_module",
    ]  # fmt: skip
    assert faults[2].stack == ()


def test_nothing_is_read_from_nothing() -> None:
    assert failstack.read_faults(b"") == ()
    assert failstack.subject(()) == "?"
    assert failstack.caller(()) is None


def test_notices_are_no_reports() -> None:
    assert klog.parse(SLAB + PAGE) == ()


def call(name: str, offset: int = 1, module: str = "") -> Call:
    return Call(name, offset, 0x100, module)


def test_innermost_frame_in_a_module_is_found() -> None:
    stack = (call("kmalloc"), call("lib"), call("m_a", module="m"), call("m_b", module="m"))
    assert failstack.in_module(stack, ["x", "m"]) == stack[2]
    assert failstack.in_module(stack, ["x"]) is None
    assert str(stack[2]) == "m_a+0x1/0x100 [m]"


def test_what_is_active_at_two_moments_is_what_their_stacks_share() -> None:
    system, init = call("sys"), call("init", 8, "m")
    later = call("init", 20, "m")
    assert failstack.common_root((call("a"), init, system), (call("b"), later, system)) == (
        init, system,
    )  # fmt: skip
    # Another line of the same function: what it called is another call.
    same = call("f")
    assert failstack.common_root((same, init, system), (same, later, system)) == (init, system)
    assert failstack.common_root((), (system,)) == ()
