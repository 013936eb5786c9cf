# SPDX-License-Identifier: GPL-2.0-only
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import proc
from harness.deadline import Deadline
from harness.errors import CommandError, DeadlineExceeded, InfrastructureError


def soon() -> Deadline:
    return Deadline.after(60)


def gone(pid: int) -> bool:
    """Return whether a process is gone, or only waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def await_gone(pid: int) -> None:
    deadline = Deadline.after(30)
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    while not gone(pid):
        assert not deadline.expired, f"pid {pid} is still there"
    os.close(handle)


def test_run_returns_output_and_status() -> None:
    done = proc.run(["sh", "-c", "echo out; echo err >&2; exit 3"], deadline=soon(), check=False)
    assert (done.status, done.stdout, done.stderr) == (3, b"out\n", b"err\n")


def test_run_feeds_standard_input() -> None:
    data = bytes(range(256)) * 4000
    assert proc.run(["cat"], deadline=soon(), input=data).stdout == data


def test_run_without_input_gives_an_empty_one() -> None:
    assert proc.run(["cat"], deadline=soon()).stdout == b""


def test_run_survives_a_child_that_does_not_read() -> None:
    assert proc.run(["true"], deadline=soon(), input=b"x" * (1 << 20)).status == 0


def test_run_reports_a_signal_as_a_negative_status() -> None:
    done = proc.run(["sh", "-c", "kill -9 $$"], deadline=soon(), check=False)
    assert done.status == -signal.SIGKILL


def test_run_hands_over_lines_as_they_come() -> None:
    lines: list[bytes] = []
    proc.run(["printf", "a\\nb\\nrest"], deadline=soon(), on_line=lines.append)
    assert lines == [b"a", b"b"]


def test_failure_carries_status_and_last_lines() -> None:
    with pytest.raises(CommandError, match=r"failed with exit status 7") as caught:
        proc.run(["sh", "-c", "echo the reason >&2; exit 7"], deadline=soon())
    assert caught.value.status == 7
    assert caught.value.evidence == "the reason"


def test_deadline_ends_the_child_and_its_children() -> None:
    with pytest.raises(DeadlineExceeded, match=r"did not end within 0\.5 s") as caught:
        proc.run(["sh", "-c", "sleep 1000 & echo $!; wait"], deadline=Deadline.after(0.5))
    await_gone(int(caught.value.evidence))


def test_missing_program_is_named() -> None:
    with pytest.raises(InfrastructureError, match="no-such-program: not found"):
        proc.run(["no-such-program"], deadline=soon())
    with pytest.raises(InfrastructureError, match="apt-get install qemu-system-x86"):
        proc.require_program("no-such-program", "qemu-system-x86")


def test_process_that_ignores_term_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "GRACE_S", 0.2)
    with proc.Process(
        ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"], stdout=subprocess.PIPE
    ) as child:
        assert child.pipes.stdout is not None
        child.pipes.stdout.readline()
    assert child.status == -signal.SIGKILL


def test_wait_returns_none_when_time_runs_out() -> None:
    with proc.Process(["sleep", "1000"]) as child:
        assert child.wait(Deadline.after(0.01)) is None


@pytest.mark.parametrize("group", [False, True])
def test_child_dies_with_a_harness_that_is_killed(group: bool) -> None:
    """SIGKILL leaves no time for a `with` block: the kernel has to see to it."""
    script = (
        "import subprocess, sys\n"
        "from harness import proc\n"
        f"child = proc.Process(['sh', '-c', 'sleep 1000 & echo $$ $!; wait'], group={group},\n"
        "    stdout=subprocess.PIPE)\n"
        "print(child.pipes.stdout.readline().decode(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as harness:
        assert harness.stdout is not None
        shell, sleeper = (int(word) for word in harness.stdout.readline().split())
        harness.kill()
    await_gone(shell)
    if group:
        await_gone(sleeper)
    elif not gone(sleeper):
        os.kill(sleeper, signal.SIGKILL)
