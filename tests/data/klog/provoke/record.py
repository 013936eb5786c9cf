#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Make the logs of tests/data/klog: one guest for each, in which provoke.ko does one thing wrong.

usage: record.py --kernel BZIMAGE --busybox BUSYBOX --module KO --work DIR --out DIR [NAME ...]

The kernel is of the project's `kasan` profile and the machine that of a trial in the `smp` lane
(see harness/machine.py), with its command line. It boots once and is cloned for each log; what is
kept begins when the guest takes up its case, so that the boot is in one log only.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

from harness import cpio
from harness.deadline import Deadline
from harness.machine import INPUT_ITEM, Accelerator, Lane, Machine
from harness.qemu import find_qemu, start_qemu

BOOT_LIMIT_S = 900.0
LIMIT_S = 900.0
FW_CFG = f"/sys/firmware/qemu_fw_cfg/by_name/{INPUT_ITEM}/raw"
# The size of a fw_cfg item is part of a saved machine.
INPUT_BYTES = 1024
READY = b"ready for a case\n"
INIT = f"""#!/bin/busybox sh
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /mnt
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t debugfs debug /sys/kernel/debug
mount -t devtmpfs dev /dev
echo {READY.decode().strip()}
while read -r line < {FW_CFG}; [ "$line" = wait ]; do usleep 10000; done
sh {FW_CFG}
[ -e /leave ] && exit 7
reboot -f
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One log."""

    name: str
    #: Shell commands in the guest; ``{load}`` stands for loading the module.
    script: str = "{load}"
    #: ``what=`` of the module, where it is not the name.
    what: str = ""


def _plain(names: str) -> tuple[Case, ...]:
    return tuple(Case(name) for name in names.split())


CASES = (
    *_plain(
        """
        kasan_uaf_read kasan_uaf_write kasan_uaf_list kasan_oob_read kasan_oob_memset
        kasan_double_free kasan_invalid_free kasan_stack_oob kasan_global_oob kasan_vmalloc_oob
        kasan_cache_uaf null_read null_read_raw null_call page_fault_read page_fault_write_ro
        execute_data wild_read divide bad_opcode stack_overflow bug bug_on warn warn_on_once
        provoke_panic lock_circular lock_inconsistent lock_irq_unsafe
        lock_unbalanced lock_held_freed lock_no_key rcu_unprotected sleep_in_atomic
        schedule_in_atomic list_double_add list_del_twice refcount_underflow refcount_inc_zero
        odebug_free_active odebug_init_active odebug_double_call_rcu slab_objects_remain
        bad_page sysfs_duplicate kobject_init_twice kobject_put_uninit device_without_release
        sysfs_remove_absent proc_duplicate proc_remove_full proc_remove_absent lock_nest_not_held
        lock_class_twice spin_bad_magic thread_keeps_lock work_keeps_lock vmalloc_zero
        kvmalloc_huge rss_counter page_tables bad_page_map file_count_zero
        """
    ),
    # Process 1 leaves.
    Case("init_exits", "touch /leave"),
    Case("two_at_once", "{load}; sleep 3"),
    Case("lock_to_user", "{load}; echo x > /sys/kernel/debug/provoke_lock"),
    Case("netdev_held", "ip link; {load} & sleep 25"),
    Case("lock_recursive", "{load} & sleep 4"),
    Case("slab_redzone"),
    Case("slab_poison"),
    Case("spin_without_preemption", "echo 3 > /proc/sys/kernel/watchdog_thresh; {load}"),
    Case(
        "spin_in_rcu",
        "echo 4 > /sys/module/rcupdate/parameters/rcu_cpu_stall_timeout; {load}",
    ),
    Case(
        "never_completed",
        "echo 2 > /proc/sys/kernel/hung_task_timeout_secs; {load} & sleep 8",
    ),
    Case(
        "lock_never_released",
        "echo 2 > /proc/sys/kernel/hung_task_timeout_secs; {load} & sleep 8",
    ),
    Case(
        "leak",
        "{load}; rmmod provoke; sleep 6; echo scan > /sys/kernel/debug/kmemleak; sleep 1; "
        "echo scan > /sys/kernel/debug/kmemleak; cat /sys/kernel/debug/kmemleak",
    ),
    Case("busy_inode", "{load}; mount -t keepfs none /mnt && umount /mnt"),
    Case("busy_dentry", "{load}; mount -t keepfs none /mnt && umount /mnt"),
    Case("timer_outlives", "{load}; rmmod provoke; sleep 3"),
    Case("thread_outlives", "{load}; rmmod -f provoke; sleep 3"),
    Case("kmod_outlives", "{load}; cat /proc/provoke_stay & sleep 1; rmmod -f provoke; sleep 3"),
    # Several reports in one log.
    Case(
        "several",
        "insmod /provoke.ko what=warn; rmmod provoke; insmod /provoke.ko what=slab_objects_remain;"
        " rmmod provoke; insmod /provoke.ko what=kasan_uaf_read; rmmod provoke;"
        " insmod /provoke.ko what=null_read_raw",
    ),
    Case(
        "memory_panic",
        "echo 1 > /proc/sys/vm/panic_on_oom; mount -t tmpfs -o size=2G ram /mnt;"
        " dd if=/dev/zero of=/mnt/x bs=1M",
    ),
    # Logs without a report.
    Case("harmless", "{load}; cat /proc/modules", what="nothing"),
    Case(
        "out_of_memory",
        "mount -t tmpfs -o size=2G ram /mnt; dd if=/dev/zero of=/mnt/x bs=1M; echo survived",
    ),
)


