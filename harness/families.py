# SPDX-License-Identifier: GPL-2.0-only
"""Module families: folders of sources, and their data files.

A family is a folder with a Kbuild file and a ``module.yaml`` that says what it
offers (its surfaces), which scenarios use it, and which variants it has with
what each must be caught by.

A family may be several modules, made by the one Kbuild file: a main one, and
others that scenarios know by their roles.

A folder that was not written for this project has no ``module.yaml``. Its Kbuild
files are read for what it may make (:mod:`harness.kbuildfiles`), and all that make
does make belongs to the family. ``FOLDER/NAME.o``, as ``obj-m`` calls it, is the
family of that folder with NAME for its main module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final

import pydantic
import yaml

from harness import kbuildfiles
from harness.errors import UsageError
from harness.kofile import module_name
from harness.resources import data_dir

#: The variant that makes no mistake.
GOOD: Final = "good"
#: The role of the module that a scenario's ``${ko}`` and ``${module}`` mean.
MAIN: Final = "main"
#: What is done with a module of which nothing is known.
_ANY: Final = ("cycle",)


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
        return {role: module_name(name) for role, name in named.items()}

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


def find_family(name: str) -> Family:
    """Read a family by its folder, by name under ``kmods/``, or take a compiled ``.ko``.

    ``FOLDER/NAME.o`` chooses the main module of a folder that has several.

    Raises:
        UsageError: no such folder, no Kbuild file, or a malformed ``module.yaml``.
    """
    folder = Path(name)
    if folder.suffix == ".ko" and folder.is_file():
        return Family(name=module_name(folder.stem), scenarios=_ANY, folder=folder.resolve())
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
    main = module_name(main)
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
    elif module_name(main) in named:
        chosen = named[module_name(main)]
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
