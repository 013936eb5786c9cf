# SPDX-License-Identifier: GPL-2.0-only
"""Trials that somebody looks into: with a debugger while they run, or at what a panic leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness import gdbscript, proc, stopat, store
from harness import plan as plans
from harness.deadline import Deadline
from harness.errors import QemuError, UsageError
from harness.kernels import require_vmlinux
from harness.machine import Counter, Debug, Lane
from harness.program import Program
from harness.qemu import Qemu
from harness.template import scratch_folder, start_clone, wrap_input
from harness.trial import Trial, time_limit_s

#: A guest whose instructions are counted takes so many times as long, at most.
_COUNTING: Final = 8


@dataclass(frozen=True, slots=True)
class Session:
    """A guest that waits for a debugger."""

    qemu: Qemu
    #: For ``gdb -x``.
    script: Path
    #: Instructions that it has executed where it would stop without ``before``; None without.
    finding: int | None = None

    def wait_early(self, deadline: Deadline) -> int:
        """Wait for the stop before the finding; return how many instructions lie between.

        Raises:
            QemuError: QEMU has gone.
            DeadlineExceeded: it did not come in time.
        """
        assert self.finding is not None
        self.qemu.wait_paused(deadline)
        return self.finding - self.qemu.instructions()


@contextlib.contextmanager
def debugged(
    trial: Trial, stops: Sequence[str] = (), before: int | None = None
) -> Iterator[Session]:
    """Start a trial that waits for a debugger.

    Args:
        stops: where to stop, as gdb takes it; by default the plan's point, or where the kernel
            says that something is wrong.
        before: stop so many instructions earlier, too.

    Raises:
        UsageError: the kernel has no debug information; or, with ``before``, the guest ends
            without a stop or has executed less than that, or its lane does not repeat itself.
        InfrastructureError: gdb is not installed.
        QemuError: this QEMU takes no plugins.
    """
    if before is not None and trial.spec.lane is not Lane.DET:
        raise UsageError(
            f"{trial.spec.label}: the {trial.spec.lane.value} lane does not repeat itself, and"
            " how long it is to a finding is known of a run before only"
        )
    vmlinux = require_vmlinux(trial.template.base.kernel)
    places = find_places(trial, vmlinux)

    def script(folder: Path) -> str:
        return gdbscript.write(
            vmlinux, folder / "gdb", trial.symbols, places, stops or default_stops(trial)
        )

    finding, at = None, None
    if before is not None:
        finding, counted = _count(trial, script)
        if before >= counted:
            raise UsageError(
                f"{trial.spec.label}: stops after {counted} instructions, and {before} earlier is"
                " before its beginning"
            )
        at = counted - before
    with _waiting(trial, counts=before is not None, at=at) as (qemu, folder, _):
        path = folder / "script.gdb"
        path.write_text(script(folder))
        yield Session(qemu, path, finding)


def _count(trial: Trial, script: Callable[[Path], str]) -> tuple[int, int]:
    """Return what a trial has executed at its first stop: as QEMU counts, and as the plugin does.

    QEMU's number is the machine's, from its boot; the plugin's is a little above what was
    executed since the template, as it takes a block that is left early for a whole one.
    """
    gdb = str(proc.require_program("gdb", "gdb"))
    with _waiting(trial, counts=True) as (qemu, folder, counter):
        assert counter is not None
        path = folder / "count.gdb"
        path.write_text(script(folder) + gdbscript.COUNT)
        done = proc.run(
            [gdb, "-nx", "-batch", "-x", str(path)],
            deadline=Deadline.after(_COUNTING * time_limit_s(trial)),
            check=False,
            merge_stderr=True,
        )
        said = done.stdout.decode(errors="replace").splitlines()
        stopped = any(line.startswith(gdbscript.STOPPED) for line in said)
        try:
            executed = qemu.instructions() if stopped else 0
        except QemuError:
            stopped = False
        if not stopped:
            raise UsageError(
                f"{trial.spec.label}: its guest ends without a stop",
                hint="--stop PLACE says another place",
            )
        return executed, stopat.read_count(counter)


def find_places(trial: Trial, vmlinux: Path) -> gdbscript.Places:
    """Return where a trial's modules lie, from a run of its own under gdb.

    Raises:
        InfrastructureError: gdb is not installed.
    """
    gdb = str(proc.require_program("gdb", "gdb"))
    with _waiting(trial) as (_, folder, _):
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
def _waiting(
    trial: Trial, *, counts: bool = False, at: int | None = None
) -> Iterator[tuple[Qemu, Path, Counter | None]]:
    """A guest that does not run before a debugger has attached to ``gdb`` in its folder.

    Args:
        counts: have its instructions counted.
        at: stop it after so many.
    """
    with scratch_folder() as folder:
        content = wrap_input(trial.program)
        counter = stopat.make_counter(folder, at) if counts else None
        debug = Debug(gdb=folder / "gdb", counter=counter)
        with start_clone(trial.template, folder, content, debug=debug) as qemu:
            yield qemu, folder, counter


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
