# SPDX-License-Identifier: GPL-2.0-only
"""`executor relay`: a TCP server whose first answer is ready before it is asked."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

BIG = bytes(range(256)) * 4096


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def port(executor: Path, tmp_path: Path) -> Iterator[int]:
    """A relay to a shell that says its name, then what it hears. It goes to the background."""
    number = free_port()
    started = tmp_path / "started"
    server = ["sh", "-c", f"echo $$ >> {started}; echo hello; cat"]
    subprocess.run([executor, "relay", str(number), *server], check=True, timeout=60)
    relay = next(
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and f"relay\0{number}\0".encode() in cmdline(path)
    )
    yield number
    os.kill(relay, signal.SIGKILL)


def cmdline(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def talk(port: int, words: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        heard = client.recv(6)
        client.sendall(words)
        client.shutdown(socket.SHUT_WR)
        while chunk := client.recv(1 << 16):
            heard += chunk
    return heard


def test_first_server_is_ready_before_anybody_comes(port: int, tmp_path: Path) -> None:
    assert len((tmp_path / "started").read_text().split()) == 1
    assert talk(port, b"one") == b"hello\none"
    assert len((tmp_path / "started").read_text().split()) == 1


def test_later_connections_get_servers_of_their_own(port: int, tmp_path: Path) -> None:
    for words in (b"one", b"two"):
        assert talk(port, words) == b"hello\n" + words
    assert len((tmp_path / "started").read_text().split()) == 2


def test_connections_do_not_disturb_each_other(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as idle:
        assert idle.recv(6) == b"hello\n"
        assert talk(port, b"other") == b"hello\nother"
        idle.sendall(b"still here")
        assert idle.recv(10) == b"still here"


def test_what_is_larger_than_any_buffer_arrives_whole(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        assert client.recv(6) == b"hello\n"
        sent = 0
        heard = b""
        while len(heard) < len(BIG):
            if sent < len(BIG):
                client.sendall(BIG[sent : sent + 65536])
                sent += 65536
            heard += client.recv(1 << 16)
        assert heard == BIG


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (["relay", "0", "cat"], 2, "usage"),
        (["relay", "99999", "cat"], 2, "usage"),
        (["relay", "PORT", "true"], 3, "true said nothing"),
    ],
)
def test_relay_that_cannot_serve_says_so(
    executor: Path, words: list[str], status: int, why: str
) -> None:
    argv = [word.replace("PORT", str(free_port())) for word in words]
    done = subprocess.run([executor, *argv], capture_output=True, text=True, timeout=60)
    assert done.returncode == status
    assert why in done.stderr


def test_port_that_is_taken(executor: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        number = str(server.getsockname()[1])
        argv = [executor, "relay", number, "echo", "hello"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert f"relay on port {number}" in done.stderr
