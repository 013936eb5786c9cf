# SPDX-License-Identifier: GPL-2.0-only
"""Module families: their data files, and one variant built for one kernel.

A family is a folder with a Kbuild file and a ``module.yaml`` that says what it
offers (its surfaces), which scenarios use it, and which variants it has with
what each must be caught by. Sources are copied before they are compiled: the
user's folder stays as it was.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pydantic
import yaml

from harness import cpio, kernels, proc, store
from harness.deadline import Deadline
from harness.errors import BuildError, UsageError
from harness.kernels import Kernel
from harness.resources import data_dir

GOOD = "good"

#: Compiling one module; a bound, not an estimate.
_BUILD_LIMIT_S = 1800.0

#: What is done with a module of which nothing is known.
_ANY = ("cycle",)

_SOURCES = ("*.c", "*.h", "*.S", "*.mk", "Kbuild", "Makefile", "Kconfig")

Progress = Callable[[str, float | None], None]


class Variant(pydantic.BaseModel):
    """One variant of a family: a mistake, and what must be said about it."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    #: The mistake, in one sentence; None for the correct one.
    mistake: str | None = None
    lesson: str | None = None
    #: Lane in which it must be caught: ``det``, or ``smp`` with the reason in ``why_smp``.
    lane: str = "det"
    #: What must speak up: a detector of the kernel or a check of the harness.
    detector: str | None = None
    #: Regular expressions; the first must match a whole ``title`` of a finding.
    expect: tuple[str, ...] = ()
    why_unnoticed: str | None = None
    #: The scenario that shows it, when not all of the family's do.
    scenarios: tuple[str, ...] = ()


