# SPDX-License-Identifier: GPL-2.0-only
"""Modules of the kernel's own source: which there are at a place, and what they need.

A place is a folder such as ``fs/fat``, or one module or source file in one, such as
``drivers/net/dummy``. The kernel's build makes the modules; what has to be decided
is its configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from harness import kbuildfiles, scenario_yaml
from harness.errors import UsageError
from harness.kbuildfiles import Made
from harness.kconfigtree import Tree
from harness.kofile import module_name

#: Of a folder with more modules than this, only those are taken that the kernel has already.
FEW = 8

#: A part of a place. It becomes a word of a make command and of paths, and is nothing else there.
_PART: Final = re.compile(r"\w[\w.,+-]*", re.ASCII)
_MAX_PLACE: Final = 200


@dataclass(frozen=True, slots=True)
class Choice:
    """The modules to take, and what to add to the configuration for them."""

    modules: tuple[Made, ...]
    #: Option → value, without ``CONFIG_``.
    added: dict[str, str]
    #: What was left out and why, for a person.
    notes: tuple[str, ...] = ()


def check_place(place: str) -> str:
    """Return what names a place in a kernel's source, without a slash at its end.

    Raises:
        UsageError: no source has such a place, or it lies outside; says why.
    """
    inside = place.removesuffix("/")
    if len(place) > _MAX_PLACE:
        why = f"longer than {_MAX_PLACE} characters"
    elif place.startswith("/"):
        why = "begins with '/', and a place is seen from the top of that source"
    elif ".." in inside.split("/"):
        why = "leads out of it by '..'"
    elif "" in inside.split("/"):
        why = "a part of it is empty"
    elif part := next((one for one in inside.split("/") if not _PART.fullmatch(one)), ""):
        why = f"{part!r} is no name of a folder or module there"
    else:
        return inside
    raise UsageError(f"{place[:80]!r} is not a place in the kernel's source, as fs/fat is: {why}")


def find(source: Path, place: str) -> tuple[Made, ...]:
    """Return the modules that may be made at a place of a kernel's source.

    Raises:
        UsageError: there is no such place, it is behind a link, or nothing at it can be a module.
    """
    clean = PurePosixPath(re.sub(r"\.(?:c|o|ko)$", "", check_place(place)))
    for above in reversed((clean, *clean.parents[:-1])):
        # It may lead anywhere, and what kbuild makes of it has another name.
        if (source / above).is_symlink():
            raise UsageError(
                f"--in-tree {place}: {above} is a link in the kernel's source",
                hint="name the folder that it leads to",
            )
    folder = source / clean
    if folder.is_dir() and kbuildfiles.has_file(folder):
        found = [one for one in kbuildfiles.read(source, str(clean)) if one.option]
        if not found:
            raise UsageError(f"--in-tree {place}: nothing in it can be a module")
        return tuple(found)
    parent = str(clean.parent)
    if not (source / parent).is_dir() or parent == ".":
        raise UsageError(
            f"--in-tree {place}: no such folder in the kernel's source"
            f"{_near_folder(source, clean)}",
            hint="a folder such as fs/fat, or one module in it such as drivers/net/dummy",
        )
    wanted = module_name(clean.name)
    there = kbuildfiles.read(source, parent, depth=0)
    for one in there:
        if one.option and one.module == wanted:
            return (one,)
    for one in there:
        if one.option and clean.name in one.parts:
            return (one,)
    folders = [path.name for path in (source / parent).iterdir() if kbuildfiles.has_file(path)]
    near = scenario_yaml.near(clean.name, [*(one.name for one in there), *folders])
    raise UsageError(f"--in-tree {place}: {parent} has no module {clean.name}{near}")


def choose(
    place: str, made: tuple[Made, ...], tree: Tree, config: Mapping[str, str], *, few: int = FEW
) -> Choice:
    """Return which modules of a place to take in a kernel, and what it has to be configured with.

    Args:
        config: of the kernel without anything added.

    Raises:
        UsageError: none of them can be had, or there are too many to take all.
    """
    can = [one for one in made if _is_tristate(tree, one)]
    if len(can) > 1:
        can = [one for one in can if not _is_test(tree, one)]
    if not can:
        raise UsageError(
            f"--in-tree {place}: nothing in it can be a module: "
            + "; ".join(f"{one.name}: {_why_not(tree, one)}" for one in made[:4])
        )
    has = [one for one in can if config.get(f"CONFIG_{one.option}") == "m"]
    if len(can) > few:
        if has:
            left = len(can) - len(has)
            note = f"{left} other modules of {place} are not configured in this kernel"
            return Choice(tuple(has), {}, (note,))
        names = ", ".join(one.name for one in can[:12])
        raise UsageError(
            f"--in-tree {place}: names {len(can)} modules, none of which this kernel has: {names}"
            + (", ..." if len(can) > 12 else ""),
            hint=f"name one: --in-tree {place}/{can[0].name}",
        )
    taken: list[Made] = []
    notes: list[str] = []
    added: dict[str, str] = {}
    for one in can:
        proposal = tree.propose(
            {one.option: "m"}, {**config, **{f"CONFIG_{name}": v for name, v in added.items()}}
        )
        if proposal.problems:
            notes.append(f"{one.name}: {'; '.join(proposal.problems)}")
        else:
            taken.append(one)
            added |= proposal.options
    if not taken:
        raise UsageError(f"--in-tree {place}: cannot be configured", evidence="\n".join(notes))
    return Choice(tuple(taken), added, tuple(notes))


def missing(
    modules: tuple[Made, ...], tree: Tree, config: Mapping[str, str]
) -> tuple[tuple[Made, str], ...]:
    """Return the modules that a configuration does not make after all, and why not."""
    return tuple(
        (one, f"{one.option} is {config.get(f'CONFIG_{one.option}', 'n')}:"
              f" {tree.explain(one.option, config)}")
        for one in modules
        if config.get(f"CONFIG_{one.option}") != "m"
    )  # fmt: skip


def _is_tristate(tree: Tree, one: Made) -> bool:
    symbol = tree.symbols.get(one.option)
    return symbol is not None and symbol.kind == "tristate"


def _is_test(tree: Tree, one: Made) -> bool:
    """Return whether a module only tests others: nobody means it by naming the folder."""
    names = {name for expr in tree.symbols[one.option].conditions for name in expr.names()}
    return "KUNIT" in names


def _why_not(tree: Tree, one: Made) -> str:
    symbol = tree.symbols.get(one.option)
    if symbol is None or not symbol.kind:
        return f"{one.option} is no option of this kernel"
    return f"{one.option} is {symbol.kind}, and not tristate"


def _near_folder(source: Path, place: PurePosixPath) -> str:
    """Return a folder that may have been meant, as the end of a sentence."""
    above = next((one for one in place.parents if (source / one).is_dir()), None)
    if above is None:
        return ""
    name = place.parts[len(above.parts)]
    names = [path.name for path in (source / above).iterdir() if path.is_dir()]
    return scenario_yaml.near(name, names)
