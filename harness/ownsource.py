# SPDX-License-Identifier: GPL-2.0-only
"""From what a person names to what trials are made of.

That may be a folder of sources, modules of the kernel's own source, a package for
DKMS, or a compiled module together with the tree it was built in. Each becomes a
:class:`~harness.families.Family`, a kernel and a profile, as :meth:`Lab.subject`
takes them. Nothing of it is written into folders that are not the harness's own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType

import yaml

from harness import (
    archive,
    dkms,
    families,
    intree,
    kbuildfiles,
    kconfig,
    kernelfiles,
    kernels,
    patched,
    readymade,
    scenario_yaml,
    sources,
    store,
)
from harness.archive import Package
from harness.deadline import Deadline
from harness.errors import InfrastructureError, UsageError
from harness.families import MAIN, Family
from harness.kbuildfiles import Made
from harness.kconfigtree import Tree
from harness.kernelfiles import DEFAULT_KERNEL, DEFAULT_PROFILE, DebianSource
from harness.kofile import module_name
from harness.lab import Lab
from harness.patched import Patch

#: Tried before a kernel is built for the purpose: it has what modules often need.
ROOMY_PROFILE = "check"
#: For a tree that was built without the detectors of the default profile.
_AS_IT_IS = "distro"
#: Raise it when what is written into the cache beside a package's sources changes.
_DKMS_VERSION = "1"
#: Which Debian packages are taken from where a kernel's file does not say that.
_SUITES = ("bookworm", "bookworm-updates", "bookworm-security")


@dataclass(frozen=True, slots=True)
class Own:
    """A module to put to the test, and in which kernel."""

    family: Family
    #: Name or path, as :meth:`harness.lab.Lab.kernel` takes it.
    kernel: str
    profile: str
    #: What was left out or not taken over, for a person.
    notes: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        """What :meth:`harness.lab.Lab.subject` finds the family by."""
        return str(self.family.folder)


def resolve(
    made: Lab,
    name: str | None = None,
    *,
    in_tree: str | None = None,
    dkms: str | None = None,
    kernel_tree: Path | None = None,
    add_config: Iterable[str] = (),
    kernel: str = DEFAULT_KERNEL,
    profile: str | None = None,
    main: str | None = None,
    patch: Patch | None = None,
) -> Own:
    """Return what a person named, ready for trials; of several modules the main one.

    Args:
        name: a folder, ``FOLDER/NAME.o``, a ``.ko`` file or a family under ``kmods/``.
        in_tree: a place in the kernel's source, such as ``fs/fat``, instead.
        dkms: name of a Debian package or path of a ``.deb``, instead.
        kernel_tree: folder in which a kernel was built, to be used as it is.
        add_config: options that the kernel is to have, such as ``BLOCK`` or ``ZRAM=m``.
        kernel: name or path of a kernel; without a meaning beside ``kernel_tree``.
        profile: one that is not named is chosen: the default one, or else the first
            that has what is needed, or else one made for it.
        main: the module to stand for several.
        patch: changes to what is in the kernel's source.

    Raises:
        UsageError: there is no such thing, or it cannot be had in this kernel.
    """
    everything = resolve_all(
        made, name, in_tree=in_tree, dkms=dkms, kernel_tree=kernel_tree, add_config=add_config,
        kernel=kernel, profile=profile, patch=patch,
    )  # fmt: skip
    if main is None:
        return everything[0]
    wanted = module_name(main)
    for own in everything:
        if own.family.roles[MAIN] == wanted:
            return own
    known = dict.fromkeys(own.family.roles[MAIN] for own in everything)
    raise UsageError(
        f"module {main!r}: none of these: {', '.join(known)}{scenario_yaml.near(wanted, known)}"
    )


def resolve_all(
    made: Lab,
    name: str | None = None,
    *,
    in_tree: str | None = None,
    dkms: str | None = None,
    kernel_tree: Path | None = None,
    add_config: Iterable[str] = (),
    kernel: str = DEFAULT_KERNEL,
    profile: str | None = None,
    patch: Patch | None = None,
) -> tuple[Own, ...]:
    """Return the main module first, then each of the others that belong to it in load order.

    Raises:
        UsageError: as :func:`resolve`.
    """
    given = [what for what in (name, in_tree, dkms) if what is not None]
    if len(given) != 1:
        raise UsageError(
            "name one thing: a folder or a .ko file, --in-tree PLACE, or --dkms PACKAGE"
            + (f" (given: {', '.join(given)})" if given else "")
        )
    options = kernelfiles.parse_options(word for text in add_config for word in text.split(","))
    if kernel_tree is not None:
        kernel, profile = _use_tree(made.cache, kernel_tree, profile)
    # Said before a kernel's source is fetched for it.
    if in_tree is not None:
        in_tree = intree.check_place(in_tree)
    if patch is not None and not patch.path.is_file():
        raise UsageError(f"{patch.path}: no such file")
    if in_tree is not None:
        return _in_tree(made, in_tree, options, kernel, profile, patch)
    if patch is not None:
        raise UsageError(
            f"{patch.path}: only modules of the kernel's own source are patched",
            hint="change the sources themselves, or name a place: --in-tree fs/fat",
        )
    # What is wrong with a module is said before a kernel is made for it.
    if dkms is not None:
        main, notes = _package_family(made, dkms, kernel)
    else:
        assert name is not None
        main, notes = families.find_family(name), ()
    if options:
        profile = _with_options(made, kernel, profile, options)
    elif profile is None:
        # Most packages need more of a kernel than the default one has.
        roomy = dkms is not None and kernels.load_recipe(kernel, ROOMY_PROFILE).is_compiled
        profile = ROOMY_PROFILE if roomy else DEFAULT_PROFILE
    kernels.load_recipe(kernel, profile)
    return _with_others(Own(main, kernel, profile, notes))


def _with_others(own: Own) -> tuple[Own, ...]:
    """Return what was found first, and what else its Kbuild files make."""
    found = [own]
    main = own.family
    if main.as_made and main.folder == main.home:
        everything = [
            one for below in main.build or ("",) for one in kbuildfiles.read(main.home, below)
        ]
        order = kbuildfiles.in_load_order(main.home, tuple(everything))
        names = [one.module for one in order if one.module in main.roles.values()]
        for other in dict.fromkeys(names):
            if other != main.roles[MAIN]:
                found.append(replace(own, family=families.load_family(main.home, other)))
    return tuple(found)


# ---- kernels --------------------------------------------------------------------------------


def _use_tree(cache: store.Store, folder: Path, profile: str | None) -> tuple[str, str]:
    """Write a kernel's file for a tree that somebody built; return its path and the profile."""
    folder = folder.expanduser().absolute()
    name = "tree-" + (re.sub(r"[^\w.-]", "-", folder.name).strip("-.") or "kernel")
    place = cache.root / "trees" / store.digest({"path": str(folder)}) / f"{name}.yaml"
    text = yaml.safe_dump({"name": name, "provider": "tree", "path": str(folder)})
    if not place.is_file() or place.read_text() != text:
        store.write_atomically(place, text.encode())
    first = profile or DEFAULT_PROFILE
    recipe = kernels.load_recipe(str(place), first)
    config = kconfig.parse((readymade.tree_folder(recipe) / ".config").read_text())
    if profile is None and any(config.get(option) != "y" for option in recipe.needs):
        first = _AS_IT_IS
    return str(place), first


