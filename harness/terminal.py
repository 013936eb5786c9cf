# SPDX-License-Identifier: GPL-2.0-only
"""A person's terminal, connected to a shell over SSH."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import sys
import termios
import tty

import paramiko

from harness.errors import UsageError


def interact(transport: paramiko.Transport) -> None:
    """Connect the terminal to a login shell until the shell ends.

    Raises:
        UsageError: standard input is no terminal.
    """
    if not sys.stdin.isatty():
        raise UsageError(
            "standard input is not a terminal", hint="give a command: harness shell -- uname -a"
        )
    channel = transport.open_session()
    size = shutil.get_terminal_size()
    channel.get_pty(os.environ.get("TERM", "xterm"), size.columns, size.lines)
    channel.invoke_shell()

    def resized(number: int, frame: object) -> None:
        now = shutil.get_terminal_size()
        channel.resize_pty(now.columns, now.lines)

    before = termios.tcgetattr(sys.stdin)
    handler = signal.signal(signal.SIGWINCH, resized)
    try:
        tty.setraw(sys.stdin)
        _copy(channel)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, handler)


def _copy(channel: paramiko.Channel) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ, "guest")
        selector.register(sys.stdin, selectors.EVENT_READ, "person")
        while True:
            for key, _ in selector.select():
                if key.data == "guest":
                    data = channel.recv(1 << 16)
                    if not data:
                        return
                    os.write(1, data)
                else:
                    typed = os.read(0, 1 << 12)
                    if not typed:
                        channel.shutdown_write()
                        selector.unregister(sys.stdin)
                    channel.sendall(typed)
