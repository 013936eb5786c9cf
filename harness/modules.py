# SPDX-License-Identifier: GPL-2.0-only
"""Module families: their data files, and one variant built for one kernel.

A family is a folder with a Kbuild file and a ``module.yaml`` that says what it
offers (its surfaces), which scenarios use it, and which variants it has with
what each must be caught by. Sources are copied before they are compiled: the
user's folder stays as it was.

A family may be several modules, made by the one Kbuild file: a main one, and
others that scenarios know by their roles. Which of them need which is what
modpost found out, and so is the order in which they can be loaded.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pydantic
import yaml

from harness import cpio, kernels, proc, store
from harness.deadline import Deadline
from harness.errors import BuildError, UsageError
from harness.kernels import Kernel
from harness.resources import data_dir

GOOD = "good"

#: The role of the module that a scenario's ``${ko}`` and ``${module}`` mean.
MAIN = "main"

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
    #: Role → module, where there are several: ``{main: user, core: base}``.
    modules: Annotated[
        dict[Annotated[str, pydantic.Field(pattern="^[a-z][a-z0-9_]*$")], str],
        pydantic.Field(min_length=1),
    ] = {}
    #: Folders beside this one whose sources it is built from, too.
    sources: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    #: It is put to the test by ``harness stress``.
    catalogue: bool = True
    variants: dict[str, Variant] = {GOOD: Variant()}
    folder: Path = Path()

    @pydantic.field_validator("modules")
    @classmethod
    def _check_modules(cls, modules: dict[str, str]) -> dict[str, str]:
        if MAIN not in modules:
            raise ValueError(f"one of them has the role {MAIN!r}")
        if len(set(modules.values())) != len(modules):
            raise ValueError("a module has two roles")
        return modules

    @property
    def roles(self) -> Mapping[str, str]:
        """Role → module, the main one first; a family of one has only that."""
        named = {MAIN: self.name, **self.modules}
        return {role: _module_name(name) for role, name in named.items()}

    @property
    def offers(self) -> frozenset[str]:
        """What a scenario may ask for: kinds of surfaces, and roles of modules."""
        return frozenset({"module", *self.surfaces, *self.roles}) - {MAIN}


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
    #: Modules that it cannot be loaded without, in the order in which to load them.
    needs: tuple[Module, ...] = ()
    #: Role → another module of its family, for the main one.
    others: tuple[tuple[str, Module], ...] = ()

    @property
    def everything(self) -> tuple[Module, ...]:
        """Itself and all that come with it, each after what it needs."""
        found: dict[str, Module] = {}
        for module in (self, *(other for _, other in self.others)):
            for one in (*module.needs, module):
                found.setdefault(one.name, one)
        return tuple(found.values())

    @property
    def path(self) -> str:
        """Where it lies in a guest."""
        return f"/payload/{self.name}.ko"

    def payload(self) -> tuple[tuple[str, cpio.Entry], ...]:
        """Return what a guest needs to load it; debug information stays outside."""
        return tuple(
            (module.path.removeprefix("/"), cpio.Entry(module.stripped.read_bytes()))
            for module in self.everything
        )

    @property
    def stripped(self) -> Path:
        return self.ko.with_suffix(".stripped.ko")


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
    """Return the families of the catalogue: those under ``kmods/`` whose data file says so."""
    families = (
        load_family(path.parent.resolve())
        for path in sorted(data_dir("kmods").glob("*/module.yaml"))
    )
    return tuple(family for family in families if family.catalogue)


def load_family(folder: Path) -> Family:
    """Read a family's data file; a folder without one has one variant and no scenario.

    Raises:
        UsageError: malformed; names the field.
    """
    path = folder / "module.yaml"
    if not path.is_file():
        return Family(name=_only_object(folder), scenarios=_ANY, folder=folder)
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

    It is the family's main module; the others come with it.

    Raises:
        BuildError: it does not compile, or needs a module that is not there; carries
            the first error with its place.
    """
    find_variant(family, variant)
    if family.folder.is_file():
        return _take(cache, family, kernel)
    key = store.digest(
        {
            "sources": sources_digest(family),
            "modules": store.digest(family.roles),
            "variant": variant,
            "kernel": kernel.key,
        }
    )

    def make(into: Path) -> None:
        progress(f"compiling {family.name} {variant} for {kernel.release}", None)
        _compile(family, variant, kernel, into)
        store.note_made_from(into, kernel=kernel.key)

    deadline = Deadline.after(2 * _BUILD_LIMIT_S)
    path = cache.build("module", key, make, deadline=deadline)
    return _load_modules(path, variant, family.roles)


