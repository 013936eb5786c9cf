# SPDX-License-Identifier: GPL-2.0-only
"""What the file of a compiled module says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness import elf
from harness.errors import BuildError, UsageError


def module_name(text: str) -> str:
    """Return the name that the kernel gives a module: it knows no dashes."""
    return text.replace("-", "_")


def modinfo(path: Path) -> dict[str, str]:
    """Return the fields of a module's ``.modinfo`` section; a repeated one keeps its first value.

    Raises:
        BuildError: the file is no kernel module.
    """
    info: dict[str, str] = {}
    for name, value in modinfo_fields(path):
        info.setdefault(name, value)
    return info


def modinfo_fields(path: Path) -> tuple[tuple[str, str], ...]:
    """Return every field of a module's ``.modinfo`` section, repeated ones too.

    Raises:
        BuildError: the file is no kernel module.
    """
    try:
        content = elf.read_section(path, ".modinfo").decode(errors="replace")
    except UsageError:
        content = ""
    split = [field.partition("=")[::2] for field in content.split("\0") if "=" in field]
    if not split:
        raise BuildError(f"{path}: not a kernel module (it has no .modinfo section)")
    return tuple(split)


def depends(info: Mapping[str, str]) -> tuple[str, ...]:
    """Return the modules whose symbols a module uses, as modpost wrote them down."""
    return tuple(module_name(name) for name in info.get("depends", "").split(",") if name)


def soft_needs(info: Mapping[str, str]) -> tuple[str, ...]:
    """Return what a module wants loaded before it without using its symbols.

    Names or aliases (``MODULE_SOFTDEP()`` in include/linux/module.h); modprobe loads them.
    """
    before: list[str] = []
    taken = False
    for word in info.get("softdep", "").split():
        if word.endswith(":"):
            taken = word == "pre:"
        elif taken:
            before.append(word)
    return tuple(before)
