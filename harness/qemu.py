# SPDX-License-Identifier: GPL-2.0-only
"""A QEMU process: start, talk, save, restore, end."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from harness import proc
from harness.deadline import Deadline
from harness.errors import QemuError
from harness.machine import Machine
from harness.qmp import Qmp

#: To start, answer, save or load a state; hundreds of times what it takes.
CONTROL_LIMIT_S = 120.0


class Qemu:
    """A running QEMU, with its protocol connection."""

    def __init__(self, process: proc.Process, qmp: Qmp, machine: Machine, errors: Path) -> None:
        self.process = process
        self.qmp = qmp
        self.machine = machine
        self._errors = errors

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_exit(self, deadline: Deadline) -> int | None:
        """Wait until QEMU exits by itself; return its status, or None when time ran out."""
        return self.process.wait(deadline)

    def save(self, state: Path) -> None:
        """Save the stopped machine's device state; its memory is in the memory file.

        Raises:
            QemuError: QEMU refused or failed, for instance because the disk is full.
        """
        deadline = Deadline.after(CONTROL_LIMIT_S)
        with state.open("wb") as file:
            self.qmp.command("getfd", deadline, {"fdname": "state"}, fds=[file.fileno()])
            self.qmp.command("migrate", deadline, {"uri": "fd:state"})
            self._finish_migration(deadline)
        if state.stat().st_size == 0:
            raise self._failure("saving left an empty file")

    def load(self, state: Path, *, go: bool = True) -> None:
        """Load a device state into a machine that was started to receive one.

        Args:
            go: run it; a debugger does that by itself.
        """
        deadline = Deadline.after(CONTROL_LIMIT_S)
        with state.open("rb") as file:
            self.qmp.command("getfd", deadline, {"fdname": "state"}, fds=[file.fileno()])
            self.qmp.command("migrate-incoming", deadline, {"uri": "fd:state"})
            self._finish_migration(deadline)
        if go:
            self.qmp.command("cont", deadline)

    def wait_paused(self, deadline: Deadline) -> None:
        """Wait until the guest's agent has stopped the machine."""
        self.qmp.wait_event("STOP", deadline)

    def wait_panicked(self, deadline: Deadline) -> bool:
        """Wait for the end of a guest that stays when it panics; return whether it did.

        Raises:
            DeadlineExceeded: neither that nor its end came in time.
        """
        try:
            event = self.qmp.wait_event("SHUTDOWN", deadline)
        except QemuError:
            # An end that the executor asked for takes QEMU with it.
            return False
        # A panic ends in a reset (panic=-1).
        return bool(event["data"]["reason"] == "guest-reset")

    def dump(self, path: Path) -> None:
        """Write a stopped guest's memory as a core file (QEMU's manual, ``dump-guest-memory``).

        Raises:
            QemuError: QEMU refused or failed, for instance because the disk is full.
        """
        arguments = {"paging": False, "protocol": f"file:{path}"}
        self.qmp.command("dump-guest-memory", Deadline.after(CONTROL_LIMIT_S), arguments)

    def instructions(self) -> int:
        """Return how many instructions a stopped guest of the ``det`` lane has executed.

        Raises:
            QemuError: QEMU has gone.
        """
        return int(self.qmp.command("query-replay", Deadline.after(CONTROL_LIMIT_S))["icount"])

    def quit(self) -> None:
        """Ask QEMU to exit and wait for it."""
        deadline = Deadline.after(proc.GRACE_S)
        with contextlib.suppress(QemuError):
            self.qmp.command("quit", deadline)
        self.process.wait(deadline)

    def ssh_port(self) -> int:
        """Return the loopback port that leads to the guest's SSH server.

        Raises:
            QemuError: the machine was started without one.
        """
        deadline = Deadline.after(CONTROL_LIMIT_S)
        text = self.qmp.command("human-monitor-command", deadline, {"command-line": "info usernet"})
        match = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", text)
        if match is None:
            raise QemuError(f"QEMU forwards no port to the guest: {text!r}")
        return int(match[1])

    def errors(self) -> str:
        """Return what QEMU printed."""
        return self._errors.read_text(errors="replace").strip()

    def _finish_migration(self, deadline: Deadline) -> None:
        while True:
            event = self.qmp.wait_event("MIGRATION", deadline)
            status = event["data"]["status"]
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                raise self._failure(f"migration {status}")

    def _failure(self, what: str) -> QemuError:
        return QemuError(f"QEMU: {what}", evidence=self.errors())


@contextlib.contextmanager
def start_qemu(machine: Machine, *, report: str) -> Iterator[Qemu]:
    """Run QEMU for the length of a ``with`` block; it is gone afterwards.

    Args:
        report: chardev backend for the executor's report.

    Raises:
        QemuError: it did not start; carries what it printed.
    """
    ours, theirs = socket.socketpair()
    # Its messages go beside the console, so that a restored clone's are kept too.
    errors = machine.console.with_suffix(".qemu")
    with contextlib.ExitStack() as stack:
        stack.enter_context(ours)
        with theirs, errors.open("wb") as stderr:
            process = stack.enter_context(
                proc.Process(
                    machine.argv(qmp_fd=theirs.fileno(), report=report),
                    pass_fds=[theirs.fileno()],
                    stderr=stderr.fileno(),
                )
            )
        # Guests are the first to go when memory runs out, not the harness.
        with contextlib.suppress(OSError):
            Path(f"/proc/{process.pid}/oom_score_adj").write_text("800")
        qemu = Qemu(process, Qmp(ours), machine, errors)
        deadline = Deadline.after(CONTROL_LIMIT_S)
        try:
            qemu.qmp.greet(deadline)
            _configure_migration(qemu.qmp, deadline)
        except QemuError as error:
            status = process.wait(Deadline.after(proc.GRACE_S))
            raise QemuError(
                f"QEMU did not start (exit status {status}): {error.message}",
                evidence=qemu.errors(),
            ) from error
        try:
            yield qemu
        finally:
            # A guest is thrown away: there is nothing in it to be polite to.
            process.end(politely=False)


def _configure_migration(qmp: Qmp, deadline: Deadline) -> None:
    capabilities = [
        {"capability": "x-ignore-shared", "state": True},
        {"capability": "events", "state": True},
    ]
    qmp.command("migrate-set-capabilities", deadline, {"capabilities": capabilities})
    # No gratuitous ARP after a restore (see machine._network).
    qmp.command("migrate-set-parameters", deadline, {"announce-rounds": 0})


def find_qemu() -> Path:
    """Return the path of QEMU's x86-64 emulator; ``$KMOD_HARNESS_QEMU`` names another.

    Raises:
        InfrastructureError: it is not installed.
    """
    name = os.environ.get("KMOD_HARNESS_QEMU", "qemu-system-x86_64")
    return proc.require_program(name, "qemu-system-x86").resolve()
