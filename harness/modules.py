# SPDX-License-Identifier: GPL-2.0-only
"""Compiled modules: one variant of a family for one kernel, with all that it needs.

Which modules of a family need which is what modpost found out, and so is the order in
which they can be loaded. What they need beside of the kernel's own modules comes with
them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness import cpio, families, kernelmodules, kofile, modulebuild, store
from harness.deadline import Deadline
from harness.errors import BuildError
from harness.families import GOOD, MAIN, Family
from harness.kernels import Kernel
from harness.kofile import module_name

Progress = Callable[[str, float | None], None]


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
    families.find_variant(family, variant)
    if family.folder.suffix == ".ko":
        return _take(cache, family, kernel)
    inputs: dict[str, object] = {
        "sources": modulebuild.sources_digest(family),
        "modules": "as made" if family.as_made else store.digest(family.roles),
        "variant": variant,
        "kernel": kernel.key,
    }
    if family.build or family.make:
        inputs |= {"build": family.build, "make": family.make}
    key = store.digest(inputs | {"paths": modulebuild.PATHS})

    def make(into: Path) -> None:
        progress(f"compiling {family.name} {variant} for {kernel.release}", None)
        modulebuild.compile_variant(family, variant, kernel, into)
        store.note_made_from(into, kernel=kernel.key)

    deadline = Deadline.after(2 * modulebuild.BUILD_LIMIT_S)
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
    if family.folder != family.home:
        return {MAIN: main}
    return {MAIN: main, **families.roles_for(others)}


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
    for file in kernelmodules.own_dependents(kernel, module.name):
        more = kernelmodules.with_needs(kernel, file)
        if more is None or len(known | more) > most:
            left.append(module_name(file.stem))
        else:
            known |= more
            taken.append(file)
    if not taken:
        return module, tuple(left)
    return _take(cache, family, kernel, tuple(taken)), tuple(left)


def _is_own(family: Family, kernel: Kernel) -> bool:
    return family.folder.suffix == ".ko" and family.folder.resolve().is_relative_to(kernel.build)


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
        info = kernelmodules.load_ko(file, kernel)
        kernelmodules.check_flags(file, info, kernel)
        name = module_name(info.get("name", file.stem))
        files[name], infos[name] = file, info
        for needed in kofile.depends(info):
            beside = kernelmodules.find_ko(file.parent, needed)
            beside = beside or kernelmodules.own_module(kernel, needed)
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
        modulebuild.finish(into, infos)

    path = cache.build("module", key, make, deadline=Deadline.after(modulebuild.BUILD_LIMIT_S))
    roles = families.roles_for(module_name(file.stem) for file in others)
    return _load_modules(path, GOOD, {MAIN: next(iter(files)), **roles})


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
