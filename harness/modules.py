# SPDX-License-Identifier: GPL-2.0-only
"""Module families: their data files, and one variant built for one kernel.

A family is a folder with a Kbuild file and a ``module.yaml`` that says what it
offers (its surfaces), which scenarios use it, and which variants it has with
what each must be caught by. Sources are copied before they are compiled: the
user's folder stays as it was.

A family may be several modules, made by the one Kbuild file: a main one, and
others that scenarios know by their roles. Which of them need which is what
modpost found out, and so is the order in which they can be loaded. What they need
beside of the kernel's own modules comes with them.

A folder that was not written for this project has no ``module.yaml``. Its Kbuild
files are read for what it may make (:mod:`harness.kbuildfiles`), and all that make
does make belongs to the family. ``FOLDER/NAME.o``, as ``obj-m`` calls it, is the
family of that folder with NAME for its main module.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pydantic
import yaml

from harness import buildhelp, cpio, elf, kbuildfiles, kconfig, kernels, proc, store
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
#: What says how to test it, and not what it is.
_ABOUT = ("harness.yaml",)
#: A folder of sources that was not written for this project is copied as it is, up to here.
_COPY_LIMIT_FILES = 5000
_COPY_LIMIT_MIB = 100

#: In which way a module's files name the folder that they were compiled in; in each key.
_PATHS = "relative"
#: Since this series make works in the module's folder and not in the kernel's (13b25489b6f8,
#: 6.13), and a path that is seen from the kernel's leads nowhere.
_IN_MODULE = (6, 13)

#: Flags of a vermagic and the options that they stand for.
_FLAGS = (
    ("SMP", ("CONFIG_SMP",)),
    ("preempt", ("CONFIG_PREEMPT", "CONFIG_PREEMPT_BUILD", "CONFIG_PREEMPT_RT")),
    ("mod_unload", ("CONFIG_MODULE_UNLOAD",)),
    ("modversions", ("CONFIG_MODVERSIONS",)),
)

Progress = Callable[[str, float | None], None]


def _below(folder: str) -> str:
    if folder.startswith("/") or ".." in Path(folder).parts:
        raise ValueError("not a folder below this one")
    return folder


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
    #: Folders below this one that hold its Kbuild files, where it has none itself.
    build: tuple[Annotated[str, pydantic.AfterValidator(_below)], ...] = ()
    #: Options that make is told, such as ``CONFIG_FOO=m``.
    make: tuple[Annotated[str, pydantic.StringConstraints(pattern=r"^CONFIG_\w+=[ymn]$")], ...] = ()
    #: Its modules are what make makes of it, whatever they were taken to be before.
    as_made: bool = False
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
    def has_scenarios(self) -> bool:
        """Whether somebody wrote down what is done with it."""
        return self.scenarios not in ((), _ANY)

    @property
    def home(self) -> Path:
        """The folder of its sources; :attr:`folder` may name one object of it."""
        return self.folder.parent if self.folder.suffix == ".o" else self.folder

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

    ``FOLDER/NAME.o`` chooses the main module of a folder that has several.

    Raises:
        UsageError: no such folder, no Kbuild file, or a malformed ``module.yaml``.
    """
    folder = Path(name)
    if folder.suffix == ".ko" and folder.is_file():
        return Family(name=folder.stem.replace("-", "_"), scenarios=_ANY, folder=folder.resolve())
    if folder.suffix == ".o" and folder.parent.is_dir():
        return load_family(folder.parent.resolve(), folder.stem)
    if not folder.is_dir():
        folder = data_dir("kmods") / name
    if not folder.is_dir():
        known = ", ".join(sorted(path.parent.name for path in data_dir("kmods").glob("*/Kbuild")))
        raise UsageError(f"module {name!r}: no such folder, and not one of: {known}")
    return load_family(folder.resolve())


def all_families() -> tuple[Family, ...]:
    """Return the families of the catalogue: those under ``kmods/`` whose data file says so."""
    families = (
        load_family(path.parent.resolve())
        for path in sorted(data_dir("kmods").glob("*/module.yaml"))
    )
    return tuple(family for family in families if family.catalogue)


