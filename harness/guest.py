# SPDX-License-Identifier: GPL-2.0-only
"""A running guest that one can talk to over SSH: run, put, get, shell.

SSH is for people and for set-up. It is far too slow and too unpredictable for
a stress loop; that is the executor's work.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import shlex
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko

from harness import cpio, klog, store, terminal
from harness.deadline import Deadline
from harness.errors import GuestError, QemuError
from harness.keys import Keys, machine_keys
from harness.modules import Module
from harness.qemu import Qemu
from harness.symbolise import ModuleLife
from harness.template import (
    NO_INPUT,
    Base,
    Progress,
    Template,
    boot_template,
    console_tail,
    scratch_folder,
    stack_template,
    start_clone,
)

#: To connect, on the slowest host that the boot limit allows for.
CONNECT_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Output:
    """What a command in the guest gave back."""

    command: str
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, without the last newline."""
        return self.stdout.decode(errors="backslashreplace").rstrip("\n")


class UnloadFailed(AssertionError):
    """A module did not load or unload: the module's doing, and so a failing test."""


class Guest:
    """A clone that serves SSH. Made by :func:`start_guest`."""

    def __init__(self, qemu: Qemu, folder: Path, transport: paramiko.Transport) -> None:
        self.qemu = qemu
        self.folder = folder
        self.transport = transport
        self._lives: list[ModuleLife] = []

    @property
    def lives(self) -> tuple[ModuleLife, ...]:
        """Where each module that :meth:`loaded` put in lay, in each of its lives."""
        return tuple(self._lives)

    def run(
        self, command: str, *, deadline: Deadline, check: bool = True, input: bytes = b""
    ) -> Output:
        """Run a shell command.

        Args:
            check: raise when its exit status is not 0.

        Raises:
            GuestError: it failed and ``check`` was set, or the guest was lost.
            DeadlineExceeded: it did not end in time.
        """
        try:
            channel = self.transport.open_session(timeout=deadline.remaining_s)
            channel.exec_command(command)
            if input:
                channel.settimeout(deadline.remaining_s)
                channel.sendall(input)
            channel.shutdown_write()
            out, err = _drain(channel, deadline, command)
            if not channel.status_event.wait(deadline.remaining_s):
                raise deadline.exceeded(f"`{command}` did not end in the guest")
            status = channel.recv_exit_status()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise GuestError(
                f"lost the guest while running `{command}`: {error}",
                evidence=console_tail(self.folder),
            ) from error
        if check and status != 0:
            raise GuestError(
                f"`{command}` failed in the guest with status {status}",
                evidence=err.decode(errors="backslashreplace") or out.decode(errors="replace"),
            )
        return Output(command, status, out, err)

    def put(self, content: bytes, path: str, *, deadline: Deadline, mode: int = 0o644) -> None:
        """Write a file in the guest."""
        quoted = shlex.quote(path)
        self.run(f"cat > {quoted} && chmod {mode:o} {quoted}", deadline=deadline, input=content)

    def get(self, path: str, *, deadline: Deadline) -> bytes:
        """Read a file of the guest."""
        return self.run(f"cat {shlex.quote(path)}", deadline=deadline).stdout

    @contextlib.contextmanager
    def loaded(self, module: Module, parameters: str = "") -> Iterator[None]:
        """Load a module for the length of a ``with`` block, and unload it afterwards.

        What it needs is loaded before it, and unloaded after it.

        Args:
            parameters: of the module itself, such as ``knob=1``.

        Raises:
            UnloadFailed: it does not load or unload; with what insmod or rmmod said.
        """
        deadline = Deadline.after(CONNECT_LIMIT_S)
        lives: list[ModuleLife] = []
        for one in (*module.needs, module):
            path = f"/tmp/{one.name}.ko"
            self.put(one.stripped.read_bytes(), path, deadline=deadline)
            words = f"insmod {path} {parameters if one is module else ''}".rstrip()
            listed = self._or_fail(f"{words} && cat /proc/modules", deadline)
            number = 1 + sum(life.name == one.name for life in self._lives)
            lives.append(ModuleLife(one.name, one.ko, *_place(one.name, listed.text), number, None))
            self._lives.append(lives[-1])
        yield
        for life in reversed(lives):
            command = f"rmmod {life.name} && cat /proc/uptime"
            up = self._or_fail(command, Deadline.after(CONNECT_LIMIT_S)).text.split()
            gone = dataclasses.replace(life, unloaded_us=int(float(up[0]) * 1e6))
            self._lives[self._lives.index(life)] = gone

    def _or_fail(self, command: str, deadline: Deadline) -> Output:
        done = self.run(command, deadline=deadline, check=False)
        if done.status != 0:
            said = done.stderr.decode(errors="backslashreplace").strip()
            raise UnloadFailed(f"`{command.partition(' && ')[0]}` failed in the guest: {said}")
        return done

    def interact(self) -> None:
        """Connect a terminal to a shell in the guest until it ends.

        Raises:
            UsageError: standard input is no terminal.
        """
        terminal.interact(self.transport)

    def console(self) -> bytes:
        """Return everything that the guest's console said since it was cloned."""
        return (self.folder / "console.log").read_bytes()

    def splats(self) -> tuple[klog.Report, ...]:
        """Return the reports that the kernel printed since the guest was cloned."""
        return klog.parse(self.console())


