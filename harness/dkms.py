# SPDX-License-Identifier: GPL-2.0-only
"""``dkms.conf``: what a package for DKMS builds and where, read and never run.

The file is a shell fragment (dkms(8)). Plain assignments on the outermost level are
read, with the few variables that dkms itself defines. What a shell would have to
compute is left out and noted; what leads out of the package is refused.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.errors import UsageError

NAME = "dkms.conf"
_SIZE_LIMIT_KIB = 64
_MODULES_LIMIT = 64

_ASSIGNMENT = re.compile(r"^\s*(?:export\s+)?(\w+)(?:\[(\d+)\])?(\+?)=(.*)$", re.DOTALL)
_OPENS = re.compile(
    r"^\s*(?:if|case|for|while|until|select)\b|^\s*(?:function\s+)?\w+\s*\(\)|^\s*\{"
)
_CLOSES = re.compile(r"(?:^|;)\s*(?:fi|esac|done)\b|^\s*\}")
_REFERENCE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_COMPUTED = re.compile(r"[`$]")
#: What a module and a package may be called.
_WORD = re.compile(r"^[\w][\w.+~-]*$")
_OPTION = re.compile(r"^CONFIG_\w+=[ymn]$")


@dataclass(frozen=True, slots=True)
class Conf:
    """What a ``dkms.conf`` says."""

    package: str
    version: str
    #: Name of each module and the folder in which it is made, seen from the top.
    modules: tuple[tuple[str, str], ...]
    #: Folders in which make is told to build, seen from the top; ``""`` is the top.
    folders: tuple[str, ...]
    #: Options that make is told, such as ``CONFIG_FOO=m``.
    options: tuple[str, ...] = ()
    #: What was not taken over, for a person.
    notes: tuple[str, ...] = ()


def read(path: Path) -> Conf:
    """Read a ``dkms.conf``.

    Raises:
        UsageError: it is no such file, or names something outside of its package.
    """
    if path.stat().st_size >> 10 > _SIZE_LIMIT_KIB:
        raise UsageError(f"{path}: larger than {_SIZE_LIMIT_KIB} KiB: not a {NAME}")
    return parse(path.read_text(errors="replace"), str(path))


def parse(text: str, name: str = NAME) -> Conf:
    """Return what the text of a ``dkms.conf`` says.

    Raises:
        UsageError: it names something outside of its package, or what is no module.
    """
    if "\0" in text:
        raise UsageError(f"{name}: not a text file")
    values, notes = _values(text)
    package = values.get(("PACKAGE_NAME", 0), "")
    version = values.get(("PACKAGE_VERSION", 0), "")
    for word in (package, version):
        if word and not _WORD.match(word):
            raise UsageError(f"{name}: {word!r} is no name or version of a package")
    modules = []
    for (key, index), module in sorted(values.items()):
        if key != "BUILT_MODULE_NAME" or not module:
            continue
        if not _WORD.match(module):
            raise UsageError(f"{name}: BUILT_MODULE_NAME[{index}]: {module!r} is no module's name")
        place = values.get(("BUILT_MODULE_LOCATION", index), "")
        modules.append((module, _inside(place, f"{name}: BUILT_MODULE_LOCATION[{index}]")))
    if len(modules) > _MODULES_LIMIT:
        raise UsageError(f"{name}: names {len(modules)} modules, at most {_MODULES_LIMIT}")
    folders: dict[str, None] = {}
    options: dict[str, None] = {}
    for (key, index), command in sorted(values.items()):
        if key == "MAKE":
            for folder in _make_folders(command, f"{name}: MAKE[{index}]"):
                folders[folder] = None
            options |= dict.fromkeys(word for word in _words(command) if _OPTION.match(word))
    for key in ("PRE_BUILD", "POST_BUILD", "POST_ADD", "PRE_INSTALL", "POST_INSTALL"):
        if (key, 0) in values:
            notes.append(f"{key}={values[key, 0]}: not run")
    if any(key == "PATCH" for key, _ in values):
        notes.append("PATCH: its patches are not applied")
    return Conf(
        package, version, tuple(modules), tuple(folders) or ("",), tuple(options), tuple(notes)
    )


def _values(text: str) -> tuple[dict[tuple[str, int], str], list[str]]:
    """Return (variable, index) → value of the assignments on the outermost level."""
    values: dict[tuple[str, int], str] = {}
    notes: list[str] = []
    depth = 0
    for line in _logical_lines(text):
        closes = len(_CLOSES.findall(line))
        if _OPENS.search(line) or depth:
            # An assignment under a condition is for a shell to decide.
            if match := _ASSIGNMENT.match(line):
                notes.append(f"{match[1]}: set under a condition, which is not evaluated")
            depth = max(0, depth + len(_OPENS.findall(line)) - closes)
            continue
        match = _ASSIGNMENT.match(line)
        if match is None:
            notes.append(f"not run: {line.strip()[:60]}")
            continue
        key = match[1], int(match[2] or 0)
        value = _value(match[4], values)
        if value is None:
            notes.append(f"{match[1]}: would have to be computed by a shell, and is not")
        else:
            values[key] = values.get(key, "") + value if match[3] else value
    return values, notes


def _logical_lines(text: str) -> Iterator[str]:
    """Yield lines; a backslash at the end or an open quote goes on with the next."""
    held = ""
    for line in text.splitlines():
        if not held and (not line.strip() or line.lstrip().startswith("#")):
            continue
        held += line
        if held.endswith("\\"):
            held = held[:-1] + " "
            continue
        try:
            shlex.split(held, comments=True)
        except ValueError:
            held += "\n"
            continue
        yield held
        held = ""
    if held.strip():
        yield held


def _value(text: str, values: dict[tuple[str, int], str]) -> str | None:
    """Return the value of an assignment, or None where only a shell knows it."""
    literal = text.strip().startswith("'")
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        return None
    if len(words) > 1:
        # `NAME=value command` is a command.
        return None
    value = words[0] if words else ""
    if literal:
        return value
    value = _REFERENCE.sub(lambda found: _known(found[1] or found[2], values, found[0]), value)
    return None if _COMPUTED.search(value) else value


def _known(name: str, values: dict[tuple[str, int], str], otherwise: str) -> str:
    """Return the value of a variable: dkms's own, or one that was set before."""
    if (name, 0) in values:
        return values[name, 0]
    # Paths of dkms: the package lies at the top, whatever leads there.
    own = {
        "dkms_tree": "/dkms", "source_tree": "/src", "kernel_source_dir": "/kernel",
        "kernelver": "0", "arch": "x86_64", "kernel_version": "0", "modulename": "",
        "module": "", "module_version": "",
    }  # fmt: skip
    return own.get(name, otherwise)