def load_family(folder: Path, main: str = "") -> Family:
    """Read a family's data file; a folder without one has one variant and no scenario.

    Args:
        main: the module to be the main one; chosen by what is known of them otherwise.

    Raises:
        UsageError: malformed; names the field. No Kbuild file, or no such module.
    """
    path = folder / "module.yaml"
    if not path.is_file():
        return _guess_family(folder, main)
    try:
        content = yaml.safe_load(path.read_text())
        family = Family.model_validate(content)
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {error}") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "document"
        raise UsageError(f"{path}: {field}: {first['msg']}") from error
    if not main:
        return family.model_copy(update={"folder": folder})
    main = _module_name(main)
    others = {role: name for role, name in family.roles.items() if name != main and role != MAIN}
    if family.as_made and family.roles[MAIN] != main:
        others["other"] = family.roles[MAIN]
    elif family.roles[MAIN] != main:
        raise UsageError(f"{path}: its main module is {family.roles[MAIN]}, not {main}")
    update = {"folder": folder / f"{main}.o", "name": main, "modules": {MAIN: main, **others}}
    return family.model_copy(update=update)


def _guess_family(folder: Path, main: str) -> Family:
    """Return what the Kbuild files of a folder say that was not written for this project."""
    made = kbuildfiles.read(folder)
    build: tuple[str, ...] = ()
    if not made:
        build = kbuildfiles.folders_with_modules(folder)
        made = tuple(one for below in build for one in kbuildfiles.read(folder, below))
    if not made and not kbuildfiles.has_file(folder):
        raise UsageError(
            f"{folder}: no Kbuild file in it", hint="a Kbuild file needs one line: obj-m := NAME.o"
        )
    if not made:
        raise UsageError(
            f"{folder}: its Kbuild file names no obj-m",
            hint="it needs one line: obj-m := NAME.o",
        )
    named = {one.module: one for one in made}
    if not main:
        chosen = kbuildfiles.choose_main(folder, made, folder.name)
    elif _module_name(main) in named:
        chosen = named[_module_name(main)]
    else:
        raise UsageError(
            f"{folder}: makes no module {main}; its Kbuild files name: {', '.join(named)}"
        )
    others = [name for name in named if name != chosen.module]
    return Family(
        name=chosen.name.rpartition("/")[2],
        modules={MAIN: chosen.module, **roles_for(others)},
        build=build,
        as_made=True,
        scenarios=_ANY,
        folder=folder / f"{chosen.module}.o" if main else folder,
    )


def roles_for(names: Iterable[str]) -> dict[str, str]:
    """Return roles for modules of which nothing but their names is known."""
    roles: dict[str, str] = {}
    for name in names:
        role = re.sub(r"[^a-z0-9_]", "_", name.lower())
        roles[role if role[0].isalpha() and role != MAIN else f"module_{role}"] = name
    return roles


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
    if family.folder.suffix == ".ko":
        return _take(cache, family, kernel)
    inputs: dict[str, object] = {
        "sources": sources_digest(family),
        "modules": "as made" if family.as_made else store.digest(family.roles),
        "variant": variant,
        "kernel": kernel.key,
    }
    if family.build or family.make:
        inputs |= {"build": family.build, "make": family.make}
    key = store.digest(inputs | {"paths": _PATHS})

    def make(into: Path) -> None:
        progress(f"compiling {family.name} {variant} for {kernel.release}", None)
        _compile(family, variant, kernel, into)
        store.note_made_from(into, kernel=kernel.key)

    deadline = Deadline.after(2 * _BUILD_LIMIT_S)
    path = cache.build("module", key, make, deadline=deadline)
    return _load_modules(
        path, variant, _roles_made(family, path) if family.as_made else family.roles
    )


def _roles_made(family: Family, path: Path) -> dict[str, str]:
    """Return the roles of what make has made; of a chosen one, what it needs is enough."""
    main = family.roles[MAIN]
    records = json.loads((path / "modules.json").read_text())
    names = [name for name, record in records.items() if record.get("made", True)]
    if main not in names:
        raise BuildError(
            f"{family.home}: make makes no {main}.ko of it, but {', '.join(names)}",
            hint=f"choose one: {family.home}/{names[0]}.o",
        )
    others = [name for name in names if name != main]
    return {MAIN: main} if family.folder != family.home else {MAIN: main, **roles_for(others)}


