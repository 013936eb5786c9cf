# SPDX-License-Identifier: GPL-2.0-only
"""The virtual machine as a value, and the QEMU arguments that it means.

Every device is a suspect until it was shown not to disturb a replayed trial,
so there are few: two UART-like outputs, a network card that is silent unless
somebody uses SSH, and ports that belong to QEMU alone.

A template and its clones must have the same devices and the same ``-icount``:
its shift is not part of the saved state (QEMU, ``migration`` of
``timers/icount`` holds the counter only).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

MEMORY_MIB = 512

#: I/O ports, agreed on with images/executor/channel.c.
# Not 0x402: that is where SeaBIOS sends its own messages when somebody listens.
REPORT_PORT = 0xE9
EXIT_PORT = 0xF4
PAUSE_PORT = 0x505

#: What the executor writes to the exit port, as QEMU's exit status: ``value << 1 | 1``.
EXECUTOR_DONE = 0x10 << 1 | 1

#: The fw_cfg item that carries a payload or a program into the guest.
INPUT_ITEM = "opt/kmod-harness/program"


class Lane(enum.Enum):
    """How the guest's clock and processors run."""

    #: One processor, a clock that counts instructions: same input, same bytes.
    DET = "det"
    #: Two processors that run freely.
    SMP = "smp"

    @property
    def processors(self) -> int:
        return 1 if self is Lane.DET else 2


class Accelerator(enum.Enum):
    TCG = "tcg"
    KVM = "kvm"


#: An instruction of the ``det`` lane takes 2 to the power of this, nanoseconds.
ICOUNT_SHIFT = 1
#: What its processor executes in a microsecond in which it is not idle.
INSTRUCTIONS_PER_US = 1000 >> ICOUNT_SHIFT

#: Everything that QEMU can emulate, but for a fifth level of page tables: most
#: machines have four, and each level is one more to emulate.
_EMULATED = "max,la57=off"

#: Kernel arguments of every guest.
_KERNEL_ARGUMENTS = (
    "console=ttyS0",
    "acpi=off",
    # 512 devices that nobody uses, each of them added, audited and paid for.
    "pty.legacy_count=0",
    # Else the first to ask for random bytes, such as an SSH server, spends a second
    # making some (drivers/char/random.c, try_to_generate_entropy).
    "random.trust_cpu=on",
    # A panic ends QEMU (with -no-reboot), so nothing waits for it.
    "panic=-1",
    "oops=panic",
    # Nobody's scheduling may hang on these being too low (see docs/decisions).
    "rcutree.kthread_prio=95",
    "sysctl.kernel.sched_rt_runtime_us=-1",
    # A grace period that does not wait for callbacks: a missing rcu_barrier shows.
    "rcupdate.rcu_expedited=1",
    "sysctl.kernel.hung_task_timeout_secs=20",
)