def _take(cache: store.Store, family: Family, kernel: Kernel) -> Module:
    """Return a module that somebody else compiled, checked against the kernel.

    What it needs is looked for beside it.
    """
    files: dict[str, Path] = {}
    infos: dict[str, dict[str, str]] = {}
    todo = [family.folder]
    while todo:
        file = todo.pop()
        info = load_ko(file, kernel)
        name = _module_name(info.get("name", file.stem))
        files[name], infos[name] = file, info
        for needed in _depends(info):
            beside = _find_ko(file.parent, needed)
            if beside is None:
                raise BuildError(
                    f"{file}: needs the module {needed}, which is not beside it",
                    hint=f"put {needed}.ko into {file.parent}",
                )
            if needed not in files:
                todo.append(beside)
    key = store.digest({name: store.digest_file(file) for name, file in files.items()})

    def make(into: Path) -> None:
        for name, file in files.items():
            shutil.copyfile(file, into / f"{name}.ko")
        _finish(into, infos)

    path = cache.build("module", key, make, deadline=Deadline.after(_BUILD_LIMIT_S))
    return _load_modules(path, GOOD, {MAIN: next(iter(files))})


def _module_name(text: str) -> str:
    """Return the name that the kernel gives a module: it knows no dashes."""
    return text.replace("-", "_")


def _depends(info: Mapping[str, str]) -> tuple[str, ...]:
    """Return the modules whose symbols a module uses, as modpost wrote them down."""
    return tuple(_module_name(name) for name in info.get("depends", "").split(",") if name)


def _find_ko(folder: Path, name: str) -> Path | None:
    """Return the file of a module by the kernel's name of it."""
    return next(
        (path for path in sorted(folder.glob("*.ko")) if _module_name(path.stem) == name), None
    )


def _load_modules(path: Path, variant: str, roles: Mapping[str, str]) -> Module:
    """Return the main module from a folder of the cache, with all that belong to it."""
    records = json.loads((path / "modules.json").read_text())

    def needs(name: str, above: tuple[str, ...] = ()) -> Iterator[str]:
        for needed in records[name]["depends"]:
            if needed not in records:
                raise BuildError(
                    f"{name}: needs the module {needed}, which its family does not have"
                )
            if needed not in above:
                yield from needs(needed, (*above, name))
                yield needed

    def module(name: str, others: tuple[tuple[str, Module], ...] = ()) -> Module:
        record = records[name]
        return Module(
            name=name,
            variant=variant,
            ko=path / f"{name}.ko",
            sha256=record["sha256"],
            vermagic=record["vermagic"],
            needs=tuple(module(needed) for needed in dict.fromkeys(needs(name))),
            others=others,
        )

    others = ((role, module(name)) for role, name in roles.items() if role != MAIN)
    return module(roles[MAIN], tuple(others))


def _finish(folder: Path, infos: Mapping[str, Mapping[str, str]]) -> None:
    """Put what is derived from modules beside them."""
    records = {}
    for name, info in infos.items():
        ko = folder / f"{name}.ko"
        proc.run(
            ["strip", "--strip-debug", "-o", str(ko.with_suffix(".stripped.ko")), str(ko)],
            deadline=Deadline.after(60),
        )
        records[name] = {
            "sha256": store.digest_file(ko),
            "vermagic": info["vermagic"].strip(),
            "depends": _depends(info),
        }
    (folder / "modules.json").write_text(json.dumps(records))


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
    info: dict[str, str] = {}
    for name, value in modinfo_fields(path):
        info.setdefault(name, value)
    return info