class Family(pydantic.BaseModel):
    """A folder of sources, and what its ``module.yaml`` says."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str = ""
    lesson: str = ""
    #: Kind of surface → its name, such as ``filesystem: poolfs``.
    surfaces: dict[str, str] = {}
    #: Further modules that its Kbuild makes, for scenarios that load them beside it.
    helpers: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    variants: dict[str, Variant] = {GOOD: Variant()}
    folder: Path = Path()


@dataclass(frozen=True, slots=True)
class Module:
    """A compiled module."""

    name: str
    variant: str
    ko: Path
    #: SHA-256 of the file, debug information included.
    sha256: str
    #: ``vermagic`` of its modinfo.
    vermagic: str
    #: Modules that go into the guest beside it.
    helpers: tuple[Path, ...] = ()

    def payload(self) -> tuple[tuple[str, cpio.Entry], ...]:
        """Return what a guest needs to load it; debug information stays outside."""
        return tuple(
            (f"payload/{name}.ko", cpio.Entry(_stripped(ko).read_bytes()))
            for name, ko in self.symbols.items()
        )

    @property
    def stripped(self) -> Path:
        return _stripped(self.ko)

    @property
    def symbols(self) -> dict[str, Path]:
        """Name of each module that goes into the guest → its file with debug information."""
        return {self.name: self.ko} | {ko.stem: ko for ko in self.helpers}


def _stripped(ko: Path) -> Path:
    return ko.with_suffix(".stripped.ko")


def find_family(name: str) -> Family:
    """Read a family by its folder, by name under ``kmods/``, or take a compiled ``.ko``.

    Raises:
        UsageError: no such folder, no Kbuild file, or a malformed ``module.yaml``.
    """
    folder = Path(name)
    if folder.suffix == ".ko" and folder.is_file():
        return Family(name=folder.stem.replace("-", "_"), scenarios=_ANY, folder=folder.resolve())
    if not folder.is_dir():
        folder = data_dir("kmods") / name
    if not folder.is_dir():
        known = ", ".join(sorted(path.parent.name for path in data_dir("kmods").glob("*/Kbuild")))
        raise UsageError(f"module {name!r}: no such folder, and not one of: {known}")
    if not (folder / "Kbuild").is_file() and not (folder / "Makefile").is_file():
        raise UsageError(
            f"{folder}: no Kbuild file in it", hint="a Kbuild file needs one line: obj-m := NAME.o"
        )
    return load_family(folder.resolve())


def all_families() -> tuple[Family, ...]:
    """Return the families under ``kmods/`` that have a data file."""
    return tuple(
        load_family(path.parent.resolve())
        for path in sorted(data_dir("kmods").glob("*/module.yaml"))
    )


def load_family(folder: Path) -> Family:
    """Read a family's data file; a folder without one has one variant and no scenario.

    Raises:
        UsageError: malformed; names the field.
    """
    path = folder / "module.yaml"
    if not path.is_file():
        return Family(name=_object_name(folder), scenarios=_ANY, folder=folder)
    try:
        content = yaml.safe_load(path.read_text())
        family = Family.model_validate(content)
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {error}") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "document"
        raise UsageError(f"{path}: {field}: {first['msg']}") from error
    return family.model_copy(update={"folder": folder})


def find_variant(family: Family, name: str) -> Variant:
    """Return a variant by name.

    Raises:
        UsageError: no such variant; lists those there are.
    """
    variant = family.variants.get(name)
    if variant is None:
        known = ", ".join(family.variants)
        raise UsageError(f"variant {name!r} of {family.name}: unknown; known: {known}")
    return variant


def build_module(
    cache: store.Store,
    family: Family,
    variant: str,
    kernel: Kernel,
    progress: Progress = lambda what, done: None,
) -> Module:
    """Return a variant compiled for a kernel, from the cache when nothing changed.

    Raises:
        BuildError: it does not compile; carries the first error with its place.
    """
    find_variant(family, variant)
    if family.folder.is_file():
        return _take(cache, family, kernel)
    include = family.folder.parent / "include"
    key = store.digest(
        {
            "sources": _sources_digest(family.folder),
            "include": _sources_digest(include) if include.is_dir() else "",
            "name": [family.name, *family.helpers],
            "variant": variant,
            "kernel": kernel.key,
        }
    )

    def make(into: Path) -> None:
        progress(f"compiling {family.name} {variant} for {kernel.release}", None)
        _compile(family, variant, kernel, into)

    deadline = Deadline.after(2 * _BUILD_LIMIT_S)
    path = cache.build("module", key, make, deadline=deadline)
    record = json.loads((path / "module.json").read_text())
    helpers = tuple(path / f"{name}.ko" for name in family.helpers)
    return Module(family.name, variant, path / f"{family.name}.ko", **record, helpers=helpers)


def _take(cache: store.Store, family: Family, kernel: Kernel) -> Module:
    """Return a module that somebody else compiled, checked against the kernel."""
    info = load_ko(family.folder, kernel)
    name = info.get("name", family.name)
    sha256 = store.digest_file(family.folder)
    key = store.digest({"ko": sha256, "name": name})

    def make(into: Path) -> None:
        shutil.copyfile(family.folder, into / f"{name}.ko")
        _finish(into / f"{name}.ko", info)

    path = cache.build("module", key, make, deadline=Deadline.after(_BUILD_LIMIT_S))
    record = json.loads((path / "module.json").read_text())
    return Module(name, GOOD, path / f"{name}.ko", **record)


def _strip(ko: Path) -> None:
    proc.run(
        ["strip", "--strip-debug", "-o", str(_stripped(ko)), str(ko)], deadline=Deadline.after(60)
    )


def _finish(ko: Path, info: dict[str, str]) -> None:
    """Put what is derived from a module beside it."""
    _strip(ko)
    record = {"sha256": store.digest_file(ko), "vermagic": info["vermagic"].strip()}
    (ko.parent / "module.json").write_text(json.dumps(record))


def load_ko(path: Path, kernel: Kernel) -> dict[str, str]:
    """Return the modinfo of a compiled module, checked against a kernel.

    Raises:
        BuildError: it is no module, or was built for another kernel.
    """
    info = modinfo(path)
    built_for = info.get("vermagic", "").split(" ")[0]
    if built_for != kernel.release:
        raise BuildError(
            f"{path}: built for kernel {built_for or 'unknown'}, not for {kernel.release}",
            hint="give the folder with its sources instead, and it is built for the right one",
        )
    return info


def modinfo(path: Path) -> dict[str, str]:
    """Return the fields of a module's ``.modinfo`` section; a repeated one keeps its first value.

    Raises:
        BuildError: the file is no kernel module.
    """
    # Not objcopy: given /dev/stdout to write to, and root, it replaces the device.
    done = proc.run(
        ["readelf", "-W", "--string-dump=.modinfo", str(path)],
        deadline=Deadline.after(60), check=False,
    )  # fmt: skip
    shown = done.stdout.decode(errors="replace")
    fields = re.findall(r"^\s*\[\s*[0-9a-f]+\]\s+(\w+=.*)$", shown, re.MULTILINE)
    if done.status != 0 or not fields:
        raise BuildError(f"{path}: not a kernel module (it has no .modinfo section)")
    info: dict[str, str] = {}
    for field in fields:
        name, _, value = field.partition("=")
        info.setdefault(name, value)
    return info


def _object_name(folder: Path) -> str:
    """Return the module's name from ``obj-m`` in its Kbuild file or Makefile.

    Raises:
        UsageError: it names none.
    """
    for file in ("Kbuild", "Makefile"):
        path = folder / file
        if path.is_file():
            match = re.search(r"^obj-(?:m|\$\(\w+\))\s*[:+]?=\s*(\S+)\.o", path.read_text(), re.M)
            if match:
                return match[1]
    raise UsageError(f"{folder}: its Kbuild file names no obj-m")


def _sources(folder: Path) -> list[Path]:
    return sorted({path for pattern in _SOURCES for path in folder.rglob(pattern)})


def _sources_digest(folder: Path) -> str:
    return store.digest(
        {str(path.relative_to(folder)): store.digest_file(path) for path in _sources(folder)}
    )


def _compile(family: Family, variant: str, kernel: Kernel, into: Path) -> None:
    tree = into / "src"
    for folder in (family.folder, family.folder.parent / "include"):
        for path in _sources(folder) if folder.is_dir() else ():
            target = tree / folder.name / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    work = tree / family.folder.name
    done = proc.run(
        ["make", "-C", str(kernel.build), f"M={work}", f"KMH_VARIANT={variant}",
         f"KCFLAGS=-ffile-prefix-map={tree}/=", "modules"],
        deadline=Deadline.after(_BUILD_LIMIT_S), check=False, merge_stderr=True,
    )  # fmt: skip
    made = [work / f"{name}.ko" for name in (family.name, *family.helpers)]
    if done.status != 0 or not all(path.is_file() for path in made):
        output = done.stdout.decode(errors="replace").replace(f"{work}/", "")
        raise BuildError(
            f"{family.name} {variant}: does not compile for {kernel.release}",
            evidence=kernels.first_error(output),
        )
    for path in made:
        shutil.copyfile(path, into / path.name)
    for path in made[1:]:
        _strip(into / path.name)
    ko = into / made[0].name
    _finish(ko, load_ko(ko, kernel))
    # The sources stay for the excerpts of reports; what make left does not.
    for path in work.rglob("*"):
        if path.is_file() and path not in set(_sources(work)):
            path.unlink()
