# SPDX-License-Identifier: GPL-2.0-only
"""The one door to other programs: argv lists, mandatory deadlines, no survivors.

A child never outlives the harness, whatever killed it. Two things see to that:
each child asks the kernel to be signalled when its parent dies
(``PR_SET_PDEATHSIG``, prctl(2)), and a child that starts children of its own
runs under a shell that leads its process group and takes the whole group with
it. The death signal belongs to the *thread* that started the child, so only
start a child from a thread that outlives it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from harness.deadline import Deadline
from harness.errors import CommandError, InfrastructureError

logger = logging.getLogger(__name__)

#: How long a child that was told to go may take before it is killed, seconds.
GRACE_S = 5.0

# The death signal is not sent when the parent died before it was asked for, so
# the child looks once more whether its parent is still the one that started it.
_GUARD = '[ "$PPID" = "$0" ] || exit 125; exec "$@"'

# Leads the process group: on TERM (from the harness, or from the kernel when
# the harness died) nobody in the group survives. dash gives a background job /dev/null as its
# standard input before it looks at the redirections, hence the way round by descriptor 3.
_GROUP_GUARD = (
    'trap "kill -KILL 0" TERM; [ "$PPID" = "$0" ] || exit 125; exec 3<&0; "$@" <&3 3<&- & wait $!'
)


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ran to its end."""

    argv: tuple[str, ...]
    #: Exit status; negative for the signal that ended it.
    status: int
    stdout: bytes
    stderr: bytes


def find_program(name: str) -> Path | None:
    """Return the path of an executable on ``PATH``, or None.

    Debian keeps some programs that ordinary users may run in sbin.
    """
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def require_program(name: str, package: str) -> Path:
    """Return the path of an executable.

    Raises:
        InfrastructureError: it is not installed; names the Debian package.
    """
    found = find_program(name)
    if found is None:
        raise InfrastructureError(
            f"{name}: not found on PATH", hint=f"apt-get install {package}, or run `make setup`"
        )
    return found


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which tools speak English and behave alike everywhere."""
    env = {
        "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin",
        "HOME": os.environ.get("HOME", "/"),
        "LC_ALL": "C.UTF-8",
        "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
    }
    env.update(extra or {})
    return env


class Process:
    """A running child. Leaving its ``with`` block ends it, politely first."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        group: bool = False,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.DEVNULL,
    ) -> None:
        self.argv = tuple(argv)
        guard = _GROUP_GUARD if group else _GUARD
        death_signal = "TERM" if group else "KILL"
        wrapper = ("setpriv", "--pdeathsig", death_signal, "--", "/bin/sh", "-c", guard)
        logger.debug("+ %s", shlex.join(self.argv))
        self._child = subprocess.Popen(
            [*wrapper, str(os.getpid()), *self.argv],
            cwd=cwd,
            env=clean_environment(env),
            pass_fds=tuple(pass_fds),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        self._pidfd = os.pidfd_open(self._child.pid)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._child.poll()

    @property
    def pipes(self) -> subprocess.Popen[bytes]:
        """The underlying object, for its ``stdin``, ``stdout`` and ``stderr``."""
        return self._child

    def fileno(self) -> int:
        """A descriptor that becomes readable when the child ends (pidfd_open(2))."""
        return self._pidfd

    def wait(self, deadline: Deadline) -> int | None:
        """Wait for the end; return the exit status, or None when time ran out."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._pidfd, selectors.EVENT_READ)
            selector.select(deadline.remaining_s)
        return self.status

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child alone; no error when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self._child.send_signal(number)

    def end(self, *, politely: bool = True) -> None:
        """Make sure the child is gone and reaped: TERM, wait, KILL."""
        if self.status is None and politely:
            self.signal(signal.SIGTERM)
            self.wait(Deadline.after(GRACE_S))
        if self.status is None:
            if politely:
                logger.warning("pid %d ignored SIGTERM for %.0f s; killed", self.pid, GRACE_S)
            self.signal(signal.SIGKILL)
            self._child.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.end()
        finally:
            for stream in (self._child.stdin, self._child.stdout, self._child.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            os.close(self._pidfd)


def run(
    argv: Sequence[str],
    *,
    deadline: Deadline,
    input: bytes | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    on_line: Callable[[bytes], None] | None = None,
    merge_stderr: bool = False,
) -> Completed:
    """Run a program to its end.

    Args:
        argv: the program and its arguments; no shell is involved.
        deadline: when it is over, the program and its children are killed.
        input: bytes for its standard input; none means an empty one.
        check: raise when the exit status is not 0.
        on_line: called with each finished line of standard output as it comes.
        merge_stderr: standard error goes into standard output, in order.

    Raises:
        CommandError: it failed and ``check`` was set; carries the last lines.
        DeadlineExceeded: it took too long.
        InfrastructureError: it could not be started.
    """
    stderr = subprocess.STDOUT if merge_stderr else subprocess.PIPE
    stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
    if find_program(argv[0]) is None:
        raise InfrastructureError(f"{argv[0]}: not found", hint="run `make setup`")
    with Process(
        argv, group=True, cwd=cwd, env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr
    ) as child:
        out, err = _pump(child, input or b"", deadline, on_line)
        status = child.wait(deadline)
        if status is None:
            raise deadline.exceeded(f"`{shlex.join(argv)}` did not end", evidence=tail(err or out))
    # The guarding shell reports a signal as 128 + its number.
    status = 128 - status if status > 128 else status
    done = Completed(tuple(argv), status, out, err)
    if check and status != 0:
        raise CommandError(
            f"`{shlex.join(argv)}` failed with exit status {status}",
            status=status,
            evidence=tail(err or out),
        )
    return done


def tail(output: bytes, lines: int = 20) -> str:
    """Return the last lines of a program's output as text."""
    return "\n".join(output.decode(errors="backslashreplace").splitlines()[-lines:])


def _pump(
    child: Process, data: bytes, deadline: Deadline, on_line: Callable[[bytes], None] | None
) -> tuple[bytes, bytes]:
    """Feed standard input and drain both outputs until they end or time runs out."""
    pipes = child.pipes
    captured: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    pending = bytearray()
    view = memoryview(data)
    with selectors.DefaultSelector() as selector:
        for name in captured:
            stream = getattr(pipes, name)
            if stream is not None:
                selector.register(stream, selectors.EVENT_READ, name)
        if pipes.stdin is not None:
            os.set_blocking(pipes.stdin.fileno(), False)
            selector.register(pipes.stdin, selectors.EVENT_WRITE, "stdin")
        while selector.get_map() and not deadline.expired:
            for key, _ in selector.select(deadline.remaining_s):
                if key.data == "stdin":
                    view = _feed(selector, key, view)
                    continue
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fileobj)
                    continue
                captured[key.data] += chunk
                if on_line is not None and key.data == "stdout":
                    pending += chunk
                    *lines, rest = pending.split(b"\n")
                    for line in lines:
                        on_line(bytes(line))
                    pending = rest
    return bytes(captured["stdout"]), bytes(captured["stderr"])


def _feed(
    selector: selectors.BaseSelector, key: selectors.SelectorKey, view: memoryview
) -> memoryview:
    try:
        view = view[os.write(key.fd, view[: 1 << 16]) :]
    except BrokenPipeError:
        view = view[len(view) :]
    if not view:
        selector.unregister(key.fileobj)
        key.fileobj.close()  # type: ignore[union-attr]
    return view