def _words(command: str) -> list[str]:
    try:
        return [word.strip("'\"") for word in shlex.split(command)]
    except ValueError:
        return command.split()


def _make_folders(command: str, what: str) -> Iterator[str]:
    """Yield the folders that a MAKE command builds in."""
    here = ""
    for part in re.split(r"&&|;|\|\|", command):
        words = _words(part)
        if words[:1] == ["cd"] and len(words) > 1:
            here = _inside(words[1], what)
            continue
        told = [word.split("=", 1)[1] for word in words if re.match(r"^(?:M|SUBDIRS)=", word)]
        into = [words[n + 1] for n, word in enumerate(words[:-1]) if word == "-C"]
        into = [folder for folder in into if not folder.startswith("/kernel")]
        if told:
            yield _inside(told[-1], what)
        elif into:
            yield _inside(into[-1], what)
        elif any(re.match(r"^'?(?:make|gmake)$", word) for word in words):
            yield here


def _inside(place: str, what: str) -> str:
    """Return a folder as seen from the top of the package.

    Raises:
        UsageError: it is outside.
    """
    built = re.match(r"^/dkms/[^/]*/[^/]*/build(?:/|$)|^/src/[^/]*(?:/|$)|^\$\(?PWD\)?/?", place)
    relative = place[built.end() :] if built else place
    parts: list[str] = []
    for part in PurePosixPath(relative).parts:
        if part == "..":
            if not parts:
                raise UsageError(f"{what}: {place!r} leads out of the package")
            parts.pop()
        elif part.startswith("/"):
            raise UsageError(f"{what}: {place!r} is not a folder of the package")
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
