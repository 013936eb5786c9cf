# SPDX-License-Identifier: GPL-2.0-only
"""The executor run on this host: ops, reports, detection, determinism."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import ops
from harness.ops import OPS
from harness.program import Actor, Branch, Choose, Loop, Node, Op, Program
from harness.schedules import MEASURE, Demotion, Schedule, Starvation

Event = dict[str, Any]
Run = Callable[..., list[Event]]

ANY = ("any",)


def op(name: str, *args: Any, place: str = "actors[0].do[0]", **fields: Any) -> Op:
    """An op with defaults for the parameters that are not given."""
    params = OPS[name].params[len(args) :]
    return Op(place, name, (*args, *(param.default for param in params)), **fields)


def actor(name: str, *body: Node, **fields: Any) -> Actor:
    return Actor(name, f"actors[{name}]", body, **fields)


def program(*actors: Actor, seed: int = 7, bound_us: int = 20_000_000, **fields: Any) -> Program:
    return Program("test", seed, bound_us, actors, **fields)


def one(*body: Node, **fields: Any) -> Program:
    return program(actor("a", *body), **fields)


@pytest.fixture(params=["executor", "checked_executor"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    binary = request.getfixturevalue(request.param)

    def run_it(prog: Program | bytes, *args: str, status: int = 0) -> list[Event]:
        text = prog if isinstance(prog, bytes) else prog.serialise()
        done = subprocess.run(
            [binary, "run", "-", *args], input=text, capture_output=True, timeout=120, cwd=tmp_path
        )
        assert done.stderr == b""
        events = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == status, events
        return events

    return run_it


def of(events: list[Event], kind: str, **fields: Any) -> list[Event]:
    return [
        event
        for event in events
        if event["ev"] == kind and all(event.get(key) == value for key, value in fields.items())
    ]


def counts(events: list[Event]) -> dict[tuple[str, str], Counter[str]]:
    """Results per actor and op."""
    sums: dict[tuple[str, str], Counter[str]] = {}
    for event in of(events, "errnos"):
        sums.setdefault((event["actor"], event["op"]), Counter()).update(event["counts"])
    return sums


def test_tables_match_those_of_the_harness(executor: Path) -> None:
    done = subprocess.run([executor, "tables"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    expected = []
    for spec in OPS.values():
        words = [
            f"{param.kind.value}:{param.table}" if param.table else param.kind.value
            for param in spec.params
        ]
        expected.append(
            " ".join(["op", spec.name, *words, *(["process-only"] if spec.process_only else [])])
        )
    assert [line for line in lines if line.startswith("op ")] == expected
    assert {line for line in lines if line.startswith("table ")} == {
        " ".join(["table", name, *flags]) for name, flags in ops.TABLES.items()
    }
    assert [line.split()[1] for line in lines if line.startswith("result ")] == list(ops.RESULTS)
    (limits,) = (line for line in lines if line.startswith("limits "))
    assert dict(word.split("=") for word in limits.split()[1:]) == {
        "program": str(ops.MAX_PROGRAM_BYTES),
        "actors": str(ops.MAX_ACTORS),
        "nodes": str(ops.MAX_NODES),
        "depth": str(ops.MAX_DEPTH),
        "rest": str(ops.MAX_REST),
        "slots": str(ops.MAX_SLOTS),
        "maps": str(ops.MAX_MAPS),
        "barriers": str(ops.MAX_BARRIERS),
        "io": str(ops.MAX_IO_BYTES),
        "modules": str(ops.MAX_MODULES),
        "ranks": str(ops.MAX_RANKS),
        "steps": str(ops.MAX_STEPS),
        "slice_us": str(ops.MIN_SLICE_US),
        "settle_us": str(ops.MAX_SETTLE_US),
        "fails": str(ops.MAX_FAILS),
    }


def test_every_op_answers_ok_where_it_can(run: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "file with spaces and \xe9")
    folder = str(tmp_path / "folder")
    body = [
        op("mkdir", folder),
        op("open", 0, path, ("rdwr", "creat", "excl")),
        op("write", 0, 10000, 3),
        op("lseek", 0, 5000),
        op("read", 0, 5000, 3, 5000),
        op("pwrite", 0, 20000, 100, 3),
        op("pread", 0, 20000, 100, 3, 100),
        op("fsync", 0),
        op("mmap", 0, 0, 4096, ("read", "write"), ("shared",), 4096),
        op("touch", 0, "read", 3),
        op("touch", 0, "write", 4),
        op("touch", 0, "read", 4),
        op("touch", 0, "read", None),
        op("munmap", 0),
        op("pread", 0, 4096, 4096, 4, 4096),
        op("ftruncate", 0, 5),
        op("ioctl", 0, 0x5401, expect=("ENOTTY",)),  # TCGETS
        op("ioctl", 0, 0x5401, 0, "data", expect=("ENOTTY",)),
        op("poll", 0, ("in", "out")),
        op("stat", path),
        op("close", 0),
        op("rename", path, folder + "/new"),
        op("open", 1, folder, ("rdonly", "directory")),
        op("readdir", 1, ("new", "..")),
        op("close", 1),
        op("chdir", folder),
        op("write_file", "new", "some text\n"),
        op("read_file", "new", "some text"),
        op("await_line", "new", "some text"),
        op("unlink", "new"),
        op("chdir", "/"),
        op("rmdir", folder),
        op("umount_all", str(tmp_path)),
        op("sync"),
        op("exec", "/bin/sh", ("-c", 'test "$0" = "a b"', "a b")),
        op("sleep", 100, 100),
        op("delay", 1000),
        op("yield"),
        op("pin", min(os.sched_getaffinity(0))),
        op("barrier", 3),
        op("socket", 2, "udp", 0),
        op("send", 2, 9, 1),
        op("close", 2),
        op("open_socket", 3, socket.AF_UNIX, "stream", 0),
        op("socket_call", 3, "setsockopt", socket.SOL_SOCKET, socket.SO_KEEPALIVE, "\x01"),
        op("survey_sockets", "some", socket.AF_UNIX, 1),
    ]
    events = run(one(*body))
    assert not of(events, "unexpected")
    assert not of(events, "data")
    assert of(events, "done", actor="a")[0]["iterations"] == 1
    assert sum(sum(event["counts"].values()) for event in of(events, "errnos")) == len(body)
    assert of(events, "end")[0]["ok"] is True


def test_ops_answer_the_errno_of_the_kernel(run: Run, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no module")
    missing = str(tmp_path / "missing")
    body = (
        op("open", 0, missing, expect=("ENOENT",)),
        op("rename", missing, missing + "2", expect=("ENOENT",)),
        op("rmdir", str(text), expect=("ENOTDIR",)),
        op("chdir", missing, expect=("ENOENT",)),
        op("mount", "none", missing, "nofs", expect=("ENOENT", "EPERM", "ENODEV")),
        op("umount", missing, expect=("ENOENT", "EPERM")),
        op("finit_module", missing, expect=("ENOENT",)),
        op("finit_module", str(text), expect=("ENOEXEC", "EPERM", "ENOSYS")),
        op("delete_module", "kmh_no_such_module", expect=("ENOENT", "EPERM", "ENOSYS")),
        op("read_file", missing, expect=("ENOENT",)),
        op("write_file", str(tmp_path), "x", expect=("EISDIR",)),
        op("ifup", "kmh0", expect=("ENODEV",)),
        op("ifdown", "kmh0", expect=("ENODEV",)),
        op("exec", missing, expect=("ENOENT",)),
        op("exec", "/bin/sh", ("-c", "exit 3"), expect=("EXIT",)),
        op("exec", "/bin/sh", ("-c", "kill -9 $$"), expect=("SIGNAL",)),
        op("open", 1, str(text)),
        op("write", 1, 10, expect=("EBADF",)),
        op("ftruncate", 1, 10, expect=("EINVAL", "EBADF")),
        op("lseek", 1, -5, expect=("EINVAL",)),
        op("readdir", 1, expect=("ENOTDIR",)),
        op("mmap", 0, 1, 8192),
        op("touch", 0, expect=("SIGBUS",)),
        op("touch", 0, "write", expect=("SIGSEGV",)),
        op("mmap", 1, 1, 100, ("write",), ("shared",), expect=("EACCES",)),
    )
    events = run(one(*body))
    assert not of(events, "unexpected")


def test_interfaces_go_down_and_up(executor: Path) -> None:
    """In a network of its own: this machine's interfaces are nobody's to take down."""
    # The route to all, which is there while the loopback is up.
    shows = "/bin/grep", ("-q", "127.255.255.255", "/proc/net/fib_trie")
    prog = one(
        op("ifup", "lo"),
        op("exec", *shows),
        op("ifdown", "lo"),
        op("exec", *shows, expect=("EXIT",)),
        op("ifup", "kmh0", expect=("ENODEV",)),
        op("ifdown", "lo" + "o" * 14, expect=("ENODEV",)),
    )
    argv = ["unshare", "--map-root-user", "--net", executor, "run", "-"]
    done = subprocess.run(argv, input=prog.serialise(), capture_output=True, timeout=120)
    if b"unshare" in done.stderr:
        pytest.skip("no namespaces here")
    assert done.returncode == 0, done
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert not of(events, "unexpected")
    assert len(counts(events)) == 3


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody has bound just now."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            for _ in range(count)
        ]
        for one_socket in sockets:
            one_socket.bind(("127.0.0.1", 0))
        return [int(one_socket.getsockname()[1]) for one_socket in sockets]


def test_datagrams_arrive_with_their_pattern(run: Run) -> None:
    port, other = free_ports(2)
    events = run(
        one(
            op("socket", 0, "udp", port),
            op("socket", 1, "udp", other),
            op("recv", 0, 100, expect=("EAGAIN",)),
            op("send", 1, port, 1000, 5),
            op("send", 1, port, 10, 6),
            op("recv", 0, 65536, 5, 1000, 10_000),
            op("recv", 0, 65536, 6, 10, 10_000),
            op("recv", 0, 100, expect=("EAGAIN",)),
            op("recv", 0, 100, None, 0, 1, expect=("EAGAIN",)),
            op("send", 0, other, 30, 7),
            op("poll", 1, ("in",), 10_000),
            op("read", 1, 30, 7, 30),
        )
    )
    assert not of(events, "unexpected")
    assert not of(events, "data")


def test_datagram_that_differs_or_is_short_is_told(run: Run) -> None:
    (port,) = free_ports(1)
    events = run(
        one(
            op("socket", 0, "udp", port),
            Loop(2, (op("send", 0, port, 100, 1),)),
            op("recv", 0, 65536, 2, 100, 10_000, place="actors[0].do[2]"),
            op("recv", 0, 65536, 1, 101, 10_000, place="actors[0].do[3]"),
        )
    )
    differs, short = of(events, "data")
    assert (differs["op"], differs["what"], differs["offset"]) == ("recv", "differs", 0)
    assert (short["where"], short["what"], short["offset"]) == ("actors[0].do[3]", "short", 100)


def test_sockets_answer_the_errno_of_the_kernel(run: Run) -> None:
    (port,) = free_ports(1)
    events = run(
        one(
            op("socket", 0, "udp", port),
            op("socket", 1, "udp", port, expect=("EADDRINUSE",)),
            op("send", 1, port, 10, expect=("SKIPPED",)),
            op("socket", 1, "udp", 65536, expect=("EINVAL",)),
            op("socket", 1, "raw", 256, expect=("EINVAL",)),
            op("send", 0, 65536, 10, expect=("EINVAL",)),
            op("send", 0, port, 65536, expect=("EMSGSIZE",)),
            op("send", 0, 0, 10, expect=("EINVAL",)),
        )
    )
    assert not of(events, "unexpected")


def test_socket_of_any_family_takes_each_call(run: Run) -> None:
    """Of the local family: what nobody has would make this machine look for a module."""

    def call(what: str, number: int = 0, data: str = "", **fields: Any) -> Op:
        return op("socket_call", 0, what, 1, number, data, **fields)

    events = run(
        one(
            op("open_socket", 0, socket.AF_UNIX, "stream"),
            call("send", expect=("ENOTCONN",)),
            call("accept", expect=("EINVAL",)),
            call("getpeername", expect=("ENOTCONN",)),
            call("recvfrom", expect=("EINVAL",)),
            # Two bytes of an address are its family: the kernel picks a name.
            call("bind", 2),
            call("bind", 200, expect=("EINVAL",)),
            call("getsockname"),
            call("listen", 5),
            call("accept", expect=("EAGAIN",)),
            call("getsockopt", socket.SO_TYPE),
            call("getsockopt", 9999, expect=("ENOPROTOOPT",)),
            call("setsockopt", socket.SO_KEEPALIVE, "\x01"),
            call("shutdown", 2),
            op("close", 0),
            call("shutdown", expect=("SKIPPED",)),
            op("open_socket", 0, socket.AF_UNIX, "dgram"),
            call("connect", 0, "/kmh", expect=("ENOENT",)),
            call("sendto", 0, "/kmh", expect=("ENOENT",)),
            call("recvfrom", expect=("EAGAIN",)),
            op("read", 0, 10, expect=("EAGAIN",)),
            op("open_socket", 0, socket.AF_UNIX, "rdm", expect=("ESOCKTNOSUPPORT",)),
            op("open_socket", 0, socket.AF_UNIX, "stream", 99, expect=("EPROTONOSUPPORT",)),
            call("send", expect=("SKIPPED",)),
        )
    )
    assert not of(events, "unexpected")


def test_sockets_that_can_be_opened_are_told(run: Run) -> None:
    events = run(
        one(
            op("survey_sockets", "some", socket.AF_UNIX, 3),
            op("survey_sockets", "some", 64, expect=("EINVAL",)),
            op("survey_sockets", "some", socket.AF_UNIX, 513, expect=("EINVAL",)),
        )
    )
    assert not of(events, "unexpected")
    # net/unix/af_unix.c, unix_create(): protocol 0 or the family's own number, and raw is dgram.
    assert [(event["survey"], event["section"], event["line"]) for event in of(events, "surface")] \
        == [("some", "socket", f"1 {kind} {protocol}")
            for kind in ("stream", "dgram", "raw", "seqpacket") for protocol in (0, 1)]  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="raw sockets are for root")
def test_raw_socket_gets_the_packets_of_its_protocol_without_their_header(run: Run) -> None:
    (port,) = free_ports(1)
    events = run(
        one(
            # 253 is for experiments (RFC 3692): nobody else sends it.
            op("socket", 0, "raw", 253),
            op("socket", 1, "udp", port),
            op("send", 1, port, 10),
            op("send", 0, 0, 500, 3),
            op("recv", 0, 65536, 3, 500, 10_000),
            op("recv", 0, 65536, expect=("EAGAIN",)),
        )
    )
    assert not of(events, "unexpected")
    assert not of(events, "data")


def test_line_is_waited_for_until_the_time_is_over(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("one\ntwo words\nthree")
    events = run(
        one(
            op("await_line", str(path), "one"),
            op("await_line", str(path), "three", 1_000_000),
            op("await_line", str(path), "two", 20, expect=("ETIMEDOUT",)),
            op("await_line", str(path), "", expect=("ETIMEDOUT",)),
            op("await_line", str(tmp_path), "one", expect=("EISDIR",)),
            op("await_line", str(tmp_path / "missing"), "one", expect=("ENOENT",)),
            op("pin", 1023, expect=("EINVAL",)),
            op("pin", 1024, expect=("EINVAL",)),
        )
    )
    assert not of(events, "unexpected")


def test_empty_slots_skip_the_op_and_say_so(run: Run) -> None:
    names = ("close", "fsync", "poll", "readdir", "read", "write", "pread", "pwrite", "lseek")
    names += ("ftruncate", "ioctl", "send", "recv", "socket_call")
    args = {"read": (9,), "write": (9,), "pread": (0, 9), "pwrite": (0, 9), "lseek": (0,)}
    args |= {"ftruncate": (0,), "ioctl": (1,), "send": (9, 9), "recv": (9,)}
    args |= {"socket_call": ("listen",)}
    body = [op(name, 0, *args.get(name, ())) for name in names]
    body += [op("mmap", 0, 0, 9), op("munmap", 0), op("touch", 0)]
    events = run(one(*body))
    for event in of(events, "errnos"):
        assert event["counts"] == {"SKIPPED": 1}
    assert len(of(events, "errnos")) == len(body)


def test_unexpected_errno_is_told_once_with_its_place_and_is_not_fatal(run: Run) -> None:
    bad = op("stat", "/no such", place="actors[0].do[0].do[2]", expect=("ok", "EIO"))
    events = run(one(Loop(5, (bad,)), op("yield")))
    (event,) = of(events, "unexpected")
    assert event | {"count": 0} == {
        "ev": "unexpected",
        "actor": "a",
        "where": "actors[0].do[0].do[2]",
        "op": "stat /no%20such",
        "errno": "ENOENT",
        "allowed": ["ok", "EIO"],
        "count": 0,
    }
    assert 1 <= event["count"] <= 5
    assert counts(events)["a", "stat"] == {"ENOENT": 5}
    assert counts(events)["a", "yield"] == {"ok": 1}


def test_any_allows_all(run: Run) -> None:
    events = run(one(op("stat", "/no such", expect=ANY)))
    assert not of(events, "unexpected")


def test_stop_on_skips_the_rest_of_its_list_only(run: Run) -> None:
    stop = op("stat", "/no such", expect=ANY, stop_on=("ENOENT",))
    events = run(one(Loop(3, (stop, op("sync"))), op("yield")))
    assert counts(events)["a", "stat"] == {"ENOENT": 3}
    assert counts(events)["a", "yield"] == {"ok": 1}
    assert ("a", "sync") not in counts(events)


def test_retries_wait_for_an_allowed_answer(run: Run, tmp_path: Path) -> None:
    late = str(tmp_path / "late")
    waiter = actor("waiter", op("stat", late, retries=1000))
    maker = actor("maker", op("sleep", 30_000), op("mkdir", late))
    assert counts(run(program(waiter, maker)))["waiter", "stat"] == {"ok": 1}
    events = run(one(op("stat", "/no such", retries=2)))
    assert counts(events)["a", "stat"] == {"ENOENT": 1}
    assert of(events, "unexpected")


def test_op_in_which_an_allocation_fails_is_told(run: Run) -> None:
    body = [
        op("stat", "/no such", place="p[0]", expect=("ENOENT",), fail=1_000_000),
        op("stat", "/", place="p[1]"),
        op("stat", "/", place="p[2]", fail=5),
        # It does not come to its system call.
        op("finit_module", "/no such", place="p[3]", expect=ANY, fail=7),
    ]
    events = run(one(*body))
    told = of(events, "fail")
    assert [(event["where"], event["nth"], event["errno"]) for event in told] == [
        ("p[0]", 1_000_000, "ENOENT"), ("p[2]", 5, "ok"), ("p[3]", 7, "ENOENT"),
    ]  # fmt: skip
    assert not any(event["fired"] for event in told[::2])
    assert told[2]["left"] == 7
    assert not any(event["told"] for event in told)
    # A kernel that cannot do it gives no evidence.
    if not os.path.exists("/proc/thread-self/fail-nth"):
        assert [event["errno"] for event in of(events, "trouble")] == ["ENOENT", "ENOENT"]
        assert not told[1]["fired"]


def test_more_failures_than_are_told_leave_no_evidence(run: Run) -> None:
    events = run(one(Loop(600, (op("yield", fail=1),))))
    assert len(of(events, "fail")) == 512
    assert "failures not told" in [event["what"] for event in of(events, "trouble")]


def test_program_without_failures_says_nothing_of_them(run: Run) -> None:
    events = run(one(op("yield")))
    assert not of(events, "fail")
    assert not of(events, "trouble")


def test_data_that_differs_is_told_where_and_how(run: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    events = run(
        one(
            op("open", 0, path, ("rdwr", "creat")),
            op("write", 0, 4096, 1),
            op("pwrite", 0, 1000, 1, 2),
            op("pread", 0, 0, 4096, 1, 4096, place="actors[0].do[3]"),
        )
    )
    (event,) = of(events, "data")
    assert event["where"] == "actors[0].do[3]"
    assert (event["what"], event["op"], event["offset"]) == ("differs", "pread", 1000)
    assert event["expected"][:2] != event["got"][:2]
    assert event["expected"][2:] == event["got"][2:]
    assert len(event["got"]) == 32


def test_missing_data_is_told(run: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    events = run(
        one(
            op("open", 0, path, ("rdwr", "creat")),
            op("write", 0, 100, 1),
            op("pread", 0, 0, 200, 1, 101),
            op("open", 1, str(tmp_path), ("rdonly", "directory")),
            op("readdir", 1, ("f", "gone")),
            op("read_file", path, "what it does not hold"),
        )
    )
    short, missing, text = of(events, "data")
    assert (short["what"], short["offset"]) == ("short", 100)
    assert (missing["what"], bytes.fromhex(missing["expected"])) == ("missing", b"gone")
    assert text["what"] == "text"


def test_data_events_are_bounded_but_counted(run: Run, tmp_path: Path) -> None:
    body = (
        op("open", 0, str(tmp_path / "f"), ("rdwr", "creat")),
        Loop(1000, (op("pread", 0, 0, 10, None, 10),)),
    )
    events = run(one(*body))
    assert len(of(events, "data")) == 4
    assert of(events, "done", actor="a")[0]["lost"] == 1000


def test_hang_is_told_with_its_place_and_the_rest_still_runs(run: Run, tmp_path: Path) -> None:
    left = str(tmp_path / "left")
    prog = program(
        actor("sleeper", op("sleep", 900_000_000, place="actors[0].do[7]")),
        actor("thread", op("sleep", 900_000_000), kind="thread"),
        actor("quick", op("yield")),
        bound_us=300_000,
        teardown=(op("mkdir", left, place="teardown[0]"),),
    )
    events = run(prog, status=1)
    hangs = {event["actor"]: event for event in of(events, "hang")}
    assert set(hangs) == {"sleeper", "thread"}
    assert hangs["sleeper"]["where"] == "actors[0].do[7]"
    assert hangs["sleeper"]["op"] == "sleep 900000000 0"
    assert hangs["sleeper"]["state"].startswith("S")
    assert "stack" in hangs["sleeper"]
    assert of(events, "done", actor="quick")
    assert not of(events, "done", actor="sleeper")
    assert not of(events, "died")
    assert Path(left).is_dir()
    assert of(events, "end")[0] | {"us": 0} == {
        "ev": "end",
        "us": 0,
        "ok": False,
        "hangs": 2,
        "stuck": 0,
    }


def test_actor_that_goes_on_until_another_ends_does_not_hang(run: Run) -> None:
    prog = program(
        actor("stuck", op("sleep", 900_000_000)),
        actor("with-it", op("sleep", 900_000_000), until=("stuck",)),
        actor("busy", op("sleep", 100), op("yield"), until=("stuck", "with-it")),
        actor("after", Loop(1_000_000, (op("sleep", 100),)), until=("quick",)),
        actor("quick", op("yield")),
        bound_us=300_000,
    )
    events = run(prog, status=1)
    # Nobody is left for whom "after" could be waiting.
    assert [event["actor"] for event in of(events, "hang")] == ["stuck", "with-it", "after"]
    assert of(events, "end")[0]["hangs"] == 3


def test_actor_that_gets_on_has_longer_than_the_bound(run: Run) -> None:
    events = run(program(actor("slow", op("sleep", 10_000), repeat=20), bound_us=150_000))
    assert not of(events, "hang")
    assert of(events, "done", actor="slow")[0]["iterations"] == 20


def test_actor_that_never_ends_hangs_though_it_gets_on(run: Run) -> None:
    prog = program(actor("endless", op("sleep", 1_000), repeat=1_000_000), bound_us=50_000)
    events = run(prog, status=1)
    assert [event["actor"] for event in of(events, "hang")] == ["endless"]


def test_setup_that_fails_keeps_the_actors_from_starting(run: Run, tmp_path: Path) -> None:
    prog = program(
        actor("a", op("mkdir", str(tmp_path / "a"))),
        setup=(op("stat", "/no such"),),
        teardown=(op("mkdir", str(tmp_path / "t")),),
    )
    events = run(prog, status=1)
    assert of(events, "unexpected", actor="setup")
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "t").exists()
    assert not of(events, "done", actor="a")


def test_setup_that_hangs_is_told(run: Run) -> None:
    events = run(one(op("yield"), setup=(op("sleep", 900_000_000),), bound_us=100_000), status=1)
    assert of(events, "hang", actor="setup")


def test_killed_actor_is_told_and_does_not_hold_the_others(run: Run) -> None:
    body = (op("kill", "victim", "KILL"), op("barrier", 0))
    prog = program(
        actor("victim", op("sleep", 900_000_000), op("barrier", 0)),
        actor("killer", *body),
        actor("late", op("sleep", 50_000), op("kill", "victim", "KILL", expect=ANY)),
    )
    events = run(prog)
    (died,) = of(events, "died")
    assert (died["actor"], died["signal"], died["wanted"]) == ("victim", "KILL", True)
    assert not of(events, "hang")
    assert counts(events)["late", "kill"] == {"ESRCH": 1}


def test_usr1_interrupts_a_system_call_of_a_thread_or_process(run: Run) -> None:
    nap = op("sleep", 900_000_000, expect=("EINTR",))
    prog = program(
        actor("a", nap),
        actor("b", nap, kind="thread"),
        actor(
            "c",
            Loop(200, (op("kill", "a", "USR1", expect=ANY), op("sleep", 1000))),
            Loop(200, (op("kill", "b", "USR1", expect=ANY), op("sleep", 1000))),
        ),
    )
    events = run(prog)
    assert counts(events)["a", "sleep"] == {"EINTR": 1}
    assert counts(events)["b", "sleep"] == {"EINTR": 1}


def test_barrier_holds_until_all_members_have_come_or_ended(run: Run, tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")
    prog = program(
        actor("first", op("barrier", 5), op("stat", flag), op("barrier", 5)),
        actor("thread", op("barrier", 5), op("stat", flag), kind="thread"),
        actor("maker", op("sleep", 20_000), op("mkdir", flag), op("barrier", 5)),
    )
    events = run(prog)
    assert not of(events, "unexpected")
    assert not of(events, "hang")


def test_until_ends_with_the_last_of_the_others(run: Run) -> None:
    prog = program(
        actor("x", op("sleep", 20_000)),
        actor("y", op("sleep", 60_000), kind="thread"),
        actor("w", op("sleep", 1000), repeat=0, until=("x", "y")),
        actor("few", op("yield"), repeat=2, until=("y",)),
    )
    events = run(prog)
    assert of(events, "done", actor="w")[0]["iterations"] > 5
    assert of(events, "done", actor="few")[0]["iterations"] == 2


def test_choices_follow_the_seed_and_the_weights(run: Run) -> None:
    light = Choose((Branch(1, (op("stat", "/"),)), Branch(3, (op("yield"),))))

    def tally(seed: int) -> dict[tuple[str, str], Counter[str]]:
        prog = program(
            actor("a", Loop(400, (light,))),
            actor("b", Loop(400, (light,)), kind="thread"),
            seed=seed,
        )
        return counts(run(prog))

    first = tally(11)
    assert tally(11) == first
    assert tally(12) != first
    assert first["a", "stat"] != first["b", "stat"]
    assert 60 <= first["a", "stat"]["ok"] <= 140


def test_output_is_bounded_and_says_so(run: Run) -> None:
    body = [op("stat", "/no such", place=f"p[{i}]") for i in range(1500)]
    prog = one(*body, teardown=(op("yield"),))
    events = run(prog)
    size = sum(len(json.dumps(event, separators=(",", ":"))) + 1 for event in events)
    assert len(of(events, "truncated")) == 1
    assert size < 260 * 1024
    for last in ("detectors", "end"):
        assert of(events, last)


def test_actor_that_dies_of_something_else_is_told(run: Run) -> None:
    kill = ("-c", "kill -9 $PPID; sleep 10")
    prog = program(actor("victim", op("exec", "/bin/sh", kill)), actor("other", op("yield")))
    events = run(prog, status=1)
    (died,) = of(events, "died")
    assert (died["actor"], died["signal"], died["wanted"]) == ("victim", "KILL", False)
    assert died["op"].startswith("exec /bin/sh")
    assert of(events, "done", actor="other")
    assert of(events, "end")[0]["ok"] is False


def test_audit_tells_what_appeared_and_vanished(run: Run, tmp_path: Path) -> None:
    for name in ("tree", "names", "tree/skipped", "tree/old"):
        (tmp_path / name).mkdir()
    (tmp_path / "lines").write_text("one a\ntwo b\n")
    (tmp_path / "slabinfo").write_text("version\n# name\nkmem 1 2\n")
    (tmp_path / "loop").symlink_to("tree")
    audit = tmp_path / "audit"
    audit.write_text(
        f"# comment\n\nL lines {tmp_path}/lines\nF first {tmp_path}/lines\n"
        f"N names {tmp_path}/names\nT tree {tmp_path}/tree {tmp_path}/tree/skipped\n"
        f"K kthreads /proc\nS slabs {tmp_path}/slabinfo\nG lines {tmp_path}/missing\n"
    )
    body = (
        op("write_file", f"{tmp_path}/lines", "one c\nthree b\n"),
        op("mkdir", f"{tmp_path}/names/new"),
        op("mkdir", f"{tmp_path}/tree/skipped/new"),
        op("mkdir", f"{tmp_path}/tree/new"),
        op("mkdir", f"{tmp_path}/tree/new/below"),
        op("rmdir", f"{tmp_path}/tree/old"),
        op("write_file", f"{tmp_path}/slabinfo", "version\n# name\nkmem 1 2\nleft 1 2\n"),
    )
    events = run(one(*body), "--audit", str(audit))
    residue = [(e["section"], e["sign"], e["line"]) for e in of(events, "residue")]
    # Kernel threads of a host come and go as they like.
    assert sorted(line for line in residue if line[0] != "K") == sorted(
        [
            ("L", "-", "one a"),
            ("L", "-", "two b"),
            ("L", "+", "one c"),
            ("L", "+", "three b"),
            ("F", "-", "two"),
            ("F", "+", "three"),
            ("N", "+", "new"),
            ("T", "+", f"{tmp_path}/tree/new"),
            ("T", "+", f"{tmp_path}/tree/new/below"),
            ("T", "-", f"{tmp_path}/tree/old"),
            ("S", "+", "left"),
        ]
    )
    assert of(events, "audited")[0]["sections"] == 7


def test_audit_waits_for_what_goes_away_by_itself(run: Run, tmp_path: Path) -> None:
    (tmp_path / "names").mkdir()
    audit = tmp_path / "audit"
    audit.write_text(f"N names {tmp_path}/names\n")
    late = f"sleep 0.05; rmdir {tmp_path}/names/new"
    body = (
        op("mkdir", f"{tmp_path}/names/new"),
        op("exec", "/bin/sh", ("-c", f"({late}) & exit 0")),
    )
    events = run(one(*body), "--audit", str(audit))
    assert not of(events, "residue")
    assert of(events, "audited")[0]["rechecks"] >= 1


def test_residue_lines_are_bounded_per_section(run: Run, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_text("")
    audit = tmp_path / "audit"
    audit.write_text(f"L lines {lines}\n")
    text = "".join(f"{i}\n" for i in range(150))
    events = run(one(op("write_file", str(lines), text)), "--audit", str(audit))
    assert len(of(events, "residue")) == 100
    assert of(events, "residue-cut")[0]["more"] == 50


def test_audit_reads_who_asked_for_memory_and_is_gone(run: Run, tmp_path: Path) -> None:
    areas = tmp_path / "vmallocinfo"
    areas.write_text("")
    audit = tmp_path / "audit"
    audit.write_text(f"V orphans {areas}\n")
    text = (
        "0xffffc90000000000-0xffffc90000005000   20480 kernel_clone+0x8a/0x320 pages=4 vmalloc\n"
        "0xffffc90000006000-0xffffc90000008000    8192 0xffffffffc0001234 pages=1 vmalloc\n"
        "0xffffc90000009000-0xffffc9000000b000    8192 unpurged vm_area\n"
    )
    events = run(one(op("write_file", str(areas), text)), "--audit", str(audit))
    assert [event["line"] for event in of(events, "residue")] == ["0xffffffffc0001234"]


def test_survey_tells_what_has_come_since_the_baseline(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "names").mkdir()
    lines = tmp_path / "lines"
    lines.write_text("old\n")
    audit = tmp_path / "audit"
    audit.write_text(f"T tree {tmp_path}/tree\nN names {tmp_path}/names\nL lines {lines}\n")
    body = [
        op("mkdir", f"{tmp_path}/tree/folder", 0o755),
        op("mkdir", f"{tmp_path}/names/own", 0o755),
        op("write_file", str(lines), "old\nnew\n"),
        op("open", 0, f"{tmp_path}/names/own/below", ("rdwr", "creat"), 0o640),
        op("survey", "in between"),
        op("rmdir", f"{tmp_path}/tree/folder"),
        op("survey", "later"),
        op("unlink", f"{tmp_path}/names/own/below"),
        op("rmdir", f"{tmp_path}/names/own"),
    ]
    events = run(one(*body), "--audit", str(audit))
    seen = {(event["survey"], event["line"]): event for event in of(events, "surface")}
    both = {f"{tmp_path}/names/own", f"{tmp_path}/names/own/below", "new"}
    assert {line for name, line in seen if name == "later"} == both
    assert {line for name, line in seen if name == "in between"} == {
        *both,
        f"{tmp_path}/tree/folder",
    }
    modes = {line.rpartition("/")[2]: int(event["mode"], 8) for (_, line), event in seen.items()}
    assert stat.S_ISDIR(modes["folder"])
    assert stat.S_ISREG(modes["below"])
    assert modes["below"] & 0o777 == 0o640
    assert modes["new"] == 0
    assert [event["line"] for event in of(events, "residue")] == ["new"]


def test_words_are_read_and_what_is_quiet_is_in_no_survey(run: Run, tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("one two\n")
    audit = tmp_path / "audit"
    audit.write_text(f"W quiet-words {words}\nL quiet-lines {words}\nF first {words}\n")
    body = [op("write_file", str(words), "two three\nfour\n"), op("survey", "x")]
    events = run(one(*body), "--audit", str(audit))
    changes = {(event["section"], event["sign"], event["line"]) for event in of(events, "residue")}
    assert changes == {
        ("W", "-", "one"), ("W", "+", "three"), ("W", "+", "four"),
        ("L", "-", "one two"), ("L", "+", "two three"), ("L", "+", "four"),
        ("F", "-", "one"), ("F", "+", "two"), ("F", "+", "four"),
    }  # fmt: skip
    assert {event["section"] for event in of(events, "surface")} == {"F"}


def test_survey_says_how_much_it_left_out(run: Run, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_text("")
    audit = tmp_path / "audit"
    audit.write_text(f"L lines {lines}\n")
    text = "".join(f"{number}\n" for number in range(130))
    body = [op("write_file", str(lines), text), op("survey", "x")]
    events = run(one(*body), "--audit", str(audit))
    assert len(of(events, "surface")) == 100
    assert of(events, "surface-cut")[0]["more"] == 30


@pytest.mark.parametrize("line", ["L nokind /x", "L quiet- /x", "L lines", "T tree /x" + " /y" * 9])
def test_bad_audit_file_is_refused(executor: Path, tmp_path: Path, line: str) -> None:
    audit = tmp_path / "audit"
    audit.write_text(line + "\n")
    argv = [executor, "run", "-", "--audit", str(audit)]
    text = one(op("yield")).serialise()
    done = subprocess.run(argv, input=text, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"not an audit file" in done.stderr


def test_agent_outside_a_guest_says_why_it_cannot_run(executor: Path) -> None:
    done = subprocess.run([executor, "agent", "--bogus"], capture_output=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(b"usage:")


def test_missing_program_file_is_refused(executor: Path, tmp_path: Path) -> None:
    argv = [executor, "run", str(tmp_path / "none")]
    done = subprocess.run(argv, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert b"No such file" in done.stderr


def scheduled(*steps: Demotion | Starvation, end_us: int, **fields: Any) -> Program:
    """Two actors and a schedule; on this host nobody's priority is touched."""
    body = Loop(100, (op("sleep", 1000),))
    schedule = Schedule("pct:3", 500, end_us, ("a", "[kworker]", "b", "teardown"), steps)
    return program(actor("a", body), actor("b", body), schedule=schedule, **fields)


