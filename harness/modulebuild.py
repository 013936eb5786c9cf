# SPDX-License-Identifier: GPL-2.0-only
"""From a family's sources to its compiled modules: what is copied, and what make is told.

Sources are copied before they are compiled: the user's folder stays as it was.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from harness import buildhelp, kbuildfiles, kernelmodules, kernels, kofile, proc, store
from harness.deadline import Deadline
from harness.errors import BuildError, UsageError
from harness.families import Family
from harness.kernels import Kernel
from harness.kofile import module_name

#: Compiling one module; a bound, not an estimate.
BUILD_LIMIT_S: Final = 1800.0

_SOURCES: Final = ("*.c", "*.h", "*.S", "*.mk", "Kbuild", "Makefile", "Kconfig")
#: What says how to test it, and not what it is.
_ABOUT: Final = ("harness.yaml",)
#: A folder of sources that was not written for this project is copied as it is, up to here.
_COPY_LIMIT_FILES: Final = 5000
_COPY_LIMIT_MIB: Final = 100

#: In which way a module's files name the folder that they were compiled in; in each key.
PATHS: Final = "from the cache"
#: Since this series make works in the module's folder and not in the kernel's (13b25489b6f8,
#: 6.13), and a path that is seen from the kernel's leads nowhere.
_IN_MODULE: Final = (6, 13)


def sources_digest(family: Family) -> str:
    """Return a digest of all that a family is compiled from, or of its compiled file.

    Raises:
        UsageError: a folder that its data file names is not there.
    """
    if family.folder.suffix == ".ko":
        return store.digest_file(family.folder)
    return store.digest(
        {
            folder.name: _sources_digest(folder, _files_of(family, folder))
            for folder in _source_folders(family)
        }
    )


def _sources_digest(folder: Path, files: Iterable[Path]) -> str:
    return store.digest({str(path.relative_to(folder)): store.digest_file(path) for path in files})


def _source_folders(family: Family) -> tuple[Path, ...]:
    """Return the folders that a family is built from, its own first.

    Raises:
        UsageError: one that its data file names is not there.
    """
    folders = [family.home]
    for name in family.sources:
        folder = family.home.parent / name
        if Path(name).name != name or not folder.is_dir():
            raise UsageError(f"{family.home}/module.yaml: sources: no folder {name!r} beside it")
        folders.append(folder)
    include = family.home.parent / "include"
    if include.is_dir():
        folders.append(include)
    return tuple(folders)


def _files_of(family: Family, folder: Path) -> list[Path]:
    return _everything(folder) if family.as_made and folder == family.home else _sources(folder)


def _sources(folder: Path) -> list[Path]:
    return sorted({path for pattern in _SOURCES for path in folder.rglob(pattern)})


def _everything(folder: Path) -> list[Path]:
    """Return the files of a folder of which nothing is known, but for what make left.

    Links are followed where they lead somewhere; a folder is entered once.

    Raises:
        UsageError: it holds more than sources of modules do.
    """
    found: list[Path] = []
    size = 0
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        # Entered twice through a link, or the folder that leads here.
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # What was found in it before is no source.
        if "bundle.json" in files:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(here, name)
            if kbuildfiles.PRODUCTS.search(name) or name in _ABOUT or not path.is_file():
                continue
            found.append(path)
            size += path.stat().st_size
        if len(found) > _COPY_LIMIT_FILES or size >> 20 > _COPY_LIMIT_MIB:
            raise UsageError(
                f"{folder}: holds {len(found)} files, {size >> 20} MiB, and more: sources are"
                f" copied before they are compiled, at most {_COPY_LIMIT_FILES} files and"
                f" {_COPY_LIMIT_MIB} MiB",
                hint="give the folder below it that has the module's Kbuild file",
            )
    return found


def compile_variant(family: Family, variant: str, kernel: Kernel, into: Path) -> None:
    """Compile a family's modules for a kernel, and put what they need beside them.

    Args:
        into: a folder of the cache; the sources stay in it.

    Raises:
        BuildError: they do not compile; carries the first error with its place.
        UsageError: a folder that the family's data file names is not there.
    """
    tree = into / "src"
    copied = set()
    for folder in _source_folders(family):
        for path in _files_of(family, folder):
            target = tree / folder.name / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            # Programs among the sources that a Makefile calls.
            target.chmod(path.stat().st_mode & 0o111 | 0o644)
            copied.add(target)
    work = tree / family.home.name
    place = work
    if len(family.build) == 1:
        place = work / family.build[0]
    elif family.build:
        # One make of all, so that one finds the symbols of the other.
        (work / "Kbuild").write_text("".join(f"obj-m += {below}/\n" for below in family.build))
    done = proc.run(
        ["make", f"-j{os.cpu_count() or 1}", "-C", str(kernel.build), *kernel.make_variables,
         f"M={_seen_from(kernel, place)}", f"KMH_VARIANT={variant}",
         # Some Makefiles take it for their own folder, which it is where one runs make in that.
         f"PWD={place}", *_make_words(family),
         f"KCFLAGS={_prefix_maps(kernel, tree)}", "modules"],
        deadline=Deadline.after(BUILD_LIMIT_S), check=False, merge_stderr=True,
    )  # fmt: skip
    found = {module_name(path.stem): path for path in sorted(work.rglob("*.ko"), reverse=True)}
    names = found.keys() if family.as_made and found else family.roles.values()
    made = {name: found[name] for name in sorted(names) if name in found}
    missing = sorted(set(names) - made.keys())
    if done.status != 0 or missing:
        output = done.stdout.decode(errors="replace")
        seen = _seen_from(kernel, work)
        for name in (f"{work}/", f"../{seen}/", f"{seen}/"):
            output = output.replace(name, "")
        known = buildhelp.explain(output, kernel, family.home)
        raise BuildError(
            f"{family.name if family.as_made else f'{family.name} {variant}'}: does not compile"
            f" for {kernel.release}"
            + (f": it makes no {', '.join(missing)}.ko" if done.status == 0 else "")
            + (f": {known.why}" if known.why else ""),
            evidence=kernels.first_error(output),
            hint=known.hint,
        )
    infos = {}
    for name, ko in made.items():
        shutil.copyfile(ko, into / f"{name}.ko")
        infos[name] = kernelmodules.load_ko(into / f"{name}.ko", kernel)
    _add_own(kernel, into, infos)
    finish(into, infos, made)
    # The sources stay for the excerpts of reports; what make left does not.
    for path in tree.rglob("*"):
        if path.is_file() and path not in copied:
            path.unlink()


def _seen_from(kernel: Kernel, place: Path) -> str:
    """Return the path of a folder as make is told it.

    KASAN keeps the names of files beside their variables, in what is loaded (no prefix map
    changes them), and no two machines have their caches in the same place.
    """
    if _series(kernel) >= _IN_MODULE:
        return str(place)
    build = kernel.build
    tops = [build]
    if (build / "source").is_dir():
        tops.append((build / "source").resolve())
    cache = kernel.path.parent.parent
    for seen in (
        os.path.join(kernels.CACHE_LINK, os.path.relpath(place, cache)),
        os.path.relpath(place, build),
    ):
        if all((top / seen).resolve() == place.resolve() for top in tops):
            return seen
    # A tree of one's own, whose build tree is not as deep as it.
    return str(place)


def _series(kernel: Kernel) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", kernel.release)[:2])


def _prefix_maps(kernel: Kernel, tree: Path) -> str:
    """Return the compiler's options that leave this machine's folders out of a module."""
    build = kernel.build
    # Of several that fit, the last one counts.
    folders = {
        f"{build.parent}/": "",
        "../": "",
        str(build): ".",
        f"{kernel.source}/": "",
        f"{_seen_from(kernel, tree)}/": "",
        f"{tree}/": "",
    }
    return " ".join(f"-ffile-prefix-map={path}={name}" for path, name in folders.items())


def _make_words(family: Family) -> list[str]:
    """Return the options that decide on a family's modules, as make is to be told them.

    A driver that is to become part of a kernel one day has options that no kernel
    here has.
    """
    if not family.as_made:
        return list(family.make)
    words = dict(word.split("=", 1) for word in family.make)
    for below in family.build or ("",):
        for one in kbuildfiles.read(family.home, below):
            name = f"CONFIG_{one.option}"
            if one.option and not kbuildfiles.assigns(family.home, one.folder, name):
                words.setdefault(name, "m")
    return [f"{name}={value}" for name, value in sorted(words.items())]


def _add_own(kernel: Kernel, into: Path, infos: dict[str, dict[str, str]]) -> None:
    """Put modules of the kernel's own beside those that need them."""
    todo = [needed for info in infos.values() for needed in kofile.depends(info)]
    while todo:
        needed = todo.pop()
        file = kernelmodules.own_module(kernel, needed) if needed not in infos else None
        if file is not None:
            shutil.copyfile(file, into / f"{needed}.ko")
            infos[needed] = kernelmodules.load_ko(into / f"{needed}.ko", kernel)
            todo += kofile.depends(infos[needed])


def finish(
    folder: Path, infos: Mapping[str, Mapping[str, str]], made: Iterable[str] | None = None
) -> None:
    """Put what is derived from modules beside them: stripped files, and ``modules.json``.

    Args:
        made: which of them were made here; all by default.
    """
    records: dict[str, dict[str, object]] = {}
    own = set(infos if made is None else made)
    for name, info in infos.items():
        ko = folder / f"{name}.ko"
        proc.run(
            ["strip", "--strip-debug", "-o", str(ko.with_suffix(".stripped.ko")), str(ko)],
            deadline=Deadline.after(60),
        )
        records[name] = {
            "sha256": store.digest_file(ko),
            "vermagic": info["vermagic"].strip(),
            "depends": kofile.depends(info),
            "made": name in own,
        }
    (folder / "modules.json").write_text(json.dumps(records))