class WithFwCfg(Machine):
    """A trial's executor reads its program from QEMU's ports; a shell needs the kernel's driver.

    Without ACPI it is told where the ports are.
    """

    __slots__ = ()

    def argv(self, *, qmp_fd: int, report: str) -> list[str]:
        words = Machine.argv(self, qmp_fd=qmp_fd, report=report)
        words[words.index("-append") + 1] += " qemu_fw_cfg.ioport=4@0x510:0:1"
        return words


def make_machine(args: argparse.Namespace, folder: Path, **options: bool) -> Machine:
    """The machine of the template, or of a clone with ``incoming``."""
    return WithFwCfg(
        qemu=find_qemu(),
        lane=Lane.SMP,
        accelerator=Accelerator.TCG,
        bzimage=args.kernel,
        initrd=folder / "initrd",
        memory=folder / "memory",
        share_memory=not options.get("incoming", False),
        console=folder / "console",
        input=folder / "input",
        **options,
    )


def boot(args: argparse.Namespace, folder: Path) -> bytes:
    """Boot a guest, save it while it waits for its case, and return its console."""
    files = {
        "init": cpio.Entry(INIT.encode(), 0o755),
        "bin/busybox": cpio.Entry(args.busybox.read_bytes(), 0o755),
        "provoke.ko": cpio.Entry(args.module.read_bytes()),
    }
    (folder / "initrd").write_bytes(cpio.archive(files))
    (folder / "input").write_bytes(b"wait\n".ljust(INPUT_BYTES, b"\n"))
    machine = make_machine(args, folder)
    deadline = Deadline.after(BOOT_LIMIT_S)
    with start_qemu(machine, report="null") as qemu:
        qemu.qmp.command("cont", deadline)
        while READY not in machine.console.read_bytes().replace(b"\r", b""):
            if qemu.wait_exit(deadline.at_most(0.2)) is not None or deadline.expired:
                raise SystemExit(f"the guest did not get ready: {machine.console}")
        qemu.qmp.command("stop", deadline)
        qemu.save(folder / "state")
        return machine.console.read_bytes()


def record(args: argparse.Namespace, folder: Path, case: Case) -> bytes:
    """Run one case in a clone and return its console."""
    load = f"insmod /provoke.ko what={case.what or case.name}"
    script = case.script.format(load=load).encode()
    (folder / "input").write_bytes(script.ljust(INPUT_BYTES, b"\n"))
    machine = make_machine(args, folder, incoming=True)
    with start_qemu(machine, report="null") as qemu:
        qemu.load(folder / "state")
        if qemu.wait_exit(Deadline.after(LIMIT_S)) is None:
            print(f"{case.name}: still running after {LIMIT_S:.0f} s", flush=True)
        return machine.console.read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(description="record kernel logs with reports in them")
    for option in ("--kernel", "--busybox", "--module", "--out"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="keeps the booted guest")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    args.work.mkdir(exist_ok=True)
    booted = args.work / "boot.log"
    if not booted.exists():
        booted.write_bytes(boot(args, args.work))
    for case in CASES:
        if args.names and case.name not in args.names:
            continue
        log = record(args, args.work, case)
        if case.name == "harmless":
            log = booted.read_bytes() + log
        (args.out / f"{case.name}.log").write_bytes(log)
        print(f"{case.name}: {len(log)} bytes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
