# SPDX-License-Identifier: GPL-2.0-only
"""A small synchronous client of the QEMU Machine Protocol.

One command at a time over a connected socket, every wait with a deadline.
Specification: QEMU, docs/interop/qmp-spec.txt.
"""

from __future__ import annotations

import array
import json
import selectors
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from harness.deadline import Deadline
from harness.errors import QemuError

Json = dict[str, Any]


class Qmp:
    """A connection to one QEMU. The caller owns the socket's other end."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self._events: list[Json] = []

    def greet(self, deadline: Deadline) -> None:
        """Read the greeting and leave the negotiation mode.

        Raises:
            QemuError: QEMU closed the connection or said something else.
            DeadlineExceeded: no greeting in time.
        """
        greeting = self._receive(deadline, "QEMU did not greet")
        if "QMP" not in greeting:
            raise QemuError(f"QMP: expected a greeting, got {greeting!r}")
        self.command("qmp_capabilities", deadline)

    def command(
        self,
        name: str,
        deadline: Deadline,
        arguments: Mapping[str, Any] | None = None,
        *,
        fds: Sequence[int] = (),
    ) -> Any:
        """Execute a command and return what it returns.

        Args:
            arguments: the command's arguments.
            fds: descriptors that travel with the command, for ``getfd``.

        Raises:
            QemuError: QEMU answered with an error, or went away.
            DeadlineExceeded: no answer in time.
        """
        message: Json = {"execute": name}
        if arguments:
            message["arguments"] = dict(arguments)
        data = json.dumps(message).encode() + b"\n"
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self._socket.sendmsg([data], rights)
            self._socket.sendall(data[sent:])
        except OSError as error:
            raise QemuError(f"QMP: QEMU went away before {name}") from error
        while True:
            answer = self._receive(deadline, f"QEMU did not answer {name}")
            if "event" in answer:
                self._events.append(answer)
            elif "error" in answer:
                detail = answer["error"]
                raise QemuError(f"QMP {name}: {detail.get('class')}: {detail.get('desc')}")
            else:
                return answer.get("return")

    def wait_event(self, name: str, deadline: Deadline) -> Json:
        """Return the next event of a name.

        Events that came before and were not waited for count too; others are dropped.

        Raises:
            QemuError: QEMU went away.
            DeadlineExceeded: no such event in time.
        """
        while True:
            if self._events:
                event = self._events.pop(0)
            else:
                event = self._receive(deadline, f"QEMU did not report {name}")
            if event.get("event") == name:
                return event

    def _receive(self, deadline: Deadline, what: str) -> Json:
        while b"\n" not in self._buffer:
            with selectors.DefaultSelector() as selector:
                selector.register(self._socket, selectors.EVENT_READ)
                if not selector.select(deadline.remaining_s):
                    raise deadline.exceeded(what)
            try:
                chunk = self._socket.recv(1 << 16)
            except OSError:
                chunk = b""
            if not chunk:
                raise QemuError(f"QMP: {what}: it closed the connection")
            self._buffer += chunk
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = rest
        try:
            message = json.loads(line)
        except ValueError as error:
            raise QemuError(f"QMP: not JSON: {bytes(line[:200])!r}") from error
        if not isinstance(message, dict):
            raise QemuError(f"QMP: not an object: {message!r}")
        return message
