# SPDX-License-Identifier: GPL-2.0-only
"""Everything the harness raises, sorted by who has to act.

::

    HarnessError
    ├── UsageError           the user has to act                           exit 2
    │   ├── ScenarioError    a scenario or matrix file is wrong: file, line, field
    │   ├── BuildError       a module does not compile or fit the kernel
    │   └── StorageError     disk full, cache not writable
    └── InfrastructureError  the harness or its machine failed             exit 3
        ├── DeadlineExceeded a wait ran out of time
        ├── CommandError     a program we needed failed
        ├── KernelBuildError a kernel does not configure or compile
        ├── QemuError        QEMU did not start, died or answered an error
        └── GuestError       the guest lost its console, SSH or executor
            └── NotLoadedError   nothing went wrong, and the module was never loaded

What a guest's kernel does wrong is never an exception: it is a
:class:`harness.trial.Finding` in a result. Every exception carries the fact,
the number, the limit and the place to look in its message, and at most one
``hint``.
"""

from __future__ import annotations

import enum


class ExitStatus(enum.IntEnum):
    """Exit statuses of the ``harness`` command."""

    OK = 0
    FINDINGS = 1
    USAGE = 2
    HARNESS = 3


class HarnessError(Exception):
    """Root of the tree; never raised itself."""

    exit_status = ExitStatus.HARNESS

    def __init__(self, message: str, *, hint: str | None = None, evidence: str = "") -> None:
        super().__init__(message)
        self.message = message
        #: One sentence on what to try, or None.
        self.hint = hint
        #: Output of a command or of a guest, as text; may be long.
        self.evidence = evidence

    def __str__(self) -> str:
        text = self.message
        if self.evidence:
            text += "\n" + "\n".join(f"  | {line}" for line in self.evidence.splitlines())
        if self.hint:
            text += f"\nhint: {self.hint}"
        return text


class UsageError(HarnessError):
    """The user asked for something that does not exist or cannot work."""

    exit_status = ExitStatus.USAGE


class ScenarioError(UsageError):
    """A scenario or matrix file is malformed. The message starts with ``file:line:``."""


class BuildError(UsageError):
    """A module does not compile, or was built for another kernel."""


class StorageError(UsageError):
    """A disk is full, or a folder that must be writable is not."""


class InfrastructureError(HarnessError):
    """The harness or the machine it runs on failed; nobody's module is to blame."""


class DeadlineExceeded(InfrastructureError):
    """A wait ran out of time."""


class CommandError(InfrastructureError):
    """A program that the harness needed failed.

    ``status`` is its exit status, negative for a signal.
    """

    def __init__(
        self, message: str, *, status: int, hint: str | None = None, evidence: str = ""
    ) -> None:
        super().__init__(message, hint=hint, evidence=evidence)
        self.status = status


class KernelBuildError(InfrastructureError):
    """A kernel does not configure or compile."""


class QemuError(InfrastructureError):
    """QEMU did not start, died, or answered a command with an error."""


class GuestError(InfrastructureError):
    """The guest's console, SSH server or executor was lost."""


class NotLoadedError(GuestError):
    """The module that a trial is about was never loaded, so the trial shows nothing."""
