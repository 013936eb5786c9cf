# SPDX-License-Identifier: GPL-2.0-only
"""Deadlines as values: made once, handed down, asked for what remains."""

from __future__ import annotations

import time
from dataclasses import dataclass

from harness.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time on the monotonic clock by which something must be over."""

    #: Point on ``time.monotonic()``, seconds.
    at_s: float
    #: What was allowed when it was made, seconds; for messages.
    allowed_s: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the deadline that is ``seconds`` from now."""
        return cls(time.monotonic() + seconds, seconds)

    @property
    def remaining_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at_s - time.monotonic())

    @property
    def expired(self) -> bool:
        return self.remaining_s == 0.0

    def at_most(self, seconds: float) -> Deadline:
        """Return the earlier of this deadline and ``seconds`` from now."""
        return min(self, Deadline.after(seconds), key=lambda deadline: deadline.at_s)

    def exceeded(
        self, what: str, *, evidence: str = "", hint: str | None = None
    ) -> DeadlineExceeded:
        """Return the exception that says ``what`` did not happen in time."""
        return DeadlineExceeded(
            f"{what} within {self.allowed_s:.1f} s", evidence=evidence, hint=hint
        )
