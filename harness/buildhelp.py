# SPDX-License-Identifier: GPL-2.0-only
"""Why a module does not compile: what of the kernel's configuration it would need.

The compiler and modpost name what is missing. Where the kernel's source is at hand,
it says who exports that or which condition its declaration stands under, and so
which option brings it. What cannot be found out is not guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness import kbuildfiles, kconfig, kconfigtree, proc
from harness.deadline import Deadline
from harness.kernels import Kernel

_UNDEFINED = re.compile(r'modpost: "(\w+)" \[[^\]]*\] undefined!')
_NO_HEADER = re.compile(r"fatal error: ([\w./-]+): No such file or directory")
_ERROR = re.compile(r"error: |\*\*\* ")
_QUOTED = re.compile(r"[‘'](?:struct |union |enum )?(\w+)[’']")
_OPTION_NAME = re.compile(r"\b(?:CONFIG_)?([A-Z][A-Z0-9]*_[A-Z0-9_]+)\b")
_EXPORTED = re.compile(r"^(.+?):\s*EXPORT_SYMBOL\w*\s*\(\s*(\w+)")
_CONDITION = re.compile(r"^\s*#\s*(if|ifdef|ifndef|elif|else|endif)\b(.*)")

#: Names that are looked up; the first say as much as all.
_LOOKED_UP = 40
#: A declaration stands under a few options, or it is not what was meant.
_CONDITIONS = 4
_SEARCH_LIMIT_S = 300.0
#: Folders of a kernel that export nothing to a module here.
_NOT_SEARCHED = ("Documentation", "LICENSES", "samples", "scripts", "tools", "usr")


@dataclass(frozen=True, slots=True)
class Help:
    """What is known about a failure; both may be empty."""

    why: str = ""
    hint: str | None = None


def explain(output: str, kernel: Kernel, home: Path) -> Help:
    """Return what make's output means for this kernel.

    Args:
        output: all of it.
        home: the folder of the module's sources, as the user gave it.
    """
    header = _NO_HEADER.search(output)
    if header:
        return _header(header[1], kernel, home)
    undefined = tuple(dict.fromkeys(_UNDEFINED.findall(output)))[:_LOOKED_UP]
    if not (kernel.source / "Kconfig").is_file():
        names = ", ".join(undefined[:4])
        return Help(f"needs {names}, which the kernel does not export") if undefined else Help()
    config_path = kernel.build / ".config"
    config = kconfig.parse(config_path.read_text()) if config_path.is_file() else {}
    if undefined:
        return _symbols(undefined, kernel, config, home)
    return _conditions(output, kernel, config)


def add_config_hint(options: Mapping[str, str]) -> str:
    """Return what a person can do to get a kernel with some options."""
    words = ",".join(f"{name}={value}" for name, value in sorted(options.items()))
    return f"build a kernel that has it: --add-config {words}"


def propose(
    names: Iterable[str], tree: kconfigtree.Tree, config: Mapping[str, str]
) -> dict[str, str]:
    """Return what has to be added to a configuration for some options, as modules if they can be.

    Nothing when one of them cannot be had.
    """
    wanted = {}
    for name in names:
        symbol = tree.symbols.get(name)
        if symbol is not None and symbol.kind in ("bool", "tristate"):
            wanted[name] = "m" if symbol.kind == "tristate" else "y"
    proposal = tree.propose(wanted, config)
    return {} if proposal.problems else proposal.options


def options_of(source: Path, file: str) -> tuple[str, ...]:
    """Return the options without which a file of the kernel is not compiled.

    Args:
        file: seen from the top of its source tree, such as ``drivers/md/dm-io.c``.
    """
    found: dict[str, None] = {}
    folder, _, name = file.rpartition("/")
    _object_options(source / folder, name.rpartition(".")[0], found, set())
    while folder:
        parent, _, here = folder.rpartition("/")
        for kind, words in _objects(source / parent):
            if f"{here}/" in words and (option := _option(kind)):
                found[option] = None
        folder = parent
    return tuple(found)


def _object_options(folder: Path, name: str, found: dict[str, None], seen: set[str]) -> None:
    if name in seen:
        return
    seen.add(name)
    for kind, words in _objects(folder):
        if f"{name}.o" not in words:
            continue
        if option := _option(kind):
            found[option] = None
        whole = re.match(r"^(.+)-(?:objs|y|m|\$[({]?.*)$", kind)
        if whole and whole[1] not in ("obj", "lib"):
            _object_options(folder, whole[1], found, seen)


def _objects(folder: Path) -> Iterator[tuple[str, list[str]]]:
    for file in kbuildfiles.NAMES:
        path = folder / file
        if path.is_file():
            for name, _, value in kbuildfiles.assignments(path):
                yield name, value.split()


def _option(kind: str) -> str:
    match = re.search(r"CONFIG_(\w+)", kind)
    return match[1] if match else ""


def exporters(source: Path, names: Iterable[str]) -> dict[str, str]:
    """Return symbol → the file of the kernel that exports it."""
    wanted = "|".join(names)
    folders = [
        path.name
        for path in sorted(source.iterdir())
        if path.is_dir() and path.name not in (*_NOT_SEARCHED, "arch")
    ]
    folders += ["arch/x86"] if (source / "arch/x86").is_dir() else []
    pattern = rf"^\s*EXPORT_SYMBOL\w*\s*\(\s*({wanted})\s*[,)]"
    done = proc.run(
        ["grep", "-rE", "--include=*.c", "--include=*.S", pattern, *folders],
        cwd=source, deadline=Deadline.after(_SEARCH_LIMIT_S), check=False,
    )  # fmt: skip
    found: dict[str, str] = {}
    for line in sorted(done.stdout.decode(errors="replace").splitlines()):
        if match := _EXPORTED.match(line):
            found.setdefault(match[2], match[1])
    return found


def _symbols(names: tuple[str, ...], kernel: Kernel, config: Mapping[str, str], home: Path) -> Help:
    tree = kconfigtree.Tree(kernel.source)
    where = exporters(kernel.source, names)
    by_option: dict[str, list[str]] = {}
    others: list[str] = []
    for name in names:
        options = options_of(kernel.source, where[name]) if name in where else ()
        unset = [one for one in options if config.get(f"CONFIG_{one}", "n") == "n"]
        if unset:
            # The innermost decides on the file; what is around it is a matter of Kconfig.
            by_option.setdefault(unset[0], []).append(name)
        else:
            others.append(name)
    if by_option:
        said = (f"{name} (for {_some(symbols)})" for name, symbols in by_option.items())
        added = propose(by_option, tree, config)
        return Help(
            f"needs options that the kernel {kernel.name}-{kernel.profile} lacks:"
            f" {', '.join(said)}",
            add_config_hint(added) if added else None,
        )
    beside = _beside(others, home)
    if beside:
        first = next(iter(beside.values()))
        return Help(
            f"needs symbols of another module: {_some(sorted(beside))}, of {first}",
            f"compile them together: in {home.parent}, a Kbuild file with the line"
            f" `obj-m := {Path(first).parent.name}/ {home.name}/`",
        )
    files = sorted({where[name] for name in others if name in where})
    if files:
        return Help(
            f"needs {_some(others)}, which {files[0]} exports only under a condition that this"
            " configuration does not meet"
        )
    return Help(
        f"needs {_some(others)}, which neither the kernel {kernel.name} exports nor a source"
        f" beside {home.name}"
    )


def _beside(names: Iterable[str], home: Path) -> dict[str, str]:
    """Return symbol → the file in a folder beside that exports it."""
    wanted = set(names)
    found: dict[str, str] = {}
    folders = [path for path in sorted(home.parent.iterdir()) if path.is_dir() and path != home]
    for folder in folders[:200]:
        if not kbuildfiles.has_file(folder):
            continue
        for path in sorted(folder.glob("*.c")):
            for name in kbuildfiles.exported(path) & wanted:
                found.setdefault(name, str(path))
    return found


def _header(name: str, kernel: Kernel, home: Path) -> Help:
    top = kernel.source / "include"
    relative = name.removeprefix("../")
    places = [home.parent / relative, *(home.parent.glob(f"*/{relative}"))]
    for path in places:
        if path.is_file() and home not in path.parents:
            return Help(
                f"includes {name}, which is outside of its folder",
                f"{path} is such a file: give the folder that holds both, or name its folder"
                " under `sources` in a module.yaml",
            )
    if top.is_dir() and not (top / name).is_file():
        return Help(f"includes {name}, which the kernel {kernel.name} does not have")
    return Help()


def _conditions(output: str, kernel: Kernel, config: Mapping[str, str]) -> Help:
    """Find the options that the declarations of what is missing stand under."""
    tree = kconfigtree.Tree(kernel.source)
    lines = [line for line in output.splitlines() if _ERROR.search(line)][:20]
    # A Makefile or an #error may say it itself.
    said = {
        name: None
        for line in lines
        if "*** " in line or "#error" in line
        for name in _OPTION_NAME.findall(line)
        if name in tree.symbols and config.get(f"CONFIG_{name}", "n") == "n"
    }
    names = dict.fromkeys(name for line in lines for name in _QUOTED.findall(line))
    found = said or _guards(list(names)[:_LOOKED_UP], kernel.source, tree, config)
    if not found:
        return Help()
    added = propose(found, tree, config)
    return Help(
        f"needs options that the kernel {kernel.name}-{kernel.profile} lacks: {', '.join(found)}",
        add_config_hint(added) if added else None,
    )


def _guards(
    names: list[str], source: Path, tree: kconfigtree.Tree, config: Mapping[str, str]
) -> dict[str, None]:
    if not names or not (source / "include").is_dir():
        return {}
    pattern = rf"\b({'|'.join(names)})\b"
    done = proc.run(
        ["grep", "-rlE", "--include=*.h", pattern, "include"],
        cwd=source, deadline=Deadline.after(_SEARCH_LIMIT_S), check=False,
    )  # fmt: skip
    found: dict[str, dict[str, None]] = {}
    declared: set[str] = set()
    for file in sorted(done.stdout.decode(errors="replace").splitlines()):
        text = (source / file).read_text(errors="replace")
        for name, options in guards(text, names):
            unset = [
                one
                for one in options
                if one in tree.symbols and config.get(f"CONFIG_{one}", "n") == "n"
            ]
            if unset:
                found.setdefault(name, {}).update(dict.fromkeys(unset))
            else:
                declared.add(name)
    # What is declared without a condition somewhere is missing for another reason, and a
    # word that stands under many is only a word.
    said: dict[str, None] = {}
    for name, under in found.items():
        if name not in declared and len(under) <= _CONDITIONS:
            said |= under
    return said


def guards(text: str, names: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each line's use of a name in a header, with the options it stands under."""
    pattern = re.compile(rf"\b({'|'.join(names)})\b")
    stack: list[tuple[str, ...]] = []
    for line in text.splitlines():
        if match := _CONDITION.match(line):
            word, rest = match[1], match[2]
            options = tuple(re.findall(r"\bCONFIG_(\w+?)(?:_MODULE)?\b", rest))
            if word in ("if", "ifdef"):
                stack.append(() if re.search(r"!\s*(?:defined|IS_)", rest) else options)
            elif word == "ifndef":
                stack.append(())
            elif word == "endif" and stack:
                stack.pop()
            elif stack:
                # The other side is there when the option is not.
                stack[-1] = options if word == "elif" else ()
        else:
            for name in dict.fromkeys(pattern.findall(line)):
                yield name, tuple(one for options in stack for one in options)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
