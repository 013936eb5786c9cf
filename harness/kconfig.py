# SPDX-License-Identifier: GPL-2.0-only
"""Kernel configuration fragments: merge, and check what one was given.

kconfig drops an option whose dependencies are not met without a word, so what
``olddefconfig`` left is compared with what was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.errors import KernelBuildError

_ASSIGNMENT = re.compile(r"^(CONFIG_\w+)=(.+)$")
_UNSET = re.compile(r"^# (CONFIG_\w+) is not set$")


#: Options that are named when some were dropped; what they depend on is looked up in
#: the whole source tree.
_SHOWN = 8


def parse(text: str) -> dict[str, str]:
    """Return option → value of a fragment or a ``.config``; unset ones are ``n``."""
    options: dict[str, str] = {}
    for line in text.splitlines():
        if match := _ASSIGNMENT.match(line):
            options[match[1]] = match[2]
        elif match := _UNSET.match(line):
            options[match[1]] = "n"
    return options


def lacks(config: Mapping[str, str], required: Mapping[str, str]) -> str:
    """Return what a configuration does not have built in, each with what it is for; or nothing.

    Args:
        required: option → what for.
    """
    return "; ".join(
        f"{option} ({why})" for option, why in required.items() if config.get(option, "n") != "y"
    )


def parse_strictly(text: str) -> dict[str, str]:
    """Like :func:`parse`, for a fragment that a person wrote.

    Raises:
        ValueError: a line is neither an option nor a comment; starts with its number.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if not _ASSIGNMENT.match(line) and line.strip() and not line.startswith("#"):
            raise ValueError(f"{number}: not an option: {line[:60]}")
    return parse(text)


def merge(fragments: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return all options of several fragments; the later one wins."""
    merged: dict[str, str] = {}
    for fragment in fragments:
        merged.update(fragment)
    return merged


def missing(wanted: Mapping[str, str], config: Mapping[str, str]) -> tuple[str, ...]:
    """Return the options of ``wanted`` that ``config`` does not have as asked."""
    return tuple(
        option for option, value in sorted(wanted.items()) if config.get(option, "n") != value
    )


def require(wanted: Mapping[str, str], config: Mapping[str, str], source: Path) -> None:
    """Check that a configuration has every option that was asked for.

    Args:
        source: the kernel's source tree, to look up what an option depends on.

    Raises:
        KernelBuildError: an option is not there; names it and its dependencies.
    """
    gone = missing(wanted, config)
    if not gone:
        return
    shown = gone[:_SHOWN]
    explained = "\n".join(
        f"{option}={wanted[option]} (is {config.get(option, 'n')}): {depends_on(option, source)}"
        for option in shown
    )
    raise KernelBuildError(
        f"kernel configuration: {len(gone)} of {len(wanted)} options did not survive "
        f"olddefconfig: {', '.join(shown)}{', ...' if len(gone) > len(shown) else ''}",
        evidence=explained,
        hint="an option that a series does not have and can do without is named under "
        "`lacks` in its file in images/kernels",
    )


def depends_on(option: str, source: Path) -> str:
    """Return the ``depends on`` and ``select`` conditions of an option, for a person."""
    name = option.removeprefix("CONFIG_")
    head = re.compile(rf"^(?:menu)?config {re.escape(name)}\n((?:[ \t].*\n|\n)*)", re.MULTILINE)
    for kconfig in sorted(source.rglob("Kconfig*")):
        match = head.search(kconfig.read_text(errors="replace"))
        if match is None:
            continue
        conditions = re.findall(r"^\s+(depends on .*?)\s*$", match[1], re.MULTILINE)
        place = kconfig.relative_to(source)
        return f"{place}: " + ("; ".join(conditions) or "no dependency of its own")
    return "no kernel option of this name in this series"
