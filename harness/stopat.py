# SPDX-License-Identifier: GPL-2.0-only
"""Guests that are stopped at a number of instructions, from outside, and notice nothing of it.

A plugin of QEMU (``templates/stopat.c``) counts what the guest executes. Its stop is the machine's
own, and no debugger's: no clock jumps, so that what comes after it is what came without it
(docs/decisions/0010).
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Final

from harness import proc
from harness.deadline import Deadline
from harness.errors import CommandError, InfrastructureError, UsageError
from harness.machine import INSTRUCTIONS_PER_US, Counter

_LIMIT_S: Final = 60.0
_COUNT_BYTES: Final = 8

#: Unit → instructions.
_UNITS: Final = {"": 1, "us": INSTRUCTIONS_PER_US, "ms": 1000 * INSTRUCTIONS_PER_US}
_AMOUNT: Final = re.compile(r"(?P<number>[1-9][0-9]{0,11})(?P<unit>us|ms)?")


def parse_amount(text: str) -> int:
    """Return the instructions that an amount stands for: ``5000``, ``200us`` or ``3ms``.

    A microsecond is one in which the processor is not idle.

    Raises:
        UsageError: it is no such amount.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text[:40]!r} is no number of instructions, and no time",
            hint="5000 instructions, 200us or 3ms of the guest's time",
        )
    return int(match["number"]) * _UNITS[match["unit"] or ""]


def make_counter(folder: Path, at: int | None = None) -> Counter:
    """Compile the plugin into a folder and return it.

    Args:
        at: the guest is stopped when it has executed so many instructions.

    Raises:
        InfrastructureError: there is no compiler, or it does not compile.
    """
    gcc = str(proc.require_program("gcc", "gcc"))
    source, plugin = folder / "stopat.c", folder / "stopat.so"
    source.write_text(resources.files("harness").joinpath("templates/stopat.c").read_text())
    words = ["-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-o", str(plugin), str(source)]
    try:
        proc.run([gcc, *words], deadline=Deadline.after(_LIMIT_S))
    except CommandError as error:
        raise InfrastructureError(
            "the plugin for QEMU does not compile", evidence=error.evidence
        ) from error
    count = folder / "count"
    count.write_bytes(bytes(_COUNT_BYTES))
    return Counter(plugin, count, at)


def read_count(counter: Counter) -> int:
    """Return how many instructions have been counted so far."""
    return int.from_bytes(counter.count.read_bytes()[:_COUNT_BYTES], "little")