def build_with_dependents(
    cache: store.Store, module: Module, family: Family, kernel: Kernel, most: int
) -> tuple[Module, tuple[str, ...]]:
    """Return one of the kernel's own modules with those of them that need it, and who was left out.

    Those are modules that use its symbols (``depends`` of their modinfo, which modpost writes).
    Any other module comes back as it is.

    Args:
        module: as :func:`build_module` has returned it.
        most: modules that may come with it, what they need and it itself among them.

    Raises:
        BuildError: the kernel was configured anew since it was built.
    """
    if not _is_own(family, kernel):
        return module, ()
    known = {one.name for one in module.everything}
    taken: list[Path] = []
    left: list[str] = []
    for file in _own_dependents(kernel, module.name):
        more = _with_needs(kernel, file)
        if more is None or len(known | more) > most:
            left.append(_module_name(file.stem))
        else:
            known |= more
            taken.append(file)
    if not taken:
        return module, tuple(left)
    return _take(cache, family, kernel, tuple(taken)), tuple(left)


def _is_own(family: Family, kernel: Kernel) -> bool:
    return family.folder.suffix == ".ko" and family.folder.resolve().is_relative_to(
        kernel.build.resolve()
    )


def _own_dependents(kernel: Kernel, name: str) -> Iterator[Path]:
    """Yield the files of a kernel's own modules that use the symbols of one of them."""
    for file in _own_files(kernel.build):
        try:
            content = elf.read_section(file, ".modinfo")
        except UsageError:
            # A build that was interrupted leaves files that are not whole.
            continue
        fields = content.decode(errors="replace").split("\0")
        if name in _depends(dict(field.partition("=")[::2] for field in fields)):
            yield file


def _with_needs(kernel: Kernel, file: Path) -> set[str] | None:
    """Return the names of a module and of all that it needs; None where one cannot be had."""
    found: set[str] = set()
    todo: list[Path | None] = [file]
    while todo:
        one = todo.pop()
        if one is None:
            return None
        if (name := _module_name(one.stem)) in found:
            continue
        found.add(name)
        try:
            info = load_ko(one, kernel)
        except BuildError:
            # Left over from an earlier build of this tree.
            return None
        todo += [own_module(kernel, needed) for needed in _depends(info)]
    return found