def _with_options(
    made: Lab,
    kernel: str,
    profile: str | None,
    options: Mapping[str, str],
    exactly: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return a profile whose kernel has some options, and what they depend on.

    Args:
        exactly: further options; of the others it is enough that what was wanted as a
            module is built in.
    """
    first = profile or DEFAULT_PROFILE
    for known in (first,) if profile else (first, ROOMY_PROFILE):
        config = _configuration(made, kernel, known)
        if _has(config, options) and all(config.get(name) == exactly[name] for name in exactly):
            return known
    options = {**options, **exactly}
    recipe = kernels.load_recipe(kernel, first)
    if not recipe.is_compiled:
        # It says why.
        kernels.load_recipe(kernel, kernelfiles.add_options(first, options))
    tree = Tree(kernels.source_tree(made.cache, recipe, made.progress))
    config = _configuration(made, kernel, first)
    switches = {
        option.removeprefix("CONFIG_"): value
        for option, value in options.items()
        if value in ("y", "m")
    }
    proposal = tree.propose(switches, config)
    if proposal.problems:
        raise UsageError(
            f"--add-config: kernel {recipe.name} cannot have"
            f" {', '.join(option.removeprefix('CONFIG_') for option in options)}",
            evidence="\n".join(proposal.problems),
        )
    added = {f"CONFIG_{name}": value for name, value in proposal.options.items()}
    new = {name: value for name, value in options.items() if config.get(name, "n") != value}
    derived = kernelfiles.add_options(first, {**added, **new})
    # Kconfig itself has the last word, and is asked before hours of compiling.
    _configuration(made, kernel, derived)
    return derived


def _configuration(made: Lab, kernel: str, profile: str) -> dict[str, str]:
    recipe = kernels.load_recipe(kernel, profile)
    return kernels.configuration(made.cache, recipe, made.progress)


def _has(config: Mapping[str, str], options: Mapping[str, str]) -> bool:
    """Return whether a configuration has options; what is built in serves for a module, too."""
    return all(
        config.get(option, "n") == value or (value == "m" and config.get(option) == "y")
        for option, value in options.items()
    )


# ---- modules of the kernel's own source -----------------------------------------------------


def _in_tree(
    made: Lab,
    place: str,
    options: Mapping[str, str],
    kernel: str,
    profile: str | None,
    patch: Patch | None,
) -> tuple[Own, ...]:
    first = profile or DEFAULT_PROFILE
    recipe = kernels.load_recipe(kernel, first)
    source = kernels.source_tree(made.cache, recipe, made.progress)
    tree = Tree(source)
    found = intree.find(source, place)
    fitting, choice, base = None, None, first
    failed: UsageError | None = None
    for known in (first,) if profile else (first, ROOMY_PROFILE):
        config = _configuration(made, kernel, known)
        try:
            chosen = intree.choose(place, found, tree, config)
        except UsageError as error:
            failed = failed or error
            continue
        if choice is None:
            choice, base = chosen, known
        if not chosen.added and _has(config, options):
            fitting, choice = known, chosen
            break
    if choice is None:
        assert failed is not None
        raise failed
    if fitting is None:
        wanted = {f"CONFIG_{name}": value for name, value in choice.added.items()}
        fitting = _with_options(made, kernel, base, options, wanted)
    notes = list(choice.notes)
    gone = intree.missing(choice.modules, tree, _configuration(made, kernel, fitting))
    notes += [f"{one.name}: {why}" for one, why in gone]
    taken = [one for one in choice.modules if one not in {one for one, _ in gone}]
    if not taken:
        raise UsageError(
            f"--in-tree {place}: the kernel {recipe.name} cannot be configured to have it as a"
            " module", evidence="\n".join(why for _, why in gone),
        )  # fmt: skip
    built = made.kernel(kernel, fitting)
    if patch is not None:
        folder = patched.copy(made.cache, source, place, taken, patch)
        main = families.load_family(folder)
        return _with_others(Own(main, kernel, fitting, tuple(notes)))
    compiled = {}
    for one in _main_first(source, place, taken):
        file = built.build / one.folder / f"{one.name}.ko"
        if file.is_file():
            compiled[one.module] = families.find_family(str(file))
        else:
            notes.append(f"{one.name}: the kernel's build made no {one.name}.ko")
    if not compiled:
        raise UsageError(f"--in-tree {place}: no module was made", evidence="\n".join(notes))
    return tuple(Own(family, kernel, fitting, tuple(notes)) for family in compiled.values())


def _main_first(source: Path, place: str, taken: list[Made]) -> tuple[Made, ...]:
    main = kbuildfiles.choose_main(source, tuple(taken), Path(place).name)
    order = kbuildfiles.in_load_order(source, tuple(taken))
    return (main, *(one for one in order if one is not main))


# ---- packages for DKMS ----------------------------------------------------------------------


def _package_family(made: Lab, package: str, kernel: str) -> tuple[Family, tuple[str, ...]]:
    """Unpack a package's sources into the cache, with a data file of ours beside them."""
    cache = made.cache
    local = Path(package).expanduser()
    suites: tuple[str, ...] = _SUITES
    wanted: Package | None = None
    if local.suffix == ".deb":
        if not local.is_file():
            raise UsageError(f"--dkms {package}: no such file")
        sha256 = store.digest_file(local)
    else:
        suites = _suites(kernel)
        wanted = _find_package(made, package, suites)
        sha256 = wanted.sha256
    key = store.digest({"dkms": sha256, "version": _DKMS_VERSION})
    deadline = Deadline.after(sources.FETCH_LIMIT_S)

    def make(into: Path) -> None:
        deb = local
        if wanted is not None:
            made.progress(f"fetching {wanted.name} {wanted.version}", None)
            with cache.lock("apt", deadline):
                deb = sources.archive_of(cache, suites).fetch(wanted, into, deadline)
        archive.unpack(deb, into / "deb", deadline)
        _adopt(into / "deb", into, package)
        shutil.rmtree(into / "deb")
        if wanted is not None:
            deb.unlink()

    path = cache.build("dkms", key, make, deadline=deadline)
    cache.use(path)
    record = json.loads((path / "dkms.json").read_text())
    return families.load_family(path / record["folder"]), tuple(record["notes"])


def _suites(kernel: str) -> tuple[str, ...]:
    """Return the suites of the Debian release that a kernel belongs to."""
    origin = kernels.load_recipe(kernel, DEFAULT_PROFILE).origin
    return origin.suites if isinstance(origin, DebianSource) else _SUITES


def _find_package(made: Lab, name: str, suites: tuple[str, ...]) -> Package:
    """Return the newest version of a package, as decided the first time.

    Raises:
        UsageError: the archive has none of this name.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", name):
        raise UsageError(f"--dkms {name}: not a name of a Debian package, nor a .deb file")
    cache = made.cache
    remembered = f"dkms-{name}-{suites[0]}"
    known = sources.load_resolved(cache, remembered)
    if known is not None:
        return known
    made.progress(f"asking Debian's archive for {name}", None)
    deadline = Deadline.after(sources.FETCH_LIMIT_S)
    asked = sources.archive_of(cache, suites)
    with cache.lock("apt", deadline):
        asked.update(deadline)
        try:
            package = asked.resolve(name, deadline)
        except InfrastructureError as error:
            near = scenario_yaml.near(name, asked.names("-dkms", deadline))
            raise UsageError(
                f"--dkms {name}: no such package in {', '.join(suites)}{near}",
                hint="`--dkms FILE.deb` takes a package that is not in the archive",
            ) from error
    place = sources.resolved_path(cache, remembered)
    store.write_atomically(place, json.dumps(asdict(package)).encode())
    return package


def _adopt(unpacked: Path, into: Path, package: str) -> None:
    """Take a package's sources, and write down how they are compiled.

    Raises:
        UsageError: it is not one for DKMS, or not an honest one.
    """
    confs = sorted((unpacked / "usr/src").glob(f"*/{dkms.NAME}"))
    confs = [path for path in confs if path.is_file() and not path.is_symlink()]
    if not confs:
        raise UsageError(
            f"--dkms {package}: holds no usr/src/*/{dkms.NAME}: it is no package for DKMS",
            hint="a folder of sources can be named as it is: `harness check FOLDER`",
        )
    top = confs[0].parent
    conf = dkms.read(confs[0])
    notes = list(conf.notes)
    for here, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = Path(here, name)
            if path.is_symlink() and top.resolve() not in path.resolve().parents:
                notes.append(f"{path.relative_to(top)}: leads out of the package; left out")
                path.unlink()
    (top / "module.yaml").unlink(missing_ok=True)
    folder = re.sub(r"[^\w.+-]", "-", top.name)
    top.rename(into / folder)
    top = into / folder
    build = _build_folders(top, conf)
    made = [one for below in build for one in kbuildfiles.read(top, below)]
    named = {module_name(module): module for module, _ in conf.modules}
    ours = tuple(one for one in made if one.module in named) or tuple(made)
    if not ours and not named:
        raise UsageError(f"--dkms {package}: its {dkms.NAME} and Makefiles name no module")
    if ours:
        stem = package.removesuffix("-dkms")
        main = kbuildfiles.choose_main(top, ours, conf.package.removesuffix("-dkms"), stem).module
    else:
        main = next(iter(named))
    others = [name for name in dict.fromkeys((*named, *(one.module for one in ours)))
              if name != main]  # fmt: skip
    data = {
        "name": main,
        "description": f"{conf.package} {conf.version}".strip(),
        "modules": {MAIN: main, **families.roles_for(others)},
        "build": [] if build == ("",) else list(build),
        "make": list(conf.options),
        "as_made": True,
        "scenarios": ["cycle"],
    }
    (top / "module.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    (into / "dkms.json").write_text(json.dumps({"folder": folder, "notes": notes}))


def _build_folders(top: Path, conf: dkms.Conf) -> tuple[str, ...]:
    """Return the folders that make builds in: those that are told, if there is anything."""
    for candidates in (conf.folders, tuple(place for _, place in conf.modules)):
        build = tuple(dict.fromkeys(one for one in candidates if kbuildfiles.read(top, one)))
        if build:
            return ("",) if "" in build else build
    return kbuildfiles.folders_with_modules(top) or ("",)