def modinfo_fields(path: Path) -> tuple[tuple[str, str], ...]:
    """Return every field of a module's ``.modinfo`` section, repeated ones too.

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
    split = (field.partition("=") for field in fields)
    return tuple((name, value) for name, _, value in split)


def _only_object(folder: Path) -> str:
    """Return the module's name from ``obj-m`` in its Kbuild file or Makefile.

    Raises:
        UsageError: it names none, or several.
    """
    names: list[str] = []
    for file in ("Kbuild", "Makefile"):
        path = folder / file
        if path.is_file() and not names:
            text = path.read_text().replace("\\\n", " ")
            for match in re.finditer(r"^obj-(?:m|\$\(\w+\))\s*[:+]?=(.*)$", text, re.M):
                names += re.findall(r"(\S+)\.o(?!\S)", match[1])
    names = list(dict.fromkeys(names))
    if not names:
        raise UsageError(f"{folder}: its Kbuild file names no obj-m")
    if len(names) > 1:
        others = ", ".join(f"ROLE: {name}" for name in names[:-1])
        raise UsageError(
            f"{folder}: its Kbuild file names {len(names)} modules: {', '.join(names)}",
            hint="say in a module.yaml which is which, such as "
            f"`modules: {{{MAIN}: {names[-1]}, {others}}}`",
        )
    return names[0]


def _sources(folder: Path) -> list[Path]:
    return sorted({path for pattern in _SOURCES for path in folder.rglob(pattern)})


def _sources_digest(folder: Path) -> str:
    return store.digest(
        {str(path.relative_to(folder)): store.digest_file(path) for path in _sources(folder)}
    )


def sources_digest(family: Family) -> str:
    """Return a digest of all that a family is compiled from, or of its compiled file.

    Raises:
        UsageError: a folder that its data file names is not there.
    """
    if family.folder.is_file():
        return store.digest_file(family.folder)
    return store.digest(
        {folder.name: _sources_digest(folder) for folder in _source_folders(family)}
    )


def _source_folders(family: Family) -> tuple[Path, ...]:
    """Return the folders that a family is built from, its own first.

    Raises:
        UsageError: one that its data file names is not there.
    """
    folders = [family.folder]
    for name in family.sources:
        folder = family.folder.parent / name
        if Path(name).name != name or not folder.is_dir():
            raise UsageError(f"{family.folder}/module.yaml: sources: no folder {name!r} beside it")
        folders.append(folder)
    include = family.folder.parent / "include"
    if include.is_dir():
        folders.append(include)
    return tuple(folders)


def _compile(family: Family, variant: str, kernel: Kernel, into: Path) -> None:
    tree = into / "src"
    copied = set()
    for folder in _source_folders(family):
        for path in _sources(folder):
            target = tree / folder.name / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            copied.add(target)
    work = tree / family.folder.name
    done = proc.run(
        ["make", "-C", str(kernel.build), *kernel.make_variables,
         f"M={work}", f"KMH_VARIANT={variant}",
         f"KCFLAGS=-ffile-prefix-map={tree}/=", "modules"],
        deadline=Deadline.after(_BUILD_LIMIT_S), check=False, merge_stderr=True,
    )  # fmt: skip
    found = {name: _find_ko(work, name) for name in family.roles.values()}
    made = {name: ko for name, ko in found.items() if ko is not None}
    missing = sorted(found.keys() - made.keys())
    if done.status != 0 or missing:
        output = done.stdout.decode(errors="replace").replace(f"{work}/", "")
        raise BuildError(
            f"{family.name} {variant}: does not compile for {kernel.release}"
            + (f": it makes no {', '.join(missing)}.ko" if done.status == 0 else ""),
            evidence=kernels.first_error(output),
        )
    infos = {}
    for name, ko in made.items():
        shutil.copyfile(ko, into / f"{name}.ko")
        infos[name] = load_ko(into / f"{name}.ko", kernel)
    _finish(into, infos)
    # The sources stay for the excerpts of reports; what make left does not.
    for path in tree.rglob("*"):
        if path.is_file() and path not in copied:
            path.unlink()