def test_steps_of_a_schedule_are_taken_in_order_and_at_their_times(run: Run) -> None:
    steps = (Demotion(2000), Starvation(3000, "b", 7000), Starvation(5000, "a", 1000))
    events = run(scheduled(*steps, end_us=60_000))
    done = of(events, "step")
    assert [(event["what"], event.get("role")) for event in done] == [
        ("demote", None), ("starve", "b"), ("starve", "a"), ("feed", "a"), ("feed", "b"),
    ]  # fmt: skip
    for event, due_us in zip(done, (2000, 3000, 5000, 6000, 10_000), strict=True):
        assert event["us"] >= due_us
    (end,) = of(events, "schedule")
    assert end["schedule"] == "pct:3"
    assert end["begun"]
    assert end["over"]
    assert end["us"] >= 60_000
    # None of this machine's tasks is meddled with.
    assert end["tasks"] == 0
    assert of(events, "end", ok=True)


def test_schedule_that_outlasts_its_program_ends_with_it(run: Run) -> None:
    events = run(scheduled(Demotion(9_000_000), end_us=10_000_000))
    (end,) = of(events, "schedule")
    assert end["over"]
    assert end["us"] < 9_000_000
    assert of(events, "step") == []


def test_schedule_of_a_setup_that_failed_is_said_not_to_have_begun(run: Run) -> None:
    setup = (op("open", 0, "/nowhere", place="setup[0]"),)
    events = run(scheduled(Demotion(1), end_us=1000, setup=setup), status=1)
    (end,) = of(events, "schedule")
    assert not end["begun"]
    assert of(events, "unexpected")


def test_measuring_changes_nothing_and_says_when_the_actors_began(run: Run) -> None:
    setup = (op("sleep", 20_000, place="setup[0]"),)
    prog = program(actor("a", op("sleep", 1000)), setup=setup, schedule=MEASURE)
    events = run(prog)
    (end,) = of(events, "schedule")
    (start,) = of(events, "start")
    assert end["begun"]
    assert end["over"]
    assert end["at"] >= start["us"] + 20_000
    assert of(events, "step") == []


def test_program_without_a_schedule_says_nothing_of_one(run: Run) -> None:
    events = run(one(op("yield")))
    assert of(events, "schedule") == of(events, "step") == []
