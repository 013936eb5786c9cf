# SPDX-License-Identifier: GPL-2.0-only
"""Against a scripted peer on the other end of a socket pair; no QEMU."""

import json
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from harness.deadline import Deadline
from harness.errors import DeadlineExceeded, QemuError
from harness.qmp import Qmp

GREETING = {"QMP": {"version": {}, "capabilities": []}}


class Peer:
    """Says what a test tells it to, and remembers what it was told."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.file = connection.makefile("rb")

    def say(self, *messages: object) -> None:
        for message in messages:
            self.socket.sendall(json.dumps(message).encode() + b"\r\n")

    def heard(self) -> dict:
        return json.loads(self.file.readline())


@pytest.fixture
def pair() -> Iterator[tuple[Qmp, Peer]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Qmp(ours), Peer(theirs)


def soon() -> Deadline:
    return Deadline.after(60)


def test_greet_leaves_negotiation_mode(pair: tuple[Qmp, Peer]) -> None:
    qmp, peer = pair
    peer.say(GREETING, {"return": {}})
    qmp.greet(soon())
    assert peer.heard() == {"execute": "qmp_capabilities"}


def test_greet_refuses_something_else(pair: tuple[Qmp, Peer]) -> None:
    qmp, peer = pair
    peer.say({"hello": 1})
    with pytest.raises(QemuError, match="expected a greeting"):
        qmp.greet(soon())


def test_command_returns_what_comes_after_events(pair: tuple[Qmp, Peer]) -> None:
    qmp, peer = pair
    peer.say({"event": "STOP"}, {"return": {"x": 1}})
    assert qmp.command("query", soon(), {"a": 2}) == {"x": 1}
    assert peer.heard() == {"execute": "query", "arguments": {"a": 2}}
    assert qmp.wait_event("STOP", soon())["event"] == "STOP"


def test_error_answer_names_command_and_reason(pair: tuple[Qmp, Peer]) -> None:
    qmp, peer = pair
    peer.say({"error": {"class": "GenericError", "desc": "no such thing"}})
    with pytest.raises(QemuError, match="QMP query: GenericError: no such thing"):
        qmp.command("query", soon())


def test_peer_that_goes_away(pair: tuple[Qmp, Peer]) -> None:
    qmp, peer = pair
    peer.file.close()
    peer.socket.close()
    with pytest.raises(QemuError, match=r"went away|closed the connection"):
        qmp.command("query", soon())


def test_peer_that_says_nothing(pair: tuple[Qmp, Peer]) -> None:
    qmp, _ = pair
    with pytest.raises(DeadlineExceeded, match=r"QEMU did not answer query within 0\.1 s"):
        qmp.command("query", Deadline.after(0.1))


def test_event_that_does_not_come(pair: tuple[Qmp, Peer]) -> None:
    qmp, peer = pair
    peer.say({"event": "OTHER"})
    with pytest.raises(DeadlineExceeded, match="QEMU did not report STOP"):
        qmp.wait_event("STOP", Deadline.after(0.1))


@pytest.mark.parametrize(
    ("line", "reason"), [(b"{nonsense\n", "not JSON"), (b"[1]\n", "not an object")]
)
def test_malformed_answers(pair: tuple[Qmp, Peer], line: bytes, reason: str) -> None:
    qmp, peer = pair
    peer.socket.sendall(line)
    with pytest.raises(QemuError, match=reason):
        qmp.command("query", soon())


def test_descriptors_travel_with_a_command(pair: tuple[Qmp, Peer]) -> None:
    qmp, peer = pair
    reader, writer = os.pipe()
    received: list[int] = []

    def answer() -> None:
        _, fds, _, _ = socket.recv_fds(peer.socket, 4096, 4)
        received.extend(fds)
        peer.say({"return": {}})

    thread = threading.Thread(target=answer)
    thread.start()
    qmp.command("getfd", soon(), {"fdname": "state"}, fds=[writer])
    thread.join()
    os.write(received[0], b"through")
    assert os.read(reader, 10) == b"through"
    for fd in (reader, writer, *received):
        os.close(fd)
