# SPDX-License-Identifier: GPL-2.0-only
"""Which accelerators really run a kernel here.

``/dev/kvm`` can open, create a machine and its processors, and still stop an
ordinary kernel dead. So an accelerator counts when a kernel reached userspace
with it, within a bound, and not before. The answer is kept for this QEMU
binary, this kernel and this boot of the host.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import store
from harness.deadline import Deadline
from harness.errors import DeadlineExceeded, QemuError
from harness.image import Image
from harness.kernels import Kernel
from harness.machine import Accelerator, Lane
from harness.qemu import start_qemu
from harness.template import BOOT_LIMIT_S, NO_INPUT, Base, console_tail, scratch_folder

KVM_DEVICE = Path("/dev/kvm")

#: An accelerator that takes longer than emulation is of no use.
_FLOOR_S = 20.0

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class Probe:
    """What became of booting with an accelerator."""

    accelerator: str
    works: bool
    #: Seconds to userspace, or why it was not reached.
    seconds: float | None
    reason: str


def probe(
    cache: store.Store, kernel: Kernel, image: Image, qemu: Path,
    progress: Progress = lambda what, done: None,
) -> tuple[Probe, ...]:  # fmt: skip
    """Return for each accelerator whether a kernel reached userspace with it.

    Emulation goes first: what it takes is the bound for the others.
    """
    key = store.digest(
        {
            "kernel": kernel.key,
            "image": image.key,
            "qemu": f"{qemu} {qemu.stat().st_mtime_ns}",
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            # Somebody may get or lose access while the host runs.
            "kvm": _device_state(),
        }
    )

    def make(into: Path) -> None:
        results = []
        bound = BOOT_LIMIT_S
        for accelerator in (Accelerator.TCG, Accelerator.KVM):
            progress(f"probing accelerator {accelerator.value}", None)
            result = _boot(Base(kernel, image, qemu, Lane.SMP, accelerator), bound)
            if result.seconds is not None:
                bound = max(_FLOOR_S, 2 * result.seconds)
            results.append(asdict(result))
        (into / "probe.json").write_text(json.dumps(results))

    deadline = Deadline.after(4 * BOOT_LIMIT_S)
    path = cache.build("accelerators", key, make, deadline=deadline)
    return tuple(Probe(**fields) for fields in json.loads((path / "probe.json").read_text()))


def best(probes: tuple[Probe, ...]) -> Accelerator:
    """Return the accelerator for the ``smp`` lane; ``det`` is always emulated."""
    working = {probe.accelerator for probe in probes if probe.works}
    return Accelerator.KVM if Accelerator.KVM.value in working else Accelerator.TCG


def may_work() -> bool:
    """Return whether there is anything but emulation to probe."""
    return _device_state() == "opens"


def _device_state() -> str:
    try:
        os.close(os.open(KVM_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return "opens"


def _explain_device(state: str) -> str | None:
    if state in ("ENOENT", "ENODEV", "ENXIO"):
        return f"{KVM_DEVICE} is not there ({state}): no hardware virtualisation for this machine"
    if state in ("EACCES", "EPERM"):
        return f"{KVM_DEVICE} may not be opened ({state}): is the user in the group kvm?"
    return None if state == "opens" else f"{KVM_DEVICE}: {state}"


def _boot(base: Base, bound_s: float) -> Probe:
    name = base.accelerator.value
    if base.accelerator is Accelerator.KVM:
        reason = _explain_device(_device_state())
        if reason is not None:
            return Probe(name, False, None, reason)
    with scratch_folder() as folder:
        (folder / "input").write_bytes(NO_INPUT)
        memory = folder / "memory"
        with memory.open("wb") as file:
            file.truncate(512 << 20)
        deadline = Deadline.after(bound_s)
        try:
            machine = base.machine(folder, memory)
            with start_qemu(machine, report=f"file,path={folder / 'report'}") as qemu:
                qemu.wait_paused(deadline)
                taken = bound_s - deadline.remaining_s
        except DeadlineExceeded:
            last = console_tail(folder, 1) or "an empty console"
            return Probe(
                name, False, None, f"no userspace within {bound_s:.0f} s; the console ends: {last}"
            )
        except QemuError as error:
            return Probe(name, False, None, f"{error.message}: {error.evidence.strip()[-300:]}")
    return Probe(name, True, round(taken, 1), f"userspace after {taken:.1f} s")
