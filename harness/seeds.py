# SPDX-License-Identifier: GPL-2.0-only
"""Ranges of seeds as people write them."""

from __future__ import annotations

import re

from harness.errors import UsageError

MAX_SEED = 2**63


def parse(text: str) -> range:
    """Return the seeds of ``N`` or ``A:B``, B not included.

    Raises:
        UsageError: it is no such range, or an empty one.
    """
    match = re.fullmatch(r"(\d{1,19})(?::(\d{1,19}))?", text)
    if match is None:
        raise UsageError(f"seeds {text!r}: not a range", hint="write 7, or 0:32 for 0 to 31")
    first = int(match[1])
    end = first + 1 if match[2] is None else int(match[2])
    if end <= first:
        raise UsageError(f"seeds {text!r}: an empty range", hint="the end is not included")
    if end > MAX_SEED:
        raise UsageError(f"seeds {text!r}: larger than {MAX_SEED}")
    return range(first, end)