def _place(name: str, listed: str) -> tuple[int, int]:
    """Address and size of a module in /proc/modules; a module may be gone again already."""
    for line in listed.splitlines():
        words = line.split()
        if words[:1] == [name] and len(words) > 5:
            return int(words[5], 16), int(words[1])
    return 0, 0


def ssh_template(
    cache: store.Store, base: Base, progress: Progress = lambda what, done: None
) -> tuple[Template, Keys]:
    """Return the template of a guest that serves SSH with this machine's keys."""
    keys = machine_keys(cache, base.image)
    below = boot_template(cache, base, progress)
    return stack_template(cache, below, cpio.archive(keys.payload()), progress), keys


@contextlib.contextmanager
def start_guest(template: Template, keys: Keys) -> Iterator[Guest]:
    """Clone a template that serves SSH, and connect to it.

    Raises:
        GuestError: it did not answer; carries the console's end.
    """
    with (
        scratch_folder() as folder,
        start_clone(template, folder, NO_INPUT, ssh=True) as qemu,
    ):
        transport = _connect(qemu, keys, folder)
        try:
            yield Guest(qemu, folder, transport)
        finally:
            transport.close()


def _connect(qemu: Qemu, keys: Keys, folder: Path) -> paramiko.Transport:
    deadline = Deadline.after(CONNECT_LIMIT_S)
    kind, data = keys.host_public.split()
    try:
        port = qemu.ssh_port()
        # QEMU accepts at once, whatever the guest does: the waiting is for the banner.
        sock = socket.create_connection(("127.0.0.1", port), timeout=deadline.remaining_s)
        transport = paramiko.Transport(sock)
        transport.banner_timeout = deadline.remaining_s
        transport.auth_timeout = deadline.remaining_s
        transport.connect(
            hostkey=paramiko.PKey.from_type_string(kind, base64.b64decode(data)),
            username="root",
            pkey=paramiko.RSAKey.from_private_key_file(str(keys.user)),
        )
    except (paramiko.SSHException, EOFError, OSError, QemuError) as error:
        raise GuestError(
            f"the guest did not answer SSH within {CONNECT_LIMIT_S:.0f} s: {error}",
            evidence=console_tail(folder),
        ) from error
    return transport


def _drain(channel: paramiko.Channel, deadline: Deadline, command: str) -> tuple[bytes, bytes]:
    """Read both outputs of a command until it closes them."""
    out, err = bytearray(), bytearray()
    channel.settimeout(deadline.remaining_s)
    channel.set_combine_stderr(False)
    try:
        while chunk := channel.recv(1 << 16):
            out += chunk
            # Errors share the window with output: whoever does not read them stalls.
            while channel.recv_stderr_ready():
                err += channel.recv_stderr(1 << 16)
            channel.settimeout(deadline.remaining_s)
        while chunk := channel.recv_stderr(1 << 16):
            err += chunk
    except TimeoutError:
        raise deadline.exceeded(f"`{command}` did not end in the guest") from None
    return bytes(out), bytes(err)
