# SPDX-License-Identifier: GPL-2.0-only
"""What Kbuild files and Makefiles say of modules: which there are, and which option makes each.

They are read, not run: assignments as they stand, those of both sides of a
condition. So this knows what a folder may make; what it does make, make says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Where kbuild looks, in this order.
NAMES = ("Kbuild", "Makefile")
#: What make leaves, and what nothing is compiled from: not copied.
PRODUCTS = re.compile(
    r"\.(?:o|ko|a|cmd|mod|mod\.c|order|symvers|d|log|pyc|orig|rej)$|^Module\.|^\.tmp"
)
#: Folders below a folder, at most; a kernel tree would have thousands.
_FOLDERS_LIMIT = 2000

_ASSIGNMENT = re.compile(
    r"^\s*(?:export\s+|override\s+)*([^\s:+?=#]+)\s*(\+=|\?=|::?=|=)\s*(.*?)\s*$"
)
_REFERENCE = re.compile(r"\$[({]([\w.-]+)[)}]")
_OPTION = re.compile(r"^\$[({]CONFIG_(\w+)[)}]$")
#: Whatever it is that makes a part of an object: its own file counts as one.
_PART = re.compile(r"^(.+?)-(?:objs|y|m|\$[({].*[)}])$")
_EXPORT = re.compile(r"^\s*EXPORT_SYMBOL(?:_GPL|_NS|_NS_GPL|_FOR_MODULES)?\s*\(\s*(\w+)", re.M)


@dataclass(frozen=True, slots=True)
class Made:
    """One object that may become a module."""

    #: As the file is called, without its suffix; the kernel writes ``_`` for ``-``.
    name: str
    #: Its folder, seen from the one that was read.
    folder: str = ""
    #: The option that decides on it, without ``CONFIG_``; empty for ``obj-m``.
    option: str = ""
    #: Files it is linked from, without suffix, seen from its folder.
    parts: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """What the kernel calls it."""
        return self.name.rpartition("/")[2].replace("-", "_")


def has_file(folder: Path) -> bool:
    """Return whether a folder has a file that kbuild would read."""
    return any((folder / name).is_file() for name in NAMES)


def read(folder: Path, below: str = "", *, depth: int = 6) -> tuple[Made, ...]:
    """Return the modules that a folder's files name, and those of the folders that they name.

    Args:
        below: the folder to begin with, seen from ``folder``.
    """
    found: dict[tuple[str, str], Made] = {}
    for name in NAMES:
        path = folder / below / name
        if path.is_file() and not found:
            for made in _read_file(folder, below, path, depth):
                found.setdefault((made.folder, made.name), made)
    return tuple(found.values())


def folders_with_modules(folder: Path) -> tuple[str, ...]:
    """Return the folders below one whose files name modules by themselves, outermost first."""
    found: list[str] = []
    for count, (here, folders, _) in enumerate(os.walk(folder)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if count > _FOLDERS_LIMIT:
            break
        below = os.path.relpath(here, folder)
        if below != "." and read(folder, below):
            found.append(below)
            folders.clear()
    return tuple(found)


def assigns(folder: Path, below: str, name: str) -> bool:
    """Return whether a folder's files set a variable themselves."""
    for file in NAMES:
        path = folder / below / file
        if path.is_file() and any(variable == name for variable, _, _ in assignments(path)):
            return True
    return False


def exports(folder: Path, made: Made) -> frozenset[str]:
    """Return the symbols that the sources of a module offer to others."""
    found: set[str] = set()
    for part in made.parts or (made.name,):
        path = folder / made.folder / f"{part}.c"
        if path.is_file():
            found |= exported(path)
    return frozenset(found)


def exported(path: Path) -> frozenset[str]:
    """Return the symbols that a source file offers to others."""
    return frozenset(_EXPORT.findall(path.read_text(errors="replace")))


def choose_main(folder: Path, made: tuple[Made, ...], *names: str) -> Made:
    """Return the module of several that stands for all.

    It is one that offers nothing to others, if there is any: what it needs is
    loaded with it. Among these the one whose name is most like one of the given
    names, else the last.
    """
    leaves = [one for one in made if not exports(folder, one)] or list(made)
    wanted = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in names if name]

    def likeness(one: Made) -> tuple[int, int]:
        module = re.sub(r"[^a-z0-9]", "", one.module.lower())
        if module in wanted:
            return 3, 0
        if any(name.startswith(module) for name in wanted):
            return 2, len(module)
        return (1 if any(name in module for name in wanted) else 0), 0

    best = max(likeness(one) for one in leaves)
    return [one for one in leaves if likeness(one) == best][-1]


def in_load_order(folder: Path, made: tuple[Made, ...]) -> tuple[Made, ...]:
    """Return modules so that those which offer something to others come first."""
    return tuple(sorted(made, key=lambda one: not exports(folder, one)))


def _read_file(root: Path, below: str, path: Path, depth: int) -> Iterator[Made]:
    variables: dict[str, str] = {}
    parts: dict[str, list[str]] = {}
    objects: list[tuple[str, str]] = []
    for raw_name, operator, raw_value in assignments(path):
        name, value = _expand(raw_name, variables), _expand(raw_value, variables)
        if raw_name.startswith("obj-"):
            objects += [(raw_name.removeprefix("obj-"), word) for word in value.split()]
        elif operator == "+=":
            variables[name] = f"{variables.get(name, '')} {value}".strip()
        elif operator != "?=" or name not in variables:
            variables[name] = value
        if match := _PART.match(name):
            parts.setdefault(match[1], []).extend(
                word[:-2] for word in value.split() if word.endswith(".o")
            )
    for kind, word in objects:
        option = _OPTION.match(kind)
        # A variable of its own decides: it may be m.
        if kind == "y" and not word.endswith("/"):
            continue
        if word.endswith("/"):
            folder = os.path.normpath(os.path.join(below, word))
            # Downwards only: what leads up may lead round.
            inside = "" if below in ("", ".") else f"{below}/"
            if depth > 0 and folder.startswith(inside) and not folder.startswith(("/", ".")):
                yield from read(root, folder, depth=depth - 1)
        elif word.endswith(".o") and "$" not in word:
            name = word[:-2]
            own = tuple(dict.fromkeys(parts.get(name, ())))
            yield Made(name, "" if below == "." else below, option[1] if option else "", own)


def assignments(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield name, operator and value of each assignment in a file."""
    text = path.read_text(errors="replace").replace("\\\n", " ")
    for line in text.splitlines():
        # What begins with a tab may be a command of a rule, or stand in a condition.
        if (match := _ASSIGNMENT.match(line)) and not match[1].startswith(("$(MAKE", "@")):
            yield match[1], match[2], match[3].split(" #")[0].strip()


def _expand(text: str, variables: dict[str, str]) -> str:
    for _ in range(5):
        expanded = _REFERENCE.sub(lambda found: variables.get(found[1], found[0]), text)
        if expanded == text:
            break
        text = expanded
    return text
