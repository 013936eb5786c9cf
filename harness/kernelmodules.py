# SPDX-License-Identifier: GPL-2.0-only
"""Modules for one kernel: whether one was built for it, and which of its own there are."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from harness import kconfig, kofile
from harness.errors import BuildError
from harness.kernels import Kernel
from harness.kofile import module_name

#: Flags of a vermagic and the options that they stand for.
_FLAGS: Final = (
    ("SMP", ("CONFIG_SMP",)),
    ("preempt", ("CONFIG_PREEMPT", "CONFIG_PREEMPT_BUILD", "CONFIG_PREEMPT_RT")),
    ("mod_unload", ("CONFIG_MODULE_UNLOAD",)),
    ("modversions", ("CONFIG_MODVERSIONS",)),
)


def load_ko(path: Path, kernel: Kernel) -> dict[str, str]:
    """Return the modinfo of a compiled module, checked against a kernel.

    Raises:
        BuildError: it is no module, or was built for another kernel.
    """
    info = kofile.modinfo(path)
    built_for = info.get("vermagic", "").split(" ")[0]
    if built_for != kernel.release:
        raise BuildError(
            f"{path}: built for kernel {built_for or 'unknown'}, not for {kernel.release}",
            hint="give the folder with its sources instead, and it is built for the right one;"
            " or the kernel that it was built for: --kernel-tree FOLDER",
        )
    soft = [
        own for name in kofile.soft_needs(info) if (own := _own_alias(kernel, name)) is not None
    ]
    depends = [*filter(None, info.get("depends", "").split(",")), *soft]
    return {**info, "depends": ",".join(dict.fromkeys(depends))}


def check_flags(path: Path, info: Mapping[str, str], kernel: Kernel) -> None:
    """Check that a module was built for a kernel that was configured like this one.

    Raises:
        BuildError: it was not.
    """
    config_path = kernel.build / ".config"
    if not config_path.is_file():
        return
    config = kconfig.parse(config_path.read_text())
    # Which of its two words an RT kernel has is another one in each series.
    vermagic = info["vermagic"].strip().replace("preempt_rt", "preempt")
    has = [flag for flag, options in _FLAGS if any(config.get(o) == "y" for o in options)]
    if {*has} != {*vermagic.split()} & {flag for flag, _ in _FLAGS}:
        raise BuildError(
            f"{path}: built for a {kernel.release} that was configured otherwise: its vermagic is"
            f" {vermagic!r}, and the kernel has {' '.join(has)}",
            hint="give the folder with its sources instead, and it is built for the right one",
        )


def find_ko(folder: Path, name: str) -> Path | None:
    """Return the file of a module by the kernel's name of it."""
    return _named(sorted(folder.glob("*.ko")), name)


def own_module(kernel: Kernel, name: str) -> Path | None:
    """Return the file of one of the kernel's own modules, or None."""
    # Those that others use are listed; who is only wanted by an alias is not.
    return _named(own_modules(kernel), name) or _named(_own_files(kernel.build), name)


def own_modules(kernel: Kernel) -> tuple[Path, ...]:
    """Return the files of the kernel's own modules that offer symbols to others."""
    symvers = kernel.build / "Module.symvers"
    if not symvers.is_file():
        return ()
    places = {
        line.split("\t")[2] for line in symvers.read_text().splitlines() if line.count("\t") > 2
    }
    files = (kernel.build / f"{place}.ko" for place in sorted(places - {"vmlinux"}))
    return tuple(file for file in files if file.is_file())


def _named(files: Iterable[Path], name: str) -> Path | None:
    return next((file for file in files if module_name(file.stem) == module_name(name)), None)


@functools.lru_cache(maxsize=8)
def _own_files(build: Path) -> tuple[Path, ...]:
    return tuple(sorted(build.rglob("*.ko")))


@functools.lru_cache(maxsize=8)
def _own_aliases(build: Path) -> Mapping[str, str]:
    """Names and aliases of a kernel's own modules → the module's name."""
    found: dict[str, str] = {}
    for file in _own_files(build):
        name = module_name(file.stem)
        for field, value in (("name", name), *kofile.modinfo_fields(file)):
            if field in ("name", "alias"):
                found.setdefault(module_name(value), name)
    return found


def _own_alias(kernel: Kernel, name: str) -> str | None:
    return _own_aliases(kernel.build).get(module_name(name))


def own_dependents(kernel: Kernel, name: str) -> Iterator[Path]:
    """Yield the files of a kernel's own modules that use the symbols of one of them."""
    for file in _own_files(kernel.build):
        try:
            info = kofile.modinfo(file)
        except BuildError:
            # A build that was interrupted leaves files that are not whole.
            continue
        if name in kofile.depends(info):
            yield file


def with_needs(kernel: Kernel, file: Path) -> set[str] | None:
    """Return the names of a module and of all that it needs; None where one cannot be had."""
    found: set[str] = set()
    todo: list[Path | None] = [file]
    while todo:
        one = todo.pop()
        if one is None:
            return None
        if (name := module_name(one.stem)) in found:
            continue
        found.add(name)
        try:
            info = load_ko(one, kernel)
        except BuildError:
            # Left over from an earlier build of this tree.
            return None
        todo += [own_module(kernel, needed) for needed in kofile.depends(info)]
    return found
