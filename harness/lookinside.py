# SPDX-License-Identifier: GPL-2.0-only
"""Trials that somebody looks into: with a debugger while they run, or at what a panic leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness import gdbscript, proc, store
from harness import plan as plans
from harness.deadline import Deadline
from harness.errors import UsageError
from harness.kernels import require_vmlinux
from harness.machine import Debug
from harness.program import Program
from harness.qemu import Qemu
from harness.template import scratch_folder, start_clone, wrap_input
from harness.trial import Trial, time_limit_s


@contextlib.contextmanager
def debugged(trial: Trial, stops: Sequence[str] = ()) -> Iterator[tuple[Qemu, Path]]:
    """Start a trial that waits for a debugger; yield its QEMU and the script for gdb.

    Args:
        stops: where to stop, as gdb takes it; by default the plan's point, or where the kernel
            says that something is wrong.

    Raises:
        UsageError: the kernel has no debug information.
        InfrastructureError: gdb is not installed.
    """
    vmlinux = require_vmlinux(trial.template.base.kernel)
    places = find_places(trial, vmlinux)
    with _waiting(trial) as (qemu, folder):
        text = gdbscript.write(
            vmlinux, folder / "gdb", trial.symbols, places, stops or default_stops(trial)
        )
        script = folder / "script.gdb"
        script.write_text(text)
        yield qemu, script


def find_places(trial: Trial, vmlinux: Path) -> gdbscript.Places:
    """Return where a trial's modules lie, from a run of its own under gdb.

    Raises:
        InfrastructureError: gdb is not installed.
    """
    gdb = str(proc.require_program("gdb", "gdb"))
    with _waiting(trial) as (_, folder):
        script = folder / "probe.gdb"
        script.write_text(gdbscript.write_probe(vmlinux, folder / "gdb", list(trial.symbols)))
        # A module that the program never loads keeps it until the guest has ended, and then
        # gdb fails: what it has said until then is what there is to know.
        done = proc.run(
            [gdb, "-nx", "-batch", "-x", str(script)],
            deadline=Deadline.after(time_limit_s(trial)),
            check=False,
        )
    return gdbscript.read_places(done.stdout.decode(errors="replace"))


@contextlib.contextmanager
def _waiting(trial: Trial) -> Iterator[tuple[Qemu, Path]]:
    """A guest that does not run before a debugger has attached to ``gdb`` in its folder."""
    with scratch_folder() as folder:
        content = wrap_input(trial.program)
        debug = Debug(gdb=folder / "gdb")
        with start_clone(trial.template, folder, content, debug=debug) as qemu:
            yield qemu, folder


def default_stops(trial: Trial) -> tuple[str, ...]:
    """Return where a trial's guest is to stop when nobody says."""
    park = Program.parse(trial.program).park
    if park is None:
        return gdbscript.FINDINGS
    plan = plans.parse(park.plan)
    return (f"*({plan.function}+{plan.offset:#x})",)


def dump_core(trial: Trial, path: Path) -> None:
    """Run a trial and write the memory of its guest when it panics.

    Args:
        path: of the core file, about as large as the guest's memory; drgn and crash open it.

    Raises:
        UsageError: the guest did not panic, or the file is there already.
        DeadlineExceeded: it neither panicked nor ended.
        QemuError: the disk is full.
    """
    if path.exists():
        raise UsageError(f"{path}: is there already")
    with scratch_folder() as folder, store.storage_errors(path.absolute().parent):
        content = wrap_input(trial.program)
        with start_clone(trial.template, folder, content, debug=Debug(stay=True)) as qemu:
            if not qemu.wait_panicked(Deadline.after(time_limit_s(trial))):
                raise UsageError(
                    f"{trial.spec.label}: its guest does not panic, and leaves no memory to dump",
                    hint="`harness run --scan-memory` looks through that of a guest that ends",
                )
            qemu.dump(path.absolute())