@dataclass(frozen=True, slots=True)
class Trace:
    """A log of every block of code executed in some ranges of addresses.

    QEMU writes it from outside of the guest's time: a ``det`` trial runs as it
    does without.
    """

    path: Path
    #: First and last address of each.
    ranges: tuple[tuple[int, int], ...]

    def argv(self) -> list[str]:
        """Return QEMU's arguments for it."""
        ranges = ",".join(f"{first:#x}..{last:#x}" for first, last in self.ranges)
        return [
            "-d", "exec,cpu,nochain", "-dfilter", ranges, "-D", str(self.path),
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Counter:
    """A plugin of QEMU that counts what a guest executes (``harness/stopat.py``)."""

    plugin: Path
    #: File whose first eight bytes hold the number of instructions so far.
    count: Path
    #: The guest is stopped when it has executed so many; None: never.
    at: int | None = None

    def argv(self) -> list[str]:
        """Return QEMU's arguments for it."""
        words = f"file={_escape(self.plugin)},count={_escape(self.count)}"
        return ["-plugin", words if self.at is None else f"{words},at={self.at}"]


@dataclass(frozen=True, slots=True)
class Debug:
    """How to look into a running guest, which notices nothing of it."""

    #: Socket for a debugger (QEMU's manual, "GDB usage"); the guest waits for one.
    gdb: Path | None = None
    #: A guest that panics stops, and its memory can be dumped; else QEMU ends.
    stay: bool = False
    counter: Counter | None = None

    def argv(self) -> list[str]:
        """Return QEMU's arguments for it."""
        words = []
        if self.gdb is not None:
            words += ["-gdb", f"unix:{_escape(self.gdb)},server=on,wait=off"]
        if self.stay:
            words.append("-no-shutdown")
        if self.counter is not None:
            words += self.counter.argv()
        return words


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that decides how a guest starts."""

    qemu: Path
    lane: Lane
    accelerator: Accelerator
    bzimage: Path
    initrd: Path
    #: File that holds the guest's memory.
    memory: Path
    #: Writes go into the memory file (while a template is made) or stay private.
    share_memory: bool
    console: Path
    #: File whose content the guest finds in its fw_cfg item.
    input: Path
    #: Started to receive a saved state instead of booting.
    incoming: bool = False
    #: Kernel memory leak detector on: it doubles what an allocation costs, and a
    #: scan takes billions of emulated instructions, so only some trials have it.
    leaks: bool = False
    #: Let the host reach the guest's SSH server on a loopback port.
    ssh: bool = False
    trace: Trace | None = None
    debug: Debug | None = None
    #: Kernel arguments beside those of every guest; a later one of a name wins.
    arguments: tuple[str, ...] = ()

    def argv(self, *, qmp_fd: int, report: str) -> list[str]:
        """Return QEMU's command line.

        Args:
            qmp_fd: a connected socket that QEMU inherits.
            report: chardev backend that takes the executor's report, such as
                ``file,path=…`` or ``socket,fd=…``.
        """
        words = [
            str(self.qemu), "-no-user-config", "-nodefaults", "-no-reboot",
            "-display", "none", "-vga", "none",
            # Interpreting ACPI tables is half of an emulated boot.
            "-M", "q35,memory-backend=mem,vmport=off,acpi=off",
            "-m", f"{MEMORY_MIB}M",
            "-object", f"memory-backend-file,id=mem,size={MEMORY_MIB}M,"
            f"mem-path={_escape(self.memory)},share={'on' if self.share_memory else 'off'}",
            "-seed", "1", "-rtc", "base=2026-01-01,clock=vm",
            *self._processor(),
            "-kernel", str(self.bzimage), "-initrd", str(self.initrd),
            "-append", " ".join([
                *_KERNEL_ARGUMENTS, f"kmemleak={'on' if self.leaks else 'off'}", *self.arguments,
            ]),
            # The console is a file: a socket pushes back, and turns into
            # interrupts at host time.
            "-chardev", f"file,id=console,path={_escape(self.console)}",
            "-serial", "chardev:console",
            "-chardev", f"{report},id=report",
            "-device", f"isa-debugcon,iobase={REPORT_PORT:#x},chardev=report",
            "-device", f"isa-debug-exit,iobase={EXIT_PORT:#x},iosize=4",
            # The agent stops the machine itself, at one exact instruction.
            "-device", f"pvpanic,ioport={PAUSE_PORT}", "-action", "panic=pause",
            "-device", "vmcoreinfo",
            "-fw_cfg", f"name={INPUT_ITEM},file={_escape(self.input)}",
            *self._network(),
            "-chardev", f"socket,id=qmp,fd={qmp_fd}", "-mon", "chardev=qmp,mode=control",
        ]  # fmt: skip
        if self.trace is not None:
            words += self.trace.argv()
        if self.debug is not None:
            words += self.debug.argv()
        if self.incoming:
            words += ["-incoming", "defer"]
        return words

    def _processor(self) -> list[str]:
        # SeaBIOS's MP table lists sockets, not cores.
        count = ["-smp", f"{self.lane.processors},cores=1,threads=1"]
        if self.lane is Lane.DET:
            clock = f"shift={ICOUNT_SHIFT},sleep=off"
            return ["-accel", "tcg", "-icount", clock, "-cpu", _EMULATED, *count]
        if self.accelerator is Accelerator.KVM:
            # A clone cannot keep the template's time stamp counter (QEMU,
            # docs/system/i386 "invtsc"; migratable=on leaves it out).
            return ["-accel", "kvm", "-cpu", "host,migratable=on", *count]
        return ["-accel", "tcg,thread=multi", "-cpu", _EMULATED, *count]

    def _network(self) -> list[str]:
        forward = ",hostfwd=tcp:127.0.0.1:0-10.0.2.15:22" if self.ssh else ""
        return [
            "-netdev", f"user,id=net,restrict=on,ipv6=off{forward}",
            # Without these the card announces itself after each restore, at host time.
            "-device", "virtio-net-pci,netdev=net,romfile=,guest_announce=off",
        ]  # fmt: skip


def _escape(path: Path) -> str:
    """Return a path as QEMU's option parser wants it: a comma is doubled."""
    return str(path).replace(",", ",,")