def _take(
    cache: store.Store, family: Family, kernel: Kernel, others: tuple[Path, ...] = ()
) -> Module:
    """Return a module that somebody else compiled, checked against the kernel.

    What it needs is looked for beside it, and among the kernel's own modules.

    Args:
        others: files of modules that need it.
    """
    files: dict[str, Path] = {}
    infos: dict[str, dict[str, str]] = {}
    todo = [*reversed(others), family.folder]
    while todo:
        file = todo.pop()
        info = load_ko(file, kernel)
        _check_flags(file, info, kernel)
        name = _module_name(info.get("name", file.stem))
        files[name], infos[name] = file, info
        for needed in _depends(info):
            beside = _find_ko(file.parent, needed) or own_module(kernel, needed)
            if beside is None:
                raise BuildError(
                    f"{file}: needs the module {needed}, which is not beside it, and not a module"
                    f" of the kernel {kernel.name}-{kernel.profile}",
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
    roles = roles_for(_module_name(file.stem) for file in others)
    return _load_modules(path, GOOD, {MAIN: next(iter(files)), **roles})


def _module_name(text: str) -> str:
    """Return the name that the kernel gives a module: it knows no dashes."""
    return text.replace("-", "_")


def _depends(info: Mapping[str, str]) -> tuple[str, ...]:
    """Return the modules whose symbols a module uses, as modpost wrote them down."""
    return tuple(_module_name(name) for name in info.get("depends", "").split(",") if name)


def _find_ko(folder: Path, name: str) -> Path | None:
    """Return the file of a module by the kernel's name of it."""
    return _named(sorted(folder.glob("*.ko")), name)


def own_module(kernel: Kernel, name: str) -> Path | None:
    """Return the file of one of the kernel's own modules, or None."""
    # Those that others use are listed; who is only wanted by an alias is not.
    return _named(own_modules(kernel), name) or _named(_own_files(kernel.build), name)


def _named(files: Iterable[Path], name: str) -> Path | None:
    return next((file for file in files if _module_name(file.stem) == _module_name(name)), None)


@functools.lru_cache(maxsize=8)
def _own_files(build: Path) -> tuple[Path, ...]:
    return tuple(sorted(build.rglob("*.ko")))


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


def _load_modules(path: Path, variant: str, roles: Mapping[str, str]) -> Module:
    """Return the main module from a folder of the cache, with all that belong to it."""
    records = json.loads((path / "modules.json").read_text())

    def needs(name: str, above: tuple[str, ...] = ()) -> Iterator[str]:
        for needed in records[name]["depends"]:
            if needed not in records:
                raise BuildError(
                    f"{name}: needs the module {needed}, which its family does not have, nor the"
                    " kernel as a module"
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


def _finish(
    folder: Path, infos: Mapping[str, Mapping[str, str]], made: Iterable[str] | None = None
) -> None:
    """Put what is derived from modules beside them.

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
            "depends": _depends(info),
            "made": name in own,
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
            hint="give the folder with its sources instead, and it is built for the right one;"
            " or the kernel that it was built for: --kernel-tree FOLDER",
        )
    soft = [own for name in soft_needs(info) if (own := _own_alias(kernel, name)) is not None]
    depends = [*filter(None, info.get("depends", "").split(",")), *soft]
    return {**info, "depends": ",".join(dict.fromkeys(depends))}


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


@functools.lru_cache(maxsize=8)
def _own_aliases(build: Path) -> Mapping[str, str]:
    """Names and aliases of a kernel's own modules → the module's name."""
    found: dict[str, str] = {}
    for file in _own_files(build):
        name = _module_name(file.stem)
        for field, value in (("name", name), *modinfo_fields(file)):
            if field in ("name", "alias"):
                found.setdefault(_module_name(value), name)
    return found


def _own_alias(kernel: Kernel, name: str) -> str | None:
    return _own_aliases(kernel.build).get(_module_name(name))


def _check_flags(path: Path, info: Mapping[str, str], kernel: Kernel) -> None:
    """Check that a module was built for a kernel that was configured like this one."""
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


def _files_of(family: Family, folder: Path) -> list[Path]:
    return _everything(folder) if family.as_made and folder == family.home else _sources(folder)


def _sources_digest(folder: Path, files: Iterable[Path]) -> str:
    return store.digest({str(path.relative_to(folder)): store.digest_file(path) for path in files})


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


def _compile(family: Family, variant: str, kernel: Kernel, into: Path) -> None:
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
        deadline=Deadline.after(_BUILD_LIMIT_S), check=False, merge_stderr=True,
    )  # fmt: skip
    found = {_module_name(path.stem): path for path in sorted(work.rglob("*.ko"), reverse=True)}
    names = found.keys() if family.as_made and found else family.roles.values()
    made = {name: found[name] for name in sorted(names) if name in found}
    missing = sorted(set(names) - made.keys())
    if done.status != 0 or missing:
        output = done.stdout.decode(errors="replace")
        for name in (f"{work}/", f"{_seen_from(kernel, work)}/"):
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
        infos[name] = load_ko(into / f"{name}.ko", kernel)
    _add_own(kernel, into, infos)
    _finish(into, infos, made)
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
    return os.path.relpath(place, kernel.build.resolve())


def _series(kernel: Kernel) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", kernel.release)[:2])


def _prefix_maps(kernel: Kernel, tree: Path) -> str:
    """Return the compiler's options that leave this machine's folders out of a module."""
    # Of several that fit, the last one counts.
    debug = ((kernel.build.resolve(), "."), (f"{kernel.source}/", ""))
    files = dict.fromkeys((f"{_seen_from(kernel, tree)}/", f"{tree}/"))
    return " ".join(
        [f"-fdebug-prefix-map={folder}={instead}" for folder, instead in debug]
        + [f"-ffile-prefix-map={name}=" for name in files]
    )


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
    todo = [needed for info in infos.values() for needed in _depends(info)]
    while todo:
        needed = todo.pop()
        file = own_module(kernel, needed) if needed not in infos else None
        if file is not None:
            shutil.copyfile(file, into / f"{needed}.ko")
            infos[needed] = load_ko(into / f"{needed}.ko", kernel)
            todo += _depends(infos[needed])
